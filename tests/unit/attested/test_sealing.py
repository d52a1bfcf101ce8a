"""Sealed bodies: what comes out is what went in, for one key, one certificate, one workload, one path; or nothing."""

import hashlib
import hmac
from collections.abc import Iterable

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from enarx.attested.claims import MLKEM768_X25519, SealingKey
from enarx.attested.sealing import INFO, MAGIC, RECORD, TAG, Opener, SealingPrivateKey, seal, sealed_length
from enarx.digest import Digest
from enarx.errors import EnarxError, MalformedError, UntrustedError

KEY = SealingPrivateKey.generate()
LEAF = b"certificate"
WORKLOAD = Digest.of(b"workload")
META = b'{"length":3}'
HEAD = len(MAGIC) + 2 + 1120 + 56  # up to the first record


def sealed(body: Iterable[bytes] = (b"abc",), *, meta: bytes = META, path: str = "main.wasm") -> bytes:
    return b"".join(seal(KEY.public, leaf=LEAF, workload=WORKLOAD, path=path, meta=meta, body=body))


def opened(data: bytes, *, step: int = 0, path: str = "main.wasm", leaf: bytes = LEAF) -> tuple[bytes | None, bytes]:
    opener = Opener(KEY, leaf=leaf, workload=WORKLOAD, path=path)
    pieces = [data[start : start + step] for start in range(0, len(data), step)] if step else [data]
    body = b"".join(plain for piece in pieces for plain in opener.feed(piece))
    opener.finish()
    return opener.meta, body


def records(data: bytes) -> list[bytes]:
    """The records of a sealed body, each with its length."""
    found, rest = [], data[HEAD:]
    while rest:
        size = 4 + int.from_bytes(rest[:4], "big")
        found.append(rest[:size])
        rest = rest[size:]
    return found


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD])
@pytest.mark.parametrize("step", [0, 7919])
def test_what_comes_out_is_what_went_in(size: int, step: int) -> None:
    """Bodies of every length around the record's size survive, however they are cut on the way."""
    body = bytes(index % 251 for index in range(size))
    data = sealed([body])
    assert len(data) == sealed_length(len(META), size)
    assert opened(data, step=step) == (META, body)


def test_the_head_is_that_of_the_document() -> None:
    """Magic, u16 length, HPKE output; then records of u32 length, none with more than 65,536 bytes of plaintext."""
    data = sealed([b"x" * (RECORD + 1)])
    assert data[:8] == b"ENSEAL1\0"
    assert int.from_bytes(data[8:10], "big") == 1120 + 40 + TAG
    assert [len(record) - 4 - TAG for record in records(data)] == [len(META), RECORD, 1]


def test_the_kem_is_number_647a() -> None:
    """HPKE by hand (RFC 9180, 5.1; X-Wing as its KEM) with the number 0x647a in the suite opens what we seal."""
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = x25519.public_key().public_bytes_raw()
    key = SealingKey(kem=MLKEM768_X25519, key=mlkem.public_key().public_bytes_raw() + public)
    data = b"".join(seal(key, leaf=LEAF, workload=WORKLOAD, path="a/b", meta=META, body=[b"abc"]))
    ct_m, ct_x, box = data[10 : 10 + 1088], data[1098:1130], data[1130:HEAD]
    shared = hashlib.sha3_256(
        mlkem.decapsulate(ct_m)
        + x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
        + ct_x
        + public
        + rb"\.//^"
        + b"\\"
    ).digest()
    suite = b"HPKE" + bytes.fromhex("647a00010002")
    info = b"enarx-sealed-v1\0" + hashlib.sha256(LEAF).digest() + WORKLOAD.value + b"a/b"

    def extract(salt: bytes, label: bytes, data: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + data, "sha256")

    def expand(secret: bytes, label: bytes, data: bytes, size: int) -> bytes:
        return hmac.digest(secret, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + data + b"\x01", "sha256")[
            :size
        ]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    plain = AESGCM(expand(secret, b"key", context, 32)).decrypt(expand(secret, b"base_nonce", context, 12), box, b"")
    cipher, prefix = AESGCM(plain[:32]), plain[32:]
    first, last = (record[4:] for record in records(data))
    assert cipher.decrypt(prefix + bytes(4), first, b"\x00") == META
    assert cipher.decrypt(prefix + bytes([0, 0, 0, 1]), last, b"\x01") == b"abc"


def test_the_private_key_opens_by_the_library_too() -> None:
    """What the private key shows as its public half is the key's two public halves in order."""
    assert len(KEY.public.key) == 1216
    assert isinstance(KEY._key, MLKEM768X25519PrivateKey)
    assert "key=" not in repr(KEY).split("public=")[0]


@pytest.mark.parametrize("wrong", ["leaf", "workload", "path", "key"])
def test_another_purpose_is_untrusted(wrong: str) -> None:
    """A body sealed for another certificate, workload, path or key opens nothing."""
    opener = Opener(
        SealingPrivateKey.generate() if wrong == "key" else KEY,
        leaf=b"other" if wrong == "leaf" else LEAF,
        workload=Digest.of(b"other") if wrong == "workload" else WORKLOAD,
        path="other" if wrong == "path" else "main.wasm",
    )
    with pytest.raises(UntrustedError, match="not sealed to this key, certificate, workload and path"):
        list(opener.feed(sealed()))


def test_any_truncation_is_malformed() -> None:
    """Wherever the body ends too early, `finish` says so, and no byte was given out that is not true."""
    data = sealed([b"x" * RECORD, b"y" * 100])
    for cut in [*range(40), HEAD - 1, HEAD, HEAD + 3, HEAD + 40, len(data) - 200, len(data) - 1]:
        with pytest.raises(MalformedError, match="truncated"):
            opened(data[:cut])


def test_a_dropped_end_is_noticed_at_a_record_boundary() -> None:
    """Leaving out the last record leaves a body that does not end."""
    data = sealed([b"x" * RECORD, b"y"])
    with pytest.raises(MalformedError, match="truncated after 2 records"):
        opened(data[: -len(records(data)[-1])])


def test_records_out_of_their_place_are_untrusted() -> None:
    """Two records exchanged, one left out or one twice: the counter in the nonce tells."""
    data = sealed([b"x" * RECORD, b"y" * RECORD, b"z"])
    head, found = data[:HEAD], records(data)
    for order in [(0, 2, 1, 3), (0, 2, 3), (0, 1, 1, 2, 3), (1, 0, 2, 3)]:
        with pytest.raises(UntrustedError, match="not authentic, or not in its place"):
            opened(head + b"".join(found[index] for index in order))


@pytest.mark.parametrize("extra", [b"\0", b"\0\0\0\x10" + bytes(16), b"x" * 100])
def test_nothing_may_follow_the_last_record(extra: bytes) -> None:
    """Bytes after the last record are an error, also when they come later."""
    with pytest.raises(MalformedError, match="follow the last record"):
        opened(sealed() + extra)
    opener = Opener(KEY, leaf=LEAF, workload=WORKLOAD, path="main.wasm")
    assert b"".join(opener.feed(sealed())) == b"abc"
    with pytest.raises(MalformedError, match="follow the last record"):
        list(opener.feed(extra))


def test_an_empty_body_is_its_meta_alone() -> None:
    """The meta record is then the last one, and an empty record after it has no place."""
    data = sealed([])
    assert len(records(data)) == 1
    assert opened(data) == (META, b"")


@pytest.mark.parametrize("size", [0, TAG - 1, RECORD + TAG + 1, 0xFFFFFFFF])
def test_a_record_of_an_impossible_length_is_malformed(size: int) -> None:
    """A record's length is checked before the record is waited for."""
    data = sealed()
    with pytest.raises(MalformedError, match="record: expected 16 to 65552 bytes"):
        opened(data[:HEAD] + size.to_bytes(4, "big"))


@pytest.mark.parametrize("size", [0, 1175, 1177, 65535])
def test_an_envelope_of_another_length_is_malformed(size: int) -> None:
    """The HPKE output of our suite has one length."""
    with pytest.raises(MalformedError, match=f"expected 1176 bytes, found {size}"):
        opened(MAGIC + size.to_bytes(2, "big"))


def test_something_else_is_malformed_at_its_first_byte() -> None:
    """An answer that is not sealed is noticed at once."""
    opener = Opener(KEY, leaf=LEAF, workload=WORKLOAD, path="")
    with pytest.raises(MalformedError, match="ENSEAL1"):
        list(opener.feed(b"{"))


def test_what_was_not_read_is_not_finished() -> None:
    """A caller that leaves records unread is told, instead of taking a part for the whole."""
    opener = Opener(KEY, leaf=LEAF, workload=WORKLOAD, path="main.wasm")
    opener.feed(sealed())
    with pytest.raises(MalformedError, match="left records unread"):
        opener.finish()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (SealingKey(kem=0x20, key=bytes(32)), "expected KEM 0x647a, found 0x0020"),
        (SealingKey(kem=MLKEM768_X25519, key=b"\xff" * 1216), "sealing key"),
        (SealingKey(kem=MLKEM768_X25519, key=bytes(1216)), "sealing key: nothing can be sealed to it"),
    ],
)
def test_a_key_that_is_none_is_malformed_before_anything_is_sent(key: SealingKey, message: str) -> None:
    """The caller learns of a bad key before the first byte of an answer."""
    with pytest.raises(MalformedError, match=message):
        seal(key, leaf=LEAF, workload=WORKLOAD, path="", meta=META, body=[])


def test_meta_and_digest_are_bounded() -> None:
    """Meta fits one record, and the workload digest is the SHA-256 one."""
    with pytest.raises(MalformedError, match="meta: expected at most 65536 bytes"):
        sealed(meta=bytes(RECORD + 1))
    with pytest.raises(MalformedError, match="expected sha-256, found sha-512"):
        Opener(KEY, leaf=LEAF, workload=Digest.of(b"", "sha-512"), path="")


def test_two_seals_of_the_same_are_different() -> None:
    """Key and nonce are fresh each time."""
    assert sealed() != sealed()
    assert INFO.endswith(b"\0")


@given(st.data())
def test_a_flipped_bit_anywhere_opens_nothing_wrong(data: st.DataObject) -> None:
    """One changed bit, in head or records, ends in one of our errors."""
    body = bytearray(sealed([b"x" * 70_000]))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(EnarxError):
        opened(bytes(body))


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_ours_or_refused(data: bytes, headed: bool) -> None:
    """Whatever is thrown at the opener, it ends in one of our errors: nobody guesses a sealed body."""
    with pytest.raises(EnarxError):
        opened(MAGIC + data if headed else data)


@given(st.lists(st.binary(max_size=200), max_size=5), st.binary(max_size=50), st.integers(1, 500))
def test_seal_and_open_are_inverses(body: list[bytes], meta: bytes, step: int) -> None:
    """However the body is cut before and after sealing, it is the same body."""
    assert opened(sealed(body, meta=meta), step=step) == (meta, b"".join(body))
