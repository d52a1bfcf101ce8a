"""Firmware: a digest is believed only where the firmware checks what it is handed."""

import hashlib
import lzma
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError, RejectedError
from enarx.image import firmware, measure
from enarx.image.firmware import KERNEL_HASHES, LZMA_SECTION, SEV_METADATA, TABLE, TDX_METADATA, VERIFIER

PAGE = bytes(range(256)) * 16
HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")  # where the machine's monitor puts hashes of the kernel
RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")  # where processors begin


def image(*, verifier: tuple[str, ...] = tuple(VERIFIER), hashes: bool = True, tdx: bool = True) -> bytes:
    """A firmware with the structures of OVMF: metadata, a compressed volume, and the table at its end."""
    volume = b"code".ljust(4096, b"\0") + b"".join(VERIFIER[name].bytes_le for name in verifier)
    packed = lzma.compress(volume, format=lzma.FORMAT_ALONE)
    section = bytes(4) + LZMA_SECTION.bytes_le + struct.pack("<HH", 24, 1) + packed
    sev = struct.pack("<4sIII", b"ASEV", 28, 1, 1) + struct.pack("<III", 0x800000, 4096, KERNEL_HASHES if hashes else 1)
    parts = struct.pack("<IIQQII", 0, 4096, 0xFF000, 4096, 0, 1) + struct.pack("<IIQQII", 0, 0, 0x1000, 8192, 3, 0)
    parts += struct.pack("<IIQQII", 0, 0, 0x9000, 4096, 4, 2)
    vf = struct.pack("<4sIII", b"TDVF", 112, 1, 3) + parts
    body = PAGE + section
    sev_at, body = len(body), body + sev
    tdx_at, body = len(body), body + vf
    places = {SEV_METADATA: sev_at} | ({TDX_METADATA: tdx_at} if tdx else {})
    length = 18 + 22 * len(places) + 26 + 22
    total = -(-(len(body) + length + 32) // 4096) * 4096  # whole pages, which is what a TEE measures
    entries = {guid: struct.pack("<I", total - at) for guid, at in places.items()}
    entries |= {HASH_TABLE: struct.pack("<II", 0x800C00, 0x400), RESET_BLOCK: struct.pack("<I", 0x80B004)}
    table = b"".join(data + struct.pack("<H", len(data) + 18) + guid.bytes_le for guid, data in entries.items())
    table += struct.pack("<H", length) + TABLE.bytes_le
    return body.ljust(total - length - 32, b"\0") + table + bytes(32)


def test_a_firmware_that_compares_all_three_hashes_binds_the_kernel() -> None:
    """Page and verifier are there."""
    found = firmware.lint(image())
    assert found.binds_kernel
    assert found.tdx


@pytest.mark.parametrize("left", list(VERIFIER))
def test_a_firmware_that_compares_two_of_three_does_not(left: str) -> None:
    """What is not compared, the host may swap."""
    found = firmware.lint(image(verifier=tuple(name for name in VERIFIER if name != left)))
    assert found.kernel_hashes
    assert not found.binds_kernel


def test_a_digest_is_refused_for_a_firmware_that_never_compares(tmp_path: Path) -> None:
    """The most dangerous firmware reserves the page, so that a digest comes out, and reads it never."""
    file = tmp_path / "firmware.fd"
    file.write_bytes(image(verifier=()))
    machine = measure.Machine(firmware=file, kernel=file, initramfs=file)
    with pytest.raises(RejectedError, match="never compares them: the host could start any kernel"):
        measure.snp(machine)
    file.write_bytes(image(hashes=False))
    with pytest.raises(RejectedError, match="reserves no page for hashes"):
        measure.snp(machine)


def test_mrtd_covers_addresses_and_the_content_that_is_extended() -> None:
    """Computed again by hand: one page added and extended, two pages added, one augmented and left out."""
    data = image()
    state = hashlib.sha384()
    state.update(b"MEM.PAGE.ADD\0\0\0\0" + (0xFF000).to_bytes(8, "little") + bytes(104))
    for at in range(0, 4096, 256):
        state.update(
            b"MR.EXTEND\0\0\0\0\0\0\0" + (0xFF000 + at).to_bytes(8, "little") + bytes(104) + PAGE[at : at + 256]
        )
    for address in (0x1000, 0x2000):
        state.update(b"MEM.PAGE.ADD\0\0\0\0" + address.to_bytes(8, "little") + bytes(104))
    assert measure.mrtd(data) == state.digest()
    assert measure.mrtd(bytes((1,)) + data[1:]) != state.digest()


def test_a_firmware_without_tdx_metadata_has_no_mrtd() -> None:
    """There is nothing that the module would load."""
    with pytest.raises(MalformedError, match="has no TDX metadata"):
        measure.mrtd(image(tdx=False))


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_broken_image_is_a_finding_or_malformed(back: int, value: int) -> None:
    """Whatever stands in its tables, the reader answers with a value or with MalformedError."""
    data = bytearray(image())
    data[-1 - back] = value
    for read in (firmware.lint, firmware.tdx_sections):
        try:
            read(bytes(data))
        except MalformedError:
            continue


@given(st.binary(max_size=100))
def test_any_bytes_are_malformed(data: bytes) -> None:
    """Nothing short is a firmware."""
    with pytest.raises(MalformedError):
        firmware.lint(data)
