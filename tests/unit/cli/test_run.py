"""`enarx run`: the program's output and code are the command's; what it is, is said."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.run import run
from enarx.cli.running import load
from enarx.errors import EnarxError, MalformedError, NotFoundError

ECHO = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 42))))"""

SPIN = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 64) "go\\0a")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 3))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $l (br $l))))"""

COMMAND = [sys.executable, "-c", "from enarx.cli.run import run; run(prog_name='enarx run')"]


def _start(*args: str) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *args], stdin=pipe, stdout=pipe, stderr=pipe)


def test_input_output_and_code_pass_through(tmp_path: Path) -> None:
    """Piped input reaches the program, its output comes out alone, its exit code is ours; stderr says what it is."""
    (tmp_path / "echo.wat").write_text(ECHO)
    with _start(str(tmp_path / "echo.wat")) as process:
        out, err = process.communicate(b"through", timeout=60)
    assert (process.returncode, out) == (42, b"through")
    (line,) = err.decode().splitlines()
    assert "nothing is protected" in line


def test_json_says_what_runs_and_how_it_ended(tmp_path: Path) -> None:
    """With --json there is one line when it starts and one when it ends."""
    (tmp_path / "echo.wat").write_text(ECHO)
    with _start("--json", str(tmp_path / "echo.wat")) as process:
        _, err = process.communicate(b"x", timeout=60)
    first, last = map(json.loads, err.splitlines())
    assert (first["event"], first["protected"], first["listening"]) == ("running", False, [])
    assert last == {"event": "exit", "source": "program", "code": 42}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_program_that_only_computes(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM work while WebAssembly computes."""
    (tmp_path / "spin.wat").write_text(SPIN)
    with _start(str(tmp_path / "spin.wat")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_program_that_waits_for_input(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM work while the program blocks."""
    (tmp_path / "echo.wat").write_text(ECHO)
    with _start(str(tmp_path / "echo.wat")) as process:
        assert process.stderr is not None
        assert b"nothing is protected" in process.stderr.readline()
        process.send_signal(number)
        process.wait(timeout=60)
        assert process.returncode == 128 + number


def _refusal(*args: str) -> BaseException:
    result = CliRunner().invoke(run, args)
    assert isinstance(result.exception, EnarxError)
    return result.exception


def test_what_cannot_be_read_or_run_is_refused_by_name(tmp_path: Path) -> None:
    """The file that is missing or wrong is in the message."""
    assert str(_refusal(str(tmp_path / "none.wasm"))) == f"{tmp_path}/none.wasm: No such file or directory"
    (tmp_path / "text.wasm").write_text("hello")
    assert f"{tmp_path}/text.wasm: expected a WebAssembly module" in str(_refusal(str(tmp_path / "text.wasm")))
    (tmp_path / "bad.wat").write_text("(module (func")
    assert isinstance(_refusal(str(tmp_path / "bad.wat")), MalformedError)
    (tmp_path / "echo.wat").write_text(ECHO)
    missing = _refusal(str(tmp_path / "echo.wat"), "--wasmcfgfile", str(tmp_path / "none.toml"))
    assert isinstance(missing, NotFoundError)
    (tmp_path / "Enarx.toml").write_text("argz = []")
    wrong = _refusal(str(tmp_path / "echo.wat"), "--wasmcfgfile", str(tmp_path / "Enarx.toml"))
    assert str(wrong) == f"{tmp_path}/Enarx.toml:1: argz: unknown key; did you mean 'args'?"


def test_a_lone_file_has_its_own_name_in_errors(tmp_path: Path) -> None:
    """What inside is called main.wasm is told by the name that was given; text is known by its look as well."""
    (tmp_path / "text").write_text(';; by hand\n(module (func (export "f")))')
    assert str(_refusal(str(tmp_path / "text"))).startswith(f"{tmp_path}/text: no entry point")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_is_an_empty_one(tmp_path: Path, closed: str) -> None:
    """Nothing that the Keep opens is taken for it: reading is the end, writing goes nowhere, the program runs."""
    (tmp_path / "echo.wat").write_text(ECHO)
    door = f"{shlex.quote(sys.executable)} -c 'from enarx.cli.door import main; main()' run"
    line = f"{door} {shlex.quote(str(tmp_path / 'echo.wat'))} {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], input=b"in", capture_output=True, timeout=60, check=False)
    assert done.returncode == 42, done.stderr
    assert done.stdout == (b"in" if closed == "2>&-" else b"")


def test_a_directory_is_a_package(tmp_path: Path) -> None:
    """main.wasm runs, Enarx.toml configures, the rest is data; hidden files and links stay outside."""
    (tmp_path / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "Enarx.toml").write_text("args = ['a']")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("x")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "link").symlink_to("/etc/passwd")
    workload = load(tmp_path, None)
    assert workload.config.args == ("a",)
    assert dict(workload.files) == {"data/x.txt": b"x"}
    other = tmp_path / "Other.toml"
    other.write_text("args = ['b']")
    assert load(tmp_path, other).config.args == ("b",)


def test_options_that_make_no_sense_are_usage_errors(tmp_path: Path) -> None:
    """A variable without a name and a directory that is none are refused before anything runs."""
    (tmp_path / "echo.wat").write_text(ECHO)
    module = str(tmp_path / "echo.wat")
    assert CliRunner().invoke(run, [module, "--env", "=x"]).exit_code == 2
    assert CliRunner().invoke(run, [module, "--dir", str(tmp_path / "none")]).exit_code == 2
    assert CliRunner().invoke(run, [module, "--backend", "sgx"]).exit_code == 2
