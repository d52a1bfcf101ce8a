"""Whether AMD vouches for a report: for each rule of the matrix the evidence that only this rule refuses."""

import hashlib
from collections.abc import Mapping
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx import der
from enarx.pki import keys
from enarx.pki.certificate import BASIC_CONSTRAINTS, Certificate, Extension
from enarx.tee.model import Endorsements, Leniency, Outcome, TrustAnchor
from enarx.tee.snp import vek
from enarx.tee.snp.report import NONE, VCEK, VLEK, Report, Version
from enarx.tee.snp.simulator import Authority, SnpMachine, Vendor, ca_extensions
from enarx.tee.snp.tcb import Tcb
from enarx.tee.snp.vek import Kind
from enarx.tee.snp.verify import SnpClaims
from tests.unit.tee.snp import support
from tests.unit.tee.snp.support import AT, DAY, Case, case
from tests.values import replace

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def refused_at(found: Case, check: str, words: str = "") -> None:
    """Untrusted, by this check alone, for this reason."""
    assert found.refused() == ("untrusted", check)
    assert words in found.reasons()


def lenient(found: Case) -> Case:
    return replace(found, leniency=Leniency(without_crl=True))


# -- S1, S2, S4: the signature


def test_s1_a_report_signed_by_another_key_is_untrusted() -> None:
    """The certificate is of this machine, the signature is not."""
    other = replace(support.machine(), key=keys.generate("P-384"))
    refused_at(replace(case(), report=other.report(support.REPORT_DATA)), "report.signature", "signature is wrong")


def test_s2_the_signature_is_over_the_bytes_as_they_came() -> None:
    """A field changed after signing is refused, also where the parser has another idea of what it means."""
    for offset in (0x04, 0x40, 0x90, 0x140, 0x1E8):
        data = bytearray(case().report)
        data[offset] ^= 1
        refused_at(replace(case(), report=bytes(data)), "report.signature")


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (0, 0), (N, 1), (1, N), (N + 1, N + 1)])
def test_s4_r_and_s_are_in_range(r: int, s: int) -> None:
    """Zero, and what is not below the order of the curve, signs nothing."""
    report = Report.parse(case().report)
    signature = r.to_bytes(48, "little") + s.to_bytes(48, "little")
    refused_at(replace(case(), report=replace(report, signature=signature).encode()), "report.signature")


def test_s4_the_twin_of_a_signature_says_the_same() -> None:
    """Anybody can turn s into n - s: the report stays what it is, and nothing takes the signature for its name."""
    report = Report.parse(case().report)
    twin = N - int.from_bytes(report.signature[48:], "little")
    other = replace(report, signature=report.signature[:48] + twin.to_bytes(48, "little"))
    first, second = case().judge().claims, replace(case(), report=other.encode()).judge().claims
    assert first is not None
    assert second is not None
    assert (first.report.signed, first.chip, first.report_data) == (
        second.report.signed,
        second.chip,
        second.report_data,
    )


# -- S7, S8, S10: the chain


def test_s7_a_foreign_root_of_the_same_name_is_untrusted() -> None:
    """Another vendor with the same names, whose root nobody trusts."""
    foreign = Vendor.create(AT)
    machine = SnpMachine.create(foreign, AT, measurement=support.MEASUREMENT)
    report = machine.report(support.REPORT_DATA)
    refused_at(replace(case(), report=report, endorsements=machine.with_chain()), "vek.chain", "the signature is wrong")


def test_s7_only_pinned_intermediates_count() -> None:
    """An anchor that pins its intermediates refuses one that its own root signed."""
    pin = hashlib.sha256(support.vendor().ask.certificate).digest()
    anchor = support.vendor().anchor()
    assert replace(case(), anchors=(replace(anchor, intermediates=frozenset({pin})),)).judge().accepted
    refused_at(
        replace(case(), anchors=(replace(anchor, intermediates=frozenset({bytes(32)})),)),
        "vek.chain",
        "is not one of the intermediates that are pinned under ARK-Milan",
    )


def test_s7_a_root_that_is_pinned_by_digest_comes_with_the_endorsements() -> None:
    """Untrusted without its certificate, accepted with it; another certificate does not do."""
    anchor = replace(support.vendor().anchor(), certificate=None)
    found = replace(case(), anchors=(anchor,))
    assert found.judge().accepted
    without = tuple(c for c in found.endorsements.certificates if c != support.vendor().ark.certificate)
    refused_at(found.with_endorsements(certificates=without), "vek.chain", "is not trusted here")


def test_s7_a_missing_root_that_is_pinned_is_named() -> None:
    """AMD's Turin root is known by its digest alone, and the reason says which certificate is missing."""
    from enarx.tee.snp import pinned

    found = replace(case("Turin"), anchors=pinned.anchors())
    refused_at(found, "vek.chain", f"pinned by SHA-256 {pinned.DIGESTS['Turin'][0]}")


def test_s7_anchors_of_other_families_do_not_count() -> None:
    """Intel's root vouches for no AMD chip, whatever its name."""
    anchor = replace(support.vendor().anchor(), family="intel")
    refused_at(replace(case(), anchors=(anchor,)), "vek.chain")
    refused_at(replace(case(), anchors=()), "vek.chain")


def test_s7_of_anchors_with_one_name_the_right_one_is_found() -> None:
    """A root that was named beside the vendor's, with the vendor's name."""
    foreign = Vendor.create(AT).anchor()
    assert replace(case(), anchors=(foreign, support.vendor().anchor())).judge().accepted


def test_s7_of_intermediates_with_one_name_the_right_one_is_found() -> None:
    """A pool holds the intermediate of another vendor of the same name in front of ours."""
    other = Vendor.create(AT).ask.certificate
    good = case().endorsements
    strange = support.vendor().ark.issue("SEV-Milan", _strange_spki(), AT, serial=2, extensions=ca_extensions(0))
    for before in (other, strange):
        pool = (good.certificates[0], before, *good.certificates[1:])
        assert case().with_endorsements(certificates=pool).judge().accepted
        refused_at(case().with_endorsements(certificates=pool[:2]), "vek.chain")


def test_s7_an_endorsement_is_never_an_anchor() -> None:
    """A root among the endorsements is only a certificate."""
    foreign = Vendor.create(AT)
    machine = SnpMachine.create(foreign, AT, measurement=support.MEASUREMENT)
    found = replace(case(), report=machine.report(support.REPORT_DATA), endorsements=machine.with_chain())
    assert foreign.ark.certificate in found.endorsements.certificates
    assert found.refused()[0] == "untrusted"


def test_s8_a_vlek_under_the_ask_and_a_vcek_under_the_asvk_are_untrusted() -> None:
    """Each kind of key hangs under its own intermediate."""
    vendor = support.vendor()
    refused_at(case(kind="VLEK").certified(kind="VLEK", issuer=vendor.ask), "vek.chain", "issued by SEV-VLEK-Milan")
    refused_at(case().certified(issuer=vendor.asvk), "vek.chain", "expected to be issued by SEV-Milan")


def test_s8_a_key_certificate_that_the_root_issued_itself_is_untrusted() -> None:
    """There is an intermediate between."""
    refused_at(case().certified(issuer=support.vendor().ark), "vek.chain")


def test_a_missing_certificate_is_named() -> None:
    """Without the key's certificate, and without the one above it."""
    refused_at(case().with_endorsements(certificates=()), "vek.certificate", "no certificate of a VCEK came")
    only = case().endorsements.certificates[:1]
    refused_at(
        replace(case("Turin"), endorsements=replace(case("Turin").endorsements, certificates=())),
        "vek.certificate",
        "VCEK",
    )
    refused_at(case().with_endorsements(certificates=only), "vek.chain", "'SEV-Milan' is not among the certificates")


def test_a_key_certificate_that_cannot_be_read_is_told() -> None:
    """It is passed over, and its fault is part of the reason when there is no other."""
    refused_at(case().certified(chip_id=bytes(8)), "vek.certificate", "hwID: expected 64 bytes")
    assert case().with_endorsements(certificates=(b"\x30\x00", *case().endorsements.certificates)).judge().accepted


@pytest.mark.parametrize("position", [0, 1, 2])
def test_s10_every_certificate_is_valid_at_the_moment(position: int) -> None:
    """Key, intermediate and root, before they begin and after they end."""
    vendor, machine = support.vendor(), support.machine()
    short = timedelta(days=3)
    ark, ask = vendor.ark, vendor.ask
    names = ("SEV-VCEK", "SEV-Milan", "ARK-Milan")
    if position == 2:
        root = ark.issue("ARK-Milan", _spki(ark), AT, serial=1, extensions=ca_extensions(None), lifetime=short)
        found = replace(case(), anchors=(replace(vendor.anchor(), certificate=root, sha256=_sha(root)),))
    elif position == 1:
        shorter = ark.issue(
            "SEV-Milan", _spki(ask), AT, serial=2, extensions=ca_extensions(0, crl=False), lifetime=short
        )
        found = case().with_endorsements(certificates=(machine.certificate, shorter))
    else:
        found = case().certified(lifetime=short)
    assert found.judge().accepted
    refused_at(replace(found, at=AT - 2 * DAY), "vek.chain", "not valid before")
    refused_at(replace(found, at=AT + 3 * DAY), "vek.chain", f"{names[position]}: expired at")


def test_s10_an_intermediate_is_a_ca() -> None:
    """Neither without basicConstraints, nor with them saying no, nor without the key usage, nor out of its length."""
    vendor, machine = support.vendor(), support.machine()
    usage = ca_extensions(0)[1]
    cases = (
        ((), "without being a CA"),
        (ca_extensions(None, ca=False), "without being a CA"),
        ((ca_extensions(0)[0], replace(usage, value=b"\x03\x02\x07\x80")), "key usage does not allow signing"),
        ((*ca_extensions(0), Extension(oid="1.2.3.4", critical=True, value=b"\x05\x00")), "1.2.3.4 is not understood"),
    )
    for extensions, words in cases:
        ask = vendor.ark.issue("SEV-Milan", _spki(vendor.ask), AT, serial=2, extensions=extensions)
        refused_at(case().with_endorsements(certificates=(machine.certificate, ask)), "vek.chain", words)


def test_s10_a_root_is_self_signed_and_lets_an_intermediate_hang_below() -> None:
    """A path length of 0 allows none, and a root that another key signed is none."""
    vendor = support.vendor()
    tight = vendor.ark.issue("ARK-Milan", _spki(vendor.ark), AT, serial=1, extensions=ca_extensions(0))
    foreign = Vendor.create(AT).ark
    crossed = Authority(key=foreign.key, certificate=vendor.ark.certificate).issue(
        "ARK-Milan", _spki(vendor.ark), AT, serial=1, extensions=ca_extensions(None)
    )
    for root, words in ((tight, "path length 0 allows fewer"), (crossed, "the signature is wrong")):
        anchor = replace(vendor.anchor(), certificate=root, sha256=_sha(root))
        refused_at(replace(case(), anchors=(anchor,)), "vek.chain", words)


def test_s10_a_root_has_the_name_of_a_product() -> None:
    """ARK- and a product that is known here."""
    vendor, machine = support.vendor(), support.machine()
    for name in ("ARK-Naples", "Milan", "SEV-Milan"):
        key = vendor.ark.key
        me = Authority(key=key, certificate=vendor.ark.issue(name, _spki(vendor.ark), AT, serial=1))
        root = me.issue(name, _spki(vendor.ark), AT, serial=1, extensions=ca_extensions(None))
        ask = Authority(key=key, certificate=root).issue(
            "SEV-Milan", _spki(vendor.ask), AT, serial=2, extensions=ca_extensions(0)
        )
        anchor = TrustAnchor(family="amd", sha256=_sha(root), certificate=root)
        found = replace(case(), anchors=(anchor,)).with_endorsements(certificates=(machine.certificate, ask))
        refused_at(found, "vek.chain", f"expected ARK- and a product, found {name!r}")


def test_s10_algorithms_are_pinned() -> None:
    """RSASSA-PSS with SHA-384 and a salt of 48, by RSA keys; the leaf's key is on P-384."""
    pkcs1 = bytes.fromhex("300d06092a864886f70d01010c0500")  # sha384WithRSAEncryption
    salt32 = bytes.fromhex(
        "304606092a864886f70d01010a3039a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020120a303020101"
    )
    vendor, machine = support.vendor(), support.machine()
    for algorithm in (pkcs1, salt32):
        ask = vendor.ark.issue(
            "SEV-Milan", _spki(vendor.ask), AT, serial=2, extensions=ca_extensions(0), algorithm=algorithm
        )
        refused_at(
            case().with_endorsements(certificates=(machine.certificate, ask)), "vek.chain", "expected RSASSA-PSS"
        )
    curve = ec.generate_private_key(ec.SECP384R1())
    ask = vendor.ark.issue("SEV-Milan", keys.spki(curve), AT, serial=2, extensions=ca_extensions(0))
    refused_at(case().with_endorsements(certificates=(machine.certificate, ask)), "vek.chain", "expected an RSA key")
    small = keys.generate("P-256").public_key()
    made = vendor.certify(small, AT, tcb=support.snp_tcb(machine), chip_id=machine.chip_id)
    refused_at(case().with_vek(made), "vek.chain", "expected a key on P-384")


def test_s10_a_leaf_is_no_ca_and_has_no_unknown_critical_extension() -> None:
    """AMD's own extensions may be critical; any other that is critical is not understood."""

    def critical(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        return tuple(replace(extension, critical=True) for extension in extensions)

    def unknown(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        return (*extensions, Extension(oid="1.2.3.4", critical=True, value=b"\x05\x00"))

    def authority(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        return (*extensions, Extension(oid=BASIC_CONSTRAINTS, critical=False, value=b"\x30\x03\x01\x01\xff"))

    assert case().certified(alter=critical).judge().accepted
    refused_at(case().certified(alter=unknown), "vek.chain", "1.2.3.4 is not understood")
    refused_at(case().certified(alter=authority), "vek.chain", "expected an end entity, found a CA")


# -- S9: who signed


def test_s9_a_report_says_which_key_signed_it() -> None:
    """A VLEK for a report of a VCEK and the reverse, a report that nobody signed, and one under a masked key."""
    refused_at(case().saying(signing_key=VLEK), "vek.certificate", "no certificate of a VLEK")
    refused_at(case(kind="VLEK").saying(signing_key=VCEK), "vek.certificate", "no certificate of a VCEK")
    refused_at(case().saying(signing_key=NONE), "report.signing_key", "found none (7)")
    refused_at(case().saying(mask_chip_key=True), "report.signing_key", "found masked")


def test_s9_a_vlek_that_is_named_a_vcek_is_told_by_what_it_says() -> None:
    """The name alone makes no VCEK: a cloud in the place of the chip is refused."""
    certificate = support.vendor().certify(
        support.machine().key.public_key(),
        AT,
        tcb=support.snp_tcb(support.machine()),
        chip_id=bytes(64),
        kind="VLEK",
        common_name="SEV-VCEK",
    )
    refused_at(case().with_vek(certificate), "vek.certificate", "a VCEK has")


# -- S11: revocation


def test_s11_a_crl_is_needed_unless_leniency_says_otherwise() -> None:
    """Left out, or of another issuer."""
    foreign = support.vendor("Genoa").crls(AT)
    for crls in ((), foreign):
        found = case().with_endorsements(crls=crls)
        refused_at(found, "crl.ark", "no CRL of ARK-Milan was provided")
        appraisal = lenient(found).judge()
        assert appraisal.accepted
        skipped = {check.name for check in appraisal.checks if check.outcome is Outcome.SKIPPED}
        assert {"crl.ark", "revocation.intermediate"} <= skipped


def test_s11_a_crl_is_current() -> None:
    """Not yet, not any more, without an end; signed by another; each told."""
    vendor = support.vendor()
    for crl, words in (
        (vendor.crl(AT + DAY), "begins at"),
        (vendor.crl(AT - 2 * DAY, lifetime=DAY), "ended at"),
        (vendor.crl(AT, signer=vendor.ask), "the signature is wrong"),
    ):
        refused_at(case().with_endorsements(crls=(crl,)), "crl.ark", words)
    end = vendor.crl(AT, lifetime=DAY)
    assert not replace(case().with_endorsements(crls=(end,)), at=AT + DAY).judge().accepted
    assert replace(case().with_endorsements(crls=(end,)), at=AT + DAY - timedelta(seconds=1)).judge().accepted


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
def test_s11_a_revoked_intermediate_is_untrusted(kind: vek.Kind) -> None:
    """ASK and ASVK alike; the other one's revocation does not matter, and no leniency helps."""
    vendor = support.vendor()
    mine, other = (vendor.ask, vendor.asvk) if kind == "VCEK" else (vendor.asvk, vendor.ask)
    revoked = vendor.revoke(mine.certificate).crls(AT)
    found = case(kind=kind).with_endorsements(crls=revoked)
    refused_at(found, "revocation.intermediate", "is revoked")
    refused_at(lenient(found), "revocation.intermediate")
    assert case(kind=kind).with_endorsements(crls=vendor.revoke(other.certificate).crls(AT)).judge().accepted


def test_s11_no_list_takes_a_revocation_back() -> None:
    """A list without the serial beside one with it, whichever is newer; also when the one with it has ended."""
    vendor = support.vendor()
    revoked = vendor.revoke(vendor.ask.certificate)
    ended = revoked.crl(AT - 400 * DAY, lifetime=DAY)
    for crls in (
        (vendor.crl(AT), revoked.crl(AT)),
        (revoked.crl(AT), vendor.crl(AT, number=99)),
        (vendor.crl(AT), ended),
    ):
        refused_at(case().with_endorsements(crls=crls), "revocation.intermediate")
    refused_at(lenient(case().with_endorsements(crls=(ended,))), "revocation.intermediate")


def test_s11_rubbish_in_a_pool_of_lists_is_passed_over() -> None:
    """It neither helps nor harms."""
    assert case().with_endorsements(crls=(b"\x30\x00", *support.vendor().crls(AT))).judge().accepted


# -- S12, S13: the key's certificate against the report


@pytest.mark.parametrize(
    ("product", "component"),
    [
        *((product, name) for product in ("Milan", "Turin") for name in ("bootloader", "tee", "snp", "microcode")),
        ("Turin", "fmc"),
    ],
)
@pytest.mark.parametrize("step", [-1, 1])
def test_s12_the_key_is_of_the_reported_tcb(product: str, component: str, step: int) -> None:
    """Each component, in either direction: neither an older nor a newer key does."""
    level = Tcb(bootloader=5, tee=5, snp=5, microcode=5, fmc=5 if product == "Turin" else None)
    machine = SnpMachine.create(support.vendor(product), AT, measurement=support.MEASUREMENT, tcb=level)
    found = replace(
        case(product), machine=machine, report=machine.report(support.REPORT_DATA), endorsements=machine.with_chain()
    )
    assert found.judge().accepted
    other = replace(level, **{component: 5 + step})
    refused_at(found.certified(tcb=other), "vek.tcb", f"{component} is 5, certified {5 + step}")


def test_s12_it_is_the_reported_tcb_and_no_other() -> None:
    """A report whose current TCB is the certified one, but not the reported."""
    level = support.snp_tcb(support.machine())
    older = replace(level, snp=level.snp - 1)
    refused_at(case().saying(reported_tcb=older.encode()), "vek.tcb", "snp is 26, certified 27")
    assert case().saying(reported_tcb=older.encode()).certified(tcb=older).judge().accepted
    newer = replace(level, snp=level.snp + 1)
    assert case().saying(current_tcb=newer.encode()).judge().accepted


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_s13_the_key_is_of_this_chip(product: str) -> None:
    """In both widths; every byte counts."""
    found = case(product)
    chip = support.hwid(found.machine)
    for position in (0, len(chip) - 1):
        other = chip[:position] + bytes([chip[position] ^ 1]) + chip[position + 1 :]
        refused_at(found.certified(chip_id=other), "vek.chip", other.hex())


def test_s13_a_short_chip_id_is_followed_by_zeros() -> None:
    """From Turin on, whichever key signed: 8 bytes, and nothing behind them."""
    for kind in ("VCEK", "VLEK"):
        found = case("Turin", "VLEK" if kind == "VLEK" else "VCEK")
        long = found.machine.chip_id[:63] + b"\1"
        refused_at(found.saying(chip_id=long), "vek.chip")


def test_s13_a_short_hwid_does_not_pass_for_a_prefix() -> None:
    """A Milan's chip id beginning with a Turin's is not that chip."""
    turin = case("Turin")
    refused_at(turin.saying(chip_id=turin.machine.chip_id[:8] + b"\1" * 56), "vek.chip")


def test_s13_a_masked_chip_is_legal_under_a_vlek_alone() -> None:
    """Under a VCEK it is a matter of policy, which refuses it unless it says otherwise."""
    masked = bytes(64)
    assert case(kind="VLEK").saying(chip_id=masked).judge().accepted
    found = case().saying(chip_id=masked)
    assert found.refused() == ("rejected", "policy.masked_chip_id")
    assert found.judge("allow_masked_chip_id = true").accepted


def test_of_several_key_certificates_the_one_of_this_chip_and_tcb_is_taken() -> None:
    """A collateral directory holds those of many machines and of many firmwares."""
    found = case()
    level, chip = support.snp_tcb(found.machine), support.hwid(found.machine)
    vendor, key = support.vendor(), found.machine.key.public_key()
    other_key = keys.generate("P-384").public_key()
    others = (
        vendor.certify(other_key, AT, tcb=level, chip_id=bytes(64)),
        vendor.certify(other_key, AT, tcb=replace(level, snp=1), chip_id=chip),
        vendor.certify(key, AT - 300 * DAY, tcb=level, chip_id=chip, lifetime=DAY),
    )
    for pool in ((*others, *found.endorsements.certificates), (*found.endorsements.certificates, *others)):
        assert found.with_endorsements(certificates=pool).judge().reasons == ()
    newest = vendor.certify(key, AT + DAY, tcb=level, chip_id=chip)
    chosen = found.with_endorsements(certificates=(*found.endorsements.certificates, newest)).judge().claims
    assert isinstance(chosen, SnpClaims)
    assert chosen.vek.certificate.der == newest
    last_day = vendor.certify(key, AT, tcb=level, chip_id=chip, lifetime=DAY)
    tomorrow = vendor.certify(key, AT + 2 * DAY, tcb=level, chip_id=chip)
    for pool in ((tomorrow, last_day), (last_day, tomorrow)):
        assert found.with_endorsements(certificates=(*pool, *found.endorsements.certificates[1:])).judge().accepted


# -- S14, S15: the product


def test_s15_the_product_is_one_everywhere() -> None:
    """The chain's, the certificate's and the CPUID's; an unknown CPUID is none."""
    refused_at(case().saying(cpuid=(0x19, 0x11, 1)), "vek.product", "CPUID Genoa")
    refused_at(case().saying(cpuid=(0x17, 0x31, 0)), "vek.product", "CPUID unknown 17:31")

    def named(product: str) -> Case:
        def alter(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
            return tuple(replace(e, value=vek.text(product)) if e.oid == vek.PRODUCT_NAME else e for e in extensions)

        return case().certified(alter=alter)

    refused_at(named("Genoa"), "vek.product", "certificate Genoa")
    refused_at(named("Milano"), "vek.product", "certificate Milano")
    assert named("Milan-B1").judge().accepted


def test_s15_bergamo_and_siena_hang_under_genoa() -> None:
    """Both ends of their range of models."""
    for model in (0xA0, 0xAF):
        assert case("Genoa").saying(cpuid=(0x19, model, 2)).judge().accepted


def test_s15_a_chain_of_another_product_is_untrusted() -> None:
    """A genuine key certificate of one product under the intermediate of another."""
    genoa = support.vendor("Genoa")
    found = case().certified(issuer=genoa.ask)
    pool = (found.endorsements.certificates[0], genoa.ask.certificate, genoa.ark.certificate)
    both = (support.vendor().anchor(), genoa.anchor())
    wrong = replace(found.with_endorsements(certificates=pool, crls=genoa.crls(AT)), anchors=both)
    refused_at(wrong, "vek.product", "chain Genoa, certificate Milan")


def test_s14_a_certificate_has_the_layout_of_its_product() -> None:
    """A Milan's certificate that is structured like a Turin's."""

    def alter(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        changed = {vek.STRUCT_VERSION: vek.integer(1), vek.HWID: bytes(8)}
        later = tuple(replace(e, value=changed.get(e.oid, e.value)) for e in extensions)
        return (*later, Extension(oid=vek.FMC, critical=False, value=vek.integer(0)))

    refused_at(case().certified(alter=alter), "vek.product", "layout other")


def test_s14_in_version_2_the_chain_tells_the_layout() -> None:
    """Bytes that the product reserves are refused though the report does not say of which product it is."""
    found = case(version=2)
    assert found.judge("minimum_report_version = 2").accepted
    strange = bytes((9, 0, 1, 0, 0, 0, 27, 80))
    appraisal = found.saying(launch_tcb=strange).judge("minimum_report_version = 2")
    assert appraisal.verdict == "untrusted"
    assert "SNP LAUNCH_TCB: reserved" in appraisal.reasons[0]


# -- S17, S20: the firmware's own rules


@pytest.mark.parametrize("name", ["reported", "committed", "launch"])
def test_s17_no_tcb_is_above_the_current_one(name: str) -> None:
    """By component: a newer microcode does not make up for an older firmware."""
    level = support.snp_tcb(support.machine())
    above = replace(level, snp=level.snp + 1, microcode=level.microcode - 1)
    found = case().saying(**{f"{name}_tcb": above.encode()})
    wrong = found.certified(tcb=above) if name == "reported" else found
    refused_at(wrong, "report.tcb_order", f"current TCB behind {name}: snp is 27, needs 28 (behind by 1)")


@pytest.mark.parametrize(
    ("policy", "firmware", "accepted"),
    [
        ((1, 58), (1, 58), True),
        ((1, 59), (1, 58), False),
        ((2, 0), (1, 58), False),
        ((1, 51), (2, 0), True),
        ((0, 31), (1, 58), True),
    ],
)
def test_s20_the_firmware_has_the_abi_that_the_policy_asks_for(
    policy: tuple[int, int], firmware: tuple[int, int], accepted: bool
) -> None:
    """Major and minor are one ordered pair: a policy of 1.51 runs on firmware 2.0."""
    found = case().saying(
        policy=0x30000 | policy[0] << 8 | policy[1],
        current_version=Version(major=firmware[0], minor=firmware[1], build=0),
    )
    assert found.refused() == (("accepted",) if accepted else ("untrusted", "report.abi"))


# -- S27, S28 and what the claims say


def test_s27_all_64_bytes_of_report_data_are_compared() -> None:
    """One bit anywhere, the tail included."""
    for position in (0, 47, 48, 63):
        data = bytearray(support.REPORT_DATA)
        data[position] ^= 0x80
        refused_at(replace(case(), report=support.machine().report(bytes(data))), "binding")


def test_claims_say_what_was_proven() -> None:
    """Signer, chip, product, standing, and the earliest end of all that they rest on."""
    found = case().saying(author_key_en=True, author_key_digest=b"\7" * 48)
    claims = found.judge().claims
    assert claims is not None
    assert (claims.signer, claims.chip, claims.debug) == (b"\7" * 48, support.machine().chip_id, False)
    assert (claims.tcb_status, claims.advisories) == ("UpToDate", ())
    assert claims.expires == AT + timedelta(days=365)
    ends = support.vendor().crl(AT, lifetime=DAY)
    soon = found.with_endorsements(crls=(ends,)).judge().claims
    assert soon is not None
    assert soon.expires == AT + DAY
    plain = case("Turin").judge().claims
    assert plain is not None
    assert (plain.signer, plain.chip) == (None, support.machine("Turin").chip_id[:8])
    cloud = case(kind="VLEK").judge().claims
    assert cloud is not None
    assert cloud.chip == support.machine(kind="VLEK").chip_id
    hidden = case(kind="VLEK").saying(chip_id=bytes(64)).judge().claims
    assert hidden is not None
    assert hidden.chip is None


def test_claims_name_the_advisories_that_the_reported_tcb_has_not_mended() -> None:
    """AMD publishes no status: firmware below a floor that a bulletin names is out of date."""
    old = Tcb(bootloader=3, tee=0, snp=0x17, microcode=115)
    machine = SnpMachine.create(support.vendor(), AT, measurement=support.MEASUREMENT, tcb=old)
    found = replace(
        case(), machine=machine, report=machine.report(support.REPORT_DATA), endorsements=machine.with_chain()
    )
    claims = found.judge().claims
    assert claims is not None
    assert (claims.tcb_status, claims.advisories) == ("OutOfDate", ("AMD-SB-3019",))
    assert found.refused("denied_advisories = ['AMD-SB-3019']") == ("rejected", "policy.advisories")


def test_the_verdict_lists_every_check() -> None:
    """Those that were never reached are skipped, and each name is known beforehand."""
    from enarx.tee import snp

    names = [name for _, name in snp.TECHNOLOGY.check_names]
    assert sorted(check.name for check in case().judge().checks) == sorted(names)
    early = case().with_endorsements(certificates=()).judge()
    assert sorted(check.name for check in early.checks) == sorted(names)
    assert [check.outcome for check in early.checks if check.found == "not reached"] == [Outcome.SKIPPED] * 41


def test_every_check_that_passed_says_what_was_found() -> None:
    """For people who have to decide whether to trust it."""
    told = {check.name: check for check in case().judge().checks}
    assert [check.name for check in told.values() if check.outcome is Outcome.PASSED and not check.found] == []
    assert told["vek.certificate"].found.startswith("VCEK of Milan-B0, until 20")
    assert told["vek.chain"].found == "SEV-VCEK ← SEV-Milan ← ARK-Milan (simulator)"
    assert told["report.tcb_layout"].found == "current TCB bootloader 9 tee 0 snp 27 microcode 80"


def _strange_spki() -> bytes:
    """A key of a kind that no vendor has."""
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _spki(authority: Authority) -> bytes:
    return Certificate.parse(authority.certificate).spki


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_endorsements_may_come_in_any_order() -> None:
    """Nothing depends on which certificate stands where."""
    good = case().endorsements
    assert case().with_endorsements(certificates=good.certificates[::-1]).judge().accepted
    assert not replace(case(), endorsements=Endorsements(crls=good.crls)).judge().accepted


@pytest.mark.parametrize(("kind", "version"), [("VCEK", 5), ("VLEK", 3), ("VCEK", 2)])
def test_what_a_report_lacks_is_told_as_nothing(kind: Kind, version: int) -> None:
    """CPUID since version 3, mitigation vectors in version 5, a hwID in a VCEK alone; else the value, in hexadecimal."""
    one = case("Milan", kind, version)
    claims = one.judge("minimum_report_version = 2").claims
    assert claims is not None
    said, key = claims.fields["report"], claims.fields["vek"]
    assert isinstance(said, Mapping)
    assert isinstance(key, Mapping)
    report, hwid = Report.parse(one.report), support.hwid(one.machine).hex()
    cpuid = None if report.cpuid is None else ":".join(f"{part:02x}" for part in report.cpuid)
    assert (version < 3) == (cpuid is None)
    vectors = ("0x0", "0x0") if version == 5 else (None, None)
    assert said["cpuid"] == cpuid
    assert (said["launch_mit_vector"], said["current_mit_vector"]) == vectors
    assert key["hwid"] == (hwid if kind == "VCEK" else None)


@pytest.mark.parametrize(
    ("value", "fits"), [("0201ff", False), ("020200ff", True), ("02020100", False), ("020101", True)]
)
def test_a_security_version_is_a_minimal_integer_of_one_byte(value: str, fits: bool) -> None:
    """From 0 to 255, and written in one way alone."""

    def alter(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        return tuple(
            replace(each, value=bytes.fromhex(value)) if each.oid == vek.BOOTLOADER else each for each in extensions
        )

    checks = case().certified(alter=alter).refused()
    assert ("vek.certificate" not in checks) == fits, checks


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (128, True), (129, False)])
def test_a_product_name_has_a_bounded_length(length: int, fits: bool) -> None:
    """At least one character, at most 128."""

    def alter(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        name = der.wrap(0x16, b"M" * length)
        return tuple(replace(each, value=name) if each.oid == vek.PRODUCT_NAME else each for each in extensions)

    checks = case().certified(alter=alter).refused()
    assert ("vek.certificate" not in checks) == fits, checks
