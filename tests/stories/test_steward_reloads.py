"""A Steward takes up what is new while it serves, in every process, keeps the old if it is wrong, and forgets nothing."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from enarx import der
from enarx.attested.claims import RuntimeClaims
from enarx.cli.steward import main
from enarx.errors import EnarxError, NotFoundError
from enarx.pki import csr, keys
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.pki.chain import verify_issued
from enarx.pki.crl import Crl, current_for
from enarx.pki.names import CRL_DISTRIBUTION_POINTS
from enarx.steward import reload
from enarx.steward.config import Flags
from enarx.steward.ledger import Ledger
from enarx.web.client import Client
from tests.unit.steward import support

ORIGIN = "https://localhost:3443"
POLICY = "[unsafe]\naccept_nil = true\n"
KEPT = "not reloaded, the old configuration stays in force"
CONFIG = f"""origin = '{ORIGIN}'
listen = '127.0.0.1:0'
tls_from_ca = true
crt = 'ca/ca.pem'
key = 'ca/ca.key'
state = 'state'
audit = 'audit.jsonl'
"""


def steward(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main.main([str(word) for word in words], prog_name="steward")
    assert not end.value.code


class Serving:
    """A Steward of real processes with a CA of `steward ca init`."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        steward("ca", "init", folder / "ca")
        self.root = (folder / "ca" / "root.pem").read_bytes()
        self.write(POLICY)
        reading, writing = os.pipe()
        program = [sys.executable, "-c", "from enarx.cli.steward import main; main()", "serve", "--log-format", "json"]
        options = ["--config", str(folder / "steward.toml"), "--workers", str(workers), "--ready-fd", str(writing)]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([*program, *options], pass_fds=[writing], stderr=log)
        os.close(writing)
        with os.fdopen(reading) as ready:
            self.port = int(ready.read())

    def write(self, policy: str, config: str = CONFIG) -> None:
        (self.folder / "steward.toml").write_text(config + policy)

    def client(self) -> Client:
        return Client(f"https://localhost:{self.port}", ca_pem=self.root)

    def intermediate(self) -> Certificate:
        return certificates_from_pem((self.folder / "ca" / "ca.pem").read_bytes(), "ca")[0]

    def events(self, name: str) -> list[dict[str, str]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == name]


@pytest.fixture
def serving(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serving]:
    made = Serving(tmp_path, getattr(request, "param", 1))
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=30) == 0


def eventually(true: Callable[[], object]) -> None:
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def issued(client: Client, nonce: bytes | None = None) -> tuple[Certificate, Certificate]:
    """Issuer and leaf of a certificate that is asked for over one connection, after its nonce."""
    claims = RuntimeClaims(audience=ORIGIN, nonce=nonce or fresh(client))
    extensions = [support.nil_evidence(), support.claims_extension(claims)]
    request = csr.build(keys.generate("P-256"), extensions)
    body = client.post("/", request, headers={"Content-Type": "application/pkcs10"}).body
    issuer, leaf = (Certificate.parse(part) for part in der.sequence_of(body, "PkiPath", limit=2))
    verify_issued(leaf, issuer, "leaf")
    return issuer, leaf


def fresh(client: Client) -> bytes:
    text = json.loads(client.get("/.well-known/est/nonce").body)["nonce"]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def list_of(certificate: Certificate) -> str:
    """The path of the revocation list that a certificate names."""
    url = certificate.extensions[CRL_DISTRIBUTION_POINTS].value.partition(ORIGIN.encode())[2]
    return url.decode()


@pytest.mark.parametrize("serving", [1, 2], indirect=True)
def test_a_new_intermediate_is_taken_up_without_a_lost_request(serving: Serving) -> None:
    """Connections stay open through the rotation, each chain is right, and nonces from before it are good after it."""
    former, stop, answers, failures = serving.intermediate(), threading.Event(), list[bytes](), list[EnarxError]()

    def ask() -> None:
        with serving.client() as client:
            while not stop.is_set():
                try:
                    answers.append(issued(client)[0].der)
                except EnarxError as error:
                    failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(3)]
    with serving.client() as before:
        nonce, (_, old) = fresh(before), issued(before)
        for thread in clients:
            thread.start()
        eventually(lambda: len(answers) > 10)
        steward("ca", "rotate", serving.folder / "ca")
        eventually(lambda: len(serving.events("reloaded")) >= 1 and answers[-20:] == [serving.intermediate().der] * 20)
        stop.set()
        for thread in clients:
            thread.join()
        assert failures == []
        assert set(answers) == {former.der, serving.intermediate().der}
        _, new = issued(before, nonce)  # over the connection that was opened before
    with serving.client() as client:
        for certificate, issuer in ((old, former), (new, serving.intermediate())):
            crl = Crl.parse(client.get(list_of(certificate)).body)
            assert current_for(issuer, [crl], datetime.now(UTC), "list")
        assert Crl.parse(client.get("/crl").body).issuer == serving.intermediate().subject


def test_a_revoked_certificate_of_a_former_intermediate_stands_in_its_list(serving: Serving) -> None:
    """Also after a restart, and however often the CA was rotated: the keys of those before lie beside the new one."""
    former = serving.intermediate()
    with serving.client() as client:
        _, old = issued(client)
    steward("ca", "rotate", serving.folder / "ca")
    unseen = serving.intermediate()  # by the Steward that runs
    steward("ca", "rotate", serving.folder / "ca")
    serving.process.send_signal(signal.SIGHUP)
    eventually(lambda: serving.events("reloaded"))
    steward("revoke", "--config", serving.folder / "steward.toml", "--serial", f"{old.serial:x}")
    again = reload.load(serving.folder / "steward.toml", Flags(), datetime.now(UTC))
    assert {each.certificate.der for each in again.former} == {former.der, unseen.der}
    with serving.client() as client:
        crl = Crl.parse(client.get(list_of(old)).body)
        assert current_for(former, [crl], datetime.now(UTC), "list")
        assert crl.revoked == {old.serial}
        both = client.get("/crl", headers={"Accept": "application/x-pem-file"}).body
        assert both.count(b"BEGIN X509 CRL") == 3
        with pytest.raises(NotFoundError):
            client.get("/crl/00")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hangup_ends_no_steward_that_has_only_begun(tmp_path: Path, workers: int) -> None:
    """It waits until there is a hand for it. The pipe holds the program before it listens, for as long as wanted."""
    steward("ca", "init", tmp_path / "ca")
    (tmp_path / "steward.toml").write_text(CONFIG + POLICY)
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    program = [sys.executable, "-c", "from enarx.cli.steward import main; main()", "serve", "--log-format", "json"]
    options = ["--config", str(tmp_path / "steward.toml"), "--workers", str(workers), "--ready-fd", str(writing)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*program, *options, "--write-ca", str(tmp_path / "pipe")], pass_fds=[writing], stderr=log
        )
    os.close(writing)
    with (tmp_path / "pipe").open("rb") as pipe:  # it has begun, and waits for whoever reads
        process.send_signal(signal.SIGHUP)
        assert pipe.read().startswith(b"-----BEGIN CERTIFICATE-----")
    with os.fdopen(reading) as ready:
        assert int(ready.read()) > 0
    eventually(lambda: "reloaded" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("serving", [2], indirect=True)
def test_what_is_wrong_changes_nothing_and_is_told(serving: Serving) -> None:
    """A policy that cannot be read, a key that is another's, a change that needs a restart: the old goes on."""
    former, key = serving.intermediate(), serving.folder / "ca" / "ca.key"
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: serving.write("[unsafe]\naccept_nil = 1\n"), "accept_nil"),
        (lambda: serving.write(POLICY, CONFIG.replace("'state'", "'other'")), "a change of state needs a restart"),
        (lambda: key.write_bytes(keys.to_pem(keys.generate("P-256"))), "key does not belong"),
        (lambda: serving.write(POLICY, CONFIG.replace(ORIGIN, "https://LOCALHOST")), "origin: expected"),
    ]

    def told(times: int) -> bool:
        return len(serving.events(KEPT)) >= times

    good = key.read_bytes()
    for number, (spoil, why) in enumerate(wrong, start=1):
        spoil()
        serving.process.send_signal(signal.SIGHUP)
        eventually(partial(told, 3 * number))  # by the parent and both workers
        assert why in serving.events(KEPT)[-1]["why"]
        with serving.client() as client:
            assert issued(client)[0] == former
        key.write_bytes(good)
        serving.write(POLICY)
    children = Path(f"/proc/{serving.process.pid}/task/{serving.process.pid}/children")
    victim = int(children.read_text().split()[0])
    serving.write("[unsafe]\naccept_nil = 1\n")
    os.kill(victim, signal.SIGKILL)  # who takes its place begins with what is in force, not with what is in the file
    eventually(lambda: len(children.read_text().split()) == 2 and str(victim) not in children.read_text().split())
    for _ in range(8):
        with serving.client() as client:
            assert issued(client)[0] == former


@pytest.mark.parametrize("serving", [2], indirect=True)
def test_a_new_policy_is_in_force_after_sighup(serving: Serving) -> None:
    """What was accepted is refused, by every process."""
    with serving.client() as client:
        issued(client)
    serving.write("[unsafe]\nallow_any_measurement = true\n[snp]\nminimum_guest_svn = 1\n")
    serving.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(serving.events("reloaded")) >= 3)
    for _ in range(8):
        with serving.client() as client, pytest.raises(EnarxError, match="nil"):
            issued(client)


@pytest.mark.parametrize("serving", [2], indirect=True)
def test_what_was_handed_out_is_never_lost_to_revoke(serving: Serving) -> None:
    """Killed without warning while it certifies: every certificate that anybody holds can be taken back."""
    held, ended = list[str](), threading.Event()

    def ask() -> None:
        with suppress(EnarxError), serving.client() as client:
            while not ended.is_set():
                held.append(f"{issued(client)[1].serial:x}")

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for thread in clients:
        thread.start()
    eventually(lambda: len(held) > 40)
    children = Path(f"/proc/{serving.process.pid}/task/{serving.process.pid}/children").read_text().split()
    for process in (serving.process.pid, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    ended.set()
    for thread in clients:
        thread.join()
    serving.process.wait(timeout=30)
    ledger = Ledger(serving.folder / "state")
    assert set(held) <= {item.serial for item in ledger.issued()}
    assert held[-1] in {item.serial for item in ledger.revoke("serial", held[-1], datetime.now(UTC))}
