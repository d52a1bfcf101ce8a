"""A store in a directory: one file for each object, by the segments of its key.

A write goes to a file without a name (O_TMPFILE), is flushed to the device, gets its name by `linkat`, and the
directory is flushed too: at no moment is there a part of it to be seen, and whoever dies before the name leaves
nothing. What takes the place of the same content has a name in `.tmp/` for a moment, and everything has where a file
system has no unnamed files; `sweep` removes what dead writers left there. Directories are 0700 and files 0600. Any
number of processes may share the directory.
"""

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Final, Self, cast

from enarx.drawbridge.store.api import CHUNK, Item, Key, UploadBase
from enarx.errors import ConflictError, NotFoundError, UnavailableError

_HIDDEN: Final = ".tmp"  # no key has a segment that begins with a dot
_MAX_KNOWN: Final = 10_000  # directories remembered as durable; forgetting one costs a flush
# A write of 2 MiB or more may be given huge pages. Where a hypervisor takes free ones back, it has to find memory for each
# of them anew, and that takes ten times as long as the write.
_AT_ONCE: Final = 1 << 19
_LARGE: Final = 8 << 20  # bytes of a file that the system takes some milliseconds to forget
_FLUSHED: Final = 8 << 20  # bytes of a large file for which the device is told to begin
_SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


def _from_libc() -> "Callable[[int, int, int, int], int] | None":
    """sync_file_range(2), which Python does not have and not every system."""
    found = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


_sync_file_range: Final = _from_libc()


class FilesystemStore:
    """Objects under `root`, which is made when it is missing."""

    def __init__(self, root: Path, *, unnamed_files: bool = True) -> None:
        self._root = root
        self._prefix = f"{root}/"
        self._unnamed_files = unnamed_files
        self._known: set[Path] = set()  # directories that are durable
        try:
            with _translated("open"):
                root.mkdir(mode=0o700, exist_ok=True)
                self._make_directory(root / _HIDDEN)
        except OSError as error:
            raise UnavailableError(f"storage: open: {root}: {error.strerror}") from error

    @classmethod
    def open(cls, location: str) -> Self:
        """The store at a path. Raises UnavailableError when it cannot be used."""
        return cls(Path(location).expanduser().absolute())

    def get(self, key: Key, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            with _translated("read"):
                descriptor = os.open(f"{self._prefix}{key.text}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"storage: no object {key}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotFoundError(f"storage: no object {key}")
        return _Pieces(descriptor, start, stop)

    def stat(self, key: Key) -> Item | None:
        try:
            with _translated("stat"):
                status = os.stat(f"{self._prefix}{key.text}")  # noqa: PTH116 - asked several times for every request
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Item(key=key, size=status.st_size, modified=datetime.fromtimestamp(status.st_mtime, UTC))

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        for key in self._walk(prefix.text, self._path(prefix), "" if after is None else after.text):
            if after is None or key > after:
                item = self.stat(key)
                if item is not None:
                    yield item

    def create(self, key: Key, data: bytes) -> None:
        target = self._path(key)
        with self.upload() as upload:
            upload.write(data)
            if not upload.link(target):
                raise ConflictError(f"storage: there is an object {key}")

    def upload(self, key: Key | None = None) -> "FileUpload":
        del key  # known early is no better here
        return FileUpload(self)

    def delete(self, key: Key) -> None:
        with _translated("delete"):
            self._path(key).unlink(missing_ok=True)

    def sweep(self, before: datetime) -> int:
        count = 0
        with _translated("sweep"):
            for path in (self._root / _HIDDEN).iterdir():
                with suppress(FileNotFoundError):  # its writer was alive after all, or another sweep was faster
                    if path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        count += 1
        return count

    # -- for uploads

    def temporary(self) -> tuple[int, Path | None]:
        """A file to write to, and its name if it has to have one."""
        hidden = self._root / _HIDDEN
        if self._unnamed_files:
            try:
                return os.open(hidden, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._unnamed_files = False
        name = hidden / secrets.token_hex(16)
        return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), name

    def link(self, descriptor: int, name: Path | None, target: Path) -> bool:
        """Give the file another name, durably; False when that name is taken."""
        if not self._link(descriptor, name, target):
            return False
        _sync(target.parent)
        return True

    def _link(self, descriptor: int, name: Path | None, target: Path) -> bool:
        directory = self._open_directory(target.parent)
        try:
            # With a directory's descriptor Python calls linkat(AT_SYMLINK_FOLLOW), which /proc/self/fd needs.
            source = f"/proc/self/fd/{descriptor}" if name is None else str(name)
            os.link(source, target.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
        except FileExistsError:
            return False
        finally:
            os.close(directory)
        return True

    def replace(self, descriptor: int, name: Path | None, target: Path) -> None:
        """Put the file where another is."""
        fresh = name or self._root / _HIDDEN / secrets.token_hex(16)
        if name is None:
            self._link(descriptor, None, fresh)  # need not be durable
        with _kept(target):
            fresh.replace(target)
        _sync(target.parent)

    def path(self, key: Key) -> Path:
        return self._path(key)

    def _path(self, key: Key) -> Path:
        return self._root.joinpath(*key.segments)

    def _open_directory(self, path: Path) -> int:
        self._make_directory(path)
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody removed it since we made it
            self._known.clear()
            self._make_directory(path)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _make_directory(self, path: Path) -> None:
        """Make it and those above it, each durably in the one above."""
        if path in self._known:
            return
        if path != self._root:
            self._make_directory(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
            _sync(path.parent)  # even if somebody else made it: it may not be durable yet
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known.add(path)

    def _walk(self, prefix: str, folder: Path, after: str) -> Iterator[Key]:
        try:
            with _translated("list"), os.scandir(folder) as entries:
                names = sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:  # a directory sorts as its objects do, with a slash behind its name
            if name.endswith("/"):
                beginning = f"{prefix}/{name}"
                if beginning > after or after.startswith(beginning):  # else all of it comes before
                    yield from self._walk(beginning[:-1], folder / name[:-1], after)
            else:
                yield Key(f"{prefix}/{name}")


class FileUpload(UploadBase):
    """A file that has no name that anybody reads, until it is committed."""

    def __init__(self, store: FilesystemStore) -> None:
        self._store = store
        with _translated("write"):
            self._descriptor, self._name = store.temporary()
        self._open = True
        self._written = self._begun = 0  # bytes, and those of them that are on their way to the device

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with _translated("write"):
            while view:
                size = os.write(self._descriptor, view[:_AT_ONCE])
                view, self._written = view[size:], self._written + size
        if self._written - self._begun >= _FLUSHED:
            _begin_flush(self._descriptor, self._begun, self._written - self._begun)
            self._begun = self._written

    def commit(self, key: Key) -> None:
        target = self._store.path(key)
        if not self.link(target):
            with _translated("write"), _still_there():
                self._store.replace(self._descriptor, self._name, target)
            self._name = None
        self.abort()

    def link(self, target: Path) -> bool:
        """Make it durable and name it; False when that name is taken."""
        with _translated("write"), _still_there():
            os.fsync(self._descriptor)
            return self._store.link(self._descriptor, self._name, target)

    def abort(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)
            if self._name is not None:
                self._name.unlink(missing_ok=True)


class _Pieces(Iterator[bytes]):
    """The open file, piece by piece; closed at its end, or when nobody holds it any more."""

    def __init__(self, descriptor: int, start: int, stop: int | None) -> None:
        self._descriptor: int | None = descriptor
        self._at = start
        self._stop = stop

    def __next__(self) -> bytes:
        if self._descriptor is None:
            raise StopIteration
        wanted = self._wanted()
        with _translated("read"):
            data = os.pread(self._descriptor, wanted, self._at) if wanted > 0 else b""
        if not data:
            self.close()
            raise StopIteration
        self._at += len(data)
        return data

    def now(self) -> bytes | None:
        """What the page cache has. None at the end, too, and where the kernel or the file system can not tell."""
        wanted = self._wanted()
        if self._descriptor is None or wanted <= 0:
            return None
        data = bytearray(wanted)
        try:
            size = os.preadv(self._descriptor, [data], self._at, os.RWF_NOWAIT)
        except OSError:
            return None  # asked again by `next`, which says what is wrong
        if size < wanted:
            return None
        self._at += size
        return cast("bytes", data)  # as good as bytes

    def _wanted(self) -> int:
        return CHUNK if self._stop is None else min(CHUNK, self._stop - self._at)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Let through what says something about a name; say the rest as a failure of the storage."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        raise UnavailableError(f"storage: {doing}: {error.strerror or type(error).__name__}") from error


@contextmanager
def _still_there() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UnavailableError("storage: write: what was written was swept away as if nobody wrote it") from error


def _begin_flush(descriptor: int, start: int, size: int) -> None:
    """Let the device begin, so that the end need not wait for all. It promises nothing: what counts is the fsync later."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """What is at `path` may lose its name; its bytes go a little later. For a large file that takes a while, and nobody waits."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield  # gone already, or a matter for whoever takes its name
        return
    try:
        yield
    finally:
        if os.fstat(descriptor).st_size < _LARGE:
            os.close(descriptor)
        else:
            Thread(target=os.close, args=(descriptor,), name="let-go").start()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
