"""Standard streams: descriptors over those of whoever started the Keep.

Their mode is not changed, for they are shared: reads and writes are preceded by a wait instead, which can be
interrupted (`enarx.keep.runtime.waiting`).
"""

import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import SIGXFSZ
from typing import Final, Self

from enarx.keep.runtime.abi import FD_READ, FD_WRITE, NONBLOCK, Errno, FileType, Refused, Right
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.waiting import Interrupted, Waiter

Output = int | Callable[[bytes], object] | None

PIECE: Final = 65536  # bytes given at once to an output that is a function


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """What stands behind the kinds `stdin`, `stdout` and `stderr`.

    An input is a descriptor of this process, or None for one that is always at its end. An output is a descriptor,
    a function that takes each piece of bytes in order (called in the program's thread, may block), or None to
    swallow everything. Descriptors stay open and keep their mode.
    """

    stdin: int | None = None
    stdout: Output = None
    stderr: Output = None

    @classmethod
    def inherited(cls) -> Self:
        """The streams of this process."""
        return cls(stdin=0, stdout=1, stderr=2)


class Meter:
    """Counts what a program prints on both outputs, and ends it beyond a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes may be printed. Raises Interrupted when there is none left."""
        if not self._left and wanted:
            raise Interrupted(SIGXFSZ, f"limits.output: it has printed {self._limit} bytes")
        taken = min(wanted, self._left)
        self._left -= taken
        return taken


class StandardStream(Descriptor):
    """A standard stream answers as wasmtime's own do: nothing but reading or writing makes sense to it.

    It can be made non-blocking all the same, which wasmtime does not offer.
    """

    __slots__ = ()

    def readv(self, buffers: Sequence[memoryview]) -> int:
        del buffers
        raise Refused(Errno.BADF)

    def require_directory(self) -> None:
        raise Refused(Errno.BADF)

    def advise(self) -> None:
        raise Refused(Errno.BADF)

    def sync(self) -> None:
        raise Refused(Errno.BADF)

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.SPIPE if self.rights & Right.FD_READ else Errno.BADF)

    def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.SPIPE if self.rights & Right.FD_WRITE else Errno.BADF)

    def set_flags(self, flags: int) -> None:
        if flags & ~self.settable:
            raise Refused(Errno.BADF)
        self.flags = flags

    def set_rights(self) -> None:
        raise Refused(Errno.BADF)


class Input(StandardStream):
    """Standard input over a descriptor of this process."""

    __slots__ = ("_fd", "_regular", "_waiter", "filetype")
    rights = inheriting = Right.FD_READ
    polled = (FD_READ,)

    def __init__(self, fd: int, waiter: Waiter) -> None:
        super().__init__()
        self._fd, self._waiter = fd, waiter
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self.filetype = FileType.CHARACTER_DEVICE if os.isatty(fd) else FileType.UNKNOWN

    def read(self, buffer: memoryview) -> int:
        return self.readv([buffer])

    def readv(self, buffers: Sequence[memoryview]) -> int:
        if not any(map(len, buffers)):
            return 0
        while True:
            if not self._regular:
                self._wait()
            try:
                return os.readv(self._fd, buffers)
            except BlockingIOError:
                continue  # somebody else who shares this descriptor was faster

    def _wait(self) -> None:
        if self.flags & NONBLOCK and not self._waiter.poll({self._fd: select.POLLIN}, 0):
            raise Refused(Errno.AGAIN)
        self._waiter.wait(self._fd, select.POLLIN)

    def pollable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def wants(self, kind: int) -> int:
        del kind
        return select.POLLIN

    def confirm(self, kind: int) -> int | None:
        del kind
        return available(self._fd)


class FileOutput(StandardStream):
    """Standard output or error over a descriptor of this process."""

    __slots__ = ("_fd", "_meter", "_piece", "_waiter", "filetype")
    rights = inheriting = Right.FD_WRITE
    polled = (FD_WRITE,)

    def __init__(self, fd: int, waiter: Waiter, meter: Meter | None = None) -> None:
        super().__init__()
        self._fd, self._waiter, self._meter = fd, waiter, meter
        self.filetype = FileType.CHARACTER_DEVICE if os.isatty(fd) else FileType.UNKNOWN
        # poll(2) promises room for PIPE_BUF bytes; more could block where no interrupt reaches
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._piece = None if regular else select.PIPE_BUF

    def write(self, buffer: memoryview) -> int:
        if self._meter is not None:
            buffer = buffer[: self._meter.take(len(buffer))]
        if self._piece is None:
            return os.write(self._fd, buffer)
        taken = 0
        while taken < len(buffer):
            if self.flags & NONBLOCK and not self._waiter.poll({self._fd: select.POLLOUT}, 0):
                if taken:
                    break
                raise Refused(Errno.AGAIN)
            self._waiter.wait(self._fd, select.POLLOUT)
            try:
                taken += os.write(self._fd, buffer[taken : taken + self._piece])
            except BlockingIOError:
                continue  # somebody else who shares this descriptor was faster
        return taken

    def pollable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def wants(self, kind: int) -> int:
        del kind
        return select.POLLOUT


class FunctionOutput(StandardStream):
    """Standard output or error that a function takes: the Keep's channel, a test."""

    __slots__ = ("_meter", "_take")
    rights = inheriting = FileOutput.rights
    polled = FileOutput.polled

    def __init__(self, take: Callable[[bytes], object], meter: Meter | None = None) -> None:
        super().__init__()
        self._take, self._meter = take, meter

    def write(self, buffer: memoryview) -> int:
        if self._meter is not None:
            buffer = buffer[: self._meter.take(len(buffer))]
        for start in range(0, len(buffer), PIECE):
            self._take(bytes(buffer[start : start + PIECE]))
        return len(buffer)


def output(target: Output, waiter: Waiter, meter: Meter | None = None) -> Descriptor:
    """The descriptor of a standard output."""
    if target is None:
        return FunctionOutput(lambda _: None, meter)
    return FileOutput(target, waiter, meter) if isinstance(target, int) else FunctionOutput(target, meter)


def available(fd: int) -> int:
    """Bytes that can be read at once, at least 1: after an event there is something, if only the end (FIONREAD)."""
    answer = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, answer)
    except OSError:
        return 1
    return max(1, int(struct.unpack("<i", answer)[0]))
