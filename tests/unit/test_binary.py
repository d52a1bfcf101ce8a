"""Fixed layouts are read exactly, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError


def test_integers_are_little_endian() -> None:
    """A two-byte integer has its low byte first."""
    assert Reader(b"\x01\x02", what="x").uint(2, "F") == 0x0201


def test_never_past_the_end() -> None:
    """A field that does not fit names itself, its offset, its size and what was left."""
    reader = Reader(b"\0\0", what="SNP TCB")
    reader.take(1, "BOOT_LOADER")
    with pytest.raises(MalformedError, match=r"^SNP TCB: TEE at 0x1 needs 4 bytes, 1 left$"):
        reader.uint(4, "TEE")


def test_reserved_bytes_must_be_zero() -> None:
    """A reserved range with one bit set is refused at that byte."""
    with pytest.raises(MalformedError, match=r"reserved at 0x0\.\.0x3 must be zero, found 0x40 at 0x2"):
        Reader(b"\0\0\x40\0", what="x").zeros(4)


def test_nothing_may_follow() -> None:
    """Bytes after the end are refused."""
    with pytest.raises(MalformedError, match="1 bytes follow the end at 0x0"):
        Reader(b"\0", what="x").end()


@given(st.integers(0, 2**32 - 1), st.binary(max_size=20), st.integers(0, 9))
def test_a_writer_is_the_inverse_of_a_reader(number: int, data: bytes, zeros: int) -> None:
    """What was written is read back."""
    written = Writer().uint(number, 4).put(data, len(data)).zeros(zeros).getvalue()
    reader = Reader(written, what="x")
    assert reader.uint(4, "A") == number
    assert reader.take(len(data), "B") == data
    reader.zeros(zeros)
    reader.end()


def test_a_writer_refuses_a_wrong_length() -> None:
    """A field of the wrong length is our own mistake and is not written."""
    with pytest.raises(ValueError, match="expected 4 bytes, found 3"):
        Writer().put(b"abc", 4)
