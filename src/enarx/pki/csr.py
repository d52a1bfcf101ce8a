"""Certification requests (PKCS#10, RFC 2986), with proof of possession checked in `parse`.

The subject is read and never used. Attributes other than `extensionRequest` are listed for the
caller, who decides. The signature is verified over the bytes that came, with ECDSA on P-256 with
SHA-256 or on P-384 with SHA-384: the keys our Keeps have (protocol.md, 1.3, whose RSA keys no
technology of ours endorses). Proof of possession that fails is *malformed*: the request is not
what it claims to be.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki import keys
from enarx.pki.certificate import Extension
from enarx.pki.chain import ECDSA_SHA256, ECDSA_SHA384, verify_signature

MAX_REQUEST = 1024 * 1024  # bytes; real ones with evidence and CRLs have 5 to 15 thousand
MAX_ATTRIBUTES = 16
MAX_EXTENSIONS = 16

EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"


@der.sequence
class _Attribute:
    oid: der.ObjectIdentifier
    values: der.TLV


@der.sequence
class _RequestExtension:
    oid: der.ObjectIdentifier
    critical: Annotated[bool, der.Default(False)]
    value: bytes


@der.sequence
class _Info:
    version: int
    subject: der.TLV
    spki: der.TLV
    attributes: Annotated[der.SetOf[_Attribute], der.Implicit(0)]


@der.sequence
class _Request:
    info: der.TLV
    algorithm: der.TLV
    signature: der.BitString


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificationRequest:
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
        outer = der.decode(_Request, data, what)
        info = der.decode(_Info, der.raw(outer.info), f"{what}: CertificationRequestInfo")
        if info.version != 0:
            raise MalformedError(f"{what}: expected version 1, found {info.version + 1}")
        if outer.signature.padding_bits():
            raise MalformedError(f"{what}: the signature has unused bits")
        key = keys.public_from_spki(der.raw(info.spki), f"{what}: public key")
        attributes = [(item.oid.dotted_string, der.raw(item.values)) for item in info.attributes.as_list()]
        if len(attributes) > MAX_ATTRIBUTES or len({oid for oid, _ in attributes}) != len(attributes):
            raise MalformedError(f"{what}: expected at most {MAX_ATTRIBUTES} attributes, each once")
        try:
            verify_signature(key, der.raw(outer.algorithm), outer.signature.as_bytes(), der.raw(outer.info), what)
        except UntrustedError as error:
            raise MalformedError(f"{what}: proof of possession failed: {error}") from error
        return cls(
            der=data,
            spki=der.raw(info.spki),
            key=key,
            subject=der.raw(info.subject),
            attributes=tuple(pair for pair in attributes if pair[0] != EXTENSION_REQUEST),
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


def _extensions(values: bytes | None, what: str) -> dict[str, Extension]:
    if values is None:
        return {}
    name = f"{what}: extensionRequest"
    sets = der.sequence_of(der.wrap(0x30, der.content(values, 0x31, name)), name, limit=1)
    if not sets:
        raise MalformedError(f"{name}: expected one value, found none")
    found: dict[str, Extension] = {}
    for element in der.sequence_of(sets[0], name, limit=MAX_EXTENSIONS):
        item = der.decode(_RequestExtension, element, name)
        oid = item.oid.dotted_string
        if oid in found:
            raise MalformedError(f"{name}: {oid} stands twice")
        found[oid] = Extension(oid=oid, critical=item.critical, value=item.value)
    return found
