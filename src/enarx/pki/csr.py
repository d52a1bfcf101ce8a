"""Certification requests (PKCS#10, RFC 2986), with proof of possession checked in `parse`.

The subject is read and never used. Attributes other than `extensionRequest` are listed for the
caller, who decides. The signature is verified over the bytes that came, with ECDSA on P-256 with
SHA-256 or on P-384 with SHA-384: the keys our Keeps have (protocol.md, 1.3, whose RSA keys no
technology of ours endorses). Proof of possession that fails is *malformed*: the request is not
what it claims to be.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki import keys
from enarx.pki.certificate import Extension
from enarx.pki.chain import ECDSA_SHA256, ECDSA_SHA384, verify_signature

MAX_REQUEST = 1024 * 1024  # bytes; real ones with evidence and CRLs have 5 to 15 thousand
MAX_ATTRIBUTES = 16
MAX_EXTENSIONS = 16

EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"

_VERSION_1: Final = b"\x02\x01\x00"
_TRUE: Final = b"\x01\x01\xff"


@der.sequence
class _RequestExtension:
    oid: der.ObjectIdentifier
    critical: Annotated[bool, der.Default(False)]
    value: bytes


class CertificationRequest(Struct, frozen=True, kw_only=True):
    """A request whose requester holds the private key. `spki` is DER; `extensions` are those requested."""

    der: bytes
    spki: bytes
    key: keys.PublicKey
    subject: bytes
    attributes: tuple[tuple[str, bytes], ...]  # OID and the DER SET of values, without extensionRequest
    extensions: Mapping[str, Extension]

    @classmethod
    def parse(cls, data: bytes, what: str = "certification request") -> Self:
        """Read one DER request and verify its signature. Raises MalformedError."""
        if len(data) > MAX_REQUEST:
            raise MalformedError(f"{what}: expected at most {MAX_REQUEST} bytes, found {len(data)}")
        info, algorithm, signature = der.members(memoryview(data), 3, what)
        begin, subject, point, listed = der.members(info, 4, f"{what}: CertificationRequestInfo")
        version = bytes(begin)
        if version != _VERSION_1:
            raise MalformedError(f"{what}: expected version 1 (0x{_VERSION_1.hex()}), found 0x{version[:8].hex()}")
        bits = bytes(der.content(signature, 0x03, f"{what}: signature"))
        if not bits or bits[0]:
            raise MalformedError(f"{what}: the signature is empty or has unused bits")
        spki = bytes(point)
        key = keys.public_from_spki(spki, f"{what}: public key")
        attributes = _attributes(listed, what)
        try:
            verify_signature(key, bytes(algorithm), bits[1:], info, what)
        except UntrustedError as error:
            raise MalformedError(f"{what}: proof of possession failed: {error}") from error
        return cls(
            der=data,
            spki=spki,
            key=key,
            subject=bytes(subject),
            attributes=tuple((oid, bytes(values)) for oid, values in attributes if oid != EXTENSION_REQUEST),
            extensions=MappingProxyType(_extensions(dict(attributes).get(EXTENSION_REQUEST), what)),
        )


def build(key: keys.PrivateKey, extensions: Iterable[Extension] = ()) -> bytes:
    """A DER request with an empty subject, one `extensionRequest` and ECDSA by `key`, as a Keep sends."""
    body = b"".join(
        der.encode(_RequestExtension(oid=der.ObjectIdentifier(e.oid), critical=e.critical, value=e.value))
        for e in extensions
    )
    attribute = der.wrap(0x30, der.oid(EXTENSION_REQUEST) + der.wrap(0x31, der.wrap(0x30, body)))
    info = der.wrap(0x30, b"\x02\x01\x00" + b"\x30\x00" + keys.spki(key) + der.wrap(0xA0, attribute))
    algorithm = ECDSA_SHA256 if keys.curve_of(key) == "P-256" else ECDSA_SHA384
    signature = key.sign(info, ec.ECDSA(keys.hash_of(key)))
    return der.wrap(0x30, info + algorithm + der.wrap(0x03, b"\0" + signature))


def _attributes(listed: memoryview, what: str) -> list[tuple[str, memoryview]]:
    """[0] SET OF Attribute, in the order that DER asks for (X.690, 11.6). Raises MalformedError."""
    name = f"{what}: attributes"
    elements = der.sequence_of(listed, name, limit=MAX_ATTRIBUTES, tag=0xA0)
    if any(bytes(first) > bytes(second) for first, second in pairwise(elements)):
        raise MalformedError(f"{name}: not in canonical DER form, for they are not in order")
    pairs = [der.members(element, 2, name) for element in elements]
    attributes = [(_dotted(bytes(oid), name), values) for oid, values in pairs]
    if len({oid for oid, _ in attributes}) != len(attributes):
        raise MalformedError(f"{what}: expected each attribute once")
    return attributes


def _extensions(values: memoryview | None, what: str) -> dict[str, Extension]:
    """The one value of `extensionRequest`: Extensions, as in a certificate (RFC 5280, 4.1)."""
    if values is None:
        return {}
    name = f"{what}: extensionRequest"
    sets = der.sequence_of(values, name, limit=1, tag=0x31)
    if not sets:
        raise MalformedError(f"{name}: expected one value, found none")
    found: dict[str, Extension] = {}
    for element in der.sequence_of(sets[0], name, limit=MAX_EXTENSIONS):
        parts = der.sequence_of(element, name, limit=3)
        critical = len(parts) == 3
        if len(parts) < 2 or (critical and bytes(parts[1]) != _TRUE):  # FALSE is the default, which DER leaves out
            raise MalformedError(f"{name}: expected OID, critical where it is true, and value")
        oid = _dotted(bytes(parts[0]), name)
        if oid in found:
            raise MalformedError(f"{name}: {oid} stands twice")
        found[oid] = Extension(oid=oid, critical=critical, value=bytes(der.content(parts[-1], 0x04, name)))
    return found


@lru_cache(maxsize=64)
def _dotted(oid: bytes, what: str) -> str:
    return der.decode(der.ObjectIdentifier, oid, what).dotted_string
