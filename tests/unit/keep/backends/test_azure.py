"""Azure's virtual TPM, asked as a TPM wants to be asked: a real one in software, around the simulated SNP machine."""

import base64
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends.azure import fetch_quote, fetch_vcek
from enarx.keep.backends.guest import azure_attester
from enarx.keep.backends.inside import found_paravisor
from enarx.keep.backends.vtpm import AK, HCL_INDEX, MAX_RESPONSE, Vtpm, selection
from enarx.tee import azure
from enarx.tee.appraise import failed, judge
from enarx.tee.azure.policy import Policy
from enarx.tee.model import Binding, Verdict
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as Amd

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DATA = bytes(range(64))
OWNER = 0x40000001


@pytest.fixture
def vtpm(tmp_path: Path) -> Iterator[Vtpm]:
    program = shutil.which("swtpm")
    if program is None:
        pytest.skip("swtpm is not installed")
    at = tmp_path / "tpm"
    words = [program, "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--server", f"type=unixio,path={at}"]
    process = subprocess.Popen([*words, "--flags", "not-need-init,startup-clear"])
    stream = socket.socket(socket.AF_UNIX)
    try:
        for _ in range(500):
            if at.exists():
                break
            time.sleep(0.02)
        stream.connect(str(at))
        stream.settimeout(60)

        def exchange(command: bytes) -> bytes:
            stream.sendall(command)
            return stream.recv(MAX_RESPONSE)

        yield Vtpm(transport=exchange)
    finally:
        stream.close()
        process.terminate()
        process.wait()


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def create_key(vtpm: Vtpm) -> int:
    """A restricted RSA signing key at Azure's handle; its modulus."""
    public = struct.pack(">HHIHHHHHIH", 1, 0x000B, 0x00050072, 0, 0x0010, 0x0014, 0x000B, 2048, 0, 0)
    wanted = sized(bytes(4)) + sized(public) + bytes(2 + 4)
    owner = struct.pack(">I", OWNER)
    body = owner + struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0) + wanted
    answer = vtpm.transport(struct.pack(">HII", 0x8002, 10 + len(body), 0x131) + body)
    assert answer[6:10] == bytes(4), answer[6:10].hex()
    handle, found = answer[10:14], answer[20:]
    vtpm.command("EvictControl", 0x120, owner + handle, struct.pack(">I", AK), authorised=True)
    size = int.from_bytes(answer[18:20], "big")
    return int.from_bytes(found[size - 256 : size], "big")


def plant(vtpm: Vtpm, index: int, data: bytes) -> None:
    """An NV index with these bytes."""
    owner = struct.pack(">I", OWNER)
    public = struct.pack(">IHIHH", index, 0x000B, 0x00020002, 0, len(data))
    vtpm.command("NV_DefineSpace", 0x12A, owner, sized(b"") + sized(public), authorised=True)
    for offset in range(0, len(data), 1024):
        piece = sized(data[offset : offset + 1024]) + offset.to_bytes(2, "big")
        vtpm.command("NV_Write", 0x137, owner + struct.pack(">I", index), piece, authorised=True)


def test_evidence_of_the_tpm_is_accepted(vtpm: Vtpm, tmp_path: Path) -> None:
    """Paravisor's report, a fresh quote over what is bound and the registers: accepted, and for other data refused."""
    vendor = Amd.create(AT)
    machine = SnpMachine.create(vendor, AT, measurement=bytes(range(48)))
    modulus = create_key(vtpm).to_bytes(256, "big")
    entry = {"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": base64.urlsafe_b64encode(modulus).rstrip(b"=").decode()}
    runtime = json.dumps({"keys": [entry], "user-data": "00"}).encode()
    report = machine.report(sha256(runtime).digest() + bytes(32))
    tail = struct.pack("<IIIII", 20 + len(runtime), 1, 2, 1, len(runtime)) + runtime
    plant(vtpm, HCL_INDEX, b"HCLA" + bytes(28) + report.ljust(1184, b"\0") + tail)
    documents = tmp_path / "documents"
    attester = azure_attester(vtpm, documents, metadata="127.0.0.1:9", fetch=lambda _: machine.certificate)
    assert [file.read_bytes() for file in documents.iterdir()] == [machine.certificate], "kept for the next start"
    evidence = attester.evidence(DATA)
    assert attester.technology.name == "az-snp"
    assert attester.measurement() == bytes(range(48))
    default = Policy(hardware=azure.SNP.default_policy.hardware)
    judged = judge(azure.SNP, default, (vendor.anchor(),))
    collateral = vendor.endorsements(AT)
    appraisal = judged(evidence, Binding.of_report_data(DATA), collateral, AT)
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    other = judged(evidence, Binding.of_report_data(bytes(64)), collateral, AT)
    assert (other.verdict, failed(other)) == (Verdict.UNTRUSTED, ("binding",))


def test_a_tpm_without_a_paravisor_is_nobody(vtpm: Vtpm, tmp_path: Path) -> None:
    """An index that is not there is refused by number; 24 registers are read all the same."""
    with pytest.raises(UnavailableError, match="NV index 0x1400001: refused, 0x18b"):
        azure_attester(vtpm)
    assert [len(value) for value in vtpm.registers()] == [32] * 24
    assert not found_paravisor(tmp_path / "nothing")


@pytest.mark.parametrize("answer", [b"", b"\x80\x01\0\0\0\x0b\0\0\0\0", b"\x80\x01\0\0\0\x0a\0\0\0\0"])
def test_what_is_no_response_is_unavailable(answer: bytes) -> None:
    """Empty, of another length than it says, or without what belongs in it."""
    broken = Vtpm(transport=lambda _: answer)
    with pytest.raises(UnavailableError, match=r"no response|ends early"):
        broken.registers()


def test_a_tpm_that_never_has_time_is_given_up() -> None:
    """Retries are counted."""
    pauses: list[float] = []
    busy = Vtpm(transport=lambda _: b"\x80\x01\0\0\0\x0a\0\0\x09\x22", sleep=pauses.append)
    with pytest.raises(UnavailableError, match="refused, 0x922"):
        busy.nv_read(HCL_INDEX)
    assert len(pauses) == 5
    assert selection(range(24))[-3:] == b"\xff\xff\xff"


def test_the_metadata_service_is_asked_as_azure_has_it() -> None:
    """The TDREPORT goes there in base64url and a quote comes back; anything else is an error with its place."""
    answers = [(200, {"quote": "cXVvdGU"}), (200, {"quote": 7}), (500, {})]
    asked: list[tuple[str, bytes]] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Metadata"] == "true"
            asked.append((self.path, self.rfile.read(int(self.headers.get("Content-Length", "0")))))
            status, body = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST  # noqa: N815 - the base class's name

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        assert fetch_quote(b"\xff\xfe", host) == b"quote"
        assert asked == [("/acc/tdquote", b'{"report": "__4"}')]
        with pytest.raises(MalformedError, match="quote: expected a string"):
            fetch_quote(b"", host)
        with pytest.raises(UnavailableError, match="answered 500"):
            fetch_quote(b"", host)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UnavailableError):
        fetch_vcek(host)
