"""No TEE at all: the empty KVM extension of the originals (protocol.md, 1.7).

Nothing is verified because nothing is claimed. It is *untrusted* unless configuration supplies the
pseudo-anchor by saying `[unsafe] accept_nil = true`; even then the certificate says UNATTESTED.
Its claims carry no report data, which is the only way the check `binding` can be not applicable.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from enarx.errors import MalformedError, UntrustedError
from enarx.tee.model import (
    Checks,
    Claims,
    Endorsements,
    Evidence,
    Leniency,
    Parsed,
    Technology,
    TrustAnchor,
)
from enarx.toml import Table

OID: Final = "1.3.6.1.4.1.58270.1.1"

PSEUDO_ANCHOR: Final = TrustAnchor(family="nil", sha256=sha256(b"enarx: no TEE, accepted by name").digest())

_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # no collateral ends; the issuer still does


def parse(evidence: Evidence) -> Parsed[None]:
    """Raises MalformedError unless the body is empty."""
    if evidence.body:
        raise MalformedError(f"nil evidence: expected an empty extension, found {len(evidence.body)} bytes")
    return Parsed(report=None)


def verify(
    report: None,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Claims[None]:
    """Raises UntrustedError unless the pseudo-anchor was supplied by name."""
    del report, endorsements, at, leniency
    if PSEUDO_ANCHOR not in anchors:
        checks.check("nil.accepted_by_name", ok=False, found="no TEE", expected="hardware evidence")
        raise UntrustedError("nil: no TEE")
    checks.check("nil.accepted_by_name", ok=True, found="no TEE", expected="[unsafe] accept_nil = true")
    return Claims(
        report=None,
        report_data=None,
        measurement=b"",
        signer=None,
        debug=False,
        product="none",
        tcb_status="Unattested",
        anchor=None,
        expires=_NEVER,
    )


def read_policy(table: Table) -> None:
    """There is nothing to say about no TEE; unknown keys are refused by the table itself."""
    del table


def accept(claims: Claims[None], policy: None, checks: Checks) -> None:
    """The pseudo-anchor was the whole decision."""
    del claims, policy, checks


TECHNOLOGY: Final[Technology[None, None]] = Technology(
    name="nil",
    title="no TEE",
    family="nil",
    oids=frozenset({OID}),
    binding_hash="sha-256",
    key_curve="P-256",
    check_names=(("untrusted", "nil.accepted_by_name"), ("untrusted", "binding")),
    parse=parse,
    verify=verify,
    read_policy=read_policy,
    default_policy=None,
    accept=accept,
    anchors=tuple,
)
