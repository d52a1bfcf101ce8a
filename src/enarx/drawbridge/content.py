"""Content: bytes under the digest of themselves, verified on the way in and again on the way out.

In:  an upload is hashed as it streams, compared with every digest and the length that were declared, and only then
     committed. The key is its SHA-256, so content is stored once however many trees have it, and storing it again
     repairs it.
Out: bytes are compared before they are handed on. Content of one piece is compared with its digest. Longer content has
     a record of the CRC-32 of each piece (`sums/`), so a range costs no more than its pieces; a reading from the
     first to the last byte is hashed as well, every time, and its last piece is kept back until the digest was right.
     Where the record is missing, the whole is hashed before the first byte leaves.
What does not compare raises DamagedError, and the log says which object.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Self

from isal.isal_zlib import crc32, crc32_combine

from enarx.digest import Digest, Digests, Hasher, HashName
from enarx.drawbridge import layout
from enarx.drawbridge.records import DamagedError, Records, damaged
from enarx.drawbridge.store.api import Key, Store
from enarx.errors import MalformedError, NotFoundError

PIECE: Final = 1 << 19  # bytes that have one checksum
MAX_CONTENT: Final = 200_000_000_000  # bytes of one file: the record of its checksums stays within MAX_RECORD
ALWAYS: Final[HashName] = "sha-256"


class Contents:
    """Blobs in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = Records(store)

    def upload(self, digests: Digests, length: int) -> "ContentUpload":
        """Begin to store content that must have exactly these digests and this length."""
        return ContentUpload(self._store, digests, length)

    def put(self, data: bytes) -> Digest:
        """Store what is in memory and verified already."""
        with self.upload(Digests(), len(data)) as upload:
            upload.write(data)
            return upload.commit()

    def exists(self, digest: Digest, length: int) -> bool:
        found = self._store.stat(layout.blob(digest))
        return found is not None and found.size == length

    def read(self, digest: Digest, length: int, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, each compared before it is handed on.

        Raises DamagedError at once when the object is missing or has another length, and later when a piece is wrong:
        then the iteration ends before it.
        """
        key = layout.blob(digest)
        found = self._store.stat(key)
        if found is None:
            raise damaged(key, "it is missing")
        if found.size != length:
            raise damaged(key, f"expected {length} bytes, found {found.size}")
        end = length if stop is None else min(stop, length)
        if length <= PIECE:
            return self._small(digest, start, end)
        if self._sums(digest, length) is None:
            self.verify(digest, Digests(), length)
        return self._pieces(key, digest, length, start, end)

    def verify(self, digest: Digest, digests: Digests, length: int) -> None:
        """Hash what is stored. Raises DamagedError when it is missing or not the bytes of `digest` and `digests`."""
        key = layout.blob(digest)
        hasher = Hasher({ALWAYS, *digests})
        try:
            for data in self._store.get(key):
                hasher.update(data)
        except NotFoundError as error:
            raise damaged(key, "it is missing") from error
        found = hasher.digests()
        if hasher.length != length or found[ALWAYS] != digest.value or (digests and not found.agrees(digests)):
            raise damaged(key, f"expected {length} bytes of {digest}, found {hasher.length} of {found.header()}")

    def rebuild_sums(self, digest: Digest) -> None:
        """Make the record of the pieces anew, from content that was verified."""
        sums = _Sums()
        for data in self._store.get(layout.blob(digest)):
            sums.update(data)
        self._records.replace(layout.sums(digest), sums.values())

    def has_sums(self, digest: Digest, length: int) -> bool:
        return length <= PIECE or self._sums(digest, length) is not None

    def _small(self, digest: Digest, start: int, end: int) -> Iterator[bytes]:
        key = layout.blob(digest)
        data = b"".join(self._store.get(key))
        if not digest.matches(data):
            raise damaged(key, "its content has another digest")
        return iter((data[start:end],) if start < end else ())

    def _pieces(self, key: Key, digest: Digest, length: int, start: int, end: int) -> Iterator[bytes]:
        sums = self._sums(digest, length)
        hasher = Hasher({ALWAYS}) if (start, end) == (0, length) else None
        first = start - start % PIECE
        last = min(-(-end // PIECE) * PIECE, length)
        reached = first
        for at, data in _exactly(self._store.get(key, first, last), first, last):
            if sums is not None and crc32(data) != _joined(sums, at, len(data)):
                raise damaged(key, f"what is at {at} has another checksum")
            if hasher is not None:
                hasher.update(data)
                if hasher.length == length and hasher.digests()[ALWAYS] != digest.value:
                    raise damaged(key, "its content has another digest")
            reached = at + len(data)
            yield data[max(start - at, 0) : end - at]
        if reached != last:
            raise damaged(key, f"it ends at {reached}, expected {last}")

    def _sums(self, digest: Digest, length: int) -> tuple[int, ...] | None:
        try:
            values = self._records.find(layout.sums(digest))
        except DamagedError:
            return None  # it is in the log; the content can still be verified as a whole
        text = "" if values is None else values.get("crc32", "")
        if not isinstance(text, str) or len(text) != 8 * -(-length // PIECE):
            return None
        return tuple(int(text[at : at + 8], 16) for at in range(0, len(text), 8))


class ContentUpload:
    """Content on its way in."""

    def __init__(self, store: Store, digests: Digests, length: int) -> None:
        if length > MAX_CONTENT:
            raise MalformedError(f"Content length: expected at most {MAX_CONTENT} bytes, found {length}")
        known = digests.get(ALWAYS)
        self._expected = digests
        self._length = length
        self._hasher = Hasher({ALWAYS, *digests})
        self._sums = _Sums()
        self._store = store
        self._upload = store.upload(layout.blob(Digest(algorithm=ALWAYS, value=known)) if known else None)

    def write(self, data: bytes | memoryview) -> None:
        """Raises MalformedError as soon as there is more than was declared."""
        if self._hasher.length + len(data) > self._length:
            raise MalformedError(f"Content length mismatch: expected {self._length} bytes, found more")
        self._hasher.update(data)
        self._sums.update(data)
        self._upload.write(data)

    def commit(self) -> Digest:
        """Compare, and store. Raises MalformedError when it is not what was declared; then nothing is stored."""
        found = self._hasher.digests()
        require(self._expected, self._length, found, self._hasher.length)
        digest = Digest(algorithm=ALWAYS, value=found[ALWAYS])
        if self._length > PIECE:
            Records(self._store).replace(layout.sums(digest), self._sums.values())
        self._upload.commit(layout.blob(digest))
        return digest

    def abort(self) -> None:
        self._upload.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def require(expected: Digests, length: int, found: Digests, found_length: int) -> None:
    """Every digest that was declared, then the length, as the originals compare. Raises MalformedError."""
    for name, value in expected.items():
        if found.get(name) != value:
            only = Digests([Digest(algorithm=name, value=value)])
            raise MalformedError(
                f"Content digest mismatch: expected {only.header()}, found {_only(found, name)} of {found_length} bytes"
            )
    if length != found_length:
        raise MalformedError(f"Content length mismatch: expected {length} bytes, found {found_length}")


class _Sums:
    """The CRC-32 of every piece of what passes."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            part = view[: PIECE - self._filled]
            self._crc = crc32(part, self._crc)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == PIECE:
                self._done.append(self._crc)
                self._crc = self._filled = 0

    def values(self) -> dict[str, str]:
        rest = [self._crc] if self._filled else []
        return {"crc32": "".join(f"{crc:08x}" for crc in [*self._done, *rest])}


def _joined(sums: Sequence[int], at: int, size: int) -> int:
    """The CRC-32 of pieces that follow each other, from that of each."""
    found, end = sums[at // PIECE], at + size
    for start in range(at + PIECE, end, PIECE):
        found = crc32_combine(found, sums[start // PIECE], min(PIECE, end - start))
    return found


def _exactly(source: Iterator[bytes], first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """The same bytes, one whole piece or several at once, each with where it begins."""
    held, at = bytearray(), first
    for data in source:
        if not held and (len(data) % PIECE == 0 or at + len(data) == last):
            yield at, data
            at += len(data)
            continue
        held += data
        whole = len(held) - len(held) % PIECE
        if whole:
            yield at, bytes(held[:whole])
            at += whole
            del held[:whole]
    if held:
        yield at, bytes(held)


def _only(digests: Digests, name: HashName) -> str:
    return Digests([Digest(algorithm=name, value=digests[name])]).header()
