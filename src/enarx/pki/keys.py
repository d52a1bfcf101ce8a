"""Key pairs on P-256 and P-384, and how they are written down (SEC 1, RFC 5915, RFC 5208).

A public key is known by its DER SubjectPublicKeyInfo, called `spki` throughout the house. Private keys leave
memory only as PKCS#8, encrypted where a passphrase is given; who writes them to a disk sets mode 0600.
"""

from hashlib import sha1
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from enarx.errors import MalformedError

Curve = Literal["P-256", "P-384"]
PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_CURVES: Final[dict[Curve, ec.EllipticCurve]] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_HASHES: Final[dict[Curve, type[SHA256 | SHA384]]] = {"P-256": SHA256, "P-384": SHA384}

# all of a SubjectPublicKeyInfo before the two coordinates, the octet included that says the point is not compressed
_HEADS: Final[dict[Curve, bytes]] = {
    "P-256": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\x04",
    "P-384": bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200") + b"\x04",
}


def generate(curve: Curve) -> PrivateKey:
    return ec.generate_private_key(_CURVES[curve])


def curve_of(key: PrivateKey | PublicKey) -> Curve:
    """Raises MalformedError for a curve that the house does not use."""
    for name, curve in _CURVES.items():
        if key.curve.name == curve.name:
            return name
    raise MalformedError(f"key: expected P-256 or P-384, found {key.curve.name}")


def hash_of(key: PrivateKey | PublicKey) -> SHA256 | SHA384:
    """The hash that goes with the key's curve: SHA-256 for P-256, SHA-384 for P-384 (RFC 5480, 4)."""
    return _HASHES[curve_of(key)]()


def spki(key: PrivateKey | PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_of(key: PublicKey, came: bytes) -> bytes:
    """`spki(key)`, where `came` is the SubjectPublicKeyInfo that it was read from.

    Usually that is the same already, and writing a point on P-384 anew takes longer than anything else in a certificate.
    """
    head = _HEADS[curve_of(key)]
    return came if came.startswith(head) and len(came) == len(head) + _point_size(key) - 1 else spki(key)


def key_id(key: PublicKey, uncompressed: bytes) -> bytes:
    """SHA-1 of the point, which ends the SubjectPublicKeyInfo (RFC 5280, 4.2.1.2, method 1): a name, and no proof."""
    return sha1(uncompressed[-_point_size(key) :], usedforsecurity=False).digest()


def _point_size(key: PublicKey) -> int:
    return 1 + 2 * ((key.key_size + 7) // 8)


def public_from_spki(data: bytes, what: str = "public key") -> PublicKey:
    """Read a DER SubjectPublicKeyInfo. Raises MalformedError unless it is a point on P-256 or P-384."""
    try:
        key = serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{what}: not a SubjectPublicKeyInfo that is understood") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError(f"{what}: expected an elliptic curve key, found {type(key).__name__}")
    curve_of(key)
    return key


def to_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """PKCS#8 in PEM, encrypted when a passphrase is given."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def from_pem(data: bytes, what: str, passphrase: bytes | None = None) -> PrivateKey:
    """Read a PEM private key. Raises MalformedError; the message never carries key material."""
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{what}: not a PEM private key that can be read, or its passphrase is wrong") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MalformedError(f"{what}: expected an elliptic curve key on P-256 or P-384")
    curve_of(key)
    return key
