"""/dev/sev: the host's side of SEV-SNP, asked which chip this is and at which level of firmware its key is (psp-sev.h).

    struct sev_issue_cmd, packed     command u32 ‖ address u64 ‖ error u32
    SNP_PLATFORM_STATUS, 32 bytes    api 2 ‖ state ‖ flags ‖ build u32 ‖ flags u32 ‖ guests u32 ‖ TCB 8 ‖ reported TCB 8
    GET_ID2                          address u64 ‖ length u32, for 64 bytes of each socket

Little-endian. The product stands in the processor's family and model. With them the certificate that guests' reports need
can be fetched before there is a guest.
"""

import ctypes
import fcntl
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.hosts import Roots, cpuinfo

ISSUE_COMMAND: Final = 0xC0105300
GET_ID2, SNP_PLATFORM_STATUS = 8, 9
ID_SIZE: Final = 64  # bytes of one socket
MAX_IDS: Final = 2 * ID_SIZE
_REPORTED_TCB: Final = 24  # where it stands in the status

Ioctl = Callable[[int, int, Any], int]  # Any: ctypes structures


class Command(ctypes.LittleEndianStructure):
    """struct sev_issue_cmd, 16 bytes."""

    _pack_ = 1
    _fields_ = (("command", ctypes.c_uint32), ("data", ctypes.c_uint64), ("error", ctypes.c_uint32))


class GetId(ctypes.LittleEndianStructure):
    """struct sev_user_data_get_id2, 12 bytes."""

    _pack_ = 1
    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint32))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChip:
    """A chip as its host sees it."""

    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    reported_tcb: bytes


def chip(roots: Roots, ioctl: Ioctl = fcntl.ioctl) -> HostChip:
    """The chip in the first socket. Raises UnavailableError where this is no host of SNP guests."""
    device = roots.dev / "sev"
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"{device}: {error.strerror}") from error
    try:
        status = ctypes.create_string_buffer(32)
        _issue(descriptor, ioctl, SNP_PLATFORM_STATUS, ctypes.addressof(status))
        ids = ctypes.create_string_buffer(MAX_IDS)
        asked = GetId(address=ctypes.addressof(ids), length=MAX_IDS)
        _issue(descriptor, ioctl, GET_ID2, ctypes.addressof(asked))
    finally:
        os.close(descriptor)
    if asked.length < ID_SIZE:
        raise MalformedError(f"{device}: an ID of {asked.length} bytes, expected {ID_SIZE}")
    return HostChip(
        cpuid=_cpuid(cpuinfo(roots)),
        chip_id=ids.raw[:ID_SIZE],
        reported_tcb=status.raw[_REPORTED_TCB : _REPORTED_TCB + 8],
    )


def present(roots: Roots) -> bool:
    """Whether this is such a host, as far as the device says."""
    return Path(roots.dev / "sev").exists()


def _issue(descriptor: int, ioctl: Ioctl, command: int, address: int) -> None:
    issued = Command(command=command, data=address)
    try:
        ioctl(descriptor, ISSUE_COMMAND, issued)
    except OSError as error:
        raise UnavailableError(f"/dev/sev: {error.strerror} (firmware 0x{issued.error:x})") from error


def _cpuid(text: str) -> tuple[int, int, int] | None:
    """Family, model and stepping of the first processor."""
    found = [re.search(rf"^{name}\s*:\s*(\d+)", text, re.MULTILINE) for name in ("cpu family", "model", "stepping")]
    if not all(found):
        return None
    family, model, stepping = (int(each[1]) for each in found if each is not None)
    return family, model, stepping
