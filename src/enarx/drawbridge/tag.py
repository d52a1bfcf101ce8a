"""Tag: a version bound to the entry of a tree's root, signed or not.

The body of an unsigned tag is the entry's canonical JSON. The body of a signed one is a JWS (RFC 7515) in its general
or flattened JSON form whose payload is that same JSON. A signature that counts says in its *protected* header

    alg    ES256, ES384, EdDSA, Ed25519, PS256 or RS256, and one of its key
    slug   user/repository:tag, so that nobody can show an entry as another version or somewhere else
    kid    optional: RFC 7638 thumbprint of the key, to find it sooner

`Tag.parse` proves nothing about signatures: `Tag.verify` does, with keys (`enarx.drawbridge.signing`) that the caller
trusts and names. Keys that a header brings along (jwk, x5c, jku) are never used. Extensions marked critical are refused,
`b64: false` among them.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, Self

from enarx.drawbridge import canonical
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError, UntrustedError

ENTRY_TYPE: Final = "application/vnd.drawbridge.entry.v1+json"
JOSE_TYPE: Final = "application/jose+json"

MAX_TAG: Final = 100_000  # bytes of a tag body: an entry, and MAX_SIGNATURES with room for certificates
MAX_SIGNATURES: Final = 16

_PARTS: Final = ("protected", "header", "signature")
_FLAT: Final = ("payload", *_PARTS)


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


class Verifier(Protocol):
    """A key that somebody trusts, and the names by which people and signatures know it."""

    @property
    def name(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def verifies(self, signature: Signature, payload: str) -> bool:
        """Whether this key made the signature, over `payload` as it is signed."""
        ...


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

    def verify(self, keys: Iterable[Verifier], subject: str) -> tuple[str, ...]:
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

    def _signer(self, signature: Signature, keys: Sequence[Verifier], subject: str) -> str:
        if signature.critical not in ((), ("slug",)):
            raise UntrustedError(f"has critical extensions that we do not know: {signature.critical}")
        if signature.slug != subject:
            raise UntrustedError(f"made for {signature.slug or 'no slug in its protected header'}, expected {subject}")
        candidates = [key for key in keys if signature.key_id in {None, key.key_id, key.name}]
        if not candidates:
            raise UntrustedError(f"made by the key {str(signature.key_id)[:80]!r}, which nobody named")
        for key in candidates:
            if key.verifies(signature, self.payload):
                return key.name
        raise UntrustedError(f"does not verify with {_names(candidates)}")


def subject_of(user: UserName, repository: RepositoryName, tag: TagName) -> str:
    """What a signature is made for. The host is not in it: a repository may be served under several names."""
    return f"{user}/{repository}:{tag}"


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


def _names(keys: Iterable[Verifier]) -> str:
    return ", ".join(repr(key.name) for key in keys)
