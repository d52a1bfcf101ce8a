"""Where addresses or executable memory are not to be had, programs run all the same, and trap as exactly."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import wasmtime

from enarx.errors import MalformedError
from enarx.keep.config import Translator
from enarx.keep.runtime.engine import Compiler, configuration, new_engine
from enarx.keep.runtime.runner import HINTS
from enarx.keep.runtime.surroundings import Surroundings, probe

CONFINED = """
import ctypes, resource, sys
import enarx.cli.main, enarx.cli.run, ssl, wasmtime
from enarx.keep.runtime.surroundings import probe
if "addresses" in sys.argv[1]:
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
if "code" in sys.argv[1] and ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit("no such rule in this kernel")
print(probe(), flush=True)
sys.argv = ["enarx", "run", *sys.argv[2:]]
enarx.cli.main.main()
"""
PROGRAM = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "from the Keep\\n")
  (func (export "_start")
    (if (i32.eq (memory.grow (i32.const 200)) (i32.const -1)) (then (call $exit (i32.const 1))))
    (i32.store8 (i32.const 12000000) (i32.const 7))
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 14))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 42))))
"""
OUTSIDE = '(module (memory (export "memory") 1) (func (export "_start") (drop (i32.load (i32.const 0x7fffffff)))))'
DIVISION = (
    '(module (memory (export "memory") 1) (func (export "_start") (drop (i32.div_s (i32.const 1) (i32.const 0)))))'
)
PLACES = {
    "nothing": Surroundings(),
    "addresses": Surroundings(reserves=False),
    "code": Surroundings(executes=False),
    "addresses and code": Surroundings(reserves=False, executes=False),
}


@pytest.mark.parametrize("compiler", ["cranelift", "winch"])
@pytest.mark.parametrize("place", list(PLACES))
def test_a_program_runs_the_same_whatever_the_place_refuses(tmp_path: Path, place: str, compiler: str) -> None:
    """Output and exit code are the program's, its memory grows, and what is outside of it or undefined traps."""
    outcomes = []
    config = tmp_path / "Enarx.toml"
    config.write_text(f'compiler = "{compiler}"\n[[files]]\nkind = "null"\n[[files]]\nkind = "stdout"\n')
    for name, text in (("program", PROGRAM), ("outside", OUTSIDE), ("division", DIVISION)):
        file = tmp_path / f"{name}.wat"
        file.write_text(text)
        arguments = [place, "--wasmcfgfile", str(config), str(file)]
        done = subprocess.run(
            [sys.executable, "-c", CONFINED, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        if "no such rule" in done.stderr:
            pytest.skip("this kernel cannot refuse memory that becomes executable")
        found, _, out = done.stdout.partition("\n")
        assert found == repr(PLACES[place])
        outcomes.append((done.returncode, out, "out of bounds" in done.stderr or "divide by zero" in done.stderr))
    assert outcomes == [(42, "from the Keep\n", False), (134, "", True), (134, "", True)]


def test_winch_compiles_where_machine_code_runs_and_its_traps_are_signals() -> None:
    """Its code is another, so it is kept under another name; elsewhere both compilers' code is Cranelift's."""
    differ = {
        name: configuration(place=place, compiler="winch") != configuration(place=place)
        for name, place in PLACES.items()
    }
    assert differ == {"nothing": True, "addresses": False, "code": False, "addresses and code": False}
    text = "(module " + "(func (param i32) (result i32) local.get 0 i32.const 7 i32.mul i32.const 0 i32.add)" * 9 + ")"
    codes = [
        bytes(wasmtime.Module(new_engine(place=PLACES["nothing"], compiler=compiler), text).serialize())
        for compiler in get_args(Translator)
    ]
    assert codes[0] != codes[1]


def test_what_winch_does_not_know_is_an_error_that_names_the_other_compiler() -> None:
    """A program with a tail call runs with Cranelift, and says what to do when Winch was asked for."""
    text = "(module (func $again (return_call $again)))"
    for compiler in get_args(Translator):
        made = Compiler(new_engine(compiler=compiler), None, "", hint=HINTS[compiler])
        if compiler == "cranelift":
            made.module(text, "main.wasm")
            continue
        with pytest.raises(MalformedError, match=r'^main\.wasm: .*compiler = "cranelift" in Enarx\.toml does$'):
            made.module(text, "main.wasm")


def test_this_place_is_tried_once() -> None:
    """The answer is kept for the life of the process."""
    assert probe() is probe()
