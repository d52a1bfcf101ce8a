"""What the firmware of an Intel platform of several sockets asks of Intel, in EFI variables.

The structures are those of Intel's agent for the registration of multi-package platforms:

    every variable    attributes u32, as efivarfs puts them first, ‖ version u16 ‖ size u16 (u32 in version 3) ‖ body
    server request    body: a structure that begins with its GUID: the platform's manifest, or a package to be added
    status            body: bits u16 (0: registration is complete, 1: package information was read) ‖ error u8
    configuration     body: flags u16 (0: the server is not to keep the platform's keys) ‖ …

Little-endian. The request goes to the service as its body is. A platform answers 201 with its PPID, an added package 200
with the certificates of its membership, which the firmware wants back. An error with its highest bit clear is the
firmware's own.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

from enarx.binary import Reader, Writer
from enarx.errors import MalformedError

REQUEST_NAME: Final = "SgxRegistrationServerRequest-304e0796-d515-4698-ac6e-e76cb1a71c28"
RESPONSE_NAME: Final = "SgxRegistrationServerResponse-89589c7b-b2d9-4fc9-bcda-463b983b2fb7"
STATUS_NAME: Final = "SgxRegistrationStatus-f236c5dc-a491-4bbe-bcdd-88885770df45"
CONFIGURATION_NAME: Final = "SgxRegistrationConfiguration-18b3bc81-e210-42b9-9ec8-2c5a7d4d89b6"

MAX_VARIABLE: Final = 64 * 1024  # bytes
ATTRIBUTES: Final = 0x7  # non-volatile, for boot services and for the running system

Kind = Literal["platform", "package"]
KINDS: Final[dict[bytes, Kind]] = {
    bytes.fromhex("178e874b49e44aa599bb3057170925b4"): "platform",
    bytes.fromhex("696519ca73c14785a0f64d289d37e995"): "package",
}

_LONG: Final = 3  # the version whose size has four bytes
_COMPLETE, _KEYS_NOT_KEPT = 0x1, 0x1
_FIRMWARES: Final = 0x80  # an error without this bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be sent. `version` is the variable's."""

    kind: Kind
    body: bytes
    version: int = 1
    attributes: int = ATTRIBUTES

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        attributes, version, body = _open(data, "SGX registration request", versions=(1, 2, _LONG))
        if body[:16] not in KINDS:
            raise MalformedError(f"SGX registration request: neither a platform nor a package: GUID {body[:16].hex()}")
        return cls(kind=KINDS[body[:16]], body=body, version=version, attributes=attributes)

    def encode(self) -> bytes:
        return _close(self.attributes, self.version, self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far it has come."""

    bits: int
    error: int
    attributes: int = ATTRIBUTES

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedError."""
        what = "SGX registration status"
        attributes, _, body = _open(data, what, versions=(1,))
        reader = Reader(body, what=what)
        bits, error = reader.uint(2, "status"), reader.uint(1, "error")
        reader.end()
        return cls(bits=bits, error=error, attributes=attributes)

    def encode(self) -> bytes:
        return _close(self.attributes, 1, Writer().uint(self.bits, 2).uint(self.error, 1).getvalue())

    @property
    def complete(self) -> bool:
        return bool(self.bits & _COMPLETE)

    @property
    def firmware_error(self) -> int:
        """The error that the firmware itself reports; 0 for none, or for one that an agent left there."""
        return 0 if self.error & _FIRMWARES else self.error

    def completed(self) -> Self:
        return replace(self, bits=self.bits | _COMPLETE, error=0)


def keeps_keys(configuration: bytes) -> bool:
    """Whether the firmware wants its platform's keys kept by the service. Raises MalformedError."""
    what = "SGX registration configuration"
    *_, body = _open(configuration, what, versions=(1,))
    return not Reader(body, what=what).uint(2, "flags") & _KEYS_NOT_KEPT


def response(certificates: bytes) -> bytes:
    """The variable that gives the firmware what the service answered for an added package. Raises MalformedError."""
    if not 0 < len(certificates) <= 0xFFFF:
        raise MalformedError(f"SGX membership certificates: expected 1 to 65535 bytes, found {len(certificates)}")
    return _close(ATTRIBUTES, 1, certificates)


def _open(data: bytes, what: str, *, versions: tuple[int, ...]) -> tuple[int, int, bytes]:
    """Attributes, version and body of a variable."""
    if len(data) > MAX_VARIABLE:
        raise MalformedError(f"{what}: expected at most {MAX_VARIABLE} bytes, found {len(data)}")
    reader = Reader(data, what=what)
    attributes, version = reader.uint(4, "attributes"), reader.uint(2, "version")
    if version not in versions:
        raise MalformedError(f"{what}: version: expected {' or '.join(map(str, versions))}, found {version}")
    body = reader.take(reader.uint(4 if version == _LONG else 2, "size"), "body")
    reader.end()
    return attributes, version, body


def _close(attributes: int, version: int, body: bytes) -> bytes:
    writer = Writer().uint(attributes, 4).uint(version, 2).uint(len(body), 4 if version == _LONG else 2)
    return writer.put(body).getvalue()
