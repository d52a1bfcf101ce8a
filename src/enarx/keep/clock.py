"""What time it is in a Keep, whose host holds the machine's clock: that clock, held to what the Steward said.

Every certificate says when its Steward judged the evidence, and that judgement answered a nonce that we had just asked
for. So a certificate that was just issued is a reading of a clock that the host does not hold.

  1  when one arrives, this machine's clock must be within SKEW of it; a host that sets the time before or during a
     run is refused a certificate, at `steward`
  2  from then on time is the later of two: the machine's clock, and that reading with what has passed since. So time
     never runs backwards here, and certificates end when they end
  3  while the machine's clock is more than SKEW behind, `agreed` refuses: OpenSSL asks that clock and no other, and
     would take a peer's certificate that has ended for a valid one

A clock that is turned forwards is followed: certificates end early, and nobody is let in. What has passed is the
machine's word, too; a host that stops the whole machine stops this time with it.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from enarx.errors import UnavailableError, UntrustedError

SKEW: Final = timedelta(minutes=5)  # what honest clocks differ by, and a certificate needs to travel


def machine() -> datetime:
    """What the clock of this machine says."""
    return datetime.now(UTC)


class Clock:
    """One Keep's time. `wall` is the machine's clock, `passed` gives seconds that only grow."""

    def __init__(self, wall: Callable[[], datetime], passed: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._passed = wall, passed
        self._lock = threading.Lock()
        self._read: tuple[datetime, float] | None = None

    def hear(self, said: datetime) -> None:
        """Compare with what a Steward's clock said just now, and hold to it. Raises UntrustedError."""
        here = self._wall()
        if abs(here - said) > SKEW:
            raise UntrustedError(
                f"this machine's clock says {_stamp(here)} and the Steward's {_stamp(said)}: one of them is wrong"
            )
        with self._lock:
            self._read = max(self._at_least(), said), self._passed()

    def now(self) -> datetime:
        """The time, which never runs backwards."""
        with self._lock:
            return max(self._wall(), self._at_least())

    def agreed(self) -> datetime:
        """The same. Raises UnavailableError while the machine's clock is behind it."""
        now, here = self.now(), self._wall()
        if now - here > SKEW:
            raise UnavailableError(f"this machine's clock was turned back, to {_stamp(here)}; it is {_stamp(now)}")
        return now

    def _at_least(self) -> datetime:
        if self._read is None:
            return datetime.min.replace(tzinfo=UTC)
        said, when = self._read
        return said + timedelta(seconds=self._passed() - when)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
