"""Runtime claims: golden bytes, bounds, and the two properties of a parser."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.attested.claims import (
    MAX_CLAIMS,
    MLKEM768_X25519,
    MLKEM768_X25519_SIZE,
    RuntimeClaims,
    SealingKey,
    report_data,
)
from enarx.der import wrap
from enarx.digest import ALGORITHMS, Digest
from enarx.errors import MalformedError

GOLDEN = RuntimeClaims(
    audience="https://steward.example",
    nonce=bytes(8),
    digests=(Digest.of(b"workload"),),
    slug="host/user/repo:1.0.0",
    sealing=SealingKey(kem=0x20, key=bytes(4)),
    config=bytes(32),
    names=("localhost",),
    lifetime=3600,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{1,5}){0,2}", fullmatch=True)
printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=80)
claims = st.builds(
    RuntimeClaims,
    audience=printable,
    nonce=st.none() | st.binary(min_size=1, max_size=64),
    digests=st.lists(st.sampled_from(ALGORITHMS), unique=True).map(
        lambda algorithms: tuple(Digest.of(b"x", algorithm) for algorithm in algorithms)
    ),
    slug=st.none() | printable,
    sealing=st.none()
    | st.builds(SealingKey, kem=st.just(MLKEM768_X25519), key=st.just(bytes(MLKEM768_X25519_SIZE)))
    | st.builds(SealingKey, kem=st.integers(1, 0x100), key=st.binary(min_size=1, max_size=64)),
    config=st.none() | st.binary(min_size=32, max_size=32),
    names=st.lists(names, unique=True, max_size=5).map(tuple),
    lifetime=st.none() | st.integers(1, 86400),
)


def test_the_layout_is_that_of_the_document() -> None:
    """The bytes are the DER of flow.md section 2: explicit context tags 0 to 6, in order."""
    digest = hashlib.sha256(b"workload").digest()
    expected = wrap(
        0x30,
        wrap(0x02, b"\x01")
        + wrap(0x0C, b"https://steward.example")
        + wrap(0xA0, wrap(0x04, bytes(8)))
        + wrap(0xA1, wrap(0x30, wrap(0x30, wrap(0x0C, b"sha-256") + wrap(0x04, digest))))
        + wrap(0xA2, wrap(0x0C, b"host/user/repo:1.0.0"))
        + wrap(0xA3, wrap(0x30, wrap(0x02, b"\x20") + wrap(0x04, bytes(4))))
        + wrap(0xA4, wrap(0x04, bytes(32)))
        + wrap(0xA5, wrap(0x30, wrap(0x0C, b"localhost")))
        + wrap(0xA6, wrap(0x02, b"\x0e\x10")),
    )
    assert GOLDEN.encode() == expected
    assert RuntimeClaims.parse(expected) == GOLDEN


def test_what_is_absent_is_not_written() -> None:
    """Claims with an audience alone are the version and the audience."""
    data = bytes.fromhex("301c0201010c17") + b"https://steward.example"
    assert RuntimeClaims(audience="https://steward.example").encode() == data


def test_the_report_data_without_claims_is_the_hash_of_the_key() -> None:
    """Without claims the form is the originals': the hash of the SPKI, zeros after it."""
    assert report_data("sha-384", b"spki", None) == hashlib.sha384(b"spki").digest() + bytes(16)
    assert report_data("sha-256", b"spki", None) == hashlib.sha256(b"spki").digest() + bytes(32)


def test_the_report_data_with_claims_is_the_hash_of_domain_key_and_claims() -> None:
    """With claims, the domain string separates our form from the originals'."""
    expected = hashlib.sha256(b"enarx-keep-v1\0" + b"spki" + b"claims").digest() + bytes(32)
    assert report_data("sha-256", b"spki", b"claims") == expected


def test_empty_claims_are_not_absent_claims() -> None:
    """A request whose claims extension is empty is bound differently from one without."""
    assert report_data("sha-256", b"spki", b"") != report_data("sha-256", b"spki", None)


def test_the_workload_is_the_sha256_digest() -> None:
    """Whatever other digests the publisher used, the workload is named by SHA-256."""
    both = RuntimeClaims(audience="a", digests=(Digest.of(b"w", "sha-512"), Digest.of(b"w")))
    assert both.workload == Digest.of(b"w")
    assert RuntimeClaims(audience="a").workload is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audience": ""}, "audience: expected 1 to 512 printable"),
        ({"audience": "https://a b"}, "audience"),
        ({"audience": "a\x1b[31m"}, "audience"),
        ({"version": 2}, "version: expected 1, found 2"),
        ({"nonce": b""}, "nonce: expected 1 to 128 bytes, found 0"),
        ({"nonce": bytes(129)}, "nonce: expected 1 to 128 bytes, found 129"),
        ({"digests": (Digest.of(b"a"), Digest.of(b"b"))}, "digests: expected each algorithm once"),
        ({"slug": "x" * 1025}, "slug"),
        ({"config": bytes(31)}, "config: expected 32 bytes, found 31"),
        ({"names": ("UPPER.example",)}, "names: expected lower-case DNS names"),
        ({"names": ("a..b",)}, "names"),
        ({"names": ("*.example",)}, "names"),
        ({"names": ("a" * 64,)}, "names"),
        ({"names": ("a", "a")}, "names: expected each once"),
        ({"names": tuple(f"n{index}" for index in range(33))}, "names: expected at most 32, found 33"),
        ({"lifetime": 0}, "lifetime: expected 1 to"),
        ({"lifetime": 1 << 40000}, "lifetime: expected 1 to 31622400 seconds, found a number of 40001 bits"),
    ],
)
def test_a_value_out_of_its_bounds_is_malformed(change: dict[str, object], message: str) -> None:
    """Every bound is named with what was expected and found."""
    with pytest.raises(MalformedError, match=message):
        RuntimeClaims(**{"audience": "https://steward.example", **change})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("kem", "size", "message"),
    [(0, 32, "kem"), (1 << 16, 32, "kem"), (0x20, 0, "key"), (0x20, 4097, "key"), (0x647A, 1215, "expected 1216")],
)
def test_a_sealing_key_has_bounds(kem: int, size: int, message: str) -> None:
    """A KEM number has 16 bits, a key some bytes, and the default KEM's key exactly 1,216."""
    with pytest.raises(MalformedError, match=message):
        SealingKey(kem=kem, key=bytes(size))


def test_an_unknown_digest_algorithm_is_malformed() -> None:
    """A digest that nobody can compare is refused by name."""
    data = GOLDEN.encode().replace(b"sha-256", b"md5-256")
    with pytest.raises(MalformedError, match="found 'md5-256'"):
        RuntimeClaims.parse(data)


def test_an_empty_list_is_not_an_absent_one() -> None:
    """A list that is present has at least one element, so every value has one encoding."""
    data = wrap(0x30, b"\x02\x01\x01" + wrap(0x0C, b"a") + wrap(0xA5, b"\x30\x00"))
    with pytest.raises(MalformedError, match="names: expected absent, or at least one"):
        RuntimeClaims.parse(data)


def test_too_many_bytes_are_not_even_decoded() -> None:
    """The size is bounded before the bytes are looked at."""
    with pytest.raises(MalformedError, match="at most 16384 bytes, found 16385"):
        RuntimeClaims.parse(bytes(MAX_CLAIMS + 1))


@pytest.mark.parametrize("change", [b"\0", b"\x30\x00"])
def test_nothing_may_follow(change: bytes) -> None:
    """Bytes after the claims are refused."""
    with pytest.raises(MalformedError):
        RuntimeClaims.parse(GOLDEN.encode() + change)


@given(st.binary(max_size=200))
def test_any_bytes_are_claims_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        value = RuntimeClaims.parse(data)
    except MalformedError:
        return
    assert value.encode() == data


@given(claims, st.data())
def test_a_changed_byte_is_other_claims_or_malformed(value: RuntimeClaims, data: st.DataObject) -> None:
    """No two byte strings are the same claims."""
    encoded = bytearray(value.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = RuntimeClaims.parse(bytes(encoded))
    except MalformedError:
        return
    assert other != value
    assert other.encode() == bytes(encoded)


@given(claims)
def test_parse_and_encode_are_inverses(value: RuntimeClaims) -> None:
    """What was written is what is read."""
    assert RuntimeClaims.parse(value.encode()) == value
