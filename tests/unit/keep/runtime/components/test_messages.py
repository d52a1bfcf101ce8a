"""HTTP/1.1 as it comes: whatever arrives is a message or an error of ours, in whatever pieces it arrives."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.keep.runtime.components.messages import Conversation, GoneError, Incoming, MessageError, Wire

REQUEST = (
    b"POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Sum: 5\r\n\r\nGET /next HTTP/1.0\r\n\r\n"
)


class _Pieces:
    """A wire on which these pieces have come, and then the end."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._rest = [*pieces, b""]

    def look(self) -> bytes:
        return self._rest.pop(0) if self._rest else b""

    read = look


def _hear(pieces: Sequence[bytes]) -> list[tuple[str, bytes, bytes, object]]:
    """Method, target, body and trailers of every request. Raises GoneError at the end, and MessageError."""
    conversation = Conversation(cast("Wire", _Pieces(pieces)), request=True)
    found: list[tuple[str, bytes, bytes, object]] = []
    while (incoming := conversation.next()) is not None:
        found.append((incoming.message.method, incoming.message.target, _body(incoming), incoming.message.trailers))
    return found


def _body(incoming: Incoming) -> bytes:
    body = b""
    while piece := incoming.read():
        body += piece
    return body


@given(st.lists(st.integers(0, len(REQUEST)), max_size=8))
def test_requests_are_the_same_in_any_pieces(cuts: list[int]) -> None:
    """Heads, chunks and trailers may be torn anywhere, and the next request begins where the last one ended."""
    places = [0, *sorted(cuts), len(REQUEST)]
    pieces = [REQUEST[a:b] for a, b in pairwise(places) if a < b]
    assert _hear(pieces) == [("POST", b"/a?b", b"abcde", [("x-sum", b"5")]), ("GET", b"/next", b"", None)]


@given(
    st.lists(st.binary(min_size=1, max_size=60) | st.sampled_from([REQUEST, REQUEST[:70], b"0\r\n\r\n"]), max_size=6)
)
def test_any_bytes_are_requests_or_an_error_of_ours(pieces: list[bytes]) -> None:
    """What is not HTTP is a MessageError, what ends too early a GoneError."""
    try:
        _hear(pieces)
    except (MessageError, GoneError):
        return


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 200_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=["target", "header", "headers", "extension", "trailer", "trailers"],
)
def test_nothing_is_collected_without_end(endless: bytes) -> None:
    """Targets, headers, trailers and chunk extensions are bounded, one by one and together."""
    with pytest.raises(MessageError, match="expected"):
        _hear([endless[at : at + 65536] for at in range(0, len(endless), 65536)])
