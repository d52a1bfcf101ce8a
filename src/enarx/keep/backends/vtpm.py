"""/dev/tpmrm0: as much of a TPM 2.0 as a confidential VM of Azure's is asked for (TPM 2.0 Library, part 3).

    command   tag u16 ‖ size u32 ‖ code u32 ‖ handles ‖ [size of authorisations u32 ‖ authorisation] ‖ parameters
    response  tag u16 ‖ size u32 ‖ code u32 ‖ [size of parameters u32] ‖ parameters

All big-endian. Authorisation is the empty password, as Azure leaves it. One command is written and one response read,
so one thread at a time. The device is opened once, before the process is shut in. What it answers is believed by nobody
here: the Steward verifies it.
"""

import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from enarx.errors import MalformedError, UnavailableError
from enarx.tee.azure.hcl import MAX_REPORT
from enarx.tee.azure.tpm import REGISTERS, SHA256_ID, Quote

DEVICE: Final = Path("/dev/tpmrm0")
HCL_INDEX: Final = 0x01400001  # NV index of the paravisor's report
AK: Final = 0x81000003  # persistent handle of the attestation key
MAX_RESPONSE: Final = 4096
CHUNK: Final = 1024  # bytes of one read of an NV index
ATTEMPTS: Final = 5

NV_READ, NV_READ_PUBLIC, QUOTE, PCR_READ = 0x14E, 0x169, 0x158, 0x17E
_OWNER: Final = 0x40000001
_NULL: Final = 0x0010  # TPM_ALG_NULL: the key's own scheme
_RSASSA: Final = 0x0014
_RETRY: Final = (0x922, 0x908)  # TPM_RC_RETRY, TPM_RC_YIELDED
_PASSWORD: Final = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)  # TPM_RS_PW, empty

Transport = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vtpm:
    """The TPM behind `transport`, which takes a command and gives its response."""

    transport: Transport
    sleep: Callable[[float], None] = time.sleep
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, device: Path = DEVICE) -> Self:
        """Raises UnavailableError."""
        try:
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"{device}: {error.strerror}") from error

        def exchange(command: bytes) -> bytes:
            os.write(descriptor, command)
            return os.read(descriptor, MAX_RESPONSE)

        return cls(transport=exchange)

    def command(self, what: str, code: int, handles: bytes, parameters: bytes, *, authorised: bool = False) -> bytes:
        """The parameters of the response. Raises UnavailableError for a refusal, or for what is no response."""
        body = handles + (_PASSWORD if authorised else b"") + parameters
        request = struct.pack(">HII", 0x8002 if authorised else 0x8001, 10 + len(body), code) + body
        for _ in range(ATTEMPTS):
            try:
                with self.turn:
                    answer = self.transport(request)
            except OSError as error:
                raise UnavailableError(f"TPM: {what}: {error.strerror or error}") from error
            if len(answer) < 10 or int.from_bytes(answer[2:6], "big") != len(answer):
                raise UnavailableError(f"TPM: {what}: {len(answer)} bytes that are no response")
            status = int.from_bytes(answer[6:10], "big")
            if status not in _RETRY:
                break
            self.sleep(0.02)
        if status:
            raise UnavailableError(f"TPM: {what}: refused, 0x{status:x}")
        return answer[14:] if authorised else answer[10:]

    def nv_read(self, index: int, limit: int = MAX_REPORT) -> bytes:
        """All of an NV index. Raises UnavailableError."""
        handle, what = struct.pack(">I", index), f"NV index 0x{index:x}"
        public = _Fields(self.command(what, NV_READ_PUBLIC, handle, b"")).sized(what)
        size = int.from_bytes(public[-2:], "big")
        if size > limit:
            raise UnavailableError(f"TPM: {what}: expected at most {limit} bytes, found {size}")
        found = b""
        while len(found) < size:
            wanted = struct.pack(">HH", min(CHUNK, size - len(found)), len(found))
            answer = self.command(what, NV_READ, struct.pack(">I", _OWNER) + handle, wanted, authorised=True)
            piece = _Fields(answer).sized(what)
            if not piece or len(found) + len(piece) > size:
                raise UnavailableError(f"TPM: {what}: a piece of {len(piece)} bytes")
            found += piece
        return found

    def registers(self) -> list[bytes]:
        """The 24 SHA-256 registers; a TPM gives some at a time. Raises UnavailableError."""
        found: dict[int, bytes] = {}
        while len(found) < REGISTERS:
            missing = [index for index in range(REGISTERS) if index not in found]
            fields = _Fields(self.command("PCR_Read", PCR_READ, b"", selection(missing)))
            fields.take(4 + 4, "PCR_Read")  # the counter of changes; one selection
            fields.take(2 + 1, "PCR_Read")
            bits = int.from_bytes(fields.take(3, "PCR_Read"), "little")
            given = [index for index in missing if bits >> index & 1]
            count = int.from_bytes(fields.take(4, "PCR_Read"), "big")
            if not given or count != len(given):
                raise UnavailableError("TPM: PCR_Read: not the registers that were asked for")
            found |= {index: fields.sized("PCR_Read") for index in given}
        return [found[index] for index in range(REGISTERS)]

    def quote(self, data: bytes) -> tuple[bytes, bytes, list[bytes]]:
        """Message and signature over `data`, and the registers that they cover. Raises UnavailableError.

        A register that is extended between the two commands makes them differ: they are asked again.
        """
        parameters = len(data).to_bytes(2, "big") + data + struct.pack(">H", _NULL) + selection(range(REGISTERS))
        for _ in range(ATTEMPTS):
            values = self.registers()
            fields = _Fields(self.command("Quote", QUOTE, struct.pack(">I", AK), parameters, authorised=True))
            message = fields.sized("Quote")
            if fields.take(4, "Quote") != struct.pack(">HH", _RSASSA, SHA256_ID):
                raise UnavailableError("TPM: Quote: expected a signature of RSASSA with SHA-256")
            signature = fields.sized("Quote")
            try:
                covered = Quote.parse(message, signature).covers(tuple(values))
            except MalformedError as error:
                raise UnavailableError(f"TPM: {error}") from error
            if covered:
                return message, signature, values
        raise UnavailableError("TPM: the registers change faster than they are read")


def selection(registers: "range | list[int]") -> bytes:
    """TPML_PCR_SELECTION of SHA-256 registers."""
    bits = sum(1 << index for index in registers)
    return struct.pack(">IHB", 1, SHA256_ID, 3) + bits.to_bytes(3, "little")


class _Fields:
    """A response, taken from the front."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int, what: str) -> bytes:
        if count > len(self._data):
            raise UnavailableError(f"TPM: {what}: the response ends early")
        found, self._data = self._data[:count], self._data[count:]
        return found

    def sized(self, what: str) -> bytes:
        return self.take(int.from_bytes(self.take(2, what), "big"), what)
