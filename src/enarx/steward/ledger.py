"""What a Steward has to remember, in a directory: what it issued, and what the operator took back.

    issued.jsonl    one line for every certificate, appended in one write each
    revoked.json    the rules of `steward revoke`, replaced as a whole

Rules are read again when their file changes, so that a revocation counts at once and in every process. Without a
directory nothing is remembered, and nothing can be revoked.
"""

import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from enarx.errors import ConflictError
from enarx.steward.issuer import Issuer
from enarx.steward.revocation import Issued, Kind, Revocations

CRL_AGE: Final = timedelta(minutes=1)  # how long one signed list is handed out unchanged
_NOTHING: Final = Revocations()


class Ledger:
    """The memory of one Steward, shared by its processes."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._stamp: tuple[int, int, int] | None = None
        self._revocations = _NOTHING
        self._list: tuple[Revocations, datetime, bytes] | None = None
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, issued: Iterable[Issued]) -> None:
        """Append to what was issued. Raises OSError when it cannot be written: then nothing may be handed out."""
        lines = "".join(item.encode() + "\n" for item in issued)
        if self._directory is None or not lines:
            return
        descriptor = os.open(self._directory / "issued.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, lines.encode())
        finally:
            os.close(descriptor)

    def issued(self) -> tuple[Issued, ...]:
        """Everything that was issued, the ended as well. Raises MalformedError when the file was damaged."""
        if self._directory is None:
            return ()
        try:
            text = (self._directory / "issued.jsonl").read_text()
        except FileNotFoundError:
            return ()
        return tuple(Issued.parse(line) for line in text.splitlines())

    def revocations(self) -> Revocations:
        """The rules as they stand now. Raises MalformedError when the file was damaged: then nothing is issued."""
        if self._directory is None:
            return _NOTHING
        path = self._directory / "revoked.json"
        try:
            status = path.stat()
        except FileNotFoundError:
            return _NOTHING
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._revocations, self._stamp = Revocations.parse(path.read_bytes(), str(path)), stamp
        return self._revocations

    def revoke(self, kind: Kind, value: str, at: datetime) -> tuple[Issued, ...]:
        """Add a rule; returns the certificates, not yet ended, that it takes back."""
        if self._directory is None:
            raise ConflictError('this Steward remembers nothing: say where with state = "DIRECTORY"')
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
        if self._list is not None:
            known, signed, data = self._list
            if known == rules and timedelta(0) <= at - signed < CRL_AGE:
                return data
        number = int(at.timestamp() * 1000)  # grows by itself, for all processes alike
        entries = rules.entries(self.issued(), at)
        data = issuer.sign_crl(entries, number=number, begin=at - timedelta(minutes=1), end=at + lifetime)
        self._list = (rules, at, data)
        return data
