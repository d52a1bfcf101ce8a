"""Nobody vouches: the attester of a plain process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enarx.tee import nil
from enarx.tee.model import Evidence, Technology


@dataclass(frozen=True, slots=True)
class NilAttester:
    """Nobody vouches."""

    writable: tuple[Path, ...] = ()
    sealing_secret: bytes | None = None

    @property
    def technology(self) -> Technology[Any, Any]:  # Any: as in Attester
        return nil.TECHNOLOGY

    def measurement(self) -> bytes:
        return b""

    def evidence(self, report_data: bytes) -> Evidence:
        del report_data
        return Evidence(oid=nil.OID, body=b"")
