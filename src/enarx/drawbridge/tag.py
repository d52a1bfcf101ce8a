"""Tag: a version bound to the entry of a tree's root, signed or not.

The body of an unsigned tag is the entry's canonical JSON. The body of a signed one is a JWS (RFC 7515) in its general
or flattened JSON form whose payload is that same JSON. A signature that counts says in its *protected* header

    alg    one of ALGORITHMS, and the one of its key
    slug   user/repository:tag, so that nobody can show an entry as another version or somewhere else
    kid    optional: RFC 7638 thumbprint of the key, to find it sooner

`Tag.parse` proves nothing about signatures: `Tag.verify` does, with keys that the caller trusts and names. Keys that
a header brings along (jwk, x5c, jku) are never used. Extensions marked critical are refused, `b64: false` among them.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

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
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError, UntrustedError

ENTRY_TYPE: Final = "application/vnd.drawbridge.entry.v1+json"
JOSE_TYPE: Final = "application/jose+json"

ALGORITHMS: Final = ("ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256")
MAX_TAG: Final = 100_000  # bytes of a tag body: an entry, and MAX_SIGNATURES with room for certificates
MAX_SIGNATURES: Final = 16
MAX_KEY: Final = 20_000  # bytes of a key file
MIN_RSA_BITS: Final = 2048

_PARTS: Final = ("protected", "header", "signature")
_FLAT: Final = ("payload", *_PARTS)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature as it came: checked for its form only."""

    protected: str  # base64url, as it is signed
    header: Mapping[str, Json]
    signature: str
    parameters: Mapping[str, Json]  # what `protected` says

    @classmethod
    def from_json(cls, values: Mapping[str, Any], what: str) -> Self:  # Any: parsed JSON, checked here
        protected = canonical.member(values, "protected", str, what)
        header = canonical.member(values, "header", dict, what) if "header" in values else {}
        signature = canonical.member(values, "signature", str, what)
        _base64url(signature, f"{what}: signature")
        data = _base64url(protected, f"{what}: protected")
        parameters = canonical.members(canonical.parse(data, f"{what}: protected"), f"{what}: protected")
        for name in ("alg", "kid", "slug"):
            if name in parameters and not isinstance(parameters[name], str):
                raise MalformedError(f"{what}: protected: {name}: expected a string")
        both = sorted(set(parameters) & set(header))
        if both:
            raise MalformedError(f"{what}: expected {both[0]!r} once, found it protected and unprotected")
        return cls(
            protected=protected,
            header=MappingProxyType(header),
            signature=signature,
            parameters=MappingProxyType(parameters),
        )

    @property
    def key_id(self) -> str | None:
        found = self.parameters.get("kid", self.header.get("kid"))
        return found if isinstance(found, str) else None

    @property
    def slug(self) -> str | None:
        """What was signed for; only the protected header can say."""
        found = self.parameters.get("slug")
        return found if isinstance(found, str) else None

    @property
    def critical(self) -> tuple[object, ...]:
        """Extensions that whoever does not know them must refuse (RFC 7515, 4.1.11)."""
        found = self.parameters.get("crit", self.header.get("crit", ()))
        named = tuple(found) if isinstance(found, list) else (found,) if found else ()
        unsaid = ("b64",) if "b64" in {*self.parameters, *self.header} else ()  # critical even where it is not listed
        return (*named, *(item for item in unsaid if item not in named))

    def to_json(self) -> dict[str, Json]:
        header: dict[str, Json] = {"header": dict(self.header)} if self.header else {}
        return {"protected": self.protected, **header, "signature": self.signature}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """What a version is bound to. `signatures` may be anybody's until `verify` has named them."""

    entry: Entry
    signatures: tuple[Signature, ...] = ()
    payload: str = ""  # of the JWS, base64url, as it is signed
    flattened: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a body: a JWS if it looks like one, else an entry, whatever its media type was (as the originals)."""
        if len(data) > MAX_TAG:
            raise MalformedError(f"tag: expected at most {MAX_TAG} bytes, found {len(data)}")
        values = canonical.members(canonical.parse(data, "tag"), "tag")
        if "signatures" not in values and "signature" not in values:
            return cls(entry=Entry.from_json(values, "tag"))
        flattened = "signature" in values
        canonical.only(values, _FLAT if flattened else ("payload", "signatures"), "tag: JWS")
        payload = canonical.member(values, "payload", str, "tag: JWS")
        entry = Entry.from_json(canonical.parse(_base64url(payload, "tag: payload"), "tag: payload"), "tag: payload")
        found = [values] if flattened else canonical.member(values, "signatures", list, "tag: JWS")
        if not 0 < len(found) <= MAX_SIGNATURES:
            raise MalformedError(f"tag: JWS: expected from 1 to {MAX_SIGNATURES} signatures, found {len(found)}")
        signatures = tuple(_signature(item, index, flattened=flattened) for index, item in enumerate(found))
        return cls(entry=entry, signatures=signatures, payload=payload, flattened=flattened)

    @property
    def media_type(self) -> str:
        return JOSE_TYPE if self.signatures else ENTRY_TYPE

    @property
    def is_signed(self) -> bool:
        return bool(self.signatures)

    def encode(self) -> bytes:
        """The canonical bytes."""
        if not self.signatures:
            return self.entry.encode()
        if self.flattened:
            return canonical.encode({"payload": self.payload, **self.signatures[0].to_json()})
        return canonical.encode({"payload": self.payload, "signatures": [item.to_json() for item in self.signatures]})

    def verify(self, keys: Iterable[SigningKey], subject: str) -> tuple[str, ...]:
        """The names of those of `keys` that signed this entry as `subject` (see `subject_of`).

        Raises UntrustedError when none did, with the reason for every signature there is; no keys means no.
        """
        known = tuple(keys)
        if not known:
            raise UntrustedError(f"tag {subject}: no key was named to check its signature with")
        if not self.signatures:
            raise UntrustedError(f"tag {subject}: expected a signature by {_names(known)}, found none")
        signers, reasons = dict[str, None](), list[str]()
        for index, signature in enumerate(self.signatures):
            try:
                signers[self._signer(signature, known, subject)] = None
            except UntrustedError as error:
                reasons.append(f"signature {index + 1}: {error}")
        if not signers:
            raise UntrustedError(f"tag {subject}: expected a signature by {_names(known)}: {'; '.join(reasons)}")
        return tuple(signers)

    def _signer(self, signature: Signature, keys: Sequence[SigningKey], subject: str) -> str:
        if signature.critical not in ((), ("slug",)):
            raise UntrustedError(f"has critical extensions that we do not know: {signature.critical}")
        if signature.slug != subject:
            raise UntrustedError(f"made for {signature.slug or 'no slug in its protected header'}, expected {subject}")
        candidates = [key for key in keys if signature.key_id in {None, key.key_id, key.name}]
        if not candidates:
            raise UntrustedError(f"made by the key {str(signature.key_id)[:80]!r}, which nobody named")
        for key in candidates:
            try:
                jws.deserialize_json(self._flat(signature), key.key, registry=_Registry(_algorithms_of(key.key)))
            except (JoseError, ValueError):
                continue
            return key.name
        raise UntrustedError(f"does not verify with {_names(candidates)}")

    def _flat(self, signature: Signature) -> FlattenedJSONSerialization:
        flat: FlattenedJSONSerialization = {
            "payload": self.payload,
            "protected": signature.protected,
            "signature": signature.signature,
        }
        if signature.header:
            flat["header"] = dict(signature.header)
        return flat


def subject_of(user: UserName, repository: RepositoryName, tag: TagName) -> str:
    """What a signature is made for. The host is not in it: a repository may be served under several names."""
    return f"{user}/{repository}:{tag}"


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


def _signature(item: object, index: int, *, flattened: bool) -> Signature:
    what = f"tag: signature {index + 1}"
    values = canonical.members(item, what)
    if not flattened:
        canonical.only(values, _PARTS, what)
    return Signature.from_json(values, what)


def _base64url(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{what}: expected base64url without padding, found {text[:80]!r}") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise MalformedError(f"{what}: expected base64url without padding, found {text[:80]!r}")
    return data


def _names(keys: Iterable[SigningKey]) -> str:
    return ", ".join(repr(key.name) for key in keys)
