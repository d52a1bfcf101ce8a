"""Who vouches in an SGX enclave under Gramine: the processor, asked through /dev/attestation (Gramine, "Attestation").

    attestation_type     dcap, or none; absent where the library OS runs without an enclave
    user_report_data     64 bytes, written before
    quote                is read: a DCAP quote over them
    keys/_sgx_mrenclave  16 bytes that this enclave alone gets on this machine: what sealing keys are derived from

The files are one state for the whole process, so the two steps are taken by one thread at a time. What Gramine measured
is MRENCLAVE: its own loader, the manifest, and every trusted file that the manifest names, this program among them.
"""

import threading
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from enarx.attested.claims import REPORT_DATA_SIZE
from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.documents import Shelf, of_intel
from enarx.tee import sgx
from enarx.tee.model import Endorsements, Evidence, Technology
from enarx.tee.sgx.report import Report, encode

ROOT: Final = Path("/dev/attestation")
DCAP: Final = "dcap"
MAX_QUOTE: Final = 16 * 1024  # bytes; Gramine gives at most 8192
SEALING_KEY: Final = "keys/_sgx_mrenclave"

_TURN: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """The files at `root`."""

    root: Path = ROOT

    def kind(self) -> str:
        """What the library OS can do. Raises UnavailableError where it is none, or runs without an enclave."""
        try:
            return (self.root / "attestation_type").read_text(encoding="ascii").strip()
        except OSError as error:
            raise UnavailableError(f"{self.root}: this is no enclave ({error.strerror})") from error

    def quote(self, data: bytes) -> bytes:
        """A quote over 64 bytes. Raises UnavailableError."""
        if len(data) != REPORT_DATA_SIZE:
            raise MalformedError(f"report data: expected {REPORT_DATA_SIZE} bytes, found {len(data)}")
        with _TURN:
            try:
                (self.root / "user_report_data").write_bytes(data)
                with (self.root / "quote").open("rb") as file:
                    quote = file.read(MAX_QUOTE)
            except OSError as error:
                raise UnavailableError(f"{self.root}: no quote: {error.strerror}") from error
        if not quote:
            raise UnavailableError(f"{self.root}: the quote is empty")
        return quote

    def sealing_secret(self) -> bytes | None:
        """32 bytes from what this enclave alone gets on this machine; None where Gramine gives none."""
        try:
            key = (self.root / SEALING_KEY).read_bytes()
        except OSError:
            return None
        return sha256(b"enarx-sealing-sgx\0" + key).digest() if key else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveAttester:
    """The processor, from inside an enclave."""

    interface: Attestation
    measured: bytes
    shelf: Shelf = field(default_factory=lambda: Shelf(own=Endorsements()))
    writable: tuple[Path, ...] = ()
    sealing_secret: bytes | None = field(default=None, repr=False)

    @property
    def technology(self) -> Technology[Any, Any]:  # Any: as in Attester
        return sgx.TECHNOLOGY

    def measurement(self) -> bytes:
        return self.measured

    def learn(self, documents: Endorsements) -> None:
        self.shelf.offer(documents)

    def evidence(self, report_data: bytes) -> Evidence:
        """Quote and PCK chain, and of Intel's documents those that the host offered; the Steward may have others."""
        quote = self.interface.quote(report_data)
        return encode(quote, of_intel(Report.parse(quote).quoted.pck, "SGX", "QE", self.shelf.all()))


def attester(interface: Attestation | None = None) -> EnclaveAttester:
    """The processor, asked once. Raises UnavailableError outside an enclave, MalformedError for what is no quote."""
    found = interface or Attestation()
    kind = found.kind()
    if kind != DCAP:
        raise UnavailableError(f"{found.root}: attestation_type: expected {DCAP}, found {kind[:20]!r}")
    report = Report.parse(found.quote(bytes(REPORT_DATA_SIZE)))
    return EnclaveAttester(
        interface=found,
        measured=report.enclave.mr_enclave,
        writable=(found.root,),
        sealing_secret=found.sealing_secret(),
    )
