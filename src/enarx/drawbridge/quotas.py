"""How much one identity may upload (`upload_bytes_per_day` of drawbridge.toml), however many servers share the store.

The level of each identity is in the store: a journal of what was taken from it, each entry with what was left and
when; it fills steadily, the allowance in a day, and holds no more than that. A process takes a lot at once, a SHARE of
the allowance or what one upload needs, and counts it down in memory, so an upload costs no entry of its own. All
processes together never let through more than the allowance. What a process took and does not use is lost to its
identity for the day: at most a SHARE for each process.

A journal is of one day (UTC), so its entries are few, and `upkeep.gc` removes the days that count no more. Servers
whose clocks differ may forget what one of them takes in the seconds around midnight.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Lock
from typing import Final

from enarx.drawbridge import canonical, layout
from enarx.drawbridge.limits import TooManyError
from enarx.drawbridge.records import Journal, until_it_is_ours
from enarx.drawbridge.store.api import Store
from enarx.errors import ConflictError

SHARES: Final = 64
DAY: Final = timedelta(days=1)
MAX_KNOWN: Final = 100_000  # identities whose lots are remembered; one that is forgotten is lost

_WHAT: Final = "uploaded bytes"


@dataclass(frozen=True, slots=True)
class _Lot:
    left: int
    until: datetime


class Quotas:
    """`allowance` bytes a day for each identity."""

    def __init__(self, store: Store, allowance: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._allowance = allowance
        self._now = now
        self._lots: OrderedDict[str, _Lot] = OrderedDict()
        self._lock = Lock()

    def take(self, identity: str, units: int) -> None:
        """Raises TooManyError; then nothing was taken."""
        missing = self._from_lot(identity, units)
        if not missing:
            return
        left = units - missing  # of the old lot, if there is no new one
        try:
            left = self._from_store(identity, missing) - missing
        finally:
            self._add(identity, left)

    def give_back(self, identity: str, units: int) -> None:
        """What was taken for nothing: an upload that was refused."""
        self._add(identity, units)

    def _from_lot(self, identity: str, units: int) -> int:
        """Take what there is in memory if it is enough; else all of it, and how much is missing."""
        with self._lock:
            lot = self._lots.pop(identity, None)
            left = 0 if lot is None or lot.until <= self._now() else lot.left
            if lot is not None and left > units:
                self._lots[identity] = _Lot(left - units, lot.until)
            return max(0, units - left)

    def _add(self, identity: str, units: int) -> None:
        with self._lock:
            lot = self._lots.pop(identity, _Lot(0, self._now() + DAY))
            self._lots[identity] = _Lot(lot.left + units, lot.until)
            if len(self._lots) > MAX_KNOWN:
                self._lots.popitem(last=False)

    def _from_store(self, identity: str, least: int) -> int:
        """Take a lot of at least so many bytes, and say how many."""
        name = sha256(identity.encode()).hexdigest()
        for _ in until_it_is_ours("quota"):
            now = self._now().astimezone(UTC)
            journal = Journal(self._store, layout.quota(now.date(), name))
            last = journal.last()
            level = self._level(journal, last, name, now)
            if least > level:
                raise TooManyError(
                    _WHAT, min(DAY.total_seconds(), (least - level) * DAY.total_seconds() / self._allowance)
                )
            lot = min(level, max(least, self._allowance // SHARES))
            try:
                journal.create(last + 1, {"at": now.isoformat(), "left": level - lot})
            except ConflictError:
                continue
            return lot
        raise AssertionError  # the attempts end with an error of their own

    def _level(self, journal: Journal, last: int, name: str, now: datetime) -> int:
        """What is left now, by the last entry of today or of yesterday."""
        if not last:
            journal = Journal(self._store, layout.quota((now - DAY).date(), name))
            last = journal.last()
        if not last:
            return self._allowance
        values = journal.read(last)
        left: int = canonical.member(values, "left", int, "quota")
        passed = now - datetime.fromisoformat(canonical.member(values, "at", str, "quota"))
        filled = max(0, int(passed / DAY * self._allowance))
        return min(self._allowance, left + filled)
