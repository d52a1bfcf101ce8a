"""What a host has for TEEs is told from what its kernel shows, and told right."""

from pathlib import Path

import pytest

from enarx.errors import UnavailableError
from enarx.keep.backends import hosts
from enarx.keep.backends.api import Standing, Wishes
from enarx.keep.backends.hosts import Host, Roots

EPYC = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sme sev sev_es sev_snp\n"
XEON = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sgx sgx_lc\n"


def roots(tmp_path: Path, cpuinfo: str, devices: tuple[str, ...], snp: str | None = None) -> Roots:
    made = Roots(dev=tmp_path / "dev", proc=tmp_path / "proc", sys=tmp_path / "sys")
    for folder in (made.dev, made.proc, made.sys / "module/kvm_amd/parameters"):
        folder.mkdir(parents=True)
    (made.proc / "cpuinfo").write_text(cpuinfo)
    for device in devices:
        (made.dev / device).touch()
    if snp is not None:
        (made.sys / "module/kvm_amd/parameters/sev_snp").write_text(snp)
    return made


def missing(found: Roots, name: str) -> list[str]:
    data = {"sgx": hosts.sgx, "sev": hosts.sev, "kvm": hosts.kvm}[name](found)
    return [datum.name for datum in data if datum.required and not datum.ok]


def test_a_host_of_snp_guests_is_recognised(tmp_path: Path) -> None:
    """An EPYC whose kvm_amd runs SNP guests."""
    assert missing(roots(tmp_path, EPYC, ("sev", "kvm"), "Y\n"), "sev") == []


def test_a_host_of_enclaves_is_recognised(tmp_path: Path) -> None:
    """A Xeon with launch control and the enclave device."""
    assert missing(roots(tmp_path, XEON, ("sgx_enclave",)), "sgx") == []


@pytest.mark.parametrize(
    ("cpuinfo", "devices", "snp", "expected"),
    [
        (XEON, ("kvm",), None, ["CPU", "SEV", "SEV-SNP", "kvm_amd runs SNP guests", "/dev/sev"]),
        (EPYC.replace(" sev_snp", ""), ("sev", "kvm"), "N\n", ["SEV-SNP", "kvm_amd runs SNP guests"]),
        ("", (), None, ["CPU", "SEV", "SEV-SNP", "kvm_amd runs SNP guests", "/dev/sev", "/dev/kvm"]),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, cpuinfo: str, devices: tuple[str, ...], snp: str | None, expected: list[str]
) -> None:
    """Each capability by itself, so that somebody knows what to change."""
    assert missing(roots(tmp_path, cpuinfo, devices, snp), "sev") == expected


@pytest.mark.parametrize("host", hosts.HOSTS)
def test_what_is_not_launched_says_so(host: Host) -> None:
    """It is explained, never chosen, and a launch is refused."""
    assert not Standing.of(host).have
    with pytest.raises(UnavailableError, match=r"launches no Keep so|for which this is another name"):
        host.launch(Wishes())
