"""A simulated SNP machine asks for certificates: each refusal at its gate, and what an acceptance says."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest

from enarx import der, toml
from enarx.attested.claims import report_data
from enarx.attested.result import AttestationResult
from enarx.pki import csr, keys
from enarx.pki.certificate import Extension
from enarx.steward.authority import Authority, Decision
from enarx.steward.collateral import Directory
from enarx.steward.highest import Highest
from enarx.steward.policy import Judging, Policy, read_policy, simulated_anchor
from enarx.steward.revocation import rule_value
from enarx.tee.model import Evidence, Verdict
from enarx.tee.snp.report import OID
from enarx.tee.snp.simulator import SnpMachine, Vendor
from tests.unit.steward import support
from tests.values import replace

AT = support.AT
MEASUREMENT = bytes(range(48))
ACCEPT = f"[snp]\nhash = ['{MEASUREMENT.hex()}']\n[unsafe]\naccept_simulated = true\n"


@dataclass(frozen=True, kw_only=True)
class World:
    """A vendor, one of its machines, and a Steward that may believe it."""

    vendor: Vendor
    machine: SnpMachine
    authority: Authority

    @classmethod
    def create(cls, text: str = ACCEPT, vendor: Vendor | None = None, memory: Highest | None = None) -> Self:
        made = vendor or Vendor.create(AT)
        machine = SnpMachine.create(made, AT, measurement=MEASUREMENT)
        return cls(vendor=made, machine=machine, authority=support.authority(policy=believing(made, text, memory)))

    def evidence(self, data: bytes) -> Evidence:
        return self.machine.evidence(data)

    def request(self, *, claims: bool = True, curve: keys.Curve = "P-384", other_key: bool = False) -> bytes:
        key = keys.generate(curve)
        bound = keys.generate(curve) if other_key else key
        said = support.claims_for(self.authority) if claims else None
        evidence = self.evidence(report_data("sha-384", keys.spki(bound), said.encode() if said else None))
        extensions = [Extension(oid=evidence.oid, critical=False, value=evidence.body)]
        return csr.build(key, [*extensions, *([support.claims_extension(said)] if said else [])])

    def refused(self, request: bytes | None = None) -> Decision:
        issuance = self.authority.issue([request or self.request()], AT)
        assert issuance.refused is not None
        assert issuance.issued == ()
        return issuance.refused

    def accepted(self) -> bool:
        return self.authority.issue([self.request()], AT).refused is None


class Original(World):
    """The same Keep in the originals' form: the VCEK alone, no intermediate."""

    def evidence(self, data: bytes) -> Evidence:
        return self.machine.evidence(data, OID)


class Oldest(World):
    """The same Keep in the form from before CRLs."""

    def evidence(self, data: bytes) -> Evidence:
        report = self.machine.report(data)
        return Evidence(oid=OID, body=der.wrap(0x30, self.machine.certificate + der.wrap(0x04, report)))


def believing(vendor: Vendor, text: str = ACCEPT, memory: Highest | None = None) -> Policy:
    document = toml.parse(text, source="steward.toml")
    anchor = vendor.anchor()
    assert anchor.certificate is not None
    simulated = [simulated_anchor("amd", anchor.certificate)] if "accept_simulated" in text else []
    found = read_policy(document, simulated, judging=Judging(memory=memory))
    document.end()
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return World.create()


def test_a_simulated_keep_is_certified_as_simulated(world: World) -> None:
    """The certificate says technology, measurement, chip, simulated, and the claims that the report binds."""
    issuance = world.authority.issue([world.request()], AT)
    assert issuance.refused is None, issuance.refused
    leaf = issuance.issued[0]
    result = AttestationResult.from_certificate(leaf)
    assert result is not None
    assert (result.technology, result.simulated, result.debug) == ("snp", True, False)
    assert (result.measurement, result.tcb_status) == (MEASUREMENT, "UpToDate")
    assert result.chip == sha256(world.machine.chip_id).digest()
    assert result.claims is not None
    assert result.claims.workload == support.WORKLOAD
    assert b"SIMULATED" in leaf.subject
    claims = issuance.decisions[0].appraisals[0].claims
    assert claims is not None
    assert leaf.not_after <= claims.expires


def test_a_simulated_vendor_is_untrusted_by_default() -> None:
    """Without its root and the word under `[unsafe]`, only AMD's own roots count."""
    decision = World.create(f"[snp]\nhash = ['{MEASUREMENT.hex()}']\n").refused()
    assert decision.verdict is Verdict.UNTRUSTED
    assert "is not trusted here" in decision.reasons[0]


def test_a_report_for_another_key_is_untrusted(world: World) -> None:
    """Evidence captured elsewhere is of no use with another key."""
    decision = world.refused(world.request(other_key=True))
    assert (decision.verdict, decision.reasons[0].split(":")[0]) == (Verdict.UNTRUSTED, "binding")


def test_the_key_has_the_type_of_the_endorsing_key(world: World) -> None:
    """SNP reports are endorsed on P-384, so a request with P-256 is refused."""
    decision = world.refused(world.request(curve="P-256"))
    assert decision.reasons == ("request.key_type: expected P-384, as the key that endorses AMD SEV-SNP, found P-256",)


def test_another_measurement_is_rejected() -> None:
    """What policy does not list is rejected."""
    decision = World.create(ACCEPT.replace(MEASUREMENT.hex(), "ff" * 48)).refused()
    assert decision.verdict is Verdict.REJECTED
    assert decision.reasons == (f"policy.hash: expected {'ff' * 48}, found {MEASUREMENT.hex()}",)


def test_any_measurement_only_by_name() -> None:
    """A table that lists no measurement is refused, unless `[unsafe]` says so by name."""
    with pytest.raises(toml.ConfigError, match="snp: lists no measurement"):
        World.create("[snp]\nvmpl = [0]\n")
    assert World.create("[unsafe]\naccept_simulated = true\nallow_any_measurement = true\n").accepted()


def test_a_steward_is_strict_where_nothing_is_said() -> None:
    """Without a table but with any measurement allowed, VMPL and host data must still be zero."""
    world = World.create("[unsafe]\naccept_simulated = true\nallow_any_measurement = true\n")
    for fields in ({"vmpl": 1}, {"host_data": b"\1" * 32}, {"version": 2, "cpuid": None}):
        template = replace(world.machine.template, **fields)
        altered = replace(world, machine=replace(world.machine, template=template))
        assert altered.refused().verdict is Verdict.REJECTED


def test_the_originals_form_takes_the_chain_from_the_collateral(tmp_path: Path) -> None:
    """The VCEK alone is not enough under a vendor whose intermediate nobody has."""
    world = Original.create()
    assert world.refused().verdict is Verdict.UNTRUSTED
    for name, data in world.vendor.publish(AT).items():
        (tmp_path / name).write_bytes(data)
    served = replace(world, authority=replace(world.authority, collateral=Directory(tmp_path).current))
    assert served.accepted()


def test_the_form_from_before_crls_is_refused_by_a_server(tmp_path: Path) -> None:
    """Malformed, and the reason says which form it is, whatever the collateral holds."""
    world = Oldest.create()
    for name, data in world.vendor.publish(AT).items():
        (tmp_path / name).write_bytes(data)
    decision = replace(world, authority=replace(world.authority, collateral=Directory(tmp_path).current)).refused()
    assert (decision.verdict, decision.reasons) == (
        Verdict.MALFORMED,
        ("snp: an older form of SNP evidence: without CRLs",),
    )


def test_a_revoked_intermediate_in_the_collateral_counts_at_once(tmp_path: Path) -> None:
    """AMD takes the ASK back; evidence with an older list does not help."""
    world = World.create()
    world = replace(world, authority=replace(world.authority, collateral=Directory(tmp_path).current))
    assert world.accepted()
    revoked = world.vendor.revoke(world.vendor.ask.certificate)
    (tmp_path / "amd.crl").write_bytes(revoked.crl(AT))
    assert world.refused().reasons[0].startswith("revocation.intermediate")


def test_a_list_that_was_superseded_never_counts_again(tmp_path: Path) -> None:
    """A newer CRL was seen: the older one, signed and current, is refused."""
    vendor = Vendor.create(AT)
    memory = Highest(tmp_path / ".highest.json")
    world = World.create(vendor=vendor, memory=memory)
    newer = replace(vendor, crl_number=vendor.crl_number + 1)
    ahead = replace(world, machine=world.machine.with_endorsements(newer.endorsements(AT)))
    assert world.accepted()
    assert ahead.accepted()
    refused = world.refused()
    assert refused.verdict is Verdict.UNTRUSTED
    assert any("is a rollback" in reason for reason in refused.reasons), refused.reasons


def test_a_certificate_does_not_outlive_the_crl() -> None:
    """It ends with the list that says its chain is not revoked."""
    world = World.create()
    ends = world.machine.endorsements.certificates, (world.vendor.crl(AT, lifetime=timedelta(hours=1)),)
    soon = world.machine.with_endorsements(replace(world.machine.endorsements, certificates=ends[0], crls=ends[1]))
    issuance = replace(world, machine=soon).authority.issue([replace(world, machine=soon).request()], AT)
    assert issuance.issued[0].not_after <= AT + timedelta(hours=1)


def test_a_short_chip_id_is_revoked_in_both_writings() -> None:
    """AMD's ids of 8 bytes, bare and as they stand in a report."""
    chip = bytes(range(1, 9))
    assert rule_value("chip", chip.hex()) == rule_value("chip", chip.ljust(64, b"\0").hex()) == sha256(chip).hexdigest()
