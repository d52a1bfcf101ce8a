"""Whether a TD's quote is authentic: the shared list of `dcap.verify`, and which TDX module runs the TD.

15  T2   the TDX module is one that the TCB info describes: signer and attributes, under its mask, and none set
16  T3   the module's version is one that Intel lists; its level is merged with the platform's and the QE's,
    T4   where a module with a version of its own is compared from TDX component 2 on,
    T5   and relaunching is advised where the machine has since loaded what Intel wants (all in `dcap.tcb`)
17  X16  again, now merged: nothing is revoked
18  X22  key binding, asked by `enarx.tee.appraise` over all 64 bytes
Attributes, XFAM, measurements and service TDs are policy: `enarx.tee.tdx.policy`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from enarx.errors import UntrustedError
from enarx.tee.dcap import tcb
from enarx.tee.dcap import verify as dcap
from enarx.tee.dcap.claims import describe_platform
from enarx.tee.dcap.collateral import TcbInfo, TdxModule
from enarx.tee.model import Checks, Claims, Endorsements, Field, Gate, Later, Leniency, TrustAnchor
from enarx.tee.tdx.report import Report, TdReport

TDX: Final = dcap.Tee(tcb_info="TDX", qe_identity="TD_QE", qe_identity_versions=frozenset({2, 3}))

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    *dcap.CHECK_NAMES,
    ("untrusted", "module.identity"),
    ("untrusted", "module.level"),
    ("untrusted", "binding"),
)


def verify(
    report: Report,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Claims[Report]:
    """What an anchor vouches for. Raises UntrustedError."""
    platform = dcap.authenticate(report.quoted, TDX, endorsements, anchors, at, leniency, checks)
    td, info = report.td, platform.tcb_info

    # 15 to 17
    loaded = dcap.Loaded(
        svn=td.tee_tcb_svn, svn2=td.tee_tcb_svn2, signer=td.mr_signer_seam, attributes=td.seam_attributes
    )
    standing = dcap.appraise_tcb(platform, checks, loaded, lambda: _appraise_module(loaded, info, checks))
    return dcap.DcapClaims(
        report=report,
        report_data=td.report_data,
        measurement=td.mr_td,
        signer=None,
        debug=td.debug,
        product=f"TDX {platform.pck.fmspc.hex().upper()}",
        tcb_status=standing.status,
        tcb_date=standing.date,
        advisories=standing.advisories,
        chip=platform.chip,
        anchor=platform.anchor,
        expires=platform.expires,
        fields=Later(lambda: {"report": describe(td), **describe_platform(report.quoted.quote, platform, standing)}),
        platform=platform,
        standing=standing,
    )


def _appraise_module(loaded: dcap.Loaded, info: TcbInfo, checks: Checks) -> tcb.ModuleStanding | None:
    """The module's level, or None for a first-generation module, which is judged by the platform's TDX components."""
    found = f"MRSIGNERSEAM {loaded.signer.hex()}, SEAMATTRIBUTES {loaded.attributes.hex()}"
    with checks.step("module.identity", found=found, expected="a TDX module that the TCB info describes"):
        module = tcb.select_module(info, loaded.svn)
        _require_described(loaded, module)
    if not module.id:
        checks.not_applicable("module.level", "TEE_TCB_SVN[1] is 0: the platform's TDX components tell its version")
        return None
    with checks.step("module.level", found=f"{module.id} SVN {loaded.svn[0]}", expected="one that Intel lists"):
        level = tcb.select_enclave_level(module.levels, loaded.svn[0], f"TDX module {module.id}")
    return tcb.ModuleStanding(
        level=level, newest=tcb.newest(module.levels), loaded_newest=_newest_of_loaded(loaded.svn2, info)
    )


def _require_described(loaded: dcap.Loaded, module: TdxModule) -> None:
    name = f"TDX module {module.id}".strip()
    if loaded.signer != module.mr_signer:
        raise UntrustedError(f"{name}: MRSIGNERSEAM: expected {module.mr_signer.hex()}, found {loaded.signer.hex()}")
    masked = bytes(have & mask for have, mask in zip(loaded.attributes, module.attributes_mask, strict=True))
    wanted = bytes(have & mask for have, mask in zip(module.attributes, module.attributes_mask, strict=True))
    if masked != wanted or any(loaded.attributes):  # a module for production has none set, masked or not
        raise UntrustedError(f"{name}: SEAMATTRIBUTES: expected {wanted.hex()}, found {loaded.attributes.hex()}")


def _newest_of_loaded(tee_tcb_svn2: bytes | None, info: TcbInfo) -> int | None:
    """What Intel wants of the module that is loaded now, which may be of another major version than the TD's."""
    if tee_tcb_svn2 is None:
        return None
    try:
        return tcb.newest(tcb.select_module(info, tee_tcb_svn2).levels)
    except UntrustedError:
        return None  # nothing is known of it, so nothing is said in its favour


def describe(td: TdReport) -> Mapping[str, Field]:
    """The TD report's fields as JSON values: bytes in hex under the names of Intel's specification."""
    lineage = td.lineage
    found: dict[str, Field] = {
        "tee_tcb_svn": td.tee_tcb_svn.hex(),
        "mrseam": td.mr_seam.hex(),
        "mrsignerseam": td.mr_signer_seam.hex(),
        "seamattributes": td.seam_attributes.hex(),
        "tdattributes": td.attributes.to_bytes(8, "little").hex(),
        "xfam": td.xfam.to_bytes(8, "little").hex(),
        "mrtd": td.mr_td.hex(),
        "mrconfigid": td.mr_config_id.hex(),
        "mrowner": td.mr_owner.hex(),
        "mrownerconfig": td.mr_owner_config.hex(),
        **{f"rtmr{index}": rtmr.hex() for index, rtmr in enumerate(td.rtmrs)},
        "report_data": td.report_data.hex(),
    }
    if td.tee_tcb_svn2 is not None and td.mr_service_td is not None:
        found |= {"tee_tcb_svn2": td.tee_tcb_svn2.hex(), "mrservicetd": td.mr_service_td.hex()}
    if lineage is not None:
        found["lineage"] = {
            "vmid": lineage.vm_id,
            "td_id": lineage.td_id.hex(),
            "devinfo": lineage.device_info.hex(),
            "init_servtd_hash": lineage.initial_service_td.hex(),
            "init_servtd_attr": lineage.initial_service_td_attributes.hex(),
            "init_cpusvn": lineage.initial_cpu_svn.hex(),
            "init_tee_tcb_svn": lineage.initial_tee_tcb_svn.hex(),
            "init_tee_fmspc": lineage.initial_fmspc.hex(),
            "cur_servtd_hash": lineage.current_service_td.hex(),
            "cur_servtd_attr": lineage.current_service_td_attributes.hex(),
        }
    return found
