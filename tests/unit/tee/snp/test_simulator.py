"""A simulated AMD: what it makes is accepted by whoever believes it, and by nobody else."""

import pytest

from enarx.errors import MalformedError
from enarx.tee import snp
from enarx.tee.appraise import judge
from enarx.tee.model import Binding, Endorsements, Evidence
from enarx.tee.snp import pinned
from enarx.tee.snp.policy import Policy
from enarx.tee.snp.report import OID, OID_WITH_CHAIN
from enarx.tee.snp.simulator import SnpMachine, Vendor
from enarx.tee.snp.vek import Kind
from tests.unit.tee.snp import support
from tests.values import replace

AT = support.AT
BOUND = Binding.of_report_data(support.REPORT_DATA)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("version", [3, 4, 5])
def test_what_a_simulated_machine_reports_is_accepted(product: str, kind: Kind, version: int) -> None:
    """Every product, kind of key and version of report, by a Steward's defaults."""
    case = support.case(product, kind, version)
    appraisal = case.judge()
    assert appraisal.reasons == ()
    assert appraisal.claims is not None
    assert (appraisal.claims.product, appraisal.claims.simulated) == (product, True)
    assert appraisal.claims.measurement == support.MEASUREMENT
    assert appraisal.claims.report_data == support.REPORT_DATA


def test_version_2_is_accepted_where_policy_says_so() -> None:
    """The originals' reports are of version 2, which tells no product; a Steward asks for 3 unless it says otherwise."""
    case = support.case(version=2)
    assert case.refused() == ("rejected", "policy.report_version")
    assert case.refused("minimum_report_version = 2") == ("accepted",)


def test_nobody_believes_a_simulator_unasked() -> None:
    """The vendors' own anchors do not vouch for it."""
    case = replace(support.case(), anchors=pinned.anchors())
    assert case.refused() == ("untrusted", "vek.chain")
    assert "is not trusted here" in case.reasons() or "pinned" in case.reasons()


@pytest.mark.parametrize("oid", [OID, OID_WITH_CHAIN])
def test_evidence_of_both_forms_is_accepted(oid: str) -> None:
    """The originals' form with the intermediate from the collateral, and ours by itself."""
    vendor, machine = support.vendor(), support.machine()
    collateral = Endorsements(certificates=(vendor.ask.certificate,)) if oid == OID else Endorsements()
    evidence = machine.evidence(support.REPORT_DATA, oid)
    appraisal = judge(snp.TECHNOLOGY, Policy(), [vendor.anchor()])(evidence, BOUND, collateral, AT)
    assert appraisal.reasons == ()


def test_a_saved_vendor_and_machine_are_read_again() -> None:
    """What `save` wrote, `load` reads: the same keys, documents and guest."""
    vendor, machine = support.vendor("Turin"), support.machine("Turin")
    read, again = Vendor.load(vendor.save()), SnpMachine.load(machine.save())
    assert read.save() == vendor.save()
    evidence = again.with_endorsements(read.endorsements(AT)).evidence(support.REPORT_DATA)
    assert judge(snp.TECHNOLOGY, Policy(), [vendor.anchor()])(evidence, BOUND, Endorsements(), AT).accepted
    assert again.measurement == machine.measurement


@pytest.mark.parametrize("name", ["vendor.json", "ask.key.pem"])
def test_a_damaged_vendor_is_malformed(name: str) -> None:
    """Files that are not what `save` wrote."""
    with pytest.raises(MalformedError):
        Vendor.load({**support.vendor().save(), name: b"{}"})


@pytest.mark.parametrize("name", ["evidence.der", "vek.key.pem"])
def test_a_damaged_machine_is_malformed(name: str) -> None:
    """Files that are not what `save` wrote."""
    with pytest.raises(MalformedError):
        SnpMachine.load({**support.machine().save(), name: b"\0"})


def test_publish_serves_a_judge_with_nothing_but_the_key_certificate() -> None:
    """A collateral directory with what the vendor publishes, and evidence that brings the VCEK alone."""
    vendor, machine = support.vendor(), support.machine()
    published = vendor.publish(AT)
    collateral = Endorsements(
        certificates=tuple(data for name, data in published.items() if name.endswith(".der")),
        crls=tuple(data for name, data in published.items() if name.endswith(".crl")),
    )
    evidence = machine.with_endorsements(Endorsements()).evidence(support.REPORT_DATA)
    believe = judge(snp.TECHNOLOGY, Policy(), [vendor.anchor()])
    assert believe(evidence, BOUND, collateral, AT).accepted
    assert vendor.anchor().certificate not in collateral.certificates
    assert not believe(Evidence(oid="", body=machine.report(support.REPORT_DATA)), BOUND, collateral, AT).accepted
