"""Standard streams and plain TCP: descriptors over those of the operating system.

Sockets are never blocking towards the operating system; a program that wants to block waits in
`enarx.keep.runtime.waiting`, where it can be interrupted. Standard streams belong to whoever started the Keep:
their mode is not changed, so reads and writes are preceded by a wait instead.
"""

import fcntl
import os
import select
import socket
import stat
import struct
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from enarx.keep.runtime.abi import FD_READ, NONBLOCK, SHUT_RD, SHUT_WR, Errno, FileType, Refused, Right
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.waiting import Waiter

Output = int | Callable[[bytes], object] | None

BACKLOG: Final = 1024  # connections that the operating system holds until the program accepts them
PIECE: Final = 65536  # bytes given at once to an output that is a function

_HOW: Final = {SHUT_RD: socket.SHUT_RD, SHUT_WR: socket.SHUT_WR, SHUT_RD | SHUT_WR: socket.SHUT_RDWR}


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


class Input(Descriptor):
    """Standard input over a descriptor of this process."""

    __slots__ = ("_fd", "_regular", "_waiter", "filetype")
    rights = Right.FD_READ | Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE

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
        return select.POLLIN if kind == FD_READ else select.POLLOUT

    def confirm(self, kind: int) -> int | None:
        del kind
        return available(self._fd)


class FileOutput(Descriptor):
    """Standard output or error over a descriptor of this process."""

    __slots__ = ("_fd", "_piece", "_waiter", "filetype")
    rights = Right.FD_WRITE | Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE

    def __init__(self, fd: int, waiter: Waiter) -> None:
        super().__init__()
        self._fd, self._waiter = fd, waiter
        self.filetype = FileType.CHARACTER_DEVICE if os.isatty(fd) else FileType.UNKNOWN
        # poll(2) promises room for PIPE_BUF bytes; more could block where no interrupt reaches
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._piece = None if regular else select.PIPE_BUF

    def write(self, buffer: memoryview) -> int:
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
        return select.POLLIN if kind == FD_READ else select.POLLOUT


class FunctionOutput(Descriptor):
    """Standard output or error that a function takes: the Keep's channel, a test."""

    __slots__ = ("_take",)
    rights = FileOutput.rights

    def __init__(self, take: Callable[[bytes], object]) -> None:
        super().__init__()
        self._take = take

    def write(self, buffer: memoryview) -> int:
        for start in range(0, len(buffer), PIECE):
            self._take(bytes(buffer[start : start + PIECE]))
        return len(buffer)


class Stream(Descriptor):
    """A TCP connection."""

    __slots__ = ("fd", "sock", "waiter")
    filetype = FileType.SOCKET_STREAM
    rights = (
        Right.FD_READ
        | Right.FD_WRITE
        | Right.FD_FDSTAT_SET_FLAGS
        | Right.FD_FILESTAT_GET
        | Right.POLL_FD_READWRITE
        | Right.SOCK_SHUTDOWN
    )

    def __init__(self, sock: socket.socket, waiter: Waiter, flags: int = 0) -> None:
        super().__init__(flags)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.waiter, self.fd = sock, waiter, sock.fileno()

    def block(self, events: int) -> None:
        """Wait for `events`, or refuse when the program does not want to wait."""
        if self.flags & NONBLOCK:
            raise Refused(Errno.AGAIN)
        self.waiter.wait(self.fd, events)

    def read(self, buffer: memoryview) -> int:
        while True:
            try:
                return self.sock.recv_into(buffer)
            except BlockingIOError:
                self.block(select.POLLIN)

    def readv(self, buffers: Sequence[memoryview]) -> int:
        return self.receive(buffers, peek=False, wait_all=False)

    def receive(self, buffers: Sequence[memoryview], *, peek: bool, wait_all: bool) -> int:
        if not buffers:
            return 0
        if wait_all and not peek:
            return _fill(self.read, buffers)
        while True:
            try:
                return self.sock.recvmsg_into(buffers, 0, socket.MSG_PEEK if peek else 0)[0]
            except BlockingIOError:
                self.block(select.POLLIN)

    def write(self, buffer: memoryview) -> int:
        return self.writev([buffer])

    def writev(self, buffers: Sequence[memoryview]) -> int:
        """All bytes when the program wants to block, else what the operating system takes."""
        total, taken = sum(map(len, buffers)), 0
        while taken < total:
            try:
                taken += self.sock.sendmsg(_after(buffers, taken))
            except BlockingIOError:
                if taken and self.flags & NONBLOCK:
                    break
                self.block(select.POLLOUT)
            if self.flags & NONBLOCK:
                break
        return taken

    def send(self, buffers: Sequence[memoryview]) -> int:
        return self.writev(buffers)

    def accept(self, flags: int) -> Descriptor:
        del flags
        raise Refused(Errno.INVAL)

    def shutdown(self, how: int) -> None:
        if how not in _HOW:
            raise Refused(Errno.INVAL)
        self.sock.shutdown(_HOW[how])

    def close(self) -> None:
        self.sock.close()

    def pollable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.fd

    def wants(self, kind: int) -> int:
        return select.POLLIN if kind == FD_READ else select.POLLOUT

    def confirm(self, kind: int) -> int | None:
        return available(self.fd) if kind == FD_READ else 1


class Listener(Descriptor):
    """A listening socket; `wrap` makes the program's descriptor of each connection."""

    __slots__ = ("_sock", "_waiter", "_wrap")
    filetype = FileType.SOCKET_STREAM
    rights = (
        Right.FD_READ | Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE | Right.SOCK_ACCEPT
    )
    inheriting = Stream.rights

    def __init__(
        self,
        sock: socket.socket,
        waiter: Waiter,
        wrap: Callable[[socket.socket, Waiter, int], Stream],
        flags: int = 0,
    ) -> None:
        super().__init__(flags)
        sock.setblocking(False)
        self._sock, self._waiter, self._wrap = sock, waiter, wrap

    def accept(self, flags: int) -> Descriptor:
        if flags & ~NONBLOCK:
            raise Refused(Errno.INVAL)
        while True:
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:
                if self.flags & NONBLOCK:
                    raise Refused(Errno.AGAIN) from None
                self._waiter.wait(self._sock.fileno(), select.POLLIN)
                continue
            return self._wrap(connection, self._waiter, flags)

    def read(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.NOTCONN)

    def shutdown(self, how: int) -> None:
        del how
        raise Refused(Errno.NOTCONN)

    def close(self) -> None:
        self._sock.close()

    def pollable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def wants(self, kind: int) -> int:
        return select.POLLIN if kind == FD_READ else select.POLLOUT


def output(target: Output, waiter: Waiter) -> Descriptor:
    """The descriptor of a standard output."""
    if target is None:
        return FunctionOutput(lambda _: None)
    return FileOutput(target, waiter) if isinstance(target, int) else FunctionOutput(target)


def available(fd: int) -> int:
    """Bytes that can be read at once, at least 1: after an event there is something, if only the end (FIONREAD)."""
    answer = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, answer)
    except OSError:
        return 1
    return max(1, int(struct.unpack("<i", answer)[0]))


def _fill(read: Callable[[memoryview], int], buffers: Sequence[memoryview]) -> int:
    """Read until every buffer is full, the end, or nothing more is there for a program that does not wait."""
    total = 0
    for buffer in buffers:
        filled = 0
        while filled < len(buffer):
            try:
                count = read(buffer[filled:])
            except (Refused, OSError):
                if total:
                    return total
                raise
            if not count:
                return total
            filled += count
            total += count
    return total


def _after(buffers: Sequence[memoryview], skip: int) -> list[memoryview]:
    """The buffers without their first `skip` bytes."""
    rest = []
    for buffer in buffers:
        if skip >= len(buffer):
            skip -= len(buffer)
            continue
        rest.append(buffer[skip:])
        skip = 0
    return rest
