"""What Drawbridge needs of a place to keep bytes: few verbs, and hard promises.

    get      the bytes of an object, or a range of them, as they stream
    stat     how large an object is, and since when; None when there is none
    list     the objects under a prefix
    create   a small object, if there is none by that key, in one step: one of many writers wins, the rest learn of it
    upload   an object of any size for a key that its content decides: it appears whole when committed, or never
    delete   for `gc` alone; nothing that anybody can name is ever deleted
    sweep    what writers that died left behind where nobody sees it

An object that was created or committed is durable when the call returns, and is never seen in part. `create` is the
only coordination there is: several processes on several machines need no other. Digests, parents and access are
checked above, in the registry, so that no storage can forget them; storages are dumb.

A storage raises UnavailableError for whatever its device or its network refuses (full, unreadable, unreachable),
NotFoundError and ConflictError as told below, and nothing else.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol, Self, runtime_checkable

from enarx.errors import MalformedError

MAX_KEY: Final = 1000  # characters; S3 allows 1024 bytes, prefix of the operator included
CHUNK: Final = 1 << 17  # bytes that pass at once; each of many slow readers makes us hold some of them

_SEGMENT: Final = r"[0-9A-Za-z_+-][0-9A-Za-z_+.-]{0,254}"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Where an object is: segments joined by `/`. No segment climbs, hides or is empty; no key is above another."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_KEY or not _KEY.fullmatch(self.text):
            raise MalformedError(f"storage key: {self.text[:100]!r} is none")

    @classmethod
    def of(cls, *segments: str) -> Self:
        return cls("/".join(segments))

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.text.split("/"))

    @property
    def name(self) -> str:
        """The last segment."""
        return self.text.rpartition("/")[2]

    def __truediv__(self, segment: str) -> "Key":
        return Key(f"{self.text}/{segment}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An object as a listing shows it."""

    key: Key
    size: int
    modified: datetime  # by the clock of the storage


@runtime_checkable
class Prompt(Protocol):
    """An iterator of pieces that knows whether the next one is at hand."""

    def now(self) -> bytes | None:
        """The next piece, if it takes no waiting; None when `next` has to be asked, from a thread that may wait."""
        ...


class Upload(Protocol):
    """A write that commits or vanishes. Leaving it as a context without `commit` aborts it."""

    def write(self, data: bytes | memoryview) -> None:
        """Append. Nothing is visible yet."""
        ...

    def commit(self, key: Key) -> None:
        """Make what was written durable, then visible as `key`. What was there before, by its name the same, goes."""
        ...

    def abort(self) -> None:
        """Forget it. After `commit`, or a second time, this does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """A place to keep bytes. Everything may be called from several threads and several processes at once."""

    def get(self, key: Key, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, in pieces of at most CHUNK. The iterator may be Prompt.

        Raises NotFoundError at once, not when the iteration begins.
        """
        ...

    def stat(self, key: Key) -> Item | None: ...

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        """What is under `prefix`, at any depth, in the order of keys as text.

        `after` leaves out what comes up to that key, which is an object's, there or not; segments between it and
        `prefix` have letters and digits alone, for services differ in what sorts before a slash. An object that is created or deleted meanwhile may be missing or
        not; every other is there.
        """
        ...

    def create(self, key: Key, data: bytes) -> None:
        """Raises ConflictError when there is an object by that key, whatever it holds."""
        ...

    def upload(self, key: Key | None = None) -> Upload:
        """Begin to write. `key` is what it will be committed as, if that is known already: some storages like to."""
        ...

    def delete(self, key: Key) -> None:
        """Remove an object; that there is none is no error."""
        ...

    def sweep(self, before: datetime) -> int:
        """Remove what dead writers left behind, if it is older than `before`; how many there were."""
        ...


class UploadBase(ABC):
    """The context of an upload, the same for every storage: whatever is not committed is aborted at its end."""

    @abstractmethod
    def abort(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
