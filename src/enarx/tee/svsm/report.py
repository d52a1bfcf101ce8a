"""Evidence of a guest beneath an SVSM: the nonce that the guest gave, the manifest that came back, and SNP's evidence.

    SEQUENCE { nonce OCTET STRING, manifest OCTET STRING, hardware OCTET STRING }   -- hardware: the body of `snp`'s .6

under OID `.9`, which is ours; without an OID the same bytes. What a Keep binds is the nonce: the 64 bytes of flow.md, 2.
"""

from dataclasses import dataclass
from hashlib import sha512
from typing import Final

from enarx import der
from enarx.errors import MalformedError
from enarx.tee import snp
from enarx.tee.model import REPORT_DATA_SIZE, Evidence, Parsed
from enarx.tee.snp.report import MAX_EVIDENCE as MAX_HARDWARE
from enarx.tee.snp.report import OID_WITH_CHAIN
from enarx.tee.snp.report import Report as SnpReport
from enarx.tee.svsm.manifest import MAX_MANIFEST, Manifest

OID: Final = "2.25.67770326763034024982283820726568347927.9"
MAX_EVIDENCE: Final = MAX_HARDWARE + MAX_MANIFEST + 256  # bytes; the rest for the nonce and DER's own

_WHAT: Final = "snp-svsm evidence"


@der.sequence
class _Bundle:
    nonce: bytes
    manifest: bytes
    hardware: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What all of it says, parsed and not believed."""

    nonce: bytes
    manifest: Manifest
    hardware: SnpReport

    @property
    def bound(self) -> bytes:
        """What the hardware's report data has to be: 64 bytes (AMD 58019, 7)."""
        return sha512(self.nonce + self.manifest.data).digest()


def parse(evidence: Evidence) -> Parsed[Report]:
    """Read evidence. Raises MalformedError."""
    if len(evidence.body) > MAX_EVIDENCE:
        raise MalformedError(f"{_WHAT}: expected at most {MAX_EVIDENCE} bytes, found {len(evidence.body)}")
    bundle = der.decode(_Bundle, evidence.body, _WHAT)
    if len(bundle.nonce) != REPORT_DATA_SIZE:
        raise MalformedError(f"{_WHAT}: nonce: expected {REPORT_DATA_SIZE} bytes, found {len(bundle.nonce)}")
    manifest = Manifest.parse(bundle.manifest)
    inner = snp.TECHNOLOGY.parse(Evidence(oid=OID_WITH_CHAIN, body=bundle.hardware))
    report = Report(nonce=bundle.nonce, manifest=manifest, hardware=inner.report)
    return Parsed(report=report, endorsements=inner.endorsements)


def encode(nonce: bytes, manifest: bytes, hardware: bytes) -> Evidence:
    """Evidence as a Keep sends it; `hardware` is the body of the hardware's own evidence."""
    return Evidence(oid=OID, body=der.encode(_Bundle(nonce=nonce, manifest=manifest, hardware=hardware)))
