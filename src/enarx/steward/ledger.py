"""What a Steward has to remember, in a directory: what it issued, and what the operator took back.

    issued-2026-01-31.jsonl     one line for every certificate that ends on that day, appended in one write each;
                                removed two days later, for what has ended needs no revoking. A line begins by ending
                                the one before, which a full disk or a lost process may have cut off: such a piece was
                                never answered for, and is passed over
    revoked.json                the rules of `steward revoke`, replaced as a whole, under a lock

Rules are read again when their file changes, so that a revocation counts at once and in every process. Without a
directory nothing is remembered, and nothing can be revoked.
"""

import fcntl
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from enarx.errors import ConflictError, NotFoundError, UnavailableError
from enarx.steward.issuer import Issuer
from enarx.steward.revocation import Issued, Kind, Revocations

CRL_AGE: Final = timedelta(minutes=1)  # how long one signed list is handed out unchanged
_NOTHING: Final = Revocations()
_DAY: Final = re.compile(r"issued-(\d{4}-\d{2}-\d{2})\.jsonl")


class Ledger:
    """The memory of one Steward, shared by its processes."""

    def __init__(self, directory: Path | None, *, durable: bool = False) -> None:
        """`durable`: somebody calls `flush` after `record`."""
        self._directory = directory
        self._rules = None if directory is None else directory / "revoked.json"
        self._durable = durable
        self._lock = threading.Lock()
        self._unflushed: list[int] = []  # descriptors
        self._stamp: tuple[int, int, int] | None = None
        self._revocations = _NOTHING
        self._lists: dict[str, tuple[Revocations, datetime, bytes]] = {}  # of each issuer
        if directory is not None:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise NotFoundError(f"{directory}: {error.strerror or 'cannot be made'}") from error

    def record(self, issued: Iterable[Issued]) -> None:
        """Append to what was issued. Raises UnavailableError when it cannot be written: then nothing is handed out."""
        if self._directory is None:
            return
        lines: dict[date, str] = defaultdict(str)
        for item in issued:
            lines[item.not_after.astimezone(UTC).date()] += item.encode() + "\n"
        for day, text in lines.items():
            self._append(_file_of(self._directory, day), b"\n" + text.encode())

    def flush(self) -> None:
        """Return when all that was recorded is on the disk. Raises UnavailableError when that is not sure."""
        with self._lock:
            descriptors, self._unflushed = self._unflushed, []
        try:
            for descriptor in {os.fstat(each).st_ino: each for each in descriptors}.values():
                os.fsync(descriptor)
        except OSError as error:
            raise UnavailableError(f"what is issued cannot be remembered: {error.strerror}") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _append(self, path: Path, data: bytes) -> None:
        try:
            new = self._durable and not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(descriptor, data)
            finally:
                self._written(descriptor)
            if new:  # its name has to be on the disk, too
                self._written(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise UnavailableError(f"what is issued cannot be remembered: {error.strerror}") from error
        if written != len(data):
            raise UnavailableError("what is issued cannot be remembered: no room for the whole line")

    def _written(self, descriptor: int) -> None:
        """Keep it until it is flushed: an error of the disk is told to those who had the file open."""
        if not self._durable:
            os.close(descriptor)
            return
        with self._lock:
            self._unflushed.append(descriptor)

    def require_writable(self) -> None:
        """Raises UnavailableError when nothing could be remembered now."""
        if self._directory is not None and not os.access(self._directory, os.W_OK | os.X_OK):
            raise UnavailableError(f"{self._directory}: cannot be written")

    def issued(self) -> tuple[Issued, ...]:
        """What was issued and has not ended long ago. Raises MalformedError when a file was damaged."""
        if self._directory is None:
            return ()
        files = sorted(self._directory.glob("issued-*.jsonl"))
        lines = (line for file in files for line in file.read_text().splitlines())
        return tuple(Issued.parse(line) for line in lines if line.endswith("}"))

    def forget(self, at: datetime) -> None:
        """Remove the files of days that are over."""
        if self._directory is None:
            return
        last = (at.astimezone(UTC) - timedelta(days=2)).date().isoformat()
        for file in self._directory.glob("issued-*.jsonl"):
            day = _DAY.fullmatch(file.name)
            if day is not None and day[1] <= last:
                file.unlink(missing_ok=True)

    def revocations(self) -> Revocations:
        """The rules as they stand now. Raises MalformedError when the file was damaged: then nothing is issued."""
        if self._rules is None:
            return _NOTHING
        try:
            status = self._rules.stat()
        except FileNotFoundError:
            return _NOTHING
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._revocations, self._stamp = Revocations.parse(self._rules.read_bytes(), str(self._rules)), stamp
        return self._revocations

    def revoke(self, kind: Kind, value: str, at: datetime) -> tuple[Issued, ...]:
        """Add a rule; returns the certificates, not yet ended, that it takes back."""
        if self._directory is None:
            raise ConflictError('this Steward remembers nothing: say where with state = "DIRECTORY"')
        with _locked(self._directory / ".lock"):
            rules = self.revocations().adding(kind, value, at)
            fresh = self._directory / f".revoked.{os.getpid()}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(rules.encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._directory / "revoked.json")
        only = Revocations().adding(kind, value, at)
        serials = {entry.serial for entry in only.entries(self.issued(), at)}
        return tuple(item for item in self.issued() if int(item.serial, 16) in serials)

    def crl(self, issuer: Issuer, at: datetime, lifetime: timedelta) -> bytes:
        """The revocation list of that moment, signed anew when rules changed or a minute passed."""
        rules = self.revocations()
        if issuer.key_id in self._lists:
            known, signed, data = self._lists[issuer.key_id]
            if known == rules and timedelta(0) <= at - signed < CRL_AGE:
                return data
        self.forget(at)
        number = int(at.timestamp() * 1000)  # grows by itself, for all processes alike
        entries = rules.entries(self.issued(), at)
        data = issuer.sign_crl(entries, number=number, begin=at - timedelta(minutes=1), end=at + lifetime)
        self._lists[issuer.key_id] = (rules, at, data)
        return data


@lru_cache(maxsize=8)
def _file_of(directory: Path, day: date) -> Path:
    """Where certificates are kept that end on that day. Remembered, for joining paths takes longer than writing the line."""
    return directory / f"issued-{day.isoformat()}.jsonl"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
