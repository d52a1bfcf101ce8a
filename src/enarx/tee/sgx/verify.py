"""Whether an enclave's quote is authentic: the shared list of `dcap.verify`, and what an enclave's report must be.

15  X18 and X21, the part that is not policy: INIT is set, for a report of an enclave that never ran says nothing
16  X20: without KSS the fields CONFIGID, CONFIGSVN, ISVFAMILYID and ISVEXTPRODID mean nothing and must be zero
Key binding (X22) is asked by `enarx.tee.appraise`, over all 64 bytes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from enarx.tee.dcap import verify as dcap
from enarx.tee.dcap.claims import describe_platform
from enarx.tee.dcap.enclave import INIT, EnclaveReport
from enarx.tee.model import Checks, Claims, Endorsements, Field, Gate, Later, Leniency, TrustAnchor
from enarx.tee.sgx.report import Report

SGX: Final = dcap.Tee(tcb_info="SGX", qe_identity="QE")

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    *dcap.CHECK_NAMES,
    ("untrusted", "enclave.initialised"),
    ("untrusted", "enclave.key_separation"),
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
    platform = dcap.authenticate(report.quoted, SGX, endorsements, anchors, at, leniency, checks)
    standing = dcap.appraise_tcb(platform, checks)
    enclave = report.enclave

    # 15
    checks.check("enclave.initialised", bool(enclave.flags & INIT), found=f"flags 0x{enclave.flags:x}", expected="INIT")

    # 16
    unused = enclave.config_id + enclave.family_id + enclave.ext_product_id
    zero = enclave.config_svn == 0 and unused == bytes(len(unused))
    checks.check(
        "enclave.key_separation",
        enclave.key_separation or zero,
        found="KSS" if enclave.key_separation else f"no KSS, its fields are {'zero' if zero else 'not zero'}",
        expected="KSS, or CONFIGID, CONFIGSVN, ISVFAMILYID and ISVEXTPRODID zero",
    )
    return dcap.DcapClaims(
        report=report,
        report_data=enclave.report_data,
        measurement=enclave.mr_enclave,
        signer=enclave.mr_signer,
        debug=enclave.debug,
        product=f"SGX {platform.pck.fmspc.hex().upper()}",
        tcb_status=standing.status,
        tcb_date=standing.date,
        advisories=standing.advisories,
        chip=platform.chip,
        anchor=platform.anchor,
        expires=platform.expires,
        fields=Later(
            lambda: {"report": describe(enclave), **describe_platform(report.quoted.quote, platform, standing)}
        ),
        platform=platform,
        standing=standing,
    )


def describe(enclave: EnclaveReport) -> Mapping[str, Field]:
    """The enclave report's fields as JSON values: bytes in hex under the names of Intel's specification."""
    return {
        "cpusvn": enclave.cpu_svn.hex(),
        "miscselect": f"{enclave.misc_select:08x}",
        "attributes": enclave.attributes.hex(),
        "mrenclave": enclave.mr_enclave.hex(),
        "mrsigner": enclave.mr_signer.hex(),
        "isvprodid": enclave.product_id,
        "isvsvn": enclave.security_version,
        "isvextprodid": enclave.ext_product_id.hex(),
        "isvfamilyid": enclave.family_id.hex(),
        "config_id": enclave.config_id.hex(),
        "config_svn": enclave.config_svn,
        "report_data": enclave.report_data.hex(),
    }
