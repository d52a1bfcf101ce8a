"""One line of JSON for every decision, with every check and its outcome (flow.md, 4). No secrets: none is known here.

A line that cannot be written is an error of the request: nothing is issued that the log does not tell of. Each line is
one write, so that several processes can append to one file.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from enarx.errors import NotFoundError, UnavailableError
from enarx.pki.certificate import Certificate
from enarx.steward.authority import Authority, Issuance


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
        line = {"time": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "event": event, **fields}
        data = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                written = self._write(data)
        except OSError as error:
            raise UnavailableError(f"the audit log cannot be written: {error.strerror}") from error
        if written != len(data):
            raise UnavailableError("the audit log cannot be written: no room for the whole line")


def record(log: AuditLog, authority: Authority, issuance: Issuance, at: datetime, request_id: str) -> None:
    """One line for each decision; `index` is its place in the bundle."""
    for index, decision in enumerate(issuance.decisions):
        certificate = issuance.issued[index] if index < len(issuance.issued) else None
        name = None if decision.result is None else authority.profile.spiffe_id(decision.result)
        facts = decision.to_json()
        asked = facts.pop("request")
        log.write(
            "decision",
            at,
            request=request_id,
            index=index,
            issued=None if certificate is None else _describe(certificate),
            spiffe_id=name,
            asked=asked,
            **facts,
        )


def _describe(certificate: Certificate) -> Mapping[str, str]:
    return {
        "serial": f"{certificate.serial:x}",
        "sha256": certificate.sha256.hex(),
        "not_after": certificate.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
