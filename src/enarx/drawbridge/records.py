"""Records: small JSON objects that say when, by whom and for which key, and notice when they are damaged.

A record is one line with the SHA-256 of the rest, and the rest: canonical JSON, which names its own key. So a record
that a disk garbled, that lost its end, or that was put in the place of another is an error and a line in the log,
never a wrong answer. Somebody who can write to the storage can of course write whole records: what a publisher or a
Keep must not be deceived about is covered by the tree's root digest, which they know.

`Journal` is a sequence of records, numbered from 1 without gaps: appending is creating the next number, which one of
many writers can. The last one is found by doubling, so its cost grows with the logarithm of how many are new.
"""

import hmac
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

from enarx.drawbridge import canonical, layout
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.store.api import Key, Store
from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.web.log import Log

MAX_RECORD: Final = 4_000_000  # bytes; the longest body fits
_ATTEMPTS: Final = 100  # to append while others do

_LOG: Final = Log("drawbridge")


class DamagedError(UnavailableError):
    """What is stored is not what was stored. Nobody is given it."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(f"storage: {key} is damaged: {reason}")
        self.key = key
        self.reason = reason


def damaged(key: Key, reason: str) -> DamagedError:
    """The error to raise; the log has it too, for an operator must learn of it whoever asked."""
    _LOG.warning("damaged", key=str(key), reason=reason)
    return DamagedError(key, reason)


def seal(key: Key, values: Mapping[str, Json]) -> bytes:
    body = canonical.encode({"key": key.text, **values})
    return sha256(body).hexdigest().encode() + b"\n" + body


def unseal(key: Key, data: bytes) -> dict[str, Any]:  # Any: JSON that we wrote; its members are checked by who reads
    """Raises DamagedError when `data` is not what was sealed for that key."""
    digest, _, body = data.partition(b"\n")
    if not hmac.compare_digest(digest, sha256(body).hexdigest().encode()):
        raise damaged(key, "its checksum is wrong")
    try:
        values = canonical.members(canonical.parse(body, "record"), "record")
    except MalformedError as error:
        raise damaged(key, str(error)) from error
    if values.pop("key", None) != key.text:
        raise damaged(key, "it was written for another key")
    return values


class Records:
    """Records in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, key: Key, values: Mapping[str, Json]) -> None:
        """Raises ConflictError when there is one."""
        self._store.create(key, seal(key, values))

    def replace(self, key: Key, values: Mapping[str, Json]) -> None:
        """For records that can be made anew from what they are about."""
        with self._store.upload(key) as upload:
            upload.write(seal(key, values))
            upload.commit(key)

    def read(self, key: Key) -> dict[str, Any]:  # Any: as `unseal`
        """Raises NotFoundError when there is none."""
        data = bytearray()
        for piece in self._store.get(key):
            data += piece
            if len(data) > MAX_RECORD:
                raise damaged(key, f"it has more than {MAX_RECORD} bytes")
        return unseal(key, bytes(data))

    def find(self, key: Key) -> dict[str, Any] | None:  # Any: as `unseal`
        try:
            return self.read(key)
        except NotFoundError:
            return None


class Journal:
    """Numbered records under one prefix."""

    def __init__(self, store: Store, prefix: Key) -> None:
        self._store = store
        self._records = Records(store)
        self._prefix = prefix

    def last(self, known: int = 0) -> int:
        """The highest number; 0 when there is none. `known` is one that was seen to be there: numbers stay."""
        low, high = known, known + 1
        while self._exists(high):
            low, high = high, high + 2 * (high - known)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._exists(middle) else (low, middle)
        return low

    def read(self, number: int) -> dict[str, Any]:  # Any: as `unseal`
        return self._records.read(layout.number(self._prefix, number))

    def create(self, number: int, values: Mapping[str, Json]) -> None:
        """Raises ConflictError when somebody else was faster."""
        self._records.create(layout.number(self._prefix, number), values)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:  # Any: as `unseal`
        number = 1
        while (values := self._records.find(layout.number(self._prefix, number))) is not None:
            yield number, values
            number += 1

    def _exists(self, number: int) -> bool:
        return self._store.stat(layout.number(self._prefix, number)) is not None


def until_it_is_ours(what: str) -> Iterator[int]:
    """Attempts at something of which one of many writers has its way each time."""
    yield from range(_ATTEMPTS)
    raise UnavailableError(f"storage: {what}: others were faster {_ATTEMPTS} times; try again")
