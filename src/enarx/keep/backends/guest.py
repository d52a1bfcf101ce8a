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
from pathlib import Path
from typing import Any, Protocol

from enarx import der
from enarx.attested.claims import REPORT_DATA_SIZE
from enarx.errors import EnarxError, MalformedError, UnavailableError
from enarx.keep.backends import chip
from enarx.keep.backends.azure import METADATA, AzureAttester, fetch_quote, paravisor
from enarx.keep.backends.azure import fetch_vcek as fetch_vcek_of_azure
from enarx.keep.backends.chip import Chip, Fetch, NoChipError
from enarx.keep.backends.documents import Shelf, of_chip, of_intel
from enarx.keep.backends.inside import PROVIDERS, TPM, found_paravisor
from enarx.keep.backends.nsm import DEVICE as NSM
from enarx.keep.backends.nsm import Nsm
from enarx.keep.backends.sevguest import DEVICE, SevGuest
from enarx.keep.backends.tsm import Tsm
from enarx.keep.backends.vtpm import Vtpm
from enarx.steward.collateral import read, recognise
from enarx.tee import TECHNOLOGIES
from enarx.tee.cca.report import OID as CCA_OID
from enarx.tee.cca.report import Token
from enarx.tee.model import Endorsements, Evidence, Technology
from enarx.tee.nitro.report import OID as NITRO_OID
from enarx.tee.nitro.report import Document
from enarx.tee.snp.report import Report, encode
from enarx.tee.tdx.report import Report as TdxReport
from enarx.tee.tdx.report import encode as encode_tdx


class Source(Protocol):
    """Where reports come from: body and, beside it, what the host put there."""

    def __call__(self, data: bytes, /) -> tuple[bytes, bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestAttester:
    """The TEE of this VM."""

    technology: Technology[Any, Any]  # Any: as in Attester
    source: Source
    shelf: Shelf
    fetch: Fetch | None = None  # the certificate of the chip's key, if it is still missing
    writable: tuple[Path, ...] = ()
    measured: bytes = b""
    sealing_secret: bytes | None = field(default=None, repr=False)

    def measurement(self) -> bytes:
        return self.measured

    def learn(self, documents: Endorsements) -> None:
        self.shelf.offer(documents)

    def evidence(self, report_data: bytes) -> Evidence:
        return self.compose(*self.source(report_data))

    def compose(self, body: bytes, beside: bytes) -> Evidence:
        """Evidence out of a report and what came with it, with the documents at hand."""
        if self.fetch is not None:
            self.shelf.own |= chip.missing(Report.parse(body), self.shelf.all() | _table(beside), None, self.fetch)
        return compose(self.technology.name, body, beside, self.shelf.all())


def attester(
    documents: Path | None = None,
    *,
    interface: Tsm | None = None,
    device: Path = DEVICE,
    nsm: Path = NSM,
    tpm: Path = TPM,
    metadata: str = METADATA,
    fetch: Fetch | None = None,
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
    ask = (fetch or chip.from_amd) if name == "snp" else None
    if ask is not None and documents is not None:
        held |= chip.missing(Report.parse(body), held | _table(beside), documents, ask)
    return GuestAttester(
        technology=next(item for item in TECHNOLOGIES if item.name == name),
        source=source,
        shelf=Shelf(own=held),
        fetch=ask if documents is None else None,
        writable=writable,
        measured=measurement(name, body),
        sealing_secret=_perhaps(lambda: _derived_key(device, body)) if name == "snp" else None,
    )


def azure_attester(
    vtpm: Vtpm,
    documents: Path | None = None,
    *,
    metadata: str = METADATA,
    fetch: Fetch | None = None,
) -> AzureAttester:
    """The paravisor behind this TPM. Raises UnavailableError, MalformedError."""
    hcl, raw = paravisor(vtpm)
    held = Endorsements() if documents is None or not documents.is_dir() else read([documents]).endorsements
    body = hcl.hardware
    if hcl.kind == "tdx":
        body = fetch_quote(body, metadata)
    else:
        held |= chip.missing(Report.parse(body), held, documents, _of_azure(metadata, fetch or chip.from_amd))
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


def _of_azure(metadata: str, otherwise: Fetch) -> Fetch:
    """Azure's metadata service, else whoever else there is."""

    def ask(which: Chip) -> bytes:
        try:
            return fetch_vcek_of_azure(metadata)
        except EnarxError:
            return otherwise(which)

    return ask


def chip_certificate(
    documents: Path,
    fetch: Fetch,
    *,
    interface: Tsm | None = None,
    device: Path = DEVICE,
    nsm: Path = NSM,
    tpm: Path = TPM,
    metadata: str = METADATA,
    host: Callable[[], Chip] | None = None,
) -> Path:
    """A file of `documents` with the certificate of this chip's key, fetched if nobody here has it: for operators.

    It is the chip under this SNP guest, under Azure's paravisor, or, with `host`, in this host. Raises NoChipError where
    there is none, and what whoever was asked raises.
    """
    held = Endorsements() if not documents.is_dir() else read([documents]).endorsements
    try:
        name, source, _ = _find(interface or Tsm(), device, nsm)
    except UnavailableError as error:
        if found_paravisor(tpm):
            return chip.require(_under_azure(tpm), held.certificates, documents, _of_azure(metadata, fetch))
        if host is not None:
            return chip.require(_in_host(host), held.certificates, documents, fetch)
        raise NoChipError(f"no SEV-SNP here: {error}, and no paravisor's report in {tpm}") from None  # all is said
    if name != "snp":
        raise NoChipError(f"this is a guest with {name.upper()}: no chip of AMD's")
    body, beside = source(bytes(REPORT_DATA_SIZE))
    return chip.require(Report.parse(body), (held | _table(beside)).certificates, documents, fetch)


def _in_host(ask: Callable[[], Chip]) -> Chip:
    """/dev/sev is there on every host with SEV; only the firmware says whether it is one of SEV-SNP."""
    try:
        return ask()
    except UnavailableError as error:
        raise NoChipError(f"no SEV-SNP here: {error}") from error


def _under_azure(tpm: Path) -> Report:
    with Vtpm.briefly(tpm) as vtpm:
        hcl, _ = paravisor(vtpm)
    if hcl.kind != "snp":
        raise NoChipError(f"Azure's paravisor runs on {hcl.kind.upper()} here: no chip of AMD's")
    return Report.parse(hcl.hardware)


def _derived_key(device: Path, body: bytes) -> bytes:
    """By the level of this guest's own reports: beneath an SVSM the firmware gives none of a lower one."""
    return SevGuest.open(device).derived_key(Report.parse(body).vmpl)


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


@lru_cache(maxsize=4)
def _table(data: bytes) -> Endorsements:
    """The host's certificate table; one that cannot be read is none, for the report is what counts."""
    try:
        return recognise(data, "certificate table")[0] if data else Endorsements()
    except MalformedError:
        return Endorsements()
