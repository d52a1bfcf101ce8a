"""/dev/nsm: in an AWS Nitro enclave, the Nitro Security Module gives a signed attestation document.

One ioctl carries a request and a response, both CBOR (AWS's aws-nitro-enclaves-nsm-api): the map
`{"Attestation": {"user_data", "nonce", "public_key"}}` is answered by `{"Attestation": {"document"}}` or `{"Error": …}`.
What a Keep binds stands in `user_data`. The device is opened once, before the process is shut in. An enclave has no
network of its own: `enarx.keep.backends.link` brings one through its instance's vsock.
"""

import ctypes
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from enarx import cbor
from enarx.errors import MalformedError, UnavailableError

DEVICE: Final = Path("/dev/nsm")
REQUEST: Final = 0xC0200A00
MAX_RESPONSE: Final = 0x3000  # bytes, as the device has it

Ioctl = Callable[[int, int, Any], int]  # Any: ctypes structures


class Buffer(ctypes.LittleEndianStructure):
    """struct nsm_iovec."""

    _fields_ = (("address", ctypes.c_uint64), ("length", ctypes.c_uint64))


class Exchange(ctypes.LittleEndianStructure):
    """struct nsm_raw, 32 bytes."""

    _fields_ = (("request", Buffer), ("response", Buffer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsm:
    """The open device. `ioctl` is an argument: tests have no module."""

    descriptor: int
    ioctl: Ioctl = fcntl.ioctl

    @classmethod
    def open(cls, device: Path = DEVICE) -> Self:
        """Raises UnavailableError."""
        try:
            return cls(descriptor=os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise UnavailableError(f"{device}: {error.strerror}") from error

    def report(self, data: bytes) -> tuple[bytes, bytes]:
        """The document over `data`, and nothing beside it. Raises UnavailableError."""
        answer = self._ask(cbor.encode({"Attestation": {"user_data": data, "nonce": None, "public_key": None}}))
        try:
            found = cbor.decode(answer, "nsm")
        except MalformedError as error:
            raise UnavailableError(f"nsm: {error}") from error
        inner = found.get("Attestation") if isinstance(found, dict) else None
        document = inner.get("document") if isinstance(inner, dict) else None
        if not isinstance(document, bytes):
            why = found.get("Error") if isinstance(found, dict) else None
            raise UnavailableError(f"nsm: {why if isinstance(why, str) else 'no document in the answer'}"[:200])
        return document, b""

    def _ask(self, request: bytes) -> bytes:
        asked = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(MAX_RESPONSE)
        exchange = Exchange(
            request=Buffer(address=ctypes.addressof(asked), length=len(request)),
            response=Buffer(address=ctypes.addressof(answer), length=MAX_RESPONSE),
        )
        try:
            self.ioctl(self.descriptor, REQUEST, exchange)
        except OSError as error:
            raise UnavailableError(f"nsm: {error.strerror}") from error
        if exchange.response.length > MAX_RESPONSE:
            raise UnavailableError(f"nsm: an answer of {exchange.response.length} bytes")
        return answer.raw[: exchange.response.length]
