"""How a program starts and ends: entry points, exit codes, traps, modules that cannot run."""

import importlib.metadata
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.keep.runtime import Stdio, engine, run
from enarx.keep.workload import Workload

from .conftest import Runner

EXIT = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const {}))))"""


def test_wasmtime_is_the_version_whose_structures_are_known() -> None:
    """Private structures of wasmtime are used, so exactly the pinned version is installed."""
    assert importlib.metadata.version("wasmtime") == engine.WASMTIME


@pytest.mark.parametrize("name", ["_start", ""])
def test_what_an_entry_point_returns_is_ignored(run_guest: Runner, wat: Callable[[str], bytes], name: str) -> None:
    """A function that returns 1 exits 0, under either name (6.4: return_1)."""
    assert run_guest(wat(f'(module (func (export "{name}") (result i32) i32.const 1))')).code == 0


def test_a_module_without_entry_point_is_refused(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Nothing to call is an error that names what was expected (6.4: no_export)."""
    with pytest.raises(MalformedError, match=r"main\.wasm: no entry point, expected an exported function `_start`"):
        run_guest(wat('(module (func (export "main")))'))
    with pytest.raises(MalformedError, match="the entry point expects arguments"):
        run_guest(wat('(module (func (export "_start") (param i32)))'))


def test_a_reactor_is_initialized_before_its_default_function(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """_initialize runs first, once."""
    text = """(module (global $ready (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
      (func (export "") (if (i32.ne (global.get $ready) (i32.const 1)) (then unreachable))))"""
    assert run_guest(wat(text)).code == 0


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 134, 200, 255])
def test_exit_codes_come_through_exactly(run_guest: Runner, wat: Callable[[str], bytes], code: int) -> None:
    """proc_exit(n) is exit code n, and 0 is success."""
    assert run_guest(wat(EXIT.format(code))).code == code


@pytest.mark.parametrize("code", [256, 1000, -1])
def test_an_exit_status_beyond_255_is_an_error(run_guest: Runner, wat: Callable[[str], bytes], code: int) -> None:
    """A status that no process can have is refused, not cut short."""
    with pytest.raises(MalformedError, match=f"expected an exit status from 0 to 255, found {code % 2**32}"):
        run_guest(wat(EXIT.format(code)))


def test_a_trap_prints_the_backtrace_and_gives_134(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """wasmtime's words, with function names, on standard error; the code is that of an abort."""
    text = '(module (func $inner unreachable) (func $outer (call $inner)) (func (export "_start") (call $outer)))'
    outcome = run_guest(wat(text))
    assert outcome.code == 134
    assert b"wasm trap: wasm `unreachable` instruction executed" in outcome.stderr
    assert re.search(rb"!inner\n.*!outer\n", outcome.stderr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(module (import "env" "f" (func)) (func (export "_start")))', "imports env::f, which a Keep does not have"),
        (
            '(module (import "wasi_snapshot_preview1" "sock_open" (func)) (func (export "_start")))',
            "imports wasi_snapshot_preview1::sock_open, which a Keep does not have",
        ),
        (
            '(module (import "wasi_snapshot_preview1" "fd_close" (func)) (func (export "_start")))',
            "incompatible import type",
        ),
        (
            '(module (import "env" "m" (memory 1)) (func (export "_start")))',
            "imports env::m, which a Keep does not have",
        ),
        ('(module (func (export "memory")) (func (export "_start")))', "expected the export `memory` to be a memory"),
    ],
)
def test_modules_that_do_not_fit_are_refused(
    run_guest: Runner, wat: Callable[[str], bytes], text: str, message: str
) -> None:
    """Imports and memory are checked before the program runs, and the reason is said."""
    with pytest.raises(MalformedError, match=re.escape(message)):
        run_guest(wat(text))


def test_broken_code_is_refused_by_name(run_guest: Runner) -> None:
    """What wasmtime cannot compile is malformed."""
    with pytest.raises(MalformedError, match=r"^main.wasm: "):
        run_guest(b"\0asm\1\0\0\0\7\7")


def test_a_program_without_memory_can_still_exit(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Where there is no memory every address is outside, and nothing else changes."""
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (func (export "_start")
        (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0)))))"""
    assert run_guest(wat(text)).code == 21


FEATURES = {
    "memory64": """(module (memory (export "memory") i64 1)
      (func (export "_start") (i64.store (i64.const 8) (i64.const 5))
        (if (i64.ne (i64.load (i64.const 8)) (i64.const 5)) (then unreachable))))""",
    "simd": """(module (func (export "_start")
      (if (i32.ne (i32x4.extract_lane 2 (i32x4.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 1 1 1 1)))
        (i32.const 4)) (then unreachable))))""",
    "relaxed-simd": """(module (func (export "_start")
      (drop (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 1 2 3 4)))))""",
    "exceptions": """(module (tag $oops (param i32)) (func (export "_start")
      (if (i32.ne (block $caught (result i32) (try_table (catch $oops $caught) (throw $oops (i32.const 7))) (i32.const 0))
        (i32.const 7)) (then unreachable))))""",
    "gc": """(module (type $pair (struct (field i32) (field i32))) (func (export "_start")
      (if (i32.ne (struct.get $pair 1 (struct.new $pair (i32.const 1) (i32.const 2))) (i32.const 2)) (then unreachable))))""",
    "tail-call": """(module (func $f (param i32) (result i32) (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
      (else (return_call $f (i32.sub (local.get 0) (i32.const 1))))))
      (func (export "_start") (drop (call $f (i32.const 1000000)))))""",
    "multi-memory": """(module (memory $a 1) (memory $b 1) (func (export "_start")
      (i32.store $b (i32.const 0) (i32.const 3)) (if (i32.load $a (i32.const 0)) (then unreachable))))""",
}


@pytest.mark.parametrize("name", FEATURES)
def test_what_wasmtime_enables_is_enabled(run_guest: Runner, wat: Callable[[str], bytes], name: str) -> None:
    """Proposals that wasmtime has on by default are on in a Keep."""
    assert run_guest(wat(FEATURES[name])).code == 0


def test_a_program_with_64_bit_addresses_prints(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """WASI's addresses have 32 bits; a memory64 program reaches its first 4 GiB with them."""
    text = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") i64 1) (data (i64.const 64) "wide\\0a")
      (func (export "_start") (i32.store (i64.const 0) (i32.const 64)) (i32.store (i64.const 4) (i32.const 5))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (if (i32.ne (i32.load (i64.const 8)) (i32.const 5)) (then unreachable))))"""
    outcome = run_guest(wat(text))
    assert (outcome.code, outcome.stdout) == (0, b"wide\n")


ADD = '(module (func (export "add") (param i32 i64) (result i64) (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1))))'


def test_an_exported_function_can_be_invoked(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Arguments are numbers, the result is printed, mistakes are named."""
    assert run_guest(wat(ADD), "2", "0x10", invoke="add").stdout == b"18\n"
    for arguments, name, message in (
        (("2",), "add", "`add` takes 2 arguments, found 1"),
        (("2", "x"), "add", r"`add`: expected a number \(i64\), found 'x'"),
        ((), "sub", "exports no function `sub`; it has add"),
    ):
        with pytest.raises(MalformedError, match=message):
            run_guest(wat(ADD), *arguments, invoke=name)


@given(st.binary(max_size=60))
@settings(max_examples=50)
def test_any_bytes_run_or_are_malformed(tail: bytes) -> None:
    """Whatever follows the header of a module, the runtime answers with a code or with MalformedError."""
    try:
        run(Workload(wasm=b"\0asm\1\0\0\0" + tail), identity=None, stdio=Stdio())
    except MalformedError:
        return


def test_a_function_that_is_invoked_may_end_the_program(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """proc_exit there, or in what makes a reactor ready, is the exit code; what is beyond 255 is refused as ever."""
    assert run_guest(wat(EXIT.format(7)), invoke="_start").code == 7
    assert run_guest(wat(EXIT.format(7).replace("_start", "_initialize"))).code == 7
    with pytest.raises(MalformedError, match="expected an exit status from 0 to 255, found 256"):
        run_guest(wat(EXIT.format(256)), invoke="_start")
    with pytest.raises(MalformedError, match=r"`add`: expected a number of 32 bits \(i32\), found 4294967296"):
        run_guest(wat(ADD), "4294967296", "1", invoke="add")
    vector = '(module (func (export "v") (result v128) (v128.const i64x2 1 2)))'
    with pytest.raises(MalformedError, match="`v`"):  # what the library cannot hand over is no bug of ours
        run_guest(wat(vector), invoke="v")
