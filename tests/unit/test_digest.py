"""Digests are read liberally, written exactly, and compared in full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.digest import ALGORITHMS, Digest, Digests, Hasher
from enarx.errors import MalformedError

FOO_SHA256 = "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564="


def test_header_is_the_originals_form() -> None:
    """Members are joined by a comma without spaces, in the order of the algorithms."""
    header = Digests.of(b"foo", ("sha-384", "sha-256")).header()
    assert header.startswith(f"sha-256=:{FOO_SHA256}:,sha-384=:")
    assert " " not in header


def test_header_is_read_liberally() -> None:
    """Spaces, other cases and unknown algorithms are passed over; a later member wins."""
    found = Digests.parse_header(f" md5=:abc: , SHA-256=:{'A' * 43}=: , sha-256=:{FOO_SHA256}:")
    assert found == Digests.of(b"foo", ("sha-256",))


@pytest.mark.parametrize(
    "text", ["sha-256=abc", "sha-256=:abc:", "sha-256=:!:", "sha-256", f"sha-384=:{FOO_SHA256}:"], ids=repr
)
def test_a_known_algorithm_must_be_right(text: str) -> None:
    """A member of a known algorithm that is not :BASE64: of its length is an error."""
    with pytest.raises(MalformedError):
        Digests.parse_header(text)


@given(st.text(max_size=60))
def test_any_text_is_digests_or_malformed(text: str) -> None:
    """Whatever stands in the header, it is a set of digests or MalformedError."""
    try:
        found = Digests.parse_header(text)
    except MalformedError:
        return
    assert Digests.parse_header(found.header()) == found


@given(st.binary(max_size=100), st.sets(st.sampled_from(ALGORITHMS)))
def test_header_and_json_round_trip(data: bytes, algorithms: set[str]) -> None:
    """What is written is read back, as header and as JSON."""
    digests = Digests.of(data, [name for name in ALGORITHMS if name in algorithms])
    assert Digests.parse_header(digests.header()) == digests
    assert Digests.from_json(digests.to_json()) == digests


@pytest.mark.parametrize("text", ["sha256:{}", "sha-256:{}", "SHA-256:{}", "{}"])
def test_a_digest_may_be_written_in_several_ways(text: str) -> None:
    """With the algorithm in either spelling, or 64 digits alone."""
    wanted = Digest.of(b"foo")
    assert Digest.parse(text.format(wanted.hex)) == wanted
    assert str(wanted) == f"sha-256:{wanted.hex}"


@pytest.mark.parametrize("text", ["", "sha-256:", "sha-256:zz", "md5:00", "sha-256:" + "0" * 63, "0" * 40, "0 " * 32])
def test_what_is_no_digest_is_malformed(text: str) -> None:
    """An unknown algorithm, other characters or another length are errors."""
    with pytest.raises(MalformedError):
        Digest.parse(text)


def test_sets_agree_only_when_everything_in_common_is_equal() -> None:
    """No algorithm in common is no agreement: empty means no."""
    mine = Digests.of(b"foo", ("sha-256", "sha-384"))
    assert mine.agrees(Digests.of(b"foo", ("sha-384", "sha-512")))
    assert not mine.agrees(Digests.of(b"bar", ("sha-384",)))
    assert not mine.agrees(Digests.of(b"foo", ("sha-512",)))
    assert not mine.agrees(Digests())


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_hashing_in_pieces_is_hashing_the_whole(pieces: list[bytes]) -> None:
    """A Hasher counts and hashes what passed, however it was cut."""
    hasher = Hasher(ALGORITHMS)
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digests() == Digests.of(b"".join(pieces))
    assert hasher.length == len(b"".join(pieces))
