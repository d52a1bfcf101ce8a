"""Whether an SVSM vouches: two links above what `snp` asks.

1  the hardware's report is authentic: all that `snp` asks of its own
2  it was asked for at VMPL 0, where the SVSM is and no guest beneath it can be
3  its report data is the SHA-512 of nonce and manifest, all 64 bytes of it
Key binding is asked by `enarx.tee.appraise`, over the nonce.

What is proven so: software of this measurement at VMPL 0 vouched for exactly this manifest, asked by somebody in its
guest who holds the key. What is not: at which level that somebody runs, and, unless the measurement is an SVSM's, that
the manifest is true. A report over a plain nonce can stand for none of this kind, nor one of these for a plain one: a
SHA-512 that is a SHA-384 and sixteen zeros is not found.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from enarx.tee import snp
from enarx.tee.model import Checks, Claims, Endorsements, Gate, Leniency, TrustAnchor
from enarx.tee.snp.report import Report as SnpReport
from enarx.tee.svsm.report import Report

OWN_CHECKS: Final[tuple[tuple[Gate, str], ...]] = (("untrusted", "svsm.vmpl"), ("untrusted", "svsm.manifest"))


class SvsmClaims(Claims[Report], frozen=True, kw_only=True):
    """The claims, and those of the hardware beneath, for its own policy."""

    hardware: Claims[SnpReport]


def verify(
    report: Report,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> SvsmClaims:
    """What AMD vouches for. Raises UntrustedError."""
    # 1
    hardware = snp.TECHNOLOGY.verify(report.hardware, endorsements, anchors, at, leniency, checks)

    # 2
    vmpl = report.hardware.vmpl
    checks.check("svsm.vmpl", vmpl == 0, found=f"asked for at VMPL {vmpl}", expected="asked for by the SVSM, at VMPL 0")

    # 3
    found = report.hardware.report_data
    checks.check(
        "svsm.manifest",
        hmac.compare_digest(found, report.bound),
        found=f"report data {found.hex()}",
        expected=f"{report.bound.hex()} (sha-512 of the nonce and the manifest of {len(report.manifest.data)} bytes)",
    )

    return SvsmClaims(
        report=report,
        report_data=report.nonce,
        measurement=hardware.measurement,
        signer=hardware.signer,
        debug=hardware.debug,
        product=f"{hardware.product}, SVSM",
        tcb_status=hardware.tcb_status,
        tcb_date=hardware.tcb_date,
        advisories=hardware.advisories,
        chip=hardware.chip,
        anchor=hardware.anchor,
        expires=hardware.expires,
        fields={**hardware.fields, "manifest": report.manifest.describe()},
        hardware=hardware,
    )
