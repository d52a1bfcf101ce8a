"""One line of JSON for every decision, with every check and its outcome (flow.md, 4). No secrets: none is known here.

A line that cannot be written is an error of the request: nothing is issued that the log does not tell of.
"""

import json
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from enarx.pki.certificate import Certificate
from enarx.steward.authority import Authority, Issuance


class AuditLog:
    """Where decisions are written, one line each, at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path | None) -> "AuditLog":
        """Append to a file, or write to standard error."""
        return cls(sys.stderr if path is None else path.open("a", encoding="utf-8"))

    def write(self, event: str, at: datetime, **fields: object) -> None:
        line = {"time": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "event": event, **fields}
        text = json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"
        with self._lock:
            self._stream.write(text)
            self._stream.flush()


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
