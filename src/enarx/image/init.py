#!/usr/bin/python3.11 -I
"""The first process of a Keep's virtual machine: prepare it, become the Keep's guardian, and power off with it.

  1  mount what the kernel offers; load the modules of the image, in their order
  2  give the network card the address that QEMU's user network expects
  3  find the channel's port by its name, and start the agent on a socket that is joined to it
  4  when the agent ends, or the host is gone, power off; whatever goes wrong here ends the same way

It imports nothing of the Keep: it must work before anything else does. The command line says who vouches inside:
`enarx.attester=nil` or `enarx.attester=inside`; it is measured with the kernel.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final, NoReturn

PORT: Final = "org.enarx.keep"
MODULES: Final = Path("/usr/lib/enarx/modules")
ADDRESS, NETMASK, GATEWAY = "10.0.2.15", "255.255.255.0", "10.0.2.2"  # of QEMU's user network
ATTESTERS: Final = {"nil": ["nil"], "inside": ["inside"]}
PATIENCE: Final = 20.0  # seconds until the port has to be there

FINIT_MODULE: Final = 313  # system call, x86-64
POWER_OFF: Final = 0x4321FEDC
NOSUID, NODEV, NOEXEC = 2, 4, 8
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCADDRT = 0x8916, 0x891C, 0x8914, 0x890B
IFF_UP, RTF_UP, RTF_GATEWAY = 1, 1, 2
MOUNTS: Final = (
    ("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC),
    ("sysfs", "/sys", "sysfs", NOSUID | NODEV | NOEXEC),
    ("dev", "/dev", "devtmpfs", NOSUID | NOEXEC),
    ("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV),  # noqa: S108 - the Keep's own, in memory
)

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None):
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


def load_modules() -> None:
    """A module that the hardware does not want is no error: one image serves every technology."""
    for name in (MODULES / "order").read_text().split():
        descriptor = os.open(MODULES / f"{name}.ko", os.O_RDONLY | os.O_CLOEXEC)
        if libc.syscall(FINIT_MODULE, descriptor, b"", 0):
            print(f"init: module {name}: {os.strerror(ctypes.get_errno())}", flush=True)
        os.close(descriptor)


def network() -> None:
    """Bring up the loopback and, if there is a card, give it its address and a way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        cards = sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
        if not cards:
            return
        card = cards[0].encode()
        fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", card, address(ADDRESS)))
        fcntl.ioctl(control, SIOCSIFNETMASK, struct.pack("16s16s", card, address(NETMASK)))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", card, IFF_UP))
        route = struct.pack(
            "8x16s16s16sH38x", address("0.0.0.0"), address(GATEWAY), address("0.0.0.0"), RTF_UP | RTF_GATEWAY
        )
        fcntl.ioctl(control, SIOCADDRT, route)


def address(text: str) -> bytes:
    """A struct sockaddr_in of 16 bytes."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def find_port() -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT:
                return os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.02)
    raise TimeoutError(f"no port is named {PORT}")


def attester() -> list[str]:
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    return ATTESTERS[words["enarx.attester"]]


def join(port: int, ours: socket.socket) -> None:
    """Carry bytes between the port and the agent's socket, until either side ends."""

    def inwards() -> None:
        while data := os.read(port, 65536):
            ours.sendall(data)
        power_off()  # the host is gone, and nothing may outlive it

    threading.Thread(target=inwards, daemon=True).start()
    while data := ours.recv(65536):
        view = memoryview(data)
        while view:
            view = view[os.write(port, view) :]


def power_off() -> NoReturn:
    sys.stdout.flush()
    libc.sync()
    libc.reboot(POWER_OFF)
    os._exit(0)


def main() -> None:
    for entry in MOUNTS:
        mount(*entry)
    load_modules()
    if Path("/sys/kernel/config").is_dir():
        mount("configfs", "/sys/kernel/config", "configfs", NOSUID | NODEV | NOEXEC)
    network()
    port = find_port()
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108
    command = [sys.executable, "-I", "-m", "enarx.keep.start", str(theirs.fileno()), *attester()]
    agent = subprocess.Popen(command, env=environment, close_fds=False)
    theirs.close()
    join(port, ours)
    agent.wait()


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - nobody is above the first process
        traceback.print_exc()
    finally:
        power_off()
