"""Pieces: a BLAKE3 digest of each 128 KiB of long content, so that reading a part costs no more than that part.

They are written beside the blob while its SHA-256 is compared on the way in, one record for 256 MiB, and everything
that is read is compared with them before it leaves. Whether they may be believed is another question, for whoever can
write to the storage can change the blob and make its record anew. The SHA-256 decides it:

  1  a list of pieces is *known* when this process saw the bytes that it is of, all of them, and their SHA-256 was right:
     on the way in, or in a reading of the whole. Content and its pieces have one and the same list, so it stays true
  2  what is known is remembered as the digest of each record's list, in memory alone, where no storage can change it
  3  a list that is known is believed only while it is what is remembered. Bytes that agree with it are the bytes of the
     SHA-256, unless somebody finds a collision of BLAKE3: nothing is left for SHA-256 to say, and it is not asked
  4  a list that is not known finds damage, and is no proof: a reading of the whole is hashed with SHA-256 as well, and its
     last piece is kept back until that was right. Only a range is sent on the word of the record alone, as long as its
     server has not seen the whole; its reader knows the digest of the whole, and that decides
  5  without a list, or with one that is damaged or not what is remembered, the whole is hashed before anything (more)
     leaves; what left before by rule 4 goes on being hashed by it

So a process that begins believes nothing, and hashes each long blob once.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final

from blake3 import blake3

from enarx.digest import Digest
from enarx.drawbridge import layout
from enarx.drawbridge.records import DamagedError, Records, damaged
from enarx.drawbridge.store.api import Store

PIECE: Final = 1 << 17  # bytes that have one digest
SPAN: Final = 1 << 28  # bytes of content that have one record
_SIZE: Final = 32  # bytes of a digest
_REMEMBERED: Final = 4096  # blobs; 32 bytes for every 256 MiB of each

List = bytes  # the digests of the pieces that one record is of, one after the other


def agrees(data: bytes | memoryview, at: int, wanted: List) -> bool:
    """Whether `data`, which begins at the byte `at` of the content, is the pieces that the list of its record says."""
    view, first = memoryview(data), at % SPAN // PIECE
    found = b"".join([blake3(view[begin : begin + PIECE]).digest() for begin in range(0, len(view), PIECE)])
    return found == wanted[first * _SIZE : first * _SIZE + len(found)]


class Lists:
    """The lists of what is in a store, and those that are known."""

    def __init__(self, store: Store) -> None:
        self._records = Records(store)
        self._known: OrderedDict[Digest, tuple[bytes, ...]] = OrderedDict()
        self._lock = Lock()

    def write(self, digest: Digest, lists: Sequence[List]) -> None:
        """Record the lists of content whose bytes had this digest."""
        for number, one in enumerate(lists):
            self._records.replace(layout.number(layout.pieces(digest), number), {"blake3": one.hex()})
        self.learn(digest, lists)

    def learn(self, digest: Digest, lists: Sequence[List]) -> None:
        """Rule 1: the bytes had this digest."""
        with self._lock:
            self._known[digest] = tuple(blake3(one).digest() for one in lists)
            self._known.move_to_end(digest)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def known(self, digest: Digest) -> tuple[bytes, ...] | None:
        """The digests of its lists."""
        with self._lock:
            return self._known.get(digest)

    def find(self, digest: Digest, length: int, number: int) -> List | None:
        """What is recorded, unless it is not what is known; None when there is nothing to rely on, and the log says why."""
        key, known = layout.number(layout.pieces(digest), number), self.known(digest)
        try:
            values = self._records.find(key)
            if values is None:
                return None
            found = bytes.fromhex(str(values.get("blake3")))
            if len(found) != _SIZE * -(-min(SPAN, length - number * SPAN) // PIECE):
                raise damaged(key, "it is of content of another length")
            if known is not None and blake3(found).digest() != known[number]:
                raise damaged(key, "it is not what it was when the content was hashed")
        except (DamagedError, ValueError):
            return None  # a damaged record is in the log; the content can still be verified as a whole
        return found

    def are_there(self, digest: Digest, length: int) -> bool:
        return all(self.find(digest, length, number) is not None for number in range(-(-length // SPAN)))


class Listing:
    """Makes the lists of what passes."""

    def __init__(self) -> None:
        self._lists = [bytearray()]
        self._hasher = blake3()
        self._filled = 0
        self.length = 0

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self.length += len(view)
        while view:
            part = view[: PIECE - self._filled]
            self._hasher.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == PIECE:
                self._end_piece()

    def lists(self) -> tuple[List, ...]:
        """At the end of the content."""
        if self._filled:
            self._end_piece()
        return tuple(map(bytes, self._lists))

    def _end_piece(self) -> None:
        if len(self._lists[-1]) == SPAN // PIECE * _SIZE:
            self._lists.append(bytearray())
        self._lists[-1] += self._hasher.digest()
        self._hasher, self._filled = blake3(), 0
