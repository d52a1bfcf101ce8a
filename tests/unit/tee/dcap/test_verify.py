"""Whether Intel vouches for a machine: each row of the feature matrix with the evidence that only it refuses."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.pki import keys
from enarx.pki.certificate import Certificate
from enarx.tee import dcap
from enarx.tee.appraise import Judge, judge
from enarx.tee.dcap import verify
from enarx.tee.dcap.collateral import Status
from enarx.tee.dcap.enclave import DEBUG, EnclaveReport
from enarx.tee.dcap.pck import EXTENSION, Pck
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.simulator import (
    NEWEST,
    OLDER,
    OLDER_PCE,
    QE_SVN,
    TDX_COMPONENTS,
    Authority,
    Machine,
    Role,
    TeeName,
    Vendor,
    enclave_level,
    raw_signature,
    tcb_level,
)
from enarx.tee.model import Binding, Checks, Endorsements, Evidence, Leniency, Outcome, SignedJson
from enarx.tee.sgx.simulator import SgxMachine
from enarx.tee.tdx.simulator import TdxMachine
from enarx.toml import ConfigError
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import AT, DAY, REPORT_DATA, Case, either
from tests.values import replace

UNTRUSTED = "untrusted"


@pytest.fixture(params=["SGX", "TDX"])
def tee(request: pytest.FixtureRequest) -> TeeName:
    return "SGX" if request.param == "SGX" else "TDX"


@pytest.fixture
def case(tee: TeeName) -> Case:
    return either(tee)


def certified(case: Case, by: Authority, name: str = verify.PCK, **options: object) -> Case:
    """The same machine with a PCK certificate that `by` issued, wrong things included."""

    def change(machine: Machine) -> Machine:
        extension = Certificate.parse(machine.chain[0]).extensions[EXTENSION].value
        options.setdefault("extension", extension)
        leaf = by.issue(name, machine.key.public_key(), AT, **options)  # type: ignore[arg-type]  # its own options
        return replace(machine, chain=(leaf, by.certificate, machine.chain[2]))

    return case.with_machine(change)


def tdx(case: Case) -> tuple[int, ...] | None:
    return TDX_COMPONENTS if case.tee == "TDX" else None


@pytest.mark.parametrize("issuer", ["platform", "processor"])
def test_a_current_machine_is_accepted_and_every_check_was_made(tee: TeeName, issuer: support.Issuer) -> None:
    """Under either PCK CA; nothing failed, and nothing was left out but what policy did not ask."""
    appraisal = either(tee, issuer).judge()
    assert appraisal.accepted, appraisal.reasons
    outcomes = {check.name: check.outcome for check in appraisal.checks}
    assert set(outcomes) == {name for _, name in support.TECHNOLOGIES[tee].check_names}
    assert {outcomes[name] for _, name in verify.CHECK_NAMES} == {Outcome.PASSED}
    assert Outcome.SKIPPED not in outcomes.values()


def test_x1_a_quote_of_another_vendors_quoting_enclave_is_untrusted(case: Case) -> None:
    """X1: the QE vendor is Intel's; version, key type and TEE type are held by the parser (test_quote)."""
    quote = case.machine.quote(REPORT_DATA, alter_quote=lambda quote: replace(quote, qe_vendor_id=bytes(16)))
    assert replace(case, quote=quote).refused() == (UNTRUSTED, "quote.vendor")


def test_x2_a_quote_that_the_attestation_key_did_not_sign_is_untrusted(case: Case) -> None:
    """X2: the signature is over header and body, by the key in the quote."""
    quote = Quote.parse(case.quote)
    forged = replace(quote, signature=raw_signature(keys.generate("P-256"), quote.signed))
    assert replace(case, quote=forged.encode()).refused() == (UNTRUSTED, "quote.signature")
    nothing = replace(quote, signature=bytes(64))
    assert replace(case, quote=nothing.encode()).refused() == (UNTRUSTED, "quote.signature")


def test_x2_an_attestation_key_off_the_curve_is_untrusted(case: Case) -> None:
    """X2: a Quoting Enclave could certify any 64 bytes; they have to be a point on P-256."""
    quote = Quote.parse(case.quote)
    odd = bytes(63) + b"\x01"

    def bind(report: EnclaveReport) -> EnclaveReport:
        return replace(report, report_data=sha256(odd + quote.qe_auth).digest() + bytes(32))

    changed = case.with_machine(lambda machine: machine.with_qe(bind))
    forged = replace(Quote.parse(changed.quote), attestation_key=odd)
    assert "not a point on P-256" in replace(changed, quote=forged.encode()).reasons()


def test_x3_a_quoting_enclave_that_the_pck_did_not_sign_is_untrusted(case: Case) -> None:
    """X3: the QE report is signed by the key that Intel certified."""
    other = keys.generate("P-256")
    wrong = case.with_machine(
        lambda m: replace(m, qe_signature=raw_signature(other, Quote.parse(case.quote).qe_report))
    )
    assert wrong.refused() == (UNTRUSTED, "qe_report.signature")


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_x4_the_quoting_enclaves_report_is_for_this_attestation_key(case: Case, position: int) -> None:
    """X4: all 64 bytes of its report data, the zeros too, which others do not look at."""

    def alter(report: EnclaveReport) -> EnclaveReport:
        return replace(report, report_data=support.flip(report.report_data, 8 * position))

    assert case.with_machine(lambda m: m.with_qe(alter)).refused() == (UNTRUSTED, "qe_report.binding")


def test_x4_the_authentication_data_belongs_to_the_binding(case: Case) -> None:
    """X4: other authentication data, of whatever length, is another hash."""
    quote = Quote.parse(case.quote)
    for auth in (b"", bytes(32), quote.qe_auth + b"\0"):
        changed = replace(quote, qe_auth=auth)
        assert replace(case, quote=changed.encode()).refused() == (UNTRUSTED, "qe_report.binding")


@pytest.mark.parametrize(
    ("alter", "word"),
    [
        (lambda qe: replace(qe, mr_signer=bytes(32)), "MRSIGNER"),
        (lambda qe: replace(qe, product_id=qe.product_id + 2), "ISVPRODID"),
        (lambda qe: replace(qe, misc_select=1), "MISCSELECT"),
        (lambda qe: replace(qe, flags=qe.flags | DEBUG), "ATTRIBUTES"),
        (lambda qe: replace(qe, flags=qe.flags & ~1), "ATTRIBUTES"),
    ],
)
def test_x5_any_enclave_with_a_provisioning_key_is_no_quoting_enclave(
    case: Case, alter: Callable[[EnclaveReport], EnclaveReport], word: str
) -> None:
    """X5: the PCK signs for whoever may use it; only the signed identity tells Intel's QE from a forger's."""
    changed = case.with_machine(lambda m: m.with_qe(alter))
    assert changed.refused() == (UNTRUSTED, "qe.identity")
    assert f"{word} is " in changed.reasons()


def test_x5_masked_bits_are_not_compared(case: Case) -> None:
    """X5: AEX-Notify, KSS or XFRM may differ where the identity's mask says so."""
    appraisal = case.with_machine(lambda m: m.with_qe(lambda qe: replace(qe, xfrm=3))).judge()
    assert appraisal.accepted, appraisal.reasons


def test_x5_a_quoting_enclave_in_debug_mode_is_untrusted_whatever_the_mask(case: Case) -> None:
    """X5: even a signed identity that does not mask DEBUG out allows no debug QE."""
    debugged = case.with_machine(lambda m: m.with_qe(lambda qe: replace(qe, flags=qe.flags | DEBUG)))
    assert debugged.with_identity(attributesMask="00" * 16).refused() == (UNTRUSTED, "qe.debug")


def test_x6_an_old_quoting_enclave_makes_the_platform_old(case: Case) -> None:
    """X6: the level comes of the QE report, not of the header that the QE writes, and is merged."""
    old = case.with_machine(lambda m: m.with_qe(lambda qe: replace(qe, security_version=6)))
    appraisal = old.judge()
    assert (appraisal.verdict.value, appraisal.claims and appraisal.claims.tcb_status) == ("rejected", "OutOfDate")
    assert f"Quoting Enclave SVN is 6, needs {QE_SVN}" in appraisal.reasons[0]
    assert "INTEL-SA-00615" in appraisal.reasons[0]
    older = case.with_machine(lambda m: m.with_qe(lambda qe: replace(qe, security_version=5)))
    assert older.refused() == (UNTRUSTED, "qe.level")


def test_x7_only_a_chain_to_an_anchor_is_believed(case: Case) -> None:
    """X7: another root of the same names is a stranger's, and without any anchor nobody is believed."""
    stranger = Vendor.create(AT)
    assert replace(case, anchors=(stranger.anchor(),)).refused() == (UNTRUSTED, "pck.chain")
    assert replace(case, anchors=()).refused() == (UNTRUSTED, "pck.chain")
    assert replace(case, anchors=dcap.anchors()).refused() == (UNTRUSTED, "pck.chain")


def test_x7_endorsements_are_never_anchors(case: Case) -> None:
    """X7: a root among the endorsements makes nobody trusted."""
    root = support.vendor().root.certificate
    offered = case.with_endorsements(certificates=(root,))
    assert replace(offered, anchors=dcap.anchors()).refused() == (UNTRUSTED, "pck.chain")


def test_x7_another_edition_of_the_roots_certificate_will_do(case: Case) -> None:
    """X7: Intel issued its root twice with one key; the key counts, and the chain's own dates."""
    root = support.vendor().root
    edition = root.issue(verify.ROOT, root.key.public_key(), AT, ca=True, path_length=1, lifetime=40 * DAY)
    changed = case.with_machine(lambda m: replace(m, chain=(*m.chain[:2], edition)))
    assert changed.judge().accepted, changed.reasons()
    assert replace(changed, at=AT + 39 * DAY + timedelta(hours=1)).refused() == (UNTRUSTED, "pck.chain")


def test_x7_a_root_with_the_anchors_key_that_it_did_not_sign_is_untrusted(case: Case) -> None:
    """X7: name and key alone are copied easily; the signature has to be the anchor's."""
    root, other = support.vendor().root, keys.generate("P-256")
    forged = Authority(key=other, certificate=root.certificate)
    copy = forged.issue(verify.ROOT, root.key.public_key(), AT, ca=True, path_length=1)
    assert case.with_machine(lambda m: replace(m, chain=(*m.chain[:2], copy))).refused() == (UNTRUSTED, "pck.chain")


def test_x7_only_pinned_intermediates_count_where_any_are_pinned(case: Case) -> None:
    """X7: an anchor can say which certificates may hang under it."""
    platform = Certificate.parse(support.vendor().platform.certificate).sha256
    anchor = support.vendor().anchor()
    assert replace(case, anchors=(replace(anchor, intermediates=frozenset({platform})),)).judge().accepted
    pinned = replace(anchor, intermediates=frozenset({bytes(32)}))
    assert replace(case, anchors=(pinned,)).refused() == (UNTRUSTED, "pck.chain")


def test_x7_a_pck_certificate_has_to_be_current_and_issued_by_its_issuer(case: Case) -> None:
    """X7: signature and validity, at the moment that counts."""
    assert certified(case, support.vendor().platform, lifetime=DAY / 2).refused() == (UNTRUSTED, "pck.chain")
    vendor = support.vendor()
    stranger = Authority(key=keys.generate("P-256"), certificate=vendor.platform.certificate)
    assert certified(case, stranger).refused() == (UNTRUSTED, "pck.chain")
    early = replace(case, at=AT - 2 * DAY)
    assert early.refused() == (UNTRUSTED, "pck.chain")


def test_x7_an_unknown_critical_extension_is_untrusted(case: Case) -> None:
    """X7: only the PCK extension is understood beside those of RFC 5280."""
    machine, platform = case.machine.machine, support.vendor().platform
    leaf = x509.load_der_x509_certificate(machine.chain[0])
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(machine.key.public_key())
        .serial_number(leaf.serial_number)
        .not_valid_before(AT - DAY)
        .not_valid_after(AT + DAY)
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
    made = builder.add_extension(unknown, critical=True).sign(platform.key, hashes.SHA256())
    changed = case.with_machine(lambda m: replace(m, chain=(made.public_bytes(Encoding.DER), *m.chain[1:])))
    assert "1.2.3.4 is not understood" in changed.reasons()


@pytest.mark.parametrize("name", [verify.TCB_SIGNER, verify.PLATFORM_CA, "Somebody"])
def test_x8_a_pck_certificate_has_its_name(case: Case, name: str) -> None:
    """X8: the name tells a certificate's place; the TCB signer or a CA can't stand in for the PCK."""
    assert certified(case, support.vendor().platform, name).refused() == (UNTRUSTED, "pck.roles")


def test_x8_a_pck_certificate_is_an_end_entity_that_may_sign(case: Case) -> None:
    """X8: neither a CA nor without the key usage."""
    platform = support.vendor().platform
    assert "expected an end entity" in certified(case, platform, ca=True).reasons()
    assert "does not allow digital signatures" in certified(case, platform, signs=False).reasons()


def test_x8_a_pck_certificate_is_not_issued_by_root_or_tcb_signer(case: Case) -> None:
    """X8: an issuer has the name of a PCK CA and the right to issue."""
    vendor = support.vendor()
    assert certified(case, vendor.signer).refused() == (UNTRUSTED, "pck.chain")  # no CA
    impostor_key = keys.generate("P-256")
    impostor = vendor.root.issue("Intel SGX Other CA", impostor_key.public_key(), AT, ca=True, path_length=0)
    assert certified(case, Authority(key=impostor_key, certificate=impostor)).refused() == (UNTRUSTED, "pck.roles")
    endless = Authority(key=vendor.root.key, certificate=vendor.root.certificate)
    assert certified(case, endless).refused() == (UNTRUSTED, "pck.roles")


@pytest.mark.parametrize("issuer", ["platform", "processor"])
def test_x8_platform_and_processor_ca_certify_different_things(tee: TeeName, issuer: support.Issuer) -> None:
    """X8: a platform instance stands under the Platform CA and only there."""
    vendor, case = support.vendor(), either(tee, issuer)
    other = vendor.processor if issuer == "platform" else vendor.platform
    changed = certified(case, other)
    assert changed.refused() == (UNTRUSTED, "pck.roles")
    assert "platform instance id under" in changed.reasons()


def test_x8_documents_are_signed_by_the_tcb_signer_and_nobody_else(case: Case) -> None:
    """X8, X10: any other certificate under the root, and one that may not sign, is refused by its name and role."""
    vendor, key = support.vendor(), keys.generate("P-256")
    for name, options, sentence in (
        (verify.PCK, {}, "expected Intel SGX TCB Signing"),
        (verify.TCB_SIGNER, {"ca": True}, "expected an end entity"),
        (verify.TCB_SIGNER, {"signs": False}, "does not allow digital signatures"),
    ):
        certificate = vendor.root.issue(name, key.public_key(), AT, **options)  # type: ignore[arg-type]  # two flags
        changed = replace(vendor, signer=Authority(key=key, certificate=certificate))
        info = case.with_endorsements(tcb_infos=(changed.tcb_info(AT, case.tee),))
        assert info.refused() == (UNTRUSTED, "tcb_info.signature")
        assert sentence in info.reasons()
        identity = case.with_endorsements(qe_identities=(changed.qe_identity(AT, case.tee),))
        assert identity.refused() == (UNTRUSTED, "qe_identity.signature")


@pytest.mark.parametrize(("role", "check"), [("root", "crl.root"), ("platform", "crl.pck_ca")])
def test_x9_both_crls_have_to_be_there_current_and_their_issuers(case: Case, role: Role, check: str) -> None:
    """X9: leaving one out, an ended one, one that has not begun and a stranger's are all the same: none."""
    vendor, stranger = support.vendor(), Vendor.create(AT)
    rest = tuple(vendor.crl(other, AT) for other in ("root", "platform", "processor") if other != role)
    for offered in (
        (),
        (vendor.crl(role, AT - 40 * DAY),),
        (vendor.crl(role, AT + DAY),),
        (stranger.crl(role, AT),),
    ):
        assert case.with_endorsements(crls=(*rest, *offered)).refused() == (UNTRUSTED, check)
    assert case.with_endorsements(crls=(*rest, vendor.crl(role, AT))).judge().accepted


def test_x9_leniency_does_without_a_crl_and_says_so_but_believes_an_old_one(case: Case) -> None:
    """X9: `--without-crl` skips what is missing; a list that has ended still revokes what it names."""
    vendor = support.vendor()
    lenient = replace(case, leniency=Leniency(without_crl=True)).with_endorsements(crls=())
    appraisal = lenient.judge()
    assert appraisal.accepted
    skipped = {check.name for check in appraisal.checks if check.outcome is Outcome.SKIPPED}
    assert skipped == {"crl.root", "crl.pck_ca", "revocation.pck", "revocation.pck_ca", "revocation.tcb_signer"}
    ended = vendor.revoke(case.machine.machine.chain[0]).crl("platform", AT - 40 * DAY)
    assert lenient.with_endorsements(crls=(ended,)).refused() == (UNTRUSTED, "revocation.pck")


@pytest.mark.parametrize("which", ["pck", "pck_ca", "tcb_signer"])
def test_x9_what_is_revoked_is_untrusted(case: Case, which: str) -> None:
    """X9: the PCK by its CA, the CA and the TCB signer by the root."""
    vendor = support.vendor()
    certificates = {
        "pck": case.machine.machine.chain[0],
        "pck_ca": vendor.platform.certificate,
        "tcb_signer": vendor.signer.certificate,
    }
    changed = case.published(vendor.revoke(certificates[which]))
    assert changed.refused() == (UNTRUSTED, f"revocation.{which}")


def test_x9_the_newest_crl_counts(case: Case) -> None:
    """X9: an older list beside a newer one that revokes does not help."""
    vendor = support.vendor()
    revoking = vendor.revoke(case.machine.machine.chain[0])
    both = case.with_endorsements(crls=(*vendor.crls(AT), *revoking.crls(AT)))
    assert both.refused() == (UNTRUSTED, "revocation.pck")


def test_x10_a_document_is_verified_over_the_bytes_that_came(case: Case) -> None:
    """X10: the same JSON written differently is not what Intel signed."""
    info, identity = case.endorsements.tcb_infos[0], case.endorsements.qe_identities[0]
    spaced = info.body.replace(b'{"tcbInfo":{"id"', b'{"tcbInfo":{ "id"')
    assert case.with_endorsements(tcb_infos=(support.resigned(info, spaced),)).refused() == (
        UNTRUSTED,
        "tcb_info.signature",
    )
    spaced = identity.body.replace(b'{"enclaveIdentity":{"id"', b'{"enclaveIdentity":{ "id"')
    assert case.with_endorsements(qe_identities=(support.resigned(identity, spaced),)).refused() == (
        UNTRUSTED,
        "qe_identity.signature",
    )
    outside = info.body.replace(b'{"tcbInfo":', b'{ "tcbInfo" : ')
    assert case.with_endorsements(tcb_infos=(support.resigned(info, outside),)).judge().accepted


def test_x10_documents_are_signed_under_the_root_of_the_machine(case: Case) -> None:
    """X10: a stranger's documents, also with our root beside them, and a signer that has ended, are refused."""
    vendor, stranger = support.vendor(), Vendor.create(AT)
    foreign = stranger.tcb_info(AT, case.tee)
    assert case.with_endorsements(tcb_infos=(foreign,)).refused() == (UNTRUSTED, "tcb_info.signature")
    mixed = SignedJson(body=foreign.body, chain=(foreign.chain[0], vendor.root.certificate))
    assert case.with_endorsements(tcb_infos=(mixed,)).refused() == (UNTRUSTED, "tcb_info.signature")
    lent = SignedJson(body=foreign.body, chain=(vendor.signer.certificate, vendor.root.certificate))
    assert case.with_endorsements(tcb_infos=(lent,)).refused() == (UNTRUSTED, "tcb_info.signature")
    key = keys.generate("P-256")
    short = vendor.root.issue(verify.TCB_SIGNER, key.public_key(), AT, lifetime=DAY / 2)
    ended = replace(vendor, signer=Authority(key=key, certificate=short))
    assert "expired at" in case.with_endorsements(qe_identities=(ended.qe_identity(AT, case.tee),)).reasons()


def test_x10_the_root_beside_a_document_is_the_machines(case: Case) -> None:
    """X10: a stranger's root beside our signer is refused, and so is another edition that the root did not sign."""
    info, root = case.endorsements.tcb_infos[0], support.vendor().root
    stranger = Vendor.create(AT).root
    copy = Authority(key=stranger.key, certificate=root.certificate).issue(
        verify.ROOT, root.key.public_key(), AT, ca=True, path_length=1
    )
    for other, message in ((stranger.certificate, "not the root of the PCK chain"), (copy, "signature is wrong")):
        beside = SignedJson(body=info.body, chain=(info.chain[0], other))
        assert message in case.with_endorsements(tcb_infos=(beside,)).reasons()


def test_x7_an_anchor_is_known_by_name_and_key(case: Case) -> None:
    """X7: the same name with another key, or the same key under another name, is not the anchor."""
    root, key = support.vendor().root, keys.generate("P-256")
    renamed = root.issue("Somebody Else", root.key.public_key(), AT, ca=True)
    rekeyed = root.issue(verify.ROOT, key.public_key(), AT, ca=True)
    for certificate in (renamed, rekeyed):
        anchor = replace(support.vendor().anchor(), sha256=sha256(certificate).digest(), certificate=certificate)
        assert "is not trusted here" in replace(case, anchors=(anchor,)).reasons()


def test_what_a_verdict_rested_on_is_told(case: Case) -> None:
    """The documents and lists that decided, with their signer: what a memory of the highest numbers learns."""
    for _ in range(2):  # asked anew, and remembered
        checks = Checks()
        with checks.gate("untrusted"):
            technology = support.TECHNOLOGIES[case.tee]
            parsed = technology.parse(Evidence(oid="", body=case.quote))
            technology.verify(parsed.report, case.endorsements, case.anchors, AT, support.STRICT, checks)
        signer = support.vendor().signer.certificate
        wanted = {SignedJson(body=each.body, chain=(signer,)) for each in case.endorsements.tcb_infos}
        wanted |= {SignedJson(body=each.body, chain=(signer,)) for each in case.endorsements.qe_identities}
        assert set(checks.rested_on) == {*wanted, *case.endorsements.crls[:2]}
        verify._PLATFORMS.clear()


def test_x9_a_strangers_list_revokes_nobody_even_where_none_is_needed(case: Case) -> None:
    """X9: leniency looks into lists that have ended, but only the issuer's own."""
    stranger = Vendor.create(AT)
    serial = Certificate.parse(case.machine.machine.chain[0]).serial
    forged = replace(stranger, revoked={"platform": frozenset({serial})}).crl("platform", AT - 40 * DAY)
    lenient = replace(case, leniency=Leniency(without_crl=True)).with_endorsements(crls=(forged, b"rubbish"))
    assert lenient.judge().accepted


def test_x10_a_chain_beside_a_document_is_a_signer_and_its_root(case: Case) -> None:
    """X10: a longer chain is refused; without a chain, the TCB signer among the certificates serves."""
    vendor, info = support.vendor(), case.endorsements.tcb_infos[0]
    unreadable = case.with_endorsements(tcb_infos=(SignedJson(body=info.body, chain=(b"rubbish",)),))
    assert "its issuer chain cannot be read" in unreadable.reasons()
    long = SignedJson(body=info.body, chain=(*info.chain, vendor.platform.certificate))
    assert "expected a signer and its root" in case.with_endorsements(tcb_infos=(long,)).reasons()
    bare = SignedJson(body=info.body)
    assert case.with_endorsements(tcb_infos=(bare,)).refused() == (UNTRUSTED, "tcb_info.signature")
    older = vendor.root.issue(verify.TCB_SIGNER, vendor.signer.key.public_key(), AT - 5 * DAY, lifetime=2 * DAY)
    loose = (vendor.platform.certificate, b"rubbish", older, vendor.signer.certificate)
    assert case.with_endorsements(tcb_infos=(bare,), certificates=loose).judge().accepted


def test_x10_a_bad_document_is_passed_over_while_a_good_one_is_there(case: Case) -> None:
    """X10: rubbish in a pool refuses nobody."""
    info = case.endorsements.tcb_infos[0]
    rubbish = (SignedJson(body=b"{"), Vendor.create(AT).recover().tcb_info(AT, case.tee), info)
    assert case.with_endorsements(tcb_infos=rubbish).judge().accepted


def test_x11_documents_of_the_other_technology_do_not_serve(case: Case) -> None:
    """X11: id and version of both; an SGX TCB info says nothing of a TD, nor the other way round."""
    other: TeeName = "TDX" if case.tee == "SGX" else "SGX"
    vendor = support.vendor()
    assert case.with_endorsements(tcb_infos=(vendor.tcb_info(AT, other),)).refused() == (UNTRUSTED, "tcb_info.kind")
    assert case.with_endorsements(tcb_infos=()).refused() == (UNTRUSTED, "tcb_info.kind")
    assert case.with_tcb_info(version=2).refused() == (UNTRUSTED, "tcb_info.kind")
    assert case.with_endorsements(qe_identities=(vendor.qe_identity(AT, other),)).refused() == (
        UNTRUSTED,
        "qe_identity.kind",
    )
    assert case.with_identity(id="QVE").refused() == (UNTRUSTED, "qe_identity.kind")
    assert case.with_identity(version=1).refused() == (UNTRUSTED, "qe_identity.kind")


def test_x11_a_document_that_cannot_be_read_is_told_of_where_another_is_missing(case: Case) -> None:
    """X11: TCB info of version 2 has no id; the verdict says that it was found, and of what else is there why not."""
    body = case.endorsements.tcb_infos[0].body
    second = body.replace(f'"id":"{case.tee}",'.encode(), b"").replace(b'"version":3', b'"version":2')
    assert second != body
    old = case.with_endorsements(tcb_infos=(SignedJson(body=second), SignedJson(body=second + b" ")))
    assert old.refused() == (UNTRUSTED, "tcb_info.kind")
    assert old.reasons().count("expected version 3, found version 2, which names no technology") == 1
    assert case.with_endorsements(tcb_infos=(SignedJson(body=second), *case.endorsements.tcb_infos)).judge().accepted
    broken = case.with_endorsements(qe_identities=tuple(SignedJson(body=b" " * count + b"x") for count in range(9)))
    assert broken.refused() == (UNTRUSTED, "qe_identity.kind")
    assert broken.reasons().count("cannot be read") == 4


@pytest.mark.parametrize("members", [{"fmspc": "00906ED50000"}, {"pceId": "0001"}])
def test_x12_a_tcb_info_of_another_platform_does_not_serve(case: Case, members: dict[str, str]) -> None:
    """X12: FMSPC and PCEID are those of the PCK certificate."""
    assert case.with_tcb_info(**members).refused() == (UNTRUSTED, "tcb_info.platform")


def test_x13_documents_have_begun_and_not_ended(case: Case) -> None:
    """X13: issueDate ≤ now < nextUpdate, of both, to the second."""
    vendor = support.vendor()
    life = timedelta(days=30)
    for shift, word in ((timedelta(seconds=1), "future"), (-life, "ended")):
        info = case.with_endorsements(tcb_infos=(vendor.tcb_info(AT + shift, case.tee),))
        assert info.refused() == (UNTRUSTED, "tcb_info.dates"), word
        identity = case.with_endorsements(qe_identities=(vendor.qe_identity(AT + shift, case.tee),))
        assert identity.refused() == (UNTRUSTED, "qe_identity.dates"), word
    last = AT - life + timedelta(seconds=1)
    edge = (vendor.tcb_info(last, case.tee),), (vendor.qe_identity(last, case.tee),)
    assert case.with_endorsements(tcb_infos=edge[0], qe_identities=edge[1]).judge().accepted


def test_x13_a_future_document_does_not_displace_a_current_one(case: Case) -> None:
    """X13: of those that have begun the highest evaluation counts, however many are to come."""
    infos = (*case.endorsements.tcb_infos, support.vendor().recover().tcb_info(AT + DAY, case.tee))
    assert case.with_endorsements(tcb_infos=infos).judge().accepted


def test_x14_both_documents_are_of_one_evaluation_unless_skew_is_allowed(case: Case) -> None:
    """X14: mixing a new TCB info with an old QE identity is a partial rollback."""
    newer = support.vendor().recover()
    for parts in (
        {"tcb_infos": (newer.tcb_info(AT, case.tee),)},
        {"qe_identities": (newer.qe_identity(AT, case.tee),)},
    ):
        skewed = case.with_endorsements(**parts)
        assert skewed.refused() == (UNTRUSTED, "collateral.evaluation")
        assert replace(skewed, leniency=Leniency(allow_evaluation_skew=True)).judge().accepted


def test_x14_an_evaluation_below_the_floor_is_untrusted(case: Case) -> None:
    """X14: the floor is what was seen before, or what is configured; both documents have to reach it."""
    at_floor = replace(case, leniency=Leniency(minimum_evaluation=17))
    assert at_floor.judge().accepted
    above = Leniency(minimum_evaluation=18, allow_evaluation_skew=True)
    assert replace(case, leniency=above).refused() == (UNTRUSTED, "collateral.evaluation_minimum")
    newer = support.vendor().recover()
    half = case.with_endorsements(tcb_infos=(newer.tcb_info(AT, case.tee),))
    assert replace(half, leniency=above).refused() == (UNTRUSTED, "collateral.evaluation_minimum")


def test_x14_the_highest_evaluation_counts_even_when_it_says_worse(case: Case) -> None:
    """X14: an older document that is still current is no way around a TCB recovery."""
    newer = support.vendor().recover()
    level = tcb_level(AT, NEWEST, status="OutOfDate", tdx=tdx(case))
    infos = (*case.endorsements.tcb_infos, newer.tcb_info(AT, case.tee, tcbLevels=[level]))
    identities = (*case.endorsements.qe_identities, newer.qe_identity(AT, case.tee))
    both = case.with_endorsements(tcb_infos=infos, qe_identities=identities)
    assert both.refused() == ("rejected", "policy.tcb_status")


def test_x15_the_level_is_the_highest_that_is_reached(case: Case) -> None:
    """X15: whatever the order of levels and dates in the document; the reason says what lags and which advisory."""
    newest = tcb_level(AT - 900 * DAY, tdx=tdx(case))
    older = tcb_level(AT, OLDER, OLDER_PCE, "OutOfDate", "INTEL-SA-00586", tdx=tdx(case))
    for levels in ((newest, older), (older, newest)):
        assert case.with_levels(*levels).judge().accepted
    aged = replace(case, machine=aged_machine(case))
    aged = replace(aged, quote=aged.machine.quote(REPORT_DATA))
    assert aged.refused() == ("rejected", "policy.tcb_status", "policy.advisories")
    reason = aged.judge().reasons[0]
    assert "component 1 (Early Microcode Update) is 4, needs 7" in reason
    assert "component 2 (SGX Late Microcode Update) is 4, needs 9" in reason
    assert "PCESVN is 11, needs 13" in reason
    assert "advisories INTEL-SA-00586, INTEL-SA-00615" in reason
    assert aged.with_levels(newest).refused() == (UNTRUSTED, "tcb.level")


def aged_machine(case: Case) -> SgxMachine | TdxMachine:
    """The same workload on a machine of last year."""
    made = support.vendor().machine(AT, tee=case.tee, components=OLDER, pce_svn=OLDER_PCE)
    return replace(case.machine, machine=made)


@pytest.mark.parametrize(
    "status", ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"]
)
def test_x16_a_status_is_accepted_only_by_name(case: Case, status: Status) -> None:
    """X16: UpToDate by itself, any other where policy lists it, and listing another does not help."""
    changed = case.with_levels(tcb_level(AT, status=status, tdx=tdx(case)))
    assert changed.refused() == ("rejected", "policy.tcb_status")
    assert changed.judge(f"allowed_tcb_statuses = ['{status}']").accepted
    other = "OutOfDateConfigurationNeeded"
    assert changed.refused(f"allowed_tcb_statuses = ['{other}']") == ("rejected", "policy.tcb_status")


def test_x16_revoked_is_untrusted_whatever_policy_says(case: Case) -> None:
    """X16: of the platform and of the Quoting Enclave; and policy can't even name it."""
    revoked = case.with_levels(tcb_level(AT, status="Revoked", tdx=tdx(case)))
    allowing = "allowed_tcb_statuses = ['OutOfDate']\nallowed_advisories = ['INTEL-SA-00001']"
    assert revoked.refused(allowing) == (UNTRUSTED, "tcb.not_revoked")
    identity = case.with_identity(tcbLevels=[enclave_level(QE_SVN, AT, "Revoked")])
    assert identity.refused(allowing) == (UNTRUSTED, "tcb.not_revoked")
    with pytest.raises(ConfigError, match="Revoked"):
        case.policy("allowed_tcb_statuses = ['Revoked']")


def test_x17_advisories_are_asked_after_the_status(case: Case) -> None:
    """X17: every one that applies has to be listed, a denied one refuses, and neither makes up for a status."""
    old = case.with_levels(tcb_level(AT, NEWEST, 13, "OutOfDate", "INTEL-SA-00001", "INTEL-SA-00002", tdx=tdx(case)))
    status = "allowed_tcb_statuses = ['OutOfDate']\n"
    assert old.refused(status) == ("rejected", "policy.advisories")
    assert old.refused(f"{status}allowed_advisories = ['INTEL-SA-00001']") == ("rejected", "policy.advisories")
    both = "allowed_advisories = ['INTEL-SA-00001', 'INTEL-SA-00002']"
    assert old.judge(status + both).accepted
    assert old.refused(both) == ("rejected", "policy.tcb_status")
    denied = "allowed_advisories = ['INTEL-SA-00002']\ndenied_advisories = ['INTEL-SA-00001']"
    assert old.refused(status + denied) == ("rejected", "policy.advisories", "policy.denied_advisories")
    fine = case.with_levels(tcb_level(AT, NEWEST, 13, "UpToDate", "INTEL-SA-00001", tdx=tdx(case)))
    assert fine.judge().accepted
    assert fine.refused("allowed_advisories = []") == ("rejected", "policy.advisories")
    assert fine.refused("denied_advisories = ['INTEL-SA-00001']") == ("rejected", "policy.denied_advisories")


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_x22_all_64_bytes_of_the_report_data_are_bound(case: Case, position: int) -> None:
    """X22: a key's hash in front does not free the tail."""
    quote = case.machine.quote(support.flip(REPORT_DATA, 8 * position))
    assert replace(case, quote=quote).refused() == (UNTRUSTED, "binding")


def test_x22_the_binding_hash_is_sha_256_over_the_key(case: Case) -> None:
    """X22: SHA-256 of the SubjectPublicKeyInfo, then zeros."""
    spki = keys.spki(keys.generate("P-256"))
    data = sha256(spki).digest() + bytes(32)
    technology = support.TECHNOLOGIES[case.tee]
    believe = verify_judge(case)
    quote = case.machine.quote(data)
    assert technology.binding_hash == "sha-256"
    assert technology.key_curve == "P-256"
    assert believe(Evidence(oid="", body=quote), Binding.of_key(spki), case.endorsements, AT).accepted
    other = Binding.of_key(keys.spki(keys.generate("P-256")))
    assert not believe(Evidence(oid="", body=quote), other, case.endorsements, AT).accepted


def verify_judge(case: Case) -> Judge:
    return judge(support.TECHNOLOGIES[case.tee], case.policy(), case.anchors)


def test_x23_bytes_after_a_quote_are_malformed_unless_they_are_zero(case: Case) -> None:
    """X23: zero padding is a buffer's; the verdict tells how much there was."""
    padded = replace(case, quote=case.quote + bytes(100))
    appraisal = padded.judge()
    assert appraisal.accepted
    assert appraisal.claims is not None
    quote = appraisal.claims.fields["quote"]
    assert isinstance(quote, dict)
    assert quote["padding"] == 100
    assert replace(case, quote=case.quote + b"garbage").refused() == ("malformed", "format")


def test_x24_machines_are_allowed_and_denied_one_by_one(case: Case) -> None:
    """X24: FMSPC, PPID and platform instance; an allow list excludes everybody else."""
    pck = Pck.of(Certificate.parse(case.machine.machine.chain[0]))
    assert pck.platform_instance_id is not None
    for key, value in (("fmspc", pck.fmspc), ("ppid", pck.ppid), ("platform_instance", pck.platform_instance_id)):
        mine, other = value.hex(), "55" * len(value)
        assert case.judge(f"{key}_allow = ['{mine}']\n{key}_deny = ['{other}']").accepted
        assert case.refused(f"{key}_allow = ['{other}']") == ("rejected", f"policy.{key}")
        assert case.refused(f"{key}_deny = ['{mine}']") == ("rejected", f"policy.{key}")
        with pytest.raises(ConfigError, match=f"stands in {key}_allow too"):
            case.policy(f"{key}_allow = ['{mine}']\n{key}_deny = ['{mine}']")


def test_x17_an_advisory_is_not_allowed_and_denied(case: Case) -> None:
    """X17: a policy that says both is refused when it is read."""
    with pytest.raises(ConfigError, match="INTEL-SA-00001 stands in allowed_advisories too"):
        case.policy("allowed_advisories = ['INTEL-SA-00001']\ndenied_advisories = ['INTEL-SA-00001']")


@pytest.mark.parametrize("key", ["allowed_advisories", "denied_advisories"])
@pytest.mark.parametrize("text", ["INTEL-SA-615", "intel-sa-00615", "INTEL-SA-00615 ", "SA-00615", ""])
def test_x17_a_slip_of_the_pen_denies_nothing(case: Case, key: str, text: str) -> None:
    """X17: what is no advisory's name is refused when the policy is read, with its place in the list."""
    with pytest.raises(ConfigError, match=rf"{key}\[1\]: expected an advisory like INTEL-SA-00615"):
        case.policy(f"{key} = ['INTEL-SA-00001', '{text}']")


def test_x24_a_processor_without_an_instance_is_in_no_allow_list(tee: TeeName) -> None:
    """X24: an absent identity is not one that is allowed."""
    single = either(tee, "processor")
    assert single.refused(f"platform_instance_allow = ['{'55' * 16}']") == ("rejected", "policy.platform_instance")


@pytest.mark.parametrize("flag", ["dynamic_platform", "cached_keys", "smt"])
def test_x24_what_the_pck_certificate_says_of_the_configuration_can_be_forbidden(case: Case, flag: str) -> None:
    """X24: dynamic platform, cached keys and SMT, and the kind of SGX."""
    field = "smt_enabled" if flag == "smt" else flag
    pck = replace(Pck.of(Certificate.parse(case.machine.machine.chain[0])), **{field: True})
    changed = certified(case, support.vendor().platform, extension=pck.encode())
    assert changed.judge().accepted
    assert changed.refused(f"allow_{flag} = false") == ("rejected", f"policy.{flag}")
    assert case.judge(f"allow_{flag} = false").accepted
    assert case.refused("allowed_sgx_types = ['Standard']") == ("rejected", "policy.sgx_type")
    assert case.judge("allowed_sgx_types = ['Scalable']").accepted


def test_a_platform_can_be_required_to_have_been_patched_since(case: Case) -> None:
    """The date of the level, and the evaluation of both documents, have floors of policy's own."""
    assert case.judge("minimum_tcb_date = 2026-06-01T12:00:00Z").accepted
    assert case.refused("minimum_tcb_date = 2026-06-01T12:00:01Z") == ("rejected", "policy.tcb_date")
    assert case.judge("minimum_evaluation = 17").accepted
    assert case.refused("minimum_evaluation = 18") == ("rejected", "policy.evaluation")


def test_what_is_cached_is_asked_again_at_every_moment(case: Case) -> None:
    """A chain, a CRL and a document that were believed are refused once they have ended or are revoked."""
    assert case.judge().accepted
    for later, check in ((29 * DAY, None), (31 * DAY, "tcb_info.dates"), (4000 * DAY, "pck.chain")):
        refused = replace(case, at=AT + later).refused()
        assert refused == (("accepted",) if check is None else (UNTRUSTED, check))
    revoked = case.published(support.vendor().revoke(case.machine.machine.chain[0]))
    assert revoked.refused() == (UNTRUSTED, "revocation.pck")
    assert replace(case, anchors=()).refused() == (UNTRUSTED, "pck.chain")
    assert case.with_identity(mrsigner="00" * 32).refused() == (UNTRUSTED, "qe.identity")
    assert case.judge().accepted


def test_what_is_remembered_gives_the_verdict_that_asking_anew_gives(case: Case) -> None:
    """At every date that stands in a certificate, CRL or document, a moment before, and a moment after."""
    vendor, life, second = support.vendor(), timedelta(days=30), timedelta(microseconds=1)
    crls = vendor.crls(AT - DAY)
    newer = vendor.recover()
    infos = (*case.endorsements.tcb_infos, newer.tcb_info(AT + 3 * DAY, case.tee))
    identities = (*case.endorsements.qe_identities, newer.qe_identity(AT + 3 * DAY, case.tee))
    mixed = case.with_endorsements(tcb_infos=infos, qe_identities=identities, crls=crls)
    leaf = Certificate.parse(case.machine.machine.chain[0])
    dates = {leaf.not_before, AT, AT + 3 * DAY, AT + life - DAY, AT + life, leaf.not_after}
    for date in sorted(dates):
        for at in (date - second, date, date + second):
            verify._PLATFORMS.clear()
            anew = replace(mixed, at=at).judge()
            for before in (date - DAY, date - second, date, date + second, date + DAY):
                verify._PLATFORMS.clear()
                replace(mixed, at=before).judge()
                again = replace(mixed, at=at).judge()
                assert (again.verdict, again.checks, again.reasons) == (anew.verdict, anew.checks, anew.reasons)


def test_large_endorsements_are_verified_anew_each_time(case: Case) -> None:
    """What is kept is bounded in bytes too, and what is overlooked is never kept."""
    verify._PLATFORMS.clear()
    rubbish = SignedJson(body=bytes(70_000))
    assert case.with_endorsements(tcb_infos=(*case.endorsements.tcb_infos, rubbish)).judge().accepted
    assert replace(case, leniency=Leniency(without_crl=True)).judge().accepted
    assert len(verify._PLATFORMS) == 0
    assert case.judge().accepted
    assert len(verify._PLATFORMS) == 1


def test_claims_end_with_the_first_of_what_they_rest_on(case: Case) -> None:
    """Certificates, CRLs and documents: the earliest end is the claims'."""
    vendor = support.vendor()
    appraisal = case.judge()
    assert appraisal.claims is not None
    assert appraisal.claims.expires == AT + 30 * DAY
    for crl in ("root", "platform"):
        others = tuple(vendor.crl(role, AT) for role in ("root", "platform") if role != crl)
        short = case.with_endorsements(crls=(*others, vendor.crl(crl, AT, lifetime=DAY))).judge()
        assert short.claims is not None
        assert short.claims.expires == AT + DAY
    lasting = tuple(vendor.crl(role, AT, lifetime=90 * DAY) for role in ("root", "platform"))
    for parts in (
        {"tcb_infos": (vendor.tcb_info(AT - 20 * DAY, case.tee),)},
        {"qe_identities": (vendor.qe_identity(AT - 20 * DAY, case.tee),)},
    ):
        older = case.with_endorsements(crls=lasting, **parts).judge()
        assert older.claims is not None
        assert older.claims.expires == AT + 10 * DAY


@pytest.mark.parametrize("issuer", ["platform", "processor"])
def test_the_chip_is_the_platform_or_the_single_processor(tee: TeeName, issuer: support.Issuer) -> None:
    """X24: what certificates name and revocation takes back: the platform instance, or the PPID where there is none."""
    case = either(tee, issuer)
    pck = Pck.of(Certificate.parse(case.machine.machine.chain[0]))
    claims = case.judge().claims
    assert claims is not None
    assert claims.chip == (pck.platform_instance_id if issuer == "platform" else pck.ppid)


def test_nothing_is_believed_without_endorsements(case: Case) -> None:
    """An authentic quote alone is untrusted: nobody says what its platform is worth."""
    assert replace(case, endorsements=Endorsements()).refused() == (UNTRUSTED, "tcb_info.kind")
