"""Files that an operator names: read whole within a limit, and kept from others when they hold a secret."""

import os
import stat
from pathlib import Path
from typing import Final

from enarx.errors import ConflictError, MalformedError, NotFoundError

MAX_PEM: Final = 256 * 1024  # bytes


def read_file(path: Path, limit: int = MAX_PEM) -> bytes:
    """All of a file. Raises NotFoundError, and MalformedError when it is larger than `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be read'}") from error
    if len(data) > limit:
        raise MalformedError(f"{path}: larger than {limit} bytes")
    return data


def require_file(path: Path) -> None:
    """Raises NotFoundError unless `path` is a file, for what is read later and elsewhere."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")


def read_private(path: Path) -> bytes:
    """A file that holds a secret. Raises MalformedError when everybody may read or change it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o007:
                raise MalformedError(f"{path}: everybody may read or change it (mode {mode:04o}); chmod 600 {path}")
            return file.read(MAX_PEM)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be read'}") from error


def write_file(path: Path, data: bytes) -> None:
    """What others may read. Raises NotFoundError when it cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be written'}") from error


def require_folder(path: Path) -> None:
    """Made, with those above it, unless it is there. Raises NotFoundError, so that work is not done for nothing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be made'}") from error
    if not os.access(path, os.W_OK):
        raise NotFoundError(f"{path}: cannot be written")


def write_private(path: Path, data: bytes) -> None:
    """A new file that only its owner may read. Raises ConflictError when it is there, NotFoundError when it cannot be."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConflictError(f"{path}: is there already, and is not written over") from None  # all is said
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be written'}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
