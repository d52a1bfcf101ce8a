"""The digests that a policy has to list for an image.

* SEV-SNP: the launch digest of AMD 56860, 8.17.2, over firmware, hashes of kernel, initramfs and command line, and the
  processors' initial state. `sev-snp-measure` computes it (an extra: `pip install enarx[image]`).
* TDX: MRTD of the firmware alone. Kernel, initramfs and command line are in RTMR 1 and 2, which the firmware and the
  kernel extend while they start; what to expect in the event log is told beside it.

A digest is refused for a firmware that does not check the kernel (`enarx.image.firmware`): it would say nothing of it.
Computed from the published algorithms; no hardware was at hand to compare with.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError, RejectedError, UnavailableError
from enarx.image.firmware import lint, of_file, tdx_sections

COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1"
PAGE: Final = 4096  # bytes
CHUNK: Final = 256  # bytes that one MR.EXTEND covers
SNP_POLICY: Final = 0x30000  # SMT allowed, the reserved bit set: no debugging, no migration
GUEST_FEATURES: Final = 0x1  # SNP active, nothing else: what QEMU sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The virtual machine that a digest is for. `cpu` is one of QEMU's names."""

    firmware: Path
    kernel: Path
    initramfs: Path
    command_line: str = COMMAND_LINE
    cpus: int = 1
    cpu: str = "EPYC-v4"
    features: int = GUEST_FEATURES


def snp(machine: Machine) -> bytes:
    """The launch digest, 48 bytes.

    Raises RejectedError for a firmware that checks nothing, MalformedError for one that lacks what QEMU starts it by,
    UnavailableError.
    """
    with of_file(machine.firmware):
        findings = lint(machine.firmware.read_bytes())
    if not findings.binds_kernel:
        missing = "reserves no page for hashes" if not findings.kernel_hashes else "never compares them"
        raise RejectedError(
            f"{machine.firmware.name}: {missing}: the host could start any kernel under this digest; "
            "use a firmware that verifies kernel hashes (Debian: ovmf-amdsev)"
        )
    try:
        from sevsnpmeasure import guest, vcpu_types  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, without types
        from sevsnpmeasure.sev_mode import SevMode  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise UnavailableError("sev-snp-measure is not installed: pip install 'enarx[image]'") from error
    if machine.cpu not in vcpu_types.CPU_SIGS:
        known = ", ".join(sorted(vcpu_types.CPU_SIGS))
        raise MalformedError(f"CPU {machine.cpu!r}: expected one of {known}")
    try:
        digest = guest.calc_launch_digest(
            SevMode.SEV_SNP,
            vcpus=machine.cpus,
            vcpu_sig=vcpu_types.CPU_SIGS[machine.cpu],
            ovmf_file=str(machine.firmware),
            kernel=str(machine.kernel),
            initrd=str(machine.initramfs),
            append=machine.command_line,
            guest_features=machine.features,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise MalformedError(f"{machine.firmware}: cannot be measured: {str(error) or 'not of whole pages'}") from error
    return bytes(digest)


def mrtd(firmware: bytes, *, two_passes: bool = False) -> bytes:
    """MRTD of a TDX firmware, 48 bytes (Intel TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).

    The kernel adds and extends page by page; `two_passes` is the order of older ones. Raises MalformedError.
    """
    state = hashlib.sha384()
    for section in tdx_sections(firmware):
        if section.augmented:
            continue
        content = firmware[section.offset : section.offset + section.size] + bytes(section.memory - section.size)
        added = [_add(section.address + at) for at in range(0, section.memory, PAGE)]
        extended = [
            b"".join(_extend(section.address + at, content[at : at + PAGE])) if section.extended else b""
            for at in range(0, section.memory, PAGE)
        ]
        if two_passes:
            state.update(b"".join(added) + b"".join(extended))
        else:
            for add, extend in zip(added, extended, strict=True):
                state.update(add + extend)
    return state.digest()


def tdx_events(machine: Machine) -> dict[str, str]:
    """What the event log has to show of an image: SHA-384 of what the firmware measures when it starts a kernel.

    The kernel's own digest is that of its PE image (Authenticode), which the log carries too.
    """
    command_line = f"{machine.command_line} initrd=initrd".encode("utf-16-le") + b"\0\0"
    return {
        "initramfs": hashlib.sha384(machine.initramfs.read_bytes()).hexdigest(),
        "command_line": hashlib.sha384(command_line).hexdigest(),
    }


def fragment(machine: Machine, *, launch: bytes | None, trust: bytes | None) -> str:
    """A fragment of steward.toml that lists the digests."""
    processors = "" if launch is None else f"{machine.cpus} processor(s) {machine.cpu}, "
    lines = [f"# {processors}command line {machine.command_line!r}"]
    if launch is not None:
        lines += ["[snp]", f'hash = ["{launch.hex()}"]']
    if trust is not None:
        lines += ["[tdx]", f'hash = ["{trust.hex()}"]']
    return "\n".join(lines) + "\n"


def _add(address: int) -> bytes:
    return b"MEM.PAGE.ADD".ljust(16, b"\0") + address.to_bytes(8, "little") + bytes(104)


def _extend(address: int, page: bytes) -> Iterator[bytes]:
    for at in range(0, PAGE, CHUNK):
        yield b"MR.EXTEND".ljust(16, b"\0") + (address + at).to_bytes(8, "little") + bytes(104)
        yield page[at : at + CHUNK]
