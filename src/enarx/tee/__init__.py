"""What a TEE says, whether it is authentic, and whether it is acceptable.

model       the words: Evidence, Endorsements, TrustAnchor, Claims, Checks, Appraisal, Technology
appraise    parse → verify → bind → accept, in the only order there is
snp sgx tdx one folder a technology: report (bytes), verify (authentic?), policy (acceptable?), simulator, TECHNOLOGY
dcap        what Intel's technologies share
documents   what all vendors' documents have in common: lists of CRLs, and the CRL rule
azure       VMs whose paravisor vouches by a virtual TPM: above snp and tdx, whose reports it carries
svsm        SNP guests beneath an SVSM, which vouches for its services: above snp, whose report it carries
nil         no TEE, accepted only where configuration says so by name

TECHNOLOGIES is the whole list of what we believe can be judged: one line each, and nothing registers itself. It is
imported when it is first looked at: a Keep has one technology, and starts without the others.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enarx.tee.model import Technology

    TECHNOLOGIES: tuple[Technology[Any, Any], ...]  # Any: each keeps its own types inside


@lru_cache(maxsize=1)
def _technologies() -> "tuple[Technology[Any, Any], ...]":
    from enarx.tee import azure, cca, nil, nitro, sgx, snp, svsm, tdx  # noqa: PLC0415 - see above

    return (
        sgx.TECHNOLOGY,
        tdx.TECHNOLOGY,
        snp.TECHNOLOGY,
        svsm.TECHNOLOGY,
        azure.SNP,
        azure.TDX,
        cca.TECHNOLOGY,
        nitro.TECHNOLOGY,
        nil.TECHNOLOGY,
    )


def __getattr__(name: str) -> "tuple[Technology[Any, Any], ...]":
    if name == "TECHNOLOGIES":
        return _technologies()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
