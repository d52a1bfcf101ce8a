"""The package's data as a directory that cannot be changed: /package.

The files live in the Keep's memory and nowhere else; no path given here ever reaches the operating system. Every
attempt to change something answers ROFS. A path that leaves the directory, by '..' or by being absolute, answers
PERM, as wasmtime's own directories do. There are no links, so every name has one meaning.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NoReturn, Self

from enarx.keep.runtime.abi import (
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_TRUNC,
    Errno,
    FileType,
    Refused,
    Right,
)
from enarx.keep.runtime.descriptors import Descriptor, Stat
from enarx.keep.runtime.paths import Folder, parts

MOUNT: Final = "/package"

_DEVICE: Final = 0x656E617278  # "enarx": any number that is no device of the host
_SET, _CUR, _END = 0, 1, 2

_FILE_RIGHTS: Final = (
    Right.FD_READ
    | Right.FD_SEEK
    | Right.FD_TELL
    | Right.FD_ADVISE
    | Right.FD_SYNC
    | Right.FD_DATASYNC
    | Right.FD_FDSTAT_SET_FLAGS
    | Right.FD_FILESTAT_GET
    | Right.POLL_FD_READWRITE
)
_DIRECTORY_RIGHTS: Final = (
    Right.PATH_OPEN
    | Right.FD_READDIR
    | Right.PATH_READLINK
    | Right.PATH_FILESTAT_GET
    | Right.FD_FILESTAT_GET
    | Right.FD_FDSTAT_SET_FLAGS
    | Right.FD_SYNC
    | Right.FD_DATASYNC
)


class File:
    """Bytes with an inode number."""

    __slots__ = ("content", "inode")
    filetype = FileType.REGULAR_FILE

    def __init__(self, content: bytes, inode: int) -> None:
        self.content, self.inode = memoryview(content), inode

    def stat(self) -> Stat:
        return (_DEVICE, self.inode, self.filetype, 1, len(self.content), 0, 0, 0)


class Directory(Folder[File]):
    """Names with what they mean."""

    __slots__ = ("inode", "names", "parent")
    filetype = FileType.DIRECTORY

    def __init__(self, parent: "Self | None", inode: int) -> None:
        self.names: dict[str, Directory | File] = {}
        self.parent, self.inode = parent, inode

    def stat(self) -> Stat:
        return (_DEVICE, self.inode, self.filetype, 1, 0, 0, 0, 0)


def tree(files: Mapping[str, bytes]) -> Directory:
    """The directory of all files by path; the paths were checked by `Workload`."""
    inodes = iter(range(1, 2**63))
    root = Directory(None, next(inodes))
    for path in sorted(files):
        *parents, name = path.split("/")
        here = root
        for parent in parents:
            below = here.names.get(parent)
            if not isinstance(below, Directory):  # never a File: Workload refuses a file under a file
                below = here.names[parent] = Directory(here, next(inodes))
            here = below
        here.names[name] = File(files[path], next(inodes))
    return root


class OpenFile(Descriptor):
    """A file of the package at a position."""

    __slots__ = ("_file", "_position")
    filetype = FileType.REGULAR_FILE
    rights = _FILE_RIGHTS
    settable = 0x1F  # append, dsync, nonblock, rsync, sync: none matters for what cannot be written

    def __init__(self, file: File, flags: int = 0) -> None:
        super().__init__(flags)
        self._file = file
        self._position = 0

    def read(self, buffer: memoryview) -> int:
        return self.readv([buffer])

    def readv(self, buffers: Sequence[memoryview]) -> int:
        count = self.pread(buffers, self._position)
        self._position += count
        return count

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        if offset < 0:
            raise Refused(Errno.INVAL)
        content, start = self._file.content, offset
        for buffer in buffers:
            count = max(0, min(len(buffer), len(content) - offset))
            buffer[:count] = content[offset : offset + count]
            offset += count
        return offset - start

    def write(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.ROFS)

    def seek(self, offset: int, whence: int) -> int:
        origins = {_SET: 0, _CUR: self._position, _END: len(self._file.content)}
        if whence not in origins or not 0 <= origins[whence] + offset < 2**63:
            raise Refused(Errno.INVAL)
        self._position = origins[whence] + offset
        return self._position

    def advise(self) -> None:
        """Advice about bytes in memory is taken and forgotten."""

    def sync(self) -> None:
        """Nothing is ever unwritten."""

    def change(self) -> NoReturn:
        raise Refused(Errno.ROFS)

    def stat(self) -> Stat:
        return self._file.stat()

    def ready_bytes(self, kind: int) -> int | None:
        del kind
        return max(0, len(self._file.content) - self._position)


class OpenDirectory(Descriptor):
    """A directory of the package; `name` is set on the one that is preopened."""

    __slots__ = ("_directory", "_name")
    filetype = FileType.DIRECTORY
    rights = _DIRECTORY_RIGHTS
    inheriting = Right.ALL  # a program that asks to write has to hear ROFS, not silence
    settable = 0x1F

    def __init__(self, directory: Directory, flags: int = 0, *, name: str | None = None) -> None:
        super().__init__(flags)
        self._directory, self._name = directory, name

    def preopened_as(self) -> str | None:
        return self._name

    def open(self, path: str, oflags: int, rights: int, flags: int) -> Descriptor:
        try:
            found = self._directory.walk(parts(path))
        except Refused as refused:
            if refused.number == Errno.NOENT and oflags & O_CREAT and path:
                raise Refused(Errno.ROFS) from None
            raise
        if oflags & O_CREAT and oflags & O_EXCL:
            raise Refused(Errno.EXIST)
        if isinstance(found, Directory):
            if oflags & (O_CREAT | O_TRUNC) or (rights & Right.FD_WRITE and not oflags & O_DIRECTORY):
                raise Refused(Errno.ISDIR)
            return OpenDirectory(found, flags)
        if oflags & O_DIRECTORY:
            raise Refused(Errno.NOTDIR)
        if oflags & O_TRUNC or rights & Right.FD_WRITE:
            raise Refused(Errno.ROFS)
        return OpenFile(found, flags)

    def entries(self) -> Sequence[tuple[str, int, FileType]]:
        return tuple(self._entries())

    def _entries(self) -> Iterator[tuple[str, int, FileType]]:
        here = self._directory
        yield ".", here.inode, FileType.DIRECTORY
        yield "..", (here.parent or here).inode, FileType.DIRECTORY
        for name, node in here.names.items():
            yield name, node.inode, node.filetype

    def read(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.BADF)

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.BADF)

    def write(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.BADF)

    def sync(self) -> None:
        """Nothing is ever unwritten."""

    def change(self) -> NoReturn:
        raise Refused(Errno.ROFS)

    def stat(self) -> Stat:
        return self._directory.stat()

    def stat_path(self, path: str) -> Stat:
        return self._directory.walk(parts(path)).stat()

    def readlink(self, path: str) -> bytes:
        self._directory.walk(parts(path))
        raise Refused(Errno.INVAL)

    def change_path(self, path: str) -> NoReturn:
        if not path:
            raise Refused(Errno.NOENT)
        if path.startswith("/"):
            raise Refused(Errno.PERM)
        raise Refused(Errno.ROFS)
