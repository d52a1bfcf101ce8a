"""The Keep's program as a process of its own: empty at first, and gone with its channel."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from enarx.digest import Digest
from enarx.keep.backends.process import KeepProcess, spawn
from enarx.keep.channel import MAX_BODY, TO_HOST, Channel, Hello, Kind, Phase, Refused, Signal, Start, encode

NOBODY = "https://localhost:1"


@pytest.fixture
def keep() -> Iterator[KeepProcess]:
    made = spawn(["nil"])
    made.stream.settimeout(60)
    yield made
    made.kill()


def channel_of(keep: KeepProcess) -> Channel:
    """The host's end, after the Keep said what it is."""
    channel = Channel(keep.stream, receives=TO_HOST)
    hello = channel.expect(Kind.HELLO, Hello)
    assert (hello.technology, hello.measurement) == ("nil", "")
    assert channel.expect(Kind.PHASE, Phase).phase == "sandboxed"
    return channel


def start(steward: str = NOBODY) -> Start:
    return Start(version=1, slug="localhost/u/r:1.0.0", digest=str(Digest.of(b"")), steward=steward, drawbridge=NOBODY)


@pytest.fixture
def silent() -> Iterator[str]:
    """A Steward that accepts connections and says nothing, so that a Keep waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.skipif(os.geteuid() != 0, reason="the files of a process that is not dumpable are for root alone")
def test_a_keep_has_one_descriptor_a_clean_environment_and_nothing_in_its_arguments(keep: KeepProcess) -> None:
    """Nothing is inherited but the channel; standard streams lead nowhere; no word of the user is in there."""
    channel_of(keep)
    process = Path(f"/proc/{keep.process.pid}")
    targets = [str(entry.readlink()) for entry in process.joinpath("fd").iterdir()]
    assert sorted(target.partition(":")[0] for target in targets) == ["/dev/null"] * 3 + ["socket"]
    assert process.joinpath("environ").read_bytes() == b"LANG=C.UTF-8\0"
    assert process.joinpath("cwd").readlink() == Path("/")


def test_a_keep_without_a_host_ends(keep: KeepProcess) -> None:
    """The end of the channel is the end of the Keep."""
    channel_of(keep)
    keep.stream.shutdown(socket.SHUT_RDWR)
    assert keep.wait(60) == "exit code 70"


def test_a_keep_whose_host_leaves_while_it_waits_ends(keep: KeepProcess, silent: str) -> None:
    """Also in the middle of a conversation with somebody else."""
    channel_of(keep).send(Kind.START, start(silent))
    keep.stream.shutdown(socket.SHUT_RDWR)
    assert keep.wait(60) == "exit code 70"


def test_a_signal_ends_a_keep_that_does_not_run_yet(keep: KeepProcess, silent: str) -> None:
    """Ctrl-C works while a Steward is waited for."""
    channel = channel_of(keep)
    channel.send(Kind.START, start(silent))
    channel.send(Kind.SIGNAL, Signal(name="INT"))
    frame = channel.receive()
    assert frame is not None
    assert (frame.kind, json.loads(frame.body)) == (Kind.EXIT, {"code": 130})


FIRST = encode(Kind.START, json.dumps({**{f: getattr(start(), f) for f in start().__struct_fields__}}).encode())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(Kind.STDIN, b"early"), "expected start, found stdin"),
        (struct.pack(">IB", MAX_BODY + 1, Kind.START), "at most 1048576 are allowed"),
        (struct.pack(">IB", 0, 99), "unknown frame type 99"),
        (encode(Kind.EXIT, b"{}"), "exit is not for this side"),
        (encode(Kind.START, b"{}"), "missing required field"),
        (encode(Kind.START, b'{"version":1'), "start: "),
        (FIRST.replace(b'"version": 1', b'"version": 9'), "version: expected 1, found 9"),
    ],
)
def test_a_host_that_breaks_the_rules_is_told_so_and_left(keep: KeepProcess, data: bytes, why: str) -> None:
    """Out of order, too large, unknown, of the wrong direction or form: a refusal at `channel`, and the end."""
    channel = channel_of(keep)
    keep.stream.sendall(data)
    refused = channel.expect(Kind.REFUSED, Refused)
    assert (refused.gate, refused.family) == ("channel", "malformed")
    assert why in refused.title
    assert keep.wait(60) == "exit code 70"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (FIRST, "start: not now"),
        (encode(Kind.TIME, b"{}"), "time: not now"),
        (encode(Kind.COLLATERAL, b"{}"), "evidence of nil has no room for documents"),
        (encode(Kind.SIGNAL, b'{"name":"KILL"}'), "expected INT or TERM"),
        (encode(Kind.STDIN, b"x" * MAX_BODY), "more than was asked for"),
    ],
)
def test_a_second_start_and_floods_end_a_keep(keep: KeepProcess, silent: str, data: bytes, why: str) -> None:
    """After `start` there is input within the window, a signal, and nothing else."""
    channel = channel_of(keep)
    channel.send(Kind.START, start(silent))
    keep.stream.sendall(data)
    refused = channel.expect(Kind.REFUSED, Refused)
    assert refused.gate == "channel"
    assert why in refused.title
    assert keep.wait(60) == "exit code 70"


def test_a_keep_says_which_gate_refused(keep: KeepProcess) -> None:
    """A Steward that is not there is a refusal at `steward`, with its family."""
    channel = channel_of(keep)
    channel.send(Kind.START, start())
    refused = channel.expect(Kind.REFUSED, Refused)
    assert (refused.gate, refused.family) == ("steward", "unavailable")


def test_an_attester_that_is_not_there_is_refused_before_hello() -> None:
    """The host learns why, although the Keep never began."""
    keep = spawn(["simulated", "sgx", "/nowhere"])
    try:
        refused = Channel(keep.stream, receives=TO_HOST).expect(Kind.REFUSED, Refused)
    finally:
        keep.kill()
    assert (refused.gate, refused.family) == ("backend", "not-found")
