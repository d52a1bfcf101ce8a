"""Which technologies can be simulated: one entry each, over the simulator that lives beside its verifier.

A Keep has one technology, so an entry of MAKERS is made, and what it needs imported, when it is first looked up.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Protocol

from msgspec import structs

from enarx.digest import HashName
from enarx.tee.model import Evidence, Technology


class Vendor(Protocol):
    """What every simulator's vendor can do."""

    def publish(self, at: datetime) -> Mapping[str, bytes]: ...

    def save(self) -> Mapping[str, bytes]: ...


class Machine(Protocol):
    """What every simulator's machine can do."""

    def evidence(self, report_data: bytes) -> Evidence: ...

    def save(self) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """How to simulate one technology. `revocable` names what its vendor can take back, with how to do that."""

    technology: Technology[Any, Any]  # Any: as TECHNOLOGIES
    family: str
    measures: HashName  # the hash whose length the report's measurement has
    vendor: Callable[[datetime], Any]  # Any: each simulator's own type; the functions of one Maker belong together
    load_vendor: Callable[[Mapping[str, bytes]], Any]
    root: Callable[[Any], bytes]
    machine: Callable[[Any, datetime, bytes], Any]
    load_machine: Callable[[Mapping[str, bytes]], Any]
    endorse: Callable[[Any, Any, datetime], Any]
    measured: Callable[[Any, bytes], Any]
    revocable: Mapping[str, Callable[[Any, Any], Any]]
    list_key: str = "hash"  # where the technology's table of steward.toml lists measurements


_INTEL: Final = MappingProxyType(
    {
        "pck": lambda vendor, machine: vendor.revoke(machine.machine.chain[0]),
        "pck-ca": lambda vendor, machine: vendor.revoke(machine.machine.chain[1]),
        "tcb-signer": lambda vendor, _machine: vendor.revoke(vendor.signer.certificate),
    }
)


def _sgx() -> Maker:
    from enarx.tee.dcap.simulator import Vendor as Intel  # noqa: PLC0415 - see above
    from enarx.tee.sgx import TECHNOLOGY  # noqa: PLC0415 - see above
    from enarx.tee.sgx.simulator import SgxMachine  # noqa: PLC0415 - see above

    return Maker(
        technology=TECHNOLOGY,
        family="intel",
        measures="sha-256",
        vendor=Intel.create,
        load_vendor=Intel.load,
        root=lambda vendor: vendor.root.certificate,
        machine=lambda vendor, at, measurement: SgxMachine.create(vendor, at, mr_enclave=measurement),
        load_machine=SgxMachine.load,
        endorse=lambda machine, vendor, at: machine.with_endorsements(vendor.endorsements(at)),
        measured=lambda machine, measurement: replace(machine, mr_enclave=measurement),
        revocable=_INTEL,
    )


def _tdx() -> Maker:
    from enarx.tee.dcap.simulator import Vendor as Intel  # noqa: PLC0415 - see above
    from enarx.tee.tdx import TECHNOLOGY  # noqa: PLC0415 - see above
    from enarx.tee.tdx.simulator import TdxMachine  # noqa: PLC0415 - see above

    return Maker(
        technology=TECHNOLOGY,
        family="intel",
        measures="sha-384",
        vendor=Intel.create,
        load_vendor=Intel.load,
        root=lambda vendor: vendor.root.certificate,
        machine=lambda vendor, at, measurement: TdxMachine.create(vendor, at, mr_td=measurement),
        load_machine=TdxMachine.load,
        endorse=lambda machine, vendor, at: machine.with_endorsements(vendor.endorsements(at, "TDX")),
        measured=lambda machine, measurement: replace(machine, mr_td=measurement),
        revocable=_INTEL,
    )


def _snp() -> Maker:
    from enarx.tee.snp import TECHNOLOGY  # noqa: PLC0415 - see above
    from enarx.tee.snp.simulator import SnpMachine  # noqa: PLC0415 - see above
    from enarx.tee.snp.simulator import Vendor as Amd  # noqa: PLC0415 - see above

    return Maker(
        technology=TECHNOLOGY,
        family="amd",
        measures="sha-384",
        vendor=Amd.create,
        load_vendor=Amd.load,
        root=lambda vendor: vendor.root.certificate,
        machine=lambda vendor, at, measurement: SnpMachine.create(vendor, at, measurement=measurement),
        load_machine=SnpMachine.load,
        endorse=lambda machine, vendor, at: machine.with_endorsements(vendor.endorsements(at)),
        measured=lambda machine, measurement: replace(
            machine, template=structs.replace(machine.template, measurement=measurement)
        ),
        revocable=MappingProxyType({"ask": lambda vendor, _machine: vendor.revoke(vendor.ask.certificate)}),
    )


_MAKERS: Final[Mapping[str, Callable[[], Maker]]] = MappingProxyType({"snp": _snp, "sgx": _sgx, "tdx": _tdx})


@lru_cache(maxsize=len(_MAKERS))
def _made(name: str) -> Maker:
    return _MAKERS[name]()


class _Makers(Mapping[str, Maker]):
    """The names of all, and the maker of one when it is asked for."""

    def __getitem__(self, name: str) -> Maker:
        return _made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MAKERS)

    def __len__(self) -> int:
        return len(_MAKERS)

    def __contains__(self, name: object) -> bool:
        return name in _MAKERS


MAKERS: Final[Mapping[str, Maker]] = _Makers()
