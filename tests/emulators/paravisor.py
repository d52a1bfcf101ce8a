"""A confidential VM of Azure's: its virtual TPM (swtpm) at a device, and the metadata service, over a simulated machine.

    python -m tests.emulators.paravisor MOUNT SOCKET

is the device, as Azure's takes no more than 50 bytes of a quote's data: a FUSE file `tpmrm0` with the manners of /dev/tpmrm0, where one write is a command and one read its
response; behind it is the TPM at SOCKET. `boot` gives that TPM what Azure's has when a VM starts: an attestation key at
its handle, and the paravisor's report in its NV index, whose hardware report is the simulated machine's.
"""

import base64
import errno
import json
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from enarx.keep.backends.azure import TDX_QUOTE, VCEK
from enarx.keep.backends.vtpm import AK, HCL_INDEX, MAX_RESPONSE, QUOTE, Vtpm
from enarx.pki.certificate import Certificate
from enarx.tee.azure.hcl import HARDWARE, TDREPORT, TDREPORT_DATA
from tests.emulators import fuse

NAME: Final = "tpmrm0"
OWNER: Final = 0x40000001
REPORT_TYPES: Final = {"snp": 2, "tdx": 4}
MAX_QUALIFYING: Final = 50  # bytes, where the longest hash of a TPM is SHA-384; swtpm has SHA-512
WRONG_SIZE: Final = struct.pack(">HII", 0x8001, 10, 0x1D5)  # TPM_RC_SIZE of the first parameter

Kind = Literal["snp", "tdx"]


# -- the TPM


@contextmanager
def swtpm(folder: Path) -> Iterator[Path]:
    """A TPM in software; gives the socket that it listens at. Its state stays in `folder`."""
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("swtpm is not installed")
    at = folder / "tpm"
    words = [program, "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={at}"]
    process = subprocess.Popen([*words, "--flags", "not-need-init,startup-clear"])
    try:
        yield at
    finally:
        process.terminate()
        process.wait()
        at.unlink(missing_ok=True)


def connected(at: Path) -> socket.socket:
    """Its client; there can be one at a time. The socket may not be there yet, or be there and not yet listened at."""
    for _ in range(3000):
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(at))
        except (FileNotFoundError, ConnectionRefusedError):
            stream.close()
            time.sleep(0.02)
        else:
            return stream
    raise AssertionError(f"nobody listens at {at}")


@contextmanager
def spoken_to(at: Path) -> Iterator[Vtpm]:
    """The TPM at a socket, without a device."""
    with connected(at) as stream:
        stream.settimeout(60)

        def exchange(command: bytes) -> bytes:
            stream.sendall(command)
            return stream.recv(MAX_RESPONSE)

        yield Vtpm(transport=exchange)


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def create_key(vtpm: Vtpm) -> int:
    """A restricted RSA signing key at Azure's handle; its modulus."""
    public = struct.pack(">HHIHHHHHIH", 1, 0x000B, 0x00050072, 0, 0x0010, 0x0014, 0x000B, 2048, 0, 0)
    owner = struct.pack(">I", OWNER)
    wanted = sized(bytes(4)) + sized(public) + bytes(2 + 4)
    answer = vtpm.command("CreatePrimary", 0x131, owner, wanted, authorised=True, gives_handle=True)
    handle, size, found = answer[:4], int.from_bytes(answer[4:6], "big"), answer[6:]
    vtpm.command("EvictControl", 0x120, owner + handle, struct.pack(">I", AK), authorised=True)
    vtpm.command("FlushContext", 0x165, b"", handle)
    return int.from_bytes(found[size - 256 : size], "big")


def plant(vtpm: Vtpm, index: int, data: bytes) -> None:
    """An NV index with these bytes."""
    owner = struct.pack(">I", OWNER)
    public = struct.pack(">IHIHH", index, 0x000B, 0x00020002, 0, len(data))
    vtpm.command("NV_DefineSpace", 0x12A, owner, sized(b"") + sized(public), authorised=True)
    for offset in range(0, len(data), 1024):
        piece = sized(data[offset : offset + 1024]) + offset.to_bytes(2, "big")
        vtpm.command("NV_Write", 0x137, owner + struct.pack(">I", index), piece, authorised=True)


def extend(vtpm: Vtpm, register: int, digest: bytes) -> None:
    """What firmware and kernel do with what they start."""
    event = struct.pack(">IH", 1, 0x000B) + digest
    vtpm.command("PCR_Extend", 0x182, struct.pack(">I", register), event, authorised=True)


# -- what the paravisor leaves in it


def boot(vtpm: Vtpm, kind: Kind, report: Callable[[bytes], bytes], flaw: str = "") -> None:
    """As a VM finds it. `report` is the hardware's, over 64 bytes; a `flaw` makes the paravisor lie.

    `other-key`: its runtime data have a key that is not the TPM's.
    """
    modulus = (create_key(vtpm) ^ (2 if flaw == "other-key" else 0)).to_bytes(256, "big")
    entry = {"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()}
    runtime = json.dumps({"keys": [entry], "user-data": "00"}).encode()
    data = sha256(runtime).digest() + bytes(32)
    body = report(data) if kind == "snp" else tdreport(data)
    header = struct.pack("<IIIII", 20 + len(runtime), 1, REPORT_TYPES[kind], 1, len(runtime))
    plant(vtpm, HCL_INDEX, b"HCLA" + bytes(28) + body.ljust(HARDWARE, b"\0") + header + runtime)
    for register in (4, 9):
        extend(vtpm, register, sha256(b"the kernel").digest())


def tdreport(data: bytes) -> bytes:
    """A TDREPORT, of which nobody but the platform reads more than the report data."""
    return (bytes(TDREPORT_DATA) + data).ljust(TDREPORT, b"\0")


# -- what the host answers


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The service at 169.254.169.254, on loopback: the chip's certificate, and quotes over TDREPORTs."""

    host: str
    asked: list[str]


@contextmanager
def metadata(machine: Any, kind: Kind, *, answers: bool = True) -> Iterator[Metadata]:  # Any: one simulator's machine
    """In the forms that Azure documents: PEM in JSON, and base64url without padding in both directions."""
    asked: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path != VCEK or self.headers["Metadata"] != "true" or kind != "snp":
                self.send_error(404)
                return
            above = b"".join(Certificate.parse(item).to_pem() for item in machine.with_chain().certificates[1:])
            self._send(
                {
                    "vcekCert": Certificate.parse(machine.certificate).to_pem().decode(),
                    "tcbm": "DB18000000000004",
                    "certificateChain": above.decode(),
                    "cacheControl": "86400",
                }
            )

        def do_POST(self) -> None:
            asked.append(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != TDX_QUOTE or kind != "tdx" or "=" in body["report"]:
                self.send_error(404)
                return
            report = base64.urlsafe_b64decode(body["report"] + "==")
            quote = machine.quote(report[TDREPORT_DATA : TDREPORT_DATA + 64])
            self._send({"quote": base64.urlsafe_b64encode(quote).rstrip(b"=").decode()})

        def _send(self, members: dict[str, str]) -> None:
            if not answers:
                self.send_error(500)
                return
            data = json.dumps(members).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Metadata(host=f"127.0.0.1:{server.server_port}", asked=asked)
        finally:
            server.shutdown()


# -- the device


class Device(fuse.Operations):  # type: ignore[misc]  # as there
    """One file; every opening has its own last response, as the kernel's resource manager has it."""

    use_ns = True

    def __init__(self, at: Path) -> None:
        self._tpm = connected(at)
        self._responses: dict[int, bytes] = {}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        times = {"st_uid": 0, "st_gid": 0, "st_mtime": 0, "st_ctime": 0, "st_atime": 0}
        if path == "/":
            return {**times, "st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == f"/{NAME}":
            return {**times, "st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
        raise fuse.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", NAME]

    def open(self, path: str, flags: int) -> int:
        number = max(self._responses, default=0) + 1
        self._responses[number] = b""
        return number

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if data[6:10] == struct.pack(">I", QUOTE) and int.from_bytes(data[27:29], "big") > MAX_QUALIFYING:
            self._responses[fh] = WRONG_SIZE
            return len(data)
        self._tpm.sendall(data)
        self._responses[fh] = self._tpm.recv(MAX_RESPONSE)
        return len(data)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        response, self._responses[fh] = self._responses[fh][:size], b""
        return response

    def release(self, path: str, fh: int) -> int:
        del self._responses[fh]
        return 0


@contextmanager
def device(folder: Path, at: Path) -> Iterator[Path]:
    """The device of the TPM at a socket, in `folder`; skips the test where that cannot be."""
    with fuse.mounted("tests.emulators.paravisor", folder / "dev", str(at)) as mount:
        yield mount / NAME


if __name__ == "__main__":
    mount_point, tpm = sys.argv[1:]
    fuse.serve(Device(Path(tpm)), mount_point)
