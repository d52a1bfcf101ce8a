"""What a program may use, and that whoever runs it lives to say how it ended."""

from collections.abc import Callable

import pytest

from .conftest import Runner

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'
FLOOD = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
    (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))))"""
SPIN = '(module (func (export "_start") (loop $l (br $l))))'
GROW = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
  (func (export "_start") (local $n i32)
    (loop $l (if (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)) (then
      (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $l))))
    (call $exit (local.get $n))))"""
# Grows by STEP pages, COUNT times; writes to each page which it is, and reads all of them again at the end.
SPIKE = """(module (memory (export "memory") 1)
  (func (export "_start") (local $n i32) (local $at i32)
    (loop $grow
      (if (i32.lt_s (memory.grow (i32.const STEP)) (i32.const 0)) (then unreachable))
      (br_if $grow (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const COUNT))))
    (loop $write
      (i32.store (i32.shl (local.get $at) (i32.const 16)) (local.get $at))
      (br_if $write (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (memory.size))))
    (loop $read
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (if (i32.ne (i32.load (i32.shl (local.get $at) (i32.const 16))) (local.get $at)) (then unreachable))
      (br_if $read (local.get $at)))))"""


@pytest.mark.parametrize(("step", "count"), [(245, 1), (1, 4000), (16383, 1)])
def test_memory_is_there_when_it_is_wanted(
    run_guest: Runner, wat: Callable[[str], bytes], step: int, count: int
) -> None:
    """16 MB at once, 250 MB in steps, a whole GiB: all of it holds what was written (6.4: memspike, memory_stress)."""
    assert run_guest(wat(SPIKE.replace("STEP", str(step)).replace("COUNT", str(count)))).code == 0


def test_a_loop_is_stopped_by_time_and_by_fuel(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """152 as a shell has it for SIGXCPU, and standard error says by which limit."""
    timed = run_guest(wat(SPIN), toml="[limits]\nseconds = 1")
    assert timed.code == 152
    assert timed.stderr == b"enarx: error: the program was stopped by limits.seconds: it has run for 1 seconds\n"
    fueled = run_guest(wat(SPIN), toml="[limits]\nfuel = 1000000")
    assert fueled.code == 152
    assert fueled.stderr == b"enarx: error: the program was stopped by limits.fuel: it has used up 1000000\n"
    assert run_guest(wat('(module (func (export "_start")))'), toml="[limits]\nfuel = 100000").code == 0


def test_a_flood_of_output_is_stopped(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Exactly so many bytes are printed, then it is stopped with 153."""
    outcome = run_guest(wat(FLOOD), toml=STDIO + '[limits]\noutput = 2500\n[log]\nformat = "json"')
    assert outcome.code == 153
    assert len(outcome.stdout) == 2500
    assert (
        b'{"level": "error", "event": "stopped", "message": "the program was stopped by limits.output' in outcome.stderr
    )


def test_memory_does_not_grow_beyond_its_limit(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Growing fails, and the program may go on."""
    assert run_guest(wat(GROW), toml='[limits]\nmemory = "1 MiB"').code == 15


def test_only_so_many_descriptors_are_open(probe: bytes, run_guest: Runner) -> None:
    """Opening more is MFILE (33) for the program."""
    outcome = run_guest(probe, "open-many", "3", toml=STDIO + "[limits]\ndescriptors = 10\n", files={"a.txt": b""})
    assert outcome.stdout == b"6 then 33\n"


def test_a_log_that_is_off_says_nothing(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """The code alone tells how it ended."""
    outcome = run_guest(wat(SPIN), toml='[limits]\nfuel = 1000\n[log]\nlevel = "off"')
    assert (outcome.code, outcome.stderr) == (152, b"")
