"""Whether AMD vouches for a report: a numbered list; the first failure ends it.

Rows of the feature matrix in the order in which they are asked (S1 to S6 concern the bytes and are the parser's,
but for the signature itself):
 1  S9   the report was signed by a VCEK or a VLEK, not by nobody and not under a masked key
 2       there is a certificate for such a key; among several the one of this chip and this TCB
 3  S7   key → ASK or ASVK → ARK: the root is an anchor's, the intermediate one that may hang under it
    S8   S10  names and roles of each place, dates, algorithms, CA flags, path length, critical extensions
 4  S11  a current CRL of the ARK does not name the intermediate
 5  S15  the product is one, in the certificates' names, the key's certificate and the report's CPUID
 6  S14  the four TCB versions are of that product's layout
 7  S13  the key is this chip's
 8  S12  and was derived for the reported TCB, component by component
 9  S1   S2  the key signed the bytes of the report as they came
10  S17  committed and reported TCB, and that at launch, are nowhere above the current one
    S20  and the firmware has the ABI that the guest's policy asks for
Key binding (S27) is asked by `enarx.tee.appraise`; everything that some may accept and others not is policy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from msgspec import Struct

from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.chain import verify_chain, verify_issued
from enarx.tee.documents import LARGEST_KEY, dates_of, read_certificate, require_unrevoked, size_of
from enarx.tee.model import Checks, Claims, Endorsements, Field, Gate, Later, Leniency, TrustAnchor, stamp
from enarx.tee.remember import Remembered
from enarx.tee.snp import pinned
from enarx.tee.snp import report as fields
from enarx.tee.snp.report import Report
from enarx.tee.snp.tcb import ADVISORIES, LAYOUTS, Tcb, product_of, read_tcb
from enarx.tee.snp.vek import HWID_SIZE, NAMES, UNDERSTOOD, Kind, Vek, read_vek

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = tuple(
    ("untrusted", name)
    for name in (
        "report.signing_key",
        "vek.certificate",
        "vek.chain",
        "crl.ark",
        "revocation.intermediate",
        "vek.product",
        "report.tcb_layout",
        "vek.chip",
        "vek.tcb",
        "report.signature",
        "report.tcb_order",
        "report.abi",
        "binding",
    )
)

CURVE: Final = "secp384r1"
_ECDSA: Final = ec.ECDSA(hashes.SHA384())

Path = tuple[Certificate, Certificate, Certificate]


class Standing(Struct, frozen=True, kw_only=True):
    """What the report's four TCB versions say."""

    current: Tcb
    reported: Tcb
    committed: Tcb
    launch: Tcb


class SnpClaims(Claims[Report], frozen=True, kw_only=True):
    """Claims with what the policy asks about, typed. Only `verify` makes one."""

    vek: Vek
    standing: Standing


def verify(
    report: Report,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> SnpClaims:
    """What an anchor vouches for. Raises UntrustedError."""
    # 1  S9
    kind = _signing_key(report, checks)

    # 2, 3 and 4, which are the same for every report of a machine
    def vouch() -> tuple[_Vouched, Iterable[datetime] | None]:
        vouched = _vouch(report, kind, endorsements, anchors, at, leniency, checks)
        dates = dates_of(vouched.path, endorsements)
        return vouched, None if leniency.without_crl or size_of(endorsements) > LARGEST_KEY else dates

    machine = (kind, report.chip_id, report.reported_tcb)
    vouched = _VOUCHED.recall((machine, endorsements, tuple(anchors), leniency), at, checks, vouch)
    vek, path, anchor = vouched.vek, vouched.path, vouched.anchor

    # 5  S15
    product = _product(report, vek, path, checks)

    # 6  S14
    with checks.step("report.tcb_layout", expected=f"the layout of {product}") as found:
        standing = _standing(report, vek)
        found(f"current TCB {standing.current}")

    # 7  S13
    _require_chip(report, vek, checks)

    # 8  S12
    lag = _differences(standing.reported, vek.tcb)
    checks.check(
        "vek.tcb",
        not lag,
        found=f"reported TCB {standing.reported}" + (f": {'; '.join(lag)}" if lag else ""),
        expected=f"that of the {kind}: {vek.tcb}",
    )

    # 9  S1, S2
    with checks.step("report.signature", found=f"by the {kind}", expected=f"signed by the {kind}"):
        _verify_report(vek, report)

    # 10  S17
    _require_order(standing, checks)

    # 10  S20: AMD 56860, 4.3: the firmware starts no guest whose policy asks for a later ABI
    wanted = (report.policy >> 8 & 0xFF, report.policy & 0xFF)
    has = (report.current_version.major, report.current_version.minor)
    checks.check(
        "report.abi",
        wanted <= has,
        found=f"policy asks for ABI {wanted[0]}.{wanted[1]}, firmware has {has[0]}.{has[1]}",
        expected="a firmware that has it",
    )

    advisories = _advisories(product, standing.reported)
    return SnpClaims(
        report=report,
        report_data=report.report_data,
        measurement=report.measurement,
        signer=report.author_key_digest if report.author_key_en else None,
        debug=bool(report.policy >> 19 & 1),
        product=product,
        tcb_status="OutOfDate" if advisories else "UpToDate",
        advisories=advisories,
        chip=_chip(report, vek),
        anchor=anchor,
        expires=vouched.expires,
        fields=Later(lambda: describe(report, vek, standing)),
        vek=vek,
        standing=standing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vouched:
    """The key's certificate, its chain up to an anchor, and the earliest end among these and the CRL."""

    vek: Vek
    path: Path
    anchor: TrustAnchor
    expires: datetime


_VOUCHED: Final = Remembered[_Vouched](256)


def _vouch(
    report: Report,
    kind: Kind,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> _Vouched:
    """Numbers 2 to 4: of the report, nothing plays a part here but its chip and its reported TCB."""
    # 2
    with checks.step("vek.certificate", expected=f"a certificate of a {kind}") as found:
        vek = _find_vek(report, kind, endorsements, at)
        found(f"{kind} of {vek.product_name}, until {vek.certificate.not_after.date()}")

    # 3  S7, S8, S10
    with checks.step("vek.chain", expected=f"{vek.kind}, intermediate and a root that is trusted here") as found:
        path, anchor = _chain(vek, endorsements, anchors, at)
        found(" ← ".join(certificate.common_name for certificate in path) + f" ({anchor.origin})")

    # 4  S11
    ends = [certificate.not_after for certificate in path]
    subjects = [("revocation.intermediate", path[1])]
    ends += require_unrevoked("crl.ark", path[2], subjects, endorsements, at, leniency, checks)
    return _Vouched(vek=vek, path=path, anchor=anchor, expires=min(ends))


def describe(report: Report, vek: Vek, standing: Standing) -> Mapping[str, Field]:
    """The report's fields as JSON values: bytes in hex, under the names of AMD 56860."""
    cpuid = report.cpuid
    return {
        "report": {
            "version": report.version,
            "guest_svn": report.guest_svn,
            "policy": f"0x{report.policy:x}",
            "family_id": report.family_id.hex(),
            "image_id": report.image_id.hex(),
            "vmpl": report.vmpl,
            "platform_info": f"0x{report.platform_info:x}",
            "author_key_en": report.author_key_en,
            "mask_chip_key": report.mask_chip_key,
            "signing_key": vek.kind,
            "report_data": report.report_data.hex(),
            "measurement": report.measurement.hex(),
            "host_data": report.host_data.hex(),
            "id_key_digest": report.id_key_digest.hex(),
            "author_key_digest": report.author_key_digest.hex(),
            "report_id": report.report_id.hex(),
            "report_id_ma": report.report_id_ma.hex(),
            **{name.lower(): f"0x{int.from_bytes(tcb, 'little'):x}" for name, tcb in report.tcbs.items()},
            "cpuid": None if cpuid is None else f"{cpuid[0]:02x}:{cpuid[1]:02x}:{cpuid[2]:02x}",
            "chip_id": report.chip_id.hex(),
            "current_version": str(report.current_version),
            "committed_version": str(report.committed_version),
            "launch_mit_vector": _hex(report.launch_mit_vector),
            "current_mit_vector": _hex(report.current_mit_vector),
            "unpublished": report.unpublished.hex(),
        },
        "tcb": {
            "current": standing.current.components(),
            "reported": standing.reported.components(),
            "committed": standing.committed.components(),
            "launch": standing.launch.components(),
        },
        "vek": {
            "kind": vek.kind,
            "product_name": vek.product_name,
            "hwid": None if vek.hwid is None else vek.hwid.hex(),
            "csp_id": vek.csp_id,
            "not_after": stamp(vek.certificate.not_after),
        },
    }


# -- the key


def _signing_key(report: Report, checks: Checks) -> Kind:
    names: dict[int, Kind] = {fields.VCEK: "VCEK", fields.VLEK: "VLEK"}
    kind = names.get(report.signing_key)
    found = "masked" if report.mask_chip_key else kind or f"none ({report.signing_key})"
    checks.check(
        "report.signing_key", kind is not None and not report.mask_chip_key, found=found, expected="VCEK or VLEK"
    )
    return kind or "VCEK"  # the check has raised where it is None


def _find_vek(report: Report, kind: Kind, endorsements: Endorsements, at: datetime) -> Vek:
    """Of the certificates for such a key, the one that fits the report best; what does not fit is refused later.

    The rank decides nothing about trust: whichever is chosen has to stand up to everything below.
    """
    found: list[Vek] = []
    refusal: MalformedError | None = None
    for data in endorsements.certificates:
        try:
            certificate = read_certificate(data)
            if NAMES.get(certificate.common_name) == kind:
                found.append(read_vek(data))
        except MalformedError as error:
            refusal = refusal or error  # a pool may hold others' rubbish
    if not found:
        other = f"; {refusal}" if refusal is not None else ""
        raise UntrustedError(f"no certificate of a {kind} came with the evidence or lies in the collateral{other}")

    def rank(vek: Vek) -> tuple[bool, bool, bool, datetime]:
        certificate = vek.certificate
        return (
            vek.hwid is None or report.chip_id.startswith(vek.hwid),
            vek.tcb.encode() == report.reported_tcb,
            certificate.not_before <= at <= certificate.not_after,
            certificate.not_before,
        )

    return max(found, key=rank)


# -- the chain


def _chain(
    vek: Vek, endorsements: Endorsements, anchors: Sequence[TrustAnchor], at: datetime
) -> tuple[Path, TrustAnchor]:
    """Leaf, intermediate, root. The packaged intermediates serve only where nobody else brought one of that name."""
    leaf = vek.certificate
    named = _named(endorsements.certificates, leaf.issuer) or _named(pinned.intermediates(), leaf.issuer)
    if not named:
        raise UntrustedError(f"{vek.kind}: its issuer {leaf.issuer_common_name!r} is not among the certificates")
    refusal: UntrustedError | None = None
    for intermediate in named:
        for anchor, root in _roots_of(intermediate, endorsements, anchors):
            path = (leaf, intermediate, root)
            try:
                _require_path(vek, path, anchor, at)
            except (MalformedError, UntrustedError) as error:
                refusal = refusal or UntrustedError(str(error))  # another of the same name may be the right one
            else:
                return path, anchor
    raise refusal or _no_root(named[0], anchors)


def _require_path(vek: Vek, path: Path, anchor: TrustAnchor, at: datetime) -> None:
    leaf, intermediate, root = path
    if anchor.intermediates is not None and intermediate.sha256 not in anchor.intermediates:
        raise UntrustedError(
            f"{intermediate.common_name} (serial 0x{intermediate.serial:x}, SHA-256 {intermediate.sha256.hex()}) "
            f"is not one of the intermediates that are pinned under {root.common_name}"
        )
    _require_names(vek, intermediate, root)
    for issuer in (intermediate, root):
        if not isinstance(issuer.public_key(), rsa.RSAPublicKey):
            raise UntrustedError(f"{issuer.common_name}: expected an RSA key, and RSASSA-PSS signatures by it")
    verify_chain(path, at, what=f"{vek.kind} chain", understood=UNDERSTOOD)
    verify_issued(root, root, f"{vek.kind} chain: root")  # self-signed, or it is not what AMD published
    _key_of(vek)
    if leaf.is_ca:
        raise UntrustedError(f"{vek.kind}: expected an end entity, found a CA")


def _roots_of(
    intermediate: Certificate, endorsements: Endorsements, anchors: Sequence[TrustAnchor]
) -> list[tuple[TrustAnchor, Certificate]]:
    """The anchors whose certificate is at hand and has the name of the intermediate's issuer."""
    found = []
    for anchor in anchors:
        data = anchor.find(endorsements) if anchor.family == "amd" else None
        root = None if data is None else read_certificate(data)
        if root is not None and root.subject == intermediate.issuer:
            found.append((anchor, root))
    return found


def _no_root(intermediate: Certificate, anchors: Sequence[TrustAnchor]) -> UntrustedError:
    name = intermediate.issuer_common_name
    digest = pinned.expected_root(name)
    if digest is not None and any(anchor.sha256 == digest and anchor.certificate is None for anchor in anchors):
        return UntrustedError(
            f"{intermediate.common_name}: the certificate of its root {name}, pinned by SHA-256 {digest.hex()}, "
            "came neither with the evidence nor from the collateral"
        )
    return UntrustedError(f"{intermediate.common_name}: its root {name!r} is not trusted here")


def _named(certificates: Iterable[bytes], subject: bytes) -> list[Certificate]:
    found = []
    for data in certificates:
        try:
            certificate = read_certificate(data)
        except MalformedError:
            continue  # a pool may hold others' rubbish
        if certificate.subject == subject:
            found.append(certificate)
    return found


def _require_names(vek: Vek, intermediate: Certificate, root: Certificate) -> None:
    """S8, S10: each certificate has the name of its place; a VLEK hangs under an ASVK and a VCEK under an ASK."""
    product = root.common_name.removeprefix("ARK-")
    if root.common_name == product or product not in LAYOUTS:
        raise UntrustedError(f"root: expected ARK- and a product, found {root.common_name!r}")
    wanted = f"SEV-{product}" if vek.kind == "VCEK" else f"SEV-VLEK-{product}"
    if intermediate.common_name != wanted:
        raise UntrustedError(f"{vek.kind}: expected to be issued by {wanted}, found {intermediate.common_name!r}")


# -- the report against the key's certificate


def _product(report: Report, vek: Vek, path: Path, checks: Checks) -> str:
    """One product everywhere: the chain's, the certificate's, and the CPUID's, where the report has one."""
    chain = path[2].common_name.removeprefix("ARK-")
    told = {"chain": chain, "certificate": vek.product, "layout": chain if vek.layout == LAYOUTS[chain] else "other"}
    if report.cpuid is not None:
        told["CPUID"] = product_of(report.cpuid) or f"unknown {report.cpuid[0]:02x}:{report.cpuid[1]:02x}"
    checks.check(
        "vek.product",
        set(told.values()) == {chain},
        found=", ".join(f"{where} {product}" for where, product in told.items()),
        expected=f"{chain} everywhere",
    )
    return chain


def _standing(report: Report, vek: Vek) -> Standing:
    try:
        read = {name: read_tcb(data, vek.layout, name) for name, data in report.tcbs.items()}
    except MalformedError as error:
        raise UntrustedError(str(error)) from error
    return Standing(
        current=read["CURRENT_TCB"],
        reported=read["REPORTED_TCB"],
        committed=read["COMMITTED_TCB"],
        launch=read["LAUNCH_TCB"],
    )


def _differences(reported: Tcb, certified: Tcb) -> tuple[str, ...]:
    if reported == certified:
        return ()
    have, want = reported.components(), certified.components()
    return tuple(
        f"{name} is {have.get(name)}, certified {want.get(name)}"
        for name in {**have, **want}
        if have.get(name) != want.get(name)
    )


def _require_chip(report: Report, vek: Vek, checks: Checks) -> None:
    """CHIP_ID is the hwID, then zeros. A masked one says nothing: legal with a VLEK, else a matter of policy."""
    size = HWID_SIZE[vek.layout]
    if vek.hwid is None and not any(report.chip_id[size:]):
        checks.not_applicable("vek.chip", f"a VLEK is of a cloud, {vek.csp_id}, not of a chip")
        return
    if report.masked:
        checks.not_applicable("vek.chip", "CHIP_ID is masked: the report does not tell its chip")
        return
    hwid = report.chip_id[:size] if vek.hwid is None else vek.hwid
    expected = hwid + bytes(len(report.chip_id) - size)
    checks.check(
        "vek.chip",
        report.chip_id == expected,
        found=report.chip_id.hex(),
        expected=f"{expected.hex()} ({'an id of this product' if vek.hwid is None else 'the hwID of the VCEK'})",
    )


def _chip(report: Report, vek: Vek) -> bytes | None:
    """The chip's id, as the key's certificate proves it, or as the firmware says under a VLEK; None when masked."""
    if report.masked:
        return None
    return vek.hwid if vek.hwid is not None else report.chip_id[: HWID_SIZE[vek.layout]]


def _key_of(vek: Vek) -> ec.EllipticCurvePublicKey:
    key = vek.certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE:
        raise UntrustedError(f"{vek.kind}: expected a key on P-384")
    return key


def _verify_report(vek: Vek, report: Report) -> None:
    """Never remembered, and over the bytes that came. Raises UntrustedError."""
    r, s = (int.from_bytes(report.signature[start : start + 48], "little") for start in (0, 48))
    try:
        _key_of(vek).verify(encode_dss_signature(r, s), report.signed, _ECDSA)
    except InvalidSignature as error:
        raise UntrustedError("report: the signature is wrong") from error


def _require_order(standing: Standing, checks: Checks) -> None:
    """The firmware never reports, commits to or started a guest under more than it runs."""
    above = _above(standing)
    checks.check(
        "report.tcb_order",
        not above,
        found=above or f"current TCB {standing.current}",
        expected="reported, committed and launch TCB nowhere above the current one",
    )


@lru_cache(maxsize=256)
def _above(standing: Standing) -> str:
    others = (("reported", standing.reported), ("committed", standing.committed), ("launch", standing.launch))
    behind = [(name, standing.current.behind(tcb.components())) for name, tcb in others]
    return "; ".join(f"current TCB behind {name}: {', '.join(lag)}" for name, lag in behind if lag)


def _advisories(product: str, reported: Tcb) -> tuple[str, ...]:
    return tuple(name for name, floors in ADVISORIES.items() if product in floors and reported.behind(floors[product]))


def _hex(value: int | None) -> str | None:
    return None if value is None else f"0x{value:x}"
