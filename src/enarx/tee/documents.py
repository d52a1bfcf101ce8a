"""What the vendors' documents have in common: lists of CRLs as evidence carries them, and the CRL rule.

    CrlList ::= SEQUENCE { crls SEQUENCE OF SEQUENCE { url UTF8String, crl CertificateList } }
(protocol.md 1.7). The URLs are passed over: lists are found by their issuer. The rule (flow.md, 3): every certificate
of a CA that publishes a CRL needs one that is current and signed by that issuer. What was read is remembered, bounded;
whether it counts is asked anew each time.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.chain import verify_document
from enarx.pki.crl import Crl, current_for
from enarx.tee.model import Checks, Endorsements, Leniency

MAX_CRLS: Final = 16  # a machine needs one or two; the originals send all that their vendor publishes
LARGEST_KEY: Final = 64 * 1024  # bytes of endorsements; what rests on more is verified anew, to bound what is kept
_REMEMBERED_CRL: Final = 64 * 1024  # bytes; larger lists are read anew, to bound what is kept


@der.sequence
class CrlEntry:
    url: str
    crl: der.TLV


@der.sequence
class CrlList:
    crls: list[CrlEntry]


def take_crls(entries: CrlList, what: str) -> tuple[bytes, ...]:
    """The lists (DER), each read once to know that it can be. Raises MalformedError."""
    crls = tuple(der.raw(entry.crl) for entry in entries.crls)
    if len(crls) > MAX_CRLS:
        raise MalformedError(f"{what}: expected at most {MAX_CRLS} CRLs, found {len(crls)}")
    for crl in crls:
        read_crl(crl)
    return crls


def put_crls(crls: Sequence[bytes]) -> CrlList:
    """The inverse of `take_crls`, with empty URLs."""
    return CrlList(crls=[CrlEntry(url="", crl=element(crl)) for crl in crls])


def element(data: bytes) -> der.TLV:
    """One DER element, to stand inside another."""
    return der.decode(der.TLV, data, "DER element")


def read_crl(data: bytes) -> Crl:
    """As `Crl.parse`, remembered when it is small. Raises MalformedError."""
    return _remembered_crl(data) if len(data) <= _REMEMBERED_CRL else Crl.parse(data)


@lru_cache(maxsize=64)
def _remembered_crl(data: bytes) -> Crl:
    return Crl.parse(data)


@lru_cache(maxsize=256)
def read_certificate(data: bytes) -> Certificate:
    """As `Certificate.parse`, remembered. Raises MalformedError."""
    return Certificate.parse(data)


def readable_certificates(ders: Iterable[bytes]) -> list[Certificate]:
    """Those that can be read; a pool may hold others' rubbish."""
    found = []
    for data in ders:
        try:
            found.append(read_certificate(data))
        except MalformedError:
            continue
    return found


def require_unrevoked(
    name: str,
    issuer: Certificate,
    subjects: Sequence[tuple[str, Certificate]],
    endorsements: Endorsements,
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> list[datetime]:
    """There is a current CRL of `issuer`, and none of its lists names one of `subjects`; returns when it ends.

    Leniency may do without a current one. Any list that the issuer signed revokes what it names, current or not: AMD
    publishes lists for its two kinds of keys apart, and what was once taken back does not come back.
    """
    pool = [crl for crl in readable_crls(endorsements) if crl.issuer == issuer.subject]
    ends = []
    lists = [crl for crl in pool if _is_signed(crl, issuer)]
    try:
        crl, end = current_for(issuer, pool, at, "CRL")
    except UntrustedError as error:
        if not leniency.without_crl:
            checks.check(name, ok=False, found=str(error), expected=f"a current CRL of {issuer.common_name}")
        checks.skip(name, f"{error}; allowed here")
    else:
        found = f"number {crl.number}, {crl.this_update:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ}"
        checks.check(name, ok=True, found=found, expected=f"a current CRL of {issuer.common_name}")
        checks.rests_on(crl.der)
        ends = [end]
    for check, subject in subjects:
        serial = f"{subject.common_name} serial 0x{subject.serial:x}"
        if not lists:
            checks.skip(check, f"{serial}: no CRL to look into; allowed here")
            continue
        revoked = any(subject.serial in each.revoked for each in lists)
        checks.check(
            check, not revoked, found=f"{serial} {'is' if revoked else 'is not'} revoked", expected="not revoked"
        )
    return ends


def readable_crls(endorsements: Endorsements) -> list[Crl]:
    """Those lists that can be read; a pool may hold others' rubbish."""
    found = []
    for data in endorsements.crls:
        try:
            found.append(read_crl(data))
        except MalformedError:
            continue
    return found


def _is_signed(crl: Crl, issuer: Certificate) -> bool:
    try:
        verify_document(issuer.spki, crl.algorithm, crl.signature, crl.tbs, "CRL")
    except UntrustedError:
        return False  # only ever used to find one more reason to refuse
    return True


def size_of(endorsements: Endorsements) -> int:
    """Bytes of all that was offered."""
    documents = (*endorsements.tcb_infos, *endorsements.qe_identities)
    return sum(map(len, (*endorsements.certificates, *endorsements.crls, *(each.body for each in documents))))


def dates_of(path: Iterable[Certificate], endorsements: Endorsements) -> Iterable[datetime]:
    """Every moment at which a certificate or CRL, of what was used or could be used instead, begins or has ended."""
    for crl in readable_crls(endorsements):
        yield from (crl.this_update, crl.next_update or crl.this_update)
    documents = (*endorsements.tcb_infos, *endorsements.qe_identities)
    beside = [*endorsements.certificates, *(data for document in documents for data in document.chain)]
    for certificate in (*path, *readable_certificates(beside)):
        yield from (certificate.not_before, certificate.not_after + datetime.resolution)  # valid to the end of it
