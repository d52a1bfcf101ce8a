"""Vendors' documents in files and directories, detected by content, as `Endorsements`.

What is understood: certificates and chains, and CRLs (DER or PEM); AMD's certificate tables (GHCB, extended guest
request); Intel's TCB info and QE identity (the JSON of its PCS, kept byte for byte, with or without an issuer chain
beside them); the collateral JSON of Intel's QVL as dcap-qvl writes it, and as others do; the headers of Intel's
services and whole answers of theirs, as `curl -i` keeps them; and all of these in hexadecimal or base64. Everything
else is passed over and listed. Nothing is believed here: endorsements are never anchors, and every signature is checked by
whoever uses them. A directory is looked at before every judgement, so a CRL that was just published counts at once.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from enarx import der
from enarx.binary import Reader
from enarx.errors import MalformedError, NotFoundError
from enarx.pki.certificate import Certificate, describe_name, pem_blocks
from enarx.pki.crl import Crl
from enarx.steward.written import below_head, unwritten, without_percent
from enarx.tee.model import Endorsements, SignedJson

MAX_FILE: Final = 4 * 1024 * 1024  # bytes; the largest document in the field, a CRL, has some tens of thousands
MAX_FILES: Final = 1000
MAX_DEPTH: Final = 4  # directories below the one that was named
MAX_ITEMS: Final = 64  # certificates and lists in one file

_PEM: Final = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----.*?-----END \1-----", re.DOTALL)
_IN_PERCENT: Final = re.compile(rb"(?:-|%2D){5}BEGIN%20", re.IGNORECASE)
_TEXT: Final = bytes((9, 10, 13, *range(32, 127)))
_TABLE_END: Final = bytes(16)
_ENTRY: Final = 24  # bytes
# GUIDs of AMD's certificate table (GHCB 2.01, 4.1.8.1): ARK, ASK, VCEK, VLEK, CRL, in the order of their bytes.
_TABLE: Final = {
    bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"): "ARK",
    bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"): "ASK",
    bytes.fromhex("63da758de6644564adc5f4b93be8accd"): "VCEK",
    bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1"): "VLEK",
    bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea"): "CRL",
}
_QVL_DOCUMENTS: Final = (("tcb_info", "tcbInfo", "TCB info"), ("qe_identity", "enclaveIdentity", "QE identity"))
_QVL_LISTS: Final = ("root_ca_crl", "pck_crl")
_QVL_KEYS: Final = frozenset({*(key for key, _, _ in _QVL_DOCUMENTS), *_QVL_LISTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document as found: what it is, for people, and when it is valid, where it says so."""

    source: str
    kind: str
    title: str
    begin: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What files held. `passed_over` names every file that is nothing of the kind, and why."""

    endorsements: Endorsements
    documents: tuple[Document, ...]
    passed_over: tuple[tuple[str, str], ...]


def read(paths: Iterable[Path]) -> Reading:
    """Read files and directories. Raises NotFoundError for a path that is not there."""
    found = _Found()
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"{path}: no such file or directory")
        for file in files_of(path):
            found.add(file)
    return found.reading()


class Directory:
    """A directory whose documents are read again whenever a file in it changed.

    `rest` is for how many seconds nobody looks again: under load, looking at every file for every request costs a tenth
    of a judgement.
    """

    def __init__(self, path: Path, *, rest: float = 0.0) -> None:
        """Raises NotFoundError when it is not there."""
        if not path.is_dir():
            raise NotFoundError(f"{path}: no such directory")
        self._path = path
        self._rest = rest
        self._looked = -math.inf
        self._seen: tuple[tuple[str, int, int, int], ...] | None = None
        self._reading = Reading(endorsements=Endorsements(), documents=(), passed_over=())

    def current(self) -> Endorsements:
        return self.reading().endorsements

    def reading(self) -> Reading:
        now = time.monotonic()
        if now - self._looked < self._rest:
            return self._reading
        seen = tuple(_stamp(file) for file in files_of(self._path))
        if seen != self._seen:
            self._reading, self._seen = read([self._path]), seen
        self._looked = now
        return self._reading


def recognise(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """The documents in one file's bytes. Raises MalformedError when they are none."""
    data = unwritten(data)
    if data.startswith(b"HTTP/"):
        return _from_answer(data, source)
    if data.lstrip()[:1] == b"{":
        return _from_json(data.lstrip(), source)
    if b"-----BEGIN " in data and _is_text(data):
        return _from_pem(data, source)
    if _IN_PERCENT.search(data) and _is_text(data):
        return _from_pem(without_percent(data), source)
    if data[:1] == b"\x30":
        return _from_der(data, source)
    if is_table(data):
        return _from_table(data, source)
    raise MalformedError("not a certificate, CRL, certificate table, TCB info, QE identity or collateral JSON")


class _Found:
    """Gathers what files hold, in their order."""

    def __init__(self) -> None:
        self._endorsements = Endorsements()
        self._documents: list[Document] = []
        self._passed: list[tuple[str, str]] = []

    def add(self, file: Path) -> None:
        try:
            endorsements, documents = recognise(read_document(file), str(file))
        except (OSError, MalformedError) as error:
            why = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
            self._passed.append((str(file), why))
            return
        self._endorsements |= endorsements
        self._documents += documents

    def reading(self) -> Reading:
        return Reading(
            endorsements=_with_chains(self._endorsements),
            documents=tuple(self._documents),
            passed_over=tuple(self._passed),
        )


def _with_chains(found: Endorsements) -> Endorsements:
    """Documents of Intel's PCS that came without their issuer chain get each signer that lies beside them.

    The chain is only a suggestion of who signed: one whose signature does not verify is refused by the verifier.
    """
    parsed = [Certificate.parse(data) for data in found.certificates]
    chains: list[tuple[bytes, ...]] = [
        (c.der,) for c in parsed if not c.is_ca and c.common_name.endswith("TCB Signing")
    ]

    def complete(items: Sequence[SignedJson]) -> tuple[SignedJson, ...]:
        given = [item for item in items if item.chain]
        bodies = {item.body for item in given}
        bare = [item for item in items if not item.chain and item.body not in bodies]
        guessed = [SignedJson(body=item.body, chain=chain) for item in bare for chain in chains or [()]]
        return (*given, *guessed)

    return Endorsements(
        certificates=found.certificates,
        crls=found.crls,
        tcb_infos=complete(found.tcb_infos),
        qe_identities=complete(found.qe_identities),
    )


def _from_json(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    members = _members(data)
    if "tcbInfo" in members:
        return _signed(data, source, "TCB info", ())
    if "enclaveIdentity" in members:
        return _signed(data, source, "QE identity", ())
    if members.keys() & _QVL_KEYS:
        return _from_qvl(members, source)
    raise MalformedError("a JSON object, but neither TCB info, QE identity nor collateral")


def _signed(body: bytes, source: str, kind: str, chain: tuple[bytes, ...]) -> tuple[Endorsements, tuple[Document, ...]]:
    """One signed document of Intel's PCS; what is read of it here is only for people."""
    outer = "tcbInfo" if kind == "TCB info" else "enclaveIdentity"
    inner = _members(body).get(outer)
    facts = inner if isinstance(inner, dict) else {}
    title = " ".join(str(facts[key]) for key in ("id", "fmspc", "tcbEvaluationDataNumber") if key in facts)
    document = Document(
        source=source,
        kind=kind,
        title=title,
        begin=_json_moment(facts.get("issueDate")),
        end=_json_moment(facts.get("nextUpdate")),
    )
    signed = (SignedJson(body=body, chain=chain),)
    endorsements = Endorsements(tcb_infos=signed) if kind == "TCB info" else Endorsements(qe_identities=signed)
    return endorsements, (document,)


def _from_qvl(members: Mapping[str, object], source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """The members of dcap-qvl's collateral: chains in PEM, lists in hexadecimal, documents without their frame.

    Others write the same members in other ways: lists in PEM or base64, bytes as an array of numbers, documents within
    the frame that has their signature, as Intel's library hands them out. Older ones have no lists. Whatever of it is
    there is taken; what is not is missing, as if it lay in no file.
    """
    found, documents = Endorsements(), list[Document]()

    def take(more: tuple[Endorsements, tuple[Document, ...]]) -> None:
        nonlocal found
        found |= more[0]
        documents.extend(more[1])

    for key, outer, kind in _QVL_DOCUMENTS:
        if _has(members, key):
            beside = f"{key}_issuer_chain"
            text = _text(members, beside).encode() if _has(members, beside) else b""
            chain = pem_blocks(text, "CERTIFICATE", source, limit=8) if text else ()
            take(_signed(_framed(members, key, outer), source, kind, chain))
            for item in chain:
                take(_from_der(item, source))
    for key in _QVL_LISTS:
        if _has(members, key):
            take(recognise(_octets(members, key), source))
    for key in ("pck_crl_issuer_chain", "pck_certificate_chain"):
        if _has(members, key):
            take(_from_pem(_text(members, key).encode(), source))
    if not documents:
        raise MalformedError("collateral: expected documents or lists, found nothing in any member")
    return found, tuple(documents)


def _has(members: Mapping[str, object], key: str) -> bool:
    return members.get(key) not in (None, "")


def _framed(members: Mapping[str, object], key: str, outer: str) -> bytes:
    """A document of Intel's PCS as its service sends it, frame and signature around the exact text of the member."""
    body = _text(members, key).strip("\0 \r\n\t")
    if outer in _members(body.encode()):
        return body.encode()
    return f'{{"{outer}":{body},"signature":"{_octets(members, f"{key}_signature").hex()}"}}'.encode()


def _text(members: Mapping[str, object], key: str) -> str:
    value = members.get(key)
    if not isinstance(value, str):
        raise MalformedError(f"collateral: {key}: expected text, found {'nothing' if value is None else 'no text'}")
    return value


def _octets(members: Mapping[str, object], key: str) -> bytes:
    """Bytes in hexadecimal, in base64, in PEM, or as an array of numbers."""
    value = members.get(key)
    if isinstance(value, list):
        try:
            return bytes(value)
        except (TypeError, ValueError) as error:
            raise MalformedError(f"collateral: {key}: expected numbers from 0 to 255") from error
    return unwritten(_text(members, key).rstrip("\0").encode())


def _from_answer(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """A whole HTTP answer: Intel's services send a document in the body and who signed it in a header."""
    head, body = below_head(data)
    found, documents = Endorsements(), tuple[Document, ...]()
    if _IN_PERCENT.search(head):
        found, documents = _from_pem(without_percent(head), source)
    if not body.strip():
        if not documents:
            raise MalformedError("an HTTP answer without a document")
        return found, documents
    endorsements, more = recognise(body, source)
    return found | endorsements, (*documents, *more)


def _from_pem(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """Certificates and lists, in any order, with anything between the blocks, as vendors' chains have it."""
    found, documents = Endorsements(), list[Document]()
    for count, match in enumerate(_PEM.finditer(data)):
        if count == MAX_ITEMS:
            raise MalformedError(f"more than {MAX_ITEMS} PEM blocks")
        (block,) = pem_blocks(match.group(0), match.group(1).decode(), source, limit=1)
        endorsements, more = _from_der(block, source)
        found, documents = found | endorsements, documents + list(more)
    if not documents:
        raise MalformedError("PEM, but no certificate and no CRL")
    return found, tuple(documents)


def _from_der(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """One or more certificates and lists, one after the other, or in a SEQUENCE."""
    found, documents = Endorsements(), list[Document]()
    for element in _elements(data):
        certificate, crl = _certificate(element), _crl(element)
        if certificate is not None:
            name = certificate.common_name or describe_name(certificate.subject)
            found |= Endorsements(certificates=(element,))
            documents.append(
                Document(
                    source=source,
                    kind="certificate",
                    title=name,
                    begin=certificate.not_before,
                    end=certificate.not_after,
                )
            )
        elif crl is not None:
            found |= Endorsements(crls=(element,))
            title = f"of {describe_name(crl.issuer)}, number {crl.number}, {len(crl.revoked)} revoked"
            documents.append(
                Document(source=source, kind="CRL", title=title, begin=crl.this_update, end=crl.next_update)
            )
        else:
            raise MalformedError("DER, but neither certificates nor CRLs")
    return found, tuple(documents)


def _elements(data: bytes) -> tuple[bytes, ...]:
    """The elements that may be documents: `data` itself, those it strings together, or those of its SEQUENCE."""
    strung = der.sequence_of(der.wrap(0x30, data), "documents", limit=MAX_ITEMS)
    if len(strung) > 1 or _certificate(data) is not None or _crl(data) is not None:
        return strung
    return der.sequence_of(data, "documents", limit=MAX_ITEMS)


def _from_table(data: bytes, source: str) -> tuple[Endorsements, tuple[Document, ...]]:
    """GUID, offset and length of each certificate, up to an entry of zeros; then the certificates."""
    entries = _entries(data)
    header = _ENTRY * (len(entries) + 1)
    found, documents = Endorsements(), list[Document]()
    for guid, offset, length in entries:
        if not length or (guid not in _TABLE and _swapped(guid) not in _TABLE):
            continue  # the host may add entries of its own, and leave some empty
        if offset < header or offset + length > len(data):
            raise MalformedError(f"certificate table: entry of {length} bytes at 0x{offset:x} is not behind the header")
        part = data[offset : offset + length]
        endorsements, more = _from_pem(part, source) if part.startswith(b"-----BEGIN ") else _from_der(part, source)
        found, documents = found | endorsements, documents + list(more)
    return found, tuple(documents)


def _entries(data: bytes) -> list[tuple[bytes, int, int]]:
    """The table's header. Raises MalformedError when it does not end."""
    reader = Reader(data, what="certificate table")
    found: list[tuple[bytes, int, int]] = []
    while len(found) <= MAX_ITEMS:
        guid = reader.take(16, "GUID")
        offset, length = reader.uint(4, "OFFSET"), reader.uint(4, "LENGTH")
        if guid == _TABLE_END:
            return found
        found.append((guid, offset, length))
    raise MalformedError(f"certificate table: more than {MAX_ITEMS} entries")


def is_table(data: bytes) -> bool:
    """Whether one of the first entries is of a kind that is known, in either writing of its GUID."""
    guids = [data[at : at + 16] for at in range(0, min(len(data), _ENTRY * MAX_ITEMS), _ENTRY)]
    return any(guid in _TABLE or _swapped(guid) in _TABLE for guid in guids)


def _is_text(data: bytes) -> bool:
    """Whether these are lines of ASCII; a quote carries its PEM chain among other bytes and is no chain."""
    return not data.rstrip(b"\0").translate(None, _TEXT)


def _swapped(guid: bytes) -> bytes:
    """The same GUID with its first three fields in little-endian order, as some hosts write them."""
    return guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]


def _certificate(data: bytes) -> Certificate | None:
    try:
        return Certificate.parse(data)
    except MalformedError:
        return None


def _crl(data: bytes) -> Crl | None:
    try:
        return Crl.parse(data)
    except MalformedError:
        return None


def _members(data: bytes) -> dict[str, object]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError("begins like JSON and is none") from error
    if not isinstance(value, dict):
        raise MalformedError("JSON, but no object")
    return value


def _json_moment(value: object) -> datetime | None:
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def read_document(file: Path) -> bytes:
    """Raises OSError, and MalformedError for what is too large: as much is read and no more, for a device has no size."""
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise MalformedError(f"larger than {MAX_FILE} bytes")
    return data


def files_of(path: Path) -> Iterator[Path]:
    """The file itself, or the regular files in a directory and below, in order; hidden ones are left out."""
    if not path.is_dir():
        yield path
        return
    found: list[Path] = []
    for folder, folders, names in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        folders[:] = [] if depth == MAX_DEPTH else sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder) / name for name in names if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise MalformedError(f"{path}: more than {MAX_FILES} files")
    yield from sorted(file for file in found if file.is_file())


def _stamp(file: Path) -> tuple[str, int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return str(file), 0, 0, 0
    return str(file), status.st_mtime_ns, status.st_size, status.st_ino
