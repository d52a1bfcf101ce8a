"""`enarx platform sgx register`: what the firmware asks for, as Intel's agent sends it, and what the firmware is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enarx.cli.main import main
from enarx.tee.sgx import registration
from enarx.tee.sgx.registration import (
    CONFIGURATION_NAME,
    KINDS,
    REQUEST_NAME,
    RESPONSE_NAME,
    STATUS_NAME,
    Kind,
    Status,
)

GUIDS: dict[Kind, bytes] = {kind: guid for guid, kind in KINDS.items()}
KEY = "0123456789abcdef0123456789abcdef"
MEMBERSHIP = b"certificates of a membership"


class Intel:
    """The registration service."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, str | None]] = []
        self.refusal: Response | None = None

    async def answer(self, request: Request) -> Response:
        assert request.headers["content-type"] == "application/octet-stream"
        key = request.headers.get("ocp-apim-subscription-key")
        self.sent.append((request.url.path, await request.body(), key))
        if self.refusal is not None:
            return self.refusal
        if request.url.path == "/sgx/registration/v1/platform":
            return Response("AB" * 16, status_code=201)
        assert request.url.path == "/sgx/registration/v1/package"
        return Response(MEMBERSHIP, status_code=200)


@pytest.fixture
def intel() -> Intel:
    return Intel()


@pytest.fixture
def register(intel: Intel, tmp_path: Path, start: Callable[..., int]) -> Callable[..., Result]:
    """The command, on a machine whose variables are in `tmp_path`."""
    service = f"http://127.0.0.1:{start(Starlette(routes=[Route('/{path:path}', intel.answer, methods=['POST'])]))}"

    def invoke(*options: str) -> Result:
        command = ["platform", "sgx", "register", "--efivars", str(tmp_path), "--service", service]
        return CliRunner().invoke(main, [*command, *options])

    return invoke


def manifest(kind: Kind) -> bytes:
    """A structure of this kind: GUID, size, version, reserved, and what only Intel reads."""
    return GUIDS[kind] + (7).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(12) + b"opaque!"


def leave(folder: Path, kind: Kind, *, version: int = 1, status: Status | None = None) -> bytes:
    """What the firmware leaves; returns what is to be sent."""
    body = manifest(kind)
    request = registration.Request(kind=kind, body=body, version=version)
    (folder / REQUEST_NAME).write_bytes(request.encode())
    if status is not None:
        (folder / STATUS_NAME).write_bytes(status.encode())
    return body


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_platform_is_registered_and_the_firmware_told(
    register: Callable[..., Result], intel: Intel, tmp_path: Path, version: int
) -> None:
    """The body of the variable goes out, whole and alone, in each of its versions."""
    body = leave(tmp_path, "platform", version=version, status=Status(bits=2, error=0x82))
    done = register()
    assert done.exit_code == 0, done.output
    assert intel.sent == [("/sgx/registration/v1/platform", body, None)]
    assert f"PPID {'AB' * 16}" in done.stdout
    assert Status.parse((tmp_path / STATUS_NAME).read_bytes()) == Status(bits=3, error=0)
    again = register()
    assert (again.exit_code, len(intel.sent)) == (0, 1)
    assert "registered already" in again.stdout


def test_the_variable_is_read_as_firmware_writes_it(
    register: Callable[..., Result], intel: Intel, tmp_path: Path
) -> None:
    """Written out: attributes, version, size, and a manifest that begins with its GUID."""
    body = bytes.fromhex("178e874b49e44aa599bb3057170925b4") + b"rest"
    (tmp_path / REQUEST_NAME).write_bytes(bytes.fromhex("06000000 0100 1400") + body)
    assert register().exit_code == 0
    assert intel.sent == [("/sgx/registration/v1/platform", body, None)]
    assert not (tmp_path / STATUS_NAME).exists(), "a firmware without the variable is not given one"


def test_a_package_is_added_with_a_key_and_the_firmware_gets_the_certificates(
    register: Callable[..., Result], intel: Intel, tmp_path: Path
) -> None:
    """Intel wants to know who asks; the key is read from a file that others cannot read."""
    body = leave(tmp_path, "package", version=2, status=Status(bits=0, error=0))
    assert register().exit_code == 64
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o644)
    assert register("--subscription-key", str(key)).exit_code == 65
    assert intel.sent == []
    key.chmod(0o600)
    done = register("--subscription-key", str(key))
    assert done.exit_code == 0, done.output
    assert intel.sent == [("/sgx/registration/v1/package", body, KEY)]
    response = (tmp_path / RESPONSE_NAME).read_bytes()
    assert response == bytes.fromhex("07000000 0100") + len(MEMBERSHIP).to_bytes(2, "little") + MEMBERSHIP
    assert Status.parse((tmp_path / STATUS_NAME).read_bytes()).complete
    assert KEY not in done.output


@pytest.mark.parametrize("status", [400, 401])
def test_what_intel_says_against_it_is_told(
    register: Callable[..., Result], intel: Intel, tmp_path: Path, status: int
) -> None:
    """Its own word is in a header; the firmware is told nothing, so that it may be tried again."""
    leave(tmp_path, "platform", status=Status(bits=0, error=0))
    intel.refusal = Response(status_code=status, headers={"Error-Code": "InvalidPlatformManifest"})
    done = register()
    assert done.exit_code == 77
    assert f"{status} InvalidPlatformManifest" in done.stderr
    assert not Status.parse((tmp_path / STATUS_NAME).read_bytes()).complete


def test_a_service_that_is_down_is_an_outage(register: Callable[..., Result], intel: Intel, tmp_path: Path) -> None:
    """And the request stays."""
    leave(tmp_path, "platform")
    intel.refusal = Response(status_code=503)
    assert register().exit_code == 69


def test_nothing_is_sent_where_the_firmware_has_an_error_or_wants_no_keys_kept(
    register: Callable[..., Result], intel: Intel, tmp_path: Path
) -> None:
    """Its own errors have the highest bit clear; the flag stands in the configuration."""
    leave(tmp_path, "platform", status=Status(bits=0, error=0x05))
    done = register()
    assert (done.exit_code, intel.sent) == (69, [])
    assert "the firmware reports error 0x05" in done.stderr
    leave(tmp_path, "platform", status=Status(bits=0, error=0))
    (tmp_path / CONFIGURATION_NAME).write_bytes(bytes.fromhex("07000000 0100 0400 0100 0000"))
    done = register()
    assert (done.exit_code, intel.sent) == (77, [])
    assert "Intel keeps no keys of this platform" in done.stderr


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),
        bytes.fromhex("07000000 0400 0000"),  # an unknown version
        bytes.fromhex("07000000 0100 1000") + bytes(16),  # an unknown GUID
        bytes.fromhex("07000000 0100 1100") + GUIDS["platform"],  # shorter than it says
        bytes.fromhex("07000000 0100 0f00") + GUIDS["platform"],  # longer than it says
    ],
)
def test_a_variable_of_another_form_is_malformed(
    register: Callable[..., Result], intel: Intel, tmp_path: Path, data: bytes
) -> None:
    """Nothing of it goes out."""
    (tmp_path / REQUEST_NAME).write_bytes(data)
    assert (register().exit_code, intel.sent) == (65, [])


def test_a_firmware_that_lets_nobody_write_is_said(
    register: Callable[..., Result], intel: Intel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform is registered all the same."""
    leave(tmp_path, "platform", status=Status(bits=0, error=0))
    (tmp_path / STATUS_NAME).rename(tmp_path / "elsewhere")
    (tmp_path / STATUS_NAME).symlink_to("/proc/version")  # readable, and nobody's to write
    monkeypatch.setattr(Status, "parse", classmethod(lambda cls, _: cls(bits=0, error=0)))
    done = register()
    assert (done.exit_code, len(intel.sent)) == (0, 1), done.output
    assert "SgxRegistrationStatus was not written" in done.stdout


def test_without_a_request_nothing_is_registered(register: Callable[..., Result], intel: Intel) -> None:
    """The firmware left none."""
    done = register()
    assert (done.exit_code, intel.sent) == (66, [])
    assert "no SgxRegistrationServerRequest: the firmware left nothing to register" in done.stderr
