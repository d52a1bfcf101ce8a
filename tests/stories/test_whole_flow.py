"""The whole flow with nothing played: `steward serve`, `drawbridge serve`, a publisher, Keeps, and strangers.

What is published is private: only a certificate for exactly this workload opens it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import wasmtime

from enarx.cli.running import self_signed
from enarx.digest import Digest
from enarx.drawbridge.client import Opening, Registry
from enarx.drawbridge.names import PackageSlug
from enarx.drawbridge.tree import Tree
from enarx.errors import DeniedError, EnarxError, RejectedError, UntrustedError
from enarx.keep import measurement
from enarx.keep.backends.nil import NilAttester
from enarx.keep.backends.simulated import Directory
from enarx.keep.clock import Clock, machine
from enarx.keep.deployment import Order
from enarx.keep.identity import Identity, Secrets
from enarx.keep.provision import certify
from enarx.pki import csr, keys
from enarx.pki.certificate import Extension
from enarx.steward import client as steward_client
from enarx.web.client import Client
from enarx.web.tls import ClientIdentity
from tests.stories.test_deploy import MARKER, PROGRAM

UNSAFE = "[unsafe]\naccept_simulated = true\naccept_nil = true\n"


@dataclass(frozen=True, kw_only=True)
class Village:
    """Everybody on loopback. `host` is the registry as slugs name it, `token` the publisher's."""

    folder: Path
    host: str
    steward: str
    token: str

    @property
    def roots(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    def enarx(self, *arguments: str, token: str | None = None) -> "subprocess.CompletedProcess[str]":
        """`enarx …` as the publisher, or with another token; an empty one is nobody's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENARX_", "XDG_"))}
        environment = {
            **kept,
            "HOME": str(self.folder),
            "ENARX_CA_BUNDLE": str(self.folder / "ca.pem"),
            "ENARX_OIDC_DOMAIN": f"https://{self.host}/_issuer",
        }
        if token != "":
            environment["ENARX_INSECURE_AUTH_TOKEN"] = token or self.token
        command = [sys.executable, "-m", "enarx", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )

    def deploy(
        self, package: str, *options: str, tee: str = "snp", token: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        machine = str(self.folder / "sim")
        place = ["--backend", "nil"] if tee == "nil" else ["--tee", tee, "--machine", machine]
        trust = ["--steward-ca", str(self.folder / "steward-ca.pem")]
        return self.enarx("deploy", "--insecure", *place, *trust, *options, f"{self.host}/{package}", token=token)


@contextmanager
def serving(program: str, folder: Path, *arguments: str) -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    reading, writing = os.pipe()
    start = f"from enarx.cli.{program} import main; main()"
    command = [sys.executable, "-c", start, "serve", "--port", "0", "--ready-fd", str(writing), *arguments]
    with (folder / f"{program}.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=[writing], stderr=log, cwd=folder)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            yield int(ready.read() or "0")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    folder = tmp_path_factory.mktemp("village")
    Directory.create(folder / "sim", datetime.now(UTC), measurement.of_agent)
    config = folder / "sim" / "steward.toml"
    config.write_text(
        config.read_text().replace("accept_simulated = true", "accept_simulated = true\naccept_nil = true")
    )
    (folder / "drawbridge.toml").write_text(UNSAFE)
    trust = ["--config", str(config), "--write-ca", "steward-ca.pem", "--dev"]
    with serving("steward", folder, *trust) as port:
        steward = f"https://localhost:{port}"
        believe = ["--ca", "steward-ca.pem", "--steward", steward, "--dev-dir", "db", "--config", "drawbridge.toml"]
        with serving("drawbridge", folder, *believe, "--write-ca", "registry-ca.pem") as registry:
            roots = (folder / "steward-ca.pem").read_bytes() + (folder / "registry-ca.pem").read_bytes()
            (folder / "ca.pem").write_bytes(roots)
            asked = [sys.executable, "-c", "from enarx.cli.drawbridge import main; main()", "dev", "token"]
            said = subprocess.run([*asked, "--dev-dir", str(folder / "db")], capture_output=True, text=True, check=True)
            made = Village(folder=folder, host=f"localhost:{registry}", steward=steward, token=said.stdout.strip())
            publish(made)
            yield made


def publish(village: Village) -> None:
    """Two versions of a private program, with a data file beside each."""
    for command in (
        ["user", "register", f"{village.host}/alice"],
        ["repo", "register", f"{village.host}/alice/program"],
    ):
        done = village.enarx(*command)
        assert done.returncode == 0, done.stderr
    for version in ("1.0.0", "2.0.0"):
        package = village.folder / version
        package.mkdir()
        (package / "main.wasm").write_bytes(bytes(wasmtime.wat2wasm(PROGRAM)))
        (package / "data.txt").write_bytes(MARKER + version.encode())
        done = village.enarx("package", "publish", f"{village.host}/alice/program:{version}", str(package))
        assert done.returncode == 0, done.stderr


def workload(village: Village, version: str) -> Digest:
    return Tree.from_path(village.folder / version).workload


@pytest.mark.parametrize("tee", ["snp", "sgx", "tdx", "nil"])
def test_a_private_package_is_released_to_a_keep_that_proved_itself(village: Village, tee: str) -> None:
    """From the slug to the program's exit code, on every simulated machine and without a TEE."""
    done = village.deploy("alice/program:1.0.0", tee=tee)
    assert (done.returncode, done.stdout) == (42, "from the Keep\n"), done.stderr


def test_a_members_own_token_stays_at_home(village: Village) -> None:
    """The Keep gets a deploy token for this workload that was made for it; it may be listed, and says what for."""
    assert village.deploy("alice/program:1.0.0", tee="nil").returncode == 42
    listed = village.enarx("repo", "token", "list", "--json", f"{village.host}/alice/program")
    made = [token for token in json.loads(listed.stdout) if token["label"] == "enarx deploy"]
    assert made
    assert {token["digest"] for token in made} == {str(workload(village, "1.0.0"))}


def test_a_deploy_token_is_enough_to_know_of_a_version(village: Village) -> None:
    """Whoever holds it and nothing else deploys that version, and no other."""
    made = village.enarx("repo", "token", "create", f"{village.host}/alice/program:1.0.0")
    token = made.stdout.strip()
    (village.folder / "token").write_text(token)
    option = ["--token-file", str(village.folder / "token")]
    done = village.deploy("alice/program:1.0.0", *option, token="")
    assert done.returncode == 42, done.stderr
    assert token not in done.stderr
    refused = village.deploy("alice/program:2.0.0", *option, token="")
    assert refused.returncode == 77
    assert "enarx: refused at tag: " in refused.stderr


def test_a_stranger_learns_nothing(village: Village) -> None:
    """Without any token the tag is not even there."""
    refused = village.deploy("alice/program:1.0.0", token="")
    absent = village.deploy("alice/absent:1.0.0", token="")
    assert (refused.returncode, absent.returncode) == (77, 77)
    assert refused.stderr.replace("alice/program", "alice/absent") == absent.stderr


def test_what_was_yanked_is_not_deployed(village: Village) -> None:
    """The reason is told, and no Keep is started."""
    done = village.enarx("package", "yank", "--reason", "it leaks", f"{village.host}/alice/program:2.0.0")
    assert done.returncode == 0, done.stderr
    refused = village.deploy("alice/program:2.0.0")
    assert refused.returncode == 77
    assert "enarx: refused at tag: " in refused.stderr
    assert "it leaks" in refused.stderr


# -- certificates that open nothing


def certified(village: Village, digest: Digest) -> Identity:
    """Keys and a certificate for a workload, as a Keep without a TEE gets them."""
    order = Order(
        slug=f"{village.host}/alice/program:1.0.0",
        digest=digest,
        steward=village.steward,
        drawbridge=f"https://{village.host}",
        steward_roots=village.roots,
    )
    return certify(order, NilAttester(), Secrets.generate("P-256"), clock=Clock(machine))


def fetch(village: Village, chain_pem: bytes, key: keys.PrivateKey, opening: Opening | None = None) -> dict[str, bytes]:
    """Ask for version 1.0.0 with a certificate."""
    slug = PackageSlug.parse(f"{village.host}/alice/program:1.0.0")
    who = ClientIdentity(chain_pem=chain_pem, key=key)
    with Client(f"https://{village.host}", ca_pem=village.roots, identity=who) as http:
        registry = Registry(http, opening=opening, sleep=lambda _: None)
        return registry.down.fetch(slug, registry.tag(slug).entry, workload=workload(village, "1.0.0"))


def test_only_the_keep_that_was_certified_opens_what_is_released(village: Village) -> None:
    """The answer is sealed: its own sealing key opens it, the certificate and TLS key in other hands do not."""
    keep = certified(village, workload(village, "1.0.0"))
    opening = Opening(private=keep.secrets.sealing, leaf=keep.chain[0])
    assert fetch(village, keep.chain_pem, keep.secrets.tls, opening)["data.txt"] == MARKER + b"1.0.0"
    stolen = Opening(private=Secrets.generate("P-256").sealing, leaf=keep.chain[0])
    for other in (stolen, None):
        with pytest.raises(UntrustedError, match="sealed"):
            fetch(village, keep.chain_pem, keep.secrets.tls, other)


def refusal(village: Village, chain_pem: bytes, key: keys.PrivateKey) -> EnarxError:
    with pytest.raises((UntrustedError, DeniedError, RejectedError)) as caught:
        fetch(village, chain_pem, key)
    assert isinstance(caught.value, EnarxError)
    return caught.value


def test_a_certificate_for_another_workload_opens_nothing(village: Village) -> None:
    """It is told the digest that it carries, and nothing of what is there."""
    other = workload(village, "2.0.0")
    keep = certified(village, other)
    error = refusal(village, keep.chain_pem, keep.secrets.tls)
    assert other.hex in str(error)
    assert workload(village, "1.0.0").hex not in str(error)


def test_a_certificate_of_another_ca_ends_in_tls(village: Village) -> None:
    """Nobody at the registry knows its issuer, whatever it says."""
    made = self_signed()
    error = refusal(village, made.chain_pem, made.key)
    assert isinstance(error, UntrustedError)
    assert "refused our certificate" in str(error)


def test_a_certificate_without_a_workload_opens_nothing_private(village: Village) -> None:
    """The originals' form of request: no claims, so no workload and no sealing key."""
    key = keys.generate("P-256")
    evidence = NilAttester().evidence(b"")
    with Client(village.steward, ca_pem=village.roots) as http:
        asked = csr.build(key, [Extension(oid=evidence.oid, critical=False, value=evidence.body)])
        chain = steward_client.attest(http, asked)
    found = Identity(secrets=Secrets.generate("P-256"), chain=chain)
    refusal(village, found.chain_pem, key)


def test_the_registrys_store_was_altered(village: Village) -> None:
    """Somebody who can write to its disk changes a stored byte: the registry or the Keep notices, and nothing runs."""
    done = village.enarx("package", "publish", f"{village.host}/alice/program:3.0.0", str(village.folder / "altered"))
    assert done.returncode == 0, done.stderr
    marker = b"altered later: 55aa01"
    stored = [path for path in stored_files(village) if marker in path.read_bytes()]
    assert stored, "the package's bytes are not where the test looks"
    for path in stored:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(marker, marker.upper()))
    done = village.deploy("alice/program:3.0.0")
    assert done.returncode not in {0, 42}
    assert "enarx: refused at d" in done.stderr  # digest, or drawbridge that noticed first


def stored_files(village: Village) -> Sequence[Path]:
    return [path for path in (village.folder / "db").rglob("*") if path.is_file()]


@pytest.fixture(scope="module", autouse=True)
def altered(village: Village) -> None:
    package = village.folder / "altered"
    package.mkdir()
    (package / "main.wasm").write_bytes(bytes(wasmtime.wat2wasm(PROGRAM)))
    (package / "data.txt").write_bytes(b"altered later: 55aa01")
