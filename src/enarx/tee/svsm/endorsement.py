"""The endorsement key of an SVSM's virtual TPM: TPMT_PUBLIC (TPM 2.0 Library, part 2, 12.2.4), as much as such keys have.

    type u16 ‖ name algorithm u16 ‖ attributes u32 ‖ policy (u16 length, bytes) ‖
    symmetric {AES u16, bits u16, CFB u16} ‖ scheme u16 (none) ‖
    RSA: bits u16 ‖ exponent u32 ‖ modulus (u16 length, bytes)
    ECC: curve u16 ‖ key derivation u16 (none) ‖ x ‖ y (u16 length, bytes each)

All big-endian. It is a restricted decryption key that its TPM does not give away (the TCG's EK Credential Profile, and
what every template there has); anything else is none, whatever the manifest calls it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import new
from typing import Final, Self

from enarx.binary import Reader
from enarx.errors import MalformedError
from enarx.tee.model import Field

RSA: Final = 0x0001
ECC: Final = 0x0023
HASHES: Final = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
RSA_BITS: Final = (2048, 3072, 4096)
CURVES: Final = {0x0003: ("P-256", 32), 0x0004: ("P-384", 48), 0x0005: ("P-521", 66)}  # and bytes of a coordinate
AES: Final = 0x0006
AES_BITS: Final = (128, 192, 256)
CFB: Final = 0x0043
NONE: Final = 0x0010  # TPM_ALG_NULL

FIXED_TPM, FIXED_PARENT, ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT = 1 << 16, 1 << 17
REQUIRED: Final = FIXED_TPM | FIXED_PARENT | ORIGIN | RESTRICTED | DECRYPT
KNOWN: Final = REQUIRED | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 10  # stClear, userWithAuth, adminWithPolicy, noDA

_WHAT: Final = "vTPM's endorsement key"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsementKey:
    """What kind of key it is, and its name: what tools for TPMs call it by, the hash of all of it."""

    kind: str
    name: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the public part. Raises MalformedError."""
        reader = Reader(data, what=_WHAT)
        kind = _one_of(reader, "type", (RSA, ECC))
        algorithm = _one_of(reader, "name algorithm", HASHES)
        attributes = reader.big(4, "attributes")
        if attributes & REQUIRED != REQUIRED or attributes & ~KNOWN:
            raise MalformedError(
                f"{_WHAT}: attributes at 0x4: expected a restricted decryption key fixed to its TPM, "
                f"found 0x{attributes:x}"
            )
        _sized(reader, "policy")
        _one_of(reader, "symmetric algorithm", (AES,))
        _one_of(reader, "symmetric bits", AES_BITS)
        _one_of(reader, "symmetric mode", (CFB,))
        _one_of(reader, "scheme", (NONE,))
        described = _rsa(reader) if kind == RSA else _ecc(reader)
        reader.end()
        return cls(kind=described, name=data[2:4] + new(HASHES[algorithm], data).digest())

    def describe(self) -> dict[str, Field]:
        return {"kind": self.kind, "name": self.name.hex()}


def _rsa(reader: Reader) -> str:
    bits = _one_of(reader, "bits", RSA_BITS)
    exponent = reader.big(4, "exponent")
    if exponent not in {0, 65537}:  # 0 stands for 65537
        raise MalformedError(f"{_WHAT}: exponent: expected 0 or 65537, found {exponent}")
    modulus = _sized(reader, "modulus")
    if int.from_bytes(modulus, "big").bit_length() != bits or len(modulus) != bits // 8:
        raise MalformedError(f"{_WHAT}: modulus: expected {bits} bits, found {len(modulus)} bytes")
    return f"RSA {bits}"


def _ecc(reader: Reader) -> str:
    curve, size = CURVES[_one_of(reader, "curve", CURVES)]
    _one_of(reader, "key derivation", (NONE,))
    for field in ("x", "y"):
        found = len(_sized(reader, field))
        if found != size:
            raise MalformedError(f"{_WHAT}: {field}: expected {size} bytes, found {found}")
    return f"ECC {curve}"


def _one_of(reader: Reader, field: str, allowed: Collection[int]) -> int:
    at, value = reader.position, reader.big(2, field)
    if value not in allowed:
        expected = ", ".join(f"0x{each:x}" for each in allowed)
        raise MalformedError(f"{_WHAT}: {field} at 0x{at:x}: expected one of {expected}, found 0x{value:x}")
    return value


def _sized(reader: Reader, field: str) -> bytes:
    return reader.take(reader.big(2, f"length of {field}"), field)
