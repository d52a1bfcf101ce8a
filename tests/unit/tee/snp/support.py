"""A simulated AMD of each product with one machine, and the judge that believes it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from enarx import toml
from enarx.tee import snp
from enarx.tee.appraise import failed, judge
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, Leniency, TrustAnchor
from enarx.tee.snp.policy import Policy, read_policy
from enarx.tee.snp.report import Report
from enarx.tee.snp.simulator import SnpMachine, Vendor
from enarx.tee.snp.tcb import Tcb, layout_of
from enarx.tee.snp.vek import Kind
from tests.values import replace

AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MEASUREMENT: Final = bytes(range(48))
REPORT_DATA: Final = bytes(range(64))
STRICT: Final = Leniency()


def vendor(product: str = "Milan") -> Vendor:
    return _vendor(product)


def machine(product: str = "Milan", kind: Kind = "VCEK", version: int = 5) -> SnpMachine:
    return _machine(product, kind, version)


@lru_cache(maxsize=4)
def _vendor(product: str) -> Vendor:
    return Vendor.create(AT, product=product)


@lru_cache(maxsize=32)
def _machine(product: str, kind: Kind, version: int) -> SnpMachine:
    return SnpMachine.create(vendor(product), AT, measurement=MEASUREMENT, kind=kind, version=version)


def policy(text: str = "") -> Policy:
    document = toml.parse(f"[snp]\n{text}", source="steward.toml")
    found = read_policy(document.table("snp"))
    document.end()
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One judgement with everything in order; a test changes one thing."""

    vendor: Vendor
    machine: SnpMachine
    endorsements: Endorsements
    report: bytes
    anchors: tuple[TrustAnchor, ...]
    at: datetime = AT
    leniency: Leniency = STRICT
    believed: Policy | None = None  # instead of a Steward's table

    def judge(self, text: str = "") -> Appraisal:
        wanted = policy(text) if self.believed is None else self.believed
        evidence = Evidence(oid="", body=self.report)
        believe = judge(snp.TECHNOLOGY, wanted, self.anchors, self.leniency)
        return believe(evidence, Binding.of_report_data(REPORT_DATA), self.endorsements, self.at)

    def refused(self, text: str = "") -> tuple[str, ...]:
        """The checks that failed, after the verdict in words."""
        appraisal = self.judge(text)
        return (appraisal.verdict.value, *failed(appraisal))

    def reasons(self, text: str = "") -> str:
        return "; ".join(self.judge(text).reasons)

    def reporting(self, alter: Callable[[Report], Report]) -> "Case":
        """The same with fields of the report changed before it was signed."""
        return replace(self, report=self.machine.report(REPORT_DATA, alter))

    def saying(self, **fields: object) -> "Case":
        return self.reporting(lambda report: replace(report, **fields))

    def with_vek(self, certificate: bytes) -> "Case":
        """The same with another certificate for the machine's key."""
        others = self.endorsements.certificates[1:]
        return replace(self, endorsements=replace(self.endorsements, certificates=(certificate, *others)))

    def certified(self, **changes: object) -> "Case":
        """The same with a certificate for the machine's key that says something else."""
        level = {"tcb": snp_tcb(self.machine), "chip_id": hwid(self.machine)}
        made = self.vendor.certify(self.machine.key.public_key(), AT, **(level | changes))  # type: ignore[arg-type]  # its parts
        return self.with_vek(made)

    def with_endorsements(self, **parts: object) -> "Case":
        return replace(self, endorsements=replace(self.endorsements, **parts))


def case(product: str = "Milan", kind: Kind = "VCEK", version: int = 5) -> Case:
    guest = machine(product, kind, version)
    return Case(
        vendor=vendor(product),
        machine=guest,
        endorsements=guest.with_chain(),
        report=guest.report(REPORT_DATA),
        anchors=(vendor(product).anchor(),),
    )


def snp_tcb(guest: SnpMachine) -> Tcb:
    return Tcb.parse(guest.template.reported_tcb, layout_of(guest.template.cpuid) or 0)


def hwid(guest: SnpMachine) -> bytes:
    return guest.chip_id if any(guest.chip_id[8:]) else guest.chip_id[:8]
