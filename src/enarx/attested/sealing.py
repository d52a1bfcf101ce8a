r"""Bodies that only one Keep can open, sealed and opened as they stream (flow.md, 5; RFC 9180).

    "ENSEAL1\0" ‖ u16 n ‖ n bytes of HPKE output ‖ records            integers big-endian
    HPKE, base mode: KEM of the sealing key, HKDF-SHA256, AES-256-GCM; its message is a fresh
    32-byte key ‖ 8-byte nonce prefix; info = "enarx-sealed-v1" ‖ 0x00 ‖ SHA-256(leaf certificate) ‖
    workload digest ‖ tree path
    record: u32 length ‖ AES-256-GCM ciphertext with tag; nonce = prefix ‖ u32 counter;
    AAD = 0x01 for the last record, else 0x00; at most 65,536 bytes of plaintext

The first record is the node's canonical Meta JSON, the rest its body. Every record is authentic
before a byte of it is given out, its place and whether it is the last included; that the body is
complete is known only when `finish` returns. The secrecy is against everyone but the holder of the
sealing key. Who sealed is not proven: the digest of the workload is what the body is checked against.
"""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enarx.attested.claims import MLKEM768_X25519, SealingKey
from enarx.digest import Digest
from enarx.errors import MalformedError, UntrustedError

MEDIA_TYPE: Final = "application/vnd.enarx.sealed.v1"

MAGIC: Final = b"ENSEAL1\0"
INFO: Final = b"enarx-sealed-v1\0"
RECORD: Final = 65_536  # bytes of plaintext in one record, at most
TAG: Final = 16  # bytes
MAX_RECORDS: Final = 1 << 32  # the counter's range

_KEY_SIZE: Final = 32
_PREFIX_SIZE: Final = 8
_MLKEM768_SIZE: Final = 1184
_ENVELOPE_SIZE: Final = 1088 + 32 + _KEY_SIZE + _PREFIX_SIZE + TAG  # ML-KEM-768 and X25519 ciphertexts, then the key
_LAST: Final = b"\x01"
_MORE: Final = b"\x00"
_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingPrivateKey:
    """The private half of a sealing key. It has no encoding: it is born in a Keep and ends with it."""

    public: SealingKey
    _key: hpke.MLKEM768X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        return cls(
            public=SealingKey(kem=MLKEM768_X25519, key=public),
            _key=hpke.MLKEM768X25519PrivateKey(mlkem, x25519),
        )

    def decrypt(self, envelope: bytes, info: bytes) -> bytes:
        """Open HPKE output. Raises UntrustedError when it was sealed to another key or for another purpose."""
        try:
            return _SUITE.decrypt(envelope, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise UntrustedError("sealed body: not sealed to this key, certificate, workload and path") from error


def seal(
    key: SealingKey, *, leaf: bytes, workload: Digest, path: str, meta: bytes, body: Iterable[bytes]
) -> Iterator[bytes]:
    """The sealed form of `meta` and `body`, piece by piece.

    `leaf` is the DER certificate that names `key`, `workload` the SHA-256 digest it carries, `path` the node's path in
    the tree ("" for the root), `meta` the node's canonical Meta JSON of at most 65,536 bytes. Raises MalformedError,
    before the first piece, for a KEM that is not ours or a key that is none.
    """
    public = _public_key(key)
    if len(meta) > RECORD:
        raise MalformedError(f"sealed body: meta: expected at most {RECORD} bytes, found {len(meta)}")
    secret, prefix = secrets.token_bytes(_KEY_SIZE), secrets.token_bytes(_PREFIX_SIZE)
    info = _info(leaf, workload, path)
    try:
        envelope = _SUITE.encrypt(secret + prefix, public, info=info)
    except ValueError as error:
        raise MalformedError("sealing key: nothing can be sealed to it") from error
    head = MAGIC + len(envelope).to_bytes(2, "big") + envelope
    return _records(head, AESGCM(secret), prefix, meta, body)


def sealed_length(meta: int, body: int) -> int:
    """The length in bytes of a sealed body, from the lengths of what is in it."""
    records = 1 + -(-body // RECORD)
    return len(MAGIC) + 2 + _ENVELOPE_SIZE + records * (4 + TAG) + meta + body


class Opener:
    """Opens one sealed body as it arrives. `meta` is None until its record is there.

    Feed it everything, in pieces of any size, then call `finish`; what `feed` gave out is authentic but may
    not be all before that. Raises MalformedError for what is no sealed body, UntrustedError for what was not
    sealed to `private` for this certificate, workload and path, or was changed.
    """

    __slots__ = ("_buffer", "_cipher", "_counter", "_done", "_info", "_prefix", "_private", "meta")

    def __init__(self, private: SealingPrivateKey, *, leaf: bytes, workload: Digest, path: str) -> None:
        self._private = private
        self._info = _info(leaf, workload, path)
        self._buffer = bytearray()
        self._cipher: AESGCM | None = None
        self._prefix = b""
        self._counter = 0
        self._done = False
        self.meta: bytes | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more of the sealed body; gives what of the plain body has become readable."""
        self._buffer += data
        return self._open()

    def finish(self) -> None:
        """Everything was fed. Raises MalformedError when the end is missing."""
        for _ in self._open():  # what a caller did not draw from `feed` is not the body's end either
            raise MalformedError("sealed body: the caller left records unread")
        if not self._done:
            raise MalformedError(f"sealed body: truncated after {self._counter} records")

    def _open(self) -> Iterator[bytes]:
        if self._cipher is None and not self._open_head():
            return
        while (record := self._next()) is not None:
            if self.meta is None:
                self.meta = record
            else:
                yield record
        if self._done and self._buffer:
            raise MalformedError(f"sealed body: {len(self._buffer)} bytes follow the last record, expected none")

    def _open_head(self) -> bool:
        """Read magic and key, once they are there."""
        start = len(MAGIC) + 2
        if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
            raise MalformedError("sealed body: expected one that begins with ENSEAL1")
        if len(self._buffer) < start:
            return False
        size = int.from_bytes(self._buffer[len(MAGIC) : start], "big")
        if size != _ENVELOPE_SIZE:
            raise MalformedError(f"sealed body: HPKE output: expected {_ENVELOPE_SIZE} bytes, found {size}")
        if len(self._buffer) < start + size:
            return False
        opened = self._private.decrypt(bytes(self._buffer[start : start + size]), self._info)
        del self._buffer[: start + size]
        self._cipher, self._prefix = AESGCM(opened[:_KEY_SIZE]), opened[_KEY_SIZE:]
        return True

    def _next(self) -> bytes | None:
        """The plaintext of the next record, or None when it is not there yet or the last one was."""
        if self._done or self._cipher is None or len(self._buffer) < 4:
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        least = TAG if self.meta is None else TAG + 1  # an empty record carries nothing, so it has no place in a body
        if not least <= size <= RECORD + TAG:
            raise MalformedError(f"sealed body: record: expected {least} to {RECORD + TAG} bytes, found {size}")
        if len(self._buffer) < 4 + size:
            return None
        record = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return self._decrypt(self._cipher, record)

    def _decrypt(self, cipher: AESGCM, record: bytes) -> bytes:
        nonce = _nonce(self._prefix, self._counter)
        self._counter += 1
        for mark in (_MORE, _LAST):
            try:
                plain = cipher.decrypt(nonce, record, mark)
            except InvalidTag:
                continue
            self._done = mark == _LAST
            return plain
        raise UntrustedError(f"sealed body: record {self._counter - 1} is not authentic, or not in its place")


def _records(head: bytes, cipher: AESGCM, prefix: bytes, meta: bytes, body: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    waiting, counter = meta, 0
    for piece in _pieces(body):
        yield _record(cipher, prefix, counter, waiting, _MORE)
        waiting, counter = piece, counter + 1
    yield _record(cipher, prefix, counter, waiting, _LAST)


def _record(cipher: AESGCM, prefix: bytes, counter: int, plain: bytes, mark: bytes) -> bytes:
    sealed = cipher.encrypt(_nonce(prefix, counter), plain, mark)
    return len(sealed).to_bytes(4, "big") + sealed


def _nonce(prefix: bytes, counter: int) -> bytes:
    if counter >= MAX_RECORDS:
        raise MalformedError(f"sealed body: expected at most {MAX_RECORDS} records")
    return prefix + counter.to_bytes(4, "big")


def _pieces(body: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in full records, the last one shorter."""
    buffer = bytearray()
    for chunk in body:
        buffer += chunk
        start = 0
        while len(buffer) - start >= RECORD:
            yield bytes(buffer[start : start + RECORD])
            start += RECORD
        del buffer[:start]
    if buffer:
        yield bytes(buffer)


def _info(leaf: bytes, workload: Digest, path: str) -> bytes:
    if workload.algorithm != "sha-256":
        raise MalformedError(f"sealed body: workload digest: expected sha-256, found {workload.algorithm}")
    return INFO + sha256(leaf).digest() + workload.value + path.encode()


def _public_key(key: SealingKey) -> hpke.MLKEM768X25519PublicKey:
    if key.kem != MLKEM768_X25519:
        raise MalformedError(f"sealing key: expected KEM 0x{MLKEM768_X25519:04x}, found 0x{key.kem:04x}")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(key.key[:_MLKEM768_SIZE])
        return hpke.MLKEM768X25519PublicKey(mlkem, X25519PublicKey.from_public_bytes(key.key[_MLKEM768_SIZE:]))
    except ValueError as error:
        raise MalformedError("sealing key: not an ML-KEM-768 key followed by an X25519 key") from error
