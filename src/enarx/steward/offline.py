"""The judge without the server: one file, endorsements beside it, a moment, and the verdict.

The file is told by its content: a certification request (PKCS#10 in DER, PEM, hexadecimal or base64), or a bare
report or quote of a technology that recognises it, which may stand in hexadecimal or base64 too; an SVSM's report comes
with its manifest. It is judged by the same functions that a Steward uses. What a Steward asks beyond them, that claims
name it and carry its nonce, cannot be asked here, and the verdict says so; as it says when nothing was bound, no
measurement was compared, revocation was left out, or the anchor was somebody's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from enarx.errors import EnarxError, MalformedError
from enarx.pki.certificate import pem_blocks
from enarx.steward.authority import NO_EVIDENCE, require_key_type, worst_of
from enarx.steward.collateral import is_table, recognise
from enarx.steward.policy import Policy
from enarx.steward.request import Request
from enarx.steward.written import unwritten
from enarx.tee import TECHNOLOGIES, snp, svsm
from enarx.tee.model import Appraisal, Binding, Check, Checks, Endorsements, Evidence, Outcome, Technology, Verdict
from enarx.tee.snp.report import SIZE as SNP_REPORT
from enarx.tee.snp.report import encode as encode_snp
from enarx.tee.snp.report import unwrap
from enarx.tee.svsm.report import encode

CSR: Final = "csr"
FORMATS: Final = (CSR, *(technology.name for technology in TECHNOLOGIES if technology.name != "nil"))
MAX_FILE: Final = 2 * 1024 * 1024  # bytes: hexadecimal doubles the largest request

_PEM_LABELS: Final = (b"NEW CERTIFICATE REQUEST", b"CERTIFICATE REQUEST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on one file. `appraisal` is None when it could not be told what it is."""

    verdict: Verdict
    form: str
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    appraisal: Appraisal | None
    at: datetime

    def to_json(self) -> dict[str, object]:
        detail = {} if self.appraisal is None else self.appraisal.to_json()
        return {
            "verdict": self.verdict.value,
            "gate": self.verdict.value,
            "technology": None if self.appraisal is None else self.appraisal.technology,
            "format": self.form,
            "at": self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "checks": [check.to_json() for check in self.checks],
            "claims": detail.get("claims"),
        }


def judge_file(
    data: bytes,
    *,
    policy: Policy,
    compared: bool,
    binding: Binding,
    collateral: Endorsements,
    at: datetime,
    form: str | None = None,
    manifest: bytes | None = None,
) -> Judgement:
    """`binding` is for bare reports; a request binds its own key. `compared`: whether the policy is somebody's own.

    `manifest` came with the report of an SVSM, whose nonce then is what is bound.
    """
    try:
        form, body = detect(data, form)
        if manifest is not None:
            form, body = _by_svsm(form, body, manifest, binding)
        if form == CSR:
            return _judge_request(body, policy, collateral, at, compared=compared)
        body, beside = _beside(body)
    except MalformedError as error:
        reason = str(error)
        return Judgement(
            verdict=Verdict.MALFORMED,
            form=form or "unknown",
            reasons=(reason,),
            checks=(_format_check(reason),),
            notes=(),
            appraisal=None,
            at=at,
        )
    technology = next(item for item in TECHNOLOGIES if item.name == form)
    appraisal = policy.judges[min(technology.oids)](Evidence(oid="", body=body), binding, collateral | beside, at)
    return _judgement(form, (appraisal,), at, compared=compared)


def detect(data: bytes, form: str | None = None) -> tuple[str, bytes]:
    """What the bytes are, one of FORMATS, and the bytes without PEM, hexadecimal or base64. Raises MalformedError."""
    if len(data) > MAX_FILE:
        raise MalformedError(f"expected at most {MAX_FILE} bytes, found more")
    if not data.strip():
        raise MalformedError("expected a certification request, a report or a quote, found nothing")
    data = unwritten(data)
    for label in _PEM_LABELS:
        if b"-----BEGIN " + label + b"-----" in data:
            data = pem_blocks(data[data.index(b"-----BEGIN ") :], label.decode(), "request", limit=1)[0]
    if form is not None:
        return form, data
    if data[:1] == b"\x30":
        return CSR, data
    found = _recognised(data)
    if found is None:
        raise MalformedError("neither a certification request nor a report or quote of a technology that is known")
    return found.name, data


def _beside(body: bytes) -> tuple[bytes, Endorsements]:
    """The report and what its host handed out with it: AMD's extended request is answered with a certificate table."""
    table = body[SNP_REPORT:]
    if not is_table(table):
        return body, Endorsements()
    return body[:SNP_REPORT], recognise(table, "the certificate table behind the report")[0]


def _by_svsm(form: str, body: bytes, manifest: bytes, binding: Binding) -> tuple[str, bytes]:
    """Evidence out of the three that belong together, as a Keep sends it. Raises MalformedError."""
    nonce = binding.expected(svsm.TECHNOLOGY.binding_hash)
    if form != snp.TECHNOLOGY.name or nonce is None:
        raise MalformedError(f"a manifest belongs to a bare report of SNP and its nonce, found {form}")
    report, beside = _beside(body)
    return svsm.TECHNOLOGY.name, encode(nonce, manifest, encode_snp(unwrap(report), beside).body).body


def _recognised(data: bytes) -> Technology[Any, Any] | None:  # Any: as in TECHNOLOGIES
    return next((technology for technology in TECHNOLOGIES if technology.recognise(data)), None)


def _judge_request(data: bytes, policy: Policy, collateral: Endorsements, at: datetime, *, compared: bool) -> Judgement:
    request = Request.parse(data, policy.oids)
    if not request.evidence:
        return Judgement(
            verdict=Verdict.UNTRUSTED,
            form=CSR,
            reasons=(NO_EVIDENCE,),
            checks=(),
            notes=(),
            appraisal=None,
            at=at,
        )
    appraisals = tuple(policy.judges[e.oid](e, request.binding, collateral, at) for e in request.evidence)
    notes = () if request.claims is None else ("audience and nonce of the runtime claims were not checked",)
    checks = Checks()
    refusal: EnarxError | None = None
    if worst_of(appraisals).verdict in {Verdict.ACCEPTED, Verdict.REJECTED}:
        try:
            with checks.gate("untrusted"):
                require_key_type(request, policy, checks)
        except EnarxError as error:
            refusal = error
    return _judgement(CSR, appraisals, at, compared=compared, notes=notes, more=tuple(checks), refusal=refusal)


def _judgement(
    form: str,
    appraisals: Sequence[Appraisal],
    at: datetime,
    *,
    compared: bool,
    notes: Sequence[str] = (),
    more: Sequence[Check] = (),
    refusal: EnarxError | None = None,
) -> Judgement:
    worst = worst_of(appraisals)
    claims = worst.claims
    said = [*worst.notes, *notes]
    if not compared:
        said.append("no measurement was compared with a reference value: no policy was given")
    if not compared and worst.verdict is Verdict.ACCEPTED and claims is not None and claims.tcb_status == "OutOfDate":
        asked = f" asked for by {', '.join(claims.advisories)}" if claims.advisories else " that its vendor asks for"
        said.append(
            f"TCB status OutOfDate: the firmware is older than the one{asked}. Its vendor publishes no status that could "
            "be required, so nothing was compared with it: a policy sets floors (`minimum_tcb`), or denies advisories"
        )
    if (
        any(check.name == "binding" and check.outcome is Outcome.SKIPPED for check in worst.checks)
        and claims is not None
    ):
        said.append("nothing was bound: no request, key or report data was given to compare the report data with")
    if claims is not None and claims.anchor is not None and claims.anchor.origin == "argument":
        said.append(f"the anchor was named on the command line: SHA-256 {claims.anchor.sha256.hex()}")
    if claims is not None and claims.simulated:
        said.append("the anchor is a simulator's: this proves nothing about any hardware")
    return Judgement(
        verdict=worst.verdict if refusal is None else Verdict.UNTRUSTED,
        form=form,
        reasons=worst.reasons if refusal is None else (str(refusal),),
        checks=(*(check for appraisal in appraisals for check in appraisal.checks), *more),
        notes=tuple(said),
        appraisal=worst,
        at=at,
    )


def _format_check(reason: str) -> Check:
    return Check(gate="malformed", name="format", outcome=Outcome.FAILED, found=reason)
