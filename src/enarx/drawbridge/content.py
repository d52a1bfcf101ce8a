"""Content: bytes under the digest of themselves, verified on the way in and again on the way out.

In:  an upload is hashed as it streams, compared with every digest and the length that were declared, and only then
     committed. The key is its SHA-256, so content is stored once however many trees have it, and storing it again
     repairs it.
Out: bytes are compared before they are handed on. Short content is compared with its digest. Longer content is compared
     piece by piece with the list of its pieces, and as a whole with its digest wherever that list does not follow from
     the digest (`pieces` has the rules).
What does not compare raises DamagedError, and the log says which object.
"""

from collections.abc import Iterator
from typing import Final, Self, cast

from enarx.digest import Digest, Digests, Hasher, HashName
from enarx.drawbridge import layout
from enarx.drawbridge.pieces import PIECE, SPAN, List, Listing, Lists, agrees
from enarx.drawbridge.records import damaged
from enarx.drawbridge.store.api import Prompt, Store
from enarx.errors import MalformedError, NotFoundError

SHORT: Final = 1 << 18  # bytes that are read and hashed at once, and have no list of pieces
MAX_CONTENT: Final = 200_000_000_000  # bytes of one file: whoever verifies it has to read it all
ALWAYS: Final[HashName] = "sha-256"


class Contents:
    """Blobs in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lists = Lists(store)

    def upload(self, digests: Digests, length: int) -> "ContentUpload":
        """Begin to store content that must have exactly these digests and this length."""
        return ContentUpload(self._store, self._lists, digests, length)

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
        if length <= SHORT:
            return self._short(digest, start, end)
        return _Reading(self, self._store, self._lists, digest, length, start, end)

    def verify(self, digest: Digest, digests: Digests, length: int) -> tuple[List, ...]:
        """Hash what is stored. Raises DamagedError when it is missing or not the bytes of `digest` and `digests`.

        What comes back are the lists of its pieces, and they are known now.
        """
        key = layout.blob(digest)
        hasher, listing = Hasher({ALWAYS, *digests}), Listing()
        try:
            for data in self._store.get(key):
                hasher.update(data)
                listing.update(data)
        except NotFoundError as error:
            raise damaged(key, "it is missing") from error
        found = hasher.digests()
        if hasher.length != length or found[ALWAYS] != digest.value or (digests and not found.agrees(digests)):
            raise damaged(key, f"expected {length} bytes of {digest}, found {hasher.length} of {found.header()}")
        lists = listing.lists()
        self._lists.learn(digest, lists)
        return lists

    def list_pieces(self, digest: Digest, length: int) -> None:
        """Make the lists of its pieces anew. Raises DamagedError when it is not what it was."""
        self._lists.write(digest, self.verify(digest, Digests(), length))

    def has_lists(self, digest: Digest, length: int) -> bool:
        return length <= SHORT or self._lists.are_there(digest, length)

    def _short(self, digest: Digest, start: int, end: int) -> Iterator[bytes]:
        key = layout.blob(digest)
        data = b"".join(self._store.get(key))
        if not digest.matches(data):
            raise damaged(key, "its content has another digest")
        return iter((data[start:end],) if start < end else ())


class _Reading(Iterator[bytes]):
    """Long content on its way out, whole pieces at a time. The numbers are the rules in `pieces`."""

    def __init__(
        self, contents: Contents, store: Store, lists: Lists, digest: Digest, length: int, start: int, end: int
    ) -> None:
        self._contents = contents
        self._lists = lists
        self._digest = digest
        self._key = layout.blob(digest)
        self._length = length
        self._start, self._end = start, end
        self._at = start - start % PIECE
        self._stop = min(-(-end // PIECE) * PIECE, length)
        self._source = store.get(self._key, self._at, self._stop)
        self._held = bytearray()  # less than a piece
        self._list: tuple[int, List] | None = None  # of the pieces that come now
        self._made: tuple[List, ...] | None = None  # by rule 5
        is_proof = lists.known(digest) is None and (start, end) == (0, length)
        self._hasher = Hasher({ALWAYS}) if is_proof else None  # rule 4
        self._passed: list[List] = []

    def __next__(self) -> bytes:
        while self._at < self._stop:
            data = next(self._source, None)
            if data is None:
                raise damaged(self._key, f"it ends at {self._at + len(self._held)}, expected {self._stop}")
            if whole := self._whole(data):
                return self._compared(whole)
        raise StopIteration

    def now(self) -> bytes | None:
        """What can be had, and compared, without waiting for a device and without hashing for long."""
        is_slow = self._hasher is not None or self._list is None or self._list[0] != self._at // SPAN or self._held
        if is_slow or self._at >= self._stop or not isinstance(self._source, Prompt):
            return None
        data = self._source.now()
        return None if data is None or not (whole := self._whole(data)) else self._compared(whole)

    def _whole(self, data: bytes) -> bytes:
        """As many whole pieces as there are in what was held and `data`; the rest is held."""
        if not self._held and (len(data) % PIECE == 0 or self._at + len(data) == self._stop):
            return data
        self._held += data
        is_end = self._at + len(self._held) == self._stop
        size = len(self._held) if is_end else len(self._held) - len(self._held) % PIECE
        whole = bytes(self._held[:size])
        del self._held[:size]
        return whole

    def _compared(self, data: bytes) -> bytes:
        at, view = self._at, memoryview(data)
        while self._at < at + len(data):
            part = view[self._at - at : SPAN - self._at % SPAN + self._at - at]
            if not agrees(part, self._at, self._list_of(self._at // SPAN)):
                raise damaged(self._key, f"what is at {self._at} has another digest")
            self._at += len(part)
        if self._hasher is not None:
            self._hasher.update(data)
            if self._at == self._length:
                self._prove(self._hasher)
        if at < self._start or self._at > self._end:
            view = view[max(self._start - at, 0) : self._end - at]
        return cast("bytes", view)  # as good as bytes

    def _prove(self, hasher: Hasher) -> None:
        """Rules 4 and 1."""
        if hasher.digests()[ALWAYS] != self._digest.value:
            raise damaged(self._key, "its content has another digest")
        self._lists.learn(self._digest, self._passed)

    def _list_of(self, number: int) -> List:
        if self._list is None or self._list[0] != number:
            self._list = number, self._find_list(number)
        return self._list[1]

    def _find_list(self, number: int) -> List:
        found = None if self._made is not None else self._lists.find(self._digest, self._length, number)
        if found is None:
            found = self._made_anew()[number]
        self._passed.append(found)
        return found

    def _made_anew(self) -> tuple[List, ...]:
        if self._made is None:
            self._made = self._contents.verify(self._digest, Digests(), self._length)  # rule 5
            if not self._passed:
                self._hasher = None  # all that leaves agrees with these; what left before does not follow from them
        return self._made


class ContentUpload:
    """Content on its way in."""

    def __init__(self, store: Store, lists: Lists, digests: Digests, length: int) -> None:
        if length > MAX_CONTENT:
            raise MalformedError(f"Content length: expected at most {MAX_CONTENT} bytes, found {length}")
        known = digests.get(ALWAYS)
        self._expected = digests
        self._length = length
        self._hasher = Hasher({ALWAYS, *digests})
        self._listing = Listing() if length > SHORT else None
        self._lists = lists
        self._upload = store.upload(layout.blob(Digest(algorithm=ALWAYS, value=known)) if known else None)

    def look(self, data: bytes | memoryview) -> None:
        """See what will be written: its pieces are hashed by whoever calls this, and no more by who writes it.

        So two threads share the work. Each must call in the order of the bytes.
        """
        if self._listing is not None:
            self._listing.update(data)

    def write(self, data: bytes | memoryview) -> None:
        """Raises MalformedError as soon as there is more than was declared."""
        if self._hasher.length + len(data) > self._length:
            raise MalformedError(f"Content length mismatch: expected {self._length} bytes, found more")
        if self._listing is not None and self._listing.length == self._hasher.length:
            self._listing.update(data)
        self._hasher.update(data)
        self._upload.write(data)

    def commit(self) -> Digest:
        """Compare, and store. Raises MalformedError when it is not what was declared; then nothing is stored."""
        found = self._hasher.digests()
        require(self._expected, self._length, found, self._hasher.length)
        digest = Digest(algorithm=ALWAYS, value=found[ALWAYS])
        if self._listing is not None:
            self._lists.write(digest, self._listing.lists())
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


def _only(digests: Digests, name: HashName) -> str:
    return Digests([Digest(algorithm=name, value=digests[name])]).header()
