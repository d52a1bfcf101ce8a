"""The same guest, three ways: bare wasmtime-py, a Keep, and wasmtime's command line where it is installed."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import wasmtime

from . import calls
from .conftest import Runner, wasmtime_cli

# Behaviours of the probe that need nothing but streams and a directory, with what they say of themselves.
BEHAVIOURS = [
    ("environment",), ("clocks",), ("volume", "3"), ("paths", "3"), ("reading", "3"), ("list", "/data"),
    ("list", "/data", "small"), ("cat", "/data/a.txt"), ("cat", "/data/none"), ("open-some", "3"), ("functions", "3"),
]  # fmt: skip


def _data(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"0123456789")
    (root / "sub" / "b.txt").write_bytes(b"below")
    return root


def _bare(wasm: Path, directory: Path, arguments: Sequence[str]) -> tuple[int, bytes]:
    """wasmtime-py with nothing of ours, in a process of its own."""
    code = """
import sys, wasmtime
engine = wasmtime.Engine(); store = wasmtime.Store(engine); wasi = wasmtime.WasiConfig()
wasi.argv = ["main.wasm", *sys.argv[3:]]; wasi.inherit_stdin(); wasi.inherit_stdout(); wasi.inherit_stderr()
wasi.preopen_dir(sys.argv[2], "/data"); store.set_wasi(wasi)
linker = wasmtime.Linker(engine); linker.define_wasi()
try: linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1])).exports(store)["_start"](store)
except wasmtime.ExitTrap as leave: sys.exit(leave.code)
"""
    command = [sys.executable, "-c", code, str(wasm), str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=120)
    return done.returncode, done.stdout


def _called(wasm: bytes, root: Path) -> tuple[int, bytes]:
    """wasmtime-py with nothing of ours, for a program of `calls`: what it said, and how it ended."""
    engine = wasmtime.Engine()
    store, linker, wasi = wasmtime.Store(engine), wasmtime.Linker(engine), wasmtime.WasiConfig()
    linker.define_wasi()
    wasi.argv, wasi.stderr_file = ["main.wasm"], str(root / "stderr")
    for directory in calls.directories(root):
        wasi.preopen_dir(str(directory), f"/{directory.name}")
    store.set_wasi(wasi)
    code = 0
    try:
        linker.instantiate(store, wasmtime.Module(engine, wasm)).exports(store)["_start"](store)  # type: ignore[operator]  # a function
    except wasmtime.WasmtimeError:
        code = 1  # what the command line makes of arguments without meaning
    del store, linker, wasi
    report = root / "stderr"
    said = report.read_bytes()
    report.unlink()
    return code, said


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=" ".join)
def test_a_keep_answers_as_wasmtime_does(
    probe: bytes, run_guest: Runner, tmp_path: Path, behaviour: tuple[str, ...]
) -> None:
    """Output and exit code are the same, errnos included."""
    guest = tmp_path / "probe.wasm"
    guest.write_bytes(probe)
    ours = run_guest(probe, *behaviour, preopens=[(_data(tmp_path / "ours"), "/data")], fd_env=False)
    bare = _bare(guest, _data(tmp_path / "bare"), behaviour)
    assert (ours.code, ours.stdout.decode()) == (bare[0], bare[1].decode())
    if (cli := wasmtime_cli()) is not None and behaviour[
        0
    ] != "paths":  # version 49 has another answer to "a.txt/" than 50
        where = f"{_data(tmp_path / 'cli')}::/data"
        command = [cli, "run", "--argv0", "main.wasm", "--dir", where, str(guest), *behaviour]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=120)
        assert (done.returncode, done.stdout) == bare


@pytest.mark.parametrize("text", [
    '(module (func (export "_start") unreachable))',
    '(module (func $f (call $f)) (func (export "_start") (call $f)))',
    '(module (memory 1) (func (export "_start") (drop (i32.load (i32.const 65536)))))',
    '(module (func (export "_start") (drop (i32.div_u (i32.const 1) (i32.const 0)))))',
])  # fmt: skip
def test_a_trap_is_told_as_the_command_line_tells_it(run_guest: Runner, tmp_path: Path, text: str) -> None:
    """134, and the same reason."""
    guest = tmp_path / "trap.wasm"
    guest.write_bytes(wasmtime.wat2wasm(text))
    ours = run_guest(guest.read_bytes())
    assert ours.code == 134
    reason = next(line.strip() for line in ours.stderr.decode().splitlines() if "wasm trap:" in line)
    if (cli := wasmtime_cli()) is not None:
        done = subprocess.run([cli, "run", str(guest)], capture_output=True, check=False, timeout=120)
        assert done.returncode in {134, -6}
        assert reason.partition("wasm trap:")[2] in done.stderr.decode()


def test_an_argument_without_meaning_ends_a_program_as_it_ends_there(run_guest: Runner, tmp_path: Path) -> None:
    """wasmtime's WASI gives up on a clock that does not exist: exit code 1, and the reason."""
    text = """(module (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
      (memory (export "memory") 1) (func (export "_start") (drop (call $now (i32.const 99) (i64.const 0) (i32.const 0)))))"""
    guest = tmp_path / "clock.wasm"
    guest.write_bytes(wasmtime.wat2wasm(text))
    ours = run_guest(guest.read_bytes())
    assert ours.code == 1
    assert b"Invalid enum value Clockid" in ours.stderr
    if (cli := wasmtime_cli()) is not None:
        done = subprocess.run([cli, "run", str(guest)], capture_output=True, check=False, timeout=120)
        assert done.returncode == 1
        assert b"Invalid enum value Clockid" in done.stderr


@pytest.mark.parametrize("seed", range(24))
def test_calls_that_nobody_thought_of_are_answered_alike(run_guest: Runner, tmp_path: Path, seed: int) -> None:
    """Forty calls drawn at random: the same errnos and results, the same numbers for what is opened, the same files."""
    wasm = bytes(wasmtime.wat2wasm(calls.program(seed, 40)))
    (tmp_path / "bare").mkdir()
    code, said = _called(wasm, tmp_path / "bare")
    preopens = [(directory, f"/{directory.name}") for directory in calls.directories(tmp_path / "ours")]
    ours = run_guest(wasm, preopens=preopens, fd_env=False)
    assert ours.code == code
    assert code or ours.stderr == said
    assert calls.listing(tmp_path / "ours") == calls.listing(tmp_path / "bare")
