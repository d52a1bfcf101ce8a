"""One line of JSON for every decision, with every check and its outcome (flow.md, 4). No secrets: none is known here."""

from collections.abc import Mapping
from datetime import datetime

from enarx.pki.certificate import Certificate
from enarx.steward.authority import Authority, Issuance
from enarx.web.audit import AuditLog


def record(log: AuditLog, authority: Authority, issuance: Issuance, at: datetime, request_id: str) -> None:
    """One line for each decision; `index` is its place in the bundle."""
    for index, decision in enumerate(issuance.decisions):
        certificate = issuance.issued[index] if index < len(issuance.issued) else None
        name = None if decision.result is None else authority.profile.spiffe_id(decision.result)
        facts = decision.facts()
        asked = facts.pop("request")
        log.write(
            "decision",
            at,
            request=request_id,
            index=index,
            issued=None if certificate is None else _describe(certificate),
            spiffe_id=name,
            asked=asked,
            **facts,
        )


def _describe(certificate: Certificate) -> Mapping[str, str]:
    return {
        "serial": f"{certificate.serial:x}",
        "sha256": certificate.sha256.hex(),
        "not_after": certificate.not_after.replace(tzinfo=None).isoformat(timespec="seconds") + "Z",
    }
