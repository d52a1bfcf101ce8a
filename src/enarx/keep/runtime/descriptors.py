"""What a program's descriptor can be asked, and the answer of one that cannot do it.

Each kind of descriptor is a class that overrides what it can do: streams in `streams`, TLS in `tls`, the package's
data in `package`. Buffers are views of the program's memory, already checked; they must not be kept. A refusal is
`Refused` with the errno that wasmtime's own WASI gives in the same case, where there is such a case.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

from enarx.keep.runtime.abi import FD_READ, FD_WRITE, NONBLOCK, Errno, FileType, Refused, Right

_NOTHING = memoryview(b"")

Stat = tuple[int, int, int, int, int, int, int, int]  # dev, ino, filetype, nlink, size, atim, mtim, ctim


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A listener that is open: where, and what it speaks."""

    name: str
    prot: str
    addr: str
    port: int


class Descriptor:
    """An open descriptor that can do nothing."""

    __slots__ = ("flags",)

    filetype: FileType = FileType.UNKNOWN
    rights: int = 0
    inheriting: int = 0
    settable: int = NONBLOCK  # the fdflags that a program may change
    polled: Collection[int] = (FD_READ, FD_WRITE)  # what poll_oneoff may ask about

    def __init__(self, flags: int = 0) -> None:
        self.flags = flags

    # -- streams

    def read(self, buffer: memoryview) -> int:
        """Up to len(buffer) bytes; 0 at the end."""
        del buffer
        raise Refused(Errno.BADF)

    def readv(self, buffers: Sequence[memoryview]) -> int:
        """As `read`, into the first buffer unless a kind does better: a short read is always allowed."""
        return self.read(buffers[0]) if buffers else 0

    def write(self, buffer: memoryview) -> int:
        """How many bytes were taken."""
        del buffer
        raise Refused(Errno.BADF)

    def writev(self, buffers: Sequence[memoryview]) -> int:
        taken = 0
        for buffer in buffers or (_NOTHING,):
            taken += self.write(buffer)
            if taken and len(buffers) > 1 and self.flags & NONBLOCK:
                break
        return taken

    def close(self) -> None:
        """The program will not use it again."""

    # -- sockets

    def accept(self, flags: int) -> "Descriptor":
        del flags
        raise Refused(Errno.NOTSOCK)

    def receive(self, buffers: Sequence[memoryview], *, peek: bool, wait_all: bool) -> int:
        del buffers, peek, wait_all
        raise Refused(Errno.NOTSOCK)

    def send(self, buffers: Sequence[memoryview]) -> int:
        del buffers
        raise Refused(Errno.NOTSOCK)

    def shutdown(self, how: int) -> None:
        del how
        raise Refused(Errno.NOTSOCK)

    # -- files

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.SPIPE)

    def seek(self, offset: int, whence: int) -> int:
        del offset, whence
        raise Refused(Errno.SPIPE)

    def advise(self) -> None:
        raise Refused(Errno.SPIPE)

    def sync(self) -> None:
        raise Refused(Errno.INVAL)

    def change(self) -> NoReturn:
        """Whatever would change a file: its size, its times, its space, its bytes at an offset."""
        raise Refused(Errno.BADF)

    def stat(self) -> Stat:
        return (0, 0, self.filetype, 0, 0, 0, 0, 0)

    def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        if self.filetype not in {FileType.REGULAR_FILE, FileType.DIRECTORY}:
            raise Refused(Errno.SPIPE)
        self.change()

    def allocate(self, offset: int, length: int) -> None:
        del offset, length
        self.change()

    def set_size(self, size: int) -> None:
        del size
        self.change()

    def set_times(self, accessed: int, modified: int, which: int) -> None:
        del accessed, modified, which
        self.change()

    def set_flags(self, flags: int) -> None:
        if flags & ~self.settable:
            raise Refused(Errno.INVAL)
        self.flags = flags

    def set_rights(self) -> None:
        """Rights are told, and never taken away."""
        raise Refused(Errno.NOTSUP)

    # -- directories

    def require_directory(self) -> None:
        """Asked before anything else of whatever something is to be found in."""
        if self.filetype is not FileType.DIRECTORY:
            raise Refused(Errno.NOTDIR)

    def preopened_as(self) -> str | None:
        """The path under which a directory is given to the program at its start."""
        return None

    def open(self, path: str, oflags: int, rights: int, flags: int) -> "Descriptor":
        del path, oflags, rights, flags
        raise Refused(Errno.NOTDIR)

    def entries(self) -> Sequence[tuple[str, int, FileType]]:
        """Name, inode and type of everything in a directory."""
        raise Refused(Errno.NOTDIR)

    def stat_path(self, path: str) -> Stat:
        del path
        raise Refused(Errno.NOTDIR)

    def readlink(self, path: str) -> bytes:
        del path
        raise Refused(Errno.NOTDIR)

    def create_directory(self, path: str) -> None:
        self.change_path(path)

    def unlink(self, path: str) -> None:
        self.change_path(path)

    def remove_directory(self, path: str) -> None:
        self.change_path(path)

    def set_path_times(self, path: str, accessed: int, modified: int, which: int) -> None:
        del accessed, modified, which
        self.change_path(path)

    def link(self, path: str, other: "Descriptor", target: str) -> None:
        del other, target
        self.change_path(path)

    def rename(self, path: str, other: "Descriptor", target: str) -> None:
        del other, target
        self.change_path(path)

    def symlink(self, path: str) -> None:
        self.change_path(path)

    def change_path(self, path: str) -> NoReturn:
        """Whatever would change what a directory holds."""
        del path
        raise Refused(Errno.NOTDIR)

    # -- poll

    def pollable(self) -> bool:
        """Whether the operating system has to be asked; otherwise reads and writes never block."""
        return False

    def fileno(self) -> int:
        """What to ask about, if `pollable`."""
        raise Refused(Errno.BADF)

    def ready_bytes(self, kind: int) -> int | None:
        """Bytes that can be moved at once, without asking the operating system; None when that must be asked."""
        del kind
        return None if self.pollable() else 1

    def wants(self, kind: int) -> int:
        """The events of `poll(2)` to wait for before trying to read or write."""
        del kind
        return 0

    def confirm(self, kind: int) -> int | None:
        """After such an event: bytes that can be moved, or None when it was not for the program."""
        del kind
        return 1


class Null(Descriptor):
    """`null`: empty to read, swallows what is written."""

    __slots__ = ()
    rights = Right.FD_READ | Right.FD_WRITE | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE
    settable = NONBLOCK | 1

    def read(self, buffer: memoryview) -> int:
        del buffer
        return 0

    def write(self, buffer: memoryview) -> int:
        return len(buffer)
