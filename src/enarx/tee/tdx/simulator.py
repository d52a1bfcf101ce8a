"""A machine that runs one trust domain, in software: `dcap.simulator` with MRTD and the RTMRs given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, Self

from enarx.errors import MalformedError
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.quoted import Bundle
from enarx.tee.dcap.simulator import TDX_COMPONENTS, Machine, Vendor
from enarx.tee.model import Endorsements, Evidence
from enarx.tee.tdx.report import SEPT_VE_DISABLE, Lineage, TdReport, encode

XFAM: Final = 0xE7  # x87, SSE, AVX and AVX-512, as real machines have it
NO_RTMRS: Final = (bytes(48), bytes(48), bytes(48), bytes(48))

BodyType = Literal[2, 3, 4]

__all__ = ["TdxMachine", "Vendor"]


@dataclass(frozen=True, kw_only=True)
class TdxMachine:
    """A TD on a simulated machine, and the endorsements that the machine has at hand for its evidence."""

    machine: Machine
    mr_td: bytes  # 48
    rtmrs: tuple[bytes, bytes, bytes, bytes] = NO_RTMRS
    endorsements: Endorsements = field(default_factory=Endorsements)

    @classmethod
    def create(
        cls,
        vendor: Vendor,
        at: datetime,
        *,
        mr_td: bytes,
        rtmrs: tuple[bytes, bytes, bytes, bytes] = NO_RTMRS,
        issuer: Literal["platform", "processor"] = "platform",
    ) -> Self:
        """A new machine of `vendor`, with the vendor's endorsements of `at`."""
        machine = vendor.machine(at, issuer=issuer, tee="TDX")
        return cls(machine=machine, mr_td=mr_td, rtmrs=rtmrs, endorsements=vendor.endorsements(at, "TDX"))

    @property
    def measurement(self) -> bytes:
        return self.mr_td

    def report(self, report_data: bytes, body_type: BodyType = 3) -> TdReport:
        """What the TDX module would say of the TD; `report_data` is 64 bytes."""
        later = body_type > 2
        return TdReport(
            tee_tcb_svn=bytes(TDX_COMPONENTS),
            mr_seam=bytes(48),
            mr_signer_seam=bytes(48),
            seam_attributes=bytes(8),
            attributes=SEPT_VE_DISABLE,
            xfam=XFAM,
            mr_td=self.mr_td,
            mr_config_id=bytes(48),
            mr_owner=bytes(48),
            mr_owner_config=bytes(48),
            rtmrs=self.rtmrs,
            report_data=report_data,
            tee_tcb_svn2=bytes(TDX_COMPONENTS) if later else None,
            mr_service_td=bytes(48) if later else None,
            lineage=never_moved() if body_type == 4 else None,
        )

    def quote(
        self,
        report_data: bytes,
        *,
        version: Literal[4, 5] = 5,
        body_type: BodyType = 3,
        alter: Callable[[TdReport], TdReport] = lambda report: report,
        alter_quote: Callable[[Quote], Quote] | None = None,
    ) -> bytes:
        """A quote of the TD; the alterations happen before it is signed. Version 4 carries body type 2 only."""
        kind: BodyType = 2 if version == 4 else body_type
        body = alter(self.report(report_data, kind)).encode()
        return self.machine.quote(body, version=version, body_type=kind, alter=alter_quote)

    def evidence(self, report_data: bytes) -> Evidence:
        """What a Keep puts into its request."""
        return encode(self.quote(report_data), self.endorsements)

    def with_endorsements(self, endorsements: Endorsements) -> Self:
        """The machine after it fetched other endorsements."""
        return replace(self, endorsements=endorsements)

    def save(self) -> dict[str, bytes]:
        """Files by name: the machine's keys, and the evidence's endorsements as one DER file."""
        return {
            **self.machine.save(),
            "td.bin": self.report(bytes(64)).encode(),
            "endorsements.der": encode(b"", self.endorsements).body,
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        if "td.bin" not in files:
            raise MalformedError("simulated machine: td.bin is missing")
        td = TdReport.parse(files["td.bin"], 3)
        bundle = Bundle.parse(files.get("endorsements.der", b""), "endorsements.der")
        return cls(machine=Machine.load(files), mr_td=td.mr_td, rtmrs=td.rtmrs, endorsements=bundle.endorsements)


def never_moved() -> Lineage:
    """What the extended report says of a TD that runs where it was launched and has no service TD."""
    return Lineage(
        vm_id=0,
        td_id=bytes(32),
        device_info=bytes(48),
        initial_service_td=bytes(48),
        initial_service_td_attributes=bytes(8),
        initial_cpu_svn=bytes(16),
        initial_tee_tcb_svn=bytes(16),
        initial_fmspc=bytes(12),
        current_service_td=bytes(48),
        current_service_td_attributes=bytes(8),
    )
