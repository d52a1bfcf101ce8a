"""DER is read strictly: one form for every value, nothing after it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import der
from enarx.errors import MalformedError


@der.sequence
class Pair:
    number: int
    data: bytes


GOOD = bytes.fromhex("3006020105040161")


def test_a_value_and_back() -> None:
    """What is decoded encodes to the same bytes."""
    value = der.decode(Pair, GOOD, "pair")
    assert (value.number, value.data) == (5, b"a")
    assert der.encode(value) == GOOD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "300602010504016100",
        "300702020005040161",
        "30810602010504 0161",
        "3080020105040161 0000",
        "3106020105040161",
    ],
)
def test_other_forms_are_malformed(text: str) -> None:
    """Empty, cut, trailing, non-minimal, indefinite or another tag: all refused."""
    with pytest.raises(MalformedError, match="pair"):
        der.decode(Pair, bytes.fromhex(text), "pair")


@given(st.binary(max_size=40))
def test_any_bytes_are_elements_or_malformed(data: bytes) -> None:
    """The elements of a SEQUENCE OF are its bytes, cut; anything else is MalformedError."""
    try:
        elements = der.sequence_of(data, "x", limit=50)
    except MalformedError:
        return
    assert der.wrap(0x30, b"".join(elements)) == data


@given(st.binary(max_size=300))
def test_wrap_and_content_are_inverse(data: bytes) -> None:
    """An element's content is what was wrapped, whatever the length's form."""
    assert der.content(der.wrap(0x04, data), 0x04, "x") == data


def test_elements_are_bounded() -> None:
    """One element more than the limit is refused before it is read."""
    with pytest.raises(MalformedError, match="more than 2 elements"):
        der.sequence_of(der.wrap(0x30, b"\x05\x00" * 3), "x", limit=2)


@given(st.integers(0, 1 << 200))
def test_an_integer_is_written_as_the_library_does(value: int) -> None:
    """Minimal, and never negative by accident."""
    assert der.integer(value) == der.encode(value)


moments = st.datetimes(datetime(1950, 1, 2), datetime(2060, 12, 31), timezones=st.timezones())  # noqa: DTZ001 - bounds


@given(moments, st.text(), st.booleans())
def test_elements_are_written_as_the_library_does(moment: datetime, text: str, value: bool) -> None:
    """Whatever the clock of a moment shows, it is written in UTC."""
    utc = moment.replace(microsecond=0).astimezone(UTC)
    assert der.generalized_time(moment) == der.encode(der.GeneralizedTime(utc))
    if utc.year < 2050:
        assert der.utc_time(moment) == der.encode(der.UTCTime(utc))
    assert der.text(text) == der.encode(text)
    assert der.boolean(value) == der.encode(value)


@pytest.mark.parametrize(
    "text", ["3080", "308100", "30817f", "30820080", "3082007f", "3085000000010500", "30ff", "3081"]
)
def test_lengths_are_minimal(text: str) -> None:
    """Indefinite, longer than needed, or cut: none is a length."""
    with pytest.raises(MalformedError, match="minimal"):
        der.sequence_of(bytes.fromhex(text) + bytes(0x7F if text == "30817f" else 0), "x", limit=5)
