"""A quote of a TPM (TPM 2.0 Library, part 2, 10.12.8 TPMS_ATTEST), as much of it as Azure's virtual TPM makes.

    magic FF544347 ‖ type 8018 ‖ qualifiedSigner ‖ extraData ‖ clockInfo 17 ‖ firmwareVersion 8 ‖ selection ‖ pcrDigest

Integers are big-endian; the three names with a length before them are byte strings of u16 length. One selection of
SHA-256 registers is read, of at most 24. Signed by RSASSA-PKCS1-v1_5 with SHA-256.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from enarx.binary import Reader
from enarx.errors import MalformedError, UntrustedError

MAGIC: Final = bytes.fromhex("ff5443478018")  # TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
SHA256_ID: Final = 0x000B  # TPM_ALG_SHA256
REGISTERS: Final = 24
MAX_NAME: Final = 128  # bytes of a name or of extra data
MAX_QUOTE: Final = 1024

_WHAT: Final = "TPM quote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What the TPM says, parsed and not believed. `message` are the bytes that are signed."""

    message: bytes
    signature: bytes
    extra: bytes
    selected: tuple[int, ...]
    digest: bytes

    @classmethod
    def parse(cls, message: bytes, signature: bytes) -> Self:
        """Raises MalformedError."""
        if len(message) > MAX_QUOTE or len(signature) not in {256, 384, 512}:
            raise MalformedError(f"{_WHAT}: expected at most {MAX_QUOTE} bytes and an RSA signature")
        reader = Reader(message, what=_WHAT)
        if reader.take(6, "magic") != MAGIC:
            raise MalformedError(f"{_WHAT}: expected a quote made by a TPM")
        _sized(reader, "qualifiedSigner")
        extra = _sized(reader, "extraData")
        reader.take(17 + 8, "clockInfo")
        count = reader.big(4, "selections")
        algorithm = reader.big(2, "hash")
        if count != 1 or algorithm != SHA256_ID:
            raise MalformedError(f"{_WHAT}: expected one selection of SHA-256 registers")
        bits = int.from_bytes(reader.take(_limited(reader.big(1, "size"), 3, "selection"), "selection"), "little")
        digest = _sized(reader, "pcrDigest")
        reader.end()
        if len(digest) != 32:
            raise MalformedError(f"{_WHAT}: pcrDigest: expected 32 bytes, found {len(digest)}")
        selected = tuple(index for index in range(REGISTERS) if bits >> index & 1)
        return cls(message=message, signature=signature, extra=extra, selected=selected, digest=digest)

    def verify(self, key: rsa.RSAPublicKey) -> None:
        """Raises UntrustedError unless `key` signed the quote."""
        try:
            key.verify(self.signature, self.message, padding.PKCS1v15(), SHA256())
        except InvalidSignature as error:
            raise UntrustedError(f"{_WHAT}: the signature is wrong") from error

    def covers(self, registers: tuple[bytes, ...]) -> bool:
        """Whether these are the values of the registers that were quoted."""
        if len(registers) != REGISTERS:
            return False
        return sha256(b"".join(registers[index] for index in self.selected)).digest() == self.digest


def _sized(reader: Reader, field: str) -> bytes:
    return reader.take(_limited(reader.big(2, field), MAX_NAME, field), field)


def _limited(value: int, limit: int, field: str) -> int:
    if value > limit:
        raise MalformedError(f"{_WHAT}: {field}: expected at most {limit} bytes, found {value}")
    return value
