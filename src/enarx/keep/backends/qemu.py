"""A Keep in a micro-VM that QEMU starts from a measured image (`enarx image build`): `qemu`.

The machine is q35 with the image's kernel, initramfs and command line, nothing else of the host's: no disk, no firmware
variables, no shared folder. The channel is a virtio-serial port, joined to a socket pair; the workload's network is
QEMU's user network, on which the host sees TLS and carries bytes. Ports of `listen` files are forwarded from the host's
loopback once the Keep says that it listens.

What protects is the TEE beside it (`--tee`): `snp` and `tdx` put the machine's memory out of the host's reach and have
the launch measured; `none` does not, and says so. Without hardware virtualisation `tcg` emulates it, slowly. A VM that
does not come up is told with QEMU's own last words. SEV-SNP and TDX were not run on hardware: the command lines are
those of QEMU 10 and 11, and are compared by tests.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.keep.backends.api import Datum, Keep, Wishes

Tee = Literal["none", "snp", "tdx"]
Accelerator = Literal["kvm", "tcg"]
TEES: Final[tuple[Tee, ...]] = get_args(Tee)
ACCELERATORS: Final[tuple[Accelerator, ...]] = get_args(Accelerator)

PROGRAM: Final = "qemu-system-x86_64"
KERNEL_NAME: Final = "vmlinuz"
INITRAMFS_NAME: Final = "initramfs.cpio"
FIRMWARE_NAME: Final = "firmware.fd"
ID_BLOCK_NAME: Final = "id-block.bin"
ID_AUTH_NAME: Final = "id-auth.bin"

PORT_NAME: Final = "org.enarx.keep"
COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1"
MEMORY: Final = 768  # MiB: the initramfs stays in it
CPU: Final[dict[Tee, str]] = {"none": "max,-cx16", "snp": "EPYC-v4", "tdx": "host"}  # -cx16: see LIMITATIONS.md
SNP_POLICY: Final = 0x30000  # SMT allowed, the reserved bit set; no debugging
C_BIT: Final = 51  # position of the encryption bit on every processor with SEV-SNP
QMP_SECONDS: Final = 10.0

_BLOCK_SIZES: Final = {ID_BLOCK_NAME: 96, ID_AUTH_NAME: 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about a machine that is not its image."""

    tee: Tee = "none"
    accelerator: Accelerator = "tcg"
    memory: int = MEMORY
    signatures: Path | None = None  # of `enarx sign`, instead of what lies in the image
    unsigned: bool = False

    @property
    def command_line(self) -> str:
        """The kernel's; measured with it. Says inside who vouches."""
        return command_line(self.tee)


def command_line(tee: str) -> str:
    """The kernel's command line for a TEE, byte for byte what is measured."""
    return f"{COMMAND_LINE} enarx.attester={'nil' if tee == 'none' else 'inside'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepMachine:
    """The virtual machine and the host's end of its channel."""

    process: subprocess.Popen[bytes]
    stream: socket.socket
    monitor: "Monitor"
    console: Path

    def expose(self, port: int) -> None:
        """Forward a TCP port of the host's loopback to the Keep. Raises UnavailableError when it is taken."""
        self.monitor.human(f"hostfwd_add net0 tcp:127.0.0.1:{port}-:{port}")

    def wait(self, seconds: float) -> str | None:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        words = _last_words(self.console)
        return f"QEMU ended with {code}{': ' + words if words else ''}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stream.close()
        self.monitor.close()
        shutil.rmtree(self.console.parent, ignore_errors=True)


class Monitor:
    """QEMU's machine protocol (QMP), as much as is needed."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(QMP_SECONDS)
        self._file = stream.makefile("rwb")
        self._stream = stream
        self._ready = False

    def human(self, line: str) -> None:
        """Run a line of the human monitor. Raises UnavailableError with its answer, if it has one."""
        if not self._ready:
            self._answer()  # the greeting
            self._command("qmp_capabilities")
            self._ready = True
        said = self._command("human-monitor-command", {"command-line": line})
        if said:
            raise UnavailableError(f"QEMU: {str(said).strip()[:300]}")

    def close(self) -> None:
        self._file.close()
        self._stream.close()

    def _command(self, name: str, arguments: dict[str, str] | None = None) -> object:
        try:
            self._file.write(json.dumps({"execute": name, "arguments": arguments or {}}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise UnavailableError("QEMU: its monitor is gone") from error
        while True:
            members = self._answer()
            if "return" in members:
                return members["return"]
            if "error" in members:
                raise UnavailableError(f"QEMU: {str(members['error'])[:300]}")

    def _answer(self) -> dict[str, Any]:  # Any: QEMU's own JSON
        try:
            found = json.loads(self._file.readline() or b"null")
        except (OSError, ValueError) as error:
            raise UnavailableError("QEMU: its monitor does not answer") from error
        if not isinstance(found, dict):
            raise UnavailableError("QEMU: its monitor is gone")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Qemu:
    """The backend for one TEE; `none` protects nothing."""

    tee: Tee
    search: str | None = field(default=None)  # where the program is looked for; None is PATH

    @property
    def name(self) -> str:
        return "qemu" if self.tee == "none" else f"qemu-{self.tee}"

    @property
    def title(self) -> str:
        beside = {"none": "without a TEE", "snp": "with AMD SEV-SNP", "tdx": "with Intel TDX"}[self.tee]
        return f"a micro-VM that QEMU starts {beside}"

    @property
    def protects(self) -> str | None:
        return None if self.tee == "none" else "the host and its administrators"

    def data(self) -> Sequence[Datum]:
        program = shutil.which(PROGRAM, path=self.search)
        found = [
            Datum(
                name=PROGRAM,
                ok=program is not None,
                info=program or "not found",
                advice="install QEMU (Debian: qemu-system-x86)",
            ),
            Datum(
                name="/dev/kvm",
                ok=os.access("/dev/kvm", os.R_OK | os.W_OK),
                info="hardware virtualisation" if self.tee == "none" else "needed beside the TEE",
                required=self.tee != "none",
            ),
        ]
        if self.tee != "none":
            found.append(_host_support(self.tee))
        return found

    def launch(self, wishes: Wishes) -> Keep:
        image = Path(wishes.image) if wishes.image else None
        if image is None:
            raise NotFoundError(f"{self.name}: name an image with --image; `enarx image build DIR` makes one")
        plan = Plan(
            tee=self.tee,
            accelerator=_accelerator(wishes.accel, self.tee),
            signatures=None if wishes.signatures is None else Path(wishes.signatures),
            unsigned=wishes.unsigned,
        )
        return start(image, plan)


def start(image: Path, plan: Plan) -> KeepMachine:
    """Start the machine. Raises NotFoundError for an incomplete image, UnavailableError when QEMU does not start."""
    for name in (KERNEL_NAME, INITRAMFS_NAME, *((FIRMWARE_NAME,) if plan.tee != "none" else ())):
        if not (image / name).is_file():
            raise NotFoundError(f"{image / name}: not there; `enarx image build {image}` makes it")
    host, keep = socket.socketpair()
    ours, theirs = socket.socketpair()
    console = _console()
    command = arguments(image, plan, channel=keep.fileno(), monitor=theirs.fileno(), console=console)
    try:
        with (console.parent / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={"PATH": os.environ.get("PATH", "/usr/bin"), "LANG": "C.UTF-8"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[keep.fileno(), theirs.fileno()],
                start_new_session=True,
            )
    except OSError as error:
        host.close()
        ours.close()
        raise UnavailableError(f"{PROGRAM}: {error.strerror}") from error
    finally:
        keep.close()
        theirs.close()
    return KeepMachine(process=process, stream=host, monitor=Monitor(ours), console=console)


def arguments(image: Path, plan: Plan, *, channel: int, monitor: int, console: Path) -> list[str]:
    """QEMU's command line. `channel` and `monitor` are connected sockets that it inherits."""
    image = image.resolve()
    machine = {"none": "q35", "snp": "q35,confidential-guest-support=tee0,memory-backend=ram0"}
    machine["tdx"] = "q35,kernel-irqchip=split,confidential-guest-support=tee0"
    return [
        PROGRAM,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", machine[plan.tee], "-accel", plan.accelerator),
        *("-cpu", CPU[plan.tee], "-smp", "1", "-m", f"{plan.memory}M"),
        *(option for item in _tee_objects(image, plan) for option in ("-object", json.dumps(item, sort_keys=True))),
        *(("-bios", str(image / FIRMWARE_NAME)) if plan.tee != "none" else ()),
        *("-kernel", str(image / KERNEL_NAME), "-initrd", str(image / INITRAMFS_NAME), "-append", plan.command_line),
        *("-serial", f"file:{console}"),
        *("-chardev", f"socket,id=keep,fd={channel}"),
        *("-device", "virtio-serial-pci,disable-legacy=on,iommu_platform=on"),
        *("-device", f"virtserialport,chardev=keep,name={PORT_NAME}"),
        *("-netdev", "user,id=net0,ipv6=off,restrict=off"),
        *("-device", "virtio-net-pci,netdev=net0,disable-legacy=on,iommu_platform=on,romfile="),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
    ]


def _tee_objects(image: Path, plan: Plan) -> list[dict[str, object]]:
    """QEMU's objects for the TEE, as JSON so that no value is taken for an option."""
    if plan.tee == "none":
        return []
    if plan.tee == "tdx":
        quotes = {"type": "vsock", "cid": "2", "port": "4050"}  # the host's quote generation service
        return [{"qom-type": "tdx-guest", "id": "tee0", "quote-generation-socket": quotes}]
    guest: dict[str, object] = {
        "qom-type": "sev-snp-guest",
        "id": "tee0",
        "cbitpos": C_BIT,
        "reduced-phys-bits": 1,
        "policy": SNP_POLICY,
        "kernel-hashes": True,
    }
    signed = _signed(image, plan)
    if signed is not None:
        block, auth = signed
        guest["id-block"] = base64.b64encode(block).decode()
        guest["id-auth"] = base64.b64encode(auth).decode()
        guest["author-key-enabled"] = any(auth[4:8])
    memory: dict[str, object] = {
        "qom-type": "memory-backend-memfd",
        "id": "ram0",
        "size": plan.memory << 20,
        "share": True,
        "prealloc": False,
    }
    return [memory, guest]


def _signed(image: Path, plan: Plan) -> tuple[bytes, bytes] | None:
    """ID block and authentication: from the file that was named, else from the image; None where nobody signed.

    Raises MalformedError, also for a block of another policy than the launch has: the firmware would refuse it.
    """
    if plan.unsigned:
        return None
    if plan.signatures is not None:
        from enarx.keep.backends.signatures import Signatures  # noqa: PLC0415 - only where one was named

        found = Signatures.read(plan.signatures).require_sev()
    else:
        parts = {name: (image / name).read_bytes() for name in _BLOCK_SIZES if (image / name).is_file()}
        if not parts:
            return None
        if {name: len(data) for name, data in parts.items()} != _BLOCK_SIZES:
            raise MalformedError(
                f"{image}: expected {ID_BLOCK_NAME} of 96 bytes and {ID_AUTH_NAME} of 4096, or neither"
            )
        found = parts[ID_BLOCK_NAME], parts[ID_AUTH_NAME]
    from enarx.tee.snp.idblock import IdBlock  # noqa: PLC0415 - only where somebody signed

    policy = IdBlock.parse(found[0]).policy
    if policy != SNP_POLICY:
        source = plan.signatures or image / ID_BLOCK_NAME
        raise MalformedError(f"{source}: POLICY: expected 0x{SNP_POLICY:x}, found 0x{policy:x}")
    return found


def _host_support(tee: Tee) -> Datum:
    """Whether the host's kernel launches such guests; the modules of KVM say so."""
    name, parameter = {"snp": ("kvm_amd", "sev_snp"), "tdx": ("kvm_intel", "tdx")}[tee]
    file = Path("/sys/module") / name / "parameters" / parameter
    try:
        on = file.read_text().strip() in {"Y", "1"}
    except OSError:
        on = False
    info = "enabled" if on else "not enabled in this kernel"
    maker = {"snp": "an AMD processor with SEV-SNP", "tdx": "an Intel processor with TDX"}[tee]
    advice = f"{maker}, and a host kernel and firmware that have it enabled"
    return Datum(name=f"{name}.{parameter}", ok=on, info=info, advice=advice)


def _accelerator(wished: str | None, tee: Tee) -> Accelerator:
    if tee != "none":
        if wished == "tcg":
            raise MalformedError(f"--accel tcg: a machine with {tee.upper()} is no emulated one")
        return "kvm"
    if wished is None:
        return "tcg"
    found = next((name for name in ACCELERATORS if name == wished), None)
    if found is None:
        raise MalformedError(f"--accel: expected one of {', '.join(ACCELERATORS)}, found {wished!r}")
    return found


def _console() -> Path:
    """A place for what the kernel prints: private, and gone with the Keep."""
    from tempfile import mkdtemp  # noqa: PLC0415 - heavy, and this is the only use

    return Path(mkdtemp(prefix="enarx-keep-")) / "console.log"


def _last_words(console: Path) -> str:
    """The last line that QEMU or the kernel printed: a stranger's words, bounded and printable."""
    for file in (console.parent / "qemu.log", console):
        try:
            lines = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            continue
        if lines:
            return "".join(character if character.isprintable() else " " for character in lines[-1][:300])
    return ""
