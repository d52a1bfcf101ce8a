"""How a transfer is carried through: several at once, again after a failure, and as slowly as the registry asks.

Nothing here knows what is transferred. A failure is tried again a few times, each time after a longer pause, and the
count begins anew whenever something arrived. A registry that names a time to wait (`Retry-After`) is waited for and
that is no failure, up to a limit on all of it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from enarx.errors import UnavailableError
from enarx.web.client import Response

T = TypeVar("T")
Sleep = Callable[[float], None]

ATTEMPTS: Final = 4  # of one transfer without any progress between them
PAUSE: Final = 0.5  # seconds before the second attempt; doubled for each one more
MAX_WAIT: Final = 900.0  # seconds that one transfer waits because it is asked to, all in all
MAX_ASKED: Final = 120  # seconds at a time; who asks for more is not there
WORKERS: Final = 8  # transfers at once: most of each is waiting for a disk
PASSING: Final = frozenset({429, 502, 503, 504})  # statuses that a second attempt may not meet again


class BusyError(UnavailableError):
    """Come back in `seconds`. Caught by who can wait."""

    def __init__(self, text: str, seconds: int) -> None:
        super().__init__(text)
        self.seconds = seconds


def retry_after(status: int, headers: Mapping[str, str]) -> int | None:
    """How long the registry asks to wait (RFC 9110, 10.2.3, in seconds)."""
    text = headers.get("retry-after", "")
    if status not in {429, 503} or not text.isascii() or not text.isdigit() or len(text) > 6:
        return None
    return int(text) if int(text) <= MAX_ASKED else None


@dataclass(slots=True)
class Patience:
    """Whether to try again, and the waiting before it."""

    sleep: Sleep
    failures: int = 0
    waited: float = 0.0

    def progress(self) -> None:
        self.failures = 0

    def again(self, asked: int | None = None) -> bool:
        """Wait, and say yes; or say no, without waiting."""
        if asked is not None and self.waited + asked <= MAX_WAIT:
            self.waited += asked
            self.sleep(asked)
            return True
        self.failures += 1
        if self.failures >= ATTEMPTS:
            return False
        self.sleep(PAUSE * 2 ** (self.failures - 1))
        return True


def repeated(send: Callable[[], Response], sleep: Sleep, *, met: Callable[[], bool] = lambda: True) -> Response:
    """Send what may be sent twice, again while nobody answers. Raises UnavailableError.

    `met` says whether anybody ever answered: who was not there in the first place is not waited for.
    """
    patience = Patience(sleep)
    while True:
        try:
            answer = send()
        except UnavailableError:
            if not met() or not patience.again():
                raise
            continue
        if answer.status not in PASSING or not patience.again(retry_after(answer.status, answer.headers)):
            return answer


class Crew(Generic[T]):
    """Does several things at once. `done` hears of each result, in the order in which the things were given.

    The first failure is raised, and nothing that was not begun is begun.
    """

    def __init__(self, done: Callable[[T], None], workers: int = WORKERS) -> None:
        self._done = done
        self._most = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="transfer")
        self._waiting: deque[Future[T]] = deque()

    def give(self, work: Callable[[], T]) -> None:
        """Do it some time soon. Raises what an earlier one failed with."""
        self._waiting.append(self._pool.submit(work))
        while len(self._waiting) > self._most:
            self._collect()

    def now(self, work: Callable[[], T]) -> None:
        """Do it before anything that is given later."""
        finished: Future[T] = Future()
        finished.set_result(work())
        self._waiting.append(finished)

    def _collect(self) -> None:
        self._done(self._waiting.popleft().result())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            while self._waiting and kind is None:
                self._collect()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
