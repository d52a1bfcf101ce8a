"""Client certificates: whose count, and what was taken back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attested.result import AttestationResult
from enarx.drawbridge.auth.mtls import REFRESH, CrlSource, Keeps
from enarx.errors import MalformedError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate, pem
from tests.unit.conftest import Authority, Issued

POINTS = x509.CRLDistributionPoints(
    [
        x509.DistributionPoint(
            full_name=[x509.UniformResourceIdentifier("https://steward.example/crl")],
            relative_name=None,
            reasons=None,
            crl_issuer=None,
        )
    ]
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def revocations(authority: Authority, *serials: int, number: int = 1, ends: timedelta = timedelta(hours=1)) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.issued.certificate.subject)
        .last_update(now - timedelta(minutes=1))
        .next_update(now + ends)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.issued.key.public_key()), critical=False
        )
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(authority.issued.key, SHA256()).public_bytes(Encoding.DER)


def keeps(authority: Authority, fetch: Callable[[], bytes] | None, clock: Clock | None = None) -> Keeps:
    anchors = (Certificate.parse(authority.issued.der),)
    return Keeps(anchors=anchors, sources=(CrlSource("steward", fetch, clock or Clock()),))


def listed(authority: Authority, result: AttestationResult) -> Issued:
    """A certificate that names a revocation list."""
    return authority.attest(result, extensions=((POINTS, False),))


def test_a_certificate_without_a_result_is_nobody(authority: Authority, foreign: Authority) -> None:
    """Whoever issued it: it opens nothing, and is no error. No certificate is nobody as well."""
    judge = keeps(authority, None)
    now = datetime.now(UTC)
    assert judge.judge((), now) is None
    assert judge.judge(authority.attest(None).chain, now) is None
    assert judge.judge(foreign.attest(None).chain, now) is None


def test_only_a_trusted_steward_vouches(authority: Authority, foreign: Authority, result: AttestationResult) -> None:
    """The same result under another CA of the same name is refused."""
    judge = keeps(authority, None)
    now = datetime.now(UTC)
    found = judge.judge(authority.attest(result).chain, now)
    assert found is not None
    assert found.result == result
    with pytest.raises(UntrustedError):
        judge.judge(foreign.attest(result).chain, now)
    with pytest.raises(MalformedError):
        judge.judge((b"rubbish",), now)


def test_what_was_revoked_is_refused_and_without_a_list_nothing_counts(
    authority: Authority, result: AttestationResult
) -> None:
    """Revoked: untrusted. No current list for a certificate that names one: unavailable, which is 503."""
    issued, other = listed(authority, result), listed(authority, result)
    now = datetime.now(UTC)
    assert keeps(authority, lambda: revocations(authority)).judge(issued.chain, now)
    taken = keeps(authority, lambda: revocations(authority, issued.certificate.serial_number))
    with pytest.raises(UntrustedError, match="is revoked by its issuer"):
        taken.judge(issued.chain, now)
    assert taken.judge(other.chain, now)
    ended = keeps(authority, lambda: revocations(authority, ends=timedelta(seconds=-1)))
    with pytest.raises(UnavailableError, match="whether the peer was revoked can not be said now"):
        ended.judge(issued.chain, now)
    with pytest.raises(UnavailableError):
        keeps(authority, None).judge(issued.chain, now)


def test_a_list_is_kept_until_it_ends_and_renewed_before(authority: Authority, result: AttestationResult) -> None:
    """A Steward that is down for a while stops nothing; a revocation is known within a minute of its being there."""
    issued, clock = listed(authority, result), Clock()
    now = datetime.now(UTC)
    answers: list[bytes | None] = [revocations(authority, ends=timedelta(minutes=30))]

    def fetch() -> bytes:
        if answers[-1] is None:
            raise UnavailableError("down")
        return answers[-1]

    judge = keeps(authority, fetch, clock)
    assert judge.judge(issued.chain, now)
    answers.append(None)
    clock.now += REFRESH
    assert judge.judge(issued.chain, now)
    with pytest.raises(UnavailableError):
        judge.judge(issued.chain, now + timedelta(minutes=31))
    answers.append(revocations(authority, issued.certificate.serial_number, number=2))
    assert judge.judge(issued.chain, now), "not asked again so soon"
    clock.now += REFRESH
    with pytest.raises(UntrustedError, match="is revoked"):
        judge.judge(issued.chain, now)


def test_somebody_elses_list_neither_counts_nor_pushes_ours_out(
    authority: Authority, foreign: Authority, result: AttestationResult
) -> None:
    """A list of the same name and a higher number under another key is passed over."""
    issued, clock = listed(authority, result), Clock()
    answers = [revocations(authority, issued.certificate.serial_number)]
    judge = keeps(authority, lambda: answers[-1], clock)
    now = datetime.now(UTC)
    for number in range(2, 9):
        with pytest.raises(UntrustedError, match="is revoked"):
            judge.judge(issued.chain, now)
        answers.append(revocations(foreign, number=number))
        clock.now += REFRESH


def test_a_steward_that_changed_its_intermediate_publishes_both_lists(
    authority: Authority, foreign: Authority, result: AttestationResult
) -> None:
    """In PEM, the one in force first; a certificate of either is judged by its own issuer's list."""
    issued = (listed(authority, result), listed(foreign, result))
    lists = b"".join(pem("X509 CRL", revocations(each)) for each in (authority, foreign))
    anchors = tuple(Certificate.parse(each.issued.der) for each in (authority, foreign))
    judge = Keeps(anchors=anchors, sources=(CrlSource("steward", lambda: lists, Clock()),))
    assert all(judge.judge(each.chain, datetime.now(UTC)) is not None for each in issued)
