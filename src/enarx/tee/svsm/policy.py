"""Which guests beneath an SVSM are acceptable: the table `[snp-svsm]`.

Every key of `[snp]` but `vmpl`, for the SVSM that was measured: its reports are of VMPL 0 always. And

    required_services      services that have to stand in the manifest: `vtpm`, or a GUID
    endorsement_keys       allowed SHA-256 digests of the virtual TPM's endorsement key (TPMT_PUBLIC)
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

from enarx.tee import snp
from enarx.tee.model import Checks, Claims, Gate
from enarx.tee.snp.policy import Policy as SnpPolicy
from enarx.tee.svsm.manifest import NAMES
from enarx.tee.svsm.report import Report
from enarx.tee.svsm.verify import SvsmClaims
from enarx.toml import Table

OWN_CHECKS: Final[tuple[tuple[Gate, str], ...]] = (
    ("rejected", "policy.services"),
    ("rejected", "policy.endorsement_key"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. Empty asks nothing."""

    hardware: SnpPolicy
    required_services: tuple[str, ...] = ()
    endorsement_keys: frozenset[bytes] = frozenset()


def read_policy(table: Table) -> Policy:
    """Raises ConfigError; unknown keys are the document's to refuse."""
    if "vmpl" in table:
        raise table.error("vmpl", "the report of an SVSM is of VMPL 0 always: expected no such key")
    services = table.strings("required_services")
    for index, name in enumerate(services):
        if name not in NAMES.values() and not _is_guid(name):
            raise table.error(
                f"required_services[{index}]",
                f"expected {', '.join(NAMES.values())} or a GUID in lower case, found {name!r}",
                at="required_services",
            )
    return Policy(
        hardware=snp.TECHNOLOGY.read_policy(table),
        required_services=services,
        endorsement_keys=table.hex_list("endorsement_keys", length=32),
    )


def accept(claims: Claims[Report], policy: Policy, checks: Checks) -> None:
    """Record every rule. Raises nothing by itself: the gate collects the failures."""
    if not isinstance(claims, SvsmClaims):
        raise TypeError("snp-svsm claims are made by enarx.tee.svsm.verify alone")
    snp.TECHNOLOGY.accept(claims.hardware, policy.hardware, checks)
    manifest = claims.report.manifest

    if policy.required_services:
        there = ", ".join(service.name for service in manifest.services) or "none"
        missing = [name for name in policy.required_services if manifest.find(name) is None]
        checks.check("policy.services", not missing, found=there, expected=", ".join(policy.required_services))
    else:
        checks.not_applicable("policy.services", "not configured: nothing was compared")

    if policy.endorsement_keys:
        vtpm = manifest.find("vtpm")
        digest = None if vtpm is None else sha256(vtpm.data).digest()
        checks.check(
            "policy.endorsement_key",
            digest in policy.endorsement_keys,
            found="no virtual TPM in the manifest" if digest is None else digest.hex(),
            expected=" or ".join(sorted(each.hex() for each in policy.endorsement_keys)),
        )
    else:
        checks.not_applicable("policy.endorsement_key", "not configured: nothing was compared")


def _is_guid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
