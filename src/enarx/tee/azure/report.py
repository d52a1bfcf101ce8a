"""Evidence of a confidential VM of Azure's: paravisor's report, TPM quote, register values, and the hardware's evidence.

    SEQUENCE { hcl OCTET STRING, message OCTET STRING, signature OCTET STRING, registers SEQUENCE OF OCTET STRING,
               hardware OCTET STRING }                       -- the evidence of `snp` (.6) or `tdx` (.2), as a Keep has it

under OID `.7` (SNP) and `.8` (TDX), which are ours. What attesters of the Confidential Containers project record as JSON
(version 1: hcl_report, tpm_quote {message, signature, pcrs}, vcek or td_quote) is read as well, bare. What a Keep binds
is the quote's extra data: the 64 bytes of flow.md, 2, without the zeros at their end.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate
from enarx.tee import snp, tdx
from enarx.tee.azure.hcl import HclReport, Kind, kind_of
from enarx.tee.azure.tpm import REGISTERS, Quote
from enarx.tee.model import Endorsements, Evidence, Parsed, Technology
from enarx.tee.snp.report import OID_WITH_CHAIN
from enarx.tee.tdx.report import OID as TDX_OID

OIDS: Final[Mapping[Kind, str]] = {
    "snp": "2.25.67770326763034024982283820726568347927.7",
    "tdx": "2.25.67770326763034024982283820726568347927.8",
}
HARDWARE: Final[Mapping[Kind, Technology[Any, Any]]] = {"snp": snp.TECHNOLOGY, "tdx": tdx.TECHNOLOGY}  # Any: as there
HARDWARE_OIDS: Final[Mapping[Kind, str]] = {"snp": OID_WITH_CHAIN, "tdx": TDX_OID}
MAX_EVIDENCE: Final = 512 * 1024  # bytes

_WHAT: Final = "azure evidence"

R = TypeVar("R")


@der.sequence
class _Bundle:
    hcl: bytes
    message: bytes
    signature: bytes
    registers: list[bytes]
    hardware: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Generic[R]):
    """What all of it says, parsed and not believed. `hardware` is the report of SNP, or the quote of TDX."""

    hcl: HclReport
    quote: Quote
    registers: tuple[bytes, ...]
    hardware: R


def parse_as(kind: Kind, evidence: Evidence) -> Parsed[Report[Any]]:  # Any: whichever hardware's report
    """Read evidence of either form. Raises MalformedError."""
    if len(evidence.body) > MAX_EVIDENCE:
        raise MalformedError(f"{_WHAT}: expected at most {MAX_EVIDENCE} bytes, found {len(evidence.body)}")
    if evidence.oid == "":
        return _recorded(kind, evidence.body)
    bundle = der.decode(_Bundle, evidence.body, _WHAT)
    inner = HARDWARE[kind].parse(Evidence(oid=HARDWARE_OIDS[kind], body=bundle.hardware))
    report = _report(kind, bundle.hcl, bundle.message, bundle.signature, tuple(bundle.registers), inner.report)
    return Parsed(report=report, endorsements=inner.endorsements)


def encode(
    kind: Kind, hcl: bytes, message: bytes, signature: bytes, registers: list[bytes], hardware: bytes
) -> Evidence:
    """Evidence as a Keep sends it; `hardware` is the body of the hardware's own evidence."""
    body = der.encode(_Bundle(hcl=hcl, message=message, signature=signature, registers=registers, hardware=hardware))
    return Evidence(oid=OIDS[kind], body=body)


def _report(
    kind: Kind, hcl: bytes, message: bytes, signature: bytes, registers: tuple[bytes, ...], hardware: R
) -> Report[R]:
    found = HclReport.parse(hcl)
    if found.kind != kind:
        raise MalformedError(f"{_WHAT}: expected a report of {kind}, found one of {found.kind}")
    if len(registers) not in {0, REGISTERS} or any(len(value) != 32 for value in registers):
        raise MalformedError(f"{_WHAT}: expected {REGISTERS} registers of 32 bytes, or none")
    return Report(hcl=found, quote=Quote.parse(message, signature), registers=registers, hardware=hardware)


def _recorded(kind: Kind, body: bytes) -> Parsed[Report[Any]]:  # Any: as above
    if body[:4] == b"HCLA":
        raise MalformedError(
            f"{_WHAT}: an HCL report alone; the TPM's quote has to come with it, as attesters record both"
        )
    try:
        found = json.loads(body)
        quote = found["tpm_quote"]
        hcl = _base64(found["hcl_report"])
        message, signature = bytes.fromhex(quote["message"]), bytes.fromhex(quote["signature"])
        registers = tuple(bytes.fromhex(value) for value in quote["pcrs"])
        beside = _base64(found["vcek" if kind == "snp" else "td_quote"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError(f"{_WHAT}: expected recorded evidence of {kind} in JSON") from error
    endorsements = Endorsements()
    hardware = HclReport.parse(hcl).hardware if kind == "snp" else beside
    if kind == "snp":
        endorsements = Endorsements(certificates=(Certificate.parse(beside, "vcek").der,))
    inner = HARDWARE[kind].parse(Evidence(oid="", body=hardware))
    return Parsed(
        report=_report(kind, hcl, message, signature, registers, inner.report),
        endorsements=endorsements | inner.endorsements,
    )


def _base64(text: str) -> bytes:
    """Base64 in either alphabet, padded or not."""
    text = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(text[:40]) from error


def recognise_as(kind: Kind, data: bytes) -> bool:
    """Whether bare bytes are recorded evidence of this hardware, or its report without the rest."""
    if data[:4] == b"HCLA":
        return kind_of(data) == kind
    return (
        data.lstrip()[:1] == b"{"
        and b'"hcl_report"' in data
        and (b'"vcek"' if kind == "snp" else b'"td_quote"') in data
    )
