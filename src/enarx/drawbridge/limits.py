"""How much one identity may ask for: requests by the minute, uploaded bytes by the day (`[limits]` of drawbridge.toml).

An identity is a subject of an issuer, a certificate, or, for who proved neither, an address (for IPv6 its /64, which
is what one host gets). A bucket fills steadily and holds the allowance of its whole span, so a burst is fine and a
stream is not. Counts are kept in memory, of each process for itself: several processes allow several times as much.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from enarx.errors import UnavailableError

MAX_KNOWN: Final = 100_000  # identities; the one not seen for longest is forgotten, and begins anew
MINUTE: Final = 60.0
DAY: Final = 86_400.0


class TooManyError(UnavailableError):
    """Come back later. Caught where statuses are given: 429."""

    def __init__(self, what: str, seconds: float) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"Too many {what}; try again in {self.seconds} seconds")


@dataclass(slots=True)
class Buckets:
    """`allowance` units in `span` seconds for each identity."""

    what: str
    allowance: int
    span: float
    clock: Callable[[], float] = time.monotonic
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def take(self, identity: str, units: int = 1) -> None:
        """Raises TooManyError; then nothing was taken."""
        with self._lock:
            now = self.clock()
            level, since = self._levels.get(identity, (float(self.allowance), now))
            level = min(float(self.allowance), level + (now - since) * self.allowance / self.span)
            if units > level:
                raise TooManyError(self.what, min(self.span, (units - level) * self.span / self.allowance))
            self._levels[identity] = (level - units, now)
            self._levels.move_to_end(identity)
            if len(self._levels) > MAX_KNOWN:
                self._levels.popitem(last=False)

    def give_back(self, identity: str, units: int) -> None:
        """What was taken for nothing: an upload that was refused."""
        with self._lock:
            level, since = self._levels.get(identity, (float(self.allowance), self.clock()))
            self._levels[identity] = (min(float(self.allowance), level + units), since)


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
