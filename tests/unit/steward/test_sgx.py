"""A simulated SGX machine asks for certificates: each refusal at its gate, and what an acceptance says."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from enarx import der, toml
from enarx.attested.claims import report_data
from enarx.attested.result import AttestationResult
from enarx.errors import UnavailableError
from enarx.pki import csr, keys
from enarx.pki.certificate import Extension
from enarx.pki.chain import ECDSA_SHA256
from enarx.pki.crl import Crl
from enarx.steward.authority import Authority, Decision
from enarx.steward.collateral import Directory
from enarx.steward.highest import Highest
from enarx.steward.ledger import Ledger
from enarx.steward.policy import Judging, Policy, read_policy, simulated_anchor
from enarx.steward.request import ATTESTATION_ATTRIBUTE
from enarx.steward.revocation import Issued, Kind, rule_value
from enarx.tee.model import Verdict
from enarx.tee.sgx.simulator import SgxMachine, Vendor
from tests.unit.steward import support
from tests.values import replace

AT = support.AT
MEASUREMENT = bytes(range(32))
ACCEPT = f"[sgx]\nhash = ['{MEASUREMENT.hex()}']\n[unsafe]\naccept_simulated = true\n"


@dataclass(frozen=True, kw_only=True)
class World:
    """A vendor, one of its machines, and a Steward that may believe it."""

    vendor: Vendor
    machine: SgxMachine
    authority: Authority

    @classmethod
    def create(cls, text: str = ACCEPT, memory: Highest | None = None) -> Self:
        vendor = Vendor.create(AT)
        machine = SgxMachine.create(vendor, AT, mr_enclave=MEASUREMENT)
        return cls(vendor=vendor, machine=machine, authority=support.authority(policy=believing(vendor, text, memory)))

    def request(
        self, *, claims: bool = True, curve: keys.Curve = "P-256", other_key: bool = False, flip: int | None = None
    ) -> bytes:
        key = keys.generate(curve)
        bound = keys.generate(curve) if other_key else key
        said = support.claims_for(self.authority).encode() if claims else None
        data = report_data("sha-256", keys.spki(bound), said)
        if flip is not None:
            data = data[:flip] + bytes([data[flip] ^ 1]) + data[flip + 1 :]
        evidence = self.machine.evidence(data)
        extensions = [Extension(oid=evidence.oid, critical=False, value=evidence.body)]
        if claims:
            extensions.append(support.claims_extension(support.claims_for(self.authority)))
        return csr.build(key, extensions)

    def refused(self, request: bytes) -> Decision:
        issuance = self.authority.issue([request], AT)
        assert issuance.refused is not None
        assert issuance.issued == ()
        return issuance.refused


def believing(vendor: Vendor, text: str = ACCEPT, memory: Highest | None = None) -> Policy:
    document = toml.parse(text, source="steward.toml")
    anchor = vendor.anchor()
    assert anchor.certificate is not None
    simulated = [simulated_anchor("intel", anchor.certificate)] if "accept_simulated" in text else []
    found = read_policy(document, simulated, judging=Judging(memory=memory))
    document.end()
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


def test_a_simulated_keep_is_certified_as_simulated(world: World) -> None:
    """The certificate says technology, measurement, simulated, and the claims that the report binds."""
    issuance = world.authority.issue([world.request()], AT)
    assert issuance.refused is None, issuance.refused
    leaf = issuance.issued[0]
    result = AttestationResult.from_certificate(leaf)
    assert result is not None
    assert (result.technology, result.simulated, result.debug) == ("sgx", True, False)
    assert (result.measurement, result.tcb_status) == (MEASUREMENT, "UpToDate")
    assert result.claims is not None
    assert result.claims.workload == support.WORKLOAD
    assert result.policy == world.authority.policy.digest
    assert b"SIMULATED" in leaf.subject


def test_the_originals_form_is_named_by_its_measurement(world: World) -> None:
    """Without claims, the name is that of what was measured."""
    issuance = world.authority.issue([world.request(claims=False)], AT)
    assert (
        f"spiffe://example.com/keep/sgx/{MEASUREMENT.hex()}".encode()
        in issuance.issued[0].extensions["2.5.29.17"].value
    )


def test_a_report_for_another_key_is_untrusted(world: World) -> None:
    """Evidence captured elsewhere is of no use with another key."""
    decision = world.refused(world.request(other_key=True))
    assert decision.verdict is Verdict.UNTRUSTED
    assert decision.reasons[0].startswith("binding: expected")


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_all_64_bytes_are_bound(world: World, position: int) -> None:
    """The originals left the tail of the report data unchecked."""
    decision = world.refused(world.request(flip=position))
    assert (decision.verdict, decision.reasons[0].split(":")[0]) == (Verdict.UNTRUSTED, "binding")


def test_claims_that_the_report_does_not_bind_are_untrusted(world: World) -> None:
    """Claims that were exchanged on the way do not match the report."""
    key = keys.generate("P-256")
    said = support.claims_for(world.authority)
    evidence = world.machine.evidence(report_data("sha-256", keys.spki(key), said.encode()))
    other = replace(said, slug="evil.example.com/user/repo:1.0.0")
    request = csr.build(
        key, [Extension(oid=evidence.oid, critical=False, value=evidence.body), support.claims_extension(other)]
    )
    assert world.refused(request).reasons[0].startswith("binding")


def test_the_key_has_the_type_of_the_endorsing_key(world: World) -> None:
    """SGX quotes are endorsed on P-256, so a request with P-384 is refused."""
    decision = world.refused(world.request(curve="P-384"))
    assert decision.reasons == ("request.key_type: expected P-256, as the key that endorses Intel SGX, found P-384",)


def test_a_foreign_vendor_is_untrusted(world: World) -> None:
    """A machine of another vendor than the one that was named is untrusted."""
    stranger = Vendor.create(AT)
    machine = SgxMachine.create(stranger, AT, mr_enclave=MEASUREMENT)
    decision = replace(world, machine=machine).refused(replace(world, machine=machine).request())
    assert (decision.verdict, decision.reasons[0].split(":")[0]) == (Verdict.UNTRUSTED, "PCK chain")


def test_a_simulated_vendor_is_untrusted_by_default() -> None:
    """Without `[unsafe.simulated]` and `[unsafe]`, only the vendors' own roots count."""
    world = World.create(f"[sgx]\nhash = ['{MEASUREMENT.hex()}']\n")
    decision = world.refused(world.request())
    assert (decision.verdict, decision.reasons[0].split(":")[0]) == (Verdict.UNTRUSTED, "PCK chain")


def test_another_measurement_is_rejected() -> None:
    """What policy does not list is rejected, with every rule that says no."""
    world = World.create(ACCEPT.replace(MEASUREMENT.hex(), "ff" * 32))
    decision = world.refused(world.request())
    assert decision.verdict is Verdict.REJECTED
    assert decision.reasons == (f"policy.hash: expected {'ff' * 32}, found {MEASUREMENT.hex()}",)


def test_a_technology_without_a_table_is_rejected() -> None:
    """Authentic evidence of a technology that policy does not speak of is rejected, and says why."""
    world = World.create("[unsafe]\naccept_nil = true\naccept_simulated = true\n")
    decision = world.refused(world.request())
    assert decision.verdict is Verdict.REJECTED
    assert decision.reasons == ("sgx.configured: expected a table for this technology, found no [sgx] table",)


def test_any_measurement_only_by_name() -> None:
    """A table that lists no measurement is refused, unless `[unsafe]` says so by name."""
    with pytest.raises(toml.ConfigError, match=r"sgx: lists no measurement: expected hash or signer, or"):
        World.create("[sgx]\nenclave_product_id = 0\n")
    with pytest.raises(toml.ConfigError, match=r"sgx: an empty table"):
        World.create("[sgx]\n")
    world = World.create("[unsafe]\naccept_simulated = true\nallow_any_measurement = true\n")
    assert world.authority.issue([world.request()], AT).refused is None
    listed = World.create(
        "[sgx]\nenclave_product_id = 0\n[unsafe]\naccept_simulated = true\nallow_any_measurement = true\n"
    )
    assert listed.authority.issue([listed.request()], AT).refused is None


def test_evidence_may_be_too_old_or_of_unknown_age() -> None:
    """With `maximum_evidence_age`, the nonce says how old evidence is, and evidence without one is rejected."""
    world = World.create("maximum_evidence_age = 60\n" + ACCEPT)
    request = world.request()
    assert world.authority.issue([request], AT + timedelta(seconds=60)).refused is None
    late = world.authority.issue([request], AT + timedelta(seconds=61)).refused
    assert late is not None
    assert late.reasons == ("evidence.age: expected at most 60 seconds, found 61 seconds",)
    unknown = world.refused(world.request(claims=False))
    assert unknown.reasons == ("evidence.age: expected at most 60 seconds, found unknown, for no nonce is bound",)
    assert unknown.verdict is Verdict.REJECTED


@pytest.mark.parametrize("kind", ["TCB info SGX 00F1C7000000", "QE identity QE", "CRL of CN=Intel SGX Root CA"])
def test_what_was_superseded_never_counts_again(kind: str, tmp_path: Path) -> None:
    """Documents of a higher number were seen: older ones, signed and current, are refused, by other processes too."""
    world = World.create(memory=Highest(tmp_path / ".highest.json"))
    newer = replace(world.vendor, evaluation=world.vendor.evaluation + 1, crl_number=world.vendor.crl_number + 1)
    ahead = replace(world, machine=world.machine.with_endorsements(newer.endorsements(AT)))
    assert world.authority.issue([world.request()], AT).refused is None
    assert world.authority.issue([ahead.request()], AT).refused is None
    again = replace(
        world,
        authority=replace(world.authority, policy=believing(world.vendor, memory=Highest(tmp_path / ".highest.json"))),
    )
    refused = again.refused(again.request())
    assert refused.verdict is Verdict.UNTRUSTED
    assert any(kind in reason and "is a rollback" in reason for reason in refused.reasons), refused.reasons


@pytest.mark.parametrize("kind", ["measurement", "chip", "workload"])
def test_what_the_operator_takes_back_is_certified_no_more(kind: Kind, tmp_path: Path) -> None:
    """By measurement, chip or workload: what was issued stands in the list, and the next request is rejected."""
    world = World.create()
    ledger = Ledger(tmp_path)
    world = replace(world, authority=replace(world.authority, revocations=ledger.revocations))
    issuance = world.authority.issue([world.request()], AT)
    result = issuance.decisions[0].result
    assert result is not None
    ledger.record([Issued.of(issuance.issued[0].serial, result, issuance.issued[0].not_after)])
    pck = world.machine.machine.chain[0]
    chip = next(a.claims.chip for a in issuance.decisions[0].appraisals if a.claims is not None)
    text = {"measurement": MEASUREMENT.hex(), "chip": (chip or pck).hex(), "workload": support.WORKLOAD.hex}[kind]
    assert [item.serial for item in ledger.revoke(kind, rule_value(kind, text), AT)] == [
        f"{issuance.issued[0].serial:x}"
    ]
    signed = Crl.parse(ledger.crl(world.authority.issuer, AT, timedelta(hours=1)))
    assert signed.revoked == {issuance.issued[0].serial}
    refused = world.refused(world.request())
    assert refused.verdict is Verdict.REJECTED
    assert f"{kind} {rule_value(kind, text)} was revoked by the operator" in refused.reasons[0]


def test_a_memory_that_is_damaged_stops_the_steward(tmp_path: Path) -> None:
    """It is the operator's to repair, and no verdict on anybody's evidence."""
    (tmp_path / ".highest.json").write_text("{")
    world = World.create(memory=Highest(tmp_path / ".highest.json"))
    with pytest.raises(UnavailableError, match="the memory of the highest numbers was damaged"):
        world.authority.issue([world.request()], AT)


def test_only_what_was_verified_is_remembered(tmp_path: Path) -> None:
    """A forged document with a high number shuts nobody out."""
    world = World.create(memory=Highest(tmp_path / ".highest.json"))
    forger = replace(Vendor.create(AT), evaluation=999, crl_number=999)
    forged = replace(world, machine=world.machine.with_endorsements(forger.endorsements(AT)))
    assert forged.refused(forged.request()).verdict is Verdict.UNTRUSTED
    assert world.authority.issue([world.request()], AT).refused is None


def test_the_attestation_attribute_carries_the_same_evidence(world: World) -> None:
    """Evidence in the IETF attribute is judged as it is in an extension."""
    key = keys.generate("P-256")
    evidence = world.machine.evidence(report_data("sha-256", keys.spki(key), None))
    statement = der.wrap(0x30, der.oid(evidence.oid) + evidence.body)
    bundle = der.wrap(0x30, der.wrap(0x30, statement) + der.wrap(0x30, world.vendor.root.certificate))
    attribute = der.wrap(0x30, der.oid(ATTESTATION_ATTRIBUTE) + der.wrap(0x31, bundle))
    info = der.wrap(0x30, b"\x02\x01\x00\x30\x00" + keys.spki(key) + der.wrap(0xA0, attribute))
    signature = der.wrap(0x03, b"\0" + key.sign(info, ECDSA(SHA256())))
    assert world.authority.issue([der.wrap(0x30, info + ECDSA_SHA256 + signature)], AT).refused is None


def test_a_newly_published_crl_counts_at_once(tmp_path: Path) -> None:
    """The vendor revokes the machine; the next request is refused without a restart."""
    world = World.create()
    for name, data in world.vendor.publish(AT).items():
        (tmp_path / name).write_bytes(data)
    world = replace(world, authority=replace(world.authority, collateral=Directory(tmp_path).current))
    assert world.authority.issue([world.request()], AT).refused is None
    revoking = world.vendor.revoke(world.machine.machine.chain[0])
    for name, data in revoking.publish(AT + timedelta(seconds=1)).items():
        (tmp_path / name).write_bytes(data)
    later = AT + timedelta(minutes=1)
    decision = world.authority.issue([world.request()], later).refused
    assert decision is not None
    assert (decision.verdict, decision.reasons[0].split(":")[0]) == (Verdict.UNTRUSTED, "revocation.pck")


def test_a_certificate_does_not_outlive_its_collateral(world: World) -> None:
    """The certificate ends no later than the earliest document it rests on."""
    leaf = world.authority.issue([world.request()], AT).issued[0]
    appraisal = world.authority.issue([world.request()], AT).decisions[0].appraisals[0]
    assert appraisal.claims is not None
    assert leaf.not_after <= appraisal.claims.expires


def test_two_pieces_of_evidence_have_to_be_accepted_both(world: World) -> None:
    """One good piece of evidence does not carry a bad one."""
    key = keys.generate("P-256")
    evidence = world.machine.evidence(report_data("sha-256", keys.spki(key), None))
    good = Extension(oid=evidence.oid, critical=False, value=evidence.body)
    decision = world.refused(csr.build(key, [good, support.nil_evidence()]))
    assert (decision.verdict, decision.technology) == (Verdict.UNTRUSTED, "nil")
