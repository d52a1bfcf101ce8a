"""One listening socket, several processes: a parent that starts, watches and ends those that serve.

Verification and signing are work for one core each, so a service takes as many processes as it has cores. The parent
opens the socket and answers nobody. Each child makes its own application after the fork, so nothing but the socket and
what was shared on purpose is in common. A child that ends by itself is replaced, unless that happens too often; SIGTERM
and SIGINT are passed on, and what is under way is finished within the grace. When the parent dies, a pipe closes, and
the children end as if they had been told.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from starlette.types import ASGIApp

from enarx.errors import EnarxError, UnavailableError
from enarx.web.log import Log
from enarx.web.server import DEFAULT_LIMITS, Limits, listen, serve
from enarx.web.tls import Served, ServerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What one process serves, what is told the port once it listens, and what is called for SIGHUP."""

    app: ASGIApp
    on_ready: Callable[[int], None]
    tls: ServerTls | Served | None
    on_hangup: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What a parent does for those to come: every second, and when SIGHUP was sent, which it passes on."""

    tick: Callable[[], None]
    hangup: Callable[[], None]


Make = Callable[[int], Worker]

RESTARTS: Final = 5  # of any child, within RESTART_SECONDS: more means that it cannot work
RESTART_SECONDS: Final = 60.0
EXTRA_SECONDS: Final = 5.0  # beyond the grace, before a child that does not end is killed
TICK_SECONDS: Final = 1.0

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_WATCHED: Final = (*_HANDLED, signal.SIGHUP)
_log = Log("web")


def serve_workers(
    make: Make,
    *,
    workers: int,
    host: str,
    port: int,
    upkeep: Upkeep | None = None,
    on_ready: Callable[[int], None] | None = None,
    grace_seconds: float = 30.0,
    limits: Limits = DEFAULT_LIMITS,
    not_for_children: Sequence[int] = (),
) -> None:
    """Serve in `workers` processes until SIGTERM or SIGINT.

    `make` is called in each with its number, from 0. With an `upkeep`, SIGHUP is for it and for all of them.
    `on_ready` is called here once all accept connections; descriptors that it will write to are `not_for_children`, or
    whoever reads there would wait for all of them. Raises UnavailableError when the address cannot be had, or
    when children end as soon as they are started.
    """
    listener = listen(host, port)
    family = _Family(
        make=make,
        listener=listener,
        upkeep=upkeep,
        grace_seconds=grace_seconds,
        limits=limits,
        not_for_children=not_for_children,
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED if upkeep is None else _WATCHED)
    try:
        for number in range(workers):
            family.start(number)
        if on_ready is not None:
            on_ready(listener.getsockname()[1])
        family.not_for_children = ()  # closed by now; the number may be anything's
        family.watch()
    finally:
        family.end()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        listener.close()


@dataclass(slots=True, kw_only=True)
class _Family:
    """The parent's view."""

    make: Make
    listener: socket.socket
    upkeep: Upkeep | None
    grace_seconds: float
    limits: Limits
    not_for_children: Sequence[int]
    _children: dict[int, int] = field(default_factory=dict)  # process id → number
    _lifeline: tuple[int, int] = field(default_factory=os.pipe)
    _ended: deque[float] = field(default_factory=deque)

    def start(self, number: int) -> None:
        """Fork one child and wait until it serves. Raises UnavailableError when it does not."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._work(number, writing)
        os.close(writing)
        self._children[child] = number
        ready = os.read(reading, 1)
        os.close(reading)
        if not ready:
            raise UnavailableError("a worker process ended before it could serve; its log says why")

    def watch(self) -> None:
        """Until somebody tells us to end. Raises UnavailableError when children keep ending by themselves."""
        while True:
            number = self._signal()
            if number in {signal.SIGTERM, signal.SIGINT}:
                return
            for process, code in self._reap():
                worker = self._children.pop(process)
                _log.warning("worker ended", worker=worker, code=code)
                self._require_patience()
                self.start(worker)

    def _signal(self) -> int | None:
        """The next signal. Upkeep is done meanwhile, and SIGHUP passed on: a child that is started later has it too."""
        if self.upkeep is None:
            return signal.sigwait(_HANDLED)
        received = signal.sigtimedwait(_WATCHED, TICK_SECONDS)
        if received is None:
            self.upkeep.tick()
            return None
        if received.si_signo == signal.SIGHUP:
            self.upkeep.hangup()
            for process in self._children:
                os.kill(process, signal.SIGHUP)
        return received.si_signo

    def end(self) -> None:
        """Tell all, wait for the grace, then insist. A second signal makes it short."""
        for process in self._children:
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_seconds + EXTRA_SECONDS
        while self._children:
            left = deadline - time.monotonic()
            received = signal.sigtimedwait(_HANDLED, max(0.0, left)) if left > 0 else None
            if received is None or received.si_signo != signal.SIGCHLD:
                for process in self._children:
                    os.kill(process, signal.SIGKILL if received is None else signal.SIGTERM)
            for process, _ in self._reap():
                self._children.pop(process, None)
        for descriptor in self._lifeline:
            os.close(descriptor)

    def _reap(self) -> list[tuple[int, int]]:
        found = []
        for process in list(self._children):
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                found.append((process, os.waitstatus_to_exitcode(status)))
        return found

    def _require_patience(self) -> None:
        now = time.monotonic()
        self._ended.append(now)
        while self._ended[0] < now - RESTART_SECONDS:
            self._ended.popleft()
        if len(self._ended) > RESTARTS:
            raise UnavailableError(f"worker processes ended {len(self._ended)} times in {RESTART_SECONDS:g} seconds")

    def _work(self, number: int, ready: int) -> NoReturn:
        """The child's whole life."""
        code = 1
        try:
            # the parent passes signals on; a terminal's Ctrl-C would come twice and cut the grace short
            # SIGHUP waits until the server has a hand for it
            signal.pthread_sigmask(
                signal.SIG_SETMASK, {signal.SIGINT, *([] if self.upkeep is None else [signal.SIGHUP])}
            )
            for descriptor in (self._lifeline[1], *self.not_for_children):
                os.close(descriptor)
            stop = threading.Event()
            threading.Thread(target=self._outlive_nobody, args=(stop,), daemon=True).start()
            worker = self.make(number)

            def tell(port: int) -> None:
                worker.on_ready(port)
                os.write(ready, b"1")
                os.close(ready)

            serve(
                worker.app,
                host="",
                port=0,
                tls=worker.tls,
                on_ready=tell,
                on_hangup=worker.on_hangup,
                grace_seconds=self.grace_seconds,
                limits=self.limits,
                stop=stop,
                listener=self.listener,
            )
            code = 0
        except EnarxError as error:
            _log.warning("worker failed", worker=number, reason=str(error))
        except BaseException as error:  # noqa: BLE001 - the edge of a process: whatever it was, it ends here
            _log.bug("worker failed", error, worker=number)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _outlive_nobody(self, stop: threading.Event) -> None:
        os.read(self._lifeline[0], 1)  # nothing is ever written: it returns when the parent is gone
        stop.set()
