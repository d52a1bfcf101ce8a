"""Whether Intel vouches for the machine that made a quote: what SGX and TDX share, as a numbered list.

Rows of the feature matrix (X1 to X24) in the order in which they are asked; the first failure ends it:
 1  X1   the quote was made by Intel's Quoting Enclave software, for this technology
 2  X7   PCK certificate → PCK CA → root, and the root's key is that of an anchor
 3  X8   each certificate has the name and the role of its place
 4  X11  there is a TCB info and a QE identity for this technology
 5  X12  the TCB info speaks of this machine's FMSPC and PCEID
 6  X10  both were signed, as the bytes came, by the TCB signer, whom the same root issued
 7  X13  both are current: issued, and not yet to be replaced
 8  X14  both belong to one evaluation set, not older than asked for
 9  X9   CRLs of root and PCK CA are current and name neither the PCK CA, the TCB signer nor the PCK
10  X3   the PCK signed the Quoting Enclave's report
11  X4   this report is for the attestation key, all 64 bytes
12  X5   the Quoting Enclave is the one that Intel describes, and not in debug mode
13  X2   the attestation key signed the quote
14  X6   the Quoting Enclave's version, X15 the platform's level, merged; X16 nothing is revoked
DEBUG of the workload, reference values, statuses and advisories are policy: `accept` of each technology.
"""

import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from msgspec import Struct

from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.chain import ECDSA_SHA256, verify_chain, verify_document, verify_issued
from enarx.tee.dcap import pck, tcb
from enarx.tee.dcap.certification import Machine, find
from enarx.tee.dcap.collateral import (
    Document,
    QeIdentity,
    TcbInfo,
    read_qe_identity,
    read_tcb_info,
    readable,
    unreadable,
)
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.quoted import Quoted
from enarx.tee.documents import (
    LARGEST_KEY,
    dates_of,
    read_certificate,
    readable_certificates,
    require_unrevoked,
    size_of,
)
from enarx.tee.model import Checks, Claims, Endorsements, Gate, Leniency, R, SignedJson, TrustAnchor
from enarx.tee.remember import Remembered

QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # Intel's Quoting Enclave, quote header
_QE_VENDOR: Final = QE_VENDOR.hex()
_ECDSA: Final = ec.ECDSA(hashes.SHA256())

ROOT: Final = "Intel SGX Root CA"
PLATFORM_CA: Final = "Intel SGX PCK Platform CA"
PROCESSOR_CA: Final = "Intel SGX PCK Processor CA"
PCK: Final = "Intel SGX PCK Certificate"
TCB_SIGNER: Final = "Intel SGX TCB Signing"

TCB_INFO_VERSION: Final = 3
QE_IDENTITY_VERSION: Final = 2
MAX_TOLD: Final = 4  # reasons why documents cannot be read
DIGITAL_SIGNATURE: Final = 0  # keyUsage bit, RFC 5280, 4.2.1.3

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = tuple(
    ("untrusted", name)
    for name in (
        "quote.vendor",
        "pck.chain",
        "pck.roles",
        "tcb_info.kind",
        "qe_identity.kind",
        "tcb_info.platform",
        "tcb_info.signature",
        "qe_identity.signature",
        "tcb_info.dates",
        "qe_identity.dates",
        "collateral.evaluation",
        "collateral.evaluation_minimum",
        "crl.root",
        "revocation.pck_ca",
        "revocation.tcb_signer",
        "crl.pck_ca",
        "revocation.pck",
        "qe_report.signature",
        "qe_report.binding",
        "qe.identity",
        "qe.debug",
        "quote.signature",
        "qe.level",
        "tcb.level",
        "tcb.not_revoked",
    )
)

D = TypeVar("D", bound=Document)


class Tee(Struct, frozen=True, kw_only=True):
    """What differs between the technologies: the `id` that each of Intel's documents must carry."""

    tcb_info: Literal["SGX", "TDX"]
    qe_identity: Literal["QE", "TD_QE"]
    qe_identity_versions: frozenset[int] = frozenset({QE_IDENTITY_VERSION})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # compared by identity: one is remembered for many quotes
class Platform:
    """A machine that Intel vouches for, and the documents by which it does. Only `authenticate` makes one."""

    qe: EnclaveReport
    chain: tuple[Certificate, Certificate, Certificate]  # PCK, PCK CA, root
    pck: pck.Pck
    anchor: TrustAnchor
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    expires: datetime  # earliest end of certificates, CRLs and documents

    @property
    def chip(self) -> bytes:
        """The platform instance id, or the PPID of the single processor where there is none; 16 bytes."""
        return self.pck.platform_instance_id or self.pck.ppid


class DcapClaims(Claims[R], frozen=True, kw_only=True):
    """Claims with what the policies of Intel's technologies ask about, typed. Only their `verify` makes one."""

    platform: Platform
    standing: tcb.Standing


_PLATFORMS: Final = Remembered[Platform](256)
_STANDINGS: Final = Remembered[tcb.Standing](256)


def authenticate(
    quoted: Quoted,
    tee: Tee,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Platform:
    """Numbers 1 to 13 of the list above. Raises UntrustedError at the first that fails."""
    quote = quoted.quote

    # 1  X1: version, key type and TEE type were fixed by the parser
    checks.check("quote.vendor", quote.qe_vendor_id == QE_VENDOR, found=quote.qe_vendor_id.hex(), expected=_QE_VENDOR)

    # 2 to 12, which are the same for every quote of a machine
    def vouch() -> tuple[Platform, Iterable[datetime] | None]:
        platform = _vouch(quoted, tee, endorsements, anchors, at, leniency, checks)
        keep = not leniency.without_crl and size_of(endorsements) <= LARGEST_KEY  # what is overlooked tells its moment
        return platform, _dates(platform.chain, endorsements) if keep else None

    signed = (quote.attestation_key, quote.qe_report, quote.qe_report_signature, quote.qe_auth)
    certified = (quote.certification_type, quote.certification)
    platform = _PLATFORMS.recall((signed, certified, tee, endorsements, tuple(anchors), leniency), at, checks, vouch)

    # 13  X2
    with checks.step("quote.signature", expected="signed by the attestation key"):
        _verify_quote(quote.attestation_key, quote.signature, quote.signed)
    return platform


def _vouch(
    quoted: Quoted,
    tee: Tee,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Platform:
    """Numbers 2 to 12: nothing here depends on what the quote says of the workload."""
    quote = quoted.quote

    def verify_report(signer: Certificate) -> None:
        signature = _der_signature(quote.qe_report_signature)
        verify_document(signer.spki, ECDSA_SHA256, signature, quote.qe_report, "QE report")

    # 2  X7
    with checks.step("pck.chain", expected="PCK certificate, PCK CA and a root that is trusted here"):
        machine = find(quoted.certified, endorsements, _roots(anchors, endorsements), verify_report)
        leaf, issuer, root = machine.chain
        anchor = _anchor_of(root, anchors, endorsements)
        ends = [verify_chain(machine.chain, at, what="PCK chain", understood=(pck.EXTENSION,))]
        _require_pinned(issuer, anchor)

    # 3  X8
    with checks.step("pck.roles", found=f"{leaf.common_name} by {issuer.common_name}", expected="Intel's names"):
        _require_roles(machine)

    # 4  X11
    tcb_infos = _of_kind(
        endorsements.tcb_infos,
        read_tcb_info,
        tee.tcb_info,
        frozenset({TCB_INFO_VERSION}),
        "tcb_info.kind",
        checks,
    )
    identities = _of_kind(
        endorsements.qe_identities,
        read_qe_identity,
        tee.qe_identity,
        tee.qe_identity_versions,
        "qe_identity.kind",
        checks,
    )

    # 5  X12
    tcb_infos = _of_platform(tcb_infos, machine.pck, checks)

    # 6  X10
    info, info_signer = _signed(tcb_infos, root, at, "tcb_info.signature", endorsements, checks)
    identity, identity_signer = _signed(identities, root, at, "qe_identity.signature", endorsements, checks)

    # 7  X13
    for name, document in (("tcb_info.dates", info), ("qe_identity.dates", identity)):
        checks.check(
            name,
            document.issue_date <= at < document.next_update,
            found=f"{document.issue_date:%Y-%m-%dT%H:%M:%SZ} to {document.next_update:%Y-%m-%dT%H:%M:%SZ}",
            expected="a document that has begun and not ended",
        )
        ends.append(document.next_update)

    # 8  X14
    _require_evaluation(info, identity, leniency, checks)

    # 9  X9
    signers = {signer.der: signer for signer in (info_signer, identity_signer)}.values()
    ends += [signer.not_after for signer in signers]
    below_root = [("revocation.pck_ca", issuer), *(("revocation.tcb_signer", signer) for signer in signers)]
    ends += require_unrevoked("crl.root", root, below_root, endorsements, at, leniency, checks)
    below_ca = [("revocation.pck", leaf)]
    ends += require_unrevoked("crl.pck_ca", issuer, below_ca, endorsements, at, leniency, checks)

    # 10  X3
    with checks.step("qe_report.signature", expected="signed by the PCK"):
        verify_report(leaf)

    # 11  X4
    binding = sha256(quote.attestation_key + quote.qe_auth).digest() + bytes(32)
    checks.check(
        "qe_report.binding",
        hmac.compare_digest(quoted.qe.report_data, binding),
        found=quoted.qe.report_data.hex(),
        expected=f"{binding.hex()} (SHA-256 of attestation key and authentication data, then zeros)",
    )

    # 12  X5
    differences = _differences(quoted, identity)
    checks.check("qe.identity", not differences, found="; ".join(differences) or "as described", expected="Intel's QE")
    checks.check("qe.debug", not quoted.qe.debug, found=f"DEBUG is {int(quoted.qe.debug)}", expected="DEBUG is 0")

    return Platform(
        qe=quoted.qe,
        chain=machine.chain,
        pck=machine.pck,
        anchor=anchor,
        tcb_info=info,
        qe_identity=identity,
        expires=min(ends),
    )


def _dates(chain: Iterable[Certificate], endorsements: Endorsements) -> Iterable[datetime]:
    """Every moment that could decide anything: of what was used, and of what could be used instead."""
    infos = readable(endorsements.tcb_infos, read_tcb_info)
    identities = readable(endorsements.qe_identities, read_qe_identity)
    for document, _ in (*infos, *identities):
        yield from (document.issue_date, document.next_update)
    yield from dates_of(chain, endorsements)


class Loaded(Struct, frozen=True, kw_only=True):
    """The TDX module beneath a TD, which belongs to the machine: TEE_TCB_SVN at launch and now, and who signed it."""

    svn: bytes
    svn2: bytes | None
    signer: bytes
    attributes: bytes


def appraise_tcb(
    platform: Platform,
    checks: Checks,
    loaded: Loaded | None = None,
    appraise_module: Callable[[], tcb.ModuleStanding | None] = lambda: None,
) -> tcb.Standing:
    """Number 14. `appraise_module` tells where the TDX module that is loaded stands. Raises UntrustedError."""

    def stand() -> tuple[tcb.Standing, Iterable[datetime]]:
        return _stand(platform, checks, loaded, appraise_module()), ()

    return _STANDINGS.recall((platform, loaded), None, checks, stand)


def _stand(
    platform: Platform,
    checks: Checks,
    loaded: Loaded | None,
    module: tcb.ModuleStanding | None,
) -> tcb.Standing:
    tee_tcb_svn, tee_tcb_svn2 = (None, None) if loaded is None else (loaded.svn, loaded.svn2)
    info, identity = platform.tcb_info, platform.qe_identity
    qe_svn = platform.qe.security_version

    # 14  X6
    with checks.step("qe.level", found=f"SVN {qe_svn}", expected="a version that Intel lists"):
        qe_level = tcb.select_enclave_level(identity.levels, qe_svn, "Quoting Enclave")

    # 14  X15
    with checks.step("tcb.level", expected="a level that Intel lists"):
        level = tcb.select_level(info, platform.pck, tee_tcb_svn)
    standing = tcb.converge(
        info,
        level,
        (identity, qe_level, qe_svn),
        platform.pck,
        module=module,
        tee_tcb_svn=tee_tcb_svn,
        tee_tcb_svn2=tee_tcb_svn2,
    )

    # 14  X16: a policy can allow every status but this one
    checks.check(
        "tcb.not_revoked",
        standing.status != "Revoked",
        found=standing.describe(),
        expected="a level that is not revoked",
    )
    return standing


# -- chains


def _roots(anchors: Iterable[TrustAnchor], endorsements: Endorsements) -> list[Certificate]:
    found = [anchor.find(endorsements) for anchor in anchors if anchor.family == "intel"]
    return [read_certificate(data) for data in found if data is not None]


def _anchor_of(root: Certificate, anchors: Iterable[TrustAnchor], endorsements: Endorsements) -> TrustAnchor:
    """The anchor with the key and name of `root`, which may be another edition of its certificate.

    Intel's first root certificate ends in 2033, today's in 2049, with one key; an old chain carries the old one.
    """
    for anchor in anchors:
        data = anchor.find(endorsements) if anchor.family == "intel" else None
        if data is None:
            continue
        certificate = read_certificate(data)
        if certificate.spki == root.spki and certificate.subject == root.subject:
            verify_issued(root, certificate, "PCK chain: root")
            return anchor
    raise UntrustedError(f"PCK chain: the root {root.sha256.hex()} ({root.common_name}) is not trusted here")


def _require_pinned(issuer: Certificate, anchor: TrustAnchor) -> None:
    if anchor.intermediates is not None and issuer.sha256 not in anchor.intermediates:
        raise UntrustedError(f"PCK chain: {issuer.common_name} {issuer.sha256.hex()} is not among the pinned ones")


def _require_roles(machine: Machine) -> None:
    leaf, issuer, root = machine.chain
    wanted = ((root, (ROOT,)), (issuer, (PLATFORM_CA, PROCESSOR_CA)), (leaf, (PCK,)))
    for certificate, names in wanted:
        if certificate.common_name not in names:
            raise UntrustedError(f"PCK chain: expected {' or '.join(names)}, found {certificate.common_name!r}")
    _require_signer(leaf, "PCK certificate")
    has_instance = machine.pck.platform_instance_id is not None
    if has_instance != (issuer.common_name == PLATFORM_CA):
        word = "a" if has_instance else "no"
        raise UntrustedError(f"PCK certificate: {word} platform instance id under {issuer.common_name}")


def _require_signer(certificate: Certificate, what: str) -> None:
    """An end entity that may sign: neither a CA nor without the key usage."""
    if certificate.is_ca:
        raise UntrustedError(f"{what}: expected an end entity, found a CA")
    if certificate.key_usage is None or DIGITAL_SIGNATURE not in certificate.key_usage:
        raise UntrustedError(f"{what}: its key usage does not allow digital signatures")


# -- documents


def _of_kind(
    offered: Sequence[SignedJson],
    read: Callable[[bytes], D],
    kind: str,
    versions: frozenset[int],
    name: str,
    checks: Checks,
) -> list[tuple[D, SignedJson]]:
    documents = readable(offered, read)
    fitting = [(d, s) for d, s in documents if d.id == kind and d.version in versions]
    found = sorted({f"{document.id} version {document.version}" for document, _ in documents})
    if not fitting:
        found += [f"one that cannot be read ({why})" for why in unreadable(offered, read)[:MAX_TOLD]]
    known = " or ".join(map(str, sorted(versions)))
    expected = f"a document {kind} version {known}, from the evidence or the collateral"
    checks.check(name, bool(fitting), found=", ".join(found) or "none", expected=expected)
    return fitting


def _of_platform(
    offered: list[tuple[TcbInfo, SignedJson]], platform: pck.Pck, checks: Checks
) -> list[tuple[TcbInfo, SignedJson]]:
    fitting = [(d, s) for d, s in offered if d.fmspc == platform.fmspc and d.pce_id == platform.pce_id]
    found = sorted({f"FMSPC {d.fmspc.hex().upper()} PCEID {d.pce_id.hex().upper()}" for d, _ in offered})
    checks.check(
        "tcb_info.platform",
        bool(fitting),
        found=", ".join(found),
        expected=f"FMSPC {platform.fmspc.hex().upper()} PCEID {platform.pce_id.hex().upper()}",
    )
    return fitting


def _signed(
    offered: list[tuple[D, SignedJson]],
    root: Certificate,
    at: datetime,
    name: str,
    endorsements: Endorsements,
    checks: Checks,
) -> tuple[D, Certificate]:
    """The document that counts and who signed it: of those that have begun, the highest evaluation, then the latest.

    One whose signature does not verify is passed over as long as another's does; one that has ended is not, for to
    fall back behind it would be a rollback.
    """
    ranked = sorted(
        offered, key=lambda each: (each[0].issue_date <= at, each[0].evaluation, each[0].issue_date), reverse=True
    )
    refusal: UntrustedError | None = None
    for document, source in ranked:
        try:
            signer = _verify_document(document, source, root, at, endorsements, name.partition(".")[0])
        except UntrustedError as error:
            refusal = refusal or error
            continue
        described = f"evaluation {document.evaluation}, issued {document.issue_date:%Y-%m-%dT%H:%M:%SZ}"
        checks.check(name, ok=True, found=described, expected=f"signed by {TCB_SIGNER}")
        checks.rests_on(SignedJson(body=source.body, chain=(signer.der,)))
        return document, signer
    checks.check(name, ok=False, found=str(refusal), expected=f"signed by {TCB_SIGNER}")
    raise UntrustedError(str(refusal))


def _verify_document(
    document: Document, source: SignedJson, root: Certificate, at: datetime, endorsements: Endorsements, what: str
) -> Certificate:
    """The signer, after checking its chain and the signature over the bytes that came. Raises UntrustedError."""
    try:
        chain = [read_certificate(data) for data in source.chain] or _signers(endorsements)
    except MalformedError as error:
        raise UntrustedError(f"{what}: its issuer chain cannot be read: {error}") from error
    if not 1 <= len(chain) <= 2:
        raise UntrustedError(f"{what}: expected a signer and its root beside the document, found {len(chain)}")
    signer = chain[0]
    if signer.common_name != TCB_SIGNER:
        raise UntrustedError(f"{what}: expected {TCB_SIGNER}, found {signer.common_name!r}")
    _require_signer(signer, what)
    for beside in chain[1:]:
        if beside.spki != root.spki or beside.subject != root.subject:
            raise UntrustedError(f"{what}: its root is not the root of the PCK chain")
        verify_issued(beside, root, what)
    verify_chain((signer, root), at, what=what)
    signature = _der_signature(document.signature)
    verify_document(signer.spki, ECDSA_SHA256, signature, document.signed, what)
    return signer


def _signers(endorsements: Endorsements) -> list[Certificate]:
    """The TCB signer among loose certificates, for a document that came without its chain."""
    found = [each for each in readable_certificates(endorsements.certificates) if each.common_name == TCB_SIGNER]
    return sorted(found, key=lambda each: each.not_after, reverse=True)[:1]


def _require_evaluation(info: TcbInfo, identity: QeIdentity, leniency: Leniency, checks: Checks) -> None:
    found = f"TCB info {info.evaluation}, QE identity {identity.evaluation}"
    same = info.evaluation == identity.evaluation
    if not same and leniency.allow_evaluation_skew:
        checks.skip("collateral.evaluation", f"{found}: different numbers are allowed here")
    else:
        checks.check("collateral.evaluation", same, found=found, expected="the same tcbEvaluationDataNumber")
    checks.check(
        "collateral.evaluation_minimum",
        min(info.evaluation, identity.evaluation) >= leniency.minimum_evaluation,
        found=found,
        expected=f"tcbEvaluationDataNumber {leniency.minimum_evaluation} or higher",
    )


# -- signatures


def _der_signature(raw: bytes) -> bytes:
    """R ‖ s, 32 bytes each and big-endian, as the SEQUENCE that the library reads."""
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


@lru_cache(maxsize=256)
def _attestation_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError as error:
        raise UntrustedError("quote: the attestation key is not a point on P-256") from error


def _verify_quote(point: bytes, signature: bytes, signed: bytes) -> None:
    """Never remembered. Raises UntrustedError."""
    try:
        _attestation_key(point).verify(_der_signature(signature), signed, _ECDSA)
    except InvalidSignature as error:
        raise UntrustedError("quote: the signature is wrong") from error


def _differences(quoted: Quoted, identity: QeIdentity) -> list[str]:
    """Where the Quoting Enclave is not the one that Intel describes."""
    qe = quoted.qe
    masked = bytes(have & mask for have, mask in zip(qe.attributes, identity.attributes_mask, strict=True))
    wanted = bytes(have & mask for have, mask in zip(identity.attributes, identity.attributes_mask, strict=True))
    pairs = (
        ("MRSIGNER", qe.mr_signer.hex(), identity.mr_signer.hex()),
        ("ISVPRODID", qe.product_id, identity.product_id),
        ("MISCSELECT", qe.misc_select & identity.misc_select_mask, identity.misc_select & identity.misc_select_mask),
        ("ATTRIBUTES", masked.hex(), wanted.hex()),
    )
    return [f"{name} is {have}, expected {want}" for name, have, want in pairs if have != want]
