"""Who vouches in an SNP guest beneath an SVSM, where its user asked for that: the SVSM, at VMPL 0 (`enarx.tee.svsm`).

What a Keep binds is the nonce that the SVSM is given; its report is over that and over what it says of its services.
Nothing chooses this by itself: such evidence is of a technology of its own, which a Steward accepts only where its
policy has that table. Documents, the certificate of the chip's key and the sealing secret are those of the guest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enarx.attested.claims import REPORT_DATA_SIZE
from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.azure import AzureAttester
from enarx.keep.backends.guest import GuestAttester
from enarx.keep.backends.tsm import Tsm, TsmReport
from enarx.tee import snp, svsm
from enarx.tee.model import Endorsements, Evidence, Technology
from enarx.tee.svsm.manifest import VTPM, Manifest
from enarx.tee.svsm.report import encode

ALL: Final = {"service_provider": b"svsm"}  # without a GUID: all services
SERVICES: Final[Mapping[str, Mapping[str, bytes]]] = {
    "all": ALL,
    "vtpm": {**ALL, "service_guid": str(VTPM).encode(), "service_manifest_version": b"0"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SvsmAttester:
    """The SVSM beneath this guest."""

    guest: GuestAttester
    interface: Tsm
    service: Mapping[str, bytes]

    @property
    def technology(self) -> Technology[Any, Any]:  # Any: as in Attester
        return svsm.TECHNOLOGY

    @property
    def writable(self) -> Sequence[Path]:
        return self.guest.writable

    @property
    def sealing_secret(self) -> bytes | None:
        return self.guest.sealing_secret

    def measurement(self) -> bytes:
        return self.guest.measurement()

    def learn(self, documents: Endorsements) -> None:
        self.guest.learn(documents)

    def evidence(self, report_data: bytes) -> Evidence:
        made = self.ask(report_data)
        return encode(report_data, made.manifest, self.guest.compose(made.body, made.aux).body)

    def ask(self, nonce: bytes) -> TsmReport:
        """Raises UnavailableError, and MalformedError for a manifest that no Steward can read."""
        made = self.interface.report(nonce, self.service)
        Manifest.parse(made.manifest)
        return made


def attester(guest: GuestAttester | AzureAttester, interface: Tsm, services: str) -> SvsmAttester:
    """The SVSM beneath this guest, asked once. Raises UnavailableError without one, MalformedError."""
    if services not in SERVICES:
        raise MalformedError(f"attester: svsm: expected {' or '.join(SERVICES)}, found {services[:100]!r}")
    if guest.technology is not snp.TECHNOLOGY or not isinstance(guest, GuestAttester):
        raise UnavailableError(f"there is no SVSM to ask: this is {guest.technology.title}, not a plain SNP guest")
    found = SvsmAttester(guest=guest, interface=interface, service=SERVICES[services])
    found.ask(bytes(REPORT_DATA_SIZE))
    return found
