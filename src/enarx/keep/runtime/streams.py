"""Plain TCP: descriptors over sockets of the operating system.

Sockets are never blocking towards the operating system; a program that wants to block waits in
`enarx.keep.runtime.waiting`, where it can be interrupted.
"""

import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

from enarx.keep.runtime.abi import FD_READ, NONBLOCK, SHUT_RD, SHUT_WR, Errno, FileType, Refused, Right
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.stdio import available
from enarx.keep.runtime.waiting import Waiter

BACKLOG: Final = 1024  # connections that the operating system holds until the program accepts them

_HOW: Final = {SHUT_RD: socket.SHUT_RD, SHUT_WR: socket.SHUT_WR, SHUT_RD | SHUT_WR: socket.SHUT_RDWR}


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
    """A listening socket; `wrap` makes the program's descriptor of each connection, or refuses it with None."""

    __slots__ = ("_quiet", "_sock", "_waiter", "_wrap")
    filetype = FileType.SOCKET_STREAM
    rights = (
        Right.FD_READ | Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE | Right.SOCK_ACCEPT
    )
    inheriting = Stream.rights

    def __init__(
        self,
        sock: socket.socket,
        waiter: Waiter,
        wrap: Callable[[socket.socket, Waiter, int], Stream | None],
        flags: int = 0,
    ) -> None:
        super().__init__(flags)
        sock.setblocking(False)
        self._sock, self._waiter, self._wrap = sock, waiter, wrap
        self._quiet: socket.socket | None = None

    def accept(self, flags: int) -> Descriptor:
        if flags & ~NONBLOCK:
            raise Refused(Errno.INVAL)
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError as error:
                if not isinstance(error, BlockingIOError) and self._quiet is None:
                    raise
                if self.flags & NONBLOCK:
                    raise Refused(Errno.AGAIN) from None
                self._waiter.wait(self._sock.fileno(), select.POLLIN)
                continue
            made = self._wrap(connection, self._waiter, flags)
            if made is not None:
                return made
            connection.close()

    def silence(self) -> None:
        """Accept nobody from now on, without the program noticing: it waits for a client that never comes.

        The same descriptor of this process then means a socket on which nothing ever happens. From any thread.
        """
        if self._quiet is None and self._sock.fileno() >= 0:
            here, self._quiet = socket.socketpair()
            with here:
                self._waiter.quiet.add(self._sock.fileno())
                self._sock.shutdown(socket.SHUT_RDWR)  # a wait that is going on would keep it open
                os.dup2(here.fileno(), self._sock.fileno(), inheritable=False)

    def read(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.NOTCONN)

    def shutdown(self, how: int) -> None:
        del how
        raise Refused(Errno.NOTCONN)

    def close(self) -> None:
        self._waiter.quiet.discard(self._sock.fileno())
        self._sock.close()
        if self._quiet is not None:
            self._quiet.close()

    def pollable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    def wants(self, kind: int) -> int:
        return select.POLLIN if kind == FD_READ else select.POLLOUT


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
