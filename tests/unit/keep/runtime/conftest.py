"""Guests: programs in C or WAT, compiled once into the cache, run in this process with their streams caught."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import wasmtime

from enarx.keep.config import Config
from enarx.keep.runtime import Interrupt, Listening, Stdio, TlsIdentity, run
from enarx.keep.workload import Workload

ROOT = Path(__file__).resolve().parents[4]
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
        identity: TlsIdentity | None = None,
        fd_env: bool = True,
        preopens: Sequence[tuple[Path, str]] = (),
        roots_pem: bytes | None = None,
        interrupt: Interrupt | None = None,
        on_ready: Callable[[Sequence[Listening]], None] | None = None,
    ) -> Outcome: ...


@pytest.fixture(scope="session")
def compile_guest() -> Callable[[str], bytes]:
    """Compile tests/guests/NAME.c; the test is skipped where ziglang is missing."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang, which compiles the guests, is not installed")

    def compile_one(name: str) -> bytes:
        source = ROOT / "tests" / "guests" / f"{name}.c"
        key = hashlib.sha256(source.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
        target = ROOT / ".cache" / "guests" / f"{name}-{key}.wasm"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_suffix(f".{os.getpid()}")
            command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(fresh), str(source)]
            subprocess.run(command, check=True)
            fresh.replace(target)
        return target.read_bytes()

    return compile_one


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
        identity: TlsIdentity | None = None,
        fd_env: bool = True,
        preopens: Sequence[tuple[Path, str]] = (),
        roots_pem: bytes | None = None,
        interrupt: Interrupt | None = None,
        on_ready: Callable[[Sequence[Listening]], None] | None = None,
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
            )
        finally:
            os.close(reader)
        return Outcome(code=code, stdout=bytes(out), stderr=bytes(err))

    return run_one


@pytest.fixture
def wat() -> Callable[[str], bytes]:
    """Text to module."""
    return lambda text: bytes(wasmtime.wat2wasm(text))
