"""Which trust domains are acceptable: the table `[tdx]`.

    hash, hash_blacklist             MRTD, 48 bytes each, allowed and denied: the reference value that has to be listed
    rtmr0, rtmr1, rtmr2, rtmr3       allowed values, 48 bytes each: what the firmware measured of what it started
    mr_config_id, mr_owner, mr_owner_config     allowed values, 48 bytes: what the host declared at launch
    mr_seam                          allowed TDX modules, 48 bytes
    mr_service_td                    allowed service TDs, 48 bytes; without the key there must be none
    td_attributes                    a ceiling: PERFMON, KL, PKS, SEPT_VE_DISABLE, MIGRATABLE; without the key all five
    allow_sept_ve                    accept a TD that the host can surprise with #VE (SEPT_VE_DISABLE is 0)
    xfam                             a ceiling, 8 bytes as they stand; without the key what TDX 1.5 can virtualise
    allow_older_launch               accept a TD that was moved here from a platform whose TCB is not acceptable
and the keys of `dcap.policy` for the platform. No key allows DEBUG or any other bit of TUD: the host of such a TD
reads its memory. Reserved attributes are outside every ceiling. Any other key that is absent asks nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from msgspec import Struct

from enarx.errors import UntrustedError
from enarx.tee.dcap import policy as dcap
from enarx.tee.dcap import tcb
from enarx.tee.dcap.rules import Question, Rules, member, not_denied, unasked, within
from enarx.tee.dcap.verify import DcapClaims
from enarx.tee.model import Checks, Claims, Gate
from enarx.tee.tdx import report as bits
from enarx.tee.tdx.report import RTMRS, Lineage, Report, TdReport
from enarx.toml import Table

ATTRIBUTES: Final[Mapping[str, int]] = {
    "PERFMON": bits.PERFMON,
    "KL": bits.KEY_LOCKER,
    "PKS": bits.PKS,
    "SEPT_VE_DISABLE": bits.SEPT_VE_DISABLE,
    "MIGRATABLE": bits.MIGRATABLE,
}
XFAM_ALWAYS: Final = 0x3  # x87 and SSE, which no TD can be without
XFAM_KNOWN: Final = 0x6DBE7  # and AVX, AVX-512, PT, PKU, CET, UINTR, LBR, AMX: TDX Module ABI, table "XFAM"

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    *(
        ("rejected", f"policy.{name}")
        for name in (
            "debug",
            "td_attributes",
            "sept_ve_disable",
            "xfam",
            "hash",
            "hash_blacklist",
            "rtmr0",
            "rtmr1",
            "rtmr2",
            "rtmr3",
            "mr_config_id",
            "mr_owner",
            "mr_owner_config",
            "mr_seam",
            "mr_service_td",
            "launch_tcb",
        )
    ),
    *dcap.CHECK_NAMES,
)


class Policy(Struct, frozen=True, kw_only=True):
    """The table, checked. Empty sets ask nothing, except `mr_service_td`, where they allow none."""

    platform: dcap.PlatformPolicy = dcap.PlatformPolicy()
    hash: dcap.Listing = dcap.Listing()
    rtmrs: tuple[frozenset[bytes], ...] = (frozenset(),) * RTMRS
    mr_config_id: frozenset[bytes] = frozenset()
    mr_owner: frozenset[bytes] = frozenset()
    mr_owner_config: frozenset[bytes] = frozenset()
    mr_seam: frozenset[bytes] = frozenset()
    mr_service_td: frozenset[bytes] = frozenset()
    attributes: int = sum(ATTRIBUTES.values())
    allow_sept_ve: bool = False
    xfam: int = XFAM_KNOWN
    allow_older_launch: bool = False


def read_policy(table: Table) -> Policy:
    """Read `[tdx]`. Raises ConfigError; unknown keys are the document's to refuse."""
    attributes = table.choices("td_attributes", ATTRIBUTES, tuple(ATTRIBUTES))
    xfam = int.from_bytes(table.hex("xfam", length=8), "little") if "xfam" in table else XFAM_KNOWN
    if xfam & XFAM_ALWAYS != XFAM_ALWAYS:
        raise table.error("xfam", "expected the bits of x87 and SSE among those allowed: no TD is without them")
    return Policy(
        platform=dcap.PlatformPolicy.read(table),
        hash=dcap.Listing.read(table, "hash", "hash_blacklist", 48),
        rtmrs=tuple(table.hex_list(f"rtmr{index}", length=48) for index in range(RTMRS)),
        mr_config_id=table.hex_list("mr_config_id", length=48),
        mr_owner=table.hex_list("mr_owner", length=48),
        mr_owner_config=table.hex_list("mr_owner_config", length=48),
        mr_seam=table.hex_list("mr_seam", length=48),
        mr_service_td=table.hex_list("mr_service_td", length=48),
        attributes=sum(ATTRIBUTES[name] for name in set(attributes)),
        allow_sept_ve=table.boolean("allow_sept_ve", default=False),
        xfam=xfam,
        allow_older_launch=table.boolean("allow_older_launch", default=False),
    )


def accept(claims: Claims[Report], policy: Policy, checks: Checks) -> None:
    """Record every rule of the policy. Raises nothing by itself: the gate collects the failures."""
    if not isinstance(claims, DcapClaims):
        raise TypeError("tdx claims are made by enarx.tee.tdx.verify alone")
    td = claims.report.td

    # T6
    debug = td.attributes & bits.UNDER_DEBUG
    checks.check("policy.debug", not debug, found=f"DEBUG is {int(td.debug)}, TUD 0x{debug:02x}", expected="TUD 0x00")

    # T6, T7, T8, T9
    _rules(policy).ask(td, checks)
    _accept_launch(claims, policy, checks)

    # T2 to T5, X14, X16, X17, X24
    policy.platform.accept(claims, checks)


@lru_cache(maxsize=16)
def _rules(policy: Policy) -> Rules[TdReport]:
    return Rules(
        # T6
        within("policy.td_attributes", lambda td: td.attributes & ~bits.UNDER_DEBUG, policy.attributes, ATTRIBUTES),
        unasked("policy.sept_ve_disable", "allowed") if policy.allow_sept_ve else _ask_sept_ve,
        # T7
        _xfam(policy.xfam),
        # T8
        member("policy.hash", lambda td: td.mr_td, policy.hash.allow),
        not_denied("policy.hash_blacklist", lambda td: td.mr_td, policy.hash.deny),
        member("policy.rtmr0", lambda td: td.rtmrs[0], policy.rtmrs[0]),
        member("policy.rtmr1", lambda td: td.rtmrs[1], policy.rtmrs[1]),
        member("policy.rtmr2", lambda td: td.rtmrs[2], policy.rtmrs[2]),
        member("policy.rtmr3", lambda td: td.rtmrs[3], policy.rtmrs[3]),
        member("policy.mr_config_id", lambda td: td.mr_config_id, policy.mr_config_id),
        member("policy.mr_owner", lambda td: td.mr_owner, policy.mr_owner),
        member("policy.mr_owner_config", lambda td: td.mr_owner_config, policy.mr_owner_config),
        member("policy.mr_seam", lambda td: td.mr_seam, policy.mr_seam),
        # T9
        _service_tds(policy.mr_service_td),
    )


def _ask_sept_ve(td: TdReport, checks: Checks) -> None:
    has = bool(td.attributes & bits.SEPT_VE_DISABLE)
    found = f"SEPT_VE_DISABLE is {int(has)}"
    checks.check("policy.sept_ve_disable", has, found=found, expected="SEPT_VE_DISABLE is 1")


def _service_tds(allowed: frozenset[bytes]) -> Question[TdReport]:
    """A service TD can move the TD elsewhere, so it has to be one that is known, now and at the beginning."""
    expected = " or ".join(["none", *sorted(value.hex() for value in allowed)])

    def ask(td: TdReport, checks: Checks) -> None:
        bound = {"MRSERVICETD": td.mr_service_td}
        if td.lineage is not None:
            bound["INIT_SERVTD_HASH"] = td.lineage.initial_service_td
            bound["CUR_SERVTD_HASH"] = td.lineage.current_service_td
        present = {name: value for name, value in bound.items() if value is not None and any(value)}
        unknown = [f"{name} {value.hex()}" for name, value in present.items() if value not in allowed]
        found = ", ".join(unknown) or ("known service TDs" if present else "none")
        checks.check("policy.mr_service_td", not unknown, found=found, expected=expected)

    return ask


def _xfam(allowed: int) -> Question[TdReport]:
    expected = f"0x{XFAM_ALWAYS:x} and nothing outside 0x{allowed:x}"

    def ask(td: TdReport, checks: Checks) -> None:
        missing, extra = XFAM_ALWAYS & ~td.xfam, td.xfam & ~allowed
        found = f"0x{td.xfam:x}, of which 0x{extra:x} not allowed and 0x{missing:x} missing"
        checks.check("policy.xfam", not missing and not extra, found=found, expected=expected)

    return ask


def _accept_launch(claims: DcapClaims[Report], policy: Policy, checks: Checks) -> None:
    """A TD that began on another platform brings what that platform may have seen, so that one's TCB counts too."""
    lineage = claims.report.td.lineage
    if lineage is None or not any((*lineage.initial_tee_tcb_svn, *lineage.initial_cpu_svn, *lineage.initial_fmspc)):
        checks.not_applicable("policy.launch_tcb", "the report tells of no other launch")
        return
    if policy.allow_older_launch:
        checks.not_applicable("policy.launch_tcb", "allowed")
        return
    try:
        found = _launch_status(claims, lineage)
    except UntrustedError as error:
        checks.check("policy.launch_tcb", ok=False, found=str(error), expected="a TCB that Intel lists")
        return
    statuses = policy.platform.statuses
    checks.check("policy.launch_tcb", found in statuses, found=found, expected=" or ".join(sorted(statuses)))


def _launch_status(claims: DcapClaims[Report], lineage: Lineage) -> str:
    """The status of the platform where the TD was launched; only one of the same family can be judged."""
    info, certified = claims.platform.tcb_info, claims.platform.pck
    if not lineage.initial_fmspc.startswith(certified.fmspc):
        raise UntrustedError(f"launched on FMSPC {lineage.initial_fmspc.hex()}, for which there is no TCB info here")
    svn = lineage.initial_tee_tcb_svn
    there = replace(certified, components=tuple(lineage.initial_cpu_svn))
    status = tcb.select_level(info, there, svn).status
    module = tcb.select_module(info, svn)
    if not module.id:
        return status
    return tcb.merge(status, tcb.select_enclave_level(module.levels, svn[0], f"TDX module {module.id}").status)
