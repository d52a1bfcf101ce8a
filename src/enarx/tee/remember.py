"""What was verified once and stays true between two moments: bounded, and asked again as soon as anything changes.

A machine attests again and again with the same certificates, CRLs and vendors' documents. What they prove depends on
nothing but their bytes, the anchors, what policy overlooks, and the moment; and between two of the dates that stand
in them no comparison with the moment can come out differently. So the outcome is kept with all of these as its key,
from the last of the dates before it until the first one after it. Whatever ends, begins, or is published ends the memory with it.

Only what was verified is kept, never a refusal, and never a verdict on a report, a quote or a request. The checks that
led to it are kept too, so that the ledger of a judgement looks the same, however it was come by.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Final, Generic, TypeVar

from enarx.tee.model import Checks, Recorded

V = TypeVar("V")

_BEGIN: Final = datetime.min.replace(tzinfo=UTC)
_END: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry(Generic[V]):
    value: V
    recorded: Recorded
    begin: datetime
    end: datetime


class Remembered(Generic[V]):
    """At most `limit` outcomes; the oldest is forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[Hashable, _Entry[V]] = {}
        self._lock = Lock()

    def recall(
        self,
        key: Hashable,
        at: datetime | None,
        checks: Checks,
        work: Callable[[], tuple[V, Iterable[datetime] | None]],
    ) -> V:
        """What `work` gave before for this key, with its checks; else what it gives now, and the dates that bound it.

        `work` records into `checks`, and raises what it refuses; `at` is None where time plays no part. Each date is
        the first moment at which something is otherwise than before.
        """
        entry = self._entries.get(key)
        if entry is not None and (at is None or entry.begin <= at < entry.end):
            checks.replay(entry.recorded)
            return entry.value
        mark = checks.mark()
        value, dates = work()
        if dates is None:
            return value
        begin, end = _BEGIN, _END
        for date in dates if at is not None else ():
            if at is not None and date <= at:
                begin = max(begin, date)
            else:
                end = min(end, date)
        with self._lock:
            self._entries.pop(key, None)
            while len(self._entries) >= self._limit:
                del self._entries[next(iter(self._entries))]
            self._entries[key] = _Entry(value=value, recorded=checks.since(mark), begin=begin, end=end)
        return value

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
