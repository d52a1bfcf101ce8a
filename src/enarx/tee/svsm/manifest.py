"""What an SVSM says of its services, bytes to fields and back (AMD 58019, 7: Attestation Protocol).

Asked for all services it gives the services manifest, little-endian:

    GUID of the manifest 16 ‖ size of all u32 ‖ number of services u32 ‖
    for each service {GUID 16, offset of its data u32, size u32} ‖ the services' data, in that order and without gaps

Asked for one it gives that service's data alone, and nothing in what is signed says which service that was. So a single
one is read only of the virtual TPM, whose data are the public part of its endorsement key (8.3.1) and nothing else could
be. GUIDs are stored as UEFI stores them: the first three numbers little-endian.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self
from uuid import UUID

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError
from enarx.tee.model import Field
from enarx.tee.svsm.endorsement import EndorsementKey

SERVICES: Final = UUID("63849ebb-3d92-4670-a1ff-58f9c94b87bb")
VTPM: Final = UUID("c476f1eb-0123-45a5-9641-b4e7dde5bfe3")
NAMES: Final = {VTPM: "vtpm"}

MAX_MANIFEST: Final = 32 * 1024  # bytes: what configfs-tsm lets a report have; one with a virtual TPM has about 360
MAX_SERVICES: Final = 64

_WHAT: Final = "services manifest"
_ENTRY: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, and what it says of itself; `key` is the endorsement key where it is the virtual TPM."""

    guid: UUID
    data: bytes
    key: EndorsementKey | None = None

    @classmethod
    def of(cls, guid: UUID, data: bytes) -> Self:
        """Raises MalformedError."""
        return cls(guid=guid, data=data, key=EndorsementKey.parse(data) if guid == VTPM else None)

    @property
    def name(self) -> str:
        return NAMES.get(self.guid, str(self.guid))

    def describe(self) -> dict[str, Field]:
        found: dict[str, Field] = {
            "service": self.name,
            "guid": str(self.guid),
            "bytes": len(self.data),
            "sha256": sha256(self.data).hexdigest(),
        }
        return found if self.key is None else {**found, "endorsement_key": self.key.describe()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was signed with the nonce, parsed and not believed. `single`: of the virtual TPM alone."""

    services: tuple[Service, ...]
    single: bool
    data: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the manifest of all services, or of the virtual TPM. Raises MalformedError."""
        if len(data) > MAX_MANIFEST:
            raise MalformedError(f"{_WHAT}: expected at most {MAX_MANIFEST} bytes, found {len(data)}")
        if data[:16] != SERVICES.bytes_le:
            return cls(services=(Service.of(VTPM, data),), single=True, data=data)
        reader = Reader(data, what=_WHAT)
        reader.take(16, "GUID")
        size, count = reader.uint(4, "size"), reader.uint(4, "number of services")
        if size != len(data):
            raise MalformedError(f"{_WHAT}: size at 0x10: expected {len(data)}, found {size}")
        if count > MAX_SERVICES:
            raise MalformedError(f"{_WHAT}: number of services at 0x14: expected at most {MAX_SERVICES}, found {count}")
        entries = [_entry(reader) for _ in range(count)]
        services = []
        for guid, offset, length in entries:
            if offset != reader.position:
                raise MalformedError(f"{_WHAT}: offset of {guid}: expected 0x{reader.position:x}, found 0x{offset:x}")
            services.append(Service.of(guid, reader.take(length, f"data of {guid}")))
        reader.end()
        guids = {service.guid for service in services}
        if len(guids) != count:
            raise MalformedError(f"{_WHAT}: a service stands in it twice")
        return cls(services=tuple(services), single=False, data=data)

    def find(self, name: str) -> Service | None:
        """The service of that name or GUID."""
        return next((service for service in self.services if name in {service.name, str(service.guid)}), None)

    def describe(self) -> dict[str, Field]:
        """JSON values."""
        return {
            "asked_for": "vtpm" if self.single else "all",
            "bytes": len(self.data),
            "sha256": sha256(self.data).hexdigest(),
            "services": [service.describe() for service in self.services],
        }


def encode(services: dict[UUID, bytes]) -> bytes:
    """The manifest of all services; the inverse of `Manifest.parse`."""
    begin = _ENTRY * (1 + len(services))
    writer = Writer().put(SERVICES.bytes_le, 16)
    writer.uint(begin + sum(map(len, services.values())), 4).uint(len(services), 4)
    for guid, data in services.items():
        writer.put(guid.bytes_le, 16).uint(begin, 4).uint(len(data), 4)
        begin += len(data)
    return writer.put(b"".join(services.values())).getvalue()


def _entry(reader: Reader) -> tuple[UUID, int, int]:
    guid = UUID(bytes_le=reader.take(16, "GUID of a service"))
    return guid, reader.uint(4, f"offset of {guid}"), reader.uint(4, f"size of {guid}")
