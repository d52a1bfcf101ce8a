"""The spine: parse, verify, bind, accept, in the only order there is, and every check in the ledger."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from enarx.attested.claims import report_data
from enarx.errors import MalformedError, UntrustedError
from enarx.tee import nil
from enarx.tee.appraise import failed, judge
from enarx.tee.model import (
    Binding,
    Checks,
    Claims,
    Endorsements,
    Evidence,
    Leniency,
    Outcome,
    Parsed,
    Technology,
    TrustAnchor,
    Verdict,
)
from enarx.toml import Table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = b"a public key"
BOUND = Binding.of_key(KEY)
EVIDENCE = Evidence(oid="1.2.3", body=b"")


def toy(
    *,
    malformed: bool = False,
    untrusted: bool = False,
    wrong: Sequence[str] = (),
    data: bytes | None = None,
    legacy: bool = False,
) -> Technology[bytes, None]:
    """A technology that fails where it is told to."""

    def parse(evidence: Evidence) -> Parsed[bytes]:
        if malformed:
            raise MalformedError("toy: too short")
        return Parsed(report=evidence.body, legacy=legacy, notes=("an older form",) if legacy else ())

    def verify(
        report: bytes, _e: Endorsements, _a: Sequence[TrustAnchor], at: datetime, _l: Leniency, checks: Checks
    ) -> Claims[bytes]:
        checks.check("toy.signature", not untrusted, found="wrong", expected="a signature")
        return Claims(
            report=report,
            report_data=report_data("sha-256", KEY, None) if data is None else data,
            measurement=b"",
            signer=None,
            debug=False,
            product="toy",
            tcb_status="UpToDate",
            anchor=None,
            expires=at,
        )

    def accept(_claims: Claims[bytes], _policy: None, checks: Checks) -> None:
        for name in ("toy.one", "toy.two"):
            checks.check(name, name not in wrong, found="x", expected="y")

    def read_policy(_table: Table) -> None:
        return None

    return Technology(
        name="toy",
        title="a toy",
        family="nil",
        oids=frozenset({"1.2.3"}),
        binding_hash="sha-256",
        key_curve="P-256",
        check_names=(
            ("untrusted", "toy.signature"),
            ("untrusted", "binding"),
            ("rejected", "toy.one"),
            ("rejected", "toy.two"),
        ),
        parse=parse,
        verify=verify,
        read_policy=read_policy,
        default_policy=None,
        accept=accept,
        anchors=tuple,
    )


def test_everything_right_is_accepted() -> None:
    """Every named check has passed."""
    appraisal = judge(toy(), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert appraisal.verdict is Verdict.ACCEPTED
    assert {check.outcome for check in appraisal.checks} == {Outcome.PASSED}
    assert [check.name for check in appraisal.checks] == ["toy.signature", "binding", "toy.one", "toy.two"]


def test_an_older_form_is_told_and_refused_where_it_shall_be() -> None:
    """The command line explains it, a server does not take it; what is no older form is taken by both."""
    told = judge(toy(legacy=True), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert (told.verdict, told.notes) == (Verdict.ACCEPTED, ("an older form",))
    strict = judge(toy(legacy=True), None, (), refuse_legacy=True)(EVIDENCE, BOUND, Endorsements(), NOW)
    assert (strict.verdict, strict.reasons) == (Verdict.MALFORMED, ("toy: an older form",))
    assert judge(toy(), None, (), refuse_legacy=True)(EVIDENCE, BOUND, Endorsements(), NOW).accepted


def test_malformed_ends_at_once() -> None:
    """Nothing after the first gate is reached, and what was not reached is listed as skipped."""
    appraisal = judge(toy(malformed=True), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert appraisal.verdict is Verdict.MALFORMED
    assert appraisal.reasons == ("toy: too short",)
    assert [c.outcome for c in appraisal.checks] == [Outcome.FAILED, *[Outcome.SKIPPED] * 4]


def test_untrusted_ends_at_the_first_failure() -> None:
    """In cryptography the first failure is the last check."""
    appraisal = judge(toy(untrusted=True, wrong=["toy.one"]), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert failed(appraisal) == ("toy.signature",)
    assert appraisal.claims is None


def test_rejected_reports_every_failure() -> None:
    """In policy all failures are reported together."""
    appraisal = judge(toy(wrong=["toy.one", "toy.two"]), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert appraisal.verdict is Verdict.REJECTED
    assert appraisal.reasons == ("toy.one: expected y, found x", "toy.two: expected y, found x")


@pytest.mark.parametrize("position", range(64))
def test_every_byte_of_the_report_data_is_bound(position: int) -> None:
    """A difference in any of the 64 bytes is untrusted, and no claims are given."""
    data = bytearray(report_data("sha-256", KEY, None))
    data[position] ^= 1
    appraisal = judge(toy(data=bytes(data)), None, ())(EVIDENCE, BOUND, Endorsements(), NOW)
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert failed(appraisal) == ("binding",)
    assert appraisal.claims is None


def test_nothing_to_bind_is_said() -> None:
    """Offline, without a key, the check is skipped and says so; it never passes."""
    appraisal = judge(toy(), None, ())(EVIDENCE, Binding.none(), Endorsements(), NOW)
    binding = next(check for check in appraisal.checks if check.name == "binding")
    assert binding.outcome is Outcome.SKIPPED
    assert "nothing was bound" in binding.found


def test_nil_is_untrusted_unless_accepted_by_name() -> None:
    """Only the pseudo-anchor opens it, and only nil's binding is not applicable."""
    evidence = Evidence(oid=nil.OID, body=b"")
    refused = judge(nil.TECHNOLOGY, None, ())(evidence, BOUND, Endorsements(), NOW)
    assert refused.verdict is Verdict.UNTRUSTED
    accepted = judge(nil.TECHNOLOGY, None, (nil.PSEUDO_ANCHOR,))(evidence, BOUND, Endorsements(), NOW)
    assert accepted.verdict is Verdict.ACCEPTED
    assert accepted.checks[-1].outcome is Outcome.NOT_APPLICABLE


def test_nil_evidence_is_empty() -> None:
    """One byte in the extension is malformed."""
    evidence = Evidence(oid=nil.OID, body=b"\0")
    judged = judge(nil.TECHNOLOGY, None, (nil.PSEUDO_ANCHOR,))(evidence, BOUND, Endorsements(), NOW)
    assert judged.verdict is Verdict.MALFORMED


def test_an_anchor_is_what_it_is_pinned_by() -> None:
    """A certificate with another SHA-256 than the pin is no anchor."""
    with pytest.raises(MalformedError, match="has not the SHA-256 it is pinned by"):
        TrustAnchor(family="amd", sha256=bytes(32), certificate=b"x")


def test_a_ledger_never_turns_a_failure_into_a_pass() -> None:
    """An error that is swallowed inside a step is still in the ledger."""
    checks = Checks()
    with pytest.raises(UntrustedError), checks.gate("untrusted"), checks.step("outer"):
        checks.check("inner", ok=False, found="a", expected="b")
    assert [(c.name, c.outcome) for c in checks] == [("inner", Outcome.FAILED)]
