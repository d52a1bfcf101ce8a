"""A store in memory: for tests, and for servers that shall forget."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Lock

from enarx.drawbridge.store.api import CHUNK, Item, Key, UploadBase
from enarx.errors import ConflictError, NotFoundError


class MemoryStore:
    """Objects in a dictionary. Nothing is durable, the promise apart."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._objects: dict[Key, tuple[bytes, datetime]] = {}
        self._lock = Lock()
        self._now = now

    def get(self, key: Key, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            data = self._objects[key][0]
        except KeyError:
            raise NotFoundError(f"storage: no object {key}") from None
        end = len(data) if stop is None else min(stop, len(data))
        return (data[at : min(at + CHUNK, end)] for at in range(start, end, CHUNK))

    def stat(self, key: Key) -> Item | None:
        found = self._objects.get(key)
        return None if found is None else Item(key=key, size=len(found[0]), modified=found[1])

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        with self._lock:
            keys = sorted(key for key in self._objects if key.text.startswith(f"{prefix}/"))
        for key in keys:
            item = self.stat(key)
            if item is not None and (after is None or key > after):
                yield item

    def create(self, key: Key, data: bytes) -> None:
        with self._lock:
            if key in self._objects:
                raise ConflictError(f"storage: there is an object {key}")
            self._objects[key] = (data, self._now())

    def upload(self, key: Key | None = None) -> "MemoryUpload":
        del key  # known early is no better here
        return MemoryUpload(self._replace)

    def delete(self, key: Key) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def sweep(self, before: datetime) -> int:
        del before  # a dead writer's bytes died with it
        return 0

    def _replace(self, key: Key, data: bytes) -> None:
        with self._lock:
            self._objects[key] = (data, self._now())


class MemoryUpload(UploadBase):
    """What was written so far."""

    def __init__(self, replace: Callable[[Key, bytes], None]) -> None:
        self._replace = replace
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data

    def commit(self, key: Key) -> None:
        self._replace(key, bytes(self._data))

    def abort(self) -> None:
        self._data = bytearray()
