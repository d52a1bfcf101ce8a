"""The originals' backends, by their names: what this host has for them, and that no Keep is launched so here.

Each prepared a TEE on the host and launched a guest or an enclave in it. `data` says what of the hardware is here, so
that a newcomer knows what the machine could do, and its last line who launches that now: `kvm` and `sev` are names for
backends of `qemu` (and `sev`, in a guest that has it, for `inside`), `sgx` for `gramine`.
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
    successor: str
    roots: Roots = field(default_factory=Roots)

    def data(self) -> Sequence[Datum]:
        found = {"sgx": sgx, "sev": sev, "kvm": kvm}[self.name](self.roots)
        return (*found, Datum(name="launcher", ok=False, info=self._launcher()))

    def launch(self, wishes: Wishes) -> Keep:
        del wishes
        raise UnavailableError(f"{self.name}: {self._launcher()}")

    def _launcher(self) -> str:
        return f"backend {self.successor}, for which this is another name"


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
    vendor = cpu_vendor(roots)
    return Datum(name="CPU", ok=vendor == wanted, info=vendor)


def cpu_vendor(roots: Roots) -> str:
    """Who made the processor, in its own words."""
    found = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo(roots), re.MULTILINE)
    return found[1] if found else "unknown"


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
    found = re.search(r"^flags\s*:\s*(.*)$", cpuinfo(roots), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def cpuinfo(roots: Roots) -> str:
    """What the kernel tells of the processors."""
    return _text(roots.proc / "cpuinfo")


def _text(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_MAX_CPUINFO)
    except OSError:
        return ""


HOSTS: Final = (
    Host(
        name="sgx",
        title="an SGX enclave on this host",
        protects="this machine and whoever administers it",
        successor="gramine",
    ),
    Host(
        name="sev",
        title="an SEV-SNP guest on this host",
        protects="this machine and whoever administers it",
        successor="qemu-snp",
    ),
    Host(
        name="kvm",
        title="a virtual machine on this host, no TEE",
        protects="other guests, not this machine",
        successor="qemu",
    ),
)
