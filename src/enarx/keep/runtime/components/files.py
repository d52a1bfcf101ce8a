"""wasi:filesystem for components: the directories that modules have, through the same descriptors."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from enarx.keep.runtime.abi import (
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_TRUNC,
    Errno,
    FileType,
    Refused,
    Right,
    errno_of,
)
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Allowance, Failure, Input, Output
from enarx.keep.runtime.components.values import Err, Own
from enarx.keep.runtime.descriptors import Descriptor, Stat
from enarx.keep.runtime.waiting import Waiter

MAX_READ: Final = 1 << 20  # bytes of one read at an offset

CODES: Final[Mapping[Errno, str]] = {
    Errno.ACCES: "access", Errno.AGAIN: "would-block", Errno.BADF: "bad-descriptor", Errno.EXIST: "exist",
    Errno.ILSEQ: "illegal-byte-sequence", Errno.INTR: "interrupted", Errno.INVAL: "invalid", Errno.IO: "io",
    Errno.ISDIR: "is-directory", Errno.LOOP: "loop", Errno.NAMETOOLONG: "name-too-long", Errno.NOENT: "no-entry",
    Errno.NOMEM: "insufficient-memory", Errno.NOSPC: "insufficient-space", Errno.NOTDIR: "not-directory",
    Errno.NOTEMPTY: "not-empty", Errno.NOTSUP: "unsupported", Errno.PERM: "not-permitted", Errno.PIPE: "pipe",
    Errno.MFILE: "quota", Errno.NFILE: "quota", Errno.ROFS: "read-only", Errno.SPIPE: "invalid-seek", Errno.XDEV: "cross-device",
}  # fmt: skip
_KINDS: Final[Mapping[FileType, str]] = {
    FileType.DIRECTORY: "directory",
    FileType.REGULAR_FILE: "regular-file",
    FileType.CHARACTER_DEVICE: "character-device",
    FileType.SOCKET_STREAM: "socket",
}
_BILLION: Final = 10**9


class Opened:
    """A descriptor as the component holds it, with what it may do."""

    def __init__(self, descriptor: Descriptor, flags: frozenset[str], allowance: Allowance | None = None) -> None:
        """`allowance` gets one back when it is closed; without one it was there before the program."""
        self.descriptor, self.flags, self._allowance = descriptor, flags, allowance

    def open(self, path: str, oflags: int, rights: int, flags: frozenset[str], allowance: Allowance) -> "Opened":
        """Raises Refused, and OSError when no more may be open."""
        allowance.take()
        try:
            return Opened(self.descriptor.open(path, oflags, rights, 0), flags, allowance)
        except BaseException:
            allowance.give()
            raise

    def drop(self) -> None:
        if self._allowance is not None:
            self.descriptor.close()
            self._allowance.give()


class _At(Descriptor):
    """A file from an offset on, as a stream has it; with None, its end."""

    __slots__ = ("_file", "_offset")

    def __init__(self, file: Descriptor, offset: int | None) -> None:
        super().__init__()
        self._file, self._offset = file, offset

    def read(self, buffer: memoryview) -> int:
        count = self._file.pread([buffer], self._offset or 0)
        self._offset = (self._offset or 0) + count
        return count

    def write(self, buffer: memoryview) -> int:
        at = self._file.stat()[4] if self._offset is None else self._offset
        count = self._file.pwrite([buffer], at)
        if self._offset is not None:
            self._offset = at + count
        return count


class Entries:
    """wasi:filesystem directory-entry-stream."""

    def __init__(self, found: Sequence[tuple[str, int, FileType]]) -> None:
        self._rest: Iterator[tuple[str, int, FileType]] = iter([item for item in found if item[0] not in {".", ".."}])

    def next(self) -> dict[str, str] | None:
        for name, _, kind in self._rest:
            return {"type": _KINDS.get(kind, "unknown"), "name": name}
        return None


def _answer(action: Any) -> Implementation:  # Any: a function of any arguments
    def answer(*arguments: Any) -> Any:  # Any: as `action` says
        try:
            return action(*arguments)
        except Refused as refused:
            return Err(CODES.get(refused.number, "io"))
        except OSError as error:
            return Err(CODES.get(errno_of(error), "io"))

    return answer


def _stat(found: Stat) -> dict[str, object]:
    _, _, kind, links, size, accessed, modified, changed = found
    times = {
        f"{name}-timestamp": {"seconds": at // _BILLION, "nanoseconds": at % _BILLION}
        for name, at in (("data-access", accessed), ("data-modification", modified), ("status-change", changed))
    }
    return {"type": _KINDS.get(FileType(kind), "unknown"), "link-count": links, "size": size, **times}


def _times(accessed: tuple[str, Any], modified: tuple[str, Any]) -> tuple[int, int, int]:  # Any: a datetime or None
    which, values = 0, []
    for shift, (name, value) in ((0, accessed), (2, modified)):
        which |= {"no-change": 0, "timestamp": 1, "now": 2}[name] << shift
        values.append(value["seconds"] * _BILLION + value["nanoseconds"] if name == "timestamp" else 0)
    return values[0], values[1], which


def _open(allowance: Allowance, at: Opened, _: object, path: str, oflags: frozenset[str], flags: frozenset[str]) -> Own:
    bits = {"create": O_CREAT, "directory": O_DIRECTORY, "exclusive": O_EXCL, "truncate": O_TRUNC}
    rights = (Right.FD_READ if "read" in flags else 0) | (Right.FD_WRITE if "write" in flags else 0)
    return Own(at.open(path, sum(bits[name] for name in oflags), rights, flags, allowance), "descriptor")


def _read(at: Opened, length: int, offset: int) -> tuple[bytes, bool]:
    buffer = bytearray(min(length, MAX_READ))
    count = at.descriptor.pread([memoryview(buffer)], offset)
    return bytes(buffer[:count]), bool(length) and not count


def _hash(found: Stat) -> dict[str, int]:
    return {"lower": found[1], "upper": found[0]}


def implementations(
    preopened: Sequence[Descriptor], waiter: Waiter, allowance: Allowance
) -> Mapping[str, Implementation]:
    """wasi:filesystem/types and wasi:filesystem/preopens."""
    method = "wasi:filesystem/types#[method]descriptor."
    both = frozenset({"read", "write", "mutate-directory"})

    def directories() -> list[tuple[Own, str]]:
        return [(Own(Opened(item, both), "descriptor"), item.preopened_as() or "") for item in preopened]

    def stream(made: Input | Output, kind: str) -> Own:
        return Own(made, kind)

    def code(failure: Failure) -> str | None:
        return CODES.get(failure.cause) if isinstance(failure.cause, Errno) else None

    functions: dict[str, Implementation] = {
        "read-via-stream": lambda at, offset: stream(Input(_At(at.descriptor, offset), waiter), "input-stream"),
        "write-via-stream": lambda at, offset: stream(Output(_At(at.descriptor, offset), waiter), "output-stream"),
        "append-via-stream": lambda at: stream(Output(_At(at.descriptor, None), waiter), "output-stream"),
        "advise": lambda at, *_: at.descriptor.advise(),
        "sync-data": lambda at: at.descriptor.sync(),
        "sync": lambda at: at.descriptor.sync(),
        "get-flags": lambda at: at.flags,
        "get-type": lambda at: _KINDS.get(at.descriptor.filetype, "unknown"),
        "set-size": lambda at, size: at.descriptor.set_size(size),
        "set-times": lambda at, accessed, modified: at.descriptor.set_times(*_times(accessed, modified)),
        "read": _read,
        "write": lambda at, data, offset: at.descriptor.pwrite([memoryview(data)], offset),
        "read-directory": lambda at: Own(Entries(at.descriptor.entries()), "directory-entry-stream"),
        "create-directory-at": lambda at, path: at.descriptor.create_directory(path),
        "stat": lambda at: _stat(at.descriptor.stat()),
        "stat-at": lambda at, _, path: _stat(at.descriptor.stat_path(path)),
        "set-times-at": lambda at, _, path, accessed, modified: at.descriptor.set_path_times(
            path, *_times(accessed, modified)
        ),
        "link-at": lambda at, _, path, other, target: at.descriptor.link(path, other.descriptor, target),
        "open-at": partial(_open, allowance),
        "readlink-at": lambda at, path: at.descriptor.readlink(path).decode(),
        "remove-directory-at": lambda at, path: at.descriptor.remove_directory(path),
        "rename-at": lambda at, path, other, target: at.descriptor.rename(path, other.descriptor, target),
        "symlink-at": lambda at, _, path: at.descriptor.symlink(path),
        "unlink-file-at": lambda at, path: at.descriptor.unlink(path),
        "metadata-hash": lambda at: _hash(at.descriptor.stat()),
        "metadata-hash-at": lambda at, _, path: _hash(at.descriptor.stat_path(path)),
    }
    return {
        **{f"{method}{name}": _answer(function) for name, function in functions.items()},
        f"{method}is-same-object": lambda one, other: one.descriptor.stat()[:2] == other.descriptor.stat()[:2],
        "wasi:filesystem/types#[method]directory-entry-stream.read-directory-entry": lambda entries: entries.next(),
        "wasi:filesystem/types#filesystem-error-code": code,
        "wasi:filesystem/preopens#get-directories": directories,
    }
