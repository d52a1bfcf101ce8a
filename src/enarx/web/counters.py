"""Counters in memory that all worker processes share, a row each, so that whichever is asked answers for all.

Every name and label is known beforehand, so no request makes a new series, and none carries anything of a requester.
What is told is Prometheus' text format (exposition format 0.0.4).
"""

import mmap
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4"
OTHER: Final = "other"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # seconds

_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")

Key = tuple[str, tuple[tuple[str, str], ...]]


class Counters:
    """The counters of one service. `worker` is the row that this process writes."""

    def __init__(self, keys: Iterable[Key], workers: int = 1) -> None:
        self._index: Mapping[Key, int] = {key: position for position, key in enumerate(keys)}
        size = max(1, workers * len(self._index)) * struct.calcsize("d")
        self._cells = memoryview(mmap.mmap(-1, size)).cast("d")  # anonymous: children share it
        self._lock = threading.Lock()
        self.workers = workers
        self.worker = 0

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count. A label value that is not known beforehand counts as `other`."""
        key = name, tuple(labels.items())
        if key not in self._index:
            key = name, tuple((label, OTHER) for label in labels)
        with self._lock:
            self._cells[self.worker * len(self._index) + self._index[key]] += amount

    def took(self, name: str, seconds: float) -> None:
        """Count a time in the histogram of that name."""
        self.add(f"{name}_bucket", le=_BOUNDS[bisect_left(BUCKETS, seconds)])
        self.add(f"{name}_sum", seconds)

    def totals(self) -> dict[Key, float]:
        width = len(self._index)
        cells = self._cells.tolist()
        return {key: sum(cells[position::width]) for key, position in self._index.items()}


def histogram_keys(name: str) -> Iterator[Key]:
    """What a histogram counts."""
    for bound in _BOUNDS:
        yield f"{name}_bucket", (("le", bound),)
    yield f"{name}_sum", ()


def histogram(name: str, values: Mapping[Key, float]) -> list[str]:
    """Buckets are counted apart and told cumulatively."""
    lines, total = [], 0.0
    for key, value in values.items():
        if key[0] == f"{name}_bucket":
            total += value
            lines.append(line(key[0], key[1], total))
    return [*lines, line(f"{name}_sum", (), values[f"{name}_sum", ()]), line(f"{name}_count", (), total)]


def line(name: str, labels: Sequence[tuple[str, str]], value: float) -> str:
    """One sample."""
    inside = ",".join(f'{label}="{text}"' for label, text in labels)
    number = str(int(value)) if value == int(value) else repr(value)
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"
