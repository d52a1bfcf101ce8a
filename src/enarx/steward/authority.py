"""Evidence in, certificate out: the spine of Steward (architecture.md, 1; flow.md, 2 to 4).

  1  malformed   the request is not one, is not signed by its key, asks for what may not be asked, or its evidence
                 cannot be read
  2  untrusted   there is no evidence; it is not authentic or not bound to key and claims; the key has not the type
                 of the key that endorses it; the claims are meant for another Steward, or their nonce is not ours
  3  rejected    policy does not accept it, or the operator revoked what it names
  4  issued      shaped by `profile`, signed by `issuer`

Every piece of evidence in a request has to be accepted. A bundle is all or nothing: judged until the first request
that fails, and nothing is signed before the last was accepted. The answer is a value that carries every check.
Time, randomness, collateral and what was revoked are passed in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from typing import Any, Final

from msgspec import Struct

from enarx.attested.relying import Peer
from enarx.attested.result import AttestationResult
from enarx.errors import EnarxError, MalformedError, NotFoundError, RejectedError, UnavailableError, UntrustedError
from enarx.pki import keys
from enarx.pki.certificate import Certificate
from enarx.steward.issuer import Issuer
from enarx.steward.nonce import SIZE, Nonces, random_size
from enarx.steward.policy import Policy
from enarx.steward.profile import SERIAL_BYTES, Profile, validity
from enarx.steward.request import Request
from enarx.steward.revocation import Revocations
from enarx.tee.model import Appraisal, Check, Checks, Claims, Endorsements, Outcome, Verdict, claims_to_json

NO_EVIDENCE: Final = "the request carries no attestation evidence"


class Decision(Struct, frozen=True, kw_only=True):
    """What became of one request. `attested` is False only for a request without any evidence."""

    verdict: Verdict
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    technology: str = ""
    appraisals: tuple[Appraisal, ...] = ()
    request: Request | None = None
    result: AttestationResult | None = None
    attested: bool = True
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    def to_json(self) -> dict[str, object]:
        """For the problem document: everything that was found, and no secret, for none is known."""
        return {**self.facts(), "checks": [check.to_json() for check in self.checks]}

    def facts(self) -> dict[str, object]:
        """The same for the audit log, which writes checks as they are."""
        primary = _primary(self.appraisals)
        return {
            "verdict": self.verdict.value,
            "gate": self.verdict.value,
            "technology": self.technology,
            "reasons": self.reasons,
            "notes": self.notes,
            "checks": self.checks,
            "claims": None if primary is None or primary.claims is None else claims_to_json(primary.claims),
            "request": None if self.request is None else _describe(self.request),
        }


class Issuance(Struct, frozen=True, kw_only=True):
    """The answer to a bundle: a decision for every request that was judged; certificates for all, or none."""

    decisions: tuple[Decision, ...]
    issued: tuple[Certificate, ...] = ()

    @property
    def refused(self) -> Decision | None:
        return next((decision for decision in self.decisions if not decision.accepted), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A Steward. `origin` is the audience that claims have to name, never taken from a request."""

    origin: str
    policy: Policy
    issuer: Issuer
    profile: Profile
    nonces: Nonces
    random: Callable[[int], bytes]
    collateral: Callable[[], Endorsements] = field(default=Endorsements)
    revocations: Callable[[], Revocations] = field(default=Revocations)
    former: tuple[Issuer, ...] = ()  # who issued before, and has not ended

    @property
    def anchors(self) -> tuple[Certificate, ...]:
        """Each issuer's own certificate and the highest above it, of those before as well: whose holders may renew.

        Its own, too, for a client or a proxy may show the leaf alone.
        """
        known = (certificate for issuer in (self.issuer, *self.former) for certificate in issuer.ends)
        return tuple({certificate.der: certificate for certificate in known}.values())

    def issuer_of(self, key_id: str) -> Issuer:
        """The issuer in force or a former one, by its key's identifier. Raises NotFoundError."""
        found = next((issuer for issuer in (self.issuer, *self.former) if issuer.key_id == key_id), None)
        if found is None:
            raise NotFoundError("this Steward has no issuer with that key identifier")
        return found

    def nonce(self, at: datetime, size: int = SIZE) -> bytes:
        return self.nonces.issue(at, self.random(random_size(size)), size)

    def issue(self, requests: Sequence[bytes], at: datetime, renewed: Peer | None = None) -> Issuance:
        """Judge every request and sign when all are accepted. Raises UnavailableError when the CA has ended.

        A renewal needs fresh evidence, whatever the policy says of nonces, and gets the name of what is renewed.
        """
        try:
            collateral, revocations = self.collateral(), self.revocations()
        except EnarxError as error:  # our trouble, not the requester's, whatever its family
            raise UnavailableError("what this Steward keeps, collateral or revocations, cannot be read") from error
        decisions: list[Decision] = []
        for data in requests:
            decisions.append(self.decide(data, collateral, revocations, at, renewed))
            if not decisions[-1].accepted:
                return Issuance(decisions=tuple(decisions))
        return Issuance(decisions=tuple(decisions), issued=tuple(self._sign(decision, at) for decision in decisions))

    def decide(
        self,
        data: bytes,
        collateral: Endorsements,
        revocations: Revocations,
        at: datetime,
        renewed: Peer | None = None,
    ) -> Decision:
        """The verdict on one request, with every check that was made."""
        checks = Checks()
        try:
            with checks.gate("malformed"), checks.step("request", expected="a signed request for evidence and claims"):
                request = Request.parse(data, self.policy.oids)
        except MalformedError as error:
            return Decision(verdict=Verdict.MALFORMED, reasons=(str(error),), checks=tuple(checks))
        if not request.evidence:
            return Decision(
                verdict=Verdict.UNTRUSTED,
                reasons=(NO_EVIDENCE,),
                checks=tuple(checks),
                request=request,
                attested=False,
            )
        return self._appraise(request, checks, collateral, revocations, at, renewed)

    def _appraise(
        self,
        request: Request,
        checks: Checks,
        collateral: Endorsements,
        revocations: Revocations,
        at: datetime,
        renewed: Peer | None,
    ) -> Decision:
        appraisals = tuple(
            self.policy.judges[evidence.oid](evidence, request.binding, collateral, at) for evidence in request.evidence
        )
        worst = worst_of(appraisals)
        verdict, reasons, result = worst.verdict, worst.reasons, None
        try:
            if verdict in {Verdict.ACCEPTED, Verdict.REJECTED}:
                with checks.gate("untrusted"):
                    self._require_ours(request, checks, at, fresh=renewed is not None)
            if verdict is Verdict.ACCEPTED:
                result = self._result(request, appraisals, at)
                with checks.gate("rejected"):
                    self._require_young(request, checks, at)
                    self._require_same(result, renewed, checks)
                    _require_not_revoked(result, revocations, checks)
        except EnarxError as error:
            verdict = Verdict.REJECTED if isinstance(error, RejectedError) else Verdict.UNTRUSTED
            reasons = getattr(error, "reasons", (str(error),))
        return Decision(
            verdict=verdict,
            reasons=reasons,
            checks=(*chain.from_iterable(appraisal.checks for appraisal in appraisals), *checks),
            technology=(_primary(appraisals) or worst).technology if verdict is Verdict.ACCEPTED else worst.technology,
            appraisals=appraisals,
            request=request,
            result=result if verdict is Verdict.ACCEPTED else None,
            notes=tuple(note for appraisal in appraisals for note in appraisal.notes),
        )

    def _require_ours(self, request: Request, checks: Checks, at: datetime, *, fresh: bool) -> None:
        """Key type, audience, nonce. Raises UntrustedError at the first that is wrong."""
        require_key_type(request, self.policy, checks)
        if request.claims is None:
            why = "the originals' form, without runtime claims"
            checks.not_applicable("claims.audience", why)
            if self.policy.nonce == "always" or fresh:
                checks.check("claims.nonce", ok=False, found=f"none ({why})", expected="a nonce of this Steward")
            checks.not_applicable("claims.nonce", why)
            return
        audience = request.claims.audience
        checks.check("claims.audience", audience == self.origin, found=audience, expected=self.origin)
        if request.claims.nonce is None:
            if self.policy.nonce == "optional" and not fresh:
                checks.skip("claims.nonce", "none was sent, and policy does not ask for one")
                return
            checks.check("claims.nonce", ok=False, found="none", expected="a nonce of this Steward")
            return
        with checks.step("claims.nonce", expected="a recent nonce of this Steward", found="recent"):
            self.nonces.verify(request.claims.nonce, at)

    def _require_young(self, request: Request, checks: Checks, at: datetime) -> None:
        """Evidence is no older than the nonce it binds; without one nobody knows. The nonce was verified before."""
        if self.policy.maximum_age is None:
            return
        expected = f"at most {self.policy.maximum_age.total_seconds():.0f} seconds"
        nonce = None if request.claims is None else request.claims.nonce
        if nonce is None:
            checks.check("evidence.age", ok=False, found="unknown, for no nonce is bound", expected=expected)
            return
        age = self.nonces.verify(nonce, at)
        found = f"{age.total_seconds():.0f} seconds"
        checks.check("evidence.age", age <= self.policy.maximum_age, found=found, expected=expected)

    def _require_same(self, result: AttestationResult, renewed: Peer | None, checks: Checks) -> None:
        """A renewal goes to whom the former certificate names, and to nobody else (RFC 7030, 4.2.2)."""
        if renewed is None:
            return
        name = self.profile.spiffe_id(result)
        checks.check("renewal.name", name == renewed.spiffe_id, found=name, expected=renewed.spiffe_id)
        technology = result.technology
        checks.check(
            "renewal.technology", technology == renewed.technology, found=technology, expected=renewed.technology
        )

    def _result(self, request: Request, appraisals: Sequence[Appraisal], at: datetime) -> AttestationResult:
        """What the certificate will say: of the hardware, if any vouches; simulated or debug if any of it is."""
        primary = _primary(appraisals)
        if primary is None or primary.claims is None:
            raise UntrustedError(NO_EVIDENCE)
        claims: Claims[Any] = primary.claims  # Any: as in Appraisal
        everything = [appraisal.claims for appraisal in appraisals if appraisal.claims is not None]
        return AttestationResult(
            technology=primary.technology,
            simulated=any(item.simulated for item in everything),
            debug=any(item.debug for item in everything),
            measurement=claims.measurement,
            signer=claims.signer,
            tcb_status=claims.tcb_status,
            tcb_date=None if claims.tcb_date is None else claims.tcb_date.astimezone(UTC).replace(microsecond=0),
            advisories=claims.advisories,
            chip=None if claims.chip is None else sha256(claims.chip).digest(),
            appraised_at=at.astimezone(UTC).replace(microsecond=0),
            policy=self.policy.digest,
            claims=request.claims,
        )

    def _sign(self, decision: Decision, at: datetime) -> Certificate:
        if not decision.accepted or decision.request is None or decision.result is None:
            raise RejectedError("a request that was not accepted gets no certificate")
        claims = decision.request.claims
        grant = self.policy.granted(claims)
        expires = min(appraisal.claims.expires for appraisal in decision.appraisals if appraisal.claims is not None)
        begin, end = validity(at, lifetime=grant.duration(claims), issuer=self.issuer.certificate, expires=expires)
        shape = self.profile.certificate(
            key=decision.request.csr.key,
            spki=decision.request.csr.spki,
            result=decision.result,
            dns_names=grant.names(claims),
            serial=self.random(SERIAL_BYTES),
            begin=begin,
            end=end,
        )
        return self.issuer.issue(shape)


_ORDER: Final = (Verdict.MALFORMED, Verdict.UNTRUSTED, Verdict.REJECTED, Verdict.ACCEPTED)


def require_key_type(request: Request, policy: Policy, checks: Checks) -> None:
    """The key has the type of the key that endorses the report: no negotiation, no downgrade (flow.md, 2)."""
    curve = keys.curve_of(request.csr.key)
    for evidence in request.evidence:
        technology = policy.technologies[evidence.oid]
        if technology.family == "nil":
            checks.not_applicable("request.key_type", "nothing endorses the key of a request without a TEE")
        else:
            expected = f"{technology.key_curve}, as the key that endorses {technology.title}"
            checks.check("request.key_type", curve == technology.key_curve, found=curve, expected=expected)


def worst_of(appraisals: Sequence[Appraisal]) -> Appraisal:
    """The appraisal that decides: every piece of evidence in a request has to be accepted."""
    return min(appraisals, key=lambda appraisal: _ORDER.index(appraisal.verdict))


def _primary(appraisals: Sequence[Appraisal]) -> Appraisal | None:
    """The appraisal a certificate speaks of: the first hardware one, else the first."""
    hardware = (appraisal for appraisal in appraisals if appraisal.technology != "nil")
    return next(hardware, appraisals[0] if appraisals else None)


def _require_not_revoked(result: AttestationResult, revocations: Revocations, checks: Checks) -> None:
    denials = revocations.denies(result)
    for denial in denials:
        checks.check("revocation", ok=False, found=denial)
    if not denials:
        checks.check("revocation", ok=True, found="nothing that the operator revoked")


def _describe(request: Request) -> Mapping[str, object]:
    claims = request.claims
    return {
        "key": sha256(request.csr.spki).hexdigest(),
        "audience": None if claims is None else claims.audience,
        "workload": None if claims is None or claims.workload is None else str(claims.workload),
        "slug_claimed": None if claims is None else claims.slug,
        "config": None if claims is None or claims.config is None else claims.config.hex(),
        "nonce": claims is not None and claims.nonce is not None,
    }


def failures(decision: Decision) -> tuple[str, ...]:
    """The names of the checks that failed: what tests and metrics count."""
    return tuple(check.name for check in decision.checks if check.outcome is Outcome.FAILED)
