"""SIGSTRUCT: what an enclave's author signs (Intel SDM 3D, 38.13), and MRSIGNER, which is the digest of his key.

    header 128 ‖ modulus 384 ‖ exponent u32 (3) ‖ signature 384 ‖ body 128 ‖ zeros 12 ‖ Q1 384 ‖ Q2 384: 1808 bytes

Numbers are little-endian. Signed are header and body (RSASSA-PKCS1-v1_5 with SHA-256, 3072 bits, exponent 3). Q1 and Q2
are the quotients that let the processor check the signature without dividing: ⌊s²/n⌋ and ⌊(s² mod n)·s/n⌋.
"""

from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from enarx.binary import Writer
from enarx.errors import MalformedError

SIZE: Final = 1808  # bytes
BODY_SIZE: Final = 128
KEY_BITS: Final = 3072
EXPONENT: Final = 3

_MODULUS: Final = KEY_BITS // 8
_HEADER_1: Final = bytes.fromhex("06000000e10000000000010000000000")
_HEADER_2: Final = bytes.fromhex("01010000600000006000000001000000")


def generate() -> rsa.RSAPrivateKey:
    """A key that may sign enclaves."""
    return rsa.generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)


def require_key(key: object) -> rsa.RSAPrivateKey:
    """The key, when it is one that may sign enclaves. Raises MalformedError."""
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != KEY_BITS:
        raise MalformedError(f"SGX key: expected RSA of {KEY_BITS} bits with the exponent {EXPONENT}")
    if key.public_key().public_numbers().e != EXPONENT:
        raise MalformedError(f"SGX key: expected the exponent {EXPONENT}")
    return key


def mr_signer(key: rsa.RSAPublicKey) -> bytes:
    """MRSIGNER: the SHA-256 of the modulus, 32 bytes."""
    return sha256(key.public_numbers().n.to_bytes(_MODULUS, "little")).digest()


def sign(body: bytes, key: rsa.RSAPrivateKey, *, vendor: int = 0, date: int = 0, software: int = 0) -> bytes:
    """The 1808 bytes for a body of 128. `date` is BCD, as in 0x20261124. Raises MalformedError."""
    if len(body) != BODY_SIZE:
        raise MalformedError(f"SIGSTRUCT body: expected {BODY_SIZE} bytes, found {len(body)}")
    require_key(key)
    header = Writer().put(_HEADER_1).uint(vendor, 4).uint(date, 4).put(_HEADER_2).uint(software, 4).zeros(84).getvalue()
    signature = int.from_bytes(key.sign(header + body, padding.PKCS1v15(), SHA256()), "big")
    modulus = key.public_key().public_numbers().n
    first, rest = divmod(signature * signature, modulus)
    second = rest * signature // modulus
    writer = Writer().put(header, 128).uint(modulus, _MODULUS).uint(EXPONENT, 4).uint(signature, _MODULUS)
    return writer.put(body).zeros(12).uint(first, _MODULUS).uint(second, _MODULUS).getvalue()
