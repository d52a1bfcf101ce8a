"""Keys that sign tags, and that signatures of tags are verified with (`enarx.drawbridge.tag`, RFC 7515).

Apart from the tag itself, for most who read one look at no signature, and the library for them takes its time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from joserfc.jws import FlattenedJSONSerialization
from joserfc.registry import HeaderParameter

from enarx.drawbridge import canonical
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.tag import MAX_TAG, Signature, Tag
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError

MAX_KEY: Final = 20_000  # bytes of a key file
MIN_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key, public or private, with the name by which people know it."""

    name: str
    key: ECKey | OKPKey | RSAKey = field(repr=False)

    @classmethod
    def parse(cls, name: str, data: bytes) -> Self:
        """Read PEM (SPKI, PKCS#8, SEC1, PKCS#1) or a JWK. Raises MalformedError for a key that we do not verify with."""
        if len(data) > MAX_KEY:
            raise MalformedError(f"key {name!r}: expected at most {MAX_KEY} bytes, found {len(data)}")
        try:
            key = _import(data)
        except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"key {name!r}: expected PEM or a JWK") from error
        if not isinstance(key, ECKey | OKPKey | RSAKey) or not _algorithms_of(key):
            raise MalformedError(f"key {name!r}: expected P-256, P-384, Ed25519 or RSA of {MIN_RSA_BITS} bits or more")
        return cls(name=name, key=key)

    @property
    def is_private(self) -> bool:
        return self.key.is_private

    @property
    def key_id(self) -> str:
        """RFC 7638: the SHA-256 thumbprint of the public key, base64url."""
        return self.key.thumbprint()

    @property
    def algorithm(self) -> str:
        return _algorithms_of(self.key)[0]

    def public_pem(self) -> bytes:
        return self.key.as_pem(private=False)

    def verifies(self, signature: Signature, payload: str) -> bool:
        """Whether this key made the signature, by an algorithm of its own, over `payload` as it is signed."""
        flat: FlattenedJSONSerialization = {
            "payload": payload,
            "protected": signature.protected,
            "signature": signature.signature,
        }
        if signature.header:
            flat["header"] = dict(signature.header)
        try:
            jws.deserialize_json(flat, self.key, registry=_Registry(_algorithms_of(self.key)))
        except (JoseError, ValueError):
            return False
        return True


def sign(entry: Entry, subject: str, keys: Sequence[SigningKey]) -> Tag:
    """Sign `entry` as `subject`: flattened with one key, general with several."""
    if not keys:
        raise MalformedError("signing: expected at least one key, found none")
    parts = [_sign(entry, subject, key) for key in keys]
    payload = parts[0].pop("payload")
    body: Json = {"payload": payload, **parts[0]}
    if len(parts) > 1:
        body = {"payload": payload, "signatures": [{k: part[k] for k in ("protected", "signature")} for part in parts]}
    return Tag.parse(canonical.encode(body))


def _sign(entry: Entry, subject: str, key: SigningKey) -> dict[str, Json]:
    if not key.is_private:
        raise MalformedError(f"key {key.name!r}: expected a private key to sign with, found a public one")
    header = {"alg": key.algorithm, "kid": key.key_id, "slug": subject}
    signed = jws.serialize_json({"protected": header}, entry.encode(), key.key, registry=_Registry((key.algorithm,)))
    return {name: signed[name] for name in ("payload", "protected", "signature")}


class _Registry(jws.JWSRegistry):
    """Exactly the algorithms of one key. Parameters that we do not know are allowed (RFC 7515, 4)."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        super().__init__(
            header_registry={"slug": HeaderParameter("What was signed", "str")},
            algorithms=algorithms,
            strict_check_header=False,
        )
        self.max_header_length = self.max_payload_length = MAX_TAG
        self._exactly = frozenset(algorithms)

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in self._exactly:
            raise UnsupportedAlgorithmError(f"not an algorithm of this key: {name}")
        return self.algorithms[name]


def _import(data: bytes) -> object:
    if data.lstrip().startswith(b"{"):
        values = canonical.members(canonical.parse(data, "JWK"), "JWK")
        if values.get("kty") == "RSA" and len(str(values.get("n"))) * 6 < MIN_RSA_BITS:
            raise ValueError("a short RSA key")  # before joserfc warns of it
        if values.get("kty") == "oct":
            raise ValueError("a shared secret signs nothing")
        return import_key({name: value for name, value in values.items() if name not in {"use", "key_ops", "alg"}})
    key = load_pem_public_key(data) if b"PUBLIC KEY" in data else load_pem_private_key(data, None)
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return ECKey(key, key)
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return OKPKey(key, key)
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return RSAKey(key, key)
    raise ValueError("a key of another kind")


def _algorithms_of(key: ECKey | OKPKey | RSAKey) -> tuple[str, ...]:
    """The algorithms of a key; the first is the one we sign with."""
    if isinstance(key, ECKey):
        return {"P-256": ("ES256",), "P-384": ("ES384",)}.get(key.curve_name, ())
    if isinstance(key, OKPKey):
        return ("EdDSA", "Ed25519") if key.curve_name == "Ed25519" else ()
    return ("PS256", "RS256") if key.raw_value.key_size >= MIN_RSA_BITS else ()
