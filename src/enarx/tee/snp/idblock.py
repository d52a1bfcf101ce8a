"""ID block and ID authentication: what a guest's owner signs so that a launch is known to be his (AMD 56860, 8.17).

    public key   curve u32 (2 = P-384) ‖ x 72 ‖ y 72, little-endian, then zeros up to 1028 bytes
    signature    r 72 ‖ s 72, little-endian, then zeros up to 512 bytes
    ID block     launch digest 48 ‖ family 16 ‖ image 16 ‖ version u32 (1) ‖ guest SVN u32 ‖ policy u64: 96 bytes
    ID auth      4096 bytes: the ID key's signature over the block, the ID key, and, where there is an author, the
                 author key's signature over the ID key, and the author key

A report carries the SHA-384 of either public key. Signatures are deterministic (RFC 6979): the same input gives the same
bytes, so an image's signature can be reproduced.
"""

from dataclasses import dataclass
from hashlib import sha384
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError

PUBLIC_KEY_SIZE: Final = 1028  # bytes
SIGNATURE_SIZE: Final = 512
BLOCK_SIZE: Final = 96
AUTH_SIZE: Final = 4096
KEY_SIGNATURE_SIZE: Final = SIGNATURE_SIZE + PUBLIC_KEY_SIZE  # an author's word for an ID key, as the originals keep it

_CURVE_P384: Final = 2
_ECDSA_P384: Final = 1
_COMPONENT: Final = 72  # bytes of a coordinate or of r and s


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """What is signed of a launch."""

    launch_digest: bytes  # 48
    policy: int
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        reader = Reader(data, what="SNP ID block")
        digest, family, image = reader.take(48, "LD"), reader.take(16, "FAMILY_ID"), reader.take(16, "IMAGE_ID")
        version, svn, policy = reader.uint(4, "VERSION"), reader.uint(4, "GUEST_SVN"), reader.uint(8, "POLICY")
        reader.end()
        if version != 1:
            raise MalformedError(f"SNP ID block: VERSION: expected 1, found {version}")
        return cls(launch_digest=digest, policy=policy, family_id=family, image_id=image, guest_svn=svn)

    def encode(self) -> bytes:
        """The 96 bytes."""
        writer = Writer().put(self.launch_digest, 48).put(self.family_id, 16).put(self.image_id, 16)
        return writer.uint(1, 4).uint(self.guest_svn, 4).uint(self.policy, 8).getvalue()


def public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """The 1028 bytes of a P-384 key. Raises MalformedError for another curve."""
    if key.curve.name != "secp384r1":
        raise MalformedError(f"SNP key: expected P-384, found {key.curve.name}")
    numbers = key.public_numbers()
    writer = Writer().uint(_CURVE_P384, 4).uint(numbers.x, _COMPONENT).uint(numbers.y, _COMPONENT)
    return _padded(writer, PUBLIC_KEY_SIZE)


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """What ID_KEY_DIGEST and AUTHOR_KEY_DIGEST of a report are: SHA-384, 48 bytes."""
    return sha384(public_key(key)).digest()


def digests(auth: bytes) -> dict[str, bytes]:
    """What reports of a launch with this ID auth will carry: the digests of its keys, by owner."""
    reader = Reader(auth, what="SNP ID auth")
    reader.take(4, "ID_KEY_ALGO")
    has_author = reader.uint(4, "AUTH_KEY_ALGO") != 0
    reader.take(56 + SIGNATURE_SIZE, "ID_BLOCK_SIG")
    found = {"ID key": sha384(reader.take(PUBLIC_KEY_SIZE, "ID_KEY")).digest()}
    reader.take(60 + SIGNATURE_SIZE, "ID_KEY_SIG")
    author = sha384(reader.take(PUBLIC_KEY_SIZE, "AUTHOR_KEY")).digest()
    return {**found, "author key": author} if has_author else found


def sign_key(author: ec.EllipticCurvePrivateKey, id_key: ec.EllipticCurvePublicKey) -> bytes:
    """The author's word for an ID key: signature ‖ author's public key, 1540 bytes."""
    return _signature(author, public_key(id_key)) + public_key(author.public_key())


def authenticate(block: bytes, id_key: ec.EllipticCurvePrivateKey, key_signature: bytes | None = None) -> bytes:
    """The 4096 bytes of ID auth for a block of 96 bytes; `key_signature` is what `sign_key` made. Raises MalformedError.

    An author's word for another key is refused here: the firmware would refuse the launch.
    """
    if len(block) != BLOCK_SIZE:
        raise MalformedError(f"SNP ID block: expected {BLOCK_SIZE} bytes, found {len(block)}")
    author = bytes(KEY_SIGNATURE_SIZE) if key_signature is None else key_signature
    if len(author) != KEY_SIGNATURE_SIZE:
        raise MalformedError(f"SNP ID key signature: expected {KEY_SIGNATURE_SIZE} bytes, found {len(author)}")
    if key_signature is not None:
        _require_vouched(key_signature, public_key(id_key.public_key()))
    writer = Writer().uint(_ECDSA_P384, 4).uint(0 if key_signature is None else _ECDSA_P384, 4).zeros(56)
    writer.put(_signature(id_key, block), SIGNATURE_SIZE).put(public_key(id_key.public_key()), PUBLIC_KEY_SIZE).zeros(
        60
    )
    writer.put(author)
    return _padded(writer, AUTH_SIZE)


def _require_vouched(key_signature: bytes, id_key: bytes) -> None:
    """Raises MalformedError unless its author's key signed this ID key."""
    reader = Reader(key_signature, what="SNP ID key signature")
    r, s = (reader.uint(_COMPONENT, name) for name in ("R", "S"))
    reader.zeros(SIGNATURE_SIZE - 2 * _COMPONENT)
    curve, x, y = reader.uint(4, "CURVE"), *(reader.uint(_COMPONENT, name) for name in ("QX", "QY"))
    reader.zeros(reader.left)
    if curve != _CURVE_P384:
        raise MalformedError(f"SNP ID key signature: CURVE: expected {_CURVE_P384} (P-384), found {curve}")
    try:
        author = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
        author.verify(encode_dss_signature(r, s), id_key, ec.ECDSA(SHA384()))
    except (ValueError, InvalidSignature) as error:
        raise MalformedError("SNP ID key signature: its author does not vouch for this ID key") from error


def _signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    public_key(key.public_key())  # refuses another curve
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA384(), deterministic_signing=True)))
    return _padded(Writer().uint(r, _COMPONENT).uint(s, _COMPONENT), SIGNATURE_SIZE)


def _padded(writer: Writer, size: int) -> bytes:
    data = writer.getvalue()
    return data + bytes(size - len(data))
