"""What a firmware image (OVMF, TDVF) measures, and whether it checks what it is told.

A virtual machine's launch digest covers the firmware and, for SEV-SNP, a page with the hashes of kernel, initramfs and
command line. That page protects nothing unless the firmware *compares* it with what the host then hands over: there are
images that reserve the page and never read it, and their digest looks as good as any. So before a digest is believed
`lint` looks for the comparing code, by the three GUIDs it has to know, in the firmware's compressed volumes.

The table of GUIDed structures ends 32 bytes before the end of the image (OVMF, ResetVector); the TDX metadata are those of
Intel's TDX Virtual Firmware Design Guide, 11.
"""

import lzma
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from enarx.errors import MalformedError

MAX_FIRMWARE: Final = 64 * 1024 * 1024  # bytes
MAX_VOLUME: Final = 64 * 1024 * 1024  # bytes that a compressed volume may become

TABLE: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
LZMA_SECTION: Final = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
VERIFIER: Final[Mapping[str, UUID]] = {
    "kernel": UUID("4de79437-abd2-427f-b835-d5b172d2045b"),
    "initramfs": UUID("44baf731-3a2f-4bd7-9af1-41e29169781d"),
    "command line": UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a"),
}
KERNEL_HASHES: Final = 0x10  # type of the SEV section that holds the page of hashes

_FOOTER: Final = 0x20
_SEV_HEADER: Final = struct.Struct("<4sIII")
_SEV_SECTION: Final = struct.Struct("<III")
_TDX_SECTION: Final = struct.Struct("<IIQQII")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxSection:
    """A part of the image that the TDX module adds to the guest, and perhaps measures."""

    offset: int
    size: int
    address: int
    memory: int
    kind: int
    attributes: int

    @property
    def extended(self) -> bool:
        """Whether its content is measured into MRTD, not only its addresses."""
        return bool(self.attributes & 1)

    @property
    def augmented(self) -> bool:
        """Whether it is added after the launch, and so not measured."""
        return bool(self.attributes & 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `lint` saw."""

    kernel_hashes: bool
    verified: frozenset[str]
    tdx: bool

    @property
    def binds_kernel(self) -> bool:
        """Whether an SNP launch digest of this firmware says anything about kernel, initramfs and command line."""
        return self.kernel_hashes and self.verified == frozenset(VERIFIER)


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """What is wrong with a firmware is told with the name of its file."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from error


def lint(image: bytes) -> Findings:
    """What the firmware does with kernel hashes, and whether it has TDX metadata. Raises MalformedError."""
    table = structures(image)
    volumes = [image, *_volumes(image)]
    found = {name for name, guid in VERIFIER.items() if any(guid.bytes_le in volume for volume in volumes[1:])}
    sections = _sev_sections(image, table)
    return Findings(
        kernel_hashes=any(kind == KERNEL_HASHES for _, _, kind in sections),
        verified=frozenset(found),
        tdx=TDX_METADATA in table,
    )


def structures(image: bytes) -> Mapping[UUID, bytes]:
    """The GUIDed structures of the image. Raises MalformedError."""
    if not 0x1000 <= len(image) <= MAX_FIRMWARE:
        raise MalformedError(f"firmware: expected 4 KiB to {MAX_FIRMWARE} bytes, found {len(image)}")
    end = len(image) - _FOOTER
    if image[end - 16 : end] != TABLE.bytes_le:
        raise MalformedError("firmware: has no table of GUIDed structures where OVMF has one")
    (total,) = struct.unpack_from("<H", image, end - 18)
    start, position = end - total, end - 18
    if start < 0 or total < 18:
        raise MalformedError("firmware: the table of structures is longer than the image")
    found: dict[UUID, bytes] = {}
    while position > start:
        if position - 18 < start:
            raise MalformedError("firmware: the table of structures is cut off")
        (length,) = struct.unpack_from("<H", image, position - 18)
        if not 18 <= length <= position - start:
            raise MalformedError(f"firmware: a structure of {length} bytes in its table")
        found[UUID(bytes_le=image[position - 16 : position])] = image[position - length : position - 18]
        position -= length
    return found


def tdx_sections(image: bytes) -> tuple[TdxSection, ...]:
    """The sections that the TDX module loads, in their order. Raises MalformedError."""
    offset = _offset(image, structures(image), TDX_METADATA, "TDX")
    signature, _, version, count = _header(image, offset, "TDX metadata")
    if signature != b"TDVF" or version != 1 or count > 256:
        raise MalformedError("firmware: TDX metadata: expected TDVF of version 1")
    sections = []
    for index in range(count):
        at = offset + _SEV_HEADER.size + index * _TDX_SECTION.size
        data, size, address, memory, kind, attributes = _unpack(_TDX_SECTION, image, at, "TDX metadata")
        if data + size > len(image) or size > memory or address % 4096 or memory % 4096 or memory > 1 << 32:
            raise MalformedError(f"firmware: TDX metadata: section {index} lies outside the image or is not of pages")
        sections.append(
            TdxSection(offset=data, size=size, address=address, memory=memory, kind=kind, attributes=attributes)
        )
    return tuple(sections)


def _sev_sections(image: bytes, table: Mapping[UUID, bytes]) -> list[tuple[int, int, int]]:
    """Address, size and type of each section that SEV-SNP prepares; empty without metadata."""
    if SEV_METADATA not in table:
        return []
    offset = _offset(image, table, SEV_METADATA, "SEV")
    signature, _, _, count = _header(image, offset, "SEV metadata")
    if signature != b"ASEV" or count > 256:
        raise MalformedError("firmware: SEV metadata: expected ASEV")
    found = []
    for index in range(count):
        address, size, kind = _unpack(
            _SEV_SECTION, image, offset + _SEV_HEADER.size + index * _SEV_SECTION.size, "SEV metadata"
        )
        found.append((address, size, kind))
    return found


def _offset(image: bytes, table: Mapping[UUID, bytes], guid: UUID, what: str) -> int:
    """Where metadata begin: the structure tells how far before the end."""
    data = table.get(guid)
    if data is None or len(data) != 4:
        raise MalformedError(f"firmware: has no {what} metadata")
    offset = len(image) - int.from_bytes(data, "little")
    if offset < 0:
        raise MalformedError(f"firmware: its {what} metadata lie outside the image")
    return offset


def _header(image: bytes, offset: int, what: str) -> tuple[bytes, int, int, int]:
    signature, length, version, count = _unpack(_SEV_HEADER, image, offset, what)
    return signature, length, version, count


def _unpack(
    layout: struct.Struct, image: bytes, offset: int, what: str
) -> tuple[Any, ...]:  # Any: whatever the layout holds
    if offset + layout.size > len(image):
        raise MalformedError(f"firmware: {what}: cut off at 0x{offset:x}")
    return layout.unpack_from(image, offset)


def _volumes(image: bytes) -> Iterator[bytes]:
    """The volumes that the image holds compressed (PI specification, GUIDed section with LZMA)."""
    position = image.find(LZMA_SECTION.bytes_le)
    while position >= 0:
        (offset,) = struct.unpack_from("<H", image, position + 16)
        start = position - 4 + offset  # the section's header of four bytes stands before its GUID
        data = _decompressed(image[start:])
        if data is not None:
            yield data
        position = image.find(LZMA_SECTION.bytes_le, position + 16)


def _decompressed(data: bytes) -> bytes | None:
    try:
        return lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(data, MAX_VOLUME)
    except (lzma.LZMAError, EOFError):
        return None
