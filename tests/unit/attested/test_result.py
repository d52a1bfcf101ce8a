"""Attestation results: golden bytes, bounds, and the two properties of a parser."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.attested.claims import RuntimeClaims
from enarx.attested.result import MAX_RESULT, AttestationResult
from enarx.der import wrap
from enarx.digest import Digest
from enarx.errors import MalformedError

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
GOLDEN = AttestationResult(
    technology="snp",
    simulated=True,
    debug=False,
    measurement=bytes(48),
    signer=bytes(32),
    tcb_status="UpToDate",
    tcb_date=datetime(2026, 1, 1, tzinfo=UTC),
    advisories=("INTEL-SA-00615",),
    chip=bytes(32),
    appraised_at=NOON,
    policy=bytes(32),
    claims=RuntimeClaims(audience="a", digests=(Digest.of(b"w"),)),
)

words = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(  # noqa: DTZ001 - made aware in the next line
    lambda stamp: stamp.replace(microsecond=0, tzinfo=UTC)
)
results = st.builds(
    AttestationResult,
    technology=st.sampled_from(["snp", "sgx", "tdx", "cca", "nitro", "nil"]),
    simulated=st.booleans(),
    debug=st.booleans(),
    measurement=st.binary(max_size=64),
    signer=st.none() | st.binary(min_size=1, max_size=64),
    tcb_status=words,
    tcb_date=st.none() | moments,
    advisories=st.lists(words, max_size=4).map(tuple),
    chip=st.none() | st.binary(min_size=32, max_size=32),
    appraised_at=moments,
    policy=st.binary(min_size=32, max_size=32),
    claims=st.none() | st.builds(RuntimeClaims, audience=words),
)


def test_the_layout_is_that_of_the_document() -> None:
    """The bytes are the DER of flow.md section 4."""
    claims = GOLDEN.claims
    assert claims is not None
    expected = wrap(
        0x30,
        wrap(0x02, b"\x01")
        + wrap(0x0C, b"snp")
        + wrap(0x01, b"\xff")
        + wrap(0x01, b"\x00")
        + wrap(0x04, bytes(48))
        + wrap(0xA0, wrap(0x04, bytes(32)))
        + wrap(0x0C, b"UpToDate")
        + wrap(0xA1, wrap(0x18, b"20260101000000Z"))
        + wrap(0x30, wrap(0x0C, b"INTEL-SA-00615"))
        + wrap(0xA2, wrap(0x04, bytes(32)))
        + wrap(0x18, b"20261124120000Z")
        + wrap(0x04, bytes(32))
        + wrap(0xA3, claims.encode()),
    )
    assert GOLDEN.encode() == expected
    assert AttestationResult.parse(expected) == GOLDEN


def test_moments_are_written_in_utc() -> None:
    """A moment given in another zone is the same moment in the certificate."""
    abroad = NOON.astimezone(timezone(timedelta(hours=2)))
    made = AttestationResult(
        technology="nil",
        simulated=False,
        debug=False,
        measurement=b"",
        tcb_status="none",
        appraised_at=abroad,
        policy=bytes(32),
    )
    assert AttestationResult.parse(made.encode()).appraised_at == NOON


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"snp", b"SNP", "technology"),
        (b"UpToDate", b"Up oDate", "tcbStatus"),
        (b"20261124120000Z", b"19991124120000Z", "appraisedAt: expected a whole second in UTC since 2000"),
        (b"20261124120000Z", b"20261324120000Z", "not the expected DER"),
        (b"INTEL-SA-00615", b"INTEL\nSA-00615", "advisories"),
        (b"\x30\x82", b"\x30\x84", "attestation result: element of"),
    ],
)
def test_a_value_out_of_its_bounds_is_malformed(old: bytes, new: bytes, message: str) -> None:
    """Every bound is named with what was expected and found."""
    data = GOLDEN.encode()
    data = data if old in data else data.replace(b"\x30\x81", b"\x30\x84")
    with pytest.raises(MalformedError, match=message):
        AttestationResult.parse(data.replace(old, new))


def test_fractions_of_a_second_are_malformed() -> None:
    """Two certificates of one second would otherwise have two spellings of it."""
    inner = wrap(0x18, b"20261124120000.5Z")
    data = GOLDEN.encode().replace(wrap(0x18, b"20261124120000Z"), inner)
    with pytest.raises(MalformedError):
        AttestationResult.parse(wrap(0x30, data[3 if data[1] == 0x81 else 4 :]))


def test_too_many_bytes_are_not_even_decoded() -> None:
    """The size is bounded before the bytes are looked at."""
    with pytest.raises(MalformedError, match="at most"):
        AttestationResult.parse(bytes(MAX_RESULT + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_result_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        value = AttestationResult.parse(data)
    except MalformedError:
        return
    assert value.encode() == data


@given(results, st.data())
def test_a_changed_byte_is_another_result_or_malformed(value: AttestationResult, data: st.DataObject) -> None:
    """No two byte strings are the same result."""
    encoded = bytearray(value.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = AttestationResult.parse(bytes(encoded))
    except MalformedError:
        return
    assert other != value
    assert other.encode() == bytes(encoded)


@given(results)
def test_parse_and_encode_are_inverses(value: AttestationResult) -> None:
    """What was written is what is read."""
    assert AttestationResult.parse(value.encode()) == value
