"""The certificate of a chip's key, for operators: found on the host, in a guest and in Azure, and never another chip's."""

import ctypes
import errno
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.keep.backends import chip, guest, sevhost
from enarx.keep.backends.chip import Chip, NoChipError
from enarx.keep.backends.hosts import Roots
from enarx.keep.backends.sevhost import GET_ID2, ISSUE_COMMAND, SNP_PLATFORM_STATUS, Command, GetId, HostChip
from enarx.keep.backends.tsm import Tsm
from enarx.keep.backends.vtpm import Vtpm
from enarx.tee.snp.report import Report
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as Amd
from enarx.tee.tdx.simulator import TdxMachine
from enarx.tee.tdx.simulator import Vendor as Intel
from tests.emulators import paravisor

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
CPUINFO = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: EPYC\nstepping\t: 1\n"
)
Ask = Callable[[Chip], bytes]


@pytest.fixture(scope="module")
def machine() -> SnpMachine:
    return SnpMachine.create(Amd.create(AT), AT, measurement=bytes(48))


def host_chip(machine: SnpMachine) -> HostChip:
    report = Report.parse(machine.report(bytes(64)))
    return HostChip(cpuid=(25, 1, 1), chip_id=report.chip_id, reported_tcb=report.reported_tcb)


def nobody(_: Chip) -> bytes:
    raise UnavailableError("AMD's service: nobody answers")


def only_host(documents: Path, ask: Ask, host: Callable[[], Chip] | None) -> Path:
    """On a machine without a TEE of its own."""
    there = documents.parent / "nothing"
    return guest.chip_certificate(
        documents, ask, interface=Tsm(root=there), device=there, nsm=there, tpm=there, host=host
    )


# -- a host


class Firmware:
    """/dev/sev as its ioctl."""

    def __init__(self, report: Report, *, refuses: int = 0, size: int = 64) -> None:
        self.report, self.refuses, self.size = report, refuses, size

    def __call__(self, _: int, number: int, issued: Command) -> int:
        assert number == ISSUE_COMMAND
        if issued.command == self.refuses:
            issued.error = 0x19
            raise OSError(errno.EIO, "Input/output error")
        if issued.command == SNP_PLATFORM_STATUS:
            status = bytes((1, 55, 1, 1)) + bytes(12) + bytes(8) + self.report.reported_tcb
            ctypes.memmove(issued.data, status, 32)
            return 0
        assert issued.command == GET_ID2
        asked = GetId.from_address(issued.data)
        assert asked.length == 128
        ctypes.memmove(asked.address, self.report.chip_id + b"another socket".ljust(64, b"\0"), 128)
        asked.length = self.size
        return 0


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("dev", "proc"):
        (tmp_path / name).mkdir()
    (tmp_path / "dev/sev").touch()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    return Roots(dev=tmp_path / "dev", proc=tmp_path / "proc")


def test_a_host_is_asked_for_its_first_chip(machine: SnpMachine, roots: Roots) -> None:
    """Its ID and the level of its key come from the firmware, its product from the processor."""
    report = Report.parse(machine.report(bytes(64)))
    assert sevhost.chip(roots, Firmware(report, size=128)) == host_chip(machine)
    assert [ctypes.sizeof(each) for each in (Command, GetId)] == [16, 12]
    assert sevhost.present(roots)


def test_a_host_that_does_not_answer_is_unavailable(machine: SnpMachine, roots: Roots, tmp_path: Path) -> None:
    """Without the device, with a refusal of the firmware, or with an ID that is too short."""
    report = Report.parse(machine.report(bytes(64)))
    with pytest.raises(UnavailableError, match=r"/dev/sev: Input/output error \(firmware 0x19\)"):
        sevhost.chip(roots, Firmware(report, refuses=SNP_PLATFORM_STATUS))
    with pytest.raises(MalformedError, match="an ID of 8 bytes"):
        sevhost.chip(roots, Firmware(report, size=8))
    with pytest.raises(UnavailableError, match="No such file"):
        sevhost.chip(Roots(dev=tmp_path))


def test_its_certificate_is_fetched_once_and_kept(machine: SnpMachine, tmp_path: Path) -> None:
    """The second time it is there."""
    report = Report.parse(machine.report(bytes(64)))
    asked: list[bytes] = []

    def amd(which: Chip) -> bytes:
        asked.append(which.chip_id)
        return machine.certificate

    documents = tmp_path / "documents"
    first = only_host(documents, amd, lambda: report)
    assert first.read_bytes() == machine.certificate
    assert only_host(documents, amd, lambda: report) == first
    assert asked == [report.chip_id]


def test_another_chips_certificate_is_refused(machine: SnpMachine, tmp_path: Path) -> None:
    """Or one of another level of its firmware; nothing is kept."""
    mine = host_chip(machine)
    documents = tmp_path / "documents"
    for other in (replace(mine, chip_id=b"o" * 64), replace(mine, reported_tcb=bytes(8))):
        with pytest.raises(UnavailableError, match="of another chip, or of another level"):
            only_host(documents, lambda _: machine.certificate, partial(replace, other))
    assert not documents.exists()


def test_a_chip_that_does_not_tell_who_it_is_has_none(machine: SnpMachine, tmp_path: Path) -> None:
    """The host masks it: guests there are endorsed by a VLEK."""
    with pytest.raises(NoChipError, match="MASK_CHIP_ID"):
        only_host(tmp_path, nobody, partial(replace, host_chip(machine), chip_id=bytes(64)))


def test_a_key_of_the_clouds_has_no_certificate_of_the_chips(tmp_path: Path) -> None:
    """A guest whose reports a VLEK signs: AMD is not asked, and a timer has nothing to do."""
    leased = SnpMachine.create(Amd.create(AT), AT, measurement=bytes(48), kind="VLEK")
    report = Report.parse(leased.report(bytes(64)))
    with pytest.raises(NoChipError, match="VLEK"):
        chip.require(report, (), tmp_path, nobody)


def test_without_any_chip_of_amds_it_is_said(tmp_path: Path) -> None:
    """Where it was looked for."""
    with pytest.raises(NoChipError, match=r"no SEV-SNP here: .*no paravisor's report"):
        only_host(tmp_path, nobody, None)


def test_an_unknown_product_is_not_asked_for(machine: SnpMachine) -> None:
    """AMD's service wants to know of which product a chip is."""
    for cpuid in (None, (6, 1, 1)):
        with pytest.raises(NotFoundError, match="does not say of which product"):
            chip.from_amd(replace(host_chip(machine), cpuid=cpuid))


# -- Azure


def in_azure(folder: Path, machine: Any, kind: paravisor.Kind, ask: Ask = nobody) -> Path:  # Any: one simulator's
    """As an operator of a VM there has it."""
    there = folder / "nothing"
    with (
        paravisor.swtpm(folder) as at,
        paravisor.device(folder, at) as tpm,
        paravisor.metadata(machine, kind) as service,
    ):
        with Vtpm.briefly(tpm) as vtpm:
            paravisor.boot(vtpm, kind, getattr(machine, "report", bytes))
        tsm, documents = Tsm(root=there), folder / "documents"
        return guest.chip_certificate(
            documents, ask, interface=tsm, device=there, nsm=there, tpm=tpm, metadata=service.host
        )


def test_azures_own_service_gives_it(machine: SnpMachine, tmp_path: Path) -> None:
    """AMD's is not asked."""
    assert in_azure(tmp_path, machine, "snp").read_bytes() == machine.certificate


def test_a_vm_of_azures_on_intel_has_none(tmp_path: Path) -> None:
    """And that is why."""
    machine = TdxMachine.create(Intel.create(AT), AT, mr_td=bytes(48))
    with pytest.raises(NoChipError, match="runs on TDX here"):
        in_azure(tmp_path, machine, "tdx")
