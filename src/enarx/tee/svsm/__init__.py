"""AMD SEV-SNP guests beneath an SVSM (AMD 58019), which attests at VMPL 0 which services it gives them.

report (evidence to fields; manifest the services, endorsement the key of the virtual TPM), verify (authentic?), policy
(acceptable?). It lies above `snp`, whose report it carries. Its name is its own, for its reference values are: a guest
that has VMPL 0 to itself can say of services what it likes, so what is listed here has to be measurements of an SVSM.
There is no simulator: tests have an SVSM over that of `snp`.
"""

from typing import Final

from enarx.tee import snp
from enarx.tee.model import Technology
from enarx.tee.svsm.policy import OWN_CHECKS as POLICY_CHECKS
from enarx.tee.svsm.policy import Policy, accept, read_policy
from enarx.tee.svsm.report import OID, Report, parse
from enarx.tee.svsm.verify import OWN_CHECKS, verify

TECHNOLOGY: Final[Technology[Report, Policy]] = Technology(
    name="snp-svsm",
    title="AMD SEV-SNP beneath an SVSM",
    family="amd",
    oids=frozenset({OID}),
    binding_hash=snp.TECHNOLOGY.binding_hash,
    key_curve=snp.TECHNOLOGY.key_curve,
    check_names=(*snp.TECHNOLOGY.check_names, *OWN_CHECKS, *POLICY_CHECKS),
    parse=parse,
    verify=verify,
    read_policy=read_policy,
    default_policy=Policy(hardware=snp.TECHNOLOGY.default_policy),
    accept=accept,
    anchors=snp.TECHNOLOGY.anchors,
)
