"""/dev/tpmrm0: as much of a TPM 2.0 as a confidential VM of Azure's is asked for (TPM 2.0 Library, part 3).

    command   tag u16 ‖ size u32 ‖ code u32 ‖ handles ‖ [size of authorisations u32 ‖ authorisation] ‖ parameters
    response  tag u16 ‖ size u32 ‖ code u32 ‖ [size of parameters u32] ‖ parameters

All big-endian. Authorisation is the empty password, as Azure leaves it. One command is written and one response read,
so one thread at a time. The device is opened once, before the process is shut in. What it answers is believed by nobody
here: the Steward verifies it.

The sealing secret is an HMAC by a key that the TPM derives from its own seed and the template that it is given. The
template says that the key works only while the registers of the boot have the values of now, so another boot loader,
kernel, initramfs or command line gets another key, and none gets this one.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.inside import TPM
from enarx.tee.azure.hcl import MAX_REPORT
from enarx.tee.azure.tpm import REGISTERS, SHA256_ID, Quote

HCL_INDEX: Final = 0x01400001  # NV index of the paravisor's report
AK: Final = 0x81000003  # persistent handle of the attestation key
MAX_RESPONSE: Final = 4096
CHUNK: Final = 1024  # bytes of one read of an NV index
ATTEMPTS: Final = 5
SECRET_SIZE: Final = 32  # bytes
BOOT: Final = (
    *range(10),
    12,
    13,
    14,
)  # not those that change while the VM runs: 10 (IMA), 11 and 15 (systemd), from 16
SEALING: Final = b"enarx sealing secret of a virtual TPM"

NV_READ, NV_READ_PUBLIC, QUOTE, PCR_READ = 0x14E, 0x169, 0x158, 0x17E
CREATE_PRIMARY, HMAC, FLUSH_CONTEXT = 0x131, 0x155, 0x165
START_SESSION, POLICY_PCR, POLICY_GET_DIGEST = 0x176, 0x17F, 0x189
_OWNER: Final = 0x40000001
_NOBODY: Final = 0x40000007  # TPM_RH_NULL
_POLICY_SESSION: Final = 1  # TPM_SE_POLICY
_KEYEDHASH, _HMAC_SCHEME = 0x0008, 0x0005
_SEALING_KEY: Final = 0x000404B2  # fixed to TPM and parent, made by the TPM, policy alone, no lockout, signs
_NULL: Final = 0x0010  # TPM_ALG_NULL: the key's own scheme
_RSASSA: Final = 0x0014
_RETRY: Final = (0x922, 0x908)  # TPM_RC_RETRY, TPM_RC_YIELDED
_PASSWORD: Final = 0x40000009  # TPM_RS_PW, empty

Transport = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vtpm:
    """The TPM behind `transport`, which takes a command and gives its response."""

    transport: Transport
    sleep: Callable[[float], None] = time.sleep
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, device: Path = TPM) -> Self:
        """Raises UnavailableError."""
        return cls(transport=_exchange(_open(device)))

    @classmethod
    @contextmanager
    def briefly(cls, device: Path = TPM) -> Iterator[Self]:
        """For as long as the block lasts: others may want it. Raises UnavailableError."""
        descriptor = _open(device)
        try:
            yield cls(transport=_exchange(descriptor))
        finally:
            os.close(descriptor)

    def command(
        self,
        what: str,
        code: int,
        handles: bytes,
        parameters: bytes,
        *,
        authorised: bool = False,
        session: int = _PASSWORD,
        gives_handle: bool = False,
    ) -> bytes:
        """The parameters of the response, after its handle if it has one.

        Raises UnavailableError for a refusal, or for what is no response.
        """
        authorisation = struct.pack(">IIHBH", 9, session, 0, 0, 0) if authorised else b""
        body = handles + authorisation + parameters
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
        end = 14 if gives_handle else 10
        return answer[10:end] + answer[end + 4 if authorised else end :]

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

    def sealing_secret(self) -> bytes:
        """32 bytes that this TPM gives again after the same boot, and after no other. Raises UnavailableError.

        The TPM takes a policy back when any register is extended before it is used: then it is asked again.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return self._derive()
            except UnavailableError:
                if not left:
                    raise
        raise AssertionError

    def _derive(self) -> bytes:
        with self._boot_policy() as (session, policy), self._sealing_key(policy) as key:
            asked = _sized(SEALING) + struct.pack(">H", SHA256_ID)
            secret = _Fields(self.command("HMAC", HMAC, key, asked, authorised=True, session=session)).sized("HMAC")
        if len(secret) != SECRET_SIZE:
            raise UnavailableError(f"TPM: HMAC: expected {SECRET_SIZE} bytes, found {len(secret)}")
        return secret

    @contextmanager
    def _boot_policy(self) -> Iterator[tuple[int, bytes]]:
        """A session that stands for the registers of the boot as they are, and the digest of that policy."""
        nobody = struct.pack(">I", _NOBODY)
        asked = _sized(os.urandom(16)) + _sized(b"") + struct.pack(">BHH", _POLICY_SESSION, _NULL, SHA256_ID)
        session = self.command("StartAuthSession", START_SESSION, nobody * 2, asked, gives_handle=True)[:4]
        try:
            self.command("PolicyPCR", POLICY_PCR, session, _sized(b"") + selection(BOOT))
            policy = _Fields(self.command("PolicyGetDigest", POLICY_GET_DIGEST, session, b"")).sized("PolicyGetDigest")
            yield int.from_bytes(session, "big"), policy
        finally:
            self._flush(session)  # it is gone already if it was used

    @contextmanager
    def _sealing_key(self, policy: bytes) -> Iterator[bytes]:
        """The handle of an HMAC key that only `policy` can use; the same policy gives the same key."""
        head = struct.pack(">HHI", _KEYEDHASH, SHA256_ID, _SEALING_KEY)
        public = head + _sized(policy) + struct.pack(">HH", _HMAC_SCHEME, SHA256_ID) + _sized(b"")
        asked = _sized(bytes(4)) + _sized(public) + _sized(b"") + struct.pack(">I", 0)
        owner = struct.pack(">I", _OWNER)
        key = self.command("CreatePrimary", CREATE_PRIMARY, owner, asked, authorised=True, gives_handle=True)[:4]
        try:
            yield key
        finally:
            self._flush(key)

    def _flush(self, handle: bytes) -> None:
        """What is left in the TPM goes with the device, too."""
        with suppress(UnavailableError):
            self.command("FlushContext", FLUSH_CONTEXT, b"", handle)


def _open(device: Path) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"{device}: {error.strerror}") from error


def _exchange(descriptor: int) -> Transport:
    def exchange(command: bytes) -> bytes:
        os.write(descriptor, command)
        return os.read(descriptor, MAX_RESPONSE)

    return exchange


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def selection(registers: Sequence[int]) -> bytes:
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
