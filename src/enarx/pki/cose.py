"""COSE_Sign1 (RFC 9052, 4.2) with ES256 or ES384, the algorithm pinned to the curve of the key.

The protected header holds the algorithm and nothing that is critical; an unprotected algorithm counts for nothing and is
refused. The signature is r ‖ s of the curve's size (RFC 9053, 2.1), over the Sig_structure with the protected header
and the payload exactly as they came. A token may come with its tag (18) or without.
"""

from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from enarx import cbor
from enarx.errors import MalformedError, UntrustedError

TAG: Final = 18
ALGORITHM: Final = 1  # header label `alg`
ES256: Final = -7
ES384: Final = -35

_CURVES: Final = {ES256: ("secp256r1", 32), ES384: ("secp384r1", 48)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A signed payload, parsed and not believed."""

    protected: bytes
    algorithm: int
    payload: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read one token. Raises MalformedError."""
        return cls.of(cbor.decode(data, what), what)

    @classmethod
    def of(cls, value: cbor.Value, what: str) -> Self:
        """The same of a value that was already read. Raises MalformedError."""
        if isinstance(value, cbor.Tagged) and value.tag == TAG:
            value = value.value
        if not isinstance(value, tuple) or len(value) != 4:
            raise MalformedError(f"{what}: expected COSE_Sign1, an array of four")
        protected, unprotected, payload, signature = value
        if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
            raise MalformedError(f"{what}: COSE_Sign1: expected byte strings for header, payload and signature")
        if not isinstance(unprotected, dict) or ALGORITHM in unprotected:
            raise MalformedError(f"{what}: COSE_Sign1: expected an unprotected header without an algorithm")
        header = cbor.decode(protected, f"{what}: protected header")
        if not isinstance(header, dict) or set(header) != {ALGORITHM} or header[ALGORITHM] not in _CURVES:
            raise MalformedError(f"{what}: protected header: expected the algorithm ES256 or ES384, and nothing else")
        algorithm = header[ALGORITHM]
        size = 2 * _CURVES[algorithm][1]
        if len(signature) != size:
            raise MalformedError(f"{what}: signature: expected {size} bytes, found {len(signature)}")
        return cls(protected=protected, algorithm=algorithm, payload=payload, signature=signature)

    def verify(self, key: object, what: str) -> None:
        """Raises UntrustedError unless `key` is of the algorithm's curve and made this signature."""
        curve, size = _CURVES[self.algorithm]
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != curve:
            raise UntrustedError(f"{what}: the key is not of {curve}, which the algorithm asks for")
        r, s = (int.from_bytes(part, "big") for part in (self.signature[:size], self.signature[size:]))
        try:
            key.verify(encode_dss_signature(r, s), self.to_be_signed(), ec.ECDSA(_hash(self.algorithm)))
        except InvalidSignature as error:
            raise UntrustedError(f"{what}: the signature is wrong") from error

    def to_be_signed(self) -> bytes:
        """The Sig_structure (RFC 9052, 4.4) without external data."""
        return cbor.encode(("Signature1", self.protected, b"", self.payload))


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes, *, tagged: bool = True) -> bytes:
    """A token as `Sign1.parse` reads it; the algorithm is the one of the key's curve."""
    algorithm = next(number for number, (curve, _) in _CURVES.items() if curve == key.curve.name)
    size = _CURVES[algorithm][1]
    protected = cbor.encode({ALGORITHM: algorithm})
    unsigned = Sign1(protected=protected, algorithm=algorithm, payload=payload, signature=bytes(2 * size))
    r, s = decode_dss_signature(key.sign(unsigned.to_be_signed(), ec.ECDSA(_hash(algorithm))))
    token: cbor.Value = (protected, {}, payload, r.to_bytes(size, "big") + s.to_bytes(size, "big"))
    return cbor.encode(cbor.Tagged(tag=TAG, value=token) if tagged else token)


def _hash(algorithm: int) -> hashes.HashAlgorithm:
    return hashes.SHA256() if algorithm == ES256 else hashes.SHA384()
