"""Which guests are acceptable: every key of `[snp]`, each with the report that only this key refuses."""

from pathlib import Path

import pytest
from msgspec.structs import fields

from enarx import toml
from enarx.tee.model import Checks, Claims, Outcome
from enarx.tee.snp.policy import FLAGS, PLATFORM_BITS, POLICY_BITS, Policy, accept
from enarx.tee.snp.report import HOST
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.tcb import Tcb
from enarx.toml import ConfigError
from tests.unit.tee.snp import support
from tests.unit.tee.snp.support import AT, Case, case
from tests.values import replace

ONE = "11" * 48
TWO = "22" * 48
MEASUREMENT = support.MEASUREMENT.hex()
CHIP = support.machine().chip_id.hex()


def rejected(found: Case, check: str, text: str = "") -> str:
    """Rejected by this rule alone; the reason."""
    assert found.refused(text) == ("rejected", f"policy.{check}")
    return found.reasons(text)


# -- whatever is configured


def test_s18_a_guest_that_may_be_debugged_is_rejected() -> None:
    """No key allows it, and neither does the default of `steward verify`."""
    found = case().saying(policy=0x30000 | POLICY_BITS["DEBUG"])
    assert "DEBUG is 0" in rejected(found, "debug", "policy_flags = ['Debug', 'SMT']")
    assert replace(found, believed=Policy()).refused() == ("rejected", "policy.debug")
    claims = found.judge().claims
    assert claims is not None
    assert claims.debug


def test_s19_a_guest_with_a_migration_agent_is_rejected() -> None:
    """By its policy, and by the agent's report id, each alone."""
    assert "MIGRATE_MA is 1" in rejected(case().saying(policy=0x30000 | POLICY_BITS["MIGRATE_MA"]), "migration")
    for agent in (bytes(32), b"\xff" * 31 + b"\xfe", b"\x7f" + b"\xff" * 31):
        assert agent.hex() in rejected(case().saying(report_id_ma=agent), "migration")


def test_s23_a_report_that_the_host_asked_for_is_rejected() -> None:
    """It says nothing about a key inside the guest."""
    found = replace(case().saying(vmpl=HOST), believed=Policy())
    assert "expected the guest asked for the report, found the host" in rejected(found, "requester")


# -- the originals' keys


def test_s5_the_lowest_version_of_reports() -> None:
    """3 by default; any from 2 to 5 can be said."""
    for version, floor, accepted in ((3, 3, True), (3, 4, False), (4, 5, False), (5, 5, True), (2, 2, True)):
        text = f"minimum_report_version = {floor}"
        expected = ("accepted",) if accepted else ("rejected", "policy.report_version")
        assert case(version=version).refused(text) == expected


def test_s5_the_lowest_version_by_product() -> None:
    """What is said of a product counts for it alone, in either direction."""
    text = "minimum_report_versions = {Milan = 2, Genoa = 5}"
    assert case(version=2).judge(text).accepted
    assert "expected 5 or higher, found 4" in rejected(case("Genoa", version=4), "report_version", text)
    assert "expected 3 or higher" in rejected(case("Turin", version=2), "report_version", text)


def test_s24_measurements_are_allowed_and_denied() -> None:
    """One that is not listed, and one that is denied."""
    assert case().judge(f"hash = ['{ONE}', '{MEASUREMENT.upper()}']").accepted
    assert ONE in rejected(case(), "hash", f"hash = ['{ONE}']")
    rejected(case(), "hash_blacklist", f"hash_blacklist = ['{MEASUREMENT}']")
    assert case().judge(f"hash_blacklist = ['{ONE}']").accepted


def test_s26_the_author_key_is_there_and_listed() -> None:
    """A digest without AUTHOR_KEY_EN is none."""
    signed = case().saying(author_key_en=True, author_key_digest=bytes.fromhex(ONE))
    assert signed.judge(f"signer = ['{ONE}']").accepted
    rejected(signed, "signer", f"signer = ['{TWO}']")
    absent = case().saying(author_key_en=False, author_key_digest=bytes.fromhex(ONE))
    assert "found none" in rejected(absent, "signer", f"signer = ['{ONE}']")


def test_s26_the_id_key_is_listed_and_not_denied() -> None:
    """ID_KEY_DIGEST against both lists."""
    found = case().saying(id_key_digest=bytes.fromhex(ONE))
    assert found.judge(f"id_key_digest = ['{ONE}']\nid_key_digest_blacklist = ['{TWO}']").accepted
    rejected(found, "id_key_digest", f"id_key_digest = ['{TWO}']")
    rejected(found, "id_key_digest_blacklist", f"id_key_digest_blacklist = ['{ONE}']")


def test_abi_is_asked_of_the_guests_policy() -> None:
    """Not of the firmware."""
    found = case().saying(policy=0x30000 | 0x0133)
    assert found.judge("abi = '>=1.51'").accepted
    assert found.judge("abi = '=1.51.0'").accepted
    assert "found 1.51" in rejected(found, "abi", "abi = '>=1.52'")


def test_s20_policy_flags_are_a_ceiling() -> None:
    """What the guest's policy may have of the three bits; the bit that is always one is no matter."""
    smt, plain = case(), case().saying(policy=1 << 17)
    single = case().saying(policy=1 << 17 | FLAGS["SingleSocket"])
    assert smt.judge("policy_flags = ['SMT']").accepted
    assert "found SMT" in rejected(smt, "policy_flags", "policy_flags = []")
    assert plain.judge("policy_flags = []").accepted
    assert "SingleSocket" in rejected(single, "policy_flags", "policy_flags = ['SMT']")
    assert single.judge("policy_flags = ['SingleSocket']").accepted


def test_s21_platform_info_flags_are_the_first_byte_exactly() -> None:
    """As the originals have it: SME is 1 and TSME is 2, whatever the bits are called today."""
    for info, name, accepted in ((1, "SME", True), (2, "TSME", True), (3, "SME", False), (0x25, "SME", False)):
        found = case().saying(platform_info=info)
        expected = ("accepted",) if accepted else ("rejected", "policy.platform_info_flags")
        assert found.refused(f"platform_info_flags = '{name}'") == expected


# -- the TCB


FLOOR = "[snp.minimum_tcb.Milan]\n"


@pytest.mark.parametrize(("component", "value"), [("bootloader", 9), ("snp", 27), ("microcode", 80), ("tee", 0)])
def test_s16_floors_by_component(component: str, value: int) -> None:
    """What is reached passes; one more does not, and the reason says which lags by how much."""
    assert case().judge(f"{FLOOR}{component} = {value}").accepted
    reason = rejected(case(), "minimum_tcb", f"{FLOOR}{component} = {value + 1}")
    assert f"reported TCB: {component} is {value}, needs {value + 1} (behind by 1)" in reason


def test_s16_floors_are_by_product() -> None:
    """Another product's floor asks nothing; Turin has one component more."""
    assert case("Genoa").judge(f"{FLOOR}snp = 255").accepted
    assert case("Turin").judge("[snp.minimum_tcb.Turin]\nfmc = 1").accepted
    assert "fmc is 1, needs 2" in rejected(case("Turin"), "minimum_tcb", "[snp.minimum_tcb.Turin]\nfmc = 2")


@pytest.mark.parametrize("name", ["reported", "committed", "launch"])
def test_s16_s17_floors_are_of_reported_committed_and_launch_tcb(name: str) -> None:
    """A guest that was started under older firmware is as old as that."""
    level = support.snp_tcb(support.machine())
    older = replace(level, snp=level.snp - 1)
    found = case().saying(**{f"{name}_tcb": older.encode()})
    found = found.certified(tcb=older) if name == "reported" else found
    reason = rejected(found, "minimum_tcb", f"{FLOOR}snp = {level.snp}")
    assert f"{name} TCB: snp is 26, needs 27 (behind by 1)" in reason


def test_s16_the_advisory_is_told() -> None:
    """A floor that is missed, and the bulletin that names it."""
    old = Tcb(bootloader=3, tee=0, snp=8, microcode=115)
    machine = SnpMachine.create(support.vendor(), AT, measurement=support.MEASUREMENT, tcb=old)
    found = replace(
        case(), machine=machine, report=machine.report(support.REPORT_DATA), endorsements=machine.with_chain()
    )
    reason = rejected(found, "minimum_tcb", f"{FLOOR}snp = 24")
    assert "reported TCB: snp is 8, needs 24 (behind by 16) (AMD-SB-3019); committed TCB" in reason
    assert reason.count("AMD-SB-3019") == 1


def test_s17_the_committed_tcb_may_have_to_be_the_current_one() -> None:
    """Only where it is asked for: firmware is updated before it is committed."""
    level = support.snp_tcb(support.machine())
    found = case().saying(current_tcb=replace(level, microcode=81).encode())
    assert found.judge().accepted
    assert "committed" in rejected(found, "committed_tcb", "require_committed_tcb = true")
    assert case().judge("require_committed_tcb = true").accepted


def test_products_are_denied() -> None:
    """By the product that the chain proves."""
    assert "found Milan" in rejected(case(), "products", "denied_products = ['Milan']")
    assert case().judge("denied_products = ['Genoa', 'Turin']").accepted


# -- the chip


def test_s28_chips_are_allowed_and_denied() -> None:
    """By the id that the certificate proves, in both widths."""
    assert case().judge(f"chip_allow = ['{CHIP}']").accepted
    rejected(case(), "chip", f"chip_allow = ['{'00' * 63}01']")
    rejected(case(), "chip", f"chip_deny = ['{CHIP}']")
    assert case().judge(f"chip_deny = ['{'00' * 63}01']").accepted
    turin = support.machine("Turin").chip_id
    longer = turin[:8] + b"\1" + bytes(55)
    rejected(case("Turin"), "chip", f"chip_allow = ['{longer.hex()}']")
    for text in (turin[:8].hex(), turin.hex()):
        assert case("Turin").judge(f"chip_allow = ['{text}']").accepted
        rejected(case("Turin"), "chip", f"chip_deny = ['{text}']")


@pytest.mark.parametrize("key", ["chip_allow", "chip_deny"])
def test_s28_a_masked_chip_passes_no_list(key: str) -> None:
    """Not that of the allowed, and not that of the denied either: it may be one of them."""
    masked = case(kind="VLEK").saying(chip_id=bytes(64))
    assert "found masked" in rejected(masked, "chip", f"{key} = ['{CHIP}']")
    beside = case().saying(chip_id=bytes(64))
    rejected(beside, "chip", f"{key} = ['{CHIP}']\nallow_masked_chip_id = true")


def test_s28_on_some_products_only_listed_chips_may_be() -> None:
    """Where a product's keys leaked, the chips that are known to stand in good hands."""
    other = "00" * 63 + "01"
    text = f"chip_allow = ['{other}']\nlisted_chips_only = ['Milan']"
    rejected(case(), "chip", text)
    assert case("Genoa").judge(text).accepted
    genoa = support.machine("Genoa").chip_id.hex()
    rejected(case("Genoa"), "chip", f"{text}\nchip_deny = ['{genoa}']")
    assert case().judge(f"chip_allow = ['{CHIP}']\nlisted_chips_only = ['Milan']").accepted


def test_s9_kinds_of_keys_can_be_narrowed() -> None:
    """Both are accepted unless one is left out."""
    assert case(kind="VLEK").judge("allowed_signing_keys = ['VLEK']").accepted
    assert "found VLEK" in rejected(case(kind="VLEK"), "signing_key", "allowed_signing_keys = ['VCEK']")


# -- the guest


def test_s23_the_vmpl_is_0_unless_others_are_listed() -> None:
    """A report by a less privileged layer is not the guest's."""
    for level in (1, 2, 3):
        rejected(case().saying(vmpl=level), "vmpl")
        assert case().saying(vmpl=level).judge(f"vmpl = [0, {level}]").accepted
    rejected(case(), "vmpl", "vmpl = [1]")


@pytest.mark.parametrize(("name", "size"), [("family_id", 16), ("image_id", 16), ("host_data", 32)])
def test_s25_family_image_and_host_data_are_zero_unless_listed(name: str, size: int) -> None:
    """What is listed is all that is accepted, zeros included only if they are in the list."""
    value = b"\x01" + bytes(size - 1)
    found = case().saying(**{name: value})
    rejected(found, name)
    assert found.judge(f"{name} = ['{value.hex()}']").accepted
    rejected(case(), name, f"{name} = ['{value.hex()}']")


def test_s25_without_a_policy_they_are_reported_as_not_compared() -> None:
    """As is the VMPL: there is nothing to compare with."""
    found = case().saying(vmpl=1, family_id=b"\1" * 16, image_id=b"\2" * 16, host_data=b"\3" * 32)
    appraisal = replace(found, believed=Policy()).judge()
    assert appraisal.accepted
    told = {check.name: check for check in appraisal.checks}
    for name in ("vmpl", "family_id", "image_id", "host_data"):
        check = told[f"policy.{name}"]
        assert check.outcome is Outcome.NOT_APPLICABLE
        assert "was not compared" in check.found


def test_without_a_policy_nothing_is_asked_that_needs_one() -> None:
    """Versions from 2 on, firmware that is not committed, any chip; but a VCEK's chip is told."""
    level = support.snp_tcb(support.machine())
    looking = Policy()
    assert replace(case(version=2), believed=looking).judge().accepted
    ahead = case().saying(current_tcb=replace(level, microcode=81).encode())
    assert replace(ahead, believed=looking).judge().accepted
    every = sum(POLICY_BITS.values()) & ~POLICY_BITS["DEBUG"] & ~POLICY_BITS["MIGRATE_MA"]
    for policy, platform, vector in ((1 << 17, 0, 0), (every | 1 << 17 | 0x0131, (1 << 64) - 1, (1 << 64) - 1)):
        found = case().saying(
            policy=policy, platform_info=platform, launch_mit_vector=vector, current_mit_vector=vector
        )
        assert replace(found, believed=looking).judge().reasons == ()
    masked = replace(case().saying(chip_id=bytes(64)), believed=looking)
    assert masked.refused() == ("rejected", "policy.masked_chip_id")


def test_s26_the_guests_security_version_has_a_floor() -> None:
    """GUEST_SVN, at least."""
    assert case().saying(guest_svn=7).judge("minimum_guest_svn = 7").accepted
    rejected(case().saying(guest_svn=6), "guest_svn", "minimum_guest_svn = 7")


@pytest.mark.parametrize("name", [name for name in POLICY_BITS if name not in {"DEBUG", "MIGRATE_MA"}])
def test_s20_bits_of_the_guests_policy_are_required_and_denied(name: str) -> None:
    """Each by AMD's name."""
    bit = POLICY_BITS[name]
    with_bit, without = case().saying(policy=1 << 17 | bit), case().saying(policy=1 << 17)
    assert with_bit.judge(f"policy_required = ['{name}']").accepted
    assert f"without {name}" in rejected(without, "policy_required", f"policy_required = ['{name}']")
    assert without.judge(f"policy_denied = ['{name}']").accepted
    assert f"with {name}" in rejected(with_bit, "policy_denied", f"policy_denied = ['{name}']")


@pytest.mark.parametrize("name", PLATFORM_BITS)
def test_s21_bits_of_the_platform_are_required_and_denied(name: str) -> None:
    """Each by AMD's name; that the check for aliased memory is complete (BadRAM) is one of them."""
    bit = PLATFORM_BITS[name]
    with_bit, without = case().saying(platform_info=bit), case().saying(platform_info=0)
    assert with_bit.judge(f"platform_required = ['{name}']").accepted
    assert f"without {name}" in rejected(without, "platform_required", f"platform_required = ['{name}']")
    assert without.judge(f"platform_denied = ['{name}']").accepted
    assert f"with {name}" in rejected(with_bit, "platform_denied", f"platform_denied = ['{name}']")


@pytest.mark.parametrize("which", ["launch", "current"])
def test_s22_mitigations_are_a_superset_of_what_is_required(which: str) -> None:
    """Every bit that is asked for; a report without vectors has none."""
    field, key = f"{which}_mit_vector", f"{which}_mitigations"
    assert case().saying(**{field: 0xB}).judge(f"{key} = 0x9").accepted
    assert "found 0xb" in rejected(case().saying(**{field: 0xB}), key, f"{key} = 0x4")
    for version in (3, 4):
        assert "no mitigation vectors" in rejected(case(version=version), key, f"{key} = 0x1")


def test_the_bits_are_where_the_specification_has_them() -> None:
    """By their numbers in POLICY and PLATFORM_INFO (AMD 56860)."""
    policy = {name: bit.bit_length() - 1 for name, bit in POLICY_BITS.items()}
    assert policy == {
        "SMT": 16,
        "MIGRATE_MA": 18,
        "DEBUG": 19,
        "SINGLE_SOCKET": 20,
        "CXL_ALLOW": 21,
        "MEM_AES_256_XTS": 22,
        "RAPL_DIS": 23,
        "CIPHERTEXT_HIDING_DRAM": 24,
        "PAGE_SWAP_DISABLE": 25,
    }
    platform = {name: bit.bit_length() - 1 for name, bit in PLATFORM_BITS.items()}
    assert platform == {
        "SMT_EN": 0,
        "TSME_EN": 1,
        "ECC_EN": 2,
        "RAPL_DIS": 3,
        "CIPHERTEXT_HIDING_DRAM_EN": 4,
        "ALIAS_CHECK_COMPLETE": 5,
        "TIO_EN": 7,
    }
    assert all(bit & (bit - 1) == 0 for bit in (*POLICY_BITS.values(), *PLATFORM_BITS.values()))
    assert {name: bit.bit_length() - 1 for name, bit in FLAGS.items()} == {"Debug": 19, "SingleSocket": 20, "SMT": 16}


def test_only_claims_that_were_verified_are_judged() -> None:
    """Claims of anybody else's making are our bug, and no verdict."""
    claims = case().judge().claims
    assert claims is not None
    plain = Claims(**{field.name: getattr(claims, field.name) for field in fields(Claims)})
    with pytest.raises(TypeError, match=r"made by enarx\.tee\.snp\.verify alone"):
        accept(plain, Policy(), Checks())


def test_all_failures_are_told_together() -> None:
    """In policy nothing stops at the first."""
    found = case().saying(vmpl=1, guest_svn=0, policy=0x30000 | POLICY_BITS["DEBUG"])
    refused = found.refused(f"hash = ['{ONE}']\nminimum_guest_svn = 1")
    assert refused == ("rejected", "policy.debug", "policy.hash", "policy.vmpl", "policy.guest_svn")


# -- the table


def test_the_originals_table_is_read() -> None:
    """Their own example, with its reference values; only the version of reports has to be said beside it."""
    text = f"""
signer = ["{ONE}"]
id_key_digest = ["{TWO}"]
hash = ["{MEASUREMENT}"]
abi = ">=1.51"
policy_flags = ["SMT"]
platform_info_flags = "SME"
"""
    guest = case(version=2).saying(
        policy=0x30133,
        platform_info=1,
        author_key_en=True,
        author_key_digest=bytes.fromhex(ONE),
        id_key_digest=bytes.fromhex(TWO),
    )
    assert guest.judge(f"{text}minimum_report_version = 2").accepted
    assert guest.refused(text) == ("rejected", "policy.report_version")


def test_the_documentation_names_every_key_and_every_check() -> None:
    """docs/snp.md and the code are of one mind."""
    from enarx.tee import snp

    text = (Path(__file__).parents[4] / "docs" / "snp.md").read_text()
    table = toml.parse("[snp]\nhash = []", source="steward.toml").table("snp")
    snp.TECHNOLOGY.read_policy(table)
    assert [key for key in table._asked if f"`{key}" not in text] == []
    always = [name for gate, name in snp.TECHNOLOGY.check_names if gate == "untrusted"]
    assert [name for name in always if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hashes = []", "steward.toml:2: snp.hashes: unknown key; did you mean 'hash'"),
        ("host_dat = []", "snp.host_dat: unknown key; did you mean 'host_data'"),
        ("features = ['Debug']", "snp.features: unknown key"),
        ("hash = ['1234']", r"snp.hash\[0\]: expected 48 bytes of hex, found 2"),
        (f"hash = ['{ONE}']\nhash_blacklist = ['{ONE}']", "steward.toml:3: snp.hash_blacklist: .* stands in hash too"),
        (f"id_key_digest = ['{ONE}']\nid_key_digest_blacklist = ['{ONE}']", "stands in id_key_digest too"),
        (f"chip_allow = ['{CHIP}']\nchip_deny = ['{CHIP}']", "snp.chip_deny: .* stands in chip_allow too"),
        ("chip_allow = ['12']", r"snp.chip_allow\[0\]: expected 64 or 8 bytes of hex, found 1"),
        ("chip_deny = ['zz']", r"snp.chip_deny\[0\]: expected 64 or 8 bytes of hex, found 'zz'"),
        ("abi = 'newest'", "snp.abi: expected a requirement"),
        ("policy_flags = ['SME']", r"snp.policy_flags\[0\]: expected one of Debug, SingleSocket, SMT"),
        ("platform_info_flags = 'SMT'", "snp.platform_info_flags: expected SME or TSME"),
        ("minimum_report_version = 6", "expected an integer from 2 to 5"),
        ("minimum_report_versions.Rome = 3", "snp.minimum_report_versions.Rome: expected one of Milan"),
        ("minimum_report_versions.Milan = 1", "expected an integer from 2 to 5, found 1"),
        ("[snp.minimum_tcb.Naples]\nsnp = 1", "snp.minimum_tcb.Naples: expected one of Milan"),
        ("[snp.minimum_tcb.Milan]\nucode = 1", "snp.minimum_tcb.Milan.ucode: unknown key"),
        ("[snp.minimum_tcb.Milan]\nfmc = 1", "Milan has no FMC"),
        ("[snp.minimum_tcb.Milan]\nsnp = 256", "expected an integer from 0 to 255"),
        ("[snp.minimum_tcb.Milan]", "snp.minimum_tcb.Milan: an empty table"),
        ("denied_products = ['Rome']", r"snp.denied_products\[0\]: expected one of"),
        ("denied_advisories = ['AMD-SB-1']", r"snp.denied_advisories\[0\]: expected one of"),
        ("listed_chips_only = ['Milan']", "snp.listed_chips_only: expected products, and chip_allow"),
        (f"chip_allow = ['{CHIP}']\nlisted_chips_only = []", "snp.listed_chips_only: expected products"),
        ("allowed_signing_keys = []", "an empty list would accept nothing"),
        ("vmpl = []", "snp.vmpl: expected levels from 0 to 3"),
        ("vmpl = [4]", "snp.vmpl: expected levels from 0 to 3"),
        ("host_data = []", "snp.host_data: an empty list would accept nothing"),
        ("family_id = ['00']", r"snp.family_id\[0\]: expected 16 bytes of hex"),
        ("policy_required = ['SMT']\npolicy_denied = ['SMT']", "SMT stands in policy_required too"),
        ("platform_required = ['ECC_EN']\nplatform_denied = ['ECC_EN']", "ECC_EN stands in platform_required too"),
        ("platform_denied = ['SME']", "expected one of SMT_EN"),
        ("minimum_guest_svn = 4294967296", "expected an integer from 0 to 4294967295"),
        ("launch_mitigations = -1", "expected an integer from 0"),
        ("allow_masked_chip_id = 1", "expected true or false"),
    ],
)
def test_a_table_that_says_something_else_is_an_error(text: str, message: str) -> None:
    """Unknown keys, wrong lengths, contradictions and empty tables, with line and dotted path."""
    with pytest.raises(ConfigError, match=message):
        support.policy(text)
