"""A private directory in the Keep's memory: empty at the start, gone at the end, of at most so many bytes.

Ordinary files and directories, hard links, no symbolic ones. A path that leaves the directory answers PERM, as
wasmtime's own directories do. Every file and directory counts OVERHEAD bytes beside its content; what does not fit
answers NOSPC. A file that was unlinked lives, and counts, until its last descriptor is closed.
"""

import time
from collections.abc import Sequence
from typing import Final, Self

from enarx.keep.runtime.abi import (
    APPEND,
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
from enarx.keep.runtime.paths import MAX_NAME, Folder, parts

OVERHEAD: Final = 256  # bytes that a name costs, so that empty files are not free

_DEVICE: Final = 0x656E617279
_SET, _CUR, _END = 0, 1, 2
_ACCESSED, _ACCESSED_NOW, _MODIFIED, _MODIFIED_NOW = 1, 2, 4, 8  # fstflags
_FILE_RIGHTS: Final = (
    Right.FD_DATASYNC | Right.FD_READ | Right.FD_SEEK | Right.FD_FDSTAT_SET_FLAGS | Right.FD_SYNC | Right.FD_TELL
    | Right.FD_WRITE | Right.FD_ADVISE | 1 << 8 | Right.FD_FILESTAT_GET | 1 << 22 | 1 << 23 | Right.POLL_FD_READWRITE
)  # fmt: skip
_DIRECTORY_RIGHTS: Final = Right.ALL & ~(Right.FD_READ | Right.FD_WRITE | Right.FD_SEEK | Right.FD_TELL | 3 << 28)


class Node:
    """What a file and a directory have in common."""

    __slots__ = ("accessed", "changed", "inode", "links", "modified")
    filetype: FileType

    def __init__(self, inode: int) -> None:
        self.inode, self.links = inode, 1
        self.accessed = self.modified = self.changed = time.time_ns()

    @property
    def size(self) -> int:
        return 0

    def touch(self) -> None:
        self.modified = self.changed = time.time_ns()

    def stat(self) -> Stat:
        times = (self.accessed, self.modified, self.changed)
        return (_DEVICE, self.inode, self.filetype, self.links, self.size, *times)

    def set_times(self, accessed: int, modified: int, which: int) -> None:
        """Set what `which` says. Refused(INVAL) when it says both a time and now."""
        if which >> 4 or which & 3 == 3 or which >> 2 == 3:
            raise Refused(Errno.INVAL)
        now = time.time_ns()
        if which & (_ACCESSED | _ACCESSED_NOW):
            self.accessed = now if which & _ACCESSED_NOW else accessed
        if which & (_MODIFIED | _MODIFIED_NOW):
            self.modified = now if which & _MODIFIED_NOW else modified
        self.changed = now


class File(Node):
    """Bytes that can be changed."""

    __slots__ = ("content", "opened")
    filetype = FileType.REGULAR_FILE

    def __init__(self, inode: int) -> None:
        super().__init__(inode)
        self.content = bytearray()
        self.opened = 0

    @property
    def size(self) -> int:
        return len(self.content)


class Directory(Node, Folder[File]):
    """Names with what they mean."""

    __slots__ = ("names", "parent")
    filetype = FileType.DIRECTORY

    def __init__(self, inode: int, parent: "Self | None") -> None:
        super().__init__(inode)
        self.names: dict[str, File | Directory] = {}
        self.parent = parent


class Volume:
    """One file system in memory, and what it may still take."""

    def __init__(self, size: int) -> None:
        self._left, self._inode = size, 1
        self.root = Directory(1, None)

    def open(self, name: str) -> "OpenDirectory":
        """The descriptor of the whole, preopened as `name`."""
        return OpenDirectory(self, self.root, name=name)

    def number(self) -> int:
        self._inode += 1
        return self._inode

    def take(self, size: int) -> None:
        """Count `size` more bytes, or fewer. Refused(NOSPC) when they do not fit."""
        if size > self._left:
            raise Refused(Errno.NOSPC)
        self._left -= size

    def resize(self, file: File, size: int) -> None:
        self.take(size - len(file.content))
        if size < len(file.content):
            del file.content[size:]
        else:
            file.content.extend(bytes(size - len(file.content)))

    def release(self, file: File) -> None:
        """Give back what nobody can reach any more."""
        if not file.links and not file.opened:
            self.take(-len(file.content))
            file.content = bytearray()


def _place(start: Directory, path: str) -> tuple[Directory, str, bool]:
    """The directory in which `path` names something, the name, and whether it must be a directory."""
    names = parts(path)
    slash = False
    while len(names) > 1 and names[-1] in {"", "."}:
        names, slash = names[:-1], True
    parent = start.walk(names[:-1])
    if not isinstance(parent, Directory):
        raise Refused(Errno.NOTDIR)
    if names[-1] == "..":
        start.walk(names)  # PERM where it leads out
    if names[-1] in {"", ".", ".."}:
        raise Refused(Errno.INVAL)
    if len(names[-1].encode()) > MAX_NAME:
        raise Refused(Errno.NAMETOOLONG)
    return parent, names[-1], slash


class OpenFile(Descriptor):
    """A file at a position."""

    __slots__ = ("_file", "_position", "_readable", "_volume", "_writable")
    filetype = FileType.REGULAR_FILE
    settable = 0x1F

    def __init__(self, volume: Volume, file: File, rights: int, flags: int) -> None:
        super().__init__(flags)
        self._volume, self._file, self._position = volume, file, 0
        self._readable, self._writable = bool(rights & Right.FD_READ), bool(rights & Right.FD_WRITE)
        file.opened += 1

    @property
    def rights(self) -> int:  # type: ignore[override]  # of this file, not of its kind
        refused = (0 if self._readable else Right.FD_READ) | (0 if self._writable else Right.FD_WRITE)
        return _FILE_RIGHTS & ~refused

    def read(self, buffer: memoryview) -> int:
        return self.readv([buffer])

    def readv(self, buffers: Sequence[memoryview]) -> int:
        count = self.pread(buffers, self._position)
        self._position += count
        return count

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        if not self._readable:
            raise Refused(Errno.BADF)
        if offset < 0:
            raise Refused(Errno.INVAL)
        start, content = offset, self._file.content
        for buffer in buffers:
            count = max(0, min(len(buffer), len(content) - offset))
            buffer[:count] = content[offset : offset + count]
            offset += count
        self._file.accessed = time.time_ns()
        return offset - start

    def write(self, buffer: memoryview) -> int:
        at = len(self._file.content) if self.flags & APPEND else self._position
        count = self.pwrite([buffer], at)
        self._position = at + count
        return count

    def writev(self, buffers: Sequence[memoryview]) -> int:
        return sum(self.write(buffer) for buffer in buffers)

    def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        if not self._writable:
            raise Refused(Errno.BADF)
        if offset < 0:
            raise Refused(Errno.INVAL)
        start, content = offset, self._file.content
        total = sum(map(len, buffers))
        if total and offset + total > len(content):
            self._volume.resize(self._file, offset + total)
        for buffer in buffers:
            content[offset : offset + len(buffer)] = buffer
            offset += len(buffer)
        self._file.touch()
        return offset - start

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

    def allocate(self, offset: int, length: int) -> None:
        """As wasmtime, which has no such thing: space is counted when it is written."""
        del offset, length
        raise Refused(Errno.NOTSUP)

    def set_size(self, size: int) -> None:
        if not self._writable:
            raise Refused(Errno.INVAL)
        if size >= 2**63:
            raise Refused(Errno.INVAL)
        self._volume.resize(self._file, size)
        self._file.touch()

    def set_times(self, accessed: int, modified: int, which: int) -> None:
        self._file.set_times(accessed, modified, which)

    def stat(self) -> Stat:
        return self._file.stat()

    def close(self) -> None:
        self._file.opened -= 1
        self._volume.release(self._file)

    def ready_bytes(self, kind: int) -> int | None:
        del kind
        return max(0, len(self._file.content) - self._position)


class OpenDirectory(Descriptor):
    """A directory; `name` is set on the one that is preopened."""

    __slots__ = ("_name", "directory", "volume")
    filetype = FileType.DIRECTORY
    rights = _DIRECTORY_RIGHTS
    inheriting = Right.ALL
    settable = 0x1F

    def __init__(self, volume: Volume, directory: Directory, flags: int = 0, *, name: str | None = None) -> None:
        super().__init__(flags)
        self.volume, self.directory, self._name = volume, directory, name

    def preopened_as(self) -> str | None:
        return self._name

    def open(self, path: str, oflags: int, rights: int, flags: int) -> Descriptor:
        if oflags & O_CREAT and oflags & O_DIRECTORY:
            raise Refused(Errno.INVAL)
        try:
            found = self.directory.walk(parts(path))
        except Refused as refused:
            if refused.number != Errno.NOENT or not oflags & O_CREAT or not path:
                raise
            return OpenFile(self.volume, self._create(path), rights, flags)
        if oflags & O_CREAT and oflags & O_EXCL:
            raise Refused(Errno.EXIST)
        if isinstance(found, Directory):
            if oflags & (O_CREAT | O_TRUNC) or (rights & Right.FD_WRITE and not oflags & O_DIRECTORY):
                raise Refused(Errno.ISDIR)
            return OpenDirectory(self.volume, found, flags)
        if oflags & O_DIRECTORY:
            raise Refused(Errno.NOTDIR)
        if oflags & O_TRUNC:
            self.volume.resize(found, 0)
            found.touch()
        return OpenFile(self.volume, found, rights, flags)

    def _create(self, path: str) -> File:
        parent, name, slash = _place(self.directory, path)
        if slash:
            raise Refused(Errno.ISDIR)
        self.volume.take(OVERHEAD)
        made = parent.names[name] = File(self.volume.number())
        parent.touch()
        return made

    def entries(self) -> Sequence[tuple[str, int, FileType]]:
        here = self.directory
        fixed = [(".", here.inode, FileType.DIRECTORY), ("..", (here.parent or here).inode, FileType.DIRECTORY)]
        return [*fixed, *((name, node.inode, node.filetype) for name, node in here.names.items())]

    def read(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.BADF)

    def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.BADF)

    def write(self, buffer: memoryview) -> int:
        del buffer
        raise Refused(Errno.BADF)

    def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        del buffers, offset
        raise Refused(Errno.BADF)

    def sync(self) -> None:
        """Nothing is ever unwritten."""

    def set_times(self, accessed: int, modified: int, which: int) -> None:
        self.directory.set_times(accessed, modified, which)

    def stat(self) -> Stat:
        return self.directory.stat()

    def stat_path(self, path: str) -> Stat:
        return self.directory.walk(parts(path)).stat()

    def set_path_times(self, path: str, accessed: int, modified: int, which: int) -> None:
        self.directory.walk(parts(path)).set_times(accessed, modified, which)

    def readlink(self, path: str) -> bytes:
        self.directory.walk(parts(path))
        raise Refused(Errno.INVAL)

    def create_directory(self, path: str) -> None:
        parent, name, _ = _place(self.directory, path)
        if name in parent.names:
            raise Refused(Errno.EXIST)
        self.volume.take(OVERHEAD)
        parent.names[name] = Directory(self.volume.number(), parent)
        parent.touch()

    def unlink(self, path: str) -> None:
        parent, name, slash = _place(self.directory, path)
        found = parent.names.get(name)
        if found is None:
            raise Refused(Errno.NOENT)
        if isinstance(found, Directory):
            raise Refused(Errno.ISDIR)
        if slash:
            raise Refused(Errno.NOTDIR)
        self._forget(parent, name, found)

    def remove_directory(self, path: str) -> None:
        parent, name, _ = _place(self.directory, path)
        found = parent.names.get(name)
        if found is None:
            raise Refused(Errno.NOENT)
        if not isinstance(found, Directory):
            raise Refused(Errno.NOTDIR)
        if found.names:
            raise Refused(Errno.NOTEMPTY)
        self._forget(parent, name, found)

    def _forget(self, parent: Directory, name: str, node: File | Directory) -> None:
        del parent.names[name]
        parent.touch()
        node.links -= 1
        self.volume.take(-OVERHEAD)
        if isinstance(node, File):
            self.volume.release(node)

    def link(self, path: str, other: Descriptor, target: str) -> None:
        if not isinstance(other, OpenDirectory) or other.volume is not self.volume:
            raise Refused(Errno.XDEV)
        found = self.directory.walk(parts(path))
        parent, name, slash = _place(other.directory, target)
        if isinstance(found, Directory):
            raise Refused(Errno.PERM)
        if slash:
            raise Refused(Errno.NOENT)
        if name in parent.names:
            raise Refused(Errno.EXIST)
        self.volume.take(OVERHEAD)
        parent.names[name] = found
        found.links += 1
        parent.touch()

    def rename(self, path: str, other: Descriptor, target: str) -> None:
        if not isinstance(other, OpenDirectory) or other.volume is not self.volume:
            raise Refused(Errno.XDEV)
        source, old, slash = _place(self.directory, path)
        parent, new, target_slash = _place(other.directory, target)
        moved = source.names.get(old)
        if moved is None:
            raise Refused(Errno.NOENT)
        if not isinstance(moved, Directory) and (slash or target_slash):
            raise Refused(Errno.NOTDIR)
        there = parent.names.get(new)
        if there is moved:
            return
        if isinstance(moved, Directory):
            above: Directory | None = parent
            while above is not None:
                if above is moved:
                    raise Refused(Errno.INVAL)
                above = above.parent
        if there is not None:
            self._require_replaceable(moved, there)
            self._forget(parent, new, there)
        del source.names[old]
        parent.names[new] = moved
        if isinstance(moved, Directory):
            moved.parent = parent
        source.touch()
        parent.touch()

    @staticmethod
    def _require_replaceable(moved: File | Directory, there: File | Directory) -> None:
        if isinstance(there, Directory):
            if not isinstance(moved, Directory):
                raise Refused(Errno.ISDIR)
            if there.names:
                raise Refused(Errno.NOTEMPTY)
        elif isinstance(moved, Directory):
            raise Refused(Errno.NOTDIR)
