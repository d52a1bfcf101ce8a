"""Confidential VMs of Azure's, where a paravisor stands between guest and hardware and vouches through a virtual TPM.

report (evidence to fields; hcl the paravisor's, tpm the quote), verify (authentic?), policy (acceptable?). They lie above
`snp` and `tdx`, whose reports they carry; their names are their own, for what is measured is not the guest but the
paravisor beneath it. There is no simulator: tests sign what recorded evidence cannot reach.
"""

from functools import partial
from typing import Any, Final

from enarx.tee.azure import policy, report, verify
from enarx.tee.azure.hcl import Kind
from enarx.tee.model import Technology


def _technology(kind: Kind, title: str) -> Technology[report.Report[Any], policy.Policy]:  # Any: as there
    hardware = report.HARDWARE[kind]
    return Technology(
        name=f"az-{kind}",
        title=title,
        family=hardware.family,
        oids=frozenset({report.OIDS[kind]}),
        binding_hash=hardware.binding_hash,
        key_curve=hardware.key_curve,
        check_names=(*hardware.check_names, *verify.OWN_CHECKS, *policy.OWN_CHECKS),
        parse=partial(report.parse_as, kind),
        verify=partial(verify.verify_as, kind),
        read_policy=partial(policy.read_policy_as, kind),
        default_policy=policy.Policy(hardware=hardware.default_policy),
        accept=partial(policy.accept_as, kind),
        anchors=hardware.anchors,
        recognise=partial(report.recognise_as, kind),
    )


SNP: Final = _technology("snp", "AMD SEV-SNP in Azure")
TDX: Final = _technology("tdx", "Intel TDX in Azure")
