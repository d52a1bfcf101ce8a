"""Arm CCA: report (the token), verify (authentic?), policy (acceptable?), simulator.

No anchor ships, for Arm publishes no root: an operator names the platform keys that vouch.
"""

from typing import Final

from enarx.tee.cca.policy import CHECK_NAMES as POLICY_CHECKS
from enarx.tee.cca.policy import Policy, accept, read_policy
from enarx.tee.cca.report import OID, Token, parse, recognise
from enarx.tee.cca.verify import CHECK_NAMES, verify
from enarx.tee.model import Technology

TECHNOLOGY: Final[Technology[Token, Policy]] = Technology(
    name="cca",
    title="Arm CCA",
    family="arm",
    oids=frozenset({OID}),
    binding_hash="sha-384",
    key_curve="P-384",
    check_names=(*CHECK_NAMES, *POLICY_CHECKS),
    parse=parse,
    verify=verify,
    read_policy=read_policy,
    default_policy=Policy(),
    accept=accept,
    anchors=tuple,
    recognise=recognise,
)
