"""Which SNP guests are acceptable: the table `[snp]`. The originals' keys keep their meaning, and are all enforced.

    signer                           AUTHOR_KEY_DIGEST, 48 bytes, and that there is an author key
    id_key_digest, id_key_digest_blacklist, hash, hash_blacklist      ID_KEY_DIGEST and MEASUREMENT, 48 bytes
    abi                              a requirement in semver's writing on the ABI that the guest's policy asks for
    policy_flags                     of Debug, SingleSocket and SMT, those that the guest's policy may have
    platform_info_flags              SME or TSME: PLATFORM_INFO's first byte is exactly 1 or 2; AMD calls bit 0 SMT_EN
Ours:
    minimum_report_version           3 unless said otherwise
    minimum_report_versions.PRODUCT  the same for one product
    minimum_tcb.PRODUCT              bootloader, tee, snp, microcode, fmc: floors of reported, committed and launch TCB
    require_committed_tcb            the committed TCB is the current one: the firmware can't be rolled back
    denied_products                  Milan, Genoa, Turin, Venice
    denied_advisories                none of these may apply to the reported TCB
    allowed_signing_keys             VCEK, VLEK; both unless said otherwise
    chip_allow, chip_deny            chip ids of 64 bytes, or 8 from Turin on; a masked id is in no list
    listed_chips_only                products to which chip_allow applies; all unless said otherwise
    allow_masked_chip_id             also for a VCEK, where it is refused unless this is true
    vmpl                             allowed levels; only 0 unless said otherwise
    family_id, image_id, host_data   allowed values of 16, 16 and 32 bytes; only zeros unless said otherwise
    minimum_guest_svn                GUEST_SVN, at least
    policy_required, policy_denied   bits of the guest's policy by AMD's names
    platform_required, platform_denied      bits of PLATFORM_INFO by AMD's names
    launch_mitigations, current_mitigations     bits that the mitigation vectors of version 5 must have
Whatever is configured: DEBUG, migration and a report that the host asked for are refused. All failures are told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from enarx.tee.model import Checks, Claims, Gate
from enarx.tee.snp.abi import Requirement
from enarx.tee.snp.report import HOST, VERSIONS, Report
from enarx.tee.snp.tcb import ADVISORIES, COMPONENTS, LAYOUTS, PRODUCTS, Tcb
from enarx.tee.snp.verify import SnpClaims
from enarx.toml import Table

POLICY_BITS: Final[Mapping[str, int]] = {
    "SMT": 1 << 16,
    "MIGRATE_MA": 1 << 18,
    "DEBUG": 1 << 19,
    "SINGLE_SOCKET": 1 << 20,
    "CXL_ALLOW": 1 << 21,
    "MEM_AES_256_XTS": 1 << 22,
    "RAPL_DIS": 1 << 23,
    "CIPHERTEXT_HIDING_DRAM": 1 << 24,
    "PAGE_SWAP_DISABLE": 1 << 25,
}
PLATFORM_BITS: Final[Mapping[str, int]] = {
    "SMT_EN": 1 << 0,
    "TSME_EN": 1 << 1,
    "ECC_EN": 1 << 2,
    "RAPL_DIS": 1 << 3,
    "CIPHERTEXT_HIDING_DRAM_EN": 1 << 4,
    "ALIAS_CHECK_COMPLETE": 1 << 5,
    "TIO_EN": 1 << 7,
}
FLAGS: Final[Mapping[str, int]] = {
    "Debug": POLICY_BITS["DEBUG"],
    "SingleSocket": POLICY_BITS["SINGLE_SOCKET"],
    "SMT": POLICY_BITS["SMT"],
}
PLATFORM_FLAGS: Final[Mapping[str, int]] = {"SME": 1, "TSME": 2}
SIGNING_KEYS: Final = ("VCEK", "VLEK")
CHIP_SIZES: Final = (64, 8)
MINIMUM_VERSION: Final = 3  # what firmware of today gives; older reports do not say which product they are of

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = tuple(
    ("rejected", f"policy.{name}")
    for name in (
        "debug",
        "migration",
        "requester",
        "report_version",
        "signer",
        "id_key_digest",
        "id_key_digest_blacklist",
        "hash",
        "hash_blacklist",
        "abi",
        "policy_flags",
        "platform_info_flags",
        "minimum_tcb",
        "committed_tcb",
        "products",
        "advisories",
        "signing_key",
        "masked_chip_id",
        "chip",
        "vmpl",
        "family_id",
        "image_id",
        "host_data",
        "guest_svn",
        "policy_required",
        "policy_denied",
        "platform_required",
        "platform_denied",
        "launch_mitigations",
        "current_mitigations",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. None and empty sets ask nothing; the default is what `steward verify` asks by itself."""

    minimum_version: int = min(VERSIONS)
    minimum_versions: Mapping[str, int] = field(default_factory=dict)
    signer: frozenset[bytes] = frozenset()
    id_key_digest: frozenset[bytes] = frozenset()
    id_key_digest_deny: frozenset[bytes] = frozenset()
    hash: frozenset[bytes] = frozenset()
    hash_deny: frozenset[bytes] = frozenset()
    abi: Requirement | None = None
    policy_flags: int | None = None
    platform_info_flags: int | None = None
    minimum_tcb: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    require_committed_tcb: bool = False
    denied_products: frozenset[str] = frozenset()
    denied_advisories: frozenset[str] = frozenset()
    signing_keys: frozenset[str] = frozenset(SIGNING_KEYS)
    chip_allow: frozenset[bytes] = frozenset()
    chip_deny: frozenset[bytes] = frozenset()
    listed_chips_only: frozenset[str] = frozenset(PRODUCTS)
    allow_masked_chip_id: bool = False
    vmpl: frozenset[int] | None = None
    family_id: frozenset[bytes] | None = None
    image_id: frozenset[bytes] | None = None
    host_data: frozenset[bytes] | None = None
    minimum_guest_svn: int | None = None
    policy_required: int = 0
    policy_denied: int = 0
    platform_required: int = 0
    platform_denied: int = 0
    launch_mitigations: int = 0
    current_mitigations: int = 0

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read the table. What it leaves out has a Steward's defaults. Raises ConfigError."""
        policy_required = _bits(table, "policy_required", POLICY_BITS)
        platform_required = _bits(table, "platform_required", PLATFORM_BITS)
        return cls(
            minimum_version=_version(table, "minimum_report_version", MINIMUM_VERSION),
            minimum_versions=_versions(table.table("minimum_report_versions")),
            signer=table.hex_list("signer", length=48),
            id_key_digest=table.hex_list("id_key_digest", length=48),
            id_key_digest_deny=_denied(table, "id_key_digest", "id_key_digest_blacklist"),
            hash=table.hex_list("hash", length=48),
            hash_deny=_denied(table, "hash", "hash_blacklist"),
            abi=_abi(table),
            policy_flags=_bits(table, "policy_flags", FLAGS) if "policy_flags" in table else None,
            platform_info_flags=_platform_flags(table),
            minimum_tcb=_floors(table.table("minimum_tcb")),
            require_committed_tcb=table.boolean("require_committed_tcb", default=False),
            denied_products=frozenset(table.choices("denied_products", PRODUCTS)),
            denied_advisories=frozenset(table.choices("denied_advisories", ADVISORIES)),
            signing_keys=_signing_keys(table),
            chip_allow=_chips(table, "chip_allow"),
            chip_deny=_chips(table, "chip_deny", "chip_allow"),
            listed_chips_only=_listed_chips_only(table),
            allow_masked_chip_id=table.boolean("allow_masked_chip_id", default=False),
            vmpl=_levels(table),
            family_id=_values(table, "family_id", 16),
            image_id=_values(table, "image_id", 16),
            host_data=_values(table, "host_data", 32),
            minimum_guest_svn=table.integer("minimum_guest_svn", None, maximum=0xFFFFFFFF),
            policy_required=policy_required,
            policy_denied=_bits(table, "policy_denied", POLICY_BITS, unlike=("policy_required", policy_required)),
            platform_required=platform_required,
            platform_denied=_bits(
                table, "platform_denied", PLATFORM_BITS, unlike=("platform_required", platform_required)
            ),
            launch_mitigations=table.integer("launch_mitigations", 0),
            current_mitigations=table.integer("current_mitigations", 0),
        )


def read_policy(table: Table) -> Policy:
    """The table `[snp]` as a policy. Raises ConfigError."""
    return Policy.read(table)


def accept(claims: Claims[Report], policy: Policy, checks: Checks) -> None:
    """Record every rule of the policy. Raises nothing by itself: the gate collects the failures."""
    if not isinstance(claims, SnpClaims):
        raise TypeError("snp claims are made by enarx.tee.snp.verify alone")
    _accept_always(claims.report, checks)
    _accept_version(claims, policy, checks)
    _accept_originals(claims.report, policy, checks)
    _accept_tcb(claims, policy, checks)
    _accept_chip(claims, policy, checks)
    _accept_guest(claims.report, policy, checks)


def _accept_always(report: Report, checks: Checks) -> None:
    """What no configuration allows."""
    # S18
    debug = bool(report.policy & POLICY_BITS["DEBUG"])
    checks.check(
        "policy.debug",
        not debug,
        found=f"the guest's policy {'allows' if debug else 'forbids'} debugging (DEBUG is {int(debug)})",
        expected="DEBUG is 0",
    )

    # S19
    migrates = bool(report.policy & POLICY_BITS["MIGRATE_MA"])
    agent = report.report_id_ma != b"\xff" * 32
    checks.check(
        "policy.migration",
        not migrates and not agent,
        found=f"MIGRATE_MA is {int(migrates)}, REPORT_ID_MA is {report.report_id_ma.hex()}",
        expected="MIGRATE_MA is 0 and REPORT_ID_MA all ones: no migration agent",
    )

    # S23: what the host asks for says nothing about a key in the guest
    checks.check(
        "policy.requester",
        report.vmpl != HOST,
        found="the host" if report.vmpl == HOST else f"the guest at VMPL {report.vmpl}",
        expected="the guest asked for the report",
    )


def _accept_version(claims: SnpClaims, policy: Policy, checks: Checks) -> None:
    # S5
    floor = policy.minimum_versions.get(claims.product, policy.minimum_version)
    version = claims.report.version
    checks.check("policy.report_version", version >= floor, found=str(version), expected=f"{floor} or higher")


def _accept_originals(report: Report, policy: Policy, checks: Checks) -> None:
    # S26
    author = report.author_key_digest if report.author_key_en else None
    _member("policy.signer", author, policy.signer, checks)
    _member("policy.id_key_digest", report.id_key_digest, policy.id_key_digest, checks)
    _not_member("policy.id_key_digest_blacklist", report.id_key_digest, policy.id_key_digest_deny, checks)

    # S24
    _member("policy.hash", report.measurement, policy.hash, checks)
    _not_member("policy.hash_blacklist", report.measurement, policy.hash_deny, checks)

    if policy.abi is None:
        checks.not_applicable("policy.abi", "not configured: nothing was compared")
    else:
        wanted = (report.policy >> 8 & 0xFF, report.policy & 0xFF)
        checks.check(
            "policy.abi",
            policy.abi.matches((*wanted, 0)),
            found=f"{wanted[0]}.{wanted[1]}",
            expected=policy.abi.text,
        )

    # S20
    if policy.policy_flags is None:
        checks.not_applicable("policy.policy_flags", "not configured: nothing was compared")
    else:
        has = report.policy & sum(FLAGS.values())
        checks.check(
            "policy.policy_flags",
            not has & ~policy.policy_flags,
            found=_names(has, FLAGS),
            expected=f"nothing but {_names(policy.policy_flags, FLAGS)}",
        )

    # S21
    if policy.platform_info_flags is None:
        checks.not_applicable("policy.platform_info_flags", "not configured: nothing was compared")
    else:
        checks.check(
            "policy.platform_info_flags",
            report.platform_info & 0xFF == policy.platform_info_flags,
            found=f"0x{report.platform_info & 0xFF:02x}",
            expected=f"exactly 0x{policy.platform_info_flags:02x}",
        )


def _accept_tcb(claims: SnpClaims, policy: Policy, checks: Checks) -> None:
    standing = claims.standing

    # S16, S17
    floor = policy.minimum_tcb.get(claims.product, {})
    if not floor:
        known = f"; {', '.join(claims.advisories)} not mended by it" if claims.advisories else ""
        checks.not_applicable(
            "policy.minimum_tcb", f"no floor for {claims.product} is configured; reported {standing.reported}{known}"
        )
    else:
        lag = [
            f"{name} TCB: {', '.join(tcb.behind(floor))}{_advice(claims, name)}"
            for name, tcb in _floored(claims)
            if tcb.behind(floor)
        ]
        checks.check(
            "policy.minimum_tcb",
            not lag,
            found="; ".join(lag) or f"reported {standing.reported}",
            expected=", ".join(f"{name} {value}" for name, value in floor.items()) + " or higher",
        )
    if policy.require_committed_tcb:
        checks.check(
            "policy.committed_tcb",
            standing.committed == standing.current,
            found=f"committed {standing.committed}",
            expected=f"the current one, {standing.current}",
        )
    else:
        checks.not_applicable("policy.committed_tcb", "require_committed_tcb is not configured")
    _not_listed("policy.products", {claims.product}, policy.denied_products, "denied_products", checks)
    applying = set(claims.advisories)
    _not_listed("policy.advisories", applying, policy.denied_advisories, "denied_advisories", checks)


def _accept_chip(claims: SnpClaims, policy: Policy, checks: Checks) -> None:
    # S9
    checks.check(
        "policy.signing_key",
        claims.vek.kind in policy.signing_keys,
        found=claims.vek.kind,
        expected=" or ".join(sorted(policy.signing_keys)),
    )

    # S13
    masked = claims.report.masked
    legal = claims.vek.kind == "VLEK" or policy.allow_masked_chip_id
    checks.check(
        "policy.masked_chip_id",
        not masked or legal,
        found="masked" if masked else "not masked",
        expected="not masked, or a VLEK, or allow_masked_chip_id = true",
    )

    # S28
    allow = policy.chip_allow if claims.product in policy.listed_chips_only else frozenset()
    if not allow and not policy.chip_deny:
        checks.not_applicable("policy.chip", "no list of chips is configured")
        return
    chip = claims.chip
    if chip is None:
        # a masked chip is in no list; where only some are denied, it may be one of them
        checks.check("policy.chip", ok=False, found="masked", expected="a chip id to look up")
        return
    ok = chip not in policy.chip_deny and (not allow or chip in allow)
    wanted = f"one of the {len(allow)} allowed" if allow else "not one that is denied"
    checks.check("policy.chip", ok, found=chip.hex(), expected=wanted)


def _accept_guest(report: Report, policy: Policy, checks: Checks) -> None:
    # S23
    if policy.vmpl is None:
        checks.not_applicable("policy.vmpl", f"VMPL {report.vmpl} was not compared")
    else:
        expected = " or ".join(map(str, sorted(policy.vmpl)))
        checks.check("policy.vmpl", report.vmpl in policy.vmpl, found=str(report.vmpl), expected=expected)

    # S25
    for name, value, allowed in (
        ("family_id", report.family_id, policy.family_id),
        ("image_id", report.image_id, policy.image_id),
        ("host_data", report.host_data, policy.host_data),
    ):
        if allowed is None:
            checks.not_applicable(f"policy.{name}", f"{value.hex()} was not compared")
        else:
            _member(f"policy.{name}", value, allowed, checks)

    # S26
    if policy.minimum_guest_svn is None:
        checks.not_applicable("policy.guest_svn", "not configured: nothing was compared")
    else:
        checks.check(
            "policy.guest_svn",
            report.guest_svn >= policy.minimum_guest_svn,
            found=str(report.guest_svn),
            expected=f"{policy.minimum_guest_svn} or higher",
        )

    # S20, S21
    for name, bits, names, required, denied in (
        ("policy", report.policy, POLICY_BITS, policy.policy_required, policy.policy_denied),
        ("platform", report.platform_info, PLATFORM_BITS, policy.platform_required, policy.platform_denied),
    ):
        _mask(f"policy.{name}_required", bits, required, lambda has, want: want & ~has, names, checks)
        _mask(f"policy.{name}_denied", bits, denied, lambda has, want: want & has, names, checks)

    # S22
    for name, vector, wanted in (
        ("launch_mitigations", report.launch_mit_vector, policy.launch_mitigations),
        ("current_mitigations", report.current_mit_vector, policy.current_mitigations),
    ):
        if not wanted:
            checks.not_applicable(f"policy.{name}", "not configured: nothing was compared")
            continue
        found = "none: the report has no mitigation vectors" if vector is None else f"0x{vector:x}"
        checks.check(
            f"policy.{name}",
            vector is not None and not wanted & ~vector,
            found=found,
            expected=f"every bit of 0x{wanted:x}",
        )


# -- rules


def _member(name: str, value: bytes | None, allowed: frozenset[bytes], checks: Checks) -> None:
    if not allowed:
        checks.not_applicable(name, "not configured: nothing was compared")
        return
    expected = " or ".join(sorted(each.hex() for each in allowed))
    checks.check(name, value in allowed, found="none" if value is None else value.hex(), expected=expected)


def _not_member(name: str, value: bytes, denied: frozenset[bytes], checks: Checks) -> None:
    if not denied:
        checks.not_applicable(name, "not configured")
        return
    checks.check(name, value not in denied, found=value.hex(), expected="not one that is denied")


def _not_listed(name: str, have: set[str], denied: frozenset[str], key: str, checks: Checks) -> None:
    if not denied:
        checks.not_applicable(name, f"{key} is not configured")
        return
    found = ", ".join(sorted(have)) or "none"
    checks.check(name, not have & denied, found=found, expected=f"not {', '.join(sorted(denied))}")


def _mask(
    name: str,
    value: int,
    wanted: int,
    wrong: Callable[[int, int], int],
    names: Mapping[str, int],
    checks: Checks,
) -> None:
    if not wanted:
        checks.not_applicable(name, "not configured: nothing was compared")
        return
    bad = wrong(value, wanted)
    word = "without" if name.endswith("required") else "with"
    found = f"0x{value:x}" + (f", {word} {_names(bad, names)}" if bad else "")
    checks.check(
        name, not bad, found=found, expected=f"{'' if word == 'without' else 'none of '}{_names(wanted, names)}"
    )


def _names(value: int, names: Mapping[str, int]) -> str:
    return ", ".join(name for name, bit in names.items() if value & bit) or "none"


def _floored(claims: SnpClaims) -> Sequence[tuple[str, Tcb]]:
    standing = claims.standing
    return (("reported", standing.reported), ("committed", standing.committed), ("launch", standing.launch))


def _advice(claims: SnpClaims, name: str) -> str:
    return f" ({', '.join(claims.advisories)})" if name == "reported" and claims.advisories else ""


# -- reading


def _denied(table: Table, allow: str, deny: str) -> frozenset[bytes]:
    allowed, denied = table.hex_list(allow, length=48), table.hex_list(deny, length=48)
    if allowed & denied:
        raise table.error(deny, f"{min(allowed & denied).hex()} stands in {allow} too")
    return denied


def _abi(table: Table) -> Requirement | None:
    text = table.string("abi", None)
    if text is None:
        return None
    try:
        return Requirement.parse(text)
    except ValueError as error:
        raise table.error("abi", str(error)) from error


def _bits(table: Table, key: str, names: Mapping[str, int], *, unlike: tuple[str, int] = ("", 0)) -> int:
    chosen: Iterable[str] = table.choices(key, names)
    value = sum(names[name] for name in set(chosen))
    if value & unlike[1]:
        raise table.error(key, f"{_names(value & unlike[1], names)} stands in {unlike[0]} too")
    return value


def _platform_flags(table: Table) -> int | None:
    text = table.string("platform_info_flags", None)
    if text is None:
        return None
    if text not in PLATFORM_FLAGS:
        raise table.error("platform_info_flags", f"expected SME or TSME, found {text!r}")
    return PLATFORM_FLAGS[text]


def _version(table: Table, key: str, default: int) -> int:
    return table.integer(key, default, minimum=min(VERSIONS), maximum=max(VERSIONS))


def _versions(table: Table) -> dict[str, int]:
    return {_product(table, product): _version(table, product, MINIMUM_VERSION) for product in table.keys()}  # noqa: SIM118 - Table is no mapping


def _product(table: Table, name: str) -> str:
    if name not in PRODUCTS:
        raise table.error(name, f"expected one of {', '.join(PRODUCTS)}")
    return name


def _floors(table: Table) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for product in table.keys():  # noqa: SIM118 - Table is no mapping
        entry = table.table(_product(table, product))
        if "fmc" in entry and LAYOUTS[product] == 0:
            raise entry.error("fmc", f"{product} has no FMC")
        floor = {name: entry.integer(name, None, maximum=0xFF) for name in COMPONENTS}
        found[product] = {name: value for name, value in floor.items() if value is not None}
        if not found[product] and not entry.keys():
            raise table.error(product, f"an empty table; expected some of {', '.join(COMPONENTS)}")
    return found


def _signing_keys(table: Table) -> frozenset[str]:
    found = frozenset(table.choices("allowed_signing_keys", SIGNING_KEYS, SIGNING_KEYS))
    if not found:
        raise table.error("allowed_signing_keys", "an empty list would accept nothing")
    return found


def _chips(table: Table, key: str, unlike: str | None = None) -> frozenset[bytes]:
    # a Turin's id as it stands in a report
    found = {chip if any(chip[8:]) else chip[:8] for chip in table.hex_list(key, length=CHIP_SIZES)}
    both = found & _chips(table, unlike) if unlike else set()
    if both:
        raise table.error(key, f"{min(both).hex()} stands in {unlike} too")
    return frozenset(found)


def _listed_chips_only(table: Table) -> frozenset[str]:
    if "listed_chips_only" not in table:
        return frozenset(table.choices("listed_chips_only", PRODUCTS, PRODUCTS))
    found = frozenset(table.choices("listed_chips_only", PRODUCTS))
    if not found or not table.strings("chip_allow"):
        raise table.error(
            "listed_chips_only", "expected products, and chip_allow with the chips that are allowed on them"
        )
    return found


def _levels(table: Table) -> frozenset[int]:
    levels = table.integers("vmpl", (0,))
    wrong = [level for level in levels if not 0 <= level <= 3]
    if wrong or not levels:
        raise table.error("vmpl", f"expected levels from 0 to 3, found {wrong or 'none'}")
    return frozenset(levels)


def _values(table: Table, key: str, length: int) -> frozenset[bytes]:
    """Allowed values; only zeros where the key is absent. An empty list would accept nothing."""
    if key not in table:
        table.hex_list(key, length=length)  # so that it counts as known
        return frozenset({bytes(length)})
    found = table.hex_list(key, length=length)
    if not found:
        raise table.error(key, "an empty list would accept nothing")
    return found
