"""configfs-tsm as a FUSE file system, with the kernel's own manners, over a simulated machine.

    python -m tests.emulators.configfs_tsm MOUNT PROVIDER MACHINES [FLAW]

What the kernel does is what it does here: an entry is a directory that is made and removed; `inblob` takes at most 64
bytes, is applied when it is closed, and an error then is lost; every applied write counts `generation` up; a report is
made at the first read of `outblob` and kept until the next write; modes are enforced even for root. An Arm realm has a
platform key of its own beside the machines, for nobody simulates its vendor. FLAW makes it lie:
`race` counts a write of somebody else, `other` gives a report over other data, `busy` refuses, `no-table` has no
certificates from the host. Beneath `sev_guest+svsm` is an SVSM, so the guest's own reports are of a level above 0:
`other-manifest` gives one that is not what was signed, `level` has the SVSM's report made at the guest's level.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from enarx.keep import measurement
from enarx.keep.backends.simulated import Directory
from enarx.pki import keys
from enarx.tee.cca.simulator import CcaMachine
from tests.emulators import fuse, svsm
from tests.values import replace

BLOB: Final = 64
READ, WRITE = 0o444, 0o200
COMMON: Final = {"inblob": WRITE, "outblob": READ, "provider": READ, "generation": READ}
LEVELS: Final = {"auxblob": READ, "privlevel": WRITE, "privlevel_floor": READ}
SERVICES: Final = {
    "service_provider": WRITE,
    "service_guid": WRITE,
    "service_manifest_version": WRITE,
    "manifestblob": READ,
}
FILES: Final = {
    "sev_guest": {**COMMON, **LEVELS},
    "sev_guest+svsm": {**COMMON, **LEVELS, **SERVICES},
    "tdx_guest": COMMON,
    "arm_cca_guest": COMMON,
    "none": {},
}
FLOORS: Final = {"sev_guest+svsm": 2}
HIGHEST_LEVEL: Final = 3
GUIDS: Final = {
    "SEV-VCEK": "63da758de6644564adc5f4b93be8accd",
    "SEV-Milan": "4ab7b379bbac4fe4a02f05aef327c782",
    "ARK-Milan": "c0b406a4a803495297433fb6014cd0ae",
}


@dataclass
class Entry:
    """One request: what was written, and what was made of it."""

    inblob: bytes = b""
    written: int = 0
    made_of: int = -1
    body: bytes = b""
    aux: bytes = b""
    manifest: bytes = b""
    level: int = 0
    service: str | None = None
    guid: UUID = field(default_factory=lambda: UUID(int=0))
    version: int = 0


@dataclass
class Handle:
    """One open file."""

    buffer: bytes | None = None
    pending: bytearray = field(default_factory=bytearray)
    dirty: bool = False


class ConfigfsTsm(fuse.Operations):  # type: ignore[misc]  # as there
    """The file system."""

    use_ns = True

    def __init__(self, provider: str, machines: Path, flaw: str) -> None:
        self._files, self._floor, self._flaw = FILES[provider], FLOORS.get(provider, 0), flaw
        self._provider = provider.partition("+")[0]
        technology = {"sev_guest": "snp", "tdx_guest": "tdx", "arm_cca_guest": "cca"}.get(self._provider)
        self._technology = technology
        self._machine: Any = None
        if technology == "cca":
            self._machine = realm(machines)
        elif technology is not None:
            self._machine = Directory.open(machines).attester(technology, measurement.of_agent).machine
        self._entries: dict[str, Entry] = {}
        self._handles: dict[int, Handle] = {}

    # -- directories

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        names = _names(path)
        owner = {"st_uid": 0, "st_gid": 0, "st_mtime": 0, "st_ctime": 0, "st_atime": 0}
        if not names or (len(names) == 1 and names[0] in self._entries):
            return {**owner, "st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if len(names) == 2 and names[0] in self._entries and names[1] in self._files:
            return {**owner, "st_mode": stat.S_IFREG | self._files[names[1]], "st_nlink": 1, "st_size": 0}
        raise fuse.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(self._files if _names(path) else self._entries)]

    def mkdir(self, path: str, mode: int) -> int:
        (name,) = _names(path)
        if not self._files:
            raise fuse.FuseOSError(errno.ENXIO)
        self._entries[name] = Entry()
        return 0

    def rmdir(self, path: str) -> int:
        del self._entries[_names(path)[0]]
        return 0

    def unlink(self, path: str) -> int:
        raise fuse.FuseOSError(errno.EPERM)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        raise fuse.FuseOSError(errno.EACCES)

    # -- files

    def open(self, path: str, flags: int) -> int:
        mode = self._files[_names(path)[1]]
        wanted = flags & os.O_ACCMODE
        if (wanted != os.O_WRONLY and not mode & READ) or (wanted != os.O_RDONLY and not mode & WRITE):
            raise fuse.FuseOSError(errno.EACCES)
        number = max(self._handles, default=0) + 1
        self._handles[number] = Handle()
        return number

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        name, file = _names(path)
        handle = self._handles[fh]
        if handle.buffer is None:
            handle.buffer = self._content(self._entries[name], file)
        return handle.buffer[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        name, file = _names(path)
        if file == "inblob":
            handle = self._handles[fh]
            handle.dirty = True
            if offset + len(data) > BLOB:
                raise fuse.FuseOSError(errno.EFBIG)
            handle.pending[offset : offset + len(data)] = data
            return len(data)
        self._set(self._entries[name], file, data.decode().removesuffix("\n"))
        return len(data)

    def _set(self, entry: Entry, file: str, text: str) -> None:
        if file == "service_provider":
            entry.service = text  # whether there is one is asked when the report is made
        elif file == "service_guid":
            entry.guid = _guid(text)
        elif not text.isdigit() or (file == "privlevel" and not self._floor <= int(text) <= HIGHEST_LEVEL):
            raise fuse.FuseOSError(errno.EINVAL)
        elif file == "privlevel":
            entry.level = int(text)
        else:
            entry.version = int(text)
        entry.written += 1

    def flush(self, path: str, fh: int) -> int:
        """The one operation that close(2) waits for."""
        handle = self._handles[fh]
        if handle.dirty:
            entry = self._entries[_names(path)[0]]
            entry.inblob, handle.dirty = bytes(handle.pending), False
            entry.written += 2 if self._flaw == "race" else 1
        return 0

    def release(self, path: str, fh: int) -> int:
        del self._handles[fh]
        return 0

    def _content(self, entry: Entry, file: str) -> bytes:
        if file == "provider":
            return f"{self._provider}\n".encode()
        if file == "generation":
            return f"{entry.written}\n".encode()
        if file == "privlevel_floor":
            return f"{self._floor}\n".encode()
        if entry.made_of != entry.written:
            self._make(entry)
        return {"outblob": entry.body, "auxblob": entry.aux, "manifestblob": entry.manifest}[file]

    def _make(self, entry: Entry) -> None:
        if len(entry.inblob) != BLOB:
            raise fuse.FuseOSError(errno.EINVAL)
        if self._flaw == "busy":
            raise fuse.FuseOSError(errno.EBUSY)
        data = bytes(BLOB) if self._flaw == "other" else entry.inblob
        if self._technology == "snp":
            entry.body, entry.manifest = self._report(entry, data)
            entry.aux = b"" if self._flaw == "no-table" else _table(self._machine)
        elif self._technology == "cca":
            entry.body = self._machine.token(data)
        else:
            entry.body = self._machine.quote(data)
        entry.made_of = entry.written

    def _report(self, entry: Entry, data: bytes) -> tuple[bytes, bytes]:
        """Of the level that was asked for; of the SVSM's with what it says of its services, if it was asked."""
        if entry.service is None:
            if entry.level < self._floor:
                raise fuse.FuseOSError(errno.EINVAL)
            return self._machine.report(data, lambda report: replace(report, vmpl=entry.level)), b""
        if entry.service != "svsm" or entry.version:
            raise fuse.FuseOSError(errno.EINVAL)
        try:
            manifest = svsm.manifest(entry.guid)
        except KeyError as error:
            raise fuse.FuseOSError(errno.EINVAL) from error
        level = self._floor if self._flaw == "level" else 0
        body = svsm.report(self._machine, data, manifest, level)
        if self._flaw == "no-manifest":
            return body, b"\0" * 24
        return body, svsm.manifest(entry.guid, svsm.OTHER) if self._flaw == "other-manifest" else manifest


def _guid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise fuse.FuseOSError(errno.EINVAL) from error


def _table(machine: Any) -> bytes:
    """The host's certificate table: entries up to one of zeros, then what they point to."""
    from enarx.pki.certificate import Certificate

    certificates = [(Certificate.parse(data).common_name, data) for data in machine.with_chain().certificates]
    listed = [(GUIDS[name], data) for name, data in certificates if name in GUIDS]
    offset = 24 * (len(listed) + 1)
    header, body = b"", b""
    for guid, data in listed:
        raw = bytes.fromhex(guid)
        swapped = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
        header += swapped + (offset + len(body)).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        body += data
    return header + bytes(24) + body


def realm(machines: Path) -> CcaMachine:
    """A realm on the platform whose key lies beside the machines; it is made if there is none."""
    file = machines / "cca-platform.pem"
    if not file.exists():
        file.write_bytes(keys.to_pem(keys.generate("P-384")))
    platform = keys.from_pem(file.read_bytes(), str(file))
    initial = measurement.of_agent("sha-256")
    return CcaMachine(platform_key=platform, realm_key=keys.generate("P-384"), initial=initial)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


@contextmanager
def mounted(folder: Path, provider: str, machines: Path, flaw: str = "") -> Iterator[Path]:
    """The file system in a process of its own, at a directory in `folder`; skips the test where that cannot be."""
    mount = folder / f"tsm-{provider}-{flaw or 'sound'}"
    with fuse.mounted("tests.emulators.configfs_tsm", mount, provider, str(machines), flaw):
        yield mount


if __name__ == "__main__":
    mount_point, provider_name, machines_at, *flaws = sys.argv[1:]
    fuse.serve(ConfigfsTsm(provider_name, Path(machines_at), "".join(flaws)), mount_point)
