"""What travelled as text comes out as it was, and bytes stay bytes."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.steward.written import below_head, unwritten

WRITINGS: dict[str, Callable[[bytes], bytes]] = {
    "hexadecimal": lambda data: data.hex().encode(),
    "with 0x": lambda data: b"0x" + data.hex().upper().encode() + b"\n",
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 for URLs": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
}


@pytest.mark.parametrize("writing", WRITINGS)
@given(data=st.binary(min_size=64, max_size=200))
def test_every_writing_is_taken_off(writing: str, data: bytes) -> None:
    """Whatever the bytes are, they come out of each writing as they went in."""
    text = WRITINGS[writing](data)
    if writing.startswith("base64") and not text.strip(b"0123456789abcdefABCDEF\n"):
        return  # hexadecimal, too, and then that counts
    assert unwritten(text) == data
    assert unwritten(b"\xef\xbb\xbf" + text) == data


@pytest.mark.parametrize(
    "data", [b"\x30\x82" + bytes(100), b"-----BEGIN X-----\nAAAA\n-----END X-----\n" * 4, b"a word", b""]
)
def test_what_is_no_writing_stays_as_it_is(data: bytes) -> None:
    """Bytes, PEM, and a word that happens to be base64."""
    assert unwritten(data) == data


@pytest.mark.parametrize(
    ("text", "why"), [(b"abc", "odd number of digits, 3"), (b"z" * 65, "base64 text of 65 characters")]
)
def test_text_that_was_cut_off_is_malformed(text: bytes, why: str) -> None:
    """Half a byte says that something is missing."""
    with pytest.raises(MalformedError, match=why):
        unwritten(text)


def test_a_kept_answer_is_headers_and_body() -> None:
    """Of several heads the last one counts; a head without an end has no body."""
    kept = b"HTTP/1.1 302 Found\r\nA: 1\r\n\r\nHTTP/1.1 200 OK\nB: 2\n\nbody\n\nmore"
    assert below_head(kept) == (b"HTTP/1.1 200 OK\nB: 2", b"body\n\nmore")
    assert below_head(b"HTTP/1.1 200 OK\r\nB: 2") == (b"HTTP/1.1 200 OK\r\nB: 2", b"")
    assert below_head(b"body") == (b"", b"body")
