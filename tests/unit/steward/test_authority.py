"""The spine: every request ends at one gate, with its reason, or in a certificate."""

from datetime import timedelta

import pytest

from enarx import der
from enarx.attested.result import AttestationResult
from enarx.errors import UnavailableError
from enarx.pki import chain, csr, keys
from enarx.pki.certificate import Certificate, Extension
from enarx.steward.authority import NO_EVIDENCE, Authority, Decision
from enarx.steward.nonce import LIFETIME
from enarx.steward.revocation import Revocations
from enarx.tee.model import Verdict
from enarx.toml import ConfigError
from tests.unit.steward import support

AT = support.AT


def refused(authority: Authority, request: bytes) -> Decision:
    issuance = authority.issue([request], AT)
    assert issuance.issued == ()
    assert issuance.refused is not None
    return issuance.refused


def issued(authority: Authority, request: bytes) -> Certificate:
    issuance = authority.issue([request], AT)
    assert issuance.refused is None, issuance.refused
    return issuance.issued[0]


def test_the_original_form_of_no_tee_is_certified_as_unattested() -> None:
    """The originals' empty KVM extension gets a certificate that says what it is worth."""
    authority = support.authority()
    leaf = issued(authority, support.request(support.nil_evidence()))
    chain.verify_issued(leaf, authority.issuer.certificate, "leaf")
    result = AttestationResult.from_certificate(leaf)
    assert result is not None
    assert (result.technology, result.simulated, result.claims) == ("nil", False, None)
    assert b"UNATTESTED" in leaf.subject


def test_a_keep_with_claims_gets_them_certified() -> None:
    """What the claims say stands in the certificate, and the workload is its name."""
    authority = support.authority()
    claims = support.claims_for(authority)
    leaf = issued(authority, support.request(support.nil_evidence(), support.claims_extension(claims)))
    result = AttestationResult.from_certificate(leaf)
    assert result is not None
    assert result.claims == claims
    assert authority.profile.spiffe_id(result) == f"spiffe://example.com/workload/sha-256/{support.WORKLOAD.hex}"


def test_no_evidence_is_not_attested() -> None:
    """A request without evidence is told apart from one whose evidence is refused."""
    decision = refused(support.authority(), support.request())
    assert (decision.verdict, decision.attested, decision.reasons) == (Verdict.UNTRUSTED, False, (NO_EVIDENCE,))


def test_nil_is_untrusted_unless_accepted_by_name() -> None:
    """No TEE is untrusted where the configuration does not accept it by name."""
    text = "[unsafe]\nallow_any_measurement = true\n"
    try:
        authority = support.authority(text)
    except ConfigError as error:
        pytest.skip(str(error))
    decision = refused(authority, support.request(support.nil_evidence()))
    assert decision.verdict is Verdict.UNTRUSTED
    assert "nil.accepted_by_name" in decision.reasons[0]


def test_a_foreign_audience_is_untrusted() -> None:
    """Claims that were made for another Steward are of no use here."""
    authority = support.authority()
    claims = support.claims_for(authority, audience="https://other.example.com")
    decision = refused(authority, support.request(support.nil_evidence(), support.claims_extension(claims)))
    assert decision.verdict is Verdict.UNTRUSTED
    assert decision.reasons == (
        "claims.audience: expected https://steward.example.com, found https://other.example.com",
    )


def test_a_missing_nonce_is_untrusted() -> None:
    """Claims without a nonce are refused unless policy makes it optional."""
    authority = support.authority()
    request = support.request(
        support.nil_evidence(), support.claims_extension(support.claims_for(authority, nonce=None))
    )
    assert refused(authority, request).reasons == ("claims.nonce: expected a nonce of this Steward, found none",)
    assert issued(support.authority('nonce = "optional"\n' + support.ACCEPT_NIL), request).not_after > AT


def test_always_a_nonce_refuses_the_original_form() -> None:
    """Where policy always asks for a nonce, a request that cannot carry one is untrusted."""
    authority = support.authority('nonce = "always"\n' + support.ACCEPT_NIL)
    assert refused(authority, support.request(support.nil_evidence())).verdict is Verdict.UNTRUSTED


def test_a_replay_gains_nothing_and_ends_with_the_nonce() -> None:
    """The same request again within the nonce's life: a certificate for the same key, of use to its holder alone.

    Afterwards it is refused, by the Steward's clock and whatever the sender's says.
    """
    authority = support.authority()
    request = support.request(support.nil_evidence(), support.claims_extension(support.claims_for(authority)))
    first, again = issued(authority, request), issued(authority, request)
    assert first.spki == again.spki
    late = authority.issue([request], AT + LIFETIME + timedelta(seconds=1))
    assert late.refused is not None
    assert late.issued == ()


def test_an_old_nonce_is_untrusted() -> None:
    """A nonce ends after minutes."""
    authority = support.authority()
    old = authority.nonce(AT - LIFETIME - timedelta(seconds=1))
    request = support.request(
        support.nil_evidence(), support.claims_extension(support.claims_for(authority, nonce=old))
    )
    assert "601 seconds old" in refused(authority, request).reasons[0]


@pytest.mark.parametrize("position", [0, 8, 24, 55])
def test_an_altered_nonce_is_untrusted(position: int) -> None:
    """No part of a nonce can be changed by who does not hold the key."""
    authority = support.authority()
    nonce = bytearray(authority.nonce(AT))
    nonce[position] ^= 1
    claims = support.claims_for(authority, nonce=bytes(nonce))
    request = support.request(support.nil_evidence(), support.claims_extension(claims))
    assert refused(authority, request).reasons == ("nonce: not one that https://steward.example.com issued",)


@pytest.mark.parametrize("oid", ["2.5.29.17", "2.5.29.37", "2.5.29.15", "1.2.3.4"])
def test_requested_extensions_other_than_evidence_are_malformed(oid: str) -> None:
    """Names and usages are not for the requester to choose."""
    extension = Extension(oid=oid, critical=False, value=b"\x30\x00")
    decision = refused(support.authority(), support.request(support.nil_evidence(), extension))
    assert decision.verdict is Verdict.MALFORMED
    assert decision.reasons == (f"certification request: extension {oid} is neither evidence nor runtime claims",)


def test_critical_evidence_is_malformed() -> None:
    """Evidence must not be critical, as with the originals."""
    extension = Extension(oid=support.NIL_OID, critical=True, value=b"")
    assert refused(support.authority(), support.request(extension)).verdict is Verdict.MALFORMED


def test_evidence_that_cannot_be_read_is_malformed() -> None:
    """The nil extension is empty or it is not one."""
    extension = Extension(oid=support.NIL_OID, critical=False, value=b"x")
    decision = refused(support.authority(), support.request(extension))
    assert decision.verdict is Verdict.MALFORMED
    assert decision.reasons == ("nil evidence: expected an empty extension, found 1 bytes",)


def test_a_wrong_signature_is_malformed() -> None:
    """Who does not hold the key gets nothing."""
    data = bytearray(support.request(support.nil_evidence()))
    data[-1] ^= 1
    assert refused(support.authority(), bytes(data)).verdict is Verdict.MALFORMED


def test_the_attestation_attribute_is_an_envelope() -> None:
    """Evidence in the IETF attribute is the same evidence; of a type that nobody knows, it is malformed."""
    key = keys.generate("P-256")

    def enveloped(oid_der: bytes, statement: bytes) -> bytes:
        bundle = der.wrap(0x30, der.wrap(0x30, der.wrap(0x30, oid_der + statement)))
        attribute_oid = bytes.fromhex("060b2a864886f70d010910023b")
        attribute = der.wrap(0x30, attribute_oid + der.wrap(0x31, bundle))
        info = der.wrap(0x30, b"\x02\x01\x00\x30\x00" + keys.spki(key) + der.wrap(0xA0, attribute))
        from cryptography.hazmat.primitives.asymmetric import ec

        signature = key.sign(info, ec.ECDSA(keys.hash_of(key)))
        return der.wrap(0x30, info + chain.ECDSA_SHA256 + der.wrap(0x03, b"\0" + signature))

    nil_oid = bytes.fromhex("060a2b0601040183c71e0101")
    decision = refused(support.authority(), enveloped(nil_oid, b"\x05\x00"))
    assert decision.reasons == ("nil evidence: expected an empty extension, found 2 bytes",)
    decision = refused(support.authority(), enveloped(bytes.fromhex("06022a03"), b"\x05\x00"))
    assert "statement of type 1.2.3 is not evidence" in decision.reasons[0]


def test_a_bundle_is_all_or_nothing() -> None:
    """One refused request among many means no certificate for any."""
    authority = support.authority()
    good = support.request(support.nil_evidence())
    issuance = authority.issue([good, support.request(), good], AT)
    assert issuance.issued == ()
    assert [decision.accepted for decision in issuance.decisions] == [True, False]
    assert len(authority.issue([good] * 5, AT).issued) == 5
    assert authority.issue([], AT).refused is None


def test_what_the_operator_revoked_is_rejected() -> None:
    """A workload that was revoked is not certified again."""
    rules = Revocations().adding("workload", support.WORKLOAD.hex, AT)
    authority = support.authority(revocations=lambda: rules)
    claims = support.claims_extension(support.claims_for(authority))
    decision = refused(authority, support.request(support.nil_evidence(), claims))
    assert decision.verdict is Verdict.REJECTED
    assert decision.reasons == (f"revocation: workload {support.WORKLOAD.hex} was revoked by the operator",)


def test_an_ended_issuer_issues_nothing() -> None:
    """A CA certificate that has ended is our trouble, not the requester's."""
    authority = support.authority()
    with pytest.raises(UnavailableError, match="the issuing certificate is valid from"):
        authority.issue([support.request(support.nil_evidence())], AT + timedelta(days=366))


def test_a_certificate_does_not_outlive_its_issuer() -> None:
    """The end is the earliest of lifetime and issuer."""
    authority = support.authority()
    near = authority.issuer.certificate.not_after - timedelta(minutes=5)
    leaf = authority.issue([support.request(support.nil_evidence())], near).issued[0]
    assert leaf.not_after == authority.issuer.certificate.not_after


def test_names_and_lifetime_are_granted_never_taken() -> None:
    """Wishes are met as far as policy allows for that workload, and no further."""
    text = support.ACCEPT_NIL + (
        "[certificate]\nlifetime = 7200\ndns_names = ['localhost']\n"
        f"[[certificate.workload]]\ndigest = '{support.WORKLOAD}'\nmay_request = ['a.example.com']\nlifetime = 3600\n"
    )
    authority = support.authority(text)
    wished = ("a.example.com", "b.example.com")
    claims = support.claims_for(authority, names=wished, lifetime=600)
    leaf = issued(authority, support.request(support.nil_evidence(), support.claims_extension(claims)))
    names = leaf.extensions["2.5.29.17"].value
    assert b"localhost" in names
    assert b"a.example.com" in names
    assert b"b.example.com" not in names
    assert leaf.not_after == AT + timedelta(seconds=600)
    plain = issued(authority, support.request(support.nil_evidence()))
    assert plain.not_after == AT + timedelta(seconds=7200)


def test_the_request_chooses_no_subject() -> None:
    """The subject of a request is ignored."""
    assert csr.CertificationRequest.parse(support.request()).subject == b"\x30\x00"
    leaf = issued(support.authority(), support.request(support.nil_evidence()))
    assert leaf.extensions["2.5.29.17"].critical is False
