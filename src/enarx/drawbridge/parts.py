"""Parts: what has arrived of an upload that broke off, kept until the rest comes or `gc` gives up on it.

An upload has an id that follows from what is uploaded, so whoever comes back, with another process and after
another server answers, finds what is there by asking for the same. Its bytes lie in parts, each durable once it is
whole, each under the offset where it begins; the chain from offset 0 is what has arrived. Bytes that a broken
connection brought are kept too. Two who append at one offset do no harm: one of their parts stays, the chain goes on
from its end, and the digests of the whole decide in the end.
"""

from collections.abc import Iterator
from typing import Final, Self

from enarx.drawbridge import layout
from enarx.drawbridge.store.api import Store, Upload
from enarx.errors import ConflictError

PART: Final = 8 << 20  # bytes after which what has arrived is made durable


class Parts:
    """Unfinished uploads in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def offset(self, upload: str) -> int:
        """How many bytes have arrived."""
        return self._chain(upload)[1]

    def append(self, upload: str, offset: int) -> "PartWriter":
        """Begin to append. Raises ConflictError when `offset` is not how many bytes have arrived."""
        arrived = self.offset(upload)
        if offset != arrived:
            raise ConflictError(f"upload: expected to go on at {arrived}, found {offset}")
        return PartWriter(self._store, upload, offset)

    def read(self, upload: str) -> Iterator[bytes]:
        """What has arrived, from the beginning."""
        for offset in self._chain(upload)[0]:
            yield from self._store.get(layout.part(upload, offset))

    def drop(self, upload: str) -> None:
        for item in list(self._store.list(layout.PARTS / upload)):
            self._store.delete(item.key)

    def _chain(self, upload: str) -> tuple[list[int], int]:
        sizes = {int(item.key.name): item.size for item in self._store.list(layout.PARTS / upload)}
        offsets, end = [], 0
        while sizes.get(end):
            offsets.append(end)
            end += sizes[end]
        return offsets, end


class PartWriter:
    """Appends to an upload, part by part. Leaving it as a context keeps what was written."""

    def __init__(self, store: Store, upload: str, offset: int) -> None:
        self._store = store
        self._id = upload
        self._begin = self.offset = offset
        self._part: Upload | None = None

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            piece = view[: PART - (self.offset - self._begin)]
            self._part = self._part or self._store.upload(layout.part(self._id, self._begin))
            self._part.write(piece)
            self.offset += len(piece)
            view = view[len(piece) :]
            if self.offset - self._begin == PART:
                self.keep()

    def keep(self) -> None:
        """Make what was written durable."""
        if self._part is not None:
            part, self._part = self._part, None
            with part:
                part.commit(layout.part(self._id, self._begin))
        self._begin = self.offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep()
