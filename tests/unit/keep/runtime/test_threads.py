"""Programs with threads: common memory, common descriptors, one end."""

from collections.abc import Callable

import pytest

from enarx.errors import MalformedError

from .conftest import Runner

# Four threads add 1000 each, atomically, and count themselves out; the first waits for them, then exits with 42.
COUNT = """(module
  (import "env" "memory" (memory 1 4 shared))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (export "memory" (memory 0))
  (data (i32.const 128) "done\\0a")
  (func (export "wasi_thread_start") (param $tid i32) (param $arg i32) (local $i i32)
    (loop $l
      (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
    (drop (i32.atomic.rmw.add (i32.const 4) (i32.const 1)))
    (drop (memory.atomic.notify (i32.const 4) (i32.const 1))))
  (func (export "_start") (local $n i32)
    (loop $s
      (if (i32.lt_s (call $spawn (i32.const 0)) (i32.const 1)) (then unreachable))
      (br_if $s (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4))))
    (block $all (loop $w
      (br_if $all (i32.eq (i32.atomic.load (i32.const 4)) (i32.const 4)))
      (drop (memory.atomic.wait32 (i32.const 4) (i32.atomic.load (i32.const 4)) (i64.const 10000000)))
      (br $w)))
    (if (i32.ne (i32.atomic.load (i32.const 0)) (i32.const 4000)) (then unreachable))
    (i32.store (i32.const 16) (i32.const 128)) (i32.store (i32.const 20) (i32.const 5))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
    (call $exit (i32.const 42))))"""

# The first spawns a thread that does WHAT, and spins for ever.
OTHER = """(module
  (import "env" "memory" (memory 1 1 shared))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (export "memory" (memory 0))
  (func (export "wasi_thread_start") (param i32 i32) WHAT)
  (func (export "_start") (drop (call $spawn (i32.const 0))) FIRST))"""
SPIN = "(loop $l (br $l))"
SLEEP = """(i64.store (i32.const 536) (i64.const 1)) (i32.store (i32.const 528) (i32.const 1))
  (i64.store (i32.const 536) (i64.const 1000000000000000))
  (drop (call $poll (i32.const 512) (i32.const 1024) (i32.const 1) (i32.const 2048)))"""


def test_threads_share_memory_and_descriptors(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Four threads count to 4000 together, and the first says so and exits."""
    outcome = run_guest(wat(COUNT))
    assert (outcome.code, outcome.stdout) == (42, b"done\n")


ASLEEP = "(drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))"


@pytest.mark.parametrize("first", [SPIN, SLEEP, ASLEEP])
def test_a_thread_can_end_the_program(run_guest: Runner, wat: Callable[[str], bytes], first: str) -> None:
    """proc_exit in a thread is the exit of all, whatever the first does."""
    text = OTHER.replace("WHAT", "(call $exit (i32.const 7))").replace("FIRST", first)
    assert run_guest(wat(text)).code == 7


def test_a_thread_cannot_end_it_beyond_what_a_process_can_say(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """An exit status of 256 is refused there, too."""
    with pytest.raises(MalformedError, match="expected an exit status from 0 to 255, found 256"):
        run_guest(wat(OTHER.replace("WHAT", "(call $exit (i32.const 256))").replace("FIRST", SPIN)))


def test_a_trap_in_a_thread_ends_the_program(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """The backtrace is printed and the code is 134."""
    outcome = run_guest(wat(OTHER.replace("WHAT", "unreachable").replace("FIRST", SPIN)))
    assert outcome.code == 134
    assert b"wasm `unreachable` instruction executed" in outcome.stderr


def test_the_end_of_the_first_is_the_end(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Returning from _start ends threads that compute or sleep, with 0."""
    for other in (SPIN, SLEEP):
        assert run_guest(wat(OTHER.replace("WHAT", other).replace("FIRST", ""))).code == 0


def test_a_descriptor_that_one_closes_is_closed_for_all(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """The table is one: closing 1 in a thread makes closing it again BADF (8) in the first."""
    wait = "(loop $l (br_if $l (i32.eqz (i32.atomic.load (i32.const 0))))) (call $exit (call $close (i32.const 1)))"
    what = "(drop (call $close (i32.const 1))) (i32.atomic.store (i32.const 0) (i32.const 1))"
    assert run_guest(wat(OTHER.replace("WHAT", what).replace("FIRST", wait))).code == 8


def test_there_are_only_so_many_threads(run_guest: Runner, wat: Callable[[str], bytes]) -> None:
    """Beyond limits.instances a thread is refused with -1; more shared memory than limits.memory is refused whole."""
    text = """(module (import "env" "memory" (memory 1 4 shared))
      (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (func (export "wasi_thread_start") (param i32 i32) (loop $l (br $l)))
      (func (export "_start")
        (if (i32.ne (call $spawn (i32.const 0)) (i32.const 1)) (then unreachable))
        (call $exit (i32.eq (call $spawn (i32.const 0)) (i32.const -1)))))"""
    assert run_guest(wat(text), toml="[limits]\ninstances = 2").code == 1
    with pytest.raises(MalformedError, match=r"its threads share up to 262144 bytes, and limits.memory is 65536"):
        run_guest(wat(text), toml="[limits]\nmemory = 65536")
