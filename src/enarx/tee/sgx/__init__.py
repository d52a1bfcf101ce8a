"""Intel SGX: report (evidence to fields), verify (authentic?), policy (acceptable?), simulator.

What it shares with TDX lies in `enarx.tee.dcap`.
"""

from typing import Final

from enarx.tee.dcap import anchors
from enarx.tee.model import Technology
from enarx.tee.sgx.policy import CHECK_NAMES as POLICY_CHECKS
from enarx.tee.sgx.policy import Policy, accept, read_policy
from enarx.tee.sgx.report import OID, OID_WITH_QE, Report, parse, recognise
from enarx.tee.sgx.verify import CHECK_NAMES, verify

TECHNOLOGY: Final[Technology[Report, Policy]] = Technology(
    name="sgx",
    title="Intel SGX",
    family="intel",
    oids=frozenset({OID, OID_WITH_QE}),
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
