"""A Keep in an SGX enclave that Gramine starts from a signed manifest (`enarx image gramine`): `gramine`.

An enclave inherits nothing of its host, so the agent in it (`enarx.keep.enclave`) connects to a port on the host's
loopback and says the cookie that it was started with; from then on it is the channel of every Keep. Cookie and port come
through the environment, which is the host's word and proves nothing. Sockets of the workload are the host's, as TLS ends
inside. Whoever signs elsewhere than Gramine does, with `enarx sign`, has that SIGSTRUCT taken instead of the one beside
the manifest, for the same enclave: from a directory of its own, as Gramine looks for it there. Not run on hardware: Gramine comes from its own repository, and there is no machine with SGX here.
"""

import contextlib
import hmac
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError, NotFoundError, UnavailableError, UntrustedError
from enarx.keep.backends import hosts
from enarx.keep.backends.api import Datum, Keep, Wishes

PROGRAM: Final = "gramine-sgx"
MANIFEST: Final = "enarx"
MEASURED: Final = ".manifest.sgx"
SIGNATURE: Final = ".sig"
SUFFIXES: Final = (MEASURED, SIGNATURE)
ENCLAVE_HASH: Final = slice(960, 992)  # where MRENCLAVE stands in a SIGSTRUCT (Intel SDM 3D, 38.13)
VARIABLE: Final = "ENARX_CHANNEL"
COOKIE: Final = 32  # bytes
PATIENCE: Final = 60.0  # seconds until the enclave is built and answers


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepEnclave:
    """The enclave's process on the host, and the host's end of the channel."""

    process: subprocess.Popen[bytes]
    stream: socket.socket
    folder: Path | None = None  # made for this launch

    def expose(self, port: int) -> None:
        """Its sockets are the host's own."""

    def wait(self, seconds: float) -> str | None:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return f"{PROGRAM} ended with {code}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stream.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gramine:
    """The backend. `program` and `roots` are for tests, which have another."""

    name: str = "gramine"
    title: str = "an SGX enclave that Gramine starts"
    protects: str | None = "the host and its administrators"
    program: str = PROGRAM
    roots: hosts.Roots = field(default_factory=hosts.Roots)

    def data(self) -> Sequence[Datum]:
        found = shutil.which(self.program)
        advice = "install Gramine, from its own packages"
        return (
            *hosts.sgx(self.roots),
            Datum(name=self.program, ok=found is not None, info=found or "not found", advice=advice),
        )

    def launch(self, wishes: Wishes) -> Keep:
        if wishes.image is None:
            raise NotFoundError("gramine: name an image with --image; `enarx image gramine DIR` makes its manifest")
        image = Path(wishes.image)
        if wishes.signatures is None:
            return start(self.program, image)
        folder = signed_elsewhere(image, Path(wishes.signatures))
        try:
            return replace(start(self.program, folder), folder=folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def signed_elsewhere(image: Path, signatures: Path) -> Path:
    """A directory with the image's manifest and the SIGSTRUCT of that file. Raises NotFoundError, MalformedError."""
    from tempfile import mkdtemp  # noqa: PLC0415 - heavy, and few sign so

    from enarx.keep.backends.signatures import Signatures  # noqa: PLC0415 - as above

    sigstruct = Signatures.read(signatures).require_sgx()
    beside = image / f"{MANIFEST}{SIGNATURE}"
    if beside.is_file() and beside.read_bytes()[ENCLAVE_HASH] != sigstruct[ENCLAVE_HASH]:
        raise MalformedError(
            f"{signatures}: is of the enclave {sigstruct[ENCLAVE_HASH].hex()}, "
            f"expected {beside.read_bytes()[ENCLAVE_HASH].hex()} as {beside}"
        )
    manifest = _require(image, MEASURED)
    folder = Path(mkdtemp(prefix="enarx-keep-"))
    (folder / manifest.name).symlink_to(manifest.resolve())
    (folder / beside.name).write_bytes(sigstruct)
    return folder


def _require(image: Path, suffix: str) -> Path:
    found = image / f"{MANIFEST}{suffix}"
    if not found.is_file():
        raise NotFoundError(
            f"{found}: not there; sign the manifest with gramine-sgx-sign, as `enarx image gramine` says"
        )
    return found


def start(program: str, image: Path) -> KeepEnclave:
    """Start the enclave and wait for it. Raises NotFoundError for an unsigned image, UnavailableError."""
    for suffix in SUFFIXES:
        _require(image, suffix)
    cookie = secrets.token_bytes(COOKIE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin"),
            "LANG": "C.UTF-8",
            VARIABLE: f"{server.getsockname()[1]}:{cookie.hex()}",
        }
        try:
            process = subprocess.Popen(
                [program, MANIFEST],
                cwd=image,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"{program}: {error.strerror}") from error
        try:
            stream = _accept(server, process, cookie)
        except (UnavailableError, UntrustedError):
            process.kill()
            process.wait()
            raise
    return KeepEnclave(process=process, stream=stream)


def _accept(server: socket.socket, process: "subprocess.Popen[bytes]", cookie: bytes) -> socket.socket:
    """The one connection that knows the cookie; others on this machine may connect, and are hung up on."""
    end = time.monotonic() + PATIENCE
    server.settimeout(0.2)
    while time.monotonic() < end:
        try:
            stream, _ = server.accept()
        except TimeoutError:
            if process.poll() is not None:
                raise UnavailableError(
                    f"gramine: the enclave ended with {process.returncode} before it answered"
                ) from None
            continue
        stream.settimeout(PATIENCE)
        if hmac.compare_digest(_exactly(stream, COOKIE), cookie):
            stream.settimeout(None)
            return stream
        stream.close()
    raise UnavailableError(f"gramine: the enclave did not answer within {PATIENCE:g} seconds")


def _exactly(stream: socket.socket, count: int) -> bytes:
    found = b""
    try:
        while len(found) < count and (piece := stream.recv(count - len(found))):
            found += piece
    except OSError:
        return b""
    return found
