"""What a Keep's process can no longer do, tried in a process that was shut in."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from enarx.keep.backends import sandbox

TRIES = """
import ctypes, errno, json, os, resource, socket, sys, threading
from pathlib import Path
from enarx.keep.backends import sandbox
secret, spare = sys.argv[1], int(sys.argv[2])
done = dict(sandbox.apply())
found = {}

def attempt(name, action):
    try:
        action()
        found[name] = "ok"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]

def libc(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def wasm():
    import wasmtime
    store = wasmtime.Store()
    text = '(module (func (export "f") (result i32) i32.const 42))'
    made = wasmtime.Instance(store, wasmtime.Module(store.engine, text), [])
    assert made.exports(store)["f"](store) == 42

def thread():
    ran = []
    one = threading.Thread(target=lambda: ran.append(1)); one.start(); one.join()
    assert ran

def memory_file():
    descriptor = os.memfd_create("x")
    os.write(descriptor, b"key")
    assert Path(f"/proc/self/fd/{descriptor}").read_bytes() == b"key"

attempt("read a file of the user", lambda: Path(secret).read_bytes())
attempt("write a file", lambda: Path(secret + ".new").write_bytes(b""))
attempt("write to /tmp", lambda: Path("/tmp/enarx-sandbox-test").write_bytes(b""))
attempt("start a program", lambda: os.execv("/bin/true", ["true"]))
attempt("fork", os.fork)
attempt("ptrace", lambda: libc("ptrace", 16, os.getppid(), 0, 0))
attempt("signal the parent", lambda: os.kill(os.getppid(), 0))
attempt("unshare", lambda: libc("unshare", 0x10000000))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("tcp socket", lambda: socket.socket().close())
attempt("thread", thread)
attempt("memory file", memory_file)
attempt("wasm", wasm)
ports = sandbox.restrict_ports([spare], [])
attempt("bind an allowed port", lambda: socket.create_server(("127.0.0.1", spare)).close())
attempt("bind another port", lambda: socket.create_server(("127.0.0.1", 0)).close())
attempt("connect to another port", lambda: socket.create_connection(("127.0.0.1", spare), 2))
core = resource.getrlimit(resource.RLIMIT_CORE)
print(json.dumps({"done": done, "found": found, "ports": ports, "core": core}))
"""


@pytest.fixture(scope="module")
def shut_in(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, object]:
    """The outcome of every attempt."""
    secret = tmp_path_factory.mktemp("user") / "secret"
    secret.write_text("of the user")
    command = [sys.executable, "-I", "-c", TRIES, str(secret), "47113"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    result: Mapping[str, object] = json.loads(answer)
    return result


def outcome(shut_in: Mapping[str, object], name: str) -> object:
    found = shut_in["found"]
    assert isinstance(found, dict)
    return found[name]


@pytest.mark.skipif(sandbox.landlock_version() < 6, reason="this kernel has no Landlock, or an old one")
@pytest.mark.parametrize(
    "name", ["read a file of the user", "write a file", "write to /tmp", "bind another port", "connect to another port"]
)
def test_files_and_ports_are_closed(shut_in: Mapping[str, object], name: str) -> None:
    """Nothing of the user is read, nothing is written anywhere, and only the workload's ports are there."""
    assert outcome(shut_in, name) == "EACCES"


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="no list of system calls for this machine")
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("start a program", "EPERM"),
        ("fork", "EPERM"),
        ("ptrace", "EPERM"),
        ("unshare", "EPERM"),
        ("netlink", "EAFNOSUPPORT"),
        ("unix socket", "EAFNOSUPPORT"),
    ],
)
def test_system_calls_are_refused(shut_in: Mapping[str, object], name: str, number: str) -> None:
    """No other program, process or memory, and no socket but IPv4 and IPv6."""
    assert outcome(shut_in, name) == number


@pytest.mark.parametrize("name", ["tcp socket", "thread", "memory file", "wasm", "bind an allowed port"])
def test_what_a_keep_needs_still_works(shut_in: Mapping[str, object], name: str) -> None:
    """WebAssembly, threads, the keys' way into TLS, and the network."""
    assert outcome(shut_in, name) == "ok"


def test_no_core_dump_holds_a_key(shut_in: Mapping[str, object]) -> None:
    """Their size is limited to nothing."""
    assert shut_in["core"] == [0, 0]


def test_what_the_kernel_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Landlock, `platform info` and every start say so."""
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    landlock = sandbox.data()[0]
    assert not landlock.ok
    assert not landlock.required
    assert landlock.advice == "the Keep could read every file that you can"
    assert sandbox.restrict_ports([1], []) == "not restricted: this kernel's Landlock knows no ports"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_jump_of_the_filter_leaves_it(machine: str) -> None:
    """Every path through the program ends at a verdict."""
    program = sandbox.assemble(machine)
    for place, (code, if_true, if_false, _) in enumerate(program):
        if code in {0x15, 0x35, 0x45}:
            assert place + 1 + max(if_true, if_false) < len(program)
    assert program[-1][0] == 0x06


def test_python_and_this_package_are_readable() -> None:
    """Modules are imported late, so where they lie has to stay open."""
    paths = sandbox.readable()
    assert any(Path(sandbox.__file__).is_relative_to(path) for path in paths)
