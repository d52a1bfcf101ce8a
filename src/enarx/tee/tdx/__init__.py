"""Intel TDX: report (evidence to fields), verify (authentic?), policy (acceptable?), simulator.

What it shares with SGX lies in `enarx.tee.dcap`.
"""

from typing import Final

from enarx.tee.dcap import anchors
from enarx.tee.model import Technology
from enarx.tee.tdx.policy import CHECK_NAMES as POLICY_CHECKS
from enarx.tee.tdx.policy import Policy, accept, read_policy
from enarx.tee.tdx.report import OID, Report, parse, recognise
from enarx.tee.tdx.verify import CHECK_NAMES, verify

TECHNOLOGY: Final[Technology[Report, Policy]] = Technology(
    name="tdx",
    title="Intel TDX",
    family="intel",
    oids=frozenset({OID}),
    binding_hash="sha-256",
    key_curve="P-256",
    check_names=(*CHECK_NAMES, *POLICY_CHECKS),
    parse=parse,
    verify=verify,
    read_policy=read_policy,
    default_policy=Policy(),
    accept=accept,
    anchors=anchors,
    recognise=recognise,
)
