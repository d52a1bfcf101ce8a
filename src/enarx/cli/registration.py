"""`enarx platform sgx register`: what an Intel platform's firmware asks of Intel is sent there (`enarx.tee.sgx.registration`).

  1  the firmware's own error, or an order that the service is not to keep the platform's keys, ends it
  2  a registration that is complete is not sent again: the firmware takes its request back at the next boot
  3  the request is sent; what the service says against it is told in its words
  4  the firmware is given the answer to an added package, and told that registration is complete

A firmware that lets nobody write is left as it is, and that is said: it asks again at the next boot.
"""

import fcntl
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enarx.cli.pck import read_key
from enarx.errors import MalformedError, NotFoundError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from enarx.tee.sgx.registration import Kind, Request, Status
    from enarx.web.client import Response

FILE: Final = click.Path(path_type=Path)
EFIVARS: Final = Path("/sys/firmware/efi/efivars")
PATHS: Final[dict["Kind", str]] = {
    "platform": "/sgx/registration/v1/platform",
    "package": "/sgx/registration/v1/package",
}
SUCCESS: Final[dict["Kind", int]] = {"platform": 201, "package": 200}
MAX_ANSWER: Final = 64 * 1024  # bytes: the certificates of a platform's packages

_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h


@click.command()
@click.option("--efivars", type=FILE, default=EFIVARS, show_default=True, help="Where the firmware's variables are.")
@click.option("--service", metavar="URL", help="Intel's registration service, or one that speaks as it does.")
@click.option("--ca", type=FILE, help="CAs (PEM) of this server, if the system does not know them.")
@click.option("--subscription-key", type=FILE, help="A file with the key that Intel wants for an added package.")
def register(*, efivars: Path, service: str | None, ca: Path | None, subscription_key: Path | None) -> None:
    """Register this platform with Intel: send the request that its firmware left in an EFI variable.

    A machine of several sockets needs it once before Intel certifies its key, and after a change of processors.
    """
    for line in Firmware(efivars=efivars).register(Registrar(service=service, ca=ca, key=subscription_key)):
        click.echo(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Intel's service, and what it wants to see."""

    service: str | None = None
    ca: Path | None = None
    key: Path | None = None

    def send(self, request: "Request") -> tuple[str, "Response"]:
        """Who answered, and what. Raises RejectedError with the service's own word against the request."""
        from enarx.steward.vendors import PCS
        from enarx.web.client import Client
        from enarx.web.files import read_file

        headers = {"Content-Type": "application/octet-stream"}
        if request.kind == "package":
            headers["Ocp-Apim-Subscription-Key"] = self._subscription()
        with Client(self.service or PCS, ca_pem=None if self.ca is None else read_file(self.ca)) as client:
            answer = client.post(PATHS[request.kind], request.body, headers=headers, allow=(400, 401), limit=MAX_ANSWER)
            if answer.status >= 300:
                code, words = (answer.headers.get(name, "")[:200] for name in ("error-code", "error-message"))
                raise RejectedError(f"{client.host}: {answer.status} {code}{': ' if words else ''}{words}".rstrip())
            if answer.status != SUCCESS[request.kind]:
                raise MalformedError(f"{client.host}: expected {SUCCESS[request.kind]}, found {answer.status}")
            return client.host, answer

    def _subscription(self) -> str:
        if self.key is None:
            raise click.UsageError("the firmware asks to add a package: Intel wants --subscription-key for it")
        return read_key(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The variables of this machine."""

    efivars: Path

    def register(self, registrar: Registrar) -> Iterator[str]:
        """What was done, a line each. Raises NotFoundError where the firmware left no request."""
        from enarx.tee.sgx import registration

        data = self._read(registration.REQUEST_NAME)
        if data is None:
            raise NotFoundError(
                f"{self.efivars}: no {registration.REQUEST_NAME.partition('-')[0]}: the firmware left nothing to register"
            )
        request = registration.Request.parse(data)
        # 1
        status = self._status()
        if status is not None and status.firmware_error:
            raise UnavailableError(
                f"the firmware reports error 0x{status.firmware_error:02x}: it has to be mended first"
            )
        configuration = self._read(registration.CONFIGURATION_NAME)
        if request.kind == "platform" and configuration and not registration.keeps_keys(configuration):
            raise RejectedError("the firmware is set up so that Intel keeps no keys of this platform: nothing is sent")
        # 2
        if status is not None and status.complete:
            yield "registered already; the firmware takes its request back at the next boot"
            return
        # 3
        host, answer = registrar.send(request)
        if request.kind == "platform":
            yield f"platform registered with {host}, PPID {answer.body.decode('ascii', 'replace').strip()[:64]}"
        else:
            yield f"package added with {host}"
            # 4
            yield self._write(registration.RESPONSE_NAME, registration.response(answer.body))
        if status is not None:
            yield self._write(registration.STATUS_NAME, status.completed().encode())

    def _status(self) -> "Status | None":
        from enarx.tee.sgx.registration import STATUS_NAME, Status

        data = self._read(STATUS_NAME)
        return None if data is None else Status.parse(data)

    def _read(self, name: str) -> bytes | None:
        from enarx.tee.sgx.registration import MAX_VARIABLE

        try:
            with (self.efivars / name).open("rb") as file:
                return file.read(MAX_VARIABLE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(f"{self.efivars / name}: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> str:
        """In one write, as efivarfs wants it. What came of it."""
        file, what = self.efivars / name, name.partition("-")[0]
        try:
            with _changeable(file):
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    os.write(descriptor, data)
                finally:
                    os.close(descriptor)
        except OSError as error:
            return f"{what} was not written ({error.strerror}): the firmware asks again at the next boot"
        return f"{what} written for the firmware"


@contextmanager
def _changeable(file: Path) -> Iterator[None]:
    """Linux keeps variables from being changed by accident with the flag of immutable files; it is set again."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    flags = array("i", [0])
    try:
        with suppress(OSError):  # a file system without such flags
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        if flags[0] & _IMMUTABLE:
            fcntl.ioctl(descriptor, _SET_FLAGS, array("i", [flags[0] & ~_IMMUTABLE]))
        yield
    finally:
        if flags[0] & _IMMUTABLE:
            with suppress(OSError):
                fcntl.ioctl(descriptor, _SET_FLAGS, flags)
        os.close(descriptor)
