"""`enarx deploy` in real processes over real TLS: a Steward, a registry, and Keeps on every machine there is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import wasmtime
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attested.relying import Expectation
from enarx.digest import HashName
from enarx.drawbridge.signing import SigningKey, sign
from enarx.drawbridge.tree import Tree
from enarx.errors import RejectedError
from enarx.keep import measurement
from enarx.keep.backends.simulated import Directory, Fault
from enarx.pki import keys
from enarx.pki.certificate import certificates_from_pem
from enarx.web.attested import connect
from enarx.web.tls import ServerTls
from tests.stories.lying_registry import LyingRegistry
from tests.values import replace

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
ECHO = """
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
      (if (i32.load (i32.const 8)) (then
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)) (then (unreachable)))
        (br $more))))))
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
MEASURES: Final[dict[str, HashName]] = {"snp": "sha-384", "sgx": "sha-256", "tdx": "sha-384"}
TEES = [*MEASURES, "nil"]


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
    with settled(tmp_path_factory.mktemp("world")) as made:
        yield made


SEALER = r"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "keys/database")
  (data (i32.const 32) "\40\00\00\00\20\00\00\00")
  (func $must (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
  (func (export "_start")
    (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 13) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 48)))
    (call $must (call $read (i32.load (i32.const 48)) (i32.const 32) (i32.const 1) (i32.const 52)))
    (call $must (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 52)))))
"""
SEALING = b"""
files = [{kind = "null"}, {kind = "stdout"}, {kind = "stderr"}]
[identity]
[storage]
package = false
"""


@contextmanager
def settled(
    folder: Path, steward: Callable[[Path, Path], AbstractContextManager[str]] | None = None
) -> Iterator[World]:
    """A world in `folder`, with a program and a server in its registry; `steward` starts another Steward."""
    machine = Directory.create(folder / "sim", datetime.now(UTC), measurement.of_agent)
    config = folder / "sim" / "steward.toml"
    text = config.read_text().replace("accept_simulated = true", "accept_simulated = true\naccept_nil = true")
    text = text.replace("[certificate]\n", '[certificate]\nmay_request = ["web.example"]\n')
    config.write_text(text)
    with (steward or real_steward)(config, folder / "steward-ca.pem") as origin:
        made = server_tls()
        registry = LyingRegistry(steward=origin)
        trusted = (folder / "steward-ca.pem").read_bytes()
        (folder / "ca.pem").write_bytes(trusted + made.cert_chain_pem)
        tls = ServerTls(cert_chain_pem=made.cert_chain_pem, key_pem=made.key_pem, client_ca_pem=trusted)
        with registry.serving(tls) as port:
            registry.publish("user/program:1.0.0", {"main.wasm": bytes(wasmtime.wat2wasm(PROGRAM))})
            named = {
                "main.wasm": bytes(wasmtime.wat2wasm(PROGRAM)),
                "Enarx.toml": b'steward = "https://other.example"\nfiles = [{kind = "null"}, {kind = "stdout"}]\n',
            }
            registry.publish("user/named:1.0.0", named)
            registry.publish("user/echo:1.0.0", {"main.wasm": bytes(wasmtime.wat2wasm(ECHO))})
            sealer = {"main.wasm": bytes(wasmtime.wat2wasm(SEALER)), "Enarx.toml": SEALING}
            registry.publish("user/sealer:1.0.0", sealer)
            server = {
                "main.wasm": (EXAMPLE / "main.wasm").read_bytes(),
                "greeting.txt": MARKER,
                "Enarx.toml": SERVER.encode(),
            }
            registry.publish("user/server:1.0.0", server)
            yield World(folder=folder, machine=machine, steward=origin, registry=registry, port=port)


@contextmanager
def real_steward(config: Path, write_ca: Path) -> Iterator[str]:
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


def test_whoever_deploys_is_told_where_keys_do_not_last(world: World) -> None:
    """Before the program runs, and again when it asks: with nobody to give a secret, no other Keep has its keys."""

    def run(tee: str) -> tuple[bytes, bytes]:
        command = world.command("user/sealer:1.0.0", tee)
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        assert (done.returncode, len(done.stdout)) == (0, 32), done.stderr
        return done.stdout, done.stderr

    (first, told), (second, _) = run("nil"), run("nil")
    assert first != second
    early, late = told.index(b"no TEE here gives this program a secret"), told.index(b"the program asked for a key")
    assert early < told.index(b"enarx: running") < late
    (first, told), (second, _) = run("snp"), run("snp")
    assert (first == second, b"secret" in told) == (True, False)


def test_the_steward_that_a_package_names_is_not_asked(world: World) -> None:
    """It is for `run`; `deploy` says so, and has the Keep certified by the one that the registry names."""
    done = world.deploy("user/named:1.0.0", "nil")
    assert (done.returncode, done.stdout) == (42, "from the Keep\n"), done.stderr
    assert "warning: https://other.example in Enarx.toml is for `enarx run`" in done.stderr


def test_standard_input_goes_in_and_comes_out_whole(world: World) -> None:
    """More than any buffer on the way holds, any bytes, and its end."""
    data = bytes(range(256)) * 8192
    done = subprocess.run(
        world.command("user/echo:1.0.0", "nil"), input=data, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_ctrl_c_reaches_a_program_that_waits_for_input(world: World) -> None:
    """The Keep is told, ends the program, and its code is that of a program that was interrupted."""
    command = world.command("user/echo:1.0.0", "nil", "--json")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while json.loads(process.stderr.readline()).get("phase") != "running":
            pass
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 128 + signal.SIGINT
    assert json.loads(last)["source"] == "program"


@dataclass(kw_only=True)
class Running:
    """A deployed server: its process, the port it serves on, and what the deployment said as JSON lines."""

    process: "subprocess.Popen[str]"
    port: int
    said: list[dict[str, object]]


@contextmanager
def running(world: World, package: str, tee: str, *options: str) -> Iterator[Running]:
    """A deployment of a server, from the moment it listens to its end by SIGTERM."""
    command = world.command(package, tee, "--json", *options)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said: list[dict[str, object]] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(json.loads(line))
            if said[-1].get("phase") == "running":
                facts = said[-1]["facts"]
                assert isinstance(facts, dict)
                yield Running(process=process, port=int(facts["web"].split()[2]), said=said)
                break
        else:
            pytest.fail(f"it never ran: {said}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def get(world: World, port: int, expectation: Expectation) -> tuple[bytes, dict[str, object]]:
    """What a third party sees that has nothing but the Steward's CA."""
    anchors = certificates_from_pem((world.folder / "steward-ca.pem").read_bytes(), "ca")
    with connect("localhost", port, anchors=anchors, expectation=expectation) as (connection, peer):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer, peer.to_json()


ANYTHING = Expectation(accept_simulated=True, accept_nil=True)


@pytest.mark.parametrize("tee", TEES)
def test_a_third_party_sees_what_it_talks_to(world: World, tee: str) -> None:
    """The page comes over TLS that ends in the Keep; the certificate names technology, workload and measurement."""
    with running(world, "user/server:1.0.0", tee) as server:
        page, peer = get(world, server.port, ANYTHING)
    assert MARKER in page
    workload = world.registry.promised["user/server/_tag/1.0.0"].workload
    assert (peer["technology"], peer["simulated"], peer["workload"]) == (tee, tee != "nil", str(workload))
    assert peer["slug_claimed"] == f"localhost:{world.port}/user/server:1.0.0"
    assert peer["measurement"] == (measurement.of_agent(MEASURES[tee]).hex() if tee in MEASURES else "")
    assert server.process.returncode == 128 + signal.SIGTERM


def test_the_workload_is_nowhere_in_the_host_process(world: World) -> None:
    """While the Keep serves the package's data, the host's memory, files, arguments and environment have none of it."""
    with running(world, "user/server:1.0.0", "snp") as server:
        page, _ = get(world, server.port, ANYTHING)
        assert MARKER in page
        host = server.process.pid
        (keep,) = map(int, Path(f"/proc/{host}/task/{host}/children").read_text().split())
        assert MARKER not in memory_of(host)
        for name in ("cmdline", "environ"):
            assert MARKER not in Path(f"/proc/{host}/{name}").read_bytes()
        assert not any(MARKER in file for file in files_of(host))
        assert MARKER not in Path(f"/proc/{keep}/cmdline").read_bytes()
        if os.geteuid() == 0:  # to everybody else the kernel shows nothing of a process that is not dumpable
            assert MARKER in memory_of(keep), "the search does not find what is there"
            assert not any(MARKER in file for file in files_of(keep)), "the Keep wrote the package to a file"
        else:
            with pytest.raises(PermissionError):
                memory_of(keep)


def files_of(pid: int) -> Iterator[bytes]:
    """What is in the files that a process has open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = descriptor.readlink()
        if target.is_file():
            yield target.read_bytes()


def memory_of(pid: int) -> bytes:
    """Everything that a process can read of its own memory."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            begin, end = (int(part, 16) for part in span.split("-"))
            if mode.startswith("r") and "[v" not in line:
                memory.seek(begin)
                with suppress(OSError):
                    found.append(memory.read(end - begin))
    return b"".join(found)


def test_a_host_that_deploys_another_workload_is_found_out_by_whoever_pins_one(world: World) -> None:
    """The host starts B where the user wanted A: B's certificate says B, and a client that expects A goes away."""
    wanted = world.registry.promised["user/program/_tag/1.0.0"].workload
    with (
        running(world, "user/server:1.0.0", "snp") as server,
        pytest.raises(RejectedError, match=f"workload: expected {wanted}, found sha-256:"),
    ):
        get(world, server.port, replace(ANYTHING, workloads=frozenset({wanted})))


def refusal(done: "subprocess.CompletedProcess[str]") -> tuple[str, int]:
    """The gate that refused, and the exit code."""
    found = re.search(r"^enarx: refused at (\w+): ", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    assert done.stdout == ""
    return found[1], done.returncode


def test_other_bytes_under_the_same_name_are_refused(world: World) -> None:
    """The host points the Keep at a registry of its own, which serves another program: the hash check says no."""
    honest = {"main.wasm": bytes(wasmtime.wat2wasm(PROGRAM))}
    world.registry.publish("user/swapped:1.0.0", honest)
    altered = honest["main.wasm"].replace(b"from the Keep", b"from the host")
    world.registry.served["user/swapped/_tag/1.0.0"] = Tree.from_files({"main.wasm": altered})
    done = world.deploy("user/swapped:1.0.0", "snp")
    assert refusal(done) == ("digest", 77)
    assert "expected" in done.stderr


def test_a_signature_is_checked_here_and_in_the_keep(world: World, tmp_path: Path) -> None:
    """Signed by the key that is asked for: it runs. By another: refused before a Keep starts; in the Keep, when the
    registry shows the signed tag to the user alone, for the Keep was told and its certificate says so.
    """
    name, subject = "user/signed/_tag/1.0.0", "user/signed:1.0.0"
    tree = world.registry.publish(subject, {"main.wasm": bytes(wasmtime.wat2wasm(PROGRAM))})
    (tmp_path / "key.pem").write_bytes(keys.to_pem(keys.generate("P-256")))
    (tmp_path / "other.pem").write_bytes(keys.to_pem(keys.generate("P-256")))
    key = SigningKey.parse("key", (tmp_path / "key.pem").read_bytes())
    world.registry.signed[name] = world.registry.signed_for_keeps[name] = sign(tree.root, subject, [key])
    done = world.deploy(subject, "snp", "--require-signer", str(tmp_path / "key.pem"))
    assert (done.returncode, done.stdout) == (42, "from the Keep\n"), done.stderr
    assert "deploy configuration sha-256:" in done.stderr
    done = world.deploy(subject, "snp", "--require-signer", str(tmp_path / "other.pem"))
    assert refusal(done) == ("tag", 77)
    assert "certified by" not in done.stderr
    del world.registry.signed_for_keeps[name]
    done = world.deploy(subject, "snp", "--require-signer", str(tmp_path / "key.pem"))
    assert refusal(done) == ("tag", 77)
    assert "certified by" in done.stderr
    assert f"expected a signature by '{key.key_id}', found none" in done.stderr


def test_a_pinned_digest_is_compared(world: World) -> None:
    """`@sha-256:…` decides; a registry that shows another version of the same name is refused before a Keep starts."""
    workload = world.registry.promised["user/program/_tag/1.0.0"].workload
    assert world.deploy(f"user/program:1.0.0@{workload}", "sgx").returncode == 42
    done = world.deploy(f"user/program:1.0.0@sha-256:{'00' * 32}", "sgx")
    assert refusal(done) == ("tag", 77)


@pytest.mark.parametrize(("tee", "what"), [("snp", "snp.ask"), ("sgx", "sgx.pck")])
def test_a_revoked_machine_gets_no_certificate(world: World, tmp_path: Path, tee: str, what: str) -> None:
    """The vendor took back the key that vouches: the Steward says so, and the registry is never asked for the tree."""
    copy = Directory(path=shutil.copytree(world.machine.path, tmp_path / "sim"))
    copy.revoke(what, datetime.now(UTC))
    world.registry.asked.clear()
    done = replace(world, machine=copy).deploy("user/program:1.0.0", tee)
    assert refusal(done) == ("steward", 77)
    assert "revoked" in done.stderr
    assert not any("/tree" in path for path in world.registry.asked)


@pytest.mark.parametrize(("fault", "why"), [("flipped-bit", "signature"), ("other-key", "binding")])
@pytest.mark.parametrize("tee", ["snp", "sgx", "tdx"])
def test_a_lying_machine_gets_no_certificate(world: World, tmp_path: Path, tee: str, fault: Fault, why: str) -> None:
    """One bit of the report, or a report that belongs to another key."""
    copy = Directory(path=shutil.copytree(world.machine.path, tmp_path / "sim"))
    copy.set_fault(fault)
    done = replace(world, machine=copy).deploy("user/program:1.0.0", tee)
    assert refusal(done) == ("steward", 77)
    assert why in done.stderr


def test_a_steward_that_the_user_does_not_accept_is_refused_in_the_keep(world: World, tmp_path: Path) -> None:
    """The host, or the registry, names another Steward: the Keep compares with the CA that the user named."""
    other = tmp_path / "other.pem"
    other.write_bytes(server_tls().cert_chain_pem)
    done = world.deploy("user/program:1.0.0", "snp", "--steward-ca", str(other))
    assert refusal(done) == ("steward", 77)
    assert "none of the Stewards that you accept" in done.stderr


def test_the_deploy_configuration_is_bound_to_the_certificate(world: World) -> None:
    """What the package allows is applied, printed and certified; what it does not allow is refused."""
    with running(world, "user/server:1.0.0", "snp", "--allow-incoming", "0-65535") as server:
        _, peer = get(world, server.port, ANYTHING)
    ordered = next(event for event in server.said if event["event"] == "ordered")
    assert ordered["config"] == f"sha-256:{peer['config_digest']}"
    done = world.deploy("user/server:1.0.0", "snp", "--env", "DEBUG=1")
    assert refusal(done) == ("package", 77)
    assert "the package does not let it be set" in done.stderr


def test_what_the_package_wishes_of_its_certificate_is_asked_for_once_more(world: World) -> None:
    """The package is known only after it was released: then the Keep enrols again, and the Steward grants its part."""
    wishes = SERVER + '[certificate]\nnames = ["web.example", "bank.example"]\nlifetime = 600\n'
    files = {"main.wasm": (EXAMPLE / "main.wasm").read_bytes(), "greeting.txt": b"hello", "Enarx.toml": wishes.encode()}
    world.registry.publish("user/wishes:1.0.0", files)
    with running(world, "user/wishes:1.0.0", "snp") as server:
        _, peer = get(world, server.port, ANYTHING)
    assert peer["dns_names"] == ["localhost", "web.example"]
    first, second = (
        datetime.fromisoformat(str(event["facts"]["until"]))  # type: ignore[index]  # facts is an object
        for event in server.said
        if event.get("phase") in {"certified", "certified again"}
    )
    assert second < first


def test_programs_read_refusals_as_json(world: World) -> None:
    """Whether the Keep or the program ended is told apart."""
    done = world.deploy("user/nothing:1.0.0", "nil", "--json")
    refused = json.loads(done.stderr.splitlines()[-1])
    assert (refused["event"], refused["source"], refused["gate"]) == ("refused", "keep", "tag")
    assert (refused["family"], refused["code"], done.returncode) == ("not-found", 66, 66)
    done = world.deploy("user/program:1.0.0", "nil", "--json")
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["source"], last["code"]) == ("exit", "program", 42)


def test_what_protects_nothing_has_to_be_called_insecure(world: World) -> None:
    """Without --insecure there is no Keep, and the registry is asked for nothing but whether the version is there."""
    world.registry.asked.clear()
    command = [word for word in world.command("user/program:1.0.0", "snp") if word != "--insecure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refusal(done) == ("backend", 77)
    assert "--insecure" in done.stderr
    assert world.registry.asked == ["user/program/_tag/1.0.0"]
