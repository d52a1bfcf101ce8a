"""Take from this process what a Keep never needs, before the first line of a workload is read.

no_new_privs, then Landlock (files may be read where programs and certificates lie, and written nowhere; no signal and
no abstract socket leaves the process), then seccomp (no new program, no new process, no other process's memory, no
sockets but IPv4 and IPv6, nothing of the kernel's administration), and limits. Later, when the workload's sockets are
known, `restrict_ports` closes all other TCP ports. It protects the host from the Keep, never the Keep from the host.

What the kernel does not offer is left out and told: `apply` returns the findings, and nothing is silent. The numbers
are those of landlock(7) and seccomp(2). Every step binds this thread and those it starts, so it comes first.
"""

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from enarx.keep.backends.api import Datum

MAX_FILE: Final = 16 * 1024 * 1024  # bytes of an anonymous file: keys on their way into TLS need thousands

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38  # prctl(2)

# -- Landlock

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION: Final = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ALL: Final = 3  # abstract unix sockets, signals
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}  # by ABI, how many rights there are; 16 from 5 on
_NET_ABI, _SCOPE_ABI = 4, 6

_READABLE: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
    "/sys/devices/system/cpu",
)

# -- seccomp

_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000  # numbers from here on are another ABI of x86-64
_CLONE_THREAD: Final = 0x10000
_LOAD, _EQUAL, _NOT_LESS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

# Calls that no Keep needs, by architecture; a name that an architecture lacks has no number there.
_DENIED: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "x86_64": {
            "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "process_vm_readv": 310,
            "process_vm_writev": 311, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272,
            "setns": 308, "open_by_handle_at": 304, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
            "add_key": 248, "request_key": 249, "keyctl": 250, "io_uring_setup": 425, "io_uring_enter": 426,
            "io_uring_register": 427, "kexec_load": 246, "init_module": 175, "finit_module": 313,
            "delete_module": 176, "reboot": 169, "swapon": 167, "acct": 163, "iopl": 172, "ioperm": 173,
            "quotactl": 179, "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438,
        },
        "aarch64": {
            "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
            "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
            "open_by_handle_at": 265, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "add_key": 217,
            "request_key": 218, "keyctl": 219, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
            "kexec_load": 104, "init_module": 105, "finit_module": 273, "delete_module": 106, "reboot": 142,
            "swapon": 224, "acct": 89, "quotactl": 60, "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438,
        },
    }
)  # fmt: skip
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_CLONE3: Final = 435


def data() -> Sequence[Datum]:
    """What of the sandbox this machine offers."""
    version = landlock_version()
    machine = platform.machine()
    return (
        Datum(
            name="Landlock",
            ok=version > 0,
            info=f"version {version}" if version else "not in this kernel",
            advice=None if version else "the Keep could read every file that you can",
            required=False,
        ),
        Datum(
            name="seccomp",
            ok=machine in _ARCHITECTURE,
            info=machine,
            advice=None if machine in _ARCHITECTURE else "the Keep could use every system call",
            required=False,
        ),
    )


def apply(writable: Iterable[Path] = ()) -> Mapping[str, str]:
    """Shut this process in, but for `writable`. Returns what was done, and under `warning` what could not be."""
    _limit()
    _call("prctl", _LIBC.prctl(_SET_DUMPABLE, 0, 0, 0, 0))
    _call("prctl", _LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    done = {"privileges": "no new ones"}
    warnings = []
    steps: Sequence[tuple[str, Callable[[], str]]] = (
        ("landlock", partial(_landlock, tuple(writable))),
        ("seccomp", _seccomp),
    )
    for name, step in steps:
        try:
            done[name] = step()
        except OSError as error:
            done[name] = "off"
            warnings.append(f"{name} is off: {error.strerror or error}")
    return {**done, "warning": "; ".join(warnings)} if warnings else done


def restrict_ports(bind: Iterable[int] | None, connect: Iterable[int] | None) -> str:
    """Close every other TCP port to this thread and those it starts; None leaves that direction open.

    Returns what was done, or why not.
    """
    version = landlock_version()
    if version < _NET_ABI:
        return "not restricted: this kernel's Landlock knows no ports"
    lists = [(access, ports) for access, ports in ((_BIND_TCP, bind), (_CONNECT_TCP, connect)) if ports is not None]
    if not lists:
        return "as the package says"
    try:
        descriptor = _ruleset(struct.pack("<QQ", 0, sum(access for access, _ in lists)))
        try:
            for access, ports in lists:
                for port in sorted(set(ports)):
                    _add(descriptor, _NET_PORT, struct.pack("<QQ", access, port))
            _call("landlock_restrict_self", _LIBC.syscall(_RESTRICT_SELF, descriptor, 0))
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"not restricted: {error.strerror}"
    return "only those of the workload"


def landlock_version() -> int:
    """The version of Landlock's ABI, 0 where there is none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def readable() -> tuple[Path, ...]:
    """Where a Keep has to read: the system's programs and certificates, this Python, and this package."""
    paths = {Path(name) for name in _READABLE}
    paths |= {Path(name) for name in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    paths |= {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {Path(entry) for entry in sys.path if entry}
    return tuple(sorted(path for path in paths if path.exists()))


def _limit() -> None:
    """No core dump ever holds a key; no anonymous file grows; as many descriptors as the machine lets us have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _landlock(writable: Iterable[Path]) -> str:
    version = landlock_version()
    if not version:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    scopes = _SCOPE_ALL if version >= _SCOPE_ABI else 0
    attributes = (rights, 0, scopes) if version >= _SCOPE_ABI else (rights,)
    descriptor = _ruleset(struct.pack(f"<{len(attributes)}Q", *attributes))
    try:
        for path in readable():
            _allow(descriptor, path, _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE)
        for path in writable:
            _allow(descriptor, path, rights & ~_EXECUTE)
        _call("landlock_restrict_self", _LIBC.syscall(_RESTRICT_SELF, descriptor, 0))
    finally:
        os.close(descriptor)
    return f"files read-only, version {version}"


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _add(ruleset, _PATH_BENEATH, struct.pack("<Qi", allowed, beneath))
    finally:
        os.close(beneath)


def _ruleset(attributes: bytes) -> int:
    return _call("landlock_create_ruleset", _LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0))


def _add(ruleset: int, kind: int, rule: bytes) -> None:
    _call("landlock_add_rule", _LIBC.syscall(_ADD_RULE, ruleset, kind, ctypes.create_string_buffer(rule, len(rule)), 0))


def _seccomp() -> str:
    machine = platform.machine()
    if machine not in _ARCHITECTURE:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    program = assemble(machine)
    code = b"".join(struct.pack("<HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    _call("seccomp", _LIBC.syscall(_SECCOMP[machine], 1, 1, ctypes.create_string_buffer(header, len(header))))
    return f"{len(_DENIED[machine])} calls refused"


def assemble(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter for one architecture, as (code, jump if true, jump if false, constant)."""
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_NOT_LESS, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in _DENIED[machine].values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # then libc uses clone, seen below
    program += [
        (_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program += [(_EQUAL, 0, 3 + len(_FAMILIES), _SOCKET[machine]), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    program += [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
    program += [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ALLOW)]
    return program


def _call(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
