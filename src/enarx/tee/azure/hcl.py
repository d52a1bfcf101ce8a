"""The report of Azure's paravisor (HCL), as it stands in NV index 0x01400001 of a confidential VM's virtual TPM.

    header 32 {"HCLA", version, size, request type, status, reserved 12} ‖ hardware report 1184 ‖
    {data size, version, report type (2 SNP, 4 TDX), hash type (1 SHA-256), length} ‖ runtime data, JSON ‖ zeros

All little-endian. For TDX the hardware report is a TDREPORT of 1024 bytes, padded. The hardware's report data is the
SHA-256 of the runtime data, which hold the virtual TPM's attestation key (`HCLAkPub`, RSA).
"""

import base64
import binascii
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import rsa

from enarx.binary import Reader
from enarx.errors import MalformedError

Kind = Literal["snp", "tdx"]

MAX_REPORT: Final = 16 * 1024  # bytes
HARDWARE: Final = 1184  # bytes reserved for the hardware's report
TDREPORT: Final = 1024
TDREPORT_DATA: Final = 128  # where REPORTDATA stands in a TDREPORT
KINDS: Final[dict[int, Kind]] = {2: "snp", 4: "tdx"}
KEY: Final = "HCLAkPub"

_WHAT: Final = "HCL report"
_SHA256: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """What the paravisor says, parsed and not believed."""

    kind: Kind
    hardware: bytes
    runtime: bytes
    key: rsa.RSAPublicKey

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        if len(data) > MAX_REPORT:
            raise MalformedError(f"{_WHAT}: expected at most {MAX_REPORT} bytes, found {len(data)}")
        reader = Reader(data, what=_WHAT)
        if reader.take(4, "signature") != b"HCLA":
            raise MalformedError(f"{_WHAT}: expected HCLA at its beginning")
        reader.take(28, "header")
        hardware = reader.take(HARDWARE, "hardware report")
        reader.take(8, "data size and version")
        kind, algorithm = reader.uint(4, "report type"), reader.uint(4, "hash type")
        if kind not in KINDS or algorithm != _SHA256:
            raise MalformedError(f"{_WHAT}: expected SNP or TDX with SHA-256, found types {kind} and {algorithm}")
        runtime = reader.take(reader.uint(4, "length"), "runtime data")
        reader.zeros(reader.left, "what follows")
        body = hardware if KINDS[kind] == "snp" else hardware[:TDREPORT]
        return cls(kind=KINDS[kind], hardware=body, runtime=runtime, key=_key(runtime))

    @property
    def bound(self) -> bytes:
        """What the hardware's report data has to be: 64 bytes."""
        return sha256(self.runtime).digest() + bytes(32)


def kind_of(data: bytes) -> Kind | None:
    """What a report says of its hardware, without reading the rest; None for what is no report of these."""
    at = 32 + HARDWARE + 8
    return KINDS.get(int.from_bytes(data[at : at + 4], "little")) if data[:4] == b"HCLA" else None


def _key(runtime: bytes) -> rsa.RSAPublicKey:
    """The one attestation key in the runtime data."""
    try:
        found = json.loads(runtime, object_pairs_hook=_no_duplicates)
        keys = [item for item in found["keys"] if item["kid"] == KEY]
        (entry,) = (item for item in keys if item["kty"] == "RSA")
        exponent, modulus = (_number(entry[name]) for name in ("e", "n"))
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError(f"{_WHAT}: runtime data: expected one RSA key {KEY}") from error
    if key.key_size < 2048:
        raise MalformedError(f"{_WHAT}: {KEY}: expected 2048 bits or more, found {key.key_size}")
    return key


def _number(text: str) -> int:
    try:
        return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "big")
    except binascii.Error as error:
        raise ValueError(text) from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
