"""What a TEE says, whether it is authentic, and whether it is acceptable.

model       the words: Evidence, Endorsements, TrustAnchor, Claims, Checks, Appraisal, Technology
appraise    parse → verify → bind → accept, in the only order there is
snp sgx tdx one folder a technology: report (bytes), verify (authentic?), policy (acceptable?), simulator, TECHNOLOGY
dcap        what Intel's technologies share
documents   what all vendors' documents have in common: lists of CRLs, and the CRL rule
nil         no TEE, accepted only where configuration says so by name

TECHNOLOGIES is the whole list of what we believe can be judged: one line each, and nothing registers itself.
"""

from typing import Any, Final

from enarx.tee import cca, nil, nitro, sgx, snp, tdx
from enarx.tee.model import Technology

TECHNOLOGIES: Final[tuple[Technology[Any, Any], ...]] = (  # Any: each keeps its own types inside
    sgx.TECHNOLOGY,
    tdx.TECHNOLOGY,
    snp.TECHNOLOGY,
    cca.TECHNOLOGY,
    nitro.TECHNOLOGY,
    nil.TECHNOLOGY,
)
