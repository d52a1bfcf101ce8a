"""Strict CBOR: what is read, what is refused and where, and that writing inverts reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import cbor
from enarx.errors import MalformedError

VALUES = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers(-100, 100) | st.text(max_size=5), inner, max_size=4)
        | st.builds(lambda tag, value: cbor.Tagged(tag=tag, value=value), st.integers(0, 2**32), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_reading_inverts_writing(value: cbor.Value) -> None:
    """Whatever value is written comes back."""
    assert cbor.decode(cbor.encode(value), "value") == value


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the reader, it answers with a value or with MalformedError."""
    try:
        value = cbor.decode(data, "bytes")
    except MalformedError:
        return
    assert cbor.decode(cbor.encode(value), "again") == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "needs 1 bytes, 0 left"),
        ("0000", "1 bytes follow"),
        ("a2010001", "needs 4 bytes, 3 left"),
        ("a201000100", "the key 1 stands twice"),
        ("a14000", "neither an integer nor text"),
        ("5f4100ff", "an indefinite length"),
        ("f90000", "initial byte 0xf9"),
        ("e0", "simple value or float 0"),
        ("62c328", "not UTF-8"),
        ("9bffffffffffffffff", "needs 18446744073709551615 bytes"),
        ("81" * 20 + "00", "nested more than 16 deep"),
        ("1c", "initial byte 0x1c"),
    ],
)
def test_what_is_not_read_is_refused_with_its_place(data: str, message: str) -> None:
    """Each refusal says what is wrong and at which offset."""
    with pytest.raises(MalformedError, match=f"token: CBOR at 0x[0-9a-f]+: .*{message}"):
        cbor.decode(bytes.fromhex(data), "token")


def test_a_count_without_elements_costs_nothing() -> None:
    """More elements than the bound are refused although each is there."""
    with pytest.raises(MalformedError, match="more than 10000 elements"):
        cbor.decode(b"\x99\x4e\x20" + bytes(20_000), "token")
