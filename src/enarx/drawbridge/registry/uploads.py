"""Uploads: a node on its way in, in one request or in several. Nothing is named before all of it was verified."""

from collections.abc import Callable
from typing import Final, Self

from enarx.digest import Digest
from enarx.drawbridge.content import Contents, ContentUpload
from enarx.drawbridge.names import TreePath
from enarx.drawbridge.parts import Parts, PartWriter
from enarx.drawbridge.registry.bodies import choose
from enarx.drawbridge.registry.stored import Outcome
from enarx.drawbridge.tree import MAX_DIRECTORY, Directory, Meta
from enarx.errors import ConflictError, MalformedError

Name = Callable[[Meta, Digest], Outcome]  # gives content that is stored its name in a tree


class NodeUpload:
    """A node on its way in. Files pass through; a listing is held, for it has to be read before it may be stored."""

    def __init__(self, *, contents: Contents, name: Name, path: TreePath, meta: Meta, expected: Meta | None) -> None:
        self._contents = contents
        self._name = name
        self._path = path
        self._meta = meta
        self._expected = expected
        self._listing = bytearray() if meta.is_directory else None
        self._content: ContentUpload | None = None
        if self._listing is None:
            self._content = contents.upload(meta.digests, meta.length)

    def look(self, data: bytes | memoryview) -> None:
        """See what will be written (`ContentUpload.look`)."""
        if self._content is not None:
            self._content.look(data)

    def write(self, data: bytes | memoryview) -> None:
        """Raises MalformedError as soon as there is too much."""
        if self._content is not None:
            self._content.write(data)
        elif self._listing is not None:
            self._listing += data
            if len(self._listing) > MAX_DIRECTORY:
                raise MalformedError(f"directory: expected at most {MAX_DIRECTORY} bytes, found more")

    def finish(self) -> Outcome:
        """Verify, make durable, then visible. Raises MalformedError or ConflictError; then nothing is visible."""
        with self:
            if self._content is not None:
                digest, meta = self._content.commit(), self._meta
            else:
                digest, meta = self._finish_listing(bytes(self._listing or b""))
            return self._name(meta, digest)

    def _finish_listing(self, body: bytes) -> tuple[Digest, Meta]:
        stored, meta = choose(body, Directory.parse(body).encode(), self._meta)
        if self._expected is not None and (found := self._expected.mismatch(meta)):
            raise MalformedError(f"Content digest mismatch: {self._path or 'root'}: its parent says otherwise: {found}")
        return self._contents.put(stored), meta

    def abort(self) -> None:
        if self._content is not None:
            self._content.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


class ResumableUpload:
    """A node that arrives in several requests.

    upload = registry.trees.resume(…)
    with upload.append(upload.offset, size) as writer:    # keeps what was written, whatever happens
        writer.write(…)
    if upload.is_complete:
        upload.finish()                             # as that of NodeUpload
    """

    def __init__(self, *, parts: Parts, upload: str, meta: Meta, begin: Callable[[], NodeUpload]) -> None:
        self._parts = parts
        self._id = upload
        self._begin = begin
        self.length: Final = meta.length

    @property
    def offset(self) -> int:
        """How many bytes have arrived and are durable."""
        return self._parts.offset(self._id)

    @property
    def is_complete(self) -> bool:
        return self.offset == self.length

    def append(self, offset: int, size: int) -> PartWriter:
        """Begin to append `size` bytes. Raises ConflictError when `offset` is not where to go on."""
        if offset + size > self.length:
            raise MalformedError(f"Content length mismatch: expected {self.length} bytes, found more")
        return self._parts.append(self._id, offset)

    def finish(self) -> Outcome:
        """Verify the whole and publish it. When it is not what was declared, what has arrived is forgotten."""
        if not self.is_complete:
            raise ConflictError(f"upload: expected {self.length} bytes to have arrived, found {self.offset}")
        with self._begin() as node:
            try:
                for data in self._parts.read(self._id):
                    node.write(data)
                outcome = node.finish()
            except MalformedError:
                self._parts.drop(self._id)
                raise
        self._parts.drop(self._id)
        return outcome
