"""Bodies: the small ones of users, repositories and tags. What is there by a name stays.

A body is kept as received if the digests are of the bytes as received, as its canonical form if the digests are of
that; nothing else is accepted. The same again is fine, anything else by that name is a ConflictError.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from threading import Lock
from typing import Final

from enarx.digest import Digests, hash_bytes
from enarx.drawbridge.content import require
from enarx.drawbridge.records import Records
from enarx.drawbridge.registry.stored import Outcome, Stored, said, stored_body
from enarx.drawbridge.store.api import Item, Key, Store
from enarx.drawbridge.tree import Meta
from enarx.errors import ConflictError, MalformedError, NotFoundError

MAX_RECORD_BODY: Final = 10_000  # bytes of a user's or a repository's record; they have one member each

_CACHED: Final = 4096  # bodies; a few megabytes


class Bodies:
    """Bodies in a store. They cannot change, so those that were read are remembered while their object is the same."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._records = Records(store)
        self._held: OrderedDict[Key, tuple[Item, Stored]] = OrderedDict()
        self._lock = Lock()

    def create(self, key: Key, body: bytes, meta: Meta, by: str) -> Outcome:
        """Raises ConflictError when there is another."""
        try:
            self._records.create(key, {**said(self._now(), by), "meta": meta.to_json(), "body": text_of(body)})
        except ConflictError:
            existing = stored_body(key, self._records.read(key))
            if existing.body == body or existing.meta.mismatch(meta) is None:
                return Outcome.EXISTS
            raise ConflictError("Already exists") from None
        return Outcome.CREATED

    def read(self, key: Key, what: str) -> Stored:
        """Raises NotFoundError when there is none."""
        item = self._store.stat(key)
        with self._lock:
            found = self._held.get(key)
            if found is not None and found[0] == item:
                self._held.move_to_end(key)
                return found[1]
        values = self._records.find(key)
        if values is None:
            raise NotFoundError(f"{what}: there is none")
        stored = stored_body(key, values)
        if item is not None:
            with self._lock:
                self._held[key] = (item, stored)
                if len(self._held) > _CACHED:
                    self._held.popitem(last=False)
        return stored


def require_there(store: Store, key: Key, what: str) -> None:
    """Raises NotFoundError for a parent that is missing."""
    if store.stat(key) is None:
        raise NotFoundError(f"{what}: there is none")


def choose(received: bytes, encoded: bytes, meta: Meta) -> tuple[bytes, Meta]:
    """The bytes that the digests are of, and what is said about those. Without digests, the canonical ones."""
    if not meta.digests:
        return encoded, Meta(digests=Digests.of(encoded), length=len(encoded), media_type=meta.media_type)
    for body in (encoded, received):
        if all(hash_bytes(name, body) == value for name, value in meta.digests.items()):
            if meta.length not in {len(received), len(body)}:
                require(meta.digests, meta.length, meta.digests, len(body))
            return body, Meta(digests=meta.digests, length=len(body), media_type=meta.media_type)
    require(meta.digests, meta.length, Digests.of(received), len(received))
    raise AssertionError  # one of the digests is not that of the bytes received


def require_digest(meta: Meta) -> None:
    if not meta.digests:
        raise MalformedError("At least one content digest value must be specified")


def bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise MalformedError(f"body: expected at most {limit} bytes, found {len(body)}")
    return body


def text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"body: expected UTF-8, found another byte at {error.start}") from error
