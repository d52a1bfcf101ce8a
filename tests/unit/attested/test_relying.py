"""Who is this peer: accepted, or refused at the gate that has to refuse it, with its reason."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx import toml
from enarx.attested.claims import RuntimeClaims, SealingKey
from enarx.attested.relying import (
    MEASUREMENT_SIZES,
    TCB_STATUSES,
    TITLES,
    Expectation,
    Peer,
    attested_clients,
    judge_peer,
    peer_chain,
)
from enarx.attested.result import ATTESTATION_RESULT_OID, AttestationResult
from enarx.digest import Digest
from enarx.errors import MalformedError, RejectedError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.crl import Crl
from enarx.tee import TECHNOLOGIES
from enarx.tee.dcap.collateral import STATUSES
from enarx.toml import ConfigError

Fixture = Any  # Any: fixtures of the conftest beside the rooms, whose module has no name to import from

NOW = datetime.now(UTC).replace(microsecond=0)


WORKLOAD = Digest.of(b"workload")
OTHER = Digest.of(b"other")
CLAIMS = RuntimeClaims(
    audience="https://steward.example",
    digests=(WORKLOAD,),
    slug="localhost/user/repo:1.0.0",
    sealing=SealingKey(kem=0x20, key=b"k"),
    config=bytes(32),
)
REAL = AttestationResult(
    technology="snp",
    simulated=False,
    debug=False,
    measurement=b"\x11" * 48,
    signer=b"\x22" * 48,
    tcb_status="UpToDate",
    tcb_date=datetime(2026, 1, 1, tzinfo=UTC),
    advisories=("AMD-SB-3019",),
    appraised_at=NOW - timedelta(minutes=10),
    policy=bytes(32),
    claims=CLAIMS,
)
SIMULATED = replace(REAL, simulated=True)
NIL = replace(REAL, technology="nil", measurement=b"", signer=None)
ID = f"spiffe://example.org/workload/sha-256/{WORKLOAD.hex}"
STRICT = Expectation()
ANY = Expectation(accept_simulated=True, accept_nil=True, accept_debug=True)


@pytest.fixture(scope="module")
def authority(authority: Fixture) -> Fixture:
    """The same, issuing at the moment at which everything here is judged."""
    return replace(authority, at=NOW)


@pytest.fixture(scope="module")
def foreign(foreign: Fixture) -> Fixture:
    """The same, of the authority that nobody trusts."""
    return replace(foreign, at=NOW)


def organization(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])


def issue(by: Fixture, result: AttestationResult | None = REAL, **named: Any) -> Fixture:
    return by.attest(result, **named)


def judged(issued: Fixture, anchors: Sequence[Fixture], expectation: Expectation = STRICT, **named: Any) -> Peer:
    parsed = [Certificate.parse(anchor.issued.der) for anchor in anchors]
    return judge_peer(issued.chain, parsed, expectation, named.pop("at", NOW), **named)


def test_a_peer_is_what_its_certificate_says(authority: Fixture) -> None:
    """Everything a relying party wants to know, from the result that a trusted Steward signed."""
    peer = judged(issue(authority), [authority])
    assert (peer.technology, peer.simulated, peer.debug) == ("snp", False, False)
    assert peer.workload == WORKLOAD
    assert peer.slug_claimed == "localhost/user/repo:1.0.0"
    assert peer.sealing_key == CLAIMS.sealing
    assert peer.config_digest == bytes(32)
    assert (peer.spiffe_id, peer.trust_domain, peer.dns_names) == (ID, "example.org", ("localhost",))
    assert peer.expires == peer.certificate.not_after


def test_an_intermediate_may_stand_between(authority: Fixture, foreign: Fixture) -> None:
    """The path goes through what the peer showed, up to whichever anchor it leads to."""
    between = authority.intermediate()
    issued = issue(between)
    assert judged(issued, [foreign, authority]).steward.common_name == "Test Intermediate"
    assert judged(issued, [between]).workload == WORKLOAD  # an intermediate may itself be the anchor


def test_without_a_workload_the_measurement_is_the_name(authority: Fixture) -> None:
    """A certificate of the originals' form names what was measured."""
    result = replace(REAL, claims=None)
    peer = judged(issue(authority, result, uris=[f"spiffe://example.org/keep/snp/{'11' * 48}"]), [authority])
    assert peer.workload is None
    assert peer.slug_claimed is None
    nil = replace(NIL, claims=None)
    assert judged(issue(authority, nil, uris=["spiffe://example.org/keep/nil"]), [authority], ANY).unattested


# -- malformed


def test_no_certificate_too_many_and_rubbish(authority: Fixture) -> None:
    """What can not be read as a short chain is refused before any cryptography."""
    anchors = [Certificate.parse(authority.issued.der)]
    issued = issue(authority)
    with pytest.raises(UntrustedError, match="peer: showed no certificate"):
        judge_peer([], anchors, ANY, NOW)
    with pytest.raises(MalformedError, match="at most 6 certificates, found 7"):
        judge_peer([issued.der] * 7, anchors, ANY, NOW)
    with pytest.raises(MalformedError, match="peer: certificate 1"):
        judge_peer([issued.der, b"rubbish"], anchors, ANY, NOW)


def test_a_result_that_can_not_be_read_is_malformed(authority: Fixture) -> None:
    """A result of another layout is not guessed at."""
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(ATTESTATION_RESULT_OID), b"\x30\x00")
    with pytest.raises(MalformedError, match="attestation result"):
        judged(issue(authority, None, extensions=[(value, False)]), [authority])


# -- untrusted


def test_a_certificate_of_another_ca_is_untrusted(authority: Fixture, foreign: Fixture) -> None:
    """The same name on another key does not make a Steward, and no anchors make none."""
    with pytest.raises(UntrustedError, match="the signature is wrong"):
        judged(issue(foreign), [authority], ANY)
    with pytest.raises(UntrustedError, match="leads to none of the 0 trusted Stewards"):
        judged(issue(authority), [], ANY)
    with pytest.raises(UntrustedError, match="issued by CN=Other, which leads to none of the 1 trusted Stewards"):
        judged(issue(type(authority).root("Other")), [authority], ANY)


def test_a_self_signed_certificate_is_untrusted(authority: Fixture, foreign: Fixture) -> None:
    """A CA's own certificate is no workload's, even if that CA is trusted."""
    for who in (authority, foreign):
        with pytest.raises(UntrustedError):
            judged(who.issued, [authority], ANY)


def test_a_ca_is_no_end_entity(authority: Fixture) -> None:
    """A Steward that signs a CA certificate with a result in it has not certified a workload."""
    with pytest.raises(UntrustedError, match="is a CA's"):
        judged(issue(authority, ca=True), [authority], ANY)


@pytest.mark.parametrize(
    ("shift", "message"), [(timedelta(hours=2), "expired at"), (timedelta(hours=-1), "not valid before")]
)
def test_a_certificate_out_of_its_time_is_untrusted(authority: Fixture, shift: timedelta, message: str) -> None:
    """Certificates live for hours, and the moment is the caller's."""
    with pytest.raises(UntrustedError, match=message):
        judged(issue(authority), [authority], ANY, at=NOW + shift)


def test_a_certificate_without_a_result_is_untrusted(authority: Fixture) -> None:
    """Whatever else a Steward signs, it is no attested peer."""
    with pytest.raises(UntrustedError, match="no attestation result"):
        judged(issue(authority, None), [authority], ANY)


@pytest.mark.parametrize(
    ("uris", "message"),
    [
        ([], "expected one URI in its certificate, found 0"),
        ([ID, ID + "0"], "expected one URI in its certificate, found 2"),
        (["https://example.org/workload"], "expected a SPIFFE id"),
        (["spiffe://EXAMPLE.org/workload"], "expected a SPIFFE id"),
        ([f"spiffe://example.org/workload/sha-256/{OTHER.hex}"], "as its attestation result says"),
        ([f"spiffe://example.org/keep/snp/{'11' * 48}"], "as its attestation result says"),
        ([ID + "/more"], "as its attestation result says"),
    ],
)
def test_a_wrong_spiffe_id_is_untrusted(authority: Fixture, uris: list[str], message: str) -> None:
    """The name that other systems match must be the one that the result proves."""
    with pytest.raises(UntrustedError, match=message):
        judged(issue(authority, uris=uris), [authority], ANY)


@pytest.mark.parametrize(
    ("result", "subject"),
    [
        (SIMULATED, x509.Name([])),
        (NIL, organization("SIMULATED")),
        (REAL, organization("SIMULATED")),
        (SIMULATED, organization("Real Hardware Ltd")),
    ],
)
def test_a_subject_that_says_otherwise_is_untrusted(
    authority: Fixture, result: AttestationResult, subject: x509.Name
) -> None:
    """Who sees only names is warned exactly when the result warns."""
    with pytest.raises(UntrustedError, match="subject: expected organization"):
        judged(issue(authority, result, subject=subject), [authority], ANY)


def test_a_certificate_for_the_other_side_is_untrusted(authority: Fixture) -> None:
    """A client's certificate serves no server, and the other way round; none says nothing."""
    client = issue(authority, usages=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    assert judged(client, [authority], side="client").workload == WORKLOAD
    with pytest.raises(UntrustedError, match="not for a TLS server"):
        judged(client, [authority], side="server")
    with pytest.raises(UntrustedError, match="not for a TLS client"):
        judged(issue(authority, usages=()), [authority], side="client")


def test_an_unknown_critical_extension_is_untrusted(authority: Fixture) -> None:
    """What must be understood and is not, is refused."""
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(UntrustedError, match=r"critical extension 1\.2\.3\.4"):
        judged(issue(authority, extensions=[(strange, True)]), [authority], ANY)


# -- revocation


def crl(by: Fixture, *revoked: Fixture, ends: timedelta = timedelta(hours=1)) -> Crl:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.issued.certificate.subject)
        .last_update(NOW - timedelta(hours=2))
        .next_update(NOW + ends)
    )
    for item in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(item.certificate.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    return Crl.parse(builder.sign(by.issued.key, SHA256()).public_bytes(Encoding.DER))


def with_list(by: Fixture) -> Fixture:
    uri = x509.UniformResourceIdentifier("https://steward.example/crl")
    point = x509.DistributionPoint(full_name=[uri], relative_name=None, reasons=None, crl_issuer=None)
    return issue(by, extensions=[(x509.CRLDistributionPoints([point]), False)])


def test_a_revoked_certificate_is_untrusted(authority: Fixture) -> None:
    """With lists, a certificate that names one is looked up in its issuer's."""
    issued, other = with_list(authority), with_list(authority)
    assert judged(issued, [authority], crls=[crl(authority, other)]).workload == WORKLOAD
    with pytest.raises(UntrustedError, match="is revoked by its issuer"):
        judged(issued, [authority], crls=[crl(authority, issued)])


def test_without_a_current_list_nothing_can_be_said(authority: Fixture, foreign: Fixture) -> None:
    """A list that is missing, too old or another's is unavailable: neither yes nor a reason against the peer."""
    for lists in ([], [crl(authority, ends=timedelta(minutes=-1))], [crl(foreign)]):
        with pytest.raises(UnavailableError, match="revoked can not be said"):
            judged(with_list(authority), [authority], crls=lists)


def test_a_certificate_that_names_no_list_needs_none(authority: Fixture) -> None:
    """A CA that publishes no list is no reason to refuse."""
    assert judged(issue(authority), [authority], crls=[]).workload == WORKLOAD


# -- rejected


@pytest.mark.parametrize(
    ("result", "expectation", "reason"),
    [
        (SIMULATED, Expectation(), "technology: expected real hardware, found a simulated TEE"),
        (NIL, Expectation(), "technology: expected a TEE, found none"),
        (NIL, Expectation(accept_nil=True, technologies=frozenset({"snp"})), "technology: expected snp, found nil"),
        (replace(REAL, debug=True), Expectation(), "debug: expected a TEE that its host can not read"),
        (REAL, Expectation(technologies=frozenset({"sgx", "tdx"})), "technology: expected sgx or tdx, found snp"),
        (REAL, Expectation(workloads=frozenset({OTHER})), f"workload: expected {OTHER}, found {WORKLOAD}"),
        (REAL, Expectation(workloads=frozenset()), f"workload: expected nothing at all, found {WORKLOAD}"),
        (REAL, Expectation(measurements=frozenset({bytes(48)})), "measurement: expected 0000"),
        (REAL, Expectation(signers=frozenset({bytes(48)})), "signer: expected 0000"),
        (REAL, Expectation(config_digests=frozenset({b"\1" * 32})), "deploy configuration: expected 0101"),
        (REAL, Expectation(tcb_statuses=frozenset({"SWHardeningNeeded"})), "TCB status: expected SWH"),
        (REAL, Expectation(trust_domains=frozenset({"a.example"})), "trust domain: expected a.example, found example"),
        (
            REAL,
            Expectation(max_age=timedelta(minutes=5)),
            "age: expected at most 5 min since it was judged, found 10 min",
        ),
    ],
)
def test_what_is_not_as_expected_is_rejected(
    authority: Fixture, result: AttestationResult, expectation: Expectation, reason: str
) -> None:
    """Authentic, but not what the caller wants: the reason says what was expected and found."""
    with pytest.raises(RejectedError) as caught:
        judged(issue(authority, result), [authority], expectation)
    assert len(caught.value.reasons) == 1
    assert caught.value.reasons[0].startswith(reason)


def test_every_reason_is_reported(authority: Fixture) -> None:
    """A caller learns of all that is wrong at once."""
    expectation = Expectation(workloads=frozenset({OTHER}), technologies=frozenset({"sgx"}))
    with pytest.raises(RejectedError) as caught:
        judged(issue(authority, SIMULATED), [authority], expectation)
    assert [reason.split(":")[0] for reason in caught.value.reasons] == ["technology", "technology", "workload"]


def test_a_missing_value_is_not_the_expected_one(authority: Fixture) -> None:
    """A peer without workload, signer or configuration does not pass where one is pinned."""
    bare = replace(REAL, claims=None, signer=None)
    issued = issue(authority, bare, uris=[f"spiffe://example.org/keep/snp/{'11' * 48}"])
    expectation = Expectation(
        workloads=frozenset({WORKLOAD}), signers=frozenset({bytes(48)}), config_digests=frozenset({bytes(32)})
    )
    with pytest.raises(RejectedError) as caught:
        judged(issued, [authority], expectation)
    assert len(caught.value.reasons) == 3
    assert all(reason.endswith("found none") for reason in caught.value.reasons)


def test_a_server_asks_for_attested_clients(authority: Fixture) -> None:
    """The policy of a server is the same judgement from the other side, with lists that may be renewed."""
    policy = attested_clients([Certificate.parse(authority.issued.der)], Expectation(), lambda: [crl(authority)])
    assert policy(with_list(authority).chain, NOW).workload == WORKLOAD
    with pytest.raises(UntrustedError):
        policy((), NOW)


# -- what people and programs see


def test_a_description_begins_with_what_is_not_proven(authority: Fixture) -> None:
    """Capitals first for what proves nothing; the slug is claimed, not proven."""
    lines = judged(issue(authority, replace(SIMULATED, debug=True)), [authority], ANY).describe(NOW)
    assert lines[0].startswith("SIMULATED: proves nothing")
    assert lines[1].startswith("DEBUG: protects nothing")
    assert "technology  snp (AMD SEV-SNP), SIMULATED" in lines
    assert f"workload    {WORKLOAD}" in lines
    assert "slug        localhost/user/repo:1.0.0 (claimed, not proven)" in lines
    assert "TCB         UpToDate of 2026-01-01, AMD-SB-3019" in lines
    assert any(line.startswith("certificate valid until") and "left)" in line for line in lines)
    assert judged(issue(authority, NIL), [authority], ANY).describe()[0].startswith("UNATTESTED: proves nothing")
    assert judged(issue(authority), [authority]).describe()[0] == "technology  snp (AMD SEV-SNP)"


def test_the_json_has_the_same(authority: Fixture) -> None:
    """Bytes in hex, moments in RFC 3339."""
    found = judged(issue(authority), [authority]).to_json()
    assert found["workload"] == str(WORKLOAD)
    assert found["measurement"] == "11" * 48
    assert found["simulated"] is False
    assert found["warnings"] == []
    assert found["appraised_at"] == f"{NOW - timedelta(minutes=10):%Y-%m-%dT%H:%M:%SZ}"


def test_something_that_is_no_tls_connection_shows_nothing() -> None:
    """A connection without TLS has no chain."""
    assert peer_chain(None) == ()


# -- the policy file


def test_a_policy_file_is_read_strictly() -> None:
    """Every key of an Expectation can be written down."""
    text = f"""
        workloads = ["{WORKLOAD}"]
        technologies = ["snp", "tdx"]
        measurements = ["{"11" * 48}"]
        tcb_statuses = ["UpToDate"]
        max_age_seconds = 3600
        [unsafe]
        accept_simulated = true
    """
    assert Expectation.from_table(toml.parse(text, source="policy.toml")) == Expectation(
        workloads=frozenset({WORKLOAD}),
        technologies=frozenset({"snp", "tdx"}),
        measurements=frozenset({b"\x11" * 48}),
        tcb_statuses=frozenset({"UpToDate"}),
        max_age=timedelta(hours=1),
        accept_simulated=True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('workload = ["x"]', "workload"),
        ('workloads = ["x"]', r"policy.toml:1: workloads\[0\]: "),
        ('technologies = ["snp", "nonsense"]', r"technologies\[1\]: expected one of snp"),
        ('measurements = ["xyz"]', r"measurements\[0\]"),
        ('measurements = ["00"]', r"measurements\[0\]: expected 32 or 48 or 64 bytes of hex, found 1"),
        (
            f'technologies = ["sgx"]\nmeasurements = ["{"11" * 48}"]',
            r":2: measurements\[0\]: expected 32 bytes of hex, found 48",
        ),
        (f'technologies = ["tdx"]\nsigners = ["{"11" * 48}"]', r"signers\[0\]: expected none"),
        ('tcb_statuses = ["Foo"]', r"tcb_statuses\[0\]: expected one of UpToDate"),
        ('trust_domains = ["not a domain"]', r"trust_domains\[0\]: expected a trust domain"),
        ("[unsafe]\naccept_everything = true", "accept_everything"),
        ("max_age_seconds = 0", "max_age_seconds"),
    ],
)
def test_a_policy_file_with_a_mistake_is_refused(text: str, message: str) -> None:
    """A mistake names its line and its key: a policy that is half read would accept too much."""
    with pytest.raises(ConfigError, match=message):
        Expectation.from_table(toml.parse(text, source="policy.toml"))


@pytest.mark.parametrize("technology", [each.name for each in TECHNOLOGIES if each.name != "nil"])
def test_a_policy_can_name_the_measurements_of_every_technology(technology: str) -> None:
    """Whatever Steward judges a relying party can ask for by its measurement."""
    assert technology in TITLES
    values = ["11" * size for size in MEASUREMENT_SIZES[technology]]
    text = f"technologies = {[technology]}\nmeasurements = {values}"
    found = Expectation.from_table(toml.parse(text, source="policy.toml"))
    assert found.measurements == frozenset(map(bytes.fromhex, values))


def test_a_policy_can_name_every_standing_of_a_tcb_that_a_certificate_can_have() -> None:
    """Intel's words are all known but the one that is never certified; AMD, Arm and Amazon need three of the list."""
    assert set(TCB_STATUSES) - {"NotReported", "Unattested"} == set(STATUSES) - {"Revoked"}
