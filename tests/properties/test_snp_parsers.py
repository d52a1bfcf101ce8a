"""Whatever is thrown at SNP's parsers is a value or MalformedError, and a value is written as it was read."""

from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate, Extension
from enarx.tee import snp
from enarx.tee.appraise import judge
from enarx.tee.model import Binding, Endorsements, Evidence, Verdict
from enarx.tee.snp import vek
from enarx.tee.snp.abi import Requirement
from enarx.tee.snp.policy import Policy
from enarx.tee.snp.report import OID, OID_WITH_CHAIN, SIZE, VERSIONS, Report, encode, parse, recognise
from enarx.tee.snp.tcb import Tcb
from enarx.tee.snp.vek import Vek
from tests.unit.tee.snp import support
from tests.values import replace

REPORTS = [
    support.machine(product, version=version).report(support.REPORT_DATA)
    for product in ("Milan", "Turin")
    for version in VERSIONS
]
EVIDENCE = [support.machine().evidence(support.REPORT_DATA, oid) for oid in (OID, OID_WITH_CHAIN)]
JUDGE = judge(snp.TECHNOLOGY, Policy(), [support.vendor().anchor()])
VEK = Certificate.parse(support.machine().certificate)

edits = st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 255)), max_size=8)


def edited(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    made = bytearray(data)
    for position, value in changes:
        made[position % len(made)] = value
    return bytes(made)


@given(st.binary(max_size=SIZE + 8) | st.builds(edited, st.sampled_from(REPORTS), edits))
def test_any_bytes_are_a_report_or_malformed(data: bytes) -> None:
    """A report that is read is written as the same bytes; what is signed stays as it came."""
    recognise(data)
    try:
        report = Report.parse(data)
    except MalformedError:
        return
    assert report.encode() == data
    assert data.startswith(report.signed)


@given(st.sampled_from([0, 1]), st.binary(max_size=9))
def test_any_bytes_are_a_tcb_or_malformed(layout: int, data: bytes) -> None:
    """A TCB version that is read is written as the same bytes."""
    try:
        tcb = Tcb.parse(data, 1 if layout else 0)
    except MalformedError:
        return
    assert tcb.encode() == data


@given(
    st.sampled_from(["", OID, OID_WITH_CHAIN]),
    st.binary(max_size=200) | st.builds(edited, st.sampled_from([each.body for each in EVIDENCE]), edits),
)
def test_any_bytes_are_evidence_or_malformed(oid: str, data: bytes) -> None:
    """Evidence that is read is written again; only the URLs beside its lists are not kept."""
    try:
        parsed = parse(Evidence(oid=oid, body=data))
    except MalformedError:
        return
    if oid and not parsed.legacy and len(parsed.endorsements.certificates) > 0:
        again = encode(parsed.report.encode(), parsed.endorsements, oid)
        assert parse(again) == parsed


@given(st.sampled_from(EVIDENCE), edits, st.binary(max_size=40))
def test_any_evidence_gets_a_verdict(evidence: Evidence, changes: list[tuple[int, int]], tail: bytes) -> None:
    """Nothing that arrives ends in anything but a verdict, and nothing that was changed is accepted."""
    body = edited(evidence.body, changes) + tail
    collateral = Endorsements(certificates=(support.vendor().ask.certificate,))
    bound = Binding.of_report_data(support.REPORT_DATA)
    appraisal = JUDGE(Evidence(oid=evidence.oid, body=body), bound, collateral, support.AT)
    if appraisal.verdict is Verdict.ACCEPTED:
        assert parse(Evidence(oid=evidence.oid, body=body)).report == parse(evidence).report


@given(
    st.sampled_from(vek.UNDERSTOOD),
    st.binary(max_size=80),
    st.sampled_from([VEK, Certificate.parse(support.machine("Turin").certificate)]),
)
def test_any_extension_is_understood_or_malformed(oid: str, value: bytes, certificate: Certificate) -> None:
    """What AMD's certificates say is read strictly, whatever stands there."""
    extensions = {**certificate.extensions, oid: Extension(oid=oid, critical=False, value=value)}
    try:
        found = Vek.of(replace(certificate, extensions=extensions))
    except MalformedError:
        return
    assert all(0 <= level <= 255 for level in found.tcb.components().values())


@given(st.text(alphabet="0123456789.*xX^~<>=, ", max_size=20), st.tuples(*[st.integers(0, 255)] * 3))
def test_any_text_is_a_requirement_or_none(text: str, version: tuple[int, int, int]) -> None:
    """A requirement answers for every version, or is refused with ValueError when it is read."""
    try:
        requirement = Requirement.parse(text)
    except ValueError:
        return
    assert requirement.matches(version) in {True, False}
