"""Compiled code that need not be compiled again: for `enarx run`, whose user owns this machine.

Compiled code is machine code: whoever can put some here decides what this process does. So a file counts only when it
carries a code of authentication (BLAKE2b with a key) over what it is for and what it holds; the key lies in another
directory, and both belong to this user and to nobody else. A package, a registry or a host can put nothing here: the
name and the authentication come from what was compiled, by which version and configuration, never from outside.
A Keep that was deployed has no such cache: nothing of its host's is private to it.

Whatever is wrong with a file, it is compiled again. The oldest files go when all together become too large.
"""

import contextlib
import os
from _blake2 import blake2b  # what hashlib gives, without the time that it takes to load OpenSSL
from _operator import _compare_digest as compare_digest  # likewise, of hmac
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32
MAC_BYTES: Final = 32
MAX_BYTES: Final = 1 << 30  # of all files together


class Cache:
    """Code by what it was compiled from. Problems with the file system mean a miss, never an error."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder, self._key = folder, key

    @classmethod
    def of_user(cls, folder: Path, key_file: Path) -> "Cache | None":
        """The cache in `folder` with the key in `key_file`; None where either is not private to this user."""
        try:
            for directory in (folder, key_file.parent):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(folder)
            return cls(folder, _key(key_file))
        except OSError:
            return None

    def get(self, about: str, source: bytes) -> bytes | None:
        """What was compiled from `source` by `about`, if it is authentic."""
        name = self._name(about, source)
        try:
            data = (self._folder / name).read_bytes()
        except OSError:
            return None
        code = memoryview(data)[MAC_BYTES:]
        if not compare_digest(data[:MAC_BYTES], self._mac(name, code)):
            return None
        return bytes(code)

    def put(self, about: str, source: bytes, code: bytes) -> None:
        """Keep what was compiled; another process may do the same at the same time."""
        name = self._name(about, source)
        fresh = self._folder / f".{os.urandom(8).hex()}"
        try:
            self._make_room(len(code))
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self._mac(name, memoryview(code)) + code)
            fresh.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()

    def _name(self, about: str, source: bytes) -> str:
        return blake2b(about.encode() + b"\0" + source, digest_size=32).hexdigest()

    def _mac(self, name: str, code: memoryview) -> bytes:
        state = blake2b(name.encode(), key=self._key, digest_size=MAC_BYTES)
        state.update(code)
        return state.digest()

    def _make_room(self, size: int) -> None:
        kept = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.iterdir())
        total = size + sum(item[1] for item in kept)
        for _, taken, file in kept:
            if total <= MAX_BYTES:
                return
            file.unlink(missing_ok=True)
            total -= taken


def _require_private(path: Path) -> None:
    """Raises PermissionError unless this user owns `path` and nobody else may write or read it."""
    status = path.stat(follow_symlinks=False)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(path)


def _key(file: Path) -> bytes:
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _require_private(file)
        key = file.read_bytes()
        if len(key) != KEY_BYTES:
            raise PermissionError(file) from None
        return key
    with os.fdopen(made, "wb") as stream:
        key = os.urandom(KEY_BYTES)
        stream.write(key)
    return key
