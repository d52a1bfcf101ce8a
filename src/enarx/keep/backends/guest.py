"""Who vouches in a confidential VM: its TEE, asked through the kernel.

Evidence comes from configfs-tsm, whichever provider answers, else from /dev/sev-guest or /dev/nsm, else from the virtual
TPM of Azure's paravisor (`backends.azure`). Beside it the TEE sends what is at hand:

  snp  the host's certificate table; where that has no certificate of the chip's key, one from the directory of
       documents, else from AMD's service, once, kept in that directory if it can be written
  tdx  the quote; Intel's documents are the Steward's business, and those in the directory go along
  cca  the token
  nitro  the document

A sealing secret is derived by SNP's firmware, through its device, and by Azure's virtual TPM, for the same boot;
elsewhere a program's sealing keys end with it.

What the host or a vendor put there is believed by nobody for having come: the Steward verifies it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from enarx import der
from enarx.attested.claims import REPORT_DATA_SIZE
from enarx.errors import EnarxError, MalformedError, NotFoundError, UnavailableError
from enarx.keep.backends.azure import METADATA, AzureAttester, fetch_quote, paravisor
from enarx.keep.backends.azure import fetch_vcek as fetch_vcek_of_azure
from enarx.keep.backends.documents import Shelf, fits, of_chip, of_intel
from enarx.keep.backends.inside import PROVIDERS, TPM, found_paravisor
from enarx.keep.backends.nsm import DEVICE as NSM
from enarx.keep.backends.nsm import Nsm
from enarx.keep.backends.sevguest import DEVICE, SevGuest
from enarx.keep.backends.tsm import Tsm
from enarx.keep.backends.vtpm import Vtpm
from enarx.pki.certificate import Certificate
from enarx.steward.collateral import read, recognise
from enarx.steward.vendors import KDS, Kds, Origin
from enarx.tee import TECHNOLOGIES
from enarx.tee.cca.report import OID as CCA_OID
from enarx.tee.cca.report import Token
from enarx.tee.model import Endorsements, Evidence, Technology
from enarx.tee.nitro.report import OID as NITRO_OID
from enarx.tee.nitro.report import Document
from enarx.tee.snp import vek
from enarx.tee.snp.report import VCEK as SIGNED_BY_VCEK
from enarx.tee.snp.report import Report, encode
from enarx.tee.snp.tcb import LAYOUTS, Tcb, product_of
from enarx.tee.tdx.report import Report as TdxReport
from enarx.tee.tdx.report import encode as encode_tdx
from enarx.web.client import Client

QUERY: Final = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
PATIENCE: Final = 20.0  # seconds that AMD's service may ask us to wait; a start must not hang on it


class Source(Protocol):
    """Where reports come from: body and, beside it, what the host put there."""

    def __call__(self, data: bytes, /) -> tuple[bytes, bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAttester:
    """The TEE of this VM."""

    technology: Technology[Any, Any]  # Any: as in Attester
    source: Source
    shelf: Shelf
    fetch: Callable[[Report], bytes] | None = None  # the certificate of the chip's key, if it is still missing
    writable: tuple[Path, ...] = ()
    measured: bytes = b""
    sealing_secret: bytes | None = field(default=None, repr=False)

    def measurement(self) -> bytes:
        return self.measured

    def learn(self, documents: Endorsements) -> None:
        self.shelf.offer(documents)

    def evidence(self, report_data: bytes) -> Evidence:
        body, beside = self.source(report_data)
        if self.fetch is not None:
            self.shelf.own |= _certificate_of_chip(Report.parse(body), beside, self.shelf.all(), None, self.fetch)
        return compose(self.technology.name, body, beside, self.shelf.all())


def attester(
    documents: Path | None = None,
    *,
    interface: Tsm | None = None,
    device: Path = DEVICE,
    nsm: Path = NSM,
    tpm: Path = TPM,
    metadata: str = METADATA,
    fetch: Callable[[Report], bytes] | None = None,
) -> GuestAttester | AzureAttester:
    """The TEE of this VM, asked once: what it measured, and whether the certificate of its key is at hand.

    `documents` is a directory of vendors' documents; without one the host may still offer some, and what is missing
    then is fetched when evidence is made. Raises UnavailableError without a TEE, MalformedError for a report that
    cannot be read.
    """
    interface = interface or Tsm()
    try:
        name, source, writable = _find(interface, device, nsm)
    except UnavailableError as error:
        if not found_paravisor(tpm):
            raise UnavailableError(f"{error}, and no paravisor's report in {tpm}") from error
        return azure_attester(Vtpm.open(tpm), documents, metadata=metadata, fetch=fetch)
    body, beside = source(bytes(REPORT_DATA_SIZE))
    held = Endorsements() if documents is None or not documents.is_dir() else read([documents]).endorsements
    ask = (fetch or fetch_vcek) if name == "snp" else None
    if ask is not None and documents is not None:
        held |= _certificate_of_chip(Report.parse(body), beside, held, documents, ask)
    return GuestAttester(
        technology=next(item for item in TECHNOLOGIES if item.name == name),
        source=source,
        shelf=Shelf(own=held),
        fetch=ask if documents is None else None,
        writable=writable,
        measured=measurement(name, body),
        sealing_secret=_perhaps(lambda: SevGuest.open(device).derived_key()) if name == "snp" else None,
    )


def azure_attester(
    vtpm: Vtpm,
    documents: Path | None = None,
    *,
    metadata: str = METADATA,
    fetch: Callable[[Report], bytes] | None = None,
) -> AzureAttester:
    """The paravisor behind this TPM. Raises UnavailableError, MalformedError."""
    hcl, raw = paravisor(vtpm)
    held = Endorsements() if documents is None or not documents.is_dir() else read([documents]).endorsements
    body = hcl.hardware
    if hcl.kind == "tdx":
        body = fetch_quote(body, metadata)
    else:

        def ask(report: Report) -> bytes:
            try:
                return fetch_vcek_of_azure(metadata)
            except EnarxError:
                return (fetch or fetch_vcek)(report)

        held |= _certificate_of_chip(Report.parse(body), b"", held, documents, ask)
    shelf = Shelf(own=held)
    return AzureAttester(
        vtpm=vtpm,
        hcl=hcl,
        raw=raw,
        hardware=lambda: compose(hcl.kind, body, b"", shelf.all()).body,
        shelf=shelf,
        measured=measurement(hcl.kind, body),
        sealing_secret=_perhaps(vtpm.sealing_secret),
    )


def _perhaps(ask: Callable[[], bytes]) -> bytes | None:
    """A sealing secret. None where nobody gives one: reports may come another way, keys do not."""
    try:
        return ask()
    except UnavailableError:
        return None


def _find(interface: Tsm, device: Path, nsm: Path) -> tuple[str, Source, tuple[Path, ...]]:
    """The technology, where its reports come from, and where a Keep has to write to ask for one."""
    try:
        provider = interface.provider()
    except UnavailableError as error:
        if device.exists():
            return "snp", SevGuest.open(device).report, ()
        if nsm.exists():
            return "nitro", Nsm.open(nsm).report, ()
        raise UnavailableError(f"{error}; and there is no {device} and no {nsm}") from error
    if provider not in PROVIDERS:
        raise UnavailableError(f"configfs-tsm: expected one of {', '.join(PROVIDERS)}, found {provider!r}")

    def source(data: bytes) -> tuple[bytes, bytes]:
        made = interface.report(data)
        if made.provider != provider:
            raise UnavailableError(f"configfs-tsm: expected {provider}, found {made.provider!r}")
        return made.body, made.aux

    return PROVIDERS[provider], source, (interface.root,)


def measurement(technology: str, body: bytes) -> bytes:
    """What the TEE measured, out of one of its reports. Raises MalformedError."""
    if technology == "snp":
        return Report.parse(body).measurement
    if technology == "tdx":
        return TdxReport.parse(body).td.mr_td
    if technology == "nitro":
        return Document.parse(body).pcrs.get(0, b"")
    return Token.parse(body).realm.initial


def compose(technology: str, body: bytes, beside: bytes, documents: Endorsements) -> Evidence:
    """Evidence as the Steward reads it."""
    if technology == "tdx":
        platform = TdxReport.parse(body).quoted.pck
        return encode_tdx(body, of_intel(platform, "TDX", "TD_QE", documents))
    if technology == "cca":
        return Evidence(oid=CCA_OID, body=der.wrap(0x04, body))
    if technology == "nitro":
        return Evidence(oid=NITRO_OID, body=der.wrap(0x04, body))
    return encode(body, of_chip(Report.parse(body), documents | _table(beside)))


def fetch_vcek(report: Report) -> bytes:
    """The certificate of the chip's key (DER) from AMD. Raises UnavailableError, NotFoundError, MalformedError."""
    product = None if report.cpuid is None else product_of(report.cpuid)
    if product is None:
        raise NotFoundError("AMD's service: the report does not say of which product it is")
    layout = LAYOUTS[product]
    tcb = Tcb.parse(report.reported_tcb, layout, "REPORTED_TCB")
    levels = {query: value for name, query in QUERY.items() if (value := getattr(tcb, name)) is not None}
    with Client(KDS, timeout=PATIENCE / 2) as client:
        service = Kds(Origin(client=client, patience=PATIENCE))
        return service.vcek(product, report.chip_id[: vek.HWID_SIZE[layout]], levels).data


def _certificate_of_chip(
    report: Report, beside: bytes, held: Endorsements, documents: Path | None, fetch: Callable[[Report], bytes]
) -> Endorsements:
    """What is fetched because neither the host nor the directory has it.

    Nothing, when AMD does not answer: the Steward may have it, and says so if not.
    """
    certificates = (held | _table(beside)).certificates
    at_hand = any(fits(item, report) for item in certificates)
    if at_hand or report.signing_key != SIGNED_BY_VCEK or not any(report.chip_id):
        return Endorsements()
    try:
        fetched = fetch(report)
        Certificate.parse(fetched, "AMD's service: VCEK")
    except EnarxError:
        return Endorsements()
    if documents is not None:
        _keep(documents, fetched)
    return Endorsements(certificates=(fetched,))


def _keep(directory: Path, certificate: bytes) -> None:
    """For the next start; a directory that cannot be written is no failure."""
    target = directory / f"vcek-{sha256(certificate).hexdigest()[:32]}.der"
    fresh = target.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(certificate)
        fresh.replace(target)
    except OSError:
        return


@lru_cache(maxsize=4)
def _table(data: bytes) -> Endorsements:
    """The host's certificate table; one that cannot be read is none, for the report is what counts."""
    try:
        return recognise(data, "certificate table")[0] if data else Endorsements()
    except MalformedError:
        return Endorsements()
