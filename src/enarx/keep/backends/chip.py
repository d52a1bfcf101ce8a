"""The certificate of the key that signs a chip's SNP reports (its VCEK): whether it is at hand, and who gives it.

Asked are the directory of vendors' documents and what a host or a paravisor put beside the report, else AMD, once; what
AMD gave is kept in that directory, if it can be written. Which chip it is, and at which level of firmware, a guest knows
from its report and a host from /dev/sev (`backends.sevhost`).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from enarx.errors import EnarxError, NotFoundError, UnavailableError
from enarx.keep.backends.documents import fits
from enarx.pki.certificate import Certificate
from enarx.steward.vendors import KDS, Kds, Origin
from enarx.tee.model import Endorsements
from enarx.tee.snp import vek
from enarx.tee.snp.report import VCEK as SIGNED_BY_VCEK
from enarx.tee.snp.report import Report
from enarx.tee.snp.tcb import LAYOUTS, Tcb, product_of
from enarx.web.client import Client

QUERY: Final = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
PATIENCE: Final = 20.0  # seconds that AMD's service may ask us to wait; a start must not hang on it


class Chip(Protocol):
    """Which chip, and what its key is derived from. A Report is one."""

    @property
    def cpuid(self) -> tuple[int, int, int] | None: ...

    @property
    def chip_id(self) -> bytes: ...

    @property
    def reported_tcb(self) -> bytes: ...


Fetch = Callable[[Chip], bytes]


class NoChipError(UnavailableError):
    """There is no certificate of a chip's to have on this machine, today or tomorrow. Nothing is wrong with that."""


def from_amd(chip: Chip, service: Kds | None = None) -> bytes:
    """The certificate (DER) from AMD's service. Raises UnavailableError, NotFoundError, MalformedError."""
    product = None if chip.cpuid is None else product_of(chip.cpuid)
    if product is None:
        raise NotFoundError("AMD's service: the report does not say of which product it is")
    layout = LAYOUTS[product]
    tcb = Tcb.parse(chip.reported_tcb, layout, "REPORTED_TCB")
    levels = {query: value for name, query in QUERY.items() if (value := getattr(tcb, name)) is not None}
    hwid = chip.chip_id[: vek.HWID_SIZE[layout]]
    if service is not None:
        return service.vcek(product, hwid, levels).data
    with Client(KDS, timeout=PATIENCE / 2) as client:
        return Kds(Origin(client=client, patience=PATIENCE)).vcek(product, hwid, levels).data


def missing(report: Report, held: Endorsements, documents: Path | None, fetch: Fetch) -> Endorsements:
    """What is fetched because nobody has it.

    Nothing, when AMD does not answer: the Steward may have it, and says so if not.
    """
    at_hand = any(fits(item, report) for item in held.certificates)
    if at_hand or report.signing_key != SIGNED_BY_VCEK or not any(report.chip_id):
        return Endorsements()
    try:
        fetched = _fetched(report, fetch)
    except EnarxError:
        return Endorsements()
    if documents is not None:
        with suppress(OSError):  # the next start fetches it again
            keep(documents, fetched)
    return Endorsements(certificates=(fetched,))


def require(chip: Chip, held: Iterable[bytes], documents: Path, fetch: Fetch) -> Path:
    """Its certificate as a file of `documents`, fetched if it is not there.

    Raises NoChipError where there is none, UnavailableError where it cannot be had, and what whoever was asked raises.
    """
    if not any(chip.chip_id):
        raise NoChipError("this chip does not tell who it is (MASK_CHIP_ID): its key has no certificate of its own")
    if isinstance(chip, Report) and chip.signing_key != SIGNED_BY_VCEK:
        raise NoChipError("this chip signs with a key of its cloud's (VLEK): its host sends the certificate along")
    found = next((item for item in held if fits(item, chip)), None)
    certificate = _fetched(chip, fetch) if found is None else found
    if not fits(certificate, chip):
        raise UnavailableError("the certificate that was given is of another chip, or of another level of its firmware")
    try:
        return keep(documents, certificate)
    except OSError as error:
        raise UnavailableError(f"{documents}: {error.strerror}") from error


def keep(directory: Path, certificate: bytes) -> Path:
    """For the next start. Raises OSError."""
    target = directory / f"vcek-{sha256(certificate).hexdigest()[:32]}.der"
    fresh = target.with_suffix(".new")
    directory.mkdir(parents=True, exist_ok=True)
    fresh.write_bytes(certificate)
    fresh.replace(target)
    return target


def _fetched(chip: Chip, fetch: Fetch) -> bytes:
    data = fetch(chip)
    Certificate.parse(data, "AMD's service: VCEK")
    return data
