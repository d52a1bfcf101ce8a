"""AMD SEV-SNP: report (evidence to fields), verify (authentic?), policy (acceptable?), simulator, roots/.

tcb and vek read what AMD's firmware versions and key certificates say; pinned holds the roots; abi one policy key.
"""

from typing import Final

from enarx.tee.model import Technology
from enarx.tee.snp.pinned import anchors
from enarx.tee.snp.policy import CHECK_NAMES as POLICY_CHECKS
from enarx.tee.snp.policy import Policy, accept, read_policy
from enarx.tee.snp.report import OID, OID_WITH_CHAIN, Report, parse, recognise
from enarx.tee.snp.verify import CHECK_NAMES, verify

TECHNOLOGY: Final[Technology[Report, Policy]] = Technology(
    name="snp",
    title="AMD SEV-SNP",
    family="amd",
    oids=frozenset({OID, OID_WITH_CHAIN}),
    binding_hash="sha-384",
    key_curve="P-384",
    check_names=(*CHECK_NAMES, *POLICY_CHECKS),
    parse=parse,
    verify=verify,
    read_policy=read_policy,
    default_policy=Policy(),
    accept=accept,
    anchors=anchors,
    recognise=recognise,
)
