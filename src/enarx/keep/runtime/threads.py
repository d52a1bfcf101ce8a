"""Programs with threads (wasi-threads): each thread is an instance in a store and a thread of ours.

They share linear memory and the descriptor table; what is open is common, and one lock is held by whoever serves an
operation (and let go of while it blocks). The first that ends the program, by returning from `_start`, by `proc_exit`
or by a trap, ends it for all. Descriptors of wasmtime's own, files in directories of the host, belong to the thread
that opened them; in a Keep that was deployed there are none.

A thread that sleeps in `memory.atomic.wait` can not be woken from outside: it is left behind when the program ends.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from enarx.keep.runtime.engine import Exit, Program, TrapError
from enarx.keep.runtime.waiting import Interrupt, Interrupted

MAX_NUMBER: Final = (1 << 29) - 1  # wasi-threads: higher numbers are reserved
LEAVE_SECONDS: Final = 2.0  # for the others to notice that the program has ended
STEP_SECONDS: Final = 0.02


class Threads:
    """The threads of one program besides the first."""

    def __init__(
        self,
        make: Callable[[Callable[[int], int]], Program],
        limit: int,
        interrupt: Interrupt,
        start: Callable[[Callable[[], None]], threading.Thread],
        stop: Callable[[], None],
    ) -> None:
        """`make(spawn)` gives a linked program for the calling thread; `start` runs a function in a new thread.

        `stop` moves the engine's epoch: whoever computes is interrupted.
        """
        self._make, self._limit, self._interrupt, self._start, self._stop = make, limit, interrupt, start, stop
        self._lock = threading.Lock()
        self._running: set[threading.Thread] = set()
        self._next = 1
        self._outcome: int | BaseException | None = None

    def spawn(self, argument: int) -> int:
        """Start a thread; its number, or -1 where there are as many as there may be."""
        with self._lock:
            if len(self._running) + 1 >= self._limit or self._next > MAX_NUMBER or self._outcome is not None:
                return -1
            number, self._next = self._next, self._next + 1

        def work() -> None:
            try:
                self._make(self.spawn).run_thread(number, argument)
            except Exit as leave:
                self.finish(leave.status)
            except Interrupted as interrupted:
                self.finish(interrupted)
            except BaseException as error:  # noqa: BLE001 - raised again by the first thread
                self.finish(error)
            finally:
                with self._lock:
                    self._running.discard(threading.current_thread())

        with self._lock:
            try:
                self._running.add(self._start(work))
            except RuntimeError:  # the operating system has no thread left
                return -1
        return number

    def finish(self, outcome: int | BaseException) -> None:
        """The program ends so, unless it already has; every thread is called away from what it does."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
        self._interrupt.send(0)

    def run(self) -> int:
        """Run the first thread, and give how the program ended: an exit code, or what a thread raised."""
        try:
            self.finish(self._make(self.spawn).run())
        except (Interrupted, TrapError) as error:
            self.finish(error)  # what ended it may have come first
        deadline = time.monotonic() + LEAVE_SECONDS
        while (left := tuple(self._running)) and time.monotonic() < deadline:
            self._stop()  # again: one that was just beginning has not noticed
            left[0].join(STEP_SECONDS)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome or 0
