"""configfs-tsm: one interface of the kernel for the reports of every TEE that a guest can run in (Linux 6.7 on).

    /sys/kernel/config/tsm/report/NAME/   inblob outblob auxblob provider generation privlevel privlevel_floor …

One entry for each request, under a name of our own, removed at the end. `inblob` takes the report data in one write and
applies it when it is closed, where its errors are lost; so `generation` is compared afterwards: it counts every write,
and one that is not ours, or that did not count, means that the report may be over something else. What `outblob` then
holds is checked by nobody here: the Steward does. Where a lowest privilege level is shown it is asked for, for the
default of 0 may be below it. The directory alone proves nothing: only making an entry tells whether a TEE is there.

Beneath an SVSM (Linux 6.10 on) there are `service_provider`, `service_guid` and `service_manifest_version` too, and what
is written there has the SVSM answer instead: with a report of its own level, and with what it says of its services in
`manifestblob`.
"""

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enarx.errors import UnavailableError

ROOT: Final = Path("/sys/kernel/config/tsm/report")
MAX_BLOB: Final = 256 * 1024  # bytes; the kernel's own limit is lower
ATTEMPTS: Final = 3  # when somebody else writes into our entry
SERVICE: Final = "service_provider"

_NOBODY: Final = {
    errno.ENOENT: "this kernel has no configfs-tsm, or it is not mounted",
    errno.ENXIO: "no TEE registered with configfs-tsm: this is no confidential VM",
    errno.EACCES: "configfs-tsm is not for this user",
    errno.EPERM: "configfs-tsm is not for this user",
    errno.EROFS: "configfs-tsm is read-only here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmReport:
    """What one request gave: who answered, the report or quote, what the host put beside it, and a service's manifest."""

    provider: str
    body: bytes
    aux: bytes = b""
    manifest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tsm:
    """The interface at `root`."""

    root: Path = ROOT

    def provider(self) -> str:
        """Who answers here, such as `sev_guest`. Raises UnavailableError when nobody does."""
        with self._entry() as entry:
            return _text(entry, "provider")

    def has_services(self) -> bool:
        """Whether somebody beneath this guest can be asked instead of its TEE. Raises UnavailableError."""
        with self._entry() as entry:
            return (entry / SERVICE).exists()

    def report(self, data: bytes, service: Mapping[str, bytes] | None = None) -> TsmReport:
        """A report over `data`, of the TEE, or of the service that these settings name. Raises UnavailableError."""
        with self._entry() as entry:
            if service and not (entry / SERVICE).exists():
                raise UnavailableError(f"{self.root}: there is no {SERVICE}: no SVSM is beneath this guest")
            for _ in range(ATTEMPTS):
                made = self._ask(entry, data, service or {})
                if made is not None:
                    return made
        raise UnavailableError(f"{self.root}: somebody else writes into our requests")

    def _ask(self, entry: Path, data: bytes, service: Mapping[str, bytes]) -> TsmReport | None:
        """One attempt; None when the entry was written by another meanwhile."""
        begin = int(_text(entry, "generation"))
        writes = 1 + len(service)
        _write(entry, "inblob", data)
        for name, value in service.items():
            _write(entry, name, value)
        if not service and (entry / "privlevel_floor").exists():
            floor = _text(entry, "privlevel_floor")
            with _optional("privlevel"):  # shown to those too whose reports have no levels
                _write(entry, "privlevel", floor.encode())
                writes += 1
        body = _read(entry, "outblob")
        aux = _read(entry, "auxblob") if (entry / "auxblob").exists() else b""
        manifest = _read(entry, "manifestblob") if service else b""
        if int(_text(entry, "generation")) != begin + writes:
            return None
        return TsmReport(provider=_text(entry, "provider"), body=body, aux=aux, manifest=manifest)

    @contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self.root / f"enarx-{os.getpid()}-{secrets.token_hex(8)}"
        with _translated(self.root):
            entry.mkdir()
            try:
                yield entry
            finally:
                with suppress(OSError):
                    entry.rmdir()  # the kernel's own files go with it


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        known = _NOBODY.get(number) if error.filename is not None else None  # a failed read or write has no name
        name = errno.errorcode.get(number, "?")
        raise UnavailableError(f"{root}: {known or f'{name}: {error.strerror}'}") from error
    except ValueError as error:
        raise UnavailableError(f"{root}: {error}") from error


@contextmanager
def _optional(name: str) -> Iterator[None]:
    """A setting that this provider may not have; every other error is one."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.ENOENT, errno.EOPNOTSUPP}:
            raise OSError(error.errno, f"{name}: {error.strerror}") from error


def _read(entry: Path, name: str) -> bytes:
    descriptor = os.open(entry / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = bytearray()
        while chunk := os.read(descriptor, 65536):
            found += chunk
            if len(found) > MAX_BLOB:
                raise ValueError(f"{name}: more than {MAX_BLOB} bytes")
        return bytes(found)
    finally:
        os.close(descriptor)


def _text(entry: Path, name: str) -> str:
    return _read(entry, name).decode("ascii", "replace").strip()


def _write(entry: Path, name: str, data: bytes) -> None:
    """In one write: a second one would be appended, and what is closed is applied."""
    descriptor = os.open(entry / name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        raise ValueError(f"{name}: {written} of {len(data)} bytes were taken")
