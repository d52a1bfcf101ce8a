"""TDX: every form of the TD report, the TDX module and its level, and which TDs policy accepts."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields

from enarx.errors import MalformedError
from enarx.tee.appraise import judge
from enarx.tee.dcap.quote import BODY_SIZES
from enarx.tee.dcap.simulator import NEWEST, OLDER, TDX_COMPONENTS, Machine, enclave_level, tcb_level
from enarx.tee.model import Binding, Checks, Claims, Endorsements, Evidence
from enarx.tee.tdx import TECHNOLOGY
from enarx.tee.tdx import report as bits
from enarx.tee.tdx.report import OID, Lineage, Report, TdReport, encode, parse
from enarx.tee.tdx.simulator import BodyType, TdxMachine, never_moved
from enarx.toml import ConfigError
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import AT, MR_TD, REPORT_DATA, Case, td_case
from tests.values import replace

FORMS: list[tuple[Literal[4, 5], BodyType]] = [(4, 2), (5, 2), (5, 3), (5, 4)]
MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def svn(*values: int) -> bytes:
    return bytes((*values, *[0] * (16 - len(values))))


def with_report(body_type: BodyType = 3, **fields: object) -> Case:
    """A case whose TD report has other fields."""

    def alter(report: TdReport) -> TdReport:
        return replace(report, **fields)

    return replace(td_case(), quote=support.domain().quote(REPORT_DATA, body_type=body_type, alter=alter))


def with_lineage(**fields: object) -> Case:
    lineage = replace(never_moved(), **fields)
    return with_report(4, lineage=lineage)


@pytest.mark.parametrize(("version", "body_type"), FORMS)
def test_t1_every_form_of_the_quote_is_judged(version: Literal[4, 5], body_type: BodyType) -> None:
    """T1: version 4, and version 5 with TDX 1.0, 1.5 and 1.5 extended."""
    quote = support.domain().quote(REPORT_DATA, version=version, body_type=body_type)
    appraisal = replace(td_case(), quote=quote).judge()
    assert appraisal.accepted, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.measurement == MR_TD
    report = appraisal.claims.fields["report"]
    assert isinstance(report, dict)
    assert ("tee_tcb_svn2" in report, "lineage" in report) == (body_type > 2, body_type == 4)


@given(st.sampled_from([2, 3, 4]), st.data())
def test_t1_a_td_report_is_read_and_written_byte_for_byte(body_type: int, data: st.DataObject) -> None:
    """T1: any bytes of a type's length are a report that encodes to them; any other length is malformed."""
    size = BODY_SIZES[body_type]
    body = data.draw(st.binary(min_size=size, max_size=size))
    report = TdReport.parse(body, body_type)
    assert report.encode() == body
    assert report.body_type == body_type
    for wrong in (body[:-1], body + b"\0"):
        with pytest.raises(MalformedError):
            TdReport.parse(wrong, body_type)


def test_t1_the_fields_stand_where_the_specification_has_them() -> None:
    """T1: offsets of the 885 bytes, each field found by a mark of its own."""
    offsets = {
        "tee_tcb_svn": 0,
        "mr_seam": 16,
        "mr_signer_seam": 64,
        "seam_attributes": 112,
        "mr_td": 136,
        "mr_config_id": 184,
        "mr_owner": 232,
        "mr_owner_config": 280,
        "report_data": 520,
        "tee_tcb_svn2": 584,
        "mr_service_td": 600,
    }
    for name, offset in offsets.items():
        body = bytearray(885)
        body[offset] = 0xA5
        assert getattr(TdReport.parse(bytes(body), 4), name)[0] == 0xA5, name
    numbers = bytearray(885)
    numbers[120], numbers[128] = 1, 3
    parsed = TdReport.parse(bytes(numbers), 4)
    assert (parsed.attributes, parsed.xfam) == (1, 3)
    for index in range(4):
        body = bytearray(885)
        body[328 + 48 * index] = 0xA5
        assert TdReport.parse(bytes(body), 4).rtmrs[index][0] == 0xA5
    lineage = {
        "td_id": 649,
        "device_info": 681,
        "initial_service_td": 729,
        "initial_service_td_attributes": 777,
        "initial_cpu_svn": 785,
        "initial_tee_tcb_svn": 801,
        "initial_fmspc": 817,
        "current_service_td": 829,
        "current_service_td_attributes": 877,
    }
    for name, offset in lineage.items():
        body = bytearray(885)
        body[648], body[offset] = 7, 0xA5
        found = TdReport.parse(bytes(body), 4).lineage
        assert isinstance(found, Lineage)
        assert (found.vm_id, getattr(found, name)[0]) == (7, 0xA5), name


@pytest.mark.parametrize(
    "fields",
    [{"mr_signer_seam": b"\1" * 48}, {"seam_attributes": b"\1" + bytes(7)}, {"seam_attributes": bytes(7) + b"\1"}],
)
@pytest.mark.parametrize("version", [0, 1])
def test_t2_the_tdx_module_is_intels_and_not_for_debugging(fields: dict[str, bytes], version: int) -> None:
    """T2: MRSIGNERSEAM and SEAMATTRIBUTES, against the base entry or the identity of the module's version."""
    assert with_report(3, tee_tcb_svn=svn(5, version, 6), **fields).refused() == ("untrusted", "module.identity")


def test_t2_attributes_are_zero_also_where_the_mask_does_not_look() -> None:
    """T2: a mask of zeros allows no attribute; and a signer that the document names otherwise is not this one's."""
    blind = {**MODULE, "attributesMask": "00" * 8}
    identities = [{"id": "TDX_01", **blind, "tcbLevels": [enclave_level(5, AT)]}]
    case = with_report(seam_attributes=b"\1" + bytes(7))
    assert case.with_tcb_info(tdxModuleIdentities=identities).refused() == ("untrusted", "module.identity")
    wanted = [{"id": "TDX_01", **MODULE, "attributes": "01" + "00" * 7, "tcbLevels": [enclave_level(5, AT)]}]
    assert td_case().with_tcb_info(tdxModuleIdentities=wanted).refused() == ("untrusted", "module.identity")
    other = [{"id": "TDX_01", **MODULE, "mrsigner": "11" * 48, "tcbLevels": [enclave_level(5, AT)]}]
    assert td_case().with_tcb_info(tdxModuleIdentities=other).refused() == ("untrusted", "module.identity")


def test_t2_a_module_version_without_an_identity_is_untrusted() -> None:
    """T2: TDX_03 is asked for by TEE_TCB_SVN[1] = 3; the base entry does not stand in for it, nor it for the base."""
    assert with_report(tee_tcb_svn=svn(5, 3, 6)).refused() == ("untrusted", "module.identity")
    assert td_case().with_tcb_info(tdxModuleIdentities=[]).refused() == ("untrusted", "module.identity")
    vendor = support.vendor()
    body = vendor.tcb_info(AT, "TDX").body.decode()
    inner = body[len('{"tcbInfo":') : body.index(',"signature"')]
    start = inner.index('"tdxModule":')
    without = inner[:start] + inner[inner.index('"tdxModuleIdentities"') :]
    infos = (vendor.document("tcbInfo", without),)
    first = with_report(tee_tcb_svn=svn(5, 0, 6)).with_endorsements(tcb_infos=infos)
    assert first.refused() == ("untrusted", "module.identity")
    assert td_case().with_endorsements(tcb_infos=infos).judge().accepted


def test_t3_module_and_platform_levels_are_merged() -> None:
    """T3: an old module on a current platform is out of date, and so is a current module on an old platform."""
    module = with_report(2, tee_tcb_svn=svn(3, 1, 6))
    assert module.refused() == ("rejected", "policy.tcb_status", "policy.advisories")
    assert "TDX module SVN is 3, needs 5" in module.reasons()
    assert "INTEL-SA-01036" in module.reasons()
    platform = td_case().with_levels(tcb_level(AT, status="OutOfDate", tdx=TDX_COMPONENTS))
    assert platform.refused() == ("rejected", "policy.tcb_status")
    revoked = [{"id": "TDX_01", **MODULE, "tcbLevels": [enclave_level(5, AT, "Revoked")]}]
    assert td_case().with_tcb_info(tdxModuleIdentities=revoked).refused() == ("untrusted", "tcb.not_revoked")
    configured = td_case().with_levels(tcb_level(AT, status="ConfigurationNeeded", tdx=TDX_COMPONENTS))
    both = replace(configured, quote=module.quote)
    claims = both.judge().claims
    assert claims is not None
    assert claims.tcb_status == "OutOfDateConfigurationNeeded"


def test_t3_a_module_below_every_level_is_untrusted() -> None:
    """T3: what Intel does not list, it does not vouch for."""
    assert with_report(tee_tcb_svn=svn(2, 1, 6)).refused() == ("untrusted", "module.level")


def test_t4_components_0_and_1_belong_to_the_module_from_its_first_version_on() -> None:
    """T4: with TEE_TCB_SVN[1] > 0 they are not compared with the platform's; component 2 is; with 0 all are."""
    level = tcb_level(AT, tdx=(9, 9, 6, *[0] * 13))
    assert td_case().with_levels(level).judge().accepted
    low = with_report(tee_tcb_svn=svn(5, 1, 5)).with_levels(level)
    assert low.refused() == ("untrusted", "tcb.level")
    first = with_report(tee_tcb_svn=svn(5, 0, 6))
    assert first.with_levels(tcb_level(AT, tdx=(5, 0, 6, *[0] * 13))).judge().accepted
    assert first.with_levels(tcb_level(AT, tdx=(6, 0, 6, *[0] * 13))).refused() == ("untrusted", "tcb.level")
    assert first.with_levels(tcb_level(AT, tdx=(5, 1, 6, *[0] * 13))).refused() == ("untrusted", "tcb.level")


def test_t4_a_level_without_tdx_components_is_no_level_for_a_td() -> None:
    """T4: an SGX level says nothing of a TD."""
    assert td_case().with_levels(tcb_level(AT)).refused() == ("untrusted", "tcb.level")


def test_t5_a_td_that_only_has_to_be_relaunched_is_told_so() -> None:
    """T5: old module at launch, newest loaded since; only TDX 1.5 reports can tell."""
    advised = with_report(tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn2=svn(5, 1, 6))
    claims = advised.judge().claims
    assert claims is not None
    assert claims.tcb_status == "TDRelaunchAdvised"
    assert advised.refused() == ("rejected", "policy.tcb_status", "policy.advisories")
    allowed = "allowed_tcb_statuses = ['TDRelaunchAdvised']\nallowed_advisories = ['INTEL-SA-01036']"
    assert advised.judge(allowed).accepted
    assert with_report(tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn2=svn(4, 1, 6)).refused(allowed)[0] == "rejected"
    unknown = with_report(tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn2=svn(9, 7, 6))
    assert unknown.refused(allowed) == ("rejected", "policy.tcb_status")


def test_t5_what_is_loaded_is_measured_by_its_own_version() -> None:
    """T5: a newer major version of the module has SVNs of its own."""
    identities = [
        {"id": "TDX_01", **MODULE, "tcbLevels": [enclave_level(5, AT), enclave_level(3, AT, "OutOfDate")]},
        {"id": "TDX_03", **MODULE, "tcbLevels": [enclave_level(2, AT)]},
    ]
    moved = with_report(tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn2=svn(2, 3, 6)).with_tcb_info(
        tdxModuleIdentities=identities
    )
    claims = moved.judge().claims
    assert claims is not None
    assert claims.tcb_status == "TDRelaunchAdvised"


@pytest.mark.parametrize("bit", range(8))
def test_t6_a_td_under_debug_is_rejected_whatever_policy_says(bit: int) -> None:
    """T6: DEBUG and every other bit of TUD; no key allows them."""
    case = with_report(attributes=bits.SEPT_VE_DISABLE | 1 << bit)
    assert case.refused() == ("rejected", "policy.debug")
    names = "td_attributes = ['PERFMON', 'KL', 'PKS', 'SEPT_VE_DISABLE', 'MIGRATABLE']"
    assert case.refused(f"{names}\nallow_sept_ve = true") == ("rejected", "policy.debug")


@pytest.mark.parametrize("bit", [bit for bit in range(8, 64) if bit not in {28, 29, 30, 31, 63}])
def test_t6_reserved_attributes_are_rejected(bit: int) -> None:
    """T6: what has no name has no meaning that could be accepted."""
    assert with_report(attributes=bits.SEPT_VE_DISABLE | 1 << bit).refused() == ("rejected", "policy.td_attributes")


def test_t6_attributes_have_a_ceiling() -> None:
    """T6: the five names are allowed unless policy lists fewer."""
    for name, bit in (("PERFMON", 63), ("KL", 31), ("PKS", 30), ("MIGRATABLE", 29)):
        case = with_report(attributes=bits.SEPT_VE_DISABLE | 1 << bit)
        assert case.judge().accepted
        assert case.judge(f"td_attributes = ['SEPT_VE_DISABLE', '{name}']").accepted
        assert case.refused("td_attributes = ['SEPT_VE_DISABLE']") == ("rejected", "policy.td_attributes")


def test_t6_a_td_that_the_host_can_surprise_is_rejected() -> None:
    """T6: SEPT_VE_DISABLE has to be set, unless policy says by name that it need not."""
    case = with_report(attributes=0)
    assert case.refused() == ("rejected", "policy.sept_ve_disable")
    assert case.judge("allow_sept_ve = true").accepted


@pytest.mark.parametrize("xfam", [0xE7 & ~1, 0xE7 & ~2, 0, 0xE7 | 1 << 3, 0xE7 | 1 << 10, 0xE7 | 1 << 63])
def test_t7_xfam_has_fixed_bits(xfam: int) -> None:
    """T7: x87 and SSE are always set; what TDX can't virtualise is never."""
    assert with_report(xfam=xfam).refused() == ("rejected", "policy.xfam")


def test_t7_xfam_has_a_ceiling() -> None:
    """T7: everything that is known is allowed unless policy allows less."""
    case = with_report(xfam=0x6DBE7)
    assert case.judge().accepted
    assert case.judge("xfam = 'e7db060000000000'").accepted
    assert case.refused("xfam = 'e702060000000000'") == ("rejected", "policy.xfam")
    with pytest.raises(ConfigError, match="x87 and SSE"):
        case.policy("xfam = 'e400000000000000'")


def test_t8_what_was_launched_is_compared() -> None:
    """T8: MRTD allowed and denied."""
    case, other = td_case(), "55" * 48
    assert case.judge(f"hash = ['{other}', '{MR_TD.hex()}']").accepted
    assert case.refused(f"hash = ['{other}']") == ("rejected", "policy.hash")
    assert case.refused(f"hash_blacklist = ['{MR_TD.hex()}']") == ("rejected", "policy.hash_blacklist")
    with pytest.raises(ConfigError, match="stands in hash too"):
        case.policy(f"hash = ['{other}']\nhash_blacklist = ['{other}']")


@pytest.mark.parametrize("name", ["mr_config_id", "mr_owner", "mr_owner_config", "mr_seam"])
def test_t8_each_register_has_its_list(name: str) -> None:
    """T8: MRCONFIGID, MROWNER, MROWNERCONFIG, and the TDX module's measurement."""
    case = with_report(3, **{name: b"\7" * 48})
    assert case.judge().accepted
    assert case.judge(f"{name} = ['{'07' * 48}']").accepted
    assert case.refused(f"{name} = ['{'00' * 48}']") == ("rejected", f"policy.{name}")


@pytest.mark.parametrize("index", range(4))
def test_t8_each_rtmr_has_its_list(index: int) -> None:
    """T8: RTMR0 to 3, each compared with its own list."""
    rtmrs = tuple(bytes((7 + number,)) * 48 for number in range(4))
    case = with_report(rtmrs=rtmrs)
    assert case.judge(f"rtmr{index} = ['{rtmrs[index].hex()}']").accepted
    assert case.refused(f"rtmr{index} = ['{rtmrs[index - 1].hex()}']") == ("rejected", f"policy.rtmr{index}")


def test_t9_a_service_td_has_to_be_known() -> None:
    """T9: none at all, or one that policy lists; one that can move the TD is trusted with all its secrets."""
    case = with_report(mr_service_td=b"\7" * 48)
    assert case.refused() == ("rejected", "policy.mr_service_td")
    assert case.refused(f"mr_service_td = ['{'08' * 48}']") == ("rejected", "policy.mr_service_td")
    assert case.judge(f"mr_service_td = ['{'07' * 48}']").accepted
    assert td_case().judge(f"mr_service_td = ['{'07' * 48}']").accepted


def test_t9_the_check_tells_which_service_td_there_is() -> None:
    """T9: none, one that is known, or each that is not, by its field and its hash."""

    def found(case: Case, text: str = "") -> str | None:
        return next(check.found for check in case.judge(text).checks if check.name == "policy.mr_service_td")

    known = f"mr_service_td = ['{'07' * 48}']"
    assert found(td_case()) == "none"
    assert found(with_report(mr_service_td=b"\7" * 48), known) == "known service TDs"
    both = with_lineage(initial_service_td=b"\7" * 48, current_service_td=b"\1" * 48)
    assert found(both, known) == f"CUR_SERVTD_HASH {'01' * 48}"
    assert found(both) == f"INIT_SERVTD_HASH {'07' * 48}, CUR_SERVTD_HASH {'01' * 48}"


@pytest.mark.parametrize("name", ["initial_service_td", "current_service_td"])
def test_t9_so_have_those_that_the_extended_report_names(name: str) -> None:
    """T9: the service TD at launch and the current one."""
    case = with_lineage(**{name: b"\7" * 48})
    assert case.refused() == ("rejected", "policy.mr_service_td")
    assert case.judge(f"mr_service_td = ['{'07' * 48}']").accepted


def test_t9_a_td_that_was_launched_elsewhere_is_judged_by_that_platform_too() -> None:
    """T9: a TD does not get younger by being moved."""
    vendor = support.vendor()
    newest = bytes(NEWEST)
    fmspc = vendor.fmspc + bytes(6)
    fine = with_lineage(initial_cpu_svn=newest, initial_tee_tcb_svn=svn(5, 1, 6), initial_fmspc=fmspc)
    assert fine.judge().accepted, fine.reasons()
    old_cpu = bytes(OLDER)
    for told in (
        {"initial_cpu_svn": bytes(16), "initial_tee_tcb_svn": svn(5, 1, 6), "initial_fmspc": fmspc},
        {"initial_cpu_svn": newest, "initial_tee_tcb_svn": svn(3, 1, 6), "initial_fmspc": fmspc},
        {"initial_cpu_svn": newest, "initial_tee_tcb_svn": svn(5, 1, 5), "initial_fmspc": fmspc},
        {"initial_cpu_svn": newest, "initial_tee_tcb_svn": svn(5, 9, 6), "initial_fmspc": fmspc},
        {"initial_cpu_svn": newest, "initial_tee_tcb_svn": svn(5, 1, 6), "initial_fmspc": b"\7" * 12},
        {"initial_cpu_svn": old_cpu, "initial_tee_tcb_svn": svn(5, 1, 6), "initial_fmspc": fmspc},
    ):
        case = with_lineage(**told)
        assert case.refused() == ("rejected", "policy.launch_tcb"), told
        assert case.judge("allow_older_launch = true").accepted


def test_t10_the_identity_is_that_of_the_tds_quoting_enclave() -> None:
    """T10: TD_QE of version 2 or 3; the identity of SGX's QE, or SGX's QE itself, does not serve."""
    vendor = support.vendor()
    sgx = (vendor.qe_identity(AT, "SGX"),)
    assert td_case().with_endorsements(qe_identities=sgx).refused() == ("untrusted", "qe_identity.kind")
    assert td_case().with_identity(id="QE").refused() == ("untrusted", "qe_identity.kind")
    assert td_case().with_identity(version=3).judge().accepted
    assert td_case().with_identity(version=4).refused() == ("untrusted", "qe_identity.kind")

    def enclaves_qe(machine: Machine) -> Machine:
        return machine.with_qe(lambda qe: replace(qe, product_id=1))

    assert td_case().with_machine(enclaves_qe).refused() == ("untrusted", "qe.identity")


def test_evidence_brings_its_endorsements_or_leaves_them_to_the_judge() -> None:
    """CRLs, TCB info and QE identity in the request; or the documents from the judge's collateral."""
    machine = support.domain()
    believe = judge(TECHNOLOGY, TECHNOLOGY.default_policy, (support.vendor().anchor(),))
    bound = Binding.of_report_data(REPORT_DATA)
    evidence = machine.evidence(REPORT_DATA)
    assert evidence.oid == OID
    assert believe(evidence, bound, Endorsements(), AT).accepted
    alone = encode(machine.quote(REPORT_DATA), Endorsements())
    assert believe(alone, bound, Endorsements(), AT).reasons[0].startswith("tcb_info.kind")
    assert believe(alone, bound, machine.endorsements, AT).accepted
    half = encode(machine.quote(REPORT_DATA), replace(machine.endorsements, qe_identities=()))
    with pytest.raises(MalformedError, match="or neither"):
        parse(half)
    with pytest.raises(MalformedError, match="of an SGX enclave"):
        Report.parse(support.enclave().quote(REPORT_DATA))
    with pytest.raises(MalformedError):
        parse(Evidence(oid=OID, body=machine.quote(REPORT_DATA)))


def test_a_bare_quote_is_recognised_by_its_header() -> None:
    """Versions 4 and 5 of a TD; an enclave's is not a TD's, nor the other way round."""
    for version, body_type in FORMS:
        assert TECHNOLOGY.recognise(support.domain().quote(REPORT_DATA, version=version, body_type=body_type))
    assert not TECHNOLOGY.recognise(support.enclave().quote(REPORT_DATA))
    assert not TECHNOLOGY.recognise(support.enclave().quote(REPORT_DATA, version=5))
    assert not TECHNOLOGY.recognise(b"")
    assert TECHNOLOGY.recognise(bytes.fromhex("0400020081000000ff"))


def test_a_machine_is_the_same_after_it_was_saved() -> None:
    """Files by name hold everything; a quote of the loaded machine is accepted."""
    loaded = TdxMachine.load(support.domain().save())
    assert loaded.measurement == MR_TD
    assert replace(td_case(), machine=loaded, quote=loaded.quote(REPORT_DATA)).judge().accepted
    with pytest.raises(MalformedError, match=r"td\.bin is missing"):
        TdxMachine.load({})


def test_the_claims_tell_of_debug_and_of_every_field() -> None:
    """What the verdict shows of a TD: debug by its own bit alone, and each field under Intel's name."""
    for attributes, debug in ((bits.SEPT_VE_DISABLE | 1, True), (bits.SEPT_VE_DISABLE | 2, False)):
        claims = with_report(4, attributes=attributes).judge().claims
        assert claims is not None
        assert claims.debug is debug
        report = claims.fields["report"]
        assert isinstance(report, dict)
        assert (report["tdattributes"], report["xfam"]) == (
            f"{attributes:02x}"[-2:] + "00001000000000",
            "e7" + "00" * 7,
        )
        assert {f"rtmr{index}" for index in range(4)} < set(report)


def test_without_a_table_the_defaults_are_those_of_an_empty_one() -> None:
    """`steward verify` without a configuration asks what a table asks that says nothing."""
    assert td_case().policy() == TECHNOLOGY.default_policy


def test_policy_is_asked_of_verified_claims_alone() -> None:
    """Claims that `verify` did not make are a mistake of the caller, not evidence."""
    claims = td_case().judge().claims
    assert claims is not None
    made = {field.name: getattr(claims, field.name) for field in fields(Claims)}
    with pytest.raises(TypeError):
        TECHNOLOGY.accept(Claims(**made), TECHNOLOGY.default_policy, Checks())


def test_a_domain_has_four_registers_of_its_own() -> None:
    """A fifth in a policy would be compared with nothing."""
    for index in range(4):
        td_case().policy(f"rtmr{index} = ['{'00' * 48}']")
    with pytest.raises(ConfigError, match="rtmr4: unknown key"):
        td_case().policy(f"rtmr4 = ['{'00' * 48}']")
