"""AWS Nitro Enclaves: report (the document), verify (authentic?), policy (acceptable?), simulator.

AWS's root is pinned by its SHA-256, which the Nitro Enclaves user guide prints; the certificate comes with every document.
"""

from typing import Final

from enarx.tee.model import Technology, TrustAnchor
from enarx.tee.nitro.policy import CHECK_NAMES as POLICY_CHECKS
from enarx.tee.nitro.policy import Policy, accept, read_policy
from enarx.tee.nitro.report import OID, Document, parse, recognise
from enarx.tee.nitro.verify import CHECK_NAMES, verify

ROOT_G1: Final = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")


def anchors() -> tuple[TrustAnchor, ...]:
    """AWS Nitro Enclaves Root-G1, by digest."""
    return (TrustAnchor(family="aws", sha256=ROOT_G1),)


TECHNOLOGY: Final[Technology[Document, Policy]] = Technology(
    name="nitro",
    title="AWS Nitro",
    family="aws",
    oids=frozenset({OID}),
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
