"""wasi:io for components: streams and pollables over the descriptors that modules have.

A stream never blocks unless the component asks it to. What a component was allowed to write is taken whole: what the
operating system does not take at once is kept, and the next `check-write` allows nothing until it has gone.
"""

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from enarx.keep.runtime.abi import FD_READ, FD_WRITE, NONBLOCK, Errno, Refused, errno_of
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.values import Err, Own
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.waiting import Waiter

PIECE: Final = 65536  # bytes read, or allowed to be written, at a time


class Allowance:
    """How many descriptors a component may have open: sockets and files count alike (limits.descriptors)."""

    def __init__(self, limit: int) -> None:
        self._limit, self.used = limit, 0

    def take(self) -> None:
        """One more. Raises OSError when there is none left."""
        if self.used >= self._limit:
            raise OSError(errno.EMFILE, "limits.descriptors")
        self.used += 1

    def give(self) -> None:
        self.used -= 1


class Failure:
    """wasi:io/error: what happened to a stream."""

    def __init__(self, text: str, cause: object = None) -> None:
        self.text, self.cause = text, cause


class Pollable:
    """Something that becomes true. `watch` is a descriptor of this process and events, `at` a monotonic time."""

    def ready(self) -> bool:
        return True

    def watch(self) -> tuple[int, int] | None:
        return None

    def at(self) -> float | None:
        return None


class Timer(Pollable):
    """Ready from a monotonic time on, in nanoseconds."""

    def __init__(self, when: int) -> None:
        self._when = when

    def ready(self) -> bool:
        return time.monotonic_ns() >= self._when

    def at(self) -> float | None:
        return self._when / 1e9


class Readiness(Pollable):
    """Ready when a descriptor can be read or written."""

    def __init__(self, descriptor: Descriptor, kind: int, waiter: Waiter) -> None:
        self._descriptor, self._kind, self._waiter = descriptor, kind, waiter

    def ready(self) -> bool:
        descriptor = self._descriptor
        if not descriptor.pollable() or descriptor.ready_bytes(self._kind) is not None:
            return True
        number = descriptor.fileno()
        if number < 0 or not self._waiter.poll({number: descriptor.wants(self._kind)}, 0):
            return number < 0
        return descriptor.confirm(self._kind) is not None

    def watch(self) -> tuple[int, int] | None:
        return self._descriptor.fileno(), self._descriptor.wants(self._kind)


class When(Pollable):
    """Ready when a question is answered with yes; asked again whenever its descriptor moves, and at a time."""

    def __init__(
        self,
        question: Callable[[], bool],
        watch: Callable[[], tuple[int, int] | None],
        at: Callable[[], float | None] | None = None,
    ) -> None:
        self._question, self._watch, self._at = question, watch, at

    def ready(self) -> bool:
        return self._question()

    def watch(self) -> tuple[int, int] | None:
        return self._watch()

    def at(self) -> float | None:
        return None if self._at is None else self._at()


def wait(pollables: Sequence[Pollable], waiter: Waiter) -> list[int]:
    """The positions of those that are ready, as soon as there is one."""
    while True:
        ready = [index for index, pollable in enumerate(pollables) if pollable.ready()]
        if ready:
            return ready
        wanted: dict[int, int] = {}
        for pollable in pollables:
            if (watch := pollable.watch()) is not None:
                wanted[watch[0]] = wanted.get(watch[0], 0) | watch[1]
        waiter.poll(wanted, min((at for pollable in pollables if (at := pollable.at()) is not None), default=None))


class Input:
    """wasi:io/streams input-stream over a descriptor."""

    def __init__(self, descriptor: Descriptor, waiter: Waiter, *, owns: bool = False) -> None:
        descriptor.flags |= NONBLOCK
        self._descriptor, self.waiter, self._owns = descriptor, waiter, owns

    def pollable(self) -> Pollable:
        return Readiness(self._descriptor, FD_READ, self.waiter)

    def read(self, limit: int) -> bytes | Err:
        """Up to `limit` bytes that are there; none when nothing is; Err at the end."""
        if not limit:
            return b""
        buffer = bytearray(min(limit, PIECE))
        try:
            count = self._descriptor.read(memoryview(buffer))
        except Refused as refused:
            return b"" if refused.number == Errno.AGAIN else _failed(refused.number)
        except OSError as error:
            return _failed(errno_of(error))
        return bytes(buffer[:count]) if count else Err(("closed", None))

    def blocking_read(self, limit: int) -> bytes | Err:
        while (found := self.read(limit)) == b"" and limit:
            wait([self.pollable()], self.waiter)
        return found

    def drop(self) -> None:
        if self._owns:
            self._descriptor.close()


class Output:
    """wasi:io/streams output-stream over a descriptor."""

    def __init__(self, descriptor: Descriptor, waiter: Waiter, *, owns: bool = False) -> None:
        descriptor.flags |= NONBLOCK
        self._descriptor, self.waiter, self._owns = descriptor, waiter, owns
        self._pending = b""

    def pollable(self) -> Pollable:
        descriptor = self._descriptor
        watch = (lambda: (descriptor.fileno(), descriptor.wants(FD_WRITE))) if descriptor.pollable() else lambda: None
        return When(lambda: self.check() != 0, watch)

    def check(self) -> int | Err:
        """How many bytes may be written now."""
        failed = self._push()
        if failed is not None:
            return failed
        if self._pending:
            return 0
        return PIECE if Readiness(self._descriptor, FD_WRITE, self.waiter).ready() else 0

    def write(self, data: bytes) -> Err | None:
        self._pending += data
        return self._push()

    def flush(self) -> Err | None:
        """Wait until everything has gone."""
        while True:
            failed = self._push()
            if failed is not None or not self._pending:
                return failed
            wait([Readiness(self._descriptor, FD_WRITE, self.waiter)], self.waiter)

    def _push(self) -> Err | None:
        while self._pending:
            try:
                taken = self._descriptor.write(memoryview(self._pending))
            except Refused as refused:
                return None if refused.number == Errno.AGAIN else self._broken(refused.number)
            except OSError as error:
                return self._broken(errno_of(error))
            if not taken:
                return None
            self._pending = self._pending[taken:]
        return None

    def _broken(self, number: Errno) -> Err:
        self._pending = b""
        return _failed(number)

    def drop(self) -> None:
        self.flush()
        if self._owns:
            self._descriptor.close()


def _failed(number: Errno) -> Err:
    if number in {Errno.PIPE, Errno.CONNRESET, Errno.NOTCONN}:
        return Err(("closed", None))
    return Err(("last-operation-failed", Own(Failure(number.name.lower(), number), "error")))


def _skip(found: bytes | Err) -> int | Err:
    return found if isinstance(found, Err) else len(found)


def _splice(target: Any, source: Any, limit: int, *, block: bool) -> int | Err:  # Any: the streams of any kind
    allowed = target.check()
    if isinstance(allowed, Err):
        return allowed
    count = min(limit, allowed or (PIECE if block else 0))
    found = source.blocking_read(count) if block else source.read(count)
    if isinstance(found, Err):
        return found
    failed = target.write(found) or (target.flush() if block else None)
    return failed or len(found)


def implementations(waiter: Waiter) -> Mapping[str, Implementation]:
    """wasi:io/poll, wasi:io/error and wasi:io/streams."""
    streams, poll = "wasi:io/streams#[method]", "wasi:io/poll#"

    def and_flush(stream: Any, data: bytes) -> Err | None:  # Any: as above
        return stream.write(data) or stream.flush()  # type: ignore[no-any-return]  # as the stream answers

    def subscribe(stream: Any) -> Own:  # Any: as above
        return Own(stream.pollable(), "pollable")

    return {
        f"{poll}[method]pollable.ready": lambda pollable: pollable.ready(),
        f"{poll}[method]pollable.block": lambda pollable: (wait([pollable], waiter), None)[1],
        f"{poll}poll": lambda pollables: wait(pollables, waiter),
        "wasi:io/error#[method]error.to-debug-string": lambda failure: failure.text,
        f"{streams}input-stream.read": lambda stream, limit: stream.read(limit),
        f"{streams}input-stream.blocking-read": lambda stream, limit: stream.blocking_read(limit),
        f"{streams}input-stream.skip": lambda stream, limit: _skip(stream.read(limit)),
        f"{streams}input-stream.blocking-skip": lambda stream, limit: _skip(stream.blocking_read(limit)),
        f"{streams}input-stream.subscribe": subscribe,
        f"{streams}output-stream.check-write": lambda stream: stream.check(),
        f"{streams}output-stream.write": lambda stream, data: stream.write(data),
        f"{streams}output-stream.blocking-write-and-flush": and_flush,
        f"{streams}output-stream.flush": lambda stream: stream.write(b""),
        f"{streams}output-stream.blocking-flush": lambda stream: stream.flush(),
        f"{streams}output-stream.subscribe": subscribe,
        f"{streams}output-stream.write-zeroes": lambda stream, count: stream.write(bytes(count)),
        f"{streams}output-stream.blocking-write-zeroes-and-flush": lambda stream, count: and_flush(
            stream, bytes(count)
        ),
        f"{streams}output-stream.splice": lambda to, source, limit: _splice(to, source, limit, block=False),
        f"{streams}output-stream.blocking-splice": lambda to, source, limit: _splice(to, source, limit, block=True),
    }
