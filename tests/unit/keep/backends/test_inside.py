"""A confidential VM's TEE, asked as the kernel wants to be asked, and believed by nobody here."""

import ctypes
import errno
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from enarx import cbor
from enarx.attested.claims import report_data
from enarx.errors import MalformedError, UnavailableError
from enarx.keep import launch, measurement
from enarx.keep.backends import BACKENDS, guest, svsm
from enarx.keep.backends.api import Standing
from enarx.keep.backends.chip import Chip
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.nsm import Nsm
from enarx.keep.backends.sevguest import (
    BUSY,
    GET_DERIVED_KEY,
    GET_EXT_REPORT,
    INVALID_LENGTH,
    ExtendedRequest,
    GuestRequest,
    KeyRequest,
    KeyResponse,
    ReportRequest,
    ReportResponse,
    SevGuest,
)
from enarx.keep.backends.simulated import Directory
from enarx.keep.backends.tsm import Tsm
from enarx.steward.collateral import Directory as Collateral
from enarx.steward.config import Config, Flags
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, Verdict
from enarx.tee.nitro import report as nitro
from enarx.tee.nitro.simulator import NitroMachine
from enarx.tee.snp import report as snp
from enarx.tee.snp.report import Report
from tests.emulators import configfs_tsm

NOW = datetime.now(UTC)
SPKI = b"a public key"
STRUCTURES = (ReportRequest, ExtendedRequest, ReportResponse, GuestRequest, KeyRequest, KeyResponse)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    return Directory.create(tmp_path_factory.mktemp("machines") / "sim", NOW, measurement.of_agent)


@pytest.fixture
def kernel(tmp_path: Path, machines: Directory) -> Callable[..., Any]:
    """The interface of a provider, with a flaw."""

    @contextmanager
    def mount(provider: str, flaw: str = "") -> Iterator[Tsm]:
        with configfs_tsm.mounted(tmp_path, provider, machines.path, flaw) as root:
            yield Tsm(root=root)

    return mount


def judge(machines: Directory, evidence: Evidence) -> Appraisal:
    """What a Steward makes of it that knows the simulated vendors."""
    policy = Config.read(machines.path / "steward.toml", Flags(dev=True)).policy
    collateral = Collateral(machines.path / "collateral").current()
    return policy.judges[evidence.oid](evidence, Binding.of_key(SPKI), collateral, datetime.now(UTC))


@pytest.mark.parametrize(("provider", "name"), [("sev_guest", "snp"), ("tdx_guest", "tdx")])
def test_evidence_through_the_kernel_is_accepted(
    kernel: Callable[..., Any], machines: Directory, provider: str, name: str
) -> None:
    """The provider names the technology, the first report the measurement, and a Steward accepts what follows."""
    with kernel(provider) as interface:
        attester = guest.attester(interface=interface)
        data = report_data(attester.technology.binding_hash, SPKI, None)
        evidence = attester.evidence(data)
        assert list(interface.root.iterdir()) == [], "an entry was left behind"
    assert attester.technology.name == name
    assert attester.measurement() == measurement.of_agent("sha-384")
    assert attester.writable == (interface.root,)
    appraisal = judge(machines, evidence)
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons


def beneath(machines: Directory, interface: Tsm, services: str) -> Appraisal:
    """What a Steward makes of the SVSM's evidence whose policy has a table for it."""
    found = guest.attester(interface=interface)
    assert isinstance(found, guest.GuestAttester)
    attester = svsm.attester(found, interface, services)
    assert attester.measurement() == measurement.of_agent("sha-384")
    evidence = attester.evidence(report_data(attester.technology.binding_hash, SPKI, None))
    config = (machines.path / "steward.toml").read_text() + f'\n[snp-svsm]\nhash = ["{attester.measurement().hex()}"]\n'
    beside = machines.path / "svsm.toml"
    beside.write_text(config)
    policy = Config.read(beside, Flags(dev=True)).policy
    collateral = Collateral(machines.path / "collateral").current()
    return policy.judges[evidence.oid](evidence, Binding.of_key(SPKI), collateral, datetime.now(UTC))


@pytest.mark.parametrize("services", ["all", "vtpm"])
def test_an_svsm_vouches_where_it_was_asked_for(kernel: Callable[..., Any], machines: Directory, services: str) -> None:
    """Through `service_provider`, with its manifest; the guest's own report stays one of its own level."""
    with kernel("sev_guest+svsm") as interface:
        appraisal = beneath(machines, interface, services)
        plain = guest.attester(interface=interface).evidence(report_data("sha-384", SPKI, None))
        assert Standing.of(Inside(tsm=interface)).data[0].below[0].ok
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert (appraisal.technology, snp.parse(plain).report.vmpl) == ("snp-svsm", 2)
    assert appraisal.claims is not None
    manifest = appraisal.claims.fields["manifest"]
    assert isinstance(manifest, dict)
    assert manifest["asked_for"] == services


@pytest.mark.parametrize(("flaw", "why"), [("other-manifest", "svsm.manifest"), ("level", "svsm.vmpl")])
def test_an_svsm_that_lies_is_the_stewards_to_refuse(
    kernel: Callable[..., Any], machines: Directory, flaw: str, why: str
) -> None:
    """Another manifest than was signed, or a report that the guest could have asked for by itself."""
    with kernel("sev_guest+svsm", flaw) as interface:
        appraisal = beneath(machines, interface, "all")
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert appraisal.reasons[0].startswith(why)


@pytest.mark.parametrize(("provider", "why"), [("sev_guest", "no SVSM is beneath"), ("tdx_guest", "not a plain SNP")])
def test_nobody_stands_in_for_an_svsm(kernel: Callable[..., Any], provider: str, why: str) -> None:
    """Where there is none the Keep ends, and does not fall back to the guest's own report."""
    with kernel(provider) as interface:
        found = guest.attester(interface=interface)
        with pytest.raises(UnavailableError, match=why):
            svsm.attester(found, interface, "all")


def test_an_svsm_without_a_manifest_ends_the_keep_at_its_start(kernel: Callable[..., Any]) -> None:
    """No Steward could read it: that is said before anybody is asked for a certificate."""
    with kernel("sev_guest+svsm", "no-manifest") as interface:
        found = guest.attester(interface=interface)
        with pytest.raises(MalformedError, match="endorsement key: type"):
            svsm.attester(found, interface, "all")


def test_a_report_over_other_data_is_the_stewards_to_refuse(kernel: Callable[..., Any], machines: Directory) -> None:
    """The host answers for the TSM with a report that is not over our key: untrusted, at the binding."""
    with kernel("sev_guest", "other") as interface:
        attester = guest.attester(interface=interface)
        appraisal = judge(machines, attester.evidence(report_data("sha-384", SPKI, None)))
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert any("binding" in reason for reason in appraisal.reasons)


@pytest.mark.parametrize(
    ("provider", "flaw", "why"),
    [
        ("none", "", "no TEE registered with configfs-tsm"),
        ("sev_guest", "race", "somebody else writes into our requests"),
        ("sev_guest", "busy", "EBUSY"),
    ],
)
def test_a_kernel_that_cannot_answer_is_unavailable(
    kernel: Callable[..., Any], provider: str, flaw: str, why: str
) -> None:
    """No TEE, somebody who writes into our entry, a device that is busy: an error, never other evidence."""
    with kernel(provider, flaw) as interface, pytest.raises(UnavailableError, match=why):
        interface.report(bytes(64))


def test_a_machine_without_any_interface_says_so(tmp_path: Path) -> None:
    """And the backend is not ready, so that nothing falls back to it."""
    backend = Inside(tsm=Tsm(root=tmp_path / "nothing"), device=tmp_path / "sev-guest", nsm=tmp_path / "nsm")
    assert not Standing.of(backend).have
    assert backend.technology() is None
    with pytest.raises(
        UnavailableError, match=r"no configfs-tsm, or it is not mounted; and there is no .*sev-guest and no .*nsm"
    ):
        guest.attester(interface=backend.tsm, device=backend.device, nsm=backend.nsm)


def test_the_strongest_backend_is_taken_where_it_is_ready(
    kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a confidential VM nothing has to be named, and `sev` means this one."""
    with kernel("sev_guest") as interface:
        here = Inside(tsm=interface)
        monkeypatch.setattr(
            launch, "BACKENDS", tuple(here if backend.name == "inside" else backend for backend in BACKENDS)
        )
        monkeypatch.setattr(launch, "Inside", lambda: here)
        assert launch.choose(None, insecure=False) is here
        assert launch.choose("sev", insecure=False) is here


# -- the certificate of the chip's key


@pytest.fixture
def chip(machines: Directory) -> tuple[Report, bytes]:
    """A report, and the certificate of the key that signed it."""
    machine: Any = machines.attester("snp", measurement.of_agent).machine  # Any: each simulator's own type
    return Report.parse(machine.report(bytes(64))), machine.certificate


def test_a_missing_certificate_is_fetched_once_and_kept(
    kernel: Callable[..., Any], machines: Directory, chip: tuple[Report, bytes], tmp_path: Path
) -> None:
    """A host without a table costs one question to AMD; the next start finds the answer in the directory."""
    asked: list[Chip] = []

    def fetch(report: Chip) -> bytes:
        asked.append(report)
        return chip[1]

    documents = tmp_path / "documents"
    with kernel("sev_guest", "no-table") as interface:
        for _ in range(2):
            attester = guest.attester(documents, interface=interface, fetch=fetch)
            evidence = attester.evidence(report_data("sha-384", SPKI, None))
            appraisal = judge(machines, evidence)
            assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert [report.chip_id for report in asked] == [chip[0].chip_id]
    assert [file.read_bytes() for file in documents.iterdir()] == [chip[1]]


def test_a_certificate_that_cannot_be_had_is_the_stewards_to_miss(
    kernel: Callable[..., Any], machines: Directory
) -> None:
    """AMD does not answer: the Keep still asks, for the Steward may have it, and says so if not."""

    def fetch(_: Chip) -> bytes:
        raise UnavailableError("AMD's service: nobody answers")

    with kernel("sev_guest", "no-table") as interface:
        evidence = guest.attester(interface=interface, fetch=fetch).evidence(report_data("sha-384", SPKI, None))
    appraisal = judge(machines, evidence)
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert snp.parse(evidence).endorsements.certificates == ()


def test_a_table_that_cannot_be_read_is_none(chip: tuple[Report, bytes]) -> None:
    """What the host put beside the report can not make the report worthless."""
    report, certificate = chip
    evidence = guest.compose("snp", report.encode(), b"\xff" * 100, Endorsements(certificates=(certificate,)))
    assert snp.parse(evidence).endorsements.certificates == (certificate,)


def test_an_operator_gets_the_certificate_that_the_host_put_beside_the_report(
    kernel: Callable[..., Any], chip: tuple[Report, bytes], tmp_path: Path
) -> None:
    """Nobody is asked for it; in a guest of another TEE there is none."""

    def nobody(_: Chip) -> bytes:
        raise UnavailableError("AMD's service: nobody answers")

    with kernel("sev_guest") as interface:
        assert guest.chip_certificate(tmp_path, nobody, interface=interface).read_bytes() == chip[1]
    with kernel("tdx_guest") as interface, pytest.raises(UnavailableError, match="a guest with TDX"):
        guest.chip_certificate(tmp_path, nobody, interface=interface)


# -- /dev/sev-guest


class Firmware:
    """The device's ioctl: a report, a table, and troubles before they come."""

    def __init__(self, report: bytes, table: bytes, *troubles: int, status: int = 0) -> None:
        self.report, self.table, self.troubles, self.status = report, table, list(troubles), status
        self.calls: list[int] = []

    def __call__(self, descriptor: int, number: int, guest: Any) -> int:
        assert (number, guest.msg_version) == (GET_EXT_REPORT, 1)
        request = ExtendedRequest.from_address(guest.req_data)
        response = ReportResponse.from_address(guest.resp_data)
        self.calls.append(request.certs_len)
        if self.troubles:
            guest.vmm_error = self.troubles.pop(0)
            raise OSError(errno.EIO, "Input/output error")
        if request.certs_len < len(self.table):
            request.certs_len, guest.vmm_error = len(self.table), INVALID_LENGTH
            raise OSError(errno.EIO, "Input/output error")
        if self.table:
            ctypes.memmove(request.certs_address, self.table, len(self.table))
        response.status, response.report_size = self.status, len(self.report)
        ctypes.memmove(ctypes.addressof(response) + 32, self.report, len(self.report))
        self.data = bytes(request.data.user_data)
        return 0


def device_with(firmware: Firmware) -> tuple[SevGuest, list[float]]:
    slept: list[float] = []
    return SevGuest(descriptor=-1, ioctl=firmware, sleep=slept.append), slept


def test_a_derived_key_depends_on_measurement_and_policy() -> None:
    """It is asked for with both selected, of the chip's own key."""
    asked: list[tuple[int, int, int]] = []

    def ioctl(_: int, number: int, request: Any) -> int:
        order = KeyRequest.from_address(request.req_data)
        asked.append((number, order.root_key_select, order.guest_field_select))
        ctypes.memmove(request.resp_data + 32, b"k" * 32, 32)
        return 0

    assert SevGuest(descriptor=-1, ioctl=ioctl).derived_key() == b"k" * 32
    assert asked == [(GET_DERIVED_KEY, 0, 0b1001)]


def test_structures_have_the_sizes_of_the_kernels() -> None:
    """As linux/sev-guest.h has them."""
    sizes = [ctypes.sizeof(each) for each in STRUCTURES]
    assert sizes == [96, 112, 4000, 32, 32, 64]


def test_the_length_of_the_table_is_asked_for_first() -> None:
    """Without room the host says how much it needs, in whole pages; then report and table come together."""
    table = uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le + bytes(40)
    firmware = Firmware(b"R" * 1184, table)
    device, _ = device_with(firmware)
    report, found = device.report(b"d" * 64)
    assert (report, found[: len(table)], firmware.data) == (b"R" * 1184, table, b"d" * 64)
    assert firmware.calls == [0, 4096]


def test_a_throttling_host_is_waited_for() -> None:
    """Asking again at once would disable the guest's key on older kernels."""
    device, slept = device_with(Firmware(b"R" * 1184, b"", BUSY, BUSY))
    assert device.report(bytes(64)) == (b"R" * 1184, b"")
    assert slept == [2.0, 2.0]


@pytest.mark.parametrize(
    ("firmware", "why"),
    [
        (Firmware(b"R" * 1184, b"", status=0x27), "status 0x27: the key that was asked for is invalid"),
        (Firmware(b"R" * 1184, b"", 7), "host 0x7"),
        (Firmware(b"", b""), "a report of 0 bytes"),
        (Firmware(b"R", bytes(70_000)), "asks for 70000 bytes of certificates"),
        (Firmware(b"R", b"", *[BUSY] * 9), "is too busy"),
    ],
)
def test_a_firmware_that_refuses_is_unavailable(firmware: Firmware, why: str) -> None:
    """With its own words, and never with a report."""
    device, _ = device_with(firmware)
    with pytest.raises(UnavailableError, match=why):
        device.report(bytes(64))


def test_a_device_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Its path is in the error."""
    with pytest.raises(UnavailableError, match="sev-guest: No such file"):
        SevGuest.open(tmp_path / "sev-guest")


# -- /dev/nsm


def module(answer: bytes) -> tuple[Nsm, list[object]]:
    """A security module that answers so, and what it was asked."""
    asked: list[object] = []

    def ioctl(_: int, number: int, exchange: Any) -> int:
        assert number == 0xC0200A00
        asked.append(cbor.decode(ctypes.string_at(exchange.request.address, exchange.request.length), "request"))
        ctypes.memmove(exchange.response.address, answer, len(answer))
        exchange.response.length = len(answer)
        return 0

    return Nsm(descriptor=-1, ioctl=ioctl), asked


def test_a_nitro_document_is_asked_for_over_our_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is bound stands in `user_data`; the document is authentic evidence of technology nitro, PCR0 the measurement."""
    machine = NitroMachine.create(NOW, image=b"i" * 48)
    data = report_data("sha-384", SPKI, None)
    (tmp_path / "nsm").touch()
    monkeypatch.setattr(
        Nsm, "open", lambda _: module(cbor.encode({"Attestation": {"document": machine.document(data, NOW)}}))[0]
    )
    found = guest.attester(interface=Tsm(root=tmp_path / "none"), device=tmp_path / "none", nsm=tmp_path / "nsm")
    assert found.technology.name == "nitro"
    parsed = nitro.parse(found.evidence(data)).report
    assert (parsed.user_data, parsed.pcrs[0]) == (data, found.measurement())
    device, asked = module(cbor.encode({"Attestation": {"document": b"d"}}))
    assert device.report(data) == (b"d", b"")
    assert asked == [{"Attestation": {"user_data": data, "nonce": None, "public_key": None}}]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (cbor.encode({"Error": "InvalidArgument"}), "nsm: InvalidArgument"),
        (cbor.encode({"Attestation": {}}), "no document"),
        (cbor.encode("no"), "no document"),
        (b"\xff", "nsm: "),
    ],
)
def test_a_module_that_refuses_is_unavailable(answer: bytes, why: str) -> None:
    """In its own words."""
    device, _ = module(answer)
    with pytest.raises(UnavailableError, match=why):
        device.report(bytes(64))
