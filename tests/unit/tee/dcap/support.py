"""A simulated Intel with one machine of each technology, and the judge that believes it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

from enarx import toml
from enarx.tee import sgx, tdx
from enarx.tee.appraise import failed, judge
from enarx.tee.dcap.simulator import Json, Machine, TeeName, Vendor
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, Leniency, SignedJson, Technology, TrustAnchor
from enarx.tee.sgx.simulator import SgxMachine
from enarx.tee.tdx.simulator import TdxMachine
from tests.values import replace

Issuer = Literal["platform", "processor"]

AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MR_ENCLAVE: Final = bytes(range(32))
MR_SIGNER: Final = bytes(range(32, 64))
MR_TD: Final = bytes(range(48))
REPORT_DATA: Final = bytes(range(64))
STRICT: Final = Leniency()
TECHNOLOGIES: Final[Mapping[str, Technology[Any, Any]]] = {  # Any: each keeps its own types inside
    "SGX": sgx.TECHNOLOGY,
    "TDX": tdx.TECHNOLOGY,
}


@lru_cache(maxsize=1)
def vendor() -> Vendor:
    return Vendor.create(AT)


@lru_cache(maxsize=2)
def enclave(issuer: Issuer = "platform") -> SgxMachine:
    return SgxMachine.create(vendor(), AT, mr_enclave=MR_ENCLAVE, mr_signer=MR_SIGNER, issuer=issuer)


@lru_cache(maxsize=2)
def domain(issuer: Issuer = "platform") -> TdxMachine:
    return TdxMachine.create(vendor(), AT, mr_td=MR_TD, issuer=issuer)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One judgement with everything in order; a test changes one thing."""

    tee: TeeName
    machine: SgxMachine | TdxMachine
    endorsements: Endorsements
    quote: bytes
    anchors: tuple[TrustAnchor, ...]
    at: datetime = AT
    leniency: Leniency = STRICT

    def policy(self, text: str = "") -> object:
        name = self.tee.lower()
        document = toml.parse(f"[{name}]\n{text}", source="steward.toml")
        found = TECHNOLOGIES[self.tee].read_policy(document.table(name))
        document.end()
        return found

    def judge(self, text: str = "") -> Appraisal:
        believe = judge(TECHNOLOGIES[self.tee], self.policy(text), self.anchors, self.leniency)
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
        return replace(self, endorsements=replace(self.endorsements, **parts))

    def with_tcb_info(self, **members: object) -> "Case":
        return self.with_endorsements(tcb_infos=(vendor().tcb_info(AT, self.tee, **members),))

    def with_identity(self, **members: object) -> "Case":
        return self.with_endorsements(qe_identities=(vendor().qe_identity(AT, self.tee, **members),))

    def with_levels(self, *levels: Json) -> "Case":
        return self.with_tcb_info(tcbLevels=list(levels))

    def published(self, by: Vendor, at: datetime = AT) -> "Case":
        """The same machine, with what `by` says at `at`."""
        return replace(self, endorsements=by.endorsements(at, self.tee))


def case(issuer: Issuer = "platform") -> Case:
    machine = enclave(issuer)
    return Case(
        tee="SGX",
        machine=machine,
        endorsements=machine.endorsements,
        quote=machine.quote(REPORT_DATA),
        anchors=(vendor().anchor(),),
    )


def td_case(issuer: Issuer = "platform") -> Case:
    machine = domain(issuer)
    return Case(
        tee="TDX",
        machine=machine,
        endorsements=machine.endorsements,
        quote=machine.quote(REPORT_DATA),
        anchors=(vendor().anchor(),),
    )


def either(tee: TeeName, issuer: Issuer = "platform") -> Case:
    return case(issuer) if tee == "SGX" else td_case(issuer)


def flip(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes((data[bit // 8] ^ (1 << bit % 8),)) + data[bit // 8 + 1 :]


def resigned(document: SignedJson, body: bytes) -> SignedJson:
    """The same chain beside another text."""
    return SignedJson(body=body, chain=document.chain)
