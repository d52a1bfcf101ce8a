"""/dev/sev-guest: an SEV-SNP guest asks the firmware for its report (Linux 5.19 on), where configfs-tsm is missing.

The extended report brings the host's certificate table with it. How long that is, is learned by asking for none: the
call fails with EIO, `vmm_error` 1 and the length in pages. Structures and numbers are those of linux/sev-guest.h,
little-endian, as every machine with this firmware is. The device is opened once, before the process is shut in.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from enarx.errors import UnavailableError

DEVICE: Final = Path("/dev/sev-guest")
GET_EXT_REPORT: Final = 0xC0205302
GET_DERIVED_KEY: Final = 0xC0205301
GUEST_POLICY, MEASUREMENT = 1 << 0, 1 << 3  # what a derived key depends on, beside the chip
KEY_SIZE: Final = 32  # bytes

INVALID_LENGTH: Final = 1  # vmm_error: the certificates need more room
BUSY: Final = 2  # vmm_error: the host is throttling; asking again at once disables the guest's key on older kernels
ATTEMPTS: Final = 5
BUSY_SECONDS: Final = 2.0
MAX_TABLE: Final = 64 * 1024  # bytes; hosts send some 16 thousand

STATUS: Final = {0x16: "a parameter is invalid", 0x27: "the key that was asked for is invalid"}

Ioctl = Callable[[int, int, Any], int]  # Any: ctypes structures


class ReportRequest(ctypes.LittleEndianStructure):
    """struct snp_report_req, 96 bytes."""

    _fields_ = (("user_data", ctypes.c_uint8 * 64), ("vmpl", ctypes.c_uint32), ("reserved", ctypes.c_uint8 * 28))


class ExtendedRequest(ctypes.LittleEndianStructure):
    """struct snp_ext_report_req, 112 bytes."""

    _fields_ = (("data", ReportRequest), ("certs_address", ctypes.c_uint64), ("certs_len", ctypes.c_uint32))


class ReportResponse(ctypes.LittleEndianStructure):
    """struct snp_report_resp, 4000 bytes: the firmware's MSG_REPORT_RSP."""

    _fields_ = (
        ("status", ctypes.c_uint32),
        ("report_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 24),
        ("report", ctypes.c_uint8 * 3968),
    )


class KeyRequest(ctypes.LittleEndianStructure):
    """struct snp_derived_key_req, 32 bytes; root_key_select 0 is the chip's own key."""

    _fields_ = (
        ("root_key_select", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("guest_field_select", ctypes.c_uint64),
        ("vmpl", ctypes.c_uint32),
        ("guest_svn", ctypes.c_uint32),
        ("tcb_version", ctypes.c_uint64),
    )


class KeyResponse(ctypes.LittleEndianStructure):
    """struct snp_derived_key_resp, 64 bytes: the firmware's MSG_KEY_RSP."""

    _fields_ = (("status", ctypes.c_uint32), ("reserved", ctypes.c_uint8 * 28), ("key", ctypes.c_uint8 * KEY_SIZE))


class GuestRequest(ctypes.LittleEndianStructure):
    """struct snp_guest_request_ioctl, 32 bytes."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("fw_error", ctypes.c_uint32),
        ("vmm_error", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SevGuest:
    """The open device. `ioctl` and `sleep` are arguments: tests have no firmware."""

    descriptor: int
    ioctl: Ioctl = fcntl.ioctl
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def open(cls, device: Path = DEVICE) -> Self:
        """Raises UnavailableError."""
        try:
            return cls(descriptor=os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise UnavailableError(f"{device}: {error.strerror}") from error

    def report(self, data: bytes, vmpl: int = 0) -> tuple[bytes, bytes]:
        """The report over 64 bytes of `data`, and the host's certificate table, which may be empty.

        Raises UnavailableError.
        """
        if len(data) != 64:
            raise ValueError(f"report data: expected 64 bytes, found {len(data)}")
        size = 0
        for _ in range(ATTEMPTS):
            request, response = ExtendedRequest(), ReportResponse()
            request.data.user_data[:] = data
            request.data.vmpl = vmpl
            _memory, address = _pages(size)
            if size:
                request.certs_address, request.certs_len = address, size
            again = self._call(request, response)
            if not again:
                return _report(response), ctypes.string_at(address, size)
            size = _size(request.certs_len) if request.certs_len != size else size
        raise UnavailableError("sev-guest: the host did not settle on a length of its certificates, or is too busy")

    def derived_key(self, vmpl: int = 0) -> bytes:
        """32 bytes that this measurement and policy on this chip can get again, at this level or below it, and nobody else.

        Raises UnavailableError.
        """
        request = KeyRequest(guest_field_select=GUEST_POLICY | MEASUREMENT, vmpl=vmpl)
        for _ in range(ATTEMPTS):
            response = KeyResponse()
            if not self._call(request, response, GET_DERIVED_KEY):
                _require_status(response.status)
                return bytes(response.key)
        raise UnavailableError("sev-guest: the host is too busy to give a derived key")

    def _call(
        self,
        request: ctypes.LittleEndianStructure,
        response: ctypes.LittleEndianStructure,
        number: int = GET_EXT_REPORT,
    ) -> bool:
        """One call; whether it has to be made again, with the length that `request` may now say."""
        guest = GuestRequest(msg_version=1, req_data=ctypes.addressof(request), resp_data=ctypes.addressof(response))
        try:
            self.ioctl(self.descriptor, number, guest)
        except OSError as error:
            if error.errno == errno.EIO and guest.vmm_error == INVALID_LENGTH:
                return True
            if error.errno in {errno.EIO, errno.EAGAIN} and guest.vmm_error == BUSY:
                self.sleep(BUSY_SECONDS)
                return True
            codes = f"firmware 0x{guest.fw_error:x}, host 0x{guest.vmm_error:x}"
            raise UnavailableError(f"sev-guest: {error.strerror} ({codes})") from error
        return False


def _pages(size: int) -> tuple["ctypes.Array[ctypes.c_char]", int]:
    """Memory of `size` bytes that begins with a page, and its address; it lives as long as the first."""
    memory = ctypes.create_string_buffer(size + mmap.PAGESIZE)
    begin = ctypes.addressof(memory)
    return memory, begin + -begin % mmap.PAGESIZE


def _require_status(status: int) -> None:
    if status:
        reason = STATUS.get(status, "it does not say why")
        raise UnavailableError(f"sev-guest: the firmware refused: status 0x{status:x}: {reason}")


def _report(response: ReportResponse) -> bytes:
    _require_status(response.status)
    size = response.report_size
    if not 0 < size <= len(response.report):
        raise UnavailableError(f"sev-guest: a report of {size} bytes")
    return bytes(response.report[:size])


def _size(asked: int) -> int:
    """The room for certificates that the host asks for: whole pages."""
    if asked > MAX_TABLE:
        raise UnavailableError(f"sev-guest: the host asks for {asked} bytes of certificates, at most {MAX_TABLE}")
    return -(-asked // mmap.PAGESIZE) * mmap.PAGESIZE
