"""The attestation token of an Arm CCA realm: two COSE_Sign1 tokens in a CBOR collection (RMM specification, A7.2).

    tag 399 {44234: platform token, 44241: realm token}           also tag 907, each as [type, token] (RFC 9999)

    platform     265 profile, 10 challenge, 2396 implementation id (32), 256 instance id (33), 2401 configuration,
                 2395 lifecycle, 2399 software components, 2400 verification service, 2402 hash algorithm
    realm        265 profile (newer), 10 challenge (64), 44235 personalization (64), 44236 hash algorithm,
                 44237 realm key, 44238 initial measurement, 44239 extensible measurements (4), 44240 hash of the key

The realm key is a raw point of P-384 in the older profile, a COSE_Key in the newer one. Unknown claims are passed over, as
the profiles allow; duplicates are not. The token travels in an OCTET STRING under OID `.3` (flow.md, 3), or bare.
What a Keep binds is the realm's challenge: the 64 bytes of flow.md, 2, with SHA-384.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from enarx import cbor, der
from enarx.digest import HashName, hash_name
from enarx.errors import MalformedError
from enarx.pki.cose import ES384, Sign1
from enarx.tee.model import Evidence, Parsed

OID: Final = "2.25.67770326763034024982283820726568347927.3"

MAX_TOKEN: Final = 32 * 1024  # bytes; recorded ones have about 3,000
MAX_COMPONENTS: Final = 64
TAGS: Final = (399, 907)
PLATFORM: Final = 44234
REALM: Final = 44241

PROFILE: Final = 265
CHALLENGE: Final = 10
IMPLEMENTATION: Final = 2396
INSTANCE: Final = 256
CONFIGURATION: Final = 2401
LIFECYCLE: Final = 2395
COMPONENTS: Final = 2399
PLATFORM_HASH: Final = 2402

PERSONALIZATION: Final = 44235
REALM_HASH: Final = 44236
REALM_KEY: Final = 44237
INITIAL: Final = 44238
EXTENSIBLE: Final = 44239
REALM_KEY_HASH: Final = 44240

_MEASUREMENTS: Final = frozenset({32, 48, 64})  # bytes of SHA-256, SHA-384, SHA-512
_COMPONENT: Final[Mapping[int, str]] = {1: "type", 2: "measurement", 4: "version", 5: "signer", 6: "hash"}
_EC2_P384: Final = {1: 2, -1: 2}  # RFC 9053, 7.1: key type EC2, curve P-384

Claims = Mapping[int | str, cbor.Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One piece of the platform's firmware: what it is called, its measurement, and who signed it."""

    name: str
    version: str
    measurement: bytes
    signer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What the platform's token says."""

    token: Sign1
    profile: str
    challenge: bytes
    implementation: bytes
    instance: bytes
    configuration: bytes
    lifecycle: int
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Realm:
    """What the realm's token says. `key` is the claim as it came, which the platform's challenge is the hash of."""

    token: Sign1
    challenge: bytes
    personalization: bytes
    initial: bytes
    extensible: tuple[bytes, ...]
    key: bytes
    key_hash: HashName

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The realm's key. Raises MalformedError unless it is a point of P-384."""
        point = self.key if self.key[:1] == b"\x04" else _cose_point(self.key)
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
        except ValueError as error:
            raise MalformedError("cca realm token: realm key: expected a point of P-384") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Both tokens, parsed and not believed."""

    platform: Platform
    realm: Realm

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        if len(data) > MAX_TOKEN:
            raise MalformedError(f"cca token: expected at most {MAX_TOKEN} bytes, found {len(data)}")
        outer = cbor.decode(data, "cca token")
        if not isinstance(outer, cbor.Tagged) or outer.tag not in TAGS or not isinstance(outer.value, dict):
            raise MalformedError("cca token: expected a collection under tag 399 or 907")
        if set(outer.value) != {PLATFORM, REALM}:
            raise MalformedError(f"cca token: expected the members {PLATFORM} and {REALM}")
        return cls(platform=_platform(_part(outer.value[PLATFORM])), realm=_realm(_part(outer.value[REALM])))


def parse(evidence: Evidence) -> Parsed[Token]:
    """Read evidence with our OID or a bare token. Raises MalformedError."""
    body = der.content(evidence.body, 0x04, "cca evidence") if evidence.oid else evidence.body
    return Parsed(report=Token.parse(body))


def recognise(data: bytes) -> bool:
    """Whether bare bytes begin with one of the two tags."""
    return data[:3] in {b"\xd9" + tag.to_bytes(2, "big") for tag in TAGS}


def _part(value: cbor.Value) -> bytes:
    """A token of the collection: bytes, or [type, bytes] in the newer form."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if not isinstance(value, bytes):
        raise MalformedError("cca token: expected a byte string for each member")
    return value


def _platform(data: bytes) -> Platform:
    what = "cca platform token"
    token, claims = _claims(data, what)
    listed = claims.get(COMPONENTS)
    if not isinstance(listed, tuple) or not 0 < len(listed) <= MAX_COMPONENTS:
        raise MalformedError(f"{what}: software components: expected 1 to {MAX_COMPONENTS}")
    return Platform(
        token=token,
        profile=_text(claims, PROFILE, what),
        challenge=_bytes(claims, CHALLENGE, what, _MEASUREMENTS),
        implementation=_bytes(claims, IMPLEMENTATION, what, {32}),
        instance=_bytes(claims, INSTANCE, what, {33}),
        configuration=_bytes(claims, CONFIGURATION, what, range(1, 1025)),
        lifecycle=_lifecycle(claims, what),
        components=tuple(_component(item) for item in listed),
    )


def _realm(data: bytes) -> Realm:
    what = "cca realm token"
    token, claims = _claims(data, what)
    if token.algorithm != ES384:
        raise MalformedError(f"{what}: expected the algorithm ES384, found {token.algorithm}")
    registers = claims.get(EXTENSIBLE)
    if not isinstance(registers, tuple) or len(registers) != 4:
        raise MalformedError(f"{what}: extensible measurements: expected four")
    key_hash = hash_name(_text(claims, REALM_KEY_HASH, what))
    if key_hash is None:
        raise MalformedError(f"{what}: hash of the realm key: unknown algorithm")
    return Realm(
        token=token,
        challenge=_bytes(claims, CHALLENGE, what, {64}),
        personalization=_bytes(claims, PERSONALIZATION, what, {64}),
        initial=_bytes(claims, INITIAL, what, _MEASUREMENTS),
        extensible=tuple(_bytes({EXTENSIBLE: item}, EXTENSIBLE, what, _MEASUREMENTS) for item in registers),
        key=_bytes(claims, REALM_KEY, what, range(97, 257)),
        key_hash=key_hash,
    )


def _claims(data: bytes, what: str) -> tuple[Sign1, Claims]:
    token = Sign1.parse(data, what)
    claims = cbor.decode(token.payload, f"{what}: payload")
    if not isinstance(claims, dict):
        raise MalformedError(f"{what}: payload: expected a map")
    return token, claims


def _bytes(claims: Claims, label: int, what: str, sizes: frozenset[int] | set[int] | range) -> bytes:
    value = claims.get(label)
    if not isinstance(value, bytes) or len(value) not in sizes:
        wanted = " or ".join(map(str, sorted(sizes))) if len(sizes) < 5 else f"{min(sizes)} to {max(sizes)}"
        found = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise MalformedError(f"{what}: claim {label}: expected {wanted} bytes, found {found}")
    return value


def _text(claims: Claims, label: int, what: str) -> str:
    value = claims.get(label)
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise MalformedError(f"{what}: claim {label}: expected text")
    return value


def _lifecycle(claims: Claims, what: str) -> int:
    value = claims.get(LIFECYCLE)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise MalformedError(f"{what}: claim {LIFECYCLE}: expected a lifecycle of 16 bits")
    return value


def _component(value: cbor.Value) -> Component:
    what = "cca platform token: software component"
    if not isinstance(value, dict):
        raise MalformedError(f"{what}: expected a map")
    texts = [value.get(label, "") for label in (1, 4)]
    if not all(isinstance(text, str) and len(text) <= 200 for text in texts):
        raise MalformedError(f"{what}: expected text for type and version")
    return Component(
        name=str(texts[0]),
        version=str(texts[1]),
        measurement=_bytes(value, 2, what, _MEASUREMENTS),
        signer=_bytes(value, 5, what, _MEASUREMENTS),
    )


def _cose_point(key: bytes) -> bytes:
    members = cbor.decode(key, "cca realm token: realm key")
    if not isinstance(members, dict) or any(members.get(label) != value for label, value in _EC2_P384.items()):
        raise MalformedError("cca realm token: realm key: expected a COSE_Key of P-384")
    x, y = (_bytes(members, label, "cca realm token: realm key", {48}) for label in (-2, -3))
    return b"\x04" + x + y
