"""A simulated Intel with one SGX machine, and the judge that believes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from enarx import toml
from enarx.tee import sgx
from enarx.tee.appraise import failed, judge
from enarx.tee.dcap.simulator import Machine, Vendor
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, Leniency, TrustAnchor
from enarx.tee.sgx.policy import Policy, read_policy
from enarx.tee.sgx.simulator import SgxMachine

Issuer = Literal["platform", "processor"]

AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MR_ENCLAVE: Final = bytes(range(32))
MR_SIGNER: Final = bytes(range(32, 64))
REPORT_DATA: Final = bytes(range(64))
STRICT: Final = Leniency()


@lru_cache(maxsize=1)
def vendor() -> Vendor:
    return Vendor.create(AT)


@lru_cache(maxsize=2)
def enclave(issuer: Issuer = "platform") -> SgxMachine:
    return SgxMachine.create(vendor(), AT, mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER, issuer=issuer)


def policy(text: str = "") -> Policy:
    document = toml.parse(f"[sgx]\n{text}", source="steward.toml")
    found = read_policy(document.table("sgx"))
    document.end()
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One judgement with everything in order; a test changes one thing."""

    machine: SgxMachine
    endorsements: Endorsements
    quote: bytes
    anchors: tuple[TrustAnchor, ...]
    at: datetime = AT
    leniency: Leniency = STRICT

    def judge(self, text: str = "") -> Appraisal:
        believe = judge(sgx.TECHNOLOGY, policy(text), self.anchors, self.leniency)
        evidence = Evidence(oid="", body=self.quote)
        return believe(evidence, Binding.of_report_data(REPORT_DATA), self.endorsements, self.at)

    def refused(self, text: str = "") -> tuple[str, ...]:
        """The checks that failed, after the verdict in words."""
        appraisal = self.judge(text)
        return (appraisal.verdict.value, *failed(appraisal))

    def reasons(self, text: str = "") -> str:
        return "; ".join(self.judge(text).reasons)

    def with_machine(self, change: Callable[[Machine], Machine]) -> "Case":
        machine = replace(self.machine, machine=change(self.machine.machine))
        return replace(self, machine=machine, quote=machine.quote(REPORT_DATA))

    def with_endorsements(self, **parts: object) -> "Case":
        return replace(self, endorsements=replace(self.endorsements, **parts))  # type: ignore[arg-type]  # its fields


def case(issuer: Issuer = "platform") -> Case:
    machine = enclave(issuer)
    return Case(
        machine=machine,
        endorsements=machine.endorsements,
        quote=machine.quote(REPORT_DATA),
        anchors=(vendor().anchor(),),
    )
