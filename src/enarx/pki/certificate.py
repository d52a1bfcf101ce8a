"""X.509 certificates as a strict reader sees them (RFC 5280, 4.1 and 4.2).

Our own reader, because vendors issue what a library may refuse: AMD's VCEK and VLEK carry the
serial number 0. It keeps the exact bytes that were signed, answers names and extensions as raw
DER, and refuses duplicate extensions. It decides nothing: `enarx.pki.chain` does.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256 as _sha256
from types import MappingProxyType
from typing import Annotated, Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec import Struct

from enarx import der
from enarx.errors import MalformedError

MAX_CERTIFICATE = 16 * 1024  # bytes; the largest in the field, a PCK certificate, has about 1,300
MAX_PEM_CHAIN = 10  # certificates; vendors' chains have three

BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
SUBJECT_KEY_ID: Final = "2.5.29.14"
AUTHORITY_KEY_ID: Final = "2.5.29.35"
COMMON_NAME: Final = "2.5.4.3"

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@der.sequence
class _Extension:
    oid: der.ObjectIdentifier
    critical: Annotated[bool, der.Default(False)]
    value: bytes


@der.sequence
class _Validity:
    not_before: der.UTCTime | der.GeneralizedTime
    not_after: der.UTCTime | der.GeneralizedTime


@der.sequence
class _Tbs:
    version: Annotated[int, der.Explicit(0)]
    serial: int
    signature: der.TLV
    issuer: der.TLV
    validity: _Validity
    subject: der.TLV
    spki: der.TLV
    issuer_id: Annotated[der.BitString | None, der.Implicit(1)]
    subject_id: Annotated[der.BitString | None, der.Implicit(2)]
    extensions: Annotated[list[_Extension] | None, der.Explicit(3)]


@der.sequence
class _Certificate:
    tbs: der.TLV
    algorithm: der.TLV
    signature: der.BitString


@der.sequence
class _BasicConstraints:
    ca: Annotated[bool, der.Default(False)]
    path_length: int | None


@der.sequence
class _AuthorityKeyId:
    key_id: Annotated[bytes | None, der.Implicit(0)]


@der.sequence
class _NameAttribute:
    oid: der.ObjectIdentifier
    value: der.TLV


class Extension(Struct, frozen=True, kw_only=True):
    """One extension; `value` is what stands inside the OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


class Certificate(Struct, frozen=True, kw_only=True):
    """A parsed certificate, not believed. Names, key and algorithm are raw DER; moments are in UTC."""

    der: bytes
    tbs: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime
    spki: bytes
    algorithm: bytes
    signature: bytes
    extensions: Mapping[str, Extension]
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[int] | None  # bit numbers of RFC 5280, 4.2.1.3; None when the extension is absent

    @classmethod
    def parse(cls, data: bytes, what: str = "certificate") -> Self:
        """Read one DER certificate. Raises MalformedError."""
        if len(data) > MAX_CERTIFICATE:
            raise MalformedError(f"{what}: expected at most {MAX_CERTIFICATE} bytes, found {len(data)}")
        outer = der.decode(_Certificate, data, what)
        tbs = der.decode(_Tbs, der.raw(outer.tbs), f"{what}: TBSCertificate")
        algorithm = der.raw(outer.algorithm)
        if tbs.version != 2:
            raise MalformedError(f"{what}: expected version 3, found {tbs.version + 1}")
        if der.raw(tbs.signature) != algorithm:
            raise MalformedError(f"{what}: the two signature algorithms differ")
        if outer.signature.padding_bits():
            raise MalformedError(f"{what}: the signature has unused bits")
        extensions = _extensions(tbs.extensions or [], what)
        is_ca, path_length = _basic_constraints(extensions, what)
        return cls(
            der=data,
            tbs=der.raw(outer.tbs),
            serial=tbs.serial,
            issuer=der.raw(tbs.issuer),
            subject=der.raw(tbs.subject),
            not_before=moment(tbs.validity.not_before),
            not_after=moment(tbs.validity.not_after),
            spki=der.raw(tbs.spki),
            algorithm=algorithm,
            signature=outer.signature.as_bytes(),
            extensions=MappingProxyType(extensions),
            is_ca=is_ca,
            path_length=path_length,
            key_usage=_key_usage(extensions, what),
        )

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole DER certificate, 32 bytes."""
        return _sha256(self.der).digest()

    @property
    def common_name(self) -> str:
        """The subject's only common name, or the empty string."""
        return common_name(self.subject)

    @property
    def issuer_common_name(self) -> str:
        return common_name(self.issuer)

    @property
    def self_issued(self) -> bool:
        return self.issuer == self.subject

    @property
    def subject_key_id(self) -> bytes | None:
        extension = self.extensions.get(SUBJECT_KEY_ID)
        return None if extension is None else der.content(extension.value, 0x04, "subject key identifier")

    @property
    def authority_key_id(self) -> bytes | None:
        extension = self.extensions.get(AUTHORITY_KEY_ID)
        return None if extension is None else _authority_key_id(extension.value)

    def public_key(self) -> PublicKey:
        """The subject's key. Raises MalformedError unless it is an elliptic curve or RSA key."""
        return public_key_of(self.spki)

    def to_pem(self) -> bytes:
        return pem("CERTIFICATE", self.der)


def certificates_from_pem(data: bytes, what: str = "certificate chain") -> tuple[Certificate, ...]:
    """All certificates of a PEM text, in order. Raises MalformedError when there is none or too many.

    Blank lines and a trailing NUL, which Intel's quotes have, may stand between the blocks; nothing else.
    """
    return tuple(Certificate.parse(block, what) for block in pem_blocks(data, "CERTIFICATE", what, limit=MAX_PEM_CHAIN))


def pem_blocks(data: bytes, label: str, what: str, *, limit: int) -> tuple[bytes, ...]:
    """The contents of the PEM blocks of one label (RFC 7468). Raises MalformedError."""
    import base64  # noqa: PLC0415 - only where PEM is read

    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    parts = data.rstrip(b"\0 \r\n\t").split(begin)
    if parts[0].strip() or len(parts) < 2:
        raise MalformedError(f"{what}: expected PEM that begins with {begin.decode()}")
    if len(parts) - 1 > limit:
        raise MalformedError(f"{what}: expected at most {limit} PEM blocks, found {len(parts) - 1}")
    blocks = []
    for part in parts[1:]:
        body, found, after = part.partition(end)
        if not found or after.strip():
            raise MalformedError(f"{what}: expected {end.decode()} and nothing between the blocks")
        try:
            blocks.append(base64.b64decode(re.sub(rb"\s+", b"", body), validate=True))
        except ValueError as error:
            raise MalformedError(f"{what}: a PEM block is not base64") from error
    return tuple(blocks)


def pem(label: str, data: bytes) -> bytes:
    """One PEM block."""
    import base64  # noqa: PLC0415 - only where PEM is written

    text = base64.b64encode(data).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()


@lru_cache(maxsize=256)
def common_name(name: bytes) -> str:
    """The common name of a DER Name; empty when there is none or more than one."""
    found = [value for oid, value in name_attributes(name) if oid == COMMON_NAME]
    return found[0] if len(found) == 1 else ""


@lru_cache(maxsize=256)
def name_attributes(name: bytes) -> tuple[tuple[str, str], ...]:
    """The attributes of a DER Name in order, each as (OID, text). Raises MalformedError."""
    found = []
    for relative in der.sequence_of(name, "name", limit=32):
        for attribute in _set_of(relative):
            pair = der.decode(_NameAttribute, attribute, "name attribute")
            text = der.raw(pair.value)
            if text[0] not in {0x0C, 0x13, 0x16}:  # UTF8String, PrintableString, IA5String
                found.append((pair.oid.dotted_string, text.hex()))
                continue
            try:
                found.append((pair.oid.dotted_string, der.content(text, text[0], "name attribute").decode()))
            except UnicodeDecodeError as error:
                raise MalformedError("name attribute: not UTF-8") from error
    return tuple(found)


def describe_name(name: bytes) -> str:
    """A DER Name for people: `CN=…, O=…`. Whatever it is, for this is asked when something is wrong already."""
    try:
        attributes = name_attributes(name)
    except MalformedError:
        return f"a name that cannot be read (DER {name[:32].hex()}{'…' if len(name) > 32 else ''})"
    short = {COMMON_NAME: "CN", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST"}
    return ", ".join(f"{short.get(oid, oid)}={value}" for oid, value in attributes) or "(empty name)"


def moment(value: der.UTCTime | der.GeneralizedTime) -> datetime:
    """A time of X.509 as an aware datetime in UTC."""
    stamp = value.as_datetime()
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _set_of(data: bytes) -> tuple[bytes, ...]:
    inner = der.content(data, 0x31, "relative distinguished name")
    return der.sequence_of(der.wrap(0x30, inner), "relative distinguished name", limit=8)


def _extensions(parsed: list[_Extension], what: str) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    for item in parsed:
        oid = item.oid.dotted_string
        if oid in found:
            raise MalformedError(f"{what}: extension {oid} stands twice")
        found[oid] = Extension(oid=oid, critical=item.critical, value=item.value)
    return found


def _basic_constraints(extensions: Mapping[str, Extension], what: str) -> tuple[bool, int | None]:
    extension = extensions.get(BASIC_CONSTRAINTS)
    if extension is None:
        return False, None
    value = der.decode(_BasicConstraints, extension.value, f"{what}: basicConstraints")
    if value.path_length is not None and (not value.ca or value.path_length < 0):
        raise MalformedError(f"{what}: basicConstraints has a path length that makes no sense")
    return value.ca, value.path_length


def _key_usage(extensions: Mapping[str, Extension], what: str) -> frozenset[int] | None:
    extension = extensions.get(KEY_USAGE)
    if extension is None:
        return None
    bits = der.content(extension.value, 0x03, f"{what}: keyUsage")
    if not 2 <= len(bits) <= 3 or bits[0] > 7:
        raise MalformedError(f"{what}: keyUsage is not a bit string of at most 9 bits")
    return frozenset(
        index * 8 + bit for index, octet in enumerate(bits[1:]) for bit in range(8) if octet & (0x80 >> bit)
    )


def _authority_key_id(value: bytes) -> bytes | None:
    elements = der.sequence_of(value, "authority key identifier", limit=3)
    key_id = next((element for element in elements if element[0] == 0x80), None)
    return None if key_id is None else der.content(key_id, 0x80, "authority key identifier")


@lru_cache(maxsize=256)
def public_key_of(spki: bytes) -> PublicKey:
    """The key of a DER SubjectPublicKeyInfo. Raises MalformedError unless it is an elliptic curve or RSA key."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("certificate: the public key is not understood") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise MalformedError(f"certificate: expected an elliptic curve or RSA key, found {type(key).__name__}")
    return key
