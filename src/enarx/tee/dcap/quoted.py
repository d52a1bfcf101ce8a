"""A quote with everything inside it read, and the evidence that brings it with its endorsements.

    SEQUENCE { quote OCTET STRING, crl CrlList, tcb TcbPackage, qe TcbPackage }       ours (flow.md, 3)
    SEQUENCE { quote OCTET STRING, crl CrlList, tcb TcbPackage }                      the originals
    SEQUENCE { quote OCTET STRING, crl CrlList }  and  the bare quote                 from before TCB information
    CrlList    ::= SEQUENCE { crls SEQUENCE OF SEQUENCE { url UTF8String, crl CertificateList } }
    TcbPackage ::= SEQUENCE { crts SEQUENCE OF Certificate, report OCTET STRING }     JSON as Intel served it
(protocol.md 1.7). Every part is read here, so that what is not well formed is refused before anything is
believed. The URLs beside the CRLs are passed over: lists are found by their issuer.
"""

from functools import lru_cache
from typing import Final, Self

from msgspec import Struct

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.tee.dcap import collateral
from enarx.tee.dcap.certification import Machine, Named, read
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.pck import Pck
from enarx.tee.dcap.quote import Quote
from enarx.tee.documents import CrlList, element, put_crls, read_certificate, take_crls
from enarx.tee.model import Endorsements, SignedJson

MAX_EVIDENCE: Final = 1024 * 1024  # bytes; the originals' have about 14,000
_REMEMBERED: Final = 64 * 1024  # bytes beside a quote; what is larger is read anew, to bound what is kept
MAX_CERTIFICATES: Final = 4  # beside a document: its signer and the root


@der.sequence
class _TcbPackage:
    crts: list[der.TLV]
    report: bytes


@der.sequence
class _Documents:
    crl: CrlList
    tcb: _TcbPackage | None
    qe: _TcbPackage | None


@der.sequence
class _Evidence:
    quote: bytes
    crl: CrlList
    tcb: _TcbPackage | None
    qe: _TcbPackage | None


class Quoted(Struct, frozen=True, kw_only=True):
    """A quote, the report of the Quoting Enclave that signed it, and whose that is. Not believed."""

    quote: Quote
    qe: EnclaveReport
    certified: Machine | Certificate | Named  # the machine's chain, or what tells which it is

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a quote and what it carries. Raises MalformedError."""
        quote = Quote.parse(data)
        qe, certified = _read_machine(quote.qe_report, quote.certification_type, quote.certification)
        return cls(quote=quote, qe=qe, certified=certified)

    @property
    def machine(self) -> Machine:
        """The machine, for whoever has nothing but the quote. Raises UntrustedError when only its name stands there."""
        if isinstance(self.certified, Machine):
            return self.certified
        kind = self.quote.certification_type
        raise UntrustedError(f"quote: certification data of type {kind} has no PCK certificate chain, only type 5 has")

    @property
    def pck(self) -> Pck:
        """What Intel certified about the machine. Raises as `machine` does."""
        return self.machine.pck


@lru_cache(maxsize=256)
def _read_machine(
    qe_report: bytes, certification_type: int, certification: bytes
) -> tuple[EnclaveReport, Machine | Certificate | Named]:
    """Read, and remembered: the same in every quote of a machine. Raises MalformedError."""
    certified = read(certification_type, certification)
    return EnclaveReport.parse(qe_report, "QE report"), certified


class Bundle(Struct, frozen=True, kw_only=True):
    """Evidence taken apart: the quote's bytes, and what came with it. `parts` is 2 to 4, as drawn above."""

    quote: bytes
    endorsements: Endorsements
    parts: int

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read the DER form, and read every endorsement once to know that it can be. Raises MalformedError."""
        if len(data) > MAX_EVIDENCE:
            raise MalformedError(f"{what}: expected at most {MAX_EVIDENCE} bytes, found {len(data)}")
        elements = der.sequence_of(memoryview(data), what, limit=4)
        if len(elements) < 2:
            raise MalformedError(f"{what}: expected a quote and a list of CRLs, found {len(elements)} parts")
        beside = b"".join(elements[1:])
        read = _remembered_documents if len(beside) <= _REMEMBERED else _read_documents
        return cls(
            quote=bytes(der.content(elements[0], 0x04, f"{what}: quote")),
            endorsements=read(beside, what),
            parts=len(elements),
        )

    def encode(self) -> bytes:
        """The DER form. URLs are not kept by `parse` and are written empty."""
        return der.encode(
            _Evidence(
                quote=self.quote,
                crl=put_crls(self.endorsements.crls),
                tcb=_unpackage(self.endorsements.tcb_infos),
                qe=_unpackage(self.endorsements.qe_identities),
            )
        )


def _read_documents(beside: bytes, what: str) -> Endorsements:
    """What stands behind the quote, each part read once to know that it can be. Raises MalformedError."""
    parsed = der.decode(_Documents, der.wrap(0x30, beside), what)
    tcb_infos, qe_identities = _package(parsed.tcb, what), _package(parsed.qe, what)
    for document in tcb_infos:
        collateral.read_tcb_info(document.body)
    for document in qe_identities:
        collateral.read_qe_identity(document.body)
    return Endorsements(crls=take_crls(parsed.crl, what), tcb_infos=tcb_infos, qe_identities=qe_identities)


@lru_cache(maxsize=128)
def _remembered_documents(beside: bytes, what: str) -> Endorsements:
    """As `_read_documents`: a machine sends the same with every quote."""
    return _read_documents(beside, what)


def _package(package: _TcbPackage | None, what: str) -> tuple[SignedJson, ...]:
    if package is None:
        return ()
    chain = tuple(der.raw(certificate) for certificate in package.crts)
    if not 1 <= len(chain) <= MAX_CERTIFICATES:
        raise MalformedError(f"{what}: expected 1 to {MAX_CERTIFICATES} certificates beside JSON, found {len(chain)}")
    for certificate in chain:
        read_certificate(certificate)
    return (SignedJson(body=package.report, chain=chain),)


def _unpackage(documents: tuple[SignedJson, ...]) -> _TcbPackage | None:
    if not documents:
        return None
    return _TcbPackage(crts=[element(certificate) for certificate in documents[0].chain], report=documents[0].body)
