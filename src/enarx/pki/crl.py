"""Certificate revocation lists (RFC 5280, 5): read strictly, and found by issuer, never by URL.

A list counts when the issuer's key signed it, it has begun, and it has not ended; a list without
`nextUpdate` never counts, for it would never end. Indirect and delta lists, and any other critical
extension, are refused. Which certificates need a list is the vendor's rule (flow.md, 3), not ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Self

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import AUTHORITY_KEY_ID, Certificate, describe_name, moment
from enarx.pki.chain import CRL_SIGN, verify_document

MAX_CRL = 2 * 1024 * 1024  # bytes; Intel's largest has some tens of thousands, a Steward's own may grow
MAX_REVOKED = 100_000

CRL_NUMBER: Final = "2.5.29.20"


@der.sequence
class _CrlExtension:
    oid: der.ObjectIdentifier
    critical: Annotated[bool, der.Default(False)]
    value: bytes


@der.sequence
class _Revoked:
    serial: int
    date: der.UTCTime | der.GeneralizedTime
    extensions: list[_CrlExtension] | None


@der.sequence
class _TbsList:
    version: int
    signature: der.TLV
    issuer: der.TLV
    this_update: der.UTCTime | der.GeneralizedTime
    next_update: der.UTCTime | der.GeneralizedTime | None
    revoked: list[_Revoked] | None
    extensions: Annotated[list[_CrlExtension] | None, der.Explicit(0)]


@der.sequence
class _List:
    tbs: der.TLV
    algorithm: der.TLV
    signature: der.BitString


@der.sequence
class _Number:
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crl:
    """A parsed list, not believed. `issuer` is a raw DER Name; `number` is None when the list has none."""

    der: bytes
    tbs: bytes
    issuer: bytes
    algorithm: bytes
    signature: bytes
    this_update: datetime
    next_update: datetime | None
    number: int | None
    authority_key_id: bytes | None
    revoked: frozenset[int]

    @classmethod
    def parse(cls, data: bytes, what: str = "CRL") -> Self:
        """Read one DER list. Raises MalformedError."""
        if len(data) > MAX_CRL:
            raise MalformedError(f"{what}: expected at most {MAX_CRL} bytes, found {len(data)}")
        outer = der.decode(_List, data, what)
        tbs = der.decode(_TbsList, der.raw(outer.tbs), f"{what}: TBSCertList")
        if tbs.version != 1:
            raise MalformedError(f"{what}: expected version 2, found {tbs.version + 1}")
        if der.raw(tbs.signature) != der.raw(outer.algorithm):
            raise MalformedError(f"{what}: the two signature algorithms differ")
        if outer.signature.padding_bits():
            raise MalformedError(f"{what}: the signature has unused bits")
        entries = tbs.revoked or []
        if len(entries) > MAX_REVOKED:
            raise MalformedError(f"{what}: expected at most {MAX_REVOKED} entries, found {len(entries)}")
        extensions = {item.oid.dotted_string: item for item in tbs.extensions or []}
        if len(extensions) != len(tbs.extensions or []):
            raise MalformedError(f"{what}: an extension stands twice")
        return cls(
            der=data,
            tbs=der.raw(outer.tbs),
            issuer=der.raw(tbs.issuer),
            algorithm=der.raw(outer.algorithm),
            signature=outer.signature.as_bytes(),
            this_update=moment(tbs.this_update),
            next_update=None if tbs.next_update is None else moment(tbs.next_update),
            number=_number(extensions.get(CRL_NUMBER), what),
            authority_key_id=_key_id(extensions.get(AUTHORITY_KEY_ID), what),
            revoked=_serials(entries, extensions.values(), what),
        )


def require_current(crl: Crl, issuer: Certificate, at: datetime, what: str) -> datetime:
    """`issuer` signed this list and it is current at the moment; returns when it ends. Raises UntrustedError."""
    if crl.issuer != issuer.subject:
        raise UntrustedError(
            f"{what}: expected issuer {describe_name(issuer.subject)}, found {describe_name(crl.issuer)}"
        )
    if issuer.key_usage is not None and CRL_SIGN not in issuer.key_usage:
        raise UntrustedError(f"{what}: the key usage of {issuer.common_name} does not allow signing CRLs")
    verify_document(issuer.spki, crl.algorithm, crl.signature, crl.tbs, what)
    if crl.next_update is None:
        raise UntrustedError(f"{what}: has no nextUpdate, so it would never end")
    if at < crl.this_update:
        raise UntrustedError(
            f"{what}: begins at {crl.this_update:%Y-%m-%dT%H:%M:%SZ}, asked for {at:%Y-%m-%dT%H:%M:%SZ}"
        )
    if at >= crl.next_update:
        raise UntrustedError(
            f"{what}: ended at {crl.next_update:%Y-%m-%dT%H:%M:%SZ}, asked for {at:%Y-%m-%dT%H:%M:%SZ}"
        )
    return crl.next_update


def current_for(issuer: Certificate, pool: Iterable[Crl], at: datetime, what: str) -> tuple[Crl, datetime]:
    """The list that counts for `issuer`: signed by it, current, of the highest number, then the latest.

    A list that names another issuer is passed over; one that names this issuer and does not verify is passed over
    too as long as another does. Raises UntrustedError with the reason of the best candidate when none counts.
    """
    candidates = [crl for crl in pool if crl.issuer == issuer.subject]
    ranked = sorted(candidates, key=lambda crl: (crl.number or 0, crl.this_update), reverse=True)
    refusal = UntrustedError(f"{what}: no CRL of {issuer.common_name} was provided")
    for position, crl in enumerate(ranked):
        try:
            return crl, require_current(crl, issuer, at, f"{what}: CRL of {issuer.common_name}")
        except UntrustedError as error:
            refusal = error if position == 0 else refusal
    raise refusal


def require_not_revoked(certificate: Certificate, crl: Crl, what: str) -> None:
    """Raises UntrustedError when the list names the certificate's serial number."""
    if certificate.serial in crl.revoked:
        raise UntrustedError(
            f"{what}: {certificate.common_name} (serial 0x{certificate.serial:x}) is revoked by its issuer"
        )


def _serials(entries: list[_Revoked], extensions: Iterable[_CrlExtension], what: str) -> frozenset[int]:
    """All serials, after refusing what would change their meaning (RFC 5280, 5.2 and 5.3)."""
    for item in (*extensions, *(e for entry in entries for e in entry.extensions or [])):
        if item.critical:
            raise MalformedError(f"{what}: critical extension {item.oid.dotted_string} is not understood")
    return frozenset(entry.serial for entry in entries)


def _number(extension: _CrlExtension | None, what: str) -> int | None:
    if extension is None:
        return None
    number = int.from_bytes(der.content(extension.value, 0x02, f"{what}: CRL number"), "big", signed=True)
    if not 0 <= number < 1 << 160:  # RFC 5280, 5.2.3: at most 20 octets
        raise MalformedError(f"{what}: CRL number {number} is out of range")
    return number


def _key_id(extension: _CrlExtension | None, what: str) -> bytes | None:
    if extension is None:
        return None
    elements = der.sequence_of(extension.value, f"{what}: authority key identifier", limit=3)
    key_id = next((element for element in elements if element[0] == 0x80), None)
    return None if key_id is None else der.content(key_id, 0x80, f"{what}: authority key identifier")
