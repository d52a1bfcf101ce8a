"""Azure's virtual TPM, asked as a TPM wants to be asked: a real one in software, around the simulated SNP machine."""

import json
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends import azure as backend
from enarx.keep.backends.azure import fetch_quote, fetch_vcek
from enarx.keep.backends.guest import azure_attester
from enarx.keep.backends.inside import found_paravisor
from enarx.keep.backends.vtpm import CREATE_PRIMARY, HCL_INDEX, Vtpm, selection
from enarx.pki.certificate import Certificate
from enarx.tee import azure
from enarx.tee.appraise import failed, judge
from enarx.tee.azure.policy import Policy
from enarx.tee.model import Binding, Verdict
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as Amd
from tests.emulators.paravisor import boot, extend, spoken_to, swtpm

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DATA = bytes(range(64))


@pytest.fixture
def vtpm(tmp_path: Path) -> Iterator[Vtpm]:
    with swtpm(tmp_path) as at, spoken_to(at) as found:
        yield found


def test_evidence_of_the_tpm_is_accepted(vtpm: Vtpm, tmp_path: Path) -> None:
    """Paravisor's report, a fresh quote over what is bound and the registers: accepted, and for other data refused."""
    vendor = Amd.create(AT)
    machine = SnpMachine.create(vendor, AT, measurement=bytes(range(48)))
    boot(vtpm, "snp", machine.report)
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
    assert attester.sealing_secret == vtpm.sealing_secret()


def test_a_paravisor_with_another_key_is_untrusted(vtpm: Vtpm) -> None:
    """The hardware vouches for the key in the runtime data; a quote by any other says nothing."""
    vendor = Amd.create(AT)
    machine = SnpMachine.create(vendor, AT, measurement=bytes(48))
    boot(vtpm, "snp", machine.report, flaw="other-key")
    evidence = azure_attester(vtpm, metadata="127.0.0.1:9", fetch=lambda _: machine.certificate).evidence(DATA)
    judged = judge(azure.SNP, azure.SNP.default_policy, (vendor.anchor(),))
    appraisal = judged(evidence, Binding.of_report_data(DATA), vendor.endorsements(AT), AT)
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, ("azure.quote",))


def test_the_same_boot_gives_the_same_sealing_secret_and_another_does_not(tmp_path: Path) -> None:
    """The TPM derives it: across restarts, for the registers of the boot alone, and never the same in another TPM."""

    def started(folder: Path, kernel: bytes, late: bytes = b"") -> bytes:
        folder.mkdir(exist_ok=True)
        with swtpm(folder) as at, spoken_to(at) as found:
            extend(found, 4, sha256(kernel).digest())
            extend(found, 11, sha256(late).digest())
            secrets = {found.sealing_secret() for _ in range(8)}  # more often than a TPM has room for what is left
            (secret,) = secrets
            return secret

    first = started(tmp_path / "one", b"kernel")
    assert len(first) == 32
    assert started(tmp_path / "one", b"kernel", late=b"what changes while it runs") == first
    assert started(tmp_path / "one", b"another kernel") != first
    assert started(tmp_path / "two", b"kernel") != first


def test_the_key_of_another_boot_cannot_be_used(vtpm: Vtpm) -> None:
    """Its template may be told by anybody; the TPM holds it to the registers as they are."""
    before = vtpm.sealing_secret()
    told: list[bytes] = []

    def meddling(command: bytes) -> bytes:
        """After the template was told, and before the key is used, the machine boots something else."""
        answer = vtpm.transport(command)
        if command[6:10] == struct.pack(">I", CREATE_PRIMARY):
            told.append(command)
            extend(vtpm, 4, bytes(32))
        return answer

    with pytest.raises(UnavailableError, match="HMAC: refused"):
        Vtpm(transport=meddling).sealing_secret()
    assert told
    assert vtpm.sealing_secret() != before


def test_a_tpm_without_a_paravisor_is_nobody(vtpm: Vtpm, tmp_path: Path) -> None:
    """An index that is not there is refused by number; 24 registers are read all the same."""
    with pytest.raises(UnavailableError, match="NV index 0x1400001: refused, 0x18b"):
        azure_attester(vtpm)
    assert [len(value) for value in vtpm.registers()] == [32] * 24
    assert found_paravisor(tmp_path / "nothing") is None


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


@pytest.mark.parametrize("found", ["", "no PEM", "twice"])
def test_a_certificate_in_another_form_is_malformed(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    """One in PEM, as Azure documents it."""
    vendor = Amd.create(AT)
    pem = Certificate.parse(vendor.root.certificate).to_pem().decode()
    monkeypatch.setattr(backend, "_ask", lambda *_: {"vcekCert": pem * 2 if found == "twice" else found})
    with pytest.raises(MalformedError):
        fetch_vcek()
    monkeypatch.setattr(backend, "_ask", lambda *_: {"vcekCert": pem, "tcbm": "", "certificateChain": ""})
    assert fetch_vcek() == vendor.root.certificate


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
