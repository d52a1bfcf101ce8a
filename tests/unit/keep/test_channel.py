"""Frames between host and Keep: bounded, strict, and only in their own direction."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.channel import (
    MAX_BODY,
    TO_HOST,
    TO_KEEP,
    Channel,
    Credit,
    Exit,
    Frame,
    Kind,
    Start,
    encode,
    parse_header,
    pump,
)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    """Both ends of one channel: the host's, the Keep's."""
    host, keep = socket.socketpair()
    with host, keep:
        yield Channel(host, receives=TO_HOST), Channel(keep, receives=TO_KEEP)


@contextmanager
def raw(data: bytes) -> Iterator[Channel]:
    """A Keep's end that will read exactly these bytes."""
    host, keep = socket.socketpair()
    with host, keep:
        host.sendall(data)
        host.close()
        yield Channel(keep, receives=TO_KEEP)


def test_a_frame_is_length_type_body() -> None:
    """u32 big-endian length of the body, one octet of type, the body."""
    assert encode(Kind.STDIN, b"abc") == b"\0\0\0\3\2abc"


def test_frames_arrive_as_sent(pair: tuple[Channel, Channel]) -> None:
    """Control bodies and data come out on the other side, and the end is None."""
    host, keep = pair
    host.send(Kind.START, Start(version=1, slug="h/u/r:1.0.0", digest="x", steward="s", drawbridge="d"))
    host.send(Kind.STDIN, b"data")
    assert keep.expect(Kind.START, Start).slug == "h/u/r:1.0.0"
    assert keep.receive() == Frame(kind=Kind.STDIN, body=b"data")
    host.close()
    assert keep.receive() is None


@pytest.mark.parametrize("data", [b"", encode(Kind.START, b"{}")[:3], encode(Kind.START, b"{}")[:6]])
def test_who_waits_for_a_frame_need_not_wait_for_ever(data: bytes) -> None:
    """Nothing, half a header or half a body within the time: the other side has gone silent."""
    host, keep = socket.socketpair()
    with host, keep:
        host.sendall(data)
        with pytest.raises(UnavailableError, match="gone silent"):
            Channel(keep, receives=TO_KEEP).expect(Kind.START, Start, within=0.05)
        assert keep.gettimeout() is None


def test_a_frame_larger_than_one_mebibyte_is_refused_unread() -> None:
    """The length alone is enough to refuse."""
    with (
        raw((MAX_BODY + 1).to_bytes(4, "big") + b"\x02") as keep,
        pytest.raises(MalformedError, match=f"frame of {MAX_BODY + 1} bytes"),
    ):
        keep.receive()


@pytest.mark.parametrize("octet", [0, 6, 255])
def test_an_unknown_type_is_refused(octet: int) -> None:
    """A type that is not in the table ends the Keep."""
    with raw(b"\0\0\0\0" + bytes((octet,))) as keep, pytest.raises(MalformedError, match=f"unknown frame type {octet}"):
        keep.receive()


def test_a_frame_of_the_other_direction_is_refused() -> None:
    """A host cannot send what only a Keep says."""
    with (
        raw(encode(Kind.EXIT, b'{"code":0}')) as keep,
        pytest.raises(MalformedError, match="exit is not for this side"),
    ):
        keep.receive()


def test_the_end_inside_a_frame_is_refused() -> None:
    """A frame that was cut short is no frame."""
    with raw(b"\0\0\0\3\2a") as keep, pytest.raises(MalformedError, match="2 bytes missing"):
        keep.receive()


def test_start_must_come_first() -> None:
    """Anything else in its place is refused."""
    with raw(encode(Kind.STDIN, b"")) as keep, pytest.raises(MalformedError, match="expected start, found stdin"):
        keep.expect(Kind.START, Start)
    with raw(b"") as keep, pytest.raises(UnavailableError, match="expected start"):
        keep.expect(Kind.START, Start)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"code":0,"more":1}', b'{"code":"0"}', b'{"code":0} ', b"\xff", b'{"code":0}x']
)
def test_control_bodies_are_strict(body: bytes) -> None:
    """Missing and unknown members, wrong types and trailing text are refused."""
    if body == b'{"code":0} ':
        assert Frame(kind=Kind.EXIT, body=body).read(Exit).code == 0  # white space is JSON's own
        return
    with pytest.raises(MalformedError, match="channel: exit"):
        Frame(kind=Kind.EXIT, body=body).read(Exit)


@given(st.binary(min_size=5, max_size=5))
def test_any_header_is_a_kind_or_malformed(header: bytes) -> None:
    """Five bytes are a bounded length and a type of this side, or MalformedError."""
    try:
        length, kind = parse_header(header, TO_KEEP)
    except MalformedError:
        return
    assert length <= MAX_BODY
    assert kind in TO_KEEP


def test_pumping_ends_with_an_empty_frame(pair: tuple[Channel, Channel]) -> None:
    """All data goes over, in order, and the end is told."""
    host, keep = pair
    pieces = [b"a" * 10, b"b" * 10, b""]
    thread = threading.Thread(target=pump, args=(lambda _: pieces.pop(0), host, Credit()))
    thread.start()
    got = []
    while (frame := keep.receive()) is not None and frame.body:
        got.append(frame.body)
    thread.join()
    assert b"".join(got) == b"a" * 10 + b"b" * 10


def test_no_more_is_pumped_than_was_asked_for(pair: tuple[Channel, Channel]) -> None:
    """The window goes out and then nothing, until the Keep wants more; closing ends the wait."""
    host, keep = pair
    credit = Credit(5)
    thread = threading.Thread(target=pump, args=(lambda count: b"x" * count, host, credit))
    thread.start()
    assert keep.receive() == Frame(kind=Kind.STDIN, body=b"xxxxx")
    credit.add(2)
    assert keep.receive() == Frame(kind=Kind.STDIN, body=b"xx")
    credit.close()
    thread.join()


def test_sending_to_nobody_is_unavailable(pair: tuple[Channel, Channel]) -> None:
    """When the other side is gone, that is what the sender learns."""
    host, keep = pair
    keep.close()
    with pytest.raises(UnavailableError, match="the other side is gone"):
        host.send(Kind.STDIN, b"x")
