"""The audit log: one line of JSON for every decision. No secrets: none is known here.

A line that cannot be written is an error of the request: nothing is done that the log does not tell of. Each line is
one write, so that several processes can append to one file.
"""

import codecs
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TextIO

import msgspec

from enarx.errors import NotFoundError, UnavailableError

_ESCAPED: Final = "enarx.json"
_encoder: Final = msgspec.json.Encoder()


class AuditLog:
    """Where decisions are written, one line each, at once."""

    def __init__(self, write: Callable[[bytes], int], flush: Callable[[], None] = lambda: None) -> None:
        self._write = write
        self._flush = flush
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
        log = cls(partial(os.write, descriptor), partial(os.fsync, descriptor))
        weakref.finalize(log, os.close, descriptor)  # a log that was rotated away is closed with its last request
        return log

    @classmethod
    def to(cls, stream: TextIO) -> "AuditLog":
        """Write to a stream of text."""

        def write(line: bytes) -> int:
            stream.write(line.decode())
            stream.flush()
            return len(line)

        return cls(write)

    def flush(self) -> None:
        """Return when every line of a file is on the disk. Raises UnavailableError when that is not sure."""
        try:
            self._flush()
        except OSError as error:
            raise UnavailableError(f"the audit log cannot be written: {error.strerror}") from error

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
    """One line of printable ASCII, as `json.dumps` writes it, which serves where the fast encoder has no way to."""
    try:
        data = _encoder.encode(line)
    except (OverflowError, TypeError, UnicodeEncodeError):  # integers of more than 64 bits; halves of a pair
        data = json.dumps(msgspec.to_builtins(line), ensure_ascii=True, separators=(",", ":")).encode()
    if not data.isascii():
        data = data.decode().encode("ascii", _ESCAPED)
    return data.replace(b"\x7f", b"\\u007f")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What is not ASCII, in JSON's way: outside the basic plane as a pair of surrogates (RFC 8259, 7)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    pairs = error.object[error.start : error.end].encode("utf-16-be")
    return "".join(f"\\u{pairs[i]:02x}{pairs[i + 1]:02x}" for i in range(0, len(pairs), 2)), error.end


codecs.register_error(_ESCAPED, _escape)
