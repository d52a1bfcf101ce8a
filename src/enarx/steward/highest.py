"""The highest numbers that vendors' documents were seen with, so that an older document never counts again.

A TCB info and a QE identity carry a tcbEvaluationDataNumber, a CRL its number (RFC 5280, 5.2.3). An older one that has
not ended yet is still signed and current, and would hide a TCB recovery or a revocation. Only documents on which a
verified judgement rested, or that were verified when they were fetched, raise what is remembered: nobody else can. A
series belongs to the authority that signs it (its key id), so a simulated vendor's numbers say nothing of the real one's.

The memory is a JSON file, `.highest.json`, replaced as a whole under a lock, and read again when it changed; without a
path it lasts as long as the process.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError, UnavailableError
from enarx.pki.certificate import Certificate, describe_name
from enarx.pki.crl import Crl
from enarx.tee.dcap.collateral import read_qe_identity, read_tcb_info
from enarx.tee.documents import LARGEST_KEY, size_of
from enarx.tee.model import Endorsements, SignedJson

FILE: Final = ".highest.json"
_KNOWN: Final = 64  # machines, whose endorsements stay the same

Series = tuple[str, str, int]  # what is numbered, the key id of who signs it (empty: not said), the number
Floors = Mapping[str, Mapping[str, int]]


class Highest:
    """What is remembered, for all processes that share the file."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._floors: dict[str, dict[str, int]] = {}
        self._known: dict[Endorsements, tuple[Floors, Endorsements, tuple[str, ...]]] = {}  # what `admit` gave

    def floors(self) -> Floors:
        """The highest number of each series and authority. Raises UnavailableError when the file was damaged."""
        if self._path is None:
            return self._floors
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return self._floors
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._floors, self._stamp = _read(self._path), stamp
        return self._floors

    def admit(self, endorsements: Endorsements) -> tuple[Endorsements, tuple[str, ...]]:
        """The endorsements without those that were superseded before, and a sentence for each that was left out."""
        floors = self.floors()
        if not floors:
            return endorsements, ()
        before, kept, said = self._known.get(endorsements, (None, endorsements, ()))
        if before is not floors:  # which are never changed, but replaced
            kept, said = self._admitted(endorsements, floors)
            if size_of(endorsements) <= LARGEST_KEY:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[endorsements] = floors, kept, said
        return kept, said

    def _admitted(self, endorsements: Endorsements, floors: Floors) -> tuple[Endorsements, tuple[str, ...]]:
        said: list[str] = []

        def current(document: bytes | SignedJson) -> bool:
            series = series_of(document)
            floor = None if series is None else _floor(floors, series)
            if series is None or floor is None or series[2] >= floor:
                return True
            said.append(f"{series[0]}: number {series[2]} is a rollback, {floor} was seen before")
            return False

        kept = Endorsements(
            certificates=endorsements.certificates,
            crls=tuple(crl for crl in endorsements.crls if current(crl)),
            tcb_infos=tuple(each for each in endorsements.tcb_infos if current(each)),
            qe_identities=tuple(each for each in endorsements.qe_identities if current(each)),
        )
        return kept, tuple(said)

    def learn(self, documents: Iterable[bytes | SignedJson]) -> None:
        """Remember the numbers of documents that were verified. Raises UnavailableError when they cannot be kept."""
        found = [series for document in documents if (series := series_of(document)) is not None]
        floors = self.floors()  # asked once, for it looks at the file
        if not any(_is_news(floors, series) for series in found):
            return
        try:
            with self._locked():
                raised = {name: dict(numbers) for name, numbers in self.floors().items()}
                for series in found:
                    if _is_news(raised, series):
                        raised.setdefault(series[0], {})[series[1]] = series[2]
                self._write(raised)
        except OSError as error:
            raise UnavailableError(f"{self._path}: {error.strerror or 'cannot be written'}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._path is None:
            yield
            return
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, floors: dict[str, dict[str, int]]) -> None:
        self._floors = floors
        if self._path is not None:
            fresh = self._path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(floors, indent=1, sort_keys=True) + "\n")
            fresh.replace(self._path)


@lru_cache(maxsize=256)
def series_of(document: bytes | SignedJson) -> Series | None:
    """The series of a document and its number in it; None when it has none or cannot be read."""
    try:
        return _crl(document) if isinstance(document, bytes) else _json(document)
    except MalformedError:
        return None


def _crl(data: bytes) -> Series | None:
    crl = Crl.parse(data)
    if crl.number is None:
        return None
    return f"CRL of {describe_name(crl.issuer)}", (crl.authority_key_id or b"").hex(), crl.number


def _json(document: SignedJson) -> Series:
    signer = Certificate.parse(document.chain[0]) if document.chain else None
    authority = b"" if signer is None else signer.authority_key_id or sha256(signer.issuer).digest()
    try:
        info = read_tcb_info(document.body)
    except MalformedError:  # by content alone: how the frame around it is written is not signed
        pass
    else:
        return f"TCB info {info.id} {info.fmspc.hex().upper()}", authority.hex(), info.evaluation
    identity = read_qe_identity(document.body)
    return f"QE identity {identity.id}", authority.hex(), identity.evaluation


def _floor(floors: Floors, series: Series) -> int | None:
    """Whoever does not say by whom it is signed is measured by everybody's."""
    name, authority, _ = series
    numbers = floors.get(name, {})
    return numbers.get(authority) if authority else max(numbers.values(), default=None)


def _is_news(floors: Floors, series: Series) -> bool:
    name, authority, number = series
    known = floors.get(name, {}).get(authority)
    return known is None or number > known


def _read(path: Path) -> dict[str, dict[str, int]]:
    try:
        floors = json.loads(path.read_bytes())
        return {
            str(name): {str(who): int(number) for who, number in numbers.items()} for name, numbers in floors.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnavailableError(f"{path}: the memory of the highest numbers was damaged") from error
