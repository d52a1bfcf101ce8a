"""Before a certificate ends the Keep is attested again and gets the next one; its connections notice nothing.

  1  wait until two thirds of the certificate's remaining life are over, a little earlier or later at random, so that a
     thousand Keeps that began together do not come together
  2  go steps 3 to 6 of the flow again, with the same keys and a new nonce
  3  use what came; when nothing came, try again after a pause that doubles, again with some randomness, but often
     enough that several tries fit into what is left; the old certificate is used to its end

What happens at the end is the runtime's: without a valid certificate no new connection is accepted. Trying never
stops: a Steward that comes back finds the Keep where it was. Clock, pause and randomness are arguments.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from enarx.keep.identity import Identity
from enarx.keep.refusal import RefusalError

FRACTION: Final = 2 / 3  # of what is left of the certificate, before the next one is asked for
SPREAD: Final = 0.1  # of every pause: how much earlier or later
FIRST_PAUSE: Final = 1.0  # seconds after the first failure
LONGEST_PAUSE: Final = 300.0  # seconds
TRIES: Final = 4  # that should fit into what is left, at least
SHORTEST_PAUSE: Final = 0.2  # seconds: even a certificate about to end is no reason to hammer on a Steward


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """How one Keep renews. `random` gives numbers from 0 to 1; `sleep` waits, and says whether it is over."""

    renew: Callable[[], Identity]
    use: Callable[[Identity], None]
    failed: Callable[[RefusalError, datetime], None]
    now: Callable[[], datetime]
    sleep: Callable[[float], bool]
    random: Callable[[], float]

    def run(self, identity: Identity) -> None:
        """Renew until `sleep` says that it is over."""
        while not self.sleep(self.until_due(identity)):
            failures = 0
            while (renewed := self._try(identity)) is None:
                failures += 1
                if self.sleep(self.pause(identity, failures)):
                    return
            identity = renewed

    def until_due(self, identity: Identity) -> float:
        """Seconds to wait before the certificate should be renewed."""
        return max(SHORTEST_PAUSE, self._spread(self._left(identity) * FRACTION))

    def pause(self, identity: Identity, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        left = self._left(identity)
        longest = LONGEST_PAUSE if left <= 0 else min(LONGEST_PAUSE, left / TRIES)
        return max(SHORTEST_PAUSE, self._spread(min(longest, FIRST_PAUSE * 2 ** min(failures - 1, 30))))

    def _try(self, identity: Identity) -> Identity | None:
        try:
            renewed = self.renew()
        except RefusalError as error:
            self.failed(error, identity.ends)
            return None
        self.use(renewed)
        return renewed

    def _left(self, identity: Identity) -> float:
        return (identity.ends - self.now()).total_seconds()

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + SPREAD * (2 * self.random() - 1))


def in_background(renewal: Renewal, identity: Identity) -> None:
    """Renew in a thread that ends with the process."""
    threading.Thread(target=renewal.run, args=(identity,), name="renewal", daemon=True).start()
