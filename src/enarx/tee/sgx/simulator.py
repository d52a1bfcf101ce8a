"""A machine that runs one enclave, in software: `dcap.simulator` with MRENCLAVE and MRSIGNER given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, Self

from enarx.tee.dcap.enclave import INIT, MODE64BIT, EnclaveReport
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.quoted import Bundle
from enarx.tee.dcap.simulator import Machine, Vendor
from enarx.tee.model import Endorsements, Evidence
from enarx.tee.sgx.report import encode

XFRM: Final = 0xE7  # x87, SSE, AVX and AVX-512, as real machines have it

__all__ = ["SgxMachine", "Vendor"]


@dataclass(frozen=True, kw_only=True)
class SgxMachine:
    """An enclave on a simulated machine, and the endorsements that the machine has at hand for its evidence."""

    machine: Machine
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    product_id: int = 0
    security_version: int = 0
    endorsements: Endorsements = field(default_factory=Endorsements)

    @classmethod
    def create(
        cls,
        vendor: Vendor,
        at: datetime,
        *,
        mr_enclave: bytes,
        mr_signer: bytes = bytes(32),
        issuer: Literal["platform", "processor"] = "platform",
    ) -> Self:
        """A new machine of `vendor`, with the vendor's endorsements of `at`."""
        machine = vendor.machine(at, issuer=issuer)
        return cls(machine=machine, mr_enclave=mr_enclave, mr_signer=mr_signer, endorsements=vendor.endorsements(at))

    @property
    def measurement(self) -> bytes:
        return self.mr_enclave

    def report(self, report_data: bytes) -> EnclaveReport:
        """What the CPU would say of the enclave; `report_data` is 64 bytes."""
        return EnclaveReport(
            cpu_svn=bytes(16),
            misc_select=0,
            ext_product_id=bytes(16),
            flags=INIT | MODE64BIT,
            xfrm=XFRM,
            mr_enclave=self.mr_enclave,
            mr_signer=self.mr_signer,
            config_id=bytes(64),
            product_id=self.product_id,
            security_version=self.security_version,
            config_svn=0,
            family_id=bytes(16),
            report_data=report_data,
        )

    def quote(
        self,
        report_data: bytes,
        *,
        version: Literal[3, 5] = 3,
        alter: Callable[[EnclaveReport], EnclaveReport] = lambda report: report,
        alter_quote: Callable[[Quote], Quote] | None = None,
    ) -> bytes:
        """A quote of the enclave; the alterations happen before it is signed."""
        body = alter(self.report(report_data)).encode()
        return self.machine.quote(body, version=version, body_type=1, alter=alter_quote)

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
            "enclave.bin": self.report(bytes(64)).encode(),
            "endorsements.der": encode(b"", self.endorsements).body,
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `save` wrote. Raises MalformedError."""
        enclave = EnclaveReport.parse(files.get("enclave.bin", b""), "enclave.bin")
        bundle = Bundle.parse(files.get("endorsements.der", b""), "endorsements.der")
        return cls(
            machine=Machine.load(files),
            mr_enclave=enclave.mr_enclave,
            mr_signer=enclave.mr_signer,
            product_id=enclave.product_id,
            security_version=enclave.security_version,
            endorsements=bundle.endorsements,
        )
