"""How many requests one identity may make (`requests_per_minute` of drawbridge.toml).

An identity is a subject of an issuer, a certificate, or, for who proved neither, an address (for IPv6 its /64, which
is what one host gets). A bucket fills steadily and holds the allowance of its whole span, so a burst is fine and a
stream is not. Counts are kept in memory that the worker processes of one server share, and end with it. Several
servers that share a store (`servers`) take their share of the allowance each, so all together allow no more than it.

Identities have no limit, memory has: each has one of WAYS places, and takes that of the one not seen for longest.
Places are found by a keyed hash, so nobody can choose whose place to take.
"""

import fcntl
import ipaddress
import math
import mmap
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from secrets import token_bytes
from threading import Lock
from typing import Final

from enarx.errors import UnavailableError

SETS: Final = 1 << 13
WAYS: Final = 8  # places of a set; 65,536 identities are known at once, in 2 MiB
MINUTE: Final = 60.0

_PLACE: Final = struct.Struct("=16sdd")  # whose, how much is left, and since when


class TooManyError(UnavailableError):
    """Come back later. Caught where statuses are given: 429."""

    def __init__(self, what: str, seconds: float) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"Too many {what}; try again in {self.seconds} seconds")


class Buckets:
    """`allowance` units in `span` seconds for each identity. Children that are forked afterwards count together."""

    def __init__(
        self,
        what: str,
        allowance: float,
        span: float,
        clock: Callable[[], float] = time.monotonic,  # one for all processes of a machine
        *,
        sets: int = SETS,
    ) -> None:
        self._what = what
        self._allowance = allowance
        self._span = span
        self._clock = clock
        self._sets = sets
        self._key = token_bytes(32)
        self._places = mmap.mmap(-1, sets * WAYS * _PLACE.size)  # anonymous: children share it
        self._between_processes, name = tempfile.mkstemp()  # nothing is in it
        os.unlink(name)  # noqa: PTH108 - as it came
        weakref.finalize(self, os.close, self._between_processes)
        self._between_threads = Lock()

    def take(self, identity: str, units: int = 1) -> None:
        """Raises TooManyError; then nothing was taken."""
        name = blake2b(identity.encode(), digest_size=16, key=self._key).digest()
        begin = int.from_bytes(name[:8], "big") % self._sets
        with self._alone(begin):
            now = self._clock()
            offset, level = self._find(name, begin * WAYS * _PLACE.size, now)
            if units > level:
                wait = (units - level) * self._span / self._allowance
                raise TooManyError(self._what, min(self._span, wait))
            _PLACE.pack_into(self._places, offset, name, level - units, now)

    def _find(self, name: bytes, begin: int, now: float) -> tuple[int, float]:
        """The place of an identity, or the one that it takes, and what it has left."""
        oldest, oldest_since = begin, math.inf
        for offset in range(begin, begin + WAYS * _PLACE.size, _PLACE.size):
            whose, level, since = _PLACE.unpack_from(self._places, offset)
            if whose == name:
                filled = max(0.0, now - since) * self._allowance / self._span
                return offset, min(self._allowance, level + filled)
            if since < oldest_since:
                oldest, oldest_since = offset, since
        return oldest, self._allowance

    @contextmanager
    def _alone(self, place: int) -> Iterator[None]:
        """Of all threads of all processes. The kernel lets go of what a process held that dies."""
        with self._between_threads:
            fcntl.lockf(self._between_processes, fcntl.LOCK_EX, 1, place)
            try:
                yield
            finally:
                fcntl.lockf(self._between_processes, fcntl.LOCK_UN, 1, place)


def address_identity(client: str | None) -> str:
    """Who is asking, as far as an address can tell."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return "address:unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"address:{address.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((int(address) >> 64 << 64, 64))}"
    return f"address:{address}"
