"""Enclaves under Gramine: the files that vouch, the manifest that is measured, and a launch with another program."""

import json
import os
import socket
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.image.gramine import Layout, manifest
from enarx.keep.backends import Wishes, enclave, gramine
from enarx.keep.backends.enclave import Attestation
from enarx.keep.backends.gramine import MANIFEST, SUFFIXES, Gramine, KeepEnclave
from enarx.keep.channel import TO_HOST, Channel, Hello, Kind
from enarx.tee.dcap.simulator import Vendor
from enarx.tee.sgx.report import Report
from enarx.tee.sgx.simulator import SgxMachine

AT = datetime.now(UTC)
MACHINE = SgxMachine.create(Vendor.create(AT), AT, mr_enclave=bytes(range(32)))
EMULATED = """#!{python}
import os, pathlib, sys
sys.path[:0] = {path!r}
from enarx.keep.backends import enclave
class Emulated(enclave.Attestation):
    def kind(self): return "dcap"
    def quote(self, data): return pathlib.Path({quote!r}).read_bytes()
    def sealing_secret(self): return None
enclave.Attestation = Emulated
from enarx.keep.enclave import main
main()
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """/dev/attestation as an enclave shows it: the quote is over what was written last."""
    (tmp_path / "attestation_type").write_text("dcap")
    (tmp_path / "user_report_data").write_bytes(b"")
    (tmp_path / "quote").write_bytes(MACHINE.quote(bytes(64)))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "_sgx_mrenclave").write_bytes(bytes(range(16)))
    return tmp_path


def test_the_processor_vouches_through_the_files(files: Path) -> None:
    """Report data is written, the quote is read, and MRENCLAVE is the measurement."""
    attester = enclave.attester(Attestation(root=files))
    assert attester.measurement() == MACHINE.mr_enclave
    data = bytes(range(64))
    evidence = attester.evidence(data)
    assert (files / "user_report_data").read_bytes() == data
    assert Report.parse(MACHINE.quote(bytes(64))).enclave.mr_enclave == attester.measurement()
    assert evidence.oid in attester.technology.oids
    assert attester.sealing_secret is not None
    assert len(attester.sealing_secret) == 32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"attestation_type": None}, UnavailableError, "this is no enclave"),
        ({"attestation_type": b"none"}, UnavailableError, "expected dcap, found 'none'"),
        ({"quote": None}, UnavailableError, "no quote"),
        ({"quote": b""}, UnavailableError, "the quote is empty"),
        ({"quote": b"no quote at all"}, MalformedError, "quote"),
    ],
)
def test_what_is_no_enclave_vouches_for_nothing(
    files: Path, change: dict[str, bytes | None], error: type[Exception], message: str
) -> None:
    """There is no silent way to a Keep without evidence."""
    for name, data in change.items():
        (files / name).unlink()
        if data is not None:
            (files / name).write_bytes(data)
    with pytest.raises(error, match=message):
        enclave.attester(Attestation(root=files))


def test_report_data_has_64_bytes(files: Path) -> None:
    """Gramine would cut or pad anything else without a word."""
    with pytest.raises(MalformedError, match="expected 64 bytes, found 63"):
        Attestation(root=files).quote(bytes(63))


def test_the_manifest_measures_everything_and_allows_nothing() -> None:
    """Fixed arguments, no debugging, DCAP, every folder a trusted one, and one variable of the host's."""
    text = manifest(
        Layout(python=Path("/usr/bin/python3"), standard_library=Path("/usr/lib/python3"), site_packages=Path("/s"))
    )
    found = tomllib.loads(text)
    assert found["sgx"]["debug"] is False
    assert found["sgx"]["remote_attestation"] == "dcap"
    assert found["loader"]["argv"] == ["python3", "-I", "-m", "enarx.keep.enclave"]
    assert "insecure" not in text
    assert "allowed_files" not in text
    assert found["loader"]["env"]["ENARX_CHANNEL"] == {"passthrough": True}
    trusted = found["sgx"]["trusted_files"]
    assert "file:/usr/bin/python3" in trusted
    assert "file:/s/wasmtime/" in trusted
    mounted = {entry.get("uri", "").removeprefix("file:") for entry in found["fs"]["mounts"]}
    assert {"/usr/lib/python3", "/s", "/usr/bin/python3"} <= mounted


def test_without_edmm_the_enclave_has_a_size() -> None:
    """An enclave that cannot grow has to be told how large it is."""
    found = tomllib.loads(manifest(Layout.of_this_machine(), size="2G", edmm=False))
    assert found["sgx"]["enclave_size"] == "2G"
    assert found["sgx"]["edmm_enable"] is False


def test_a_launch_gives_an_empty_keep_on_a_channel(tmp_path: Path) -> None:
    """With a program in Gramine's place: it connects, says its cookie, and its agent says what it is."""
    for suffix in SUFFIXES:
        (tmp_path / f"{MANIFEST}{suffix}").touch()
    quote = tmp_path / "quote.bin"
    quote.write_bytes(MACHINE.quote(bytes(64)))
    program = tmp_path / "gramine-sgx"
    program.write_text(EMULATED.format(python=sys.executable, path=sys.path, quote=str(quote)))
    program.chmod(0o755)
    (tmp_path / "elsewhere").write_text(json.dumps({"version": "0.8.0", "sgx": [0] * 1808}))
    (tmp_path / f"{MANIFEST}.sig").unlink()  # signed elsewhere, it need not be there
    keep = Gramine(program=str(program)).launch(Wishes(image=str(tmp_path), signatures=str(tmp_path / "elsewhere")))
    assert isinstance(keep, KeepEnclave)
    assert keep.folder is not None
    try:
        hello = Channel(keep.stream, receives=TO_HOST).expect(Kind.HELLO, Hello)
        assert (keep.folder / f"{MANIFEST}.sig").read_bytes() == bytes(1808)
    finally:
        keep.kill()
    assert hello.technology == "sgx"
    assert hello.measurement == MACHINE.mr_enclave.hex()
    assert not keep.folder.exists()


def test_an_image_that_was_not_signed_is_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    with pytest.raises(NotFoundError, match="gramine-sgx-sign"):
        gramine.start("gramine-sgx", tmp_path)
    with pytest.raises(NotFoundError, match="enarx image gramine"):
        Gramine().launch(Wishes())


def test_a_program_that_ends_is_told(tmp_path: Path) -> None:
    """An enclave that cannot be built ends at once, and nobody waits a minute for it."""
    for suffix in SUFFIXES:
        (tmp_path / f"{MANIFEST}{suffix}").touch()
    with pytest.raises(UnavailableError, match="ended with 1 before it answered"):
        gramine.start("/bin/false", tmp_path)


def test_a_stranger_without_the_cookie_is_hung_up_on(tmp_path: Path) -> None:
    """Whoever else connects to the port on this machine does not become the Keep."""
    for suffix in SUFFIXES:
        (tmp_path / f"{MANIFEST}{suffix}").touch()
    program = tmp_path / "stranger"
    program.write_text(
        f"#!{sys.executable}\nimport os, socket, time\nport, cookie = os.environ['ENARX_CHANNEL'].split(':')\n"
        "wrong = socket.create_connection(('127.0.0.1', int(port)))\nwrong.sendall(bytes(32))\nassert wrong.recv(1) == b''\n"
        "right = socket.create_connection(('127.0.0.1', int(port)))\nright.sendall(bytes.fromhex(cookie) + b'!')\ntime.sleep(30)\n"
    )
    program.chmod(0o755)
    keep = gramine.start(str(program), tmp_path)
    try:
        assert isinstance(keep, KeepEnclave)
        assert keep.stream.recv(1) == b"!"
        assert isinstance(keep.stream, socket.socket)
    finally:
        keep.kill()
    assert os.environ.get("ENARX_CHANNEL") is None
