"""Programs with threads (wasi-threads): each thread, the first included, is an instance in a store and a thread of ours.

They share linear memory and the descriptor table; what is open is common, and one lock is held by whoever serves an
operation (and let go of while it blocks). The first that ends the program, by returning from `_start`, by `proc_exit`
or by a trap, ends it for all. Descriptors of wasmtime's own, files in directories of the host, belong to the thread
that opened them; in a Keep that was deployed there are none.

A thread that sleeps in `memory.atomic.wait` can not be woken from outside: it is left behind when the program ends.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

from enarx.keep.runtime.engine import Exit, Program
from enarx.keep.runtime.waiting import Interrupt

MAX_NUMBER: Final = (1 << 29) - 1  # wasi-threads: higher numbers are reserved
LEAVE_SECONDS: Final = 2.0  # for the others to notice that the program has ended
STEP_SECONDS: Final = 0.02


class Threads:
    """The threads of one program."""

    def __init__(
        self,
        make: Callable[[Callable[[int], int]], Program],
        limit: int,
        interrupt: Interrupt,
        start: Callable[[Callable[[], None]], threading.Thread],
        stop: Callable[[], None],
        leave: float = LEAVE_SECONDS,
    ) -> None:
        """`make(spawn)` gives a linked program for the calling thread; `start` runs a function in a new thread.

        `stop` moves the engine's epoch: whoever computes is interrupted. `leave` are the seconds that are given for it.
        """
        self._leave = leave
        self._make, self._limit, self._interrupt, self._start, self._stop = make, limit, interrupt, start, stop
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self._ended = threading.Event()
        self._next = 1
        self._outcome: BaseException = Exit(0)

    def spawn(self, argument: int) -> int:
        """Start a thread; its number, or -1 where there are as many as there may be."""
        with self._lock:
            if len(self._running) >= self._limit or self._next > MAX_NUMBER or self._ended.is_set():
                return -1
            number, self._next = self._next, self._next + 1

        if not self._begin(lambda: self._make(self.spawn).run_thread(number, argument)):
            return -1
        return number

    def finish(self, outcome: BaseException) -> None:
        """The program ends so, unless it already has; every thread is called away from what it does."""
        with self._lock:
            if self._ended.is_set():
                return
            self._outcome = outcome
            self._ended.set()
        self._interrupt.send(0)

    def run(self) -> NoReturn:
        """Run the first thread, and raise how the program ended: Exit, or what else a thread raised.

        The first is no exception: it may sleep for ever in `memory.atomic.wait` while another ends the program.
        """
        self._begin(self._first)
        self._ended.wait()
        deadline = time.monotonic() + self._leave
        while (left := tuple(self._running)) and time.monotonic() < deadline:
            self._stop()  # again: one that was just beginning has not noticed
            left[0].join(STEP_SECONDS)
        raise self._outcome

    def _first(self) -> None:
        self._make(self.spawn).run()
        self.finish(Exit(0))

    def _begin(self, action: Callable[[], None]) -> bool:
        """Do `action` in a new thread; however that ends, it is known. False where the system has no thread left."""

        def work() -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                self.finish(error)
            finally:
                with self._lock:
                    self._running.discard(threading.current_thread())

        with self._lock:
            try:
                self._running.add(self._start(work))
            except RuntimeError:
                return False
        return True
