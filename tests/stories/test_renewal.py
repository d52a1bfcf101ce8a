"""A Keep outlives its certificates: it is attested again in time, and its connections notice nothing."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from enarx.attested.relying import Expectation, Peer
from enarx.errors import UnavailableError, UntrustedError
from enarx.pki.certificate import certificates_from_pem
from enarx.steward.config import Config, Flags, load_issuer, load_tls
from enarx.steward.policy import Grant
from enarx.steward.reload import Loaded
from enarx.steward.runner import Running
from enarx.web.attested import connect
from enarx.web.server import serve
from tests.stories.test_deploy import EXAMPLE, SERVER, World, settled

LIFETIME = timedelta(seconds=6)
ANYTHING = Expectation(accept_simulated=True, accept_nil=True)
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@contextmanager
def hasty_steward(config: Path, write_ca: Path) -> Iterator[tuple[str, Event]]:
    """A Steward whose certificates live for seconds, which no configuration may say; gives its origin and its end."""
    now = datetime.now(UTC)
    read = Config.read(config, Flags(dev=True, port=0))
    grant = Grant(lifetime=LIFETIME, dns_names=("localhost",))
    read = dataclasses.replace(
        read, policy=dataclasses.replace(read.policy, grant=grant), audit=write_ca.with_name("audit.jsonl")
    )
    issuer = load_issuer(read, now)
    write_ca.write_bytes(b"".join(certificate.to_pem() for certificate in issuer.chain))
    running = Running(Loaded(config=read, issuer=issuer, tls=load_tls(read, issuer, now)))
    ready, stop, ports = Event(), Event(), list[int]()

    def listening(port: int) -> None:
        running.ready(port)
        ports.append(port)
        ready.set()

    def run() -> None:
        serve(running.app, host="127.0.0.1", port=0, tls=running.served, on_ready=listening, grace_seconds=1, stop=stop)

    thread = Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"https://localhost:{ports[0]}", stop
    finally:
        stop.set()
        thread.join(20)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[World, Event]]:
    ends: list[Event] = []

    @contextmanager
    def steward(config: Path, write_ca: Path) -> Iterator[str]:
        with hasty_steward(config, write_ca) as (origin, stop):
            ends.append(stop)
            yield origin

    with settled(tmp_path, steward) as made:
        yield made, ends[0]


class Told:
    """What a deployment says, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def phase(self, name: str) -> dict[str, str]:
        """Wait for a phase; its facts."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            event = json.loads(line)
            if event.get("phase") == name:
                facts: dict[str, str] = event["facts"]
                return facts
        pytest.fail(f"it ended before {name}")


@contextmanager
def peer(world: World, port: int) -> Iterator[tuple[socket.socket, Peer]]:
    anchors = certificates_from_pem((world.folder / "steward-ca.pem").read_bytes(), "ca")
    with connect("localhost", port, anchors=anchors, expectation=ANYTHING) as found:
        yield found


def lets_in(world: World, port: int) -> bool:
    """Whether a new client is let in; never beyond the end of the certificate that it is shown."""
    try:
        with peer(world, port):
            return True
    except UntrustedError as error:  # it ended between the handshake and the judgement
        return "expired" in str(error)
    except UnavailableError:
        return False


def test_a_certificate_is_renewed_under_a_living_connection(world: tuple[World, Event]) -> None:
    """Two renewals later an old connection still works, and a new client sees a new certificate of the same workload.

    When the Steward has gone the last certificate is used to its end, and then nobody is let in.
    """
    made, stop_steward = world
    command = made.command("user/server:1.0.0", "snp", "--json")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    told = Told(process)
    try:
        port = int(told.phase("running")["web"].split()[2])
        with peer(made, port) as (old, before):
            told.phase("renewed")
            told.phase("renewed")
            old.sendall(REQUEST)
            answer = b""
            while chunk := old.recv(65536):
                answer += chunk
            assert b"200" in answer
        with peer(made, port) as (_, after):
            pass
        assert after.certificate.serial != before.certificate.serial
        assert after.expires > before.expires
        assert (after.workload, after.sealing_key) == (before.workload, before.sealing_key)
        assert after.certificate.spki == before.certificate.spki
        stop_steward.set()
        assert "refused at steward" in told.phase("warning")["renewal"]
        while lets_in(made, port):
            pass
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_local_run_renews_as_well(world: tuple[World, Event], tmp_path: Path) -> None:
    """`enarx run` asks its Steward again in time; without one it says so, and goes on to the end of its certificate."""
    made, stop_steward = world
    package = tmp_path / "package"
    package.mkdir()
    for name, content in (("main.wasm", (EXAMPLE / "main.wasm").read_bytes()), ("greeting.txt", b"hi\n")):
        (package / name).write_bytes(content)
    (package / "Enarx.toml").write_text(f'steward = "{made.steward}"\n{SERVER}')
    command = [sys.executable, "-c", "from enarx.cli.door import main; main()", "run", "--json"]
    options = ["--ca-bundle", str(made.folder / "steward-ca.pem"), str(package)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        events = map(json.loads, process.stderr)
        port = next(event for event in events if event["event"] == "running")["listening"][0]["port"]
        with peer(made, port) as (_, before):
            next(event for event in events if event["event"] == "renewed")
            with peer(made, port) as (_, after):
                assert after.certificate.serial != before.certificate.serial
                assert after.certificate.spki == before.certificate.spki
        stop_steward.set()
        assert "refused at steward" in next(event for event in events if event["event"] == "warning")["renewal"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
