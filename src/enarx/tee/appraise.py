"""Parse, verify, bind, accept: in the only order there is.

`judge` closes over one technology, its policy and its anchors, and gives back the function that
judges evidence. Time and endorsements are arguments; the answer is a value, whatever arrives.
The binding of the key to the report (flow.md, 2) belongs to the gate *untrusted*, compares all 64
bytes in constant time, and no switch turns it off.
"""

import hmac
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from enarx.errors import EnarxError, MalformedError, RejectedError, UnavailableError
from enarx.tee.model import (
    Appraisal,
    Binding,
    Checks,
    Claims,
    Endorsements,
    Evidence,
    Leniency,
    Outcome,
    SignedJson,
    Technology,
    TrustAnchor,
    Verdict,
)

R = TypeVar("R")
P = TypeVar("P")


class Memory(Protocol):
    """Which documents were superseded before."""

    def admit(self, endorsements: Endorsements) -> tuple[Endorsements, tuple[str, ...]]:
        """The endorsements without those, and a sentence for each that was left out."""
        ...

    def learn(self, documents: Iterable[bytes | SignedJson]) -> None:
        """These were verified."""
        ...


Judge = Callable[[Evidence, Binding, Endorsements, datetime], Appraisal]

STRICT = Leniency()


def judge(
    technology: Technology[R, P],
    policy: P,
    anchors: Sequence[TrustAnchor],
    leniency: Leniency = STRICT,
    *,
    refuse_legacy: bool = False,
    memory: Memory | None = None,
) -> Judge:
    """The judge of one technology under one policy. It raises nothing that evidence can provoke.

    With a memory, documents that were superseded before are left out; UnavailableError then means it cannot be kept.
    """
    names = {name: gate for gate, name in technology.check_names}

    def appraise(evidence: Evidence, binding: Binding, collateral: Endorsements, at: datetime) -> Appraisal:
        checks = Checks()
        claims: Claims[R] | None = None
        notes: tuple[str, ...] = ()
        verdict, reasons, rollbacks = Verdict.ACCEPTED, tuple[str, ...](), tuple[str, ...]()
        try:
            with checks.gate("malformed"):
                parsed = technology.parse(evidence)
                notes = parsed.notes
                if parsed.legacy and refuse_legacy:
                    raise MalformedError(
                        f"{technology.name}: {'; '.join(notes) or 'a form that is no longer accepted'}"
                    )
            with checks.gate("untrusted"):
                endorsements, rollbacks = _admitted(memory, parsed.endorsements | collateral, checks)
                verified = technology.verify(parsed.report, endorsements, anchors, at, leniency, checks)
                _require_bound(verified, binding, technology, checks)
                claims = verified
            with checks.gate("rejected"):
                technology.accept(claims, policy, checks)
        except UnavailableError:
            raise  # the memory's trouble; evidence provokes none of these
        except EnarxError as error:
            verdict, reasons = _verdict(error), getattr(error, "reasons", (str(error),))
            reasons = (*reasons, *rollbacks) if verdict is Verdict.UNTRUSTED else reasons
        if memory is not None and claims is not None:
            memory.learn(checks.rested_on)
        return Appraisal(
            technology=technology.name,
            verdict=verdict,
            reasons=reasons,
            checks=checks.finish(names),
            claims=claims,
            at=at,
            notes=notes,
        )

    return appraise


def _admitted(
    memory: Memory | None, endorsements: Endorsements, checks: Checks
) -> tuple[Endorsements, tuple[str, ...]]:
    if memory is None:
        return endorsements, ()
    admitted, rollbacks = memory.admit(endorsements)
    for sentence in rollbacks:
        checks.skip("collateral.rollback", sentence)
    return admitted, rollbacks


def _require_bound(claims: Claims[R], binding: Binding, technology: Technology[R, Any], checks: Checks) -> None:
    """The report was made for this key. Any: the policy's type plays no part here."""
    if claims.report_data is None:
        checks.not_applicable("binding", f"{technology.name} has no report data")
        return
    expected = binding.expected(technology.binding_hash)
    if expected is None:
        checks.skip("binding", "nothing was bound: no key, request or report data was given to compare with")
        return
    checks.check(
        "binding",
        hmac.compare_digest(claims.report_data, expected),
        found=claims.report_data.hex(),
        expected=f"{expected.hex()} ({technology.binding_hash} over the key that asks)",
    )


def _verdict(error: EnarxError) -> Verdict:
    if isinstance(error, MalformedError):
        return Verdict.MALFORMED
    return Verdict.REJECTED if isinstance(error, RejectedError) else Verdict.UNTRUSTED


def failed(appraisal: Appraisal) -> tuple[str, ...]:
    """The names of the checks that failed: what tests and metrics count."""
    return tuple(check.name for check in appraisal.checks if check.outcome is Outcome.FAILED)
