"""`enarx deploy` in real processes over real TLS: a Steward, a registry, and Keeps on every machine there is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import wasmtime
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.keep import measurement
from enarx.keep.backends.simulated import Directory
from enarx.pki import keys
from enarx.web.tls import ServerTls
from tests.stories.lying_registry import LyingRegistry

EXAMPLE = Path(__file__).resolve().parents[2] / "src/enarx/examples/hello-keep"
MARKER = b"a marker that only the package has: 7c1f0e"
PROGRAM = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "from the Keep\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 14))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 42))))
"""
SERVER = """
[deploy]
args = true

[[files]]
kind = "null"
[[files]]
kind = "stdout"
[[files]]
kind = "stderr"
[[files]]
kind = "listen"
name = "web"
prot = "tls"
addr = "127.0.0.1"
port = 0
"""
TEES = ["snp", "sgx", "tdx", "nil"]


@dataclass(kw_only=True)
class World:
    """What a deployment needs: a simulated machine, a Steward that accepts it, a registry."""

    folder: Path
    machine: Directory
    steward: str
    registry: LyingRegistry
    port: int

    def command(self, package: str, tee: str, *options: str) -> list[str]:
        place = ["--backend", "nil"]
        if tee != "nil":
            place = ["--backend", "simulated", "--tee", tee, "--machine", str(self.machine.path)]
        trust = ["--ca-bundle", str(self.folder / "ca.pem"), "--steward-ca", str(self.folder / "ca.pem")]
        enarx = [sys.executable, "-c", "from enarx.cli.main import main; main()"]
        return [*enarx, "deploy", "--insecure", *place, *trust, *options, f"localhost:{self.port}/{package}"]

    def deploy(self, package: str, tee: str, *options: str) -> "subprocess.CompletedProcess[str]":
        command = self.command(package, tee, *options)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    machine = Directory.create(folder / "sim", datetime.now(UTC), measurement.of_agent)
    config = folder / "sim" / "steward.toml"
    text = config.read_text().replace("accept_simulated = true", "accept_simulated = true\naccept_nil = true")
    config.write_text(text)
    with steward(config, folder / "steward-ca.pem") as origin:
        made = server_tls()
        registry = LyingRegistry(steward=origin)
        trusted = (folder / "steward-ca.pem").read_bytes()
        (folder / "ca.pem").write_bytes(trusted + made.cert_chain_pem)
        tls = ServerTls(cert_chain_pem=made.cert_chain_pem, key_pem=made.key_pem, client_ca_pem=trusted)
        with registry.serving(tls) as port:
            registry.publish("user/program:1.0.0", {"main.wasm": bytes(wasmtime.wat2wasm(PROGRAM))})
            server = {
                "main.wasm": (EXAMPLE / "main.wasm").read_bytes(),
                "greeting.txt": MARKER,
                "Enarx.toml": SERVER.encode(),
            }
            registry.publish("user/server:1.0.0", server)
            yield World(folder=folder, machine=machine, steward=origin, registry=registry, port=port)


@contextmanager
def steward(config: Path, write_ca: Path) -> Iterator[str]:
    """A Steward in a process of its own; gives its origin."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", "from enarx.cli.steward import main; main()", "serve", "--dev"]
    options = ["--config", str(config), "--port", "0", "--write-ca", str(write_ca), "--ready-fd", str(writing)]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], pass_fds=[writing], stderr=log)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            yield f"https://localhost:{int(ready.read())}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def server_tls() -> ServerTls:
    """A certificate for `localhost` and its key."""
    key = keys.generate("P-256")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, keys.hash_of(key))
    )
    return ServerTls(cert_chain_pem=made.public_bytes(Encoding.PEM), key_pem=keys.to_pem(key))


@pytest.mark.parametrize("tee", TEES)
def test_a_program_runs_and_its_output_and_code_come_through(world: World, tee: str) -> None:
    """Standard output is the program's alone, the exit code is its own, and standard error says what happened."""
    done = world.deploy("user/program:1.0.0", tee)
    assert (done.returncode, done.stdout) == (42, "from the Keep\n"), done.stderr
    assert "NOTHING IS PROTECTED" in done.stderr
    assert f"as {tee}{' SIMULATED' if tee != 'nil' else ''}" in done.stderr
