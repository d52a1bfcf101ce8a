"""A directory of vendors' documents as something to keep: put into it, renewed, carried away.

Each document is a file, named by what it is and its SHA-256, and appears as a whole. A document whose number is below
one that was seen before is refused. One that a vendor's root vouches for, here and now, raises what is remembered and
replaces the older ones of its series; one whose signature is wrong is refused; one of a root that is not known here is
kept, for it can do no harm (every judgement verifies what it uses), but is told of.
"""

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from enarx.errors import EnarxError, MalformedError, NotFoundError, RejectedError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate, pem
from enarx.pki.chain import ECDSA_SHA256, verify_document, verify_issued
from enarx.pki.crl import Crl
from enarx.steward.collateral import MAX_FILE, MAX_FILES, Document, files_of, read, read_document, recognise
from enarx.steward.highest import Highest, Series, series_of
from enarx.steward.vendors import Fetched, Kds, PckCa, Pcs, Tee
from enarx.tee.dcap.collateral import read_qe_identity, read_tcb_info
from enarx.tee.dcap.pck import Pck
from enarx.tee.dcap.verify import TCB_SIGNER
from enarx.tee.model import Endorsements, SignedJson, TrustAnchor
from enarx.tee.snp.report import Report
from enarx.tee.snp.tcb import LAYOUTS, PRODUCTS, Tcb, product_of
from enarx.tee.snp.vek import HWID_SIZE
from enarx.web.files import read_file

D = TypeVar("D")

MAX_ARCHIVE: Final = 64 * 1024 * 1024  # bytes of a tar archive; a thousand documents have a few
TEES: Final[tuple[Tee, ...]] = ("sgx", "tdx")
PCK_CAS: Final[tuple[PckCa, ...]] = ("platform", "processor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of one document: where it is now, and what has to be known of it."""

    source: str
    target: Path
    documents: tuple[Document, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One of AMD's chips at one TCB, as its certificate is asked for."""

    product: str
    hwid: bytes
    levels: Mapping[str, int]

    @classmethod
    def of(cls, report: Report, product: str | None = None) -> Self:
        """The chip that made a report. Version 2 does not say of which product it is: then `product` does.

        Raises MalformedError when the product is not known or the chip id is masked.
        """
        found = product if report.cpuid is None else product_of(report.cpuid)
        if found is None:
            raise MalformedError("SNP report: does not say which product made it; name it beside the report")
        if report.masked:
            raise MalformedError("SNP report: the chip id is masked, so AMD cannot be asked for the chip's certificate")
        layout = LAYOUTS[found]
        tcb = Tcb.parse(report.reported_tcb, layout, "REPORTED_TCB")
        fmc = {} if tcb.fmc is None else {"fmcSPL": tcb.fmc}
        levels = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.microcode}
        return cls(product=found, hwid=report.chip_id[: HWID_SIZE[layout]], levels={**fmc, **levels})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to fetch: AMD's products and chips; FMSPCs, and for which of Intel's technologies."""

    products: tuple[str, ...] = ()
    chips: tuple[Chip, ...] = ()
    fmspcs: tuple[bytes, ...] = ()
    tees: tuple[Tee, ...] = ()


class Stock:
    """The directory, who is trusted to sign what lies in it, and the memory of numbers."""

    def __init__(self, directory: Path, anchors: Sequence[TrustAnchor], highest: Highest) -> None:
        self.directory = directory
        self.highest = highest
        self._anchors = anchors
        if directory.exists() and not directory.is_dir():
            raise NotFoundError(f"{directory}: not a directory")

    def add(self, paths: Iterable[Path]) -> tuple[Kept, ...]:
        """Copy documents from files, directories and tar archives.

        Raises MalformedError for a file that is none (in a directory it is passed over), NotFoundError when there is
        not one at all, RejectedError for a rollback; then nothing is copied.
        """
        paths = tuple(paths)
        given = [item for path in paths for item in _contents(path)]
        if not given:
            raise NotFoundError(f"{', '.join(map(str, paths))}: expected vendors' documents, found none")
        pool = read([self.directory]).endorsements if self.directory.is_dir() else Endorsements()
        for source, data in given:
            with _told_of(source):
                pool |= recognise(data, source)[0]
        notes = []
        for source, data in given:
            with _told_of(source):
                notes.append(self._examine(data, source, pool))
        return tuple(self._put(data, source, note) for (source, data), note in zip(given, notes, strict=True))

    def keep(self, fetched: Fetched) -> tuple[Kept, ...]:
        """Put what was fetched, and the chain that came with it. Raises RejectedError, UntrustedError, MalformedError."""
        pool = read([self.directory]).endorsements if self.directory.is_dir() else Endorsements()
        pool |= Endorsements(certificates=fetched.chain) | recognise(fetched.data, fetched.source)[0]
        note = self._examine(fetched.data, fetched.source, pool)
        chain = b"".join(pem("CERTIFICATE", certificate) for certificate in fetched.chain)
        beside = (self._put(chain, f"{fetched.source} (issuer chain)", ""),) if chain else ()
        return (*beside, self._put(fetched.data, fetched.source, note))

    def wanted(self) -> Wanted:
        """What the directory holds already, as something to fetch anew."""
        endorsements = read([self.directory]).endorsements if self.directory.is_dir() else Endorsements()
        names = " ".join(Certificate.parse(each).common_name for each in endorsements.certificates)
        platforms = [
            pck for each in endorsements.certificates if (pck := _platform(Certificate.parse(each))) is not None
        ]
        infos = [info for each in endorsements.tcb_infos if (info := _read(read_tcb_info, each)) is not None]
        identities = {
            each.id for item in endorsements.qe_identities if (each := _read(read_qe_identity, item)) is not None
        }
        return Wanted(
            products=tuple(product for product in PRODUCTS if re.search(rf"\b(?:ARK|SEV|SEV-VLEK)-{product}\b", names)),
            fmspcs=tuple(dict.fromkeys([*(info.fmspc for info in infos), *(pck.fmspc for pck in platforms)])),
            tees=tuple(
                tee
                for tee, identity in zip(TEES, ("QE", "TD_QE"), strict=True)
                if identity in identities or any(info.id == tee.upper() for info in infos)
            ),
        )

    def refresh(self, wanted: Wanted, kds: Kds, pcs: Pcs) -> Iterator[Kept | str]:
        """Fetch and keep everything that is wanted; a sentence for what the vendor does not have.

        What is refused or cannot be had keeps nothing else from being fetched, and is raised at the end.
        """
        failures: list[EnarxError] = []
        for fetch in _plan(wanted, kds, pcs):
            try:
                yield from self.keep(fetch())
            except NotFoundError as error:
                yield f"passed over: {error}"
            except EnarxError as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            reasons = tuple(dict.fromkeys(str(error) for error in failures))
            told = f"{len(failures)} documents were not taken: {'; '.join(reasons)}"
            if all(isinstance(error, UnavailableError) for error in failures):
                raise UnavailableError(told)  # an outage, and nothing worse
            raise RejectedError(told, reasons=reasons)

    def export(self, target: Path) -> int:
        """Write every document into a tar archive, the same bytes for the same documents; returns how many.

        Raises NotFoundError without the directory.
        """
        if not self.directory.is_dir():
            raise NotFoundError(f"{self.directory}: no such directory")
        files = list(files_of(self.directory))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for file in files:
                data = read_document(file)
                entry = tarfile.TarInfo(str(file.relative_to(self.directory)))
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        _write(target, buffer.getvalue())
        return len(files)

    def _examine(self, data: bytes, source: str, pool: Endorsements) -> str:
        """Refuse what is wrong or superseded, learn from what is right; what has to be said of it."""
        found, _ = recognise(data, source)
        offered: tuple[bytes | SignedJson, ...] = (*found.crls, *found.tcb_infos, *found.qe_identities)
        verified, notes = list[bytes | SignedJson](), list[str]()
        for document in offered:
            try:
                verified.append(self._verify(document, pool, source))
            except NotFoundError as error:
                notes.append(f"not verified: {error}")
        _, rollbacks = self.highest.admit(
            Endorsements(
                crls=tuple(each for each in verified if isinstance(each, bytes)),
                tcb_infos=tuple(each for each in verified if isinstance(each, SignedJson)),
            )
        )
        if rollbacks:
            raise RejectedError(
                f"{source}: {'; '.join(rollbacks)}", reasons=[f"{source}: {each}" for each in rollbacks]
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        self.highest.learn(verified)
        return "; ".join(notes)

    def _verify(self, document: bytes | SignedJson, pool: Endorsements, source: str) -> bytes | SignedJson:
        """The document with its signer, when a vendor's root vouches for it.

        Raises NotFoundError when nobody who is known here can have signed it, UntrustedError for a wrong signature.
        """
        known = _known(self._anchors, pool)
        if isinstance(document, bytes):
            crl = Crl.parse(document)
            signers = [each for each in known if each.subject == crl.issuer]
            _first(
                signers, lambda each: verify_document(each.spki, crl.algorithm, crl.signature, crl.tbs, source), source
            )
            return document
        parsed = read_tcb_info(document.body) if b'"tcbInfo"' in document.body[:32] else read_qe_identity(document.body)
        r, s = (int.from_bytes(half, "big") for half in (parsed.signature[:32], parsed.signature[32:]))
        signature = encode_dss_signature(r, s)
        signers = [each for each in known if each.common_name == TCB_SIGNER]
        signer = _first(
            signers, lambda each: verify_document(each.spki, ECDSA_SHA256, signature, parsed.signed, source), source
        )
        return SignedJson(body=document.body, chain=(signer.der,))

    def _put(self, data: bytes, source: str, note: str) -> Kept:
        found, documents = recognise(data, source)
        kind = re.sub(r"[^a-z0-9]+", "-", f"{documents[0].kind} {documents[0].title}".lower())[:60].strip("-")
        suffix = ".json" if data[:1] == b"{" else ".pem" if data.lstrip().startswith(b"-----") else ".der"
        target = self.directory / f"{kind}-{sha256(data).hexdigest()[:12]}{suffix}"
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(target, data)
        if not note:
            self._retire(target, found)
        return Kept(source=source, target=target, documents=documents, note=note)

    def _retire(self, target: Path, found: Endorsements) -> None:
        """Remove files that hold one document of the same series and authority, of a lower number or an earlier date."""
        new = self._series(found)
        if new is None:
            return
        for file in files_of(self.directory):
            with suppress(EnarxError, OSError):
                old, documents = recognise(read_document(file), str(file))
                series = self._series(old) if file != target and len(documents) == 1 else None
                if (
                    series is not None
                    and series[0][:2] == new[0][:2]
                    and (series[0][2], series[1]) < (new[0][2], new[1])
                ):
                    file.unlink()

    def _series(self, found: Endorsements) -> tuple[Series, float] | None:
        """Series and date of the one verified document that there is."""
        items: tuple[bytes | SignedJson, ...] = (*found.crls, *found.tcb_infos, *found.qe_identities)
        if len(items) != 1 or found.certificates:
            return None
        pool = read([self.directory]).endorsements
        try:
            series = series_of(self._verify(items[0], pool, ""))
        except NotFoundError:
            return None
        if isinstance(items[0], bytes):
            begin = Crl.parse(items[0]).this_update
        else:
            tcb = bool(found.tcb_infos)
            begin = (read_tcb_info if tcb else read_qe_identity)(items[0].body).issue_date
        return None if series is None else (series, begin.timestamp())


@contextmanager
def _told_of(source: str) -> Iterator[None]:
    """Of several files the one that is wrong is named."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(f"{source}: {error}") from error


def _plan(wanted: Wanted, kds: Kds, pcs: Pcs) -> Iterator[Callable[[], Fetched]]:
    for product in wanted.products:
        yield partial(kds.chain, product)
        yield partial(kds.chain, product, "vlek")
        yield partial(kds.crl, product)
    for chip in wanted.chips:
        yield partial(kds.vcek, chip.product, chip.hwid, chip.levels)
    if wanted.tees:
        yield pcs.root_crl
        yield from (partial(pcs.pck_crl, ca) for ca in PCK_CAS)
    for tee in wanted.tees:
        yield partial(pcs.qe_identity, tee)
        yield from (partial(pcs.tcb_info, tee, fmspc) for fmspc in wanted.fmspcs)


def _read(parse: Callable[[bytes], D], document: SignedJson) -> D | None:
    try:
        return parse(document.body)
    except MalformedError:
        return None  # others' rubbish may lie there


def _platform(certificate: Certificate) -> Pck | None:
    """Which of Intel's platforms a certificate is for, if it is for one."""
    try:
        return Pck.of(certificate)
    except MalformedError:
        return None


def _known(anchors: Sequence[TrustAnchor], pool: Endorsements) -> list[Certificate]:
    """Anchors, and what they issued."""
    roots = [Certificate.parse(data) for anchor in anchors if (data := anchor.find(pool)) is not None]
    below = []
    for data in pool.certificates:
        certificate = Certificate.parse(data)
        for root in roots:
            with suppress(UntrustedError):
                verify_issued(certificate, root, "endorsement")
                below.append(certificate)
    return [*roots, *below]


def _first(signers: Sequence[Certificate], verify: Callable[[Certificate], None], source: str) -> Certificate:
    """The signer whose key verifies. Raises NotFoundError without any, UntrustedError when none does."""
    if not signers:
        raise NotFoundError("no root that is trusted here leads to who signed it")
    refusal: UntrustedError | None = None
    for signer in signers:
        try:
            verify(signer)
        except UntrustedError as error:
            refusal = error
            continue
        return signer
    raise refusal or UntrustedError(f"{source}: nobody signed it")


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The documents of a file, a tar archive or a directory; only a file that was named has to be one."""
    if path.is_dir():
        for file in files_of(path):
            with suppress(MalformedError):
                data = read_document(file)
                recognise(data, str(file))
                yield str(file), data
        return
    try:
        data = read_file(path, MAX_ARCHIVE) if path.suffix == ".tar" else read_document(path)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except MalformedError as error:
        raise MalformedError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    if path.suffix != ".tar":
        yield str(path), data
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = [member for member in archive if member.isfile()][: MAX_FILES + 1]
            if len(members) > MAX_FILES or any(member.size > MAX_FILE for member in members):
                raise MalformedError(f"{path}: expected at most {MAX_FILES} files of at most {MAX_FILE} bytes")
            for member in members:
                inner = archive.extractfile(member)
                yield f"{path}/{member.name}", b"" if inner is None else inner.read()
    except tarfile.TarError as error:
        raise MalformedError(f"{path}: not a tar archive") from error


def _write(target: Path, data: bytes) -> None:
    """A file that is there as a whole or not at all; hidden files are read by nobody, so half of one never counts."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        raise NotFoundError(f"{target}: {error.strerror or 'cannot be written'}") from error
