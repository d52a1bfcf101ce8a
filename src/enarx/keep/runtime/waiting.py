"""Waiting, and being called away from it: every place where the runtime blocks goes through here.

A program runs in a thread of its own. `Interrupt` is how anybody else ends it: it wakes whatever waits, and moves
wasmtime's epoch so that computing stops as well. `Waiter` is `poll(2)` over the descriptors at hand, the interrupt,
and the streams that still owe their peer bytes that the program believes to be sent (see `enarx.keep.runtime.tls`).
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from signal import SIGTERM
from typing import Final, Protocol, Self

MAX_LINGERING: Final = 256  # closed streams that may still flush; beyond that the oldest is given up
LINGER_SECONDS: Final = 5.0  # how long the end of the program waits for peers to take their last bytes

_FAILED: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Interrupted(Exception):  # noqa: N818 - what happened to the program, no error of ours
    """The program was told to end, by the signal of this number."""

    def __init__(self, signal: int, why: str | None = None) -> None:
        super().__init__(signal)
        self.signal, self.why = signal, why


class Overdue(Exception):  # noqa: N818 - as above
    """What this thread does has taken longer than it may."""


class Interrupt:
    """Ends a running program, from any thread or signal handler, once and for good."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.RLock()  # re-entrant: a signal handler may interrupt its own thread in here
        self._hooks: list[Callable[[], None]] = []
        self._drains: list[Callable[[], bool]] = []
        self._signal: int | None = None
        self.why: str | None = None  # what to tell people, where the signal alone does not say it
        self.draining = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._hooks.clear()
            self._drains.clear()
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1

    def fileno(self) -> int:
        """Readable from the interrupt on."""
        return self._reader

    def send(self, signal: int, why: str | None = None) -> None:
        """Interrupt the program as `signal` would end a process. The first one counts."""
        with self._lock:
            if self._signal is None and self._writer >= 0:
                self._signal, self.why = signal, why
                os.write(self._writer, b"!")
                for hook in self._hooks:
                    hook()

    def terminate(self) -> None:
        """SIGTERM: let a program that serves clients finish with them; a second one, or any other program, ends now."""
        with self._lock:
            first, self.draining = not self.draining, True
            granted = [drain() for drain in self._drains] if first else []
            if not any(granted):
                self.send(SIGTERM)
                return
            if self._writer >= 0:
                os.write(self._writer, b".")  # whoever waits looks again at what it waits for

    def on_terminate(self, drain: Callable[[], bool]) -> None:
        """Have `drain` called at the first `terminate`; it answers whether the program gets time to finish."""
        with self._lock:
            self._drains.append(drain)

    def glance(self) -> None:
        """Take note of what made `fileno` readable. Raises Interrupted."""
        self.check()
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 64)

    @property
    def number(self) -> int | None:
        """The signal that it was, None before."""
        return self._signal

    def attach(self, hook: Callable[[], None]) -> None:
        """Have `hook` called at the interrupt. Raises Interrupted when that has already been."""
        with self._lock:
            self._hooks.append(hook)
        self.check()

    def check(self) -> None:
        if self._signal is not None:
            raise Interrupted(self._signal, self.why)


class Debtor(Protocol):
    """A stream that accepted bytes of the program and could not yet hand them to the operating system."""

    def fileno(self) -> int: ...

    def owes(self) -> int:
        """What to wait for before `settle` can go on: POLLIN, POLLOUT, or 0 when nothing is owed."""
        ...

    def settle(self) -> None:
        """Hand over what can be handed over now. Never blocks, never raises."""
        ...

    def abandon(self) -> None:
        """Give the bytes up, and close the socket where the program has closed it."""
        ...


class Waiter:
    """Blocks a thread of the program until something is ready.

    Where the program has several threads they share what they wait for, and `lock`: whoever runs an operation holds
    it, and whoever blocks here lets go of it meanwhile.
    """

    def __init__(self, interrupt: Interrupt, lock: "threading.Lock | None" = None) -> None:
        self._interrupt, self.lock = interrupt, lock
        self._debtors: dict[Debtor, None] = {}
        self._lingering: dict[Debtor, None] = {}
        self.limit: float | None = None  # when what this thread does has to be over, in monotonic seconds
        self.quiet: set[int] = set()  # descriptors on which nothing will ever happen: listeners that were silenced

    def check(self) -> None:
        """Raises Interrupted where that has been."""
        self._interrupt.check()

    @property
    def overdue(self) -> bool:
        """Whether `limit` has passed."""
        return self.limit is not None and time.monotonic() >= self.limit

    def owe(self, debtor: Debtor) -> None:
        """Serve `debtor` during every wait until it owes nothing."""
        self._debtors[debtor] = None

    def linger(self, debtor: Debtor) -> None:
        """As `owe`, for a stream that the program has closed: bounded, for nobody else will end it."""
        self._debtors[debtor] = None
        self._lingering[debtor] = None
        while len(self._lingering) > MAX_LINGERING:
            oldest = next(iter(self._lingering))
            self.forgive(oldest)
            oldest.abandon()

    def forgive(self, debtor: Debtor) -> None:
        self._debtors.pop(debtor, None)
        self._lingering.pop(debtor, None)

    def wait(self, descriptor: int, events: int) -> None:
        """Until `descriptor` has one of `events`, or failed. Raises Interrupted."""
        self.poll({descriptor: events}, None)

    def poll(self, wanted: Mapping[int, int], deadline: float | None) -> dict[int, int]:
        """What has happened to the descriptors in `wanted`; empty when `deadline` (monotonic seconds) came first.

        Raises Interrupted, and Overdue when `limit` came before both.
        """
        if self.limit is not None:
            deadline = self.limit if deadline is None else min(deadline, self.limit)
        while True:
            poller = select.poll()
            poller.register(self._interrupt.fileno(), select.POLLIN)
            for descriptor, events in wanted.items():
                poller.register(descriptor, events)
            owed = self._register_debtors(poller, wanted)
            if self.quiet and self.lock is None and deadline is None and not owed and self.quiet.issuperset(wanted):
                raise Interrupted(SIGTERM)  # it has finished: it waits for clients, and there will be none
            found = self._block(poller, deadline)
            if self._interrupt.fileno() in found:
                self._interrupt.glance()
            for descriptor, debtor in owed.items():
                if descriptor in found:
                    debtor.settle()
            ready = {
                descriptor: happened
                for descriptor, happened in found.items()
                if descriptor in wanted and happened & (wanted[descriptor] | _FAILED)
            }
            if not ready and self.overdue:
                raise Overdue
            if ready or (deadline is not None and time.monotonic() >= deadline):
                return ready

    def _block(self, poller: "select.poll", deadline: float | None) -> dict[int, int]:
        if self.lock is None:
            return dict(poller.poll(_milliseconds(deadline)))
        self.lock.release()
        try:
            return dict(poller.poll(_milliseconds(deadline)))
        finally:
            self.lock.acquire()

    def finish(self) -> None:
        """At the end of the program: give every peer a last chance to take what it is owed."""
        deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(Interrupted):
            while self._debtors and time.monotonic() < deadline:
                poller = select.poll()
                poller.register(self._interrupt.fileno(), select.POLLIN)
                owed = self._register_debtors(poller, {})
                found = dict(poller.poll(_milliseconds(deadline)))
                self._interrupt.check()
                for descriptor, debtor in owed.items():
                    if descriptor in found:
                        debtor.settle()
        for debtor in tuple(self._debtors):
            self.forgive(debtor)
            debtor.abandon()

    def _register_debtors(self, poller: "select.poll", wanted: Mapping[int, int]) -> dict[int, Debtor]:
        owed: dict[int, Debtor] = {}
        for debtor in tuple(self._debtors):
            events = debtor.owes()
            if not events:
                self.forgive(debtor)
                continue
            descriptor = debtor.fileno()
            owed[descriptor] = debtor
            poller.register(descriptor, events | wanted.get(descriptor, 0))
        return owed


def _milliseconds(deadline: float | None) -> int | None:
    """How long `poll` may wait, rounded up: to wake early would only mean to wait again."""
    if deadline is None:
        return None
    return max(0, min(int((deadline - time.monotonic()) * 1000) + 1, 2**31 - 1)) if deadline > time.monotonic() else 0
