"""The host's side: choose with care, pass on and nothing else, and believe a Keep's words only as far as they go."""

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest

from enarx.digest import Digest
from enarx.errors import MalformedError, NotFoundError, RejectedError, UnavailableError
from enarx.keep import launch
from enarx.keep.channel import (
    MAX_BODY,
    TO_KEEP,
    Channel,
    Collateral,
    Exit,
    Hello,
    Kind,
    Phase,
    Refused,
    Start,
    Want,
    encode,
)
from enarx.keep.deployment import Order
from enarx.keep.launch import Terminal, Watcher
from enarx.keep.refusal import RefusalError
from enarx.steward.collateral import Directory
from enarx.tee.snp.simulator import Vendor

ORDER = Order(
    slug="localhost/u/r:1.0.0", digest=Digest.of(b""), steward="https://s.example", drawbridge="https://d.example"
)
HELLO = Hello(version=1, technology="nil", measurement="")


@dataclass
class Played:
    """A Keep whose part is played by a function in a thread."""

    stream: socket.socket
    killed: bool = False

    def wait(self, seconds: float) -> str | None:
        return "exit code 3"

    def expose(self, port: int) -> None:
        """Nothing stands between it and the host's ports."""

    def kill(self) -> None:
        self.killed = True
        self.stream.close()


@dataclass
class Heard:
    """What the watcher was told, and what came out."""

    hellos: list[Hello] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    out: bytes = b""
    err: bytes = b""


Play = Callable[[Channel, socket.socket], None]


class Attend(Protocol):
    def __call__(self, play: Play, documents: Directory | None = None, /) -> int: ...


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def attend(heard: Heard) -> Attend:
    """Attend a Keep that plays its part; returns the exit code."""

    def run(play: Play, documents: Directory | None = None) -> int:
        host, keep = socket.socketpair()
        keep.settimeout(30)
        thread = threading.Thread(target=_play, args=(play, keep))
        thread.start()
        (out, into), (err, also) = os.pipe(), os.pipe()
        watcher = Watcher(hello=heard.hellos.append, phase=heard.phases.append)
        try:
            terminal = Terminal(stdin=None, stdout=into, stderr=also)
            return launch.attend(ORDER, Played(stream=host), terminal, watcher, documents)
        finally:
            host.close()
            thread.join()
            os.close(into)
            os.close(also)
            with os.fdopen(out, "rb") as read, os.fdopen(err, "rb") as more:
                heard.out, heard.err = read.read(), more.read()

    return run


def _play(play: Play, stream: socket.socket) -> None:
    with stream:
        play(Channel(stream, receives=TO_KEEP), stream)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):  # to close with input unread would look like a crash to the host
            pass


def begun(channel: Channel) -> Start:
    channel.send(Kind.HELLO, HELLO)
    return channel.expect(Kind.START, Start)


def test_streams_phases_and_the_exit_code_come_through(attend: Attend, heard: Heard) -> None:
    """What the program writes comes out on the right stream, and its code is returned."""

    def play(channel: Channel, _: socket.socket) -> None:
        assert begun(channel) == ORDER.start()
        channel.send(Kind.PHASE, Phase(phase="running"))
        channel.send(Kind.STDOUT, b"out\0")
        channel.send(Kind.STDERR, b"err")
        channel.send(Kind.WANT, Want(count=3))
        frame = channel.receive()
        assert frame is not None
        assert (frame.kind, frame.body) == (Kind.STDIN, b"")
        channel.send(Kind.EXIT, Exit(code=255))

    assert attend(play) == 255
    assert (heard.out, heard.err) == (b"out\0", b"err")
    assert (heard.hellos, [phase.phase for phase in heard.phases]) == ([HELLO], ["running"])


def test_vendors_documents_follow_the_order_and_again_when_they_change(
    attend: Attend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Keep is told that they come; a file that somebody renews is offered to the running Keep, and only then."""
    monkeypatch.setattr(launch, "REFRESH_SECONDS", 0.05)
    vendor, at = Vendor.create(datetime.now(UTC)), datetime.now(UTC)
    lists = [vendor.crl(at, number=number) for number in (1, 2)]
    (tmp_path / "ark.crl").write_bytes(lists[0])
    offers: list[bytes] = []

    def play(channel: Channel, _: socket.socket) -> None:
        assert begun(channel).collateral
        offers.extend(channel.expect(Kind.COLLATERAL, Collateral).crls)
        fresh = tmp_path / "ark.new"
        fresh.write_bytes(b"not a document")
        fresh.write_bytes(lists[1])
        fresh.replace(tmp_path / "ark.crl")
        while (frame := channel.receive()) is not None and frame.kind is not Kind.COLLATERAL:
            pass
        assert frame is not None
        offers.extend(frame.read(Collateral).crls)
        channel.send(Kind.EXIT, Exit(code=0))

    assert attend(play, Directory(tmp_path)) == 0
    assert offers == lists


def test_a_refusal_keeps_its_gate_its_family_and_its_reasons(attend: Attend) -> None:
    """What the Keep was refused with is what the user reads."""

    def play(channel: Channel, _: socket.socket) -> None:
        begun(channel)
        body = Refused(gate="steward", title="no", family="rejected", reasons=["one\x1b[2J", "two"])
        channel.send(Kind.REFUSED, body)

    with pytest.raises(RefusalError, match="refused at steward: no") as caught:
        attend(play)
    assert caught.value.gate == "steward"
    assert isinstance(caught.value.cause, RejectedError)
    assert caught.value.cause.reasons == ("one [2J", "two")


def test_a_refusal_before_hello_is_heard(attend: Attend) -> None:
    """A Keep that could not even say what it is may still say why."""

    def play(channel: Channel, _: socket.socket) -> None:
        channel.send(Kind.REFUSED, Refused(gate="backend", title="no machine", family="not-found"))

    with pytest.raises(RefusalError, match="no machine") as caught:
        attend(play)
    assert isinstance(caught.value.cause, NotFoundError)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(Kind.HELLO, b"{}"), "hello: not now"),
        (encode(Kind.EXIT, b'{"code":256}'), "expected a code from 0 to 255, found 256"),
        (encode(Kind.EXIT, b'{"code":-1}'), "found -1"),
        (encode(Kind.EXIT, b'{"code":' + b"9" * 5000 + b"}"), "out of range"),
        (encode(Kind.PHASE, b'{"phase":"running","facts":{"web":"tcp :: ' + b"9" * 5000 + b'"}}'), "expected a port"),
        (encode(Kind.PHASE, b'{"phase":"running","facts":{"web":"tcp :: 65536"}}'), "expected a port"),
        (encode(Kind.PHASE, b'{"phase":"running","facts":{"web":"tcp :: -1"}}'), "expected a port"),
        (encode(Kind.PHASE, '{"phase":"running","facts":{"web":"tcp :: \u0661\u0662"}}'.encode()), "expected a port"),
        (b"\0\0\0\0\x63", "unknown frame type 99"),
        ((MAX_BODY + 1).to_bytes(4, "big") + bytes((Kind.STDOUT,)), "at most 1048576"),
        (encode(Kind.STDIN, b""), "stdin is not for this side"),
        (encode(Kind.PHASE, b'{"phase":1}'), "phase: Expected `str`"),
        (b"\0\0\0\x05\x12ab", "ended inside a frame"),
    ],
)
def test_a_keep_that_breaks_the_rules_is_refused(attend: Attend, data: bytes, why: str) -> None:
    """A compromised Keep can end its deployment, and nothing else of its host."""

    def play(channel: Channel, stream: socket.socket) -> None:
        begun(channel)
        stream.sendall(data)

    with pytest.raises(RefusalError) as caught:
        attend(play)
    assert isinstance(caught.value.cause, MalformedError)
    assert why in str(caught.value)


@pytest.mark.parametrize("says", [b"", encode(Kind.HELLO, b'{"version":1,"technology":"nil","measurement":""}')])
def test_a_keep_that_ends_without_a_word_is_a_failure(attend: Attend, says: bytes) -> None:
    """Before hello or after it: the user learns how the Keep ended."""

    def play(_: Channel, stream: socket.socket) -> None:
        stream.sendall(says)

    with pytest.raises(RefusalError, match=r"exit code 3|the other side is gone") as caught:
        attend(play)
    assert isinstance(caught.value.cause, UnavailableError)


def test_another_version_is_refused(attend: Attend) -> None:
    """The two sides of the channel are of one version, or part."""

    def play(channel: Channel, _: socket.socket) -> None:
        channel.send(Kind.HELLO, Hello(version=2, technology="nil", measurement=""))

    with pytest.raises(RefusalError, match="expected version 1, found 2"):
        attend(play)


def test_what_protects_nothing_has_to_be_named_and_called_insecure() -> None:
    """Neither the choice by default nor a name alone gives a Keep that its host can read."""
    with pytest.raises(RefusalError, match="say --insecure if that is what you want") as caught:
        launch.choose("nil", insecure=False)
    assert isinstance(caught.value.cause, RejectedError)
    assert launch.choose("nil", insecure=True).name == "process"
    with pytest.raises(RefusalError, match="no TEE is ready on this machine"):
        launch.choose(None, insecure=True)


def test_a_backend_that_is_not_here_says_what_is_missing() -> None:
    """Not a fallback to a weaker one, whatever else was said."""
    with pytest.raises(RefusalError, match=r"sgx cannot run here: .*gramine-sgx: not found"):
        launch.choose("sgx", insecure=True)
    with pytest.raises(
        RefusalError, match=r"one of inside, gramine, qemu-snp, .*, process, sgx, sev, kvm, nil, found 'quantum'"
    ):
        launch.choose("quantum", insecure=True)
