"""Whatever arrives at a Steward is a value or MalformedError, and what it wrote it reads again."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from enarx import toml
from enarx.errors import MalformedError, UntrustedError
from enarx.steward.nonce import Nonces
from enarx.steward.offline import detect
from enarx.steward.policy import read_policy
from enarx.steward.request import Request, parse_bundle
from enarx.steward.revocation import KINDS, Issued, Revocations
from enarx.tee.model import Verdict
from tests.unit.steward import support

AT = support.AT
GOOD = support.request(support.nil_evidence())
AUTHORITY = support.authority()

moments = st.integers(946684800, 4102444800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
digits = st.text("0123456789abcdef", min_size=1, max_size=64)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    """No bytes end in anything but a request or MalformedError."""
    try:
        Request.parse(data, AUTHORITY.policy.oids)
    except MalformedError:
        return


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_never_certified(position: int, change: int) -> None:
    """One byte of a request changed, anywhere: it is malformed, for its signature covers all of it."""
    data = bytearray(GOOD)
    data[position] ^= change
    decision = AUTHORITY.issue([bytes(data)], AT).decisions[0]
    assert decision.verdict is Verdict.MALFORMED


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_malformed(data: bytes) -> None:
    """A bundle's elements, strung together again, are the bundle's content."""
    try:
        requests = parse_bundle(data)
    except MalformedError:
        return
    assert data.endswith(b"".join(requests))


@given(st.binary(max_size=100))
def test_any_bytes_are_of_a_form_or_malformed(data: bytes) -> None:
    """`steward verify` tells what a file is, or that it is nothing."""
    try:
        detect(data)
    except MalformedError:
        return


@given(st.binary(max_size=80))
def test_nobody_makes_a_nonce_but_its_steward(data: bytes) -> None:
    """No bytes but those that were issued are accepted."""
    try:
        Nonces(origin=support.ORIGIN, key=bytes(32)).verify(data, AT)
    except UntrustedError:
        return
    raise AssertionError("a nonce that nobody issued was accepted")


@given(st.binary(min_size=32, max_size=32), st.integers(8, 64), st.integers(0, 600))
def test_an_issued_nonce_is_accepted_for_its_lifetime(randomness: bytes, size: int, age: int) -> None:
    """Any Steward with the same key and origin accepts it until it ends; one of another origin never does."""
    nonce = Nonces(origin=support.ORIGIN, key=bytes(32)).issue(AT, randomness, size)
    later = datetime.fromtimestamp(AT.timestamp() + age, UTC)
    Nonces(origin=support.ORIGIN, key=bytes(32)).verify(nonce, later)
    try:
        Nonces(origin="https://other.example.com", key=bytes(32)).verify(nonce, later)
    except UntrustedError:
        return
    raise AssertionError("another Steward's nonce was accepted")


@given(digits, digits, digits, digits, moments)
def test_what_was_issued_is_read_again(serial: str, measurement: str, chip: str, workload: str, end: datetime) -> None:
    """A line of the ledger is the inverse of itself."""
    item = Issued(serial=serial, measurement=measurement, chip=chip, workload=workload, not_after=end)
    assert Issued.parse(item.encode()) == item


@given(st.dictionaries(st.sampled_from(KINDS), st.dictionaries(digits, moments, max_size=3)))
def test_rules_are_read_again(rules: dict[str, dict[str, datetime]]) -> None:
    """The file of rules is the inverse of itself."""
    made = Revocations(rules=rules)  # type: ignore[arg-type]  # the keys are drawn from KINDS
    assert Revocations.parse(made.encode()) == made


@given(st.text(max_size=60))
def test_any_text_is_rules_or_malformed(text: str) -> None:
    """A damaged file of rules or line of the ledger is MalformedError, never something else."""
    for parse in (lambda: Revocations.parse(text.encode()), lambda: Issued.parse(text)):
        try:
            parse()
        except MalformedError:
            continue


@given(st.text("[]=\"'. \nabcunsafe_trl1", max_size=60))
def test_any_text_is_a_policy_or_a_configuration_error(text: str) -> None:
    """A policy is read or refused with our error."""
    try:
        read_policy(toml.parse(text, source="x"), ())
    except MalformedError:
        return
