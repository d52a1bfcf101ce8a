"""A simulated TEE: a vendor and a machine in software, in one directory. It proves nothing and protects nothing.

    roots/FAMILY.pem         the vendor's root: for the judge, under [unsafe.simulated]
    collateral/FAMILY/…      what the vendor publishes: for the judge, as `collateral`
    steward.toml             a configuration that says exactly this
    vendors/FAMILY/…         the vendor's keys, 0600: for nobody who judges, and for no Keep
    machines/TECHNOLOGY/…    the machine's keys, 0600: what stands in a real CPU

The Keep is a plain process, as `process` has it, and reads the machine's keys as if it were the CPU. The measurement is
the agent's own (`enarx.keep.measurement`), taken at each start as hardware would take it. `fault` makes the machine lie
in one of the ways that a judge has to notice: a newcomer's first attack.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Self, TypedDict, get_args

from msgspec import structs

from enarx.digest import hash_bytes
from enarx.errors import ConflictError, MalformedError, NotFoundError
from enarx.keep.backends.api import Measure
from enarx.keep.backends.simulators import MAKERS, Machine, Maker
from enarx.pki.certificate import Certificate
from enarx.tee.model import Evidence, Technology

Fault = Literal["none", "flipped-bit", "other-key"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

MAX_FILE: Final = 1024 * 1024  # bytes of one file of a machine
MARK: Final = "simulated.txt"  # so that nothing else is ever taken for such a directory, or overwritten
_MARK_TEXT: Final = (
    b"A simulated TEE vendor and its machines. They prove nothing. See `enarx platform simulate --help`.\n"
)


class Facts(TypedDict):
    """What `enarx platform simulate --json` prints."""

    technologies: list[str]
    measurements: dict[str, str]
    revocable: list[str]
    fault: Fault


def as_fault(text: str) -> Fault:
    """Raises MalformedError for a fault that no machine can have."""
    found = next((fault for fault in FAULTS if fault == text), None)
    if found is None:
        raise MalformedError(f"fault: expected one of {', '.join(FAULTS)}, found {text!r}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory of simulated vendors and machines."""

    path: Path

    @classmethod
    def create(cls, path: Path, at: datetime, measure: Measure) -> Self:
        """Make vendors, one machine a technology, and everything a judge needs. Raises ConflictError when it is there."""
        if path.exists() and any(path.iterdir()):
            raise ConflictError(f"{path}: is there already, and not empty")
        directory = cls(path=path)
        directory._write(MARK, _MARK_TEXT)
        for maker in MAKERS.values():
            if not (path / "vendors" / maker.family).exists():
                made = maker.vendor(at)
                directory._write_all(f"vendors/{maker.family}", made.save(), private=True)
                pem = Certificate.parse(maker.root(made)).to_pem()
                directory._write(f"roots/{maker.family}.pem", pem)
            vendor = maker.load_vendor(directory._read_all(f"vendors/{maker.family}"))
            measurement = measure(maker.measures)
            machine = maker.machine(vendor, at, measurement)
            directory._write_all(f"machines/{maker.technology.name}", machine.save(), private=True)
        directory.publish(at)
        directory.write_steward_toml(measure)
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises NotFoundError unless `create` made it."""
        try:
            known = (path / MARK).read_bytes() == _MARK_TEXT
        except OSError:
            known = False
        if not known:
            raise NotFoundError(
                f"{path}: not a directory of simulated machines; `enarx platform simulate {path}` makes one"
            )
        return cls(path=path)

    def publish(self, at: datetime) -> None:
        """Have every vendor issue its documents anew, and every machine fetch them."""
        for maker in MAKERS.values():
            vendor = maker.load_vendor(self._read_all(f"vendors/{maker.family}"))
            self._write_all(f"collateral/{maker.family}", vendor.publish(at))
            machine = maker.endorse(self._machine(maker), vendor, at)
            self._write_all(f"machines/{maker.technology.name}", machine.save(), private=True)

    def revoke(self, name: str, at: datetime) -> str:
        """Have the vendor take back what `name` says, such as `snp.ask`, and publish it. Returns whose list it is on."""
        known = {f"{maker.technology.name}.{what}": maker for maker in MAKERS.values() for what in maker.revocable}
        if name not in known:
            raise MalformedError(f"revoke: expected one of {', '.join(known)}, found {name!r}")
        maker = known[name]
        vendor = maker.load_vendor(self._read_all(f"vendors/{maker.family}"))
        changed = maker.revocable[name.partition(".")[2]](vendor, self._machine(maker))
        self._write_all(f"vendors/{maker.family}", changed.save(), private=True)
        self.publish(at)
        return maker.family

    def set_fault(self, fault: Fault) -> None:
        """From now on the machines lie in this way, or no longer."""
        self._write("machines/fault", fault.encode())

    def write_steward_toml(self, measure: Measure) -> None:
        """The configuration that accepts what is here, for the agent as it is now."""
        self._write("steward.toml", steward_toml(measure).encode())

    def facts(self, measure: Measure) -> "Facts":
        """What is here, for people and programs."""
        return Facts(
            technologies=list(MAKERS),
            measurements={name: measure(maker.measures).hex() for name, maker in MAKERS.items()},
            revocable=[f"{name}.{what}" for name, maker in MAKERS.items() for what in maker.revocable],
            fault=self._fault(),
        )

    def attester(self, name: str, measure: Measure) -> "SimulatedAttester":
        """The machine of a technology, as a Keep's CPU. Raises NotFoundError, MalformedError."""
        if name not in MAKERS:
            raise MalformedError(f"--tee: expected one of {', '.join(MAKERS)}, found {name!r}")
        maker = MAKERS[name]
        measurement = measure(maker.measures)
        return SimulatedAttester(
            technology=maker.technology,
            machine=maker.measured(self._machine(maker), measurement),
            measured=measurement,
            fault=self._fault(),
        )

    def _machine(self, maker: Maker) -> Any:  # Any: as in Maker
        return maker.load_machine(self._read_all(f"machines/{maker.technology.name}"))

    def _fault(self) -> Fault:
        file = self.path / "machines" / "fault"
        text = file.read_text() if file.exists() else "none"
        return next((fault for fault in FAULTS if fault == text), "none")

    def _read_all(self, folder: str) -> dict[str, bytes]:
        try:
            return {file.name: file.read_bytes()[:MAX_FILE] for file in sorted((self.path / folder).iterdir())}
        except OSError as error:
            raise NotFoundError(f"{self.path / folder}: {error.strerror}") from error

    def _write_all(self, folder: str, files: Mapping[str, bytes], *, private: bool = False) -> None:
        for name, data in files.items():
            self._write(f"{folder}/{name}", data, private=private)

    def _write(self, name: str, data: bytes, *, private: bool = False) -> None:
        """Whole or not at all: a Keep may start, and a Steward may look, at any time."""
        path = self.path / name
        fresh = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o755)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            fresh.replace(path)
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror or 'cannot be written'}") from error


def steward_toml(measure: Measure) -> str:
    """A steward.toml that accepts these vendors and this agent, and says that it is unsafe."""
    families = dict.fromkeys(maker.family for maker in MAKERS.values())
    roots = "".join(f'{family} = ["roots/{family}.pem"]\n' for family in families)
    tables = "".join(
        f'\n[{maker.technology.name}]\n{maker.list_key} = ["{measure(maker.measures).hex()}"]\n'
        for maker in MAKERS.values()
    )
    return (
        "# Simulated TEEs prove nothing. Certificates from this configuration say O=SIMULATED.\n"
        'collateral = "collateral"\n'
        f"{tables}"
        "\n[certificate]\n"
        'dns_names = ["localhost"]\n'
        "\n[unsafe]\naccept_simulated = true\n"
        f"\n[unsafe.simulated]\n{roots}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAttester:
    """A CPU in software."""

    technology: Technology[Any, Any]  # Any: as in Attester
    machine: Machine
    measured: bytes
    fault: Fault = "none"
    writable: tuple[Path, ...] = ()

    @property
    def sealing_secret(self) -> bytes:
        """Of the machine's keys and what was measured, as a CPU derives it of its fuses."""
        keys = sorted(data for name, data in self.machine.save().items() if name.endswith(".key.pem"))
        return hash_bytes("sha-256", b"simulated sealing secret\0", self.measured, *keys)

    def measurement(self) -> bytes:
        return self.measured

    def evidence(self, report_data: bytes) -> Evidence:
        if self.fault == "other-key":
            algorithm = self.technology.binding_hash
            return self.machine.evidence(hash_bytes(algorithm, b"another key").ljust(len(report_data), b"\0"))
        made = self.machine.evidence(report_data)
        return made if self.fault == "none" else structs.replace(made, body=_flip(made.body, report_data))


def _flip(body: bytes, report_data: bytes) -> bytes:
    """One bit of what was signed: the last of the report data."""
    at = body.index(report_data) + len(report_data) - 1
    return body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :]
