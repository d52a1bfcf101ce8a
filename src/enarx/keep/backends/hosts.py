"""The originals' backends, by their names: what this host has for them, and that no Keep is launched so here.

Each prepares a TEE on the host and launches a guest or an enclave in it. This version runs inside confidential VMs that
somebody else launched, and launches none; `data` says what of the hardware is here, so that a newcomer knows what the
machine could do, and its last line why it does not. The alias `sev` means the technology snp: where the Keep's program
already runs in an SEV-SNP guest it is the backend `inside`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from enarx.errors import UnavailableError
from enarx.keep.backends.api import Datum, Keep, Wishes

_MAX_CPUINFO: Final = 64 * 1024  # bytes: the first processor is enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the kernel shows itself; tests show another."""

    dev: Path = Path("/dev")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A backend that is explained and cannot be launched."""

    name: str
    title: str
    protects: str
    roots: Roots = field(default_factory=Roots)

    def data(self) -> Sequence[Datum]:
        found = {"sgx": sgx, "sev": sev, "kvm": kvm}[self.name](self.roots)
        launcher = Datum(name="launcher", ok=False, info="this version launches no Keep so")
        return (*found, launcher)

    def launch(self, wishes: Wishes) -> Keep:
        del wishes
        raise UnavailableError(f"{self.name}: this version launches no Keep so")


def sgx(roots: Roots) -> Sequence[Datum]:
    flags = _flags(roots)
    return (
        _vendor(roots, "GenuineIntel"),
        _flag("SGX", "sgx" in flags),
        _flag("flexible launch control", "sgx_lc" in flags),
        _device(roots, "sgx_enclave"),
        _device(roots, "sgx_provision", required=False),
    )


def sev(roots: Roots) -> Sequence[Datum]:
    flags = _flags(roots)
    parameter = _text(roots.sys / "module/kvm_amd/parameters/sev_snp").strip()
    return (
        _vendor(roots, "AuthenticAMD"),
        _flag("SME", "sme" in flags, required=False),
        _flag("SEV", "sev" in flags),
        _flag("SEV-SNP", "sev_snp" in flags),
        _flag("kvm_amd runs SNP guests", parameter in {"1", "Y"}, parameter or "the module is not loaded"),
        _device(roots, "sev"),
        _device(roots, "kvm"),
    )


def kvm(roots: Roots) -> Sequence[Datum]:
    return (_device(roots, "kvm"),)


def _vendor(roots: Roots, wanted: str) -> Datum:
    found = re.search(r"^vendor_id\s*:\s*(\S+)", _cpuinfo(roots), re.MULTILINE)
    vendor = found[1] if found else "unknown"
    return Datum(name="CPU", ok=vendor == wanted, info=vendor)


def _flag(name: str, ok: bool, info: str | None = None, *, required: bool = True) -> Datum:
    return Datum(name=name, ok=ok, info=info, required=required)


def _device(roots: Roots, name: str, *, required: bool = True) -> Datum:
    path = roots.dev / name
    if not path.exists():
        return Datum(name=f"/dev/{name}", ok=False, info="not there", required=required)
    ok = os.access(path, os.R_OK | os.W_OK)
    return Datum(
        name=f"/dev/{name}",
        ok=ok,
        info=None if ok else "not for this user",
        advice=None if ok else f"give this user access to /dev/{name}",
        required=required,
        configuration=True,
    )


def _flags(roots: Roots) -> frozenset[str]:
    found = re.search(r"^flags\s*:\s*(.*)$", _cpuinfo(roots), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _cpuinfo(roots: Roots) -> str:
    return _text(roots.proc / "cpuinfo")


def _text(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_MAX_CPUINFO)
    except OSError:
        return ""


HOSTS: Final = (
    Host(name="sgx", title="an SGX enclave on this host", protects="this machine and whoever administers it"),
    Host(name="sev", title="an SEV-SNP guest on this host", protects="this machine and whoever administers it"),
    Host(name="kvm", title="a virtual machine on this host, no TEE", protects="other guests, not this machine"),
)
