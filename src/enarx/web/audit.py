"""The audit log: one line of JSON for every decision. No secrets: none is known here.

A line that cannot be written is an error of the request: nothing is done that the log does not tell of. Each line is
one write, so that several processes can append to one file.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TextIO

import msgspec

from enarx.errors import NotFoundError, UnavailableError

_encoder: Final = msgspec.json.Encoder()


class AuditLog:
    """Where decisions are written, one line each, at once."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path | None) -> "AuditLog":
        """Append to a file that others may not read, or write to standard error. Raises NotFoundError."""
        if path is None:
            return cls.to(sys.stderr)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror or 'cannot be written'}") from error
        return cls(partial(os.write, descriptor))

    @classmethod
    def to(cls, stream: TextIO) -> "AuditLog":
        """Write to a stream of text."""

        def write(line: bytes) -> int:
            stream.write(line.decode())
            stream.flush()
            return len(line)

        return cls(write)

    def write(self, event: str, at: datetime, **fields: object) -> None:
        time = at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        data = _encode({"time": time, "event": event, **fields}) + b"\n"
        try:
            with self._lock:
                written = self._write(data)
        except OSError as error:
            raise UnavailableError(f"the audit log cannot be written: {error.strerror}") from error
        if written != len(data):
            raise UnavailableError("the audit log cannot be written: no room for the whole line")


def _encode(line: dict[str, object]) -> bytes:
    """One line of printable ASCII.

    The fast encoder leaves other letters as they are and knows no integer of more than 64 bits; there the slow one serves.
    """
    try:
        data = _encoder.encode(line)
    except (OverflowError, TypeError, UnicodeEncodeError):
        data = b"\x7f"
    if data.isascii() and b"\x7f" not in data:
        return data
    return json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode()
