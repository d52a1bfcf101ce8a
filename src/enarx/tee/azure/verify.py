"""Whether a confidential VM of Azure's vouches: a chain of four, each link checked before the next is believed.

1  the hardware's report is authentic: all that `snp` or `tdx` ask of theirs
2  the hardware's report data is the SHA-256 of the paravisor's runtime data, the rest zero; for TDX the TDREPORT beside
   the quote says the same
3  the virtual TPM's attestation key stands in the runtime data, and signed the quote
4  the registers' values are those whose digest the quote carries
Key binding is asked by `enarx.tee.appraise`, over the quote's extra data: the 64 bytes, of which a Keep leaves out the
zeros at the end, for Azure's TPM takes 50.

What is measured is Microsoft's paravisor and firmware; what runs above it is in the TPM's registers alone. That is weaker
than a machine of one's own measuring, and a policy has to pin registers to say anything about the program.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from enarx.tee.azure.hcl import TDREPORT_DATA, Kind
from enarx.tee.azure.report import HARDWARE, Report
from enarx.tee.model import REPORT_DATA_SIZE, Checks, Claims, Endorsements, Gate, Leniency, TrustAnchor

OWN_CHECKS: Final[tuple[tuple[Gate, str], ...]] = (
    ("untrusted", "azure.runtime_data"),
    ("untrusted", "azure.tdreport"),
    ("untrusted", "azure.quote"),
    ("untrusted", "azure.registers"),
)


class AzureClaims(Claims[Report[Any]], frozen=True, kw_only=True):  # Any: whichever hardware's report
    """The claims, and those of the hardware beneath, for its own policy."""

    hardware: Claims[Any]  # Any: as above


def verify_as(
    kind: Kind,
    report: Report[Any],  # Any: as above
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> AzureClaims:
    """What the vendor of the hardware vouches for. Raises UntrustedError."""
    # 1
    hardware = HARDWARE[kind].verify(report.hardware, endorsements, anchors, at, leniency, checks)

    # 2
    found = hardware.report_data or b""
    checks.check(
        "azure.runtime_data",
        hmac.compare_digest(found, report.hcl.bound),
        found=f"report data {found.hex()}",
        expected=f"{report.hcl.bound.hex()} (sha-256 of the runtime data)",
    )
    if kind == "tdx":
        beside = report.hcl.hardware[TDREPORT_DATA : TDREPORT_DATA + 64]
        checks.check("azure.tdreport", beside == found, found=beside.hex(), expected=found.hex())
    else:
        checks.not_applicable("azure.tdreport", "an SNP report needs none")

    # 3
    with checks.step("azure.quote", expected="signed by the key in the runtime data", found="verified"):
        report.quote.verify(report.hcl.key)

    # 4
    if report.registers:
        checks.check(
            "azure.registers",
            report.quote.covers(report.registers),
            found="other values",
            expected=f"digest {report.quote.digest.hex()}",
        )
    else:
        checks.skip("azure.registers", "no values came with the quote")

    registers = {
        str(index): value.hex() for index, value in enumerate(report.registers) if index in report.quote.selected
    }
    return AzureClaims(
        report=report,
        report_data=report.quote.extra.ljust(REPORT_DATA_SIZE, b"\0"),
        measurement=hardware.measurement,
        signer=hardware.signer,
        debug=hardware.debug,
        product=f"{hardware.product}, Azure",
        tcb_status=hardware.tcb_status,
        tcb_date=hardware.tcb_date,
        advisories=hardware.advisories,
        chip=hardware.chip,
        anchor=hardware.anchor,
        expires=hardware.expires,
        fields={**hardware.fields, "registers": registers},
        hardware=hardware,
    )
