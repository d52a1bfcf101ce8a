"""Standard streams, arguments and environment, as a program sees them."""

import os
import threading

import pytest
import wasmtime

from enarx.errors import MalformedError
from enarx.keep.config import Config
from enarx.keep.runtime import Stdio, run
from enarx.keep.workload import Workload

from .conftest import Runner, Starter

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def test_two_mebibytes_pass_unchanged(probe: bytes) -> None:
    """What is written to standard input comes out of standard output, whatever its size (6.4: echo)."""
    pattern = bytes(range(256)) * 8192
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(pattern)

    feeder = threading.Thread(target=feed)
    feeder.start()
    out = bytearray()
    stdio = Stdio(stdin=reader, stdout=out.extend, stderr=None)
    assert run(Workload(wasm=probe), identity=None, stdio=stdio, extra_args=["echo"]) == 0
    feeder.join()
    os.close(reader)
    assert bytes(out) == pattern


def test_arguments_and_environment_come_in_order(probe: bytes, run_guest: Runner) -> None:
    """argv[0] is main.wasm, then the configuration's, then the command's; FD_COUNT and FD_NAMES come first."""
    toml = 'args = ["environment", "one two"]\nenv = { A = "1" }\n' + STDIO
    outcome = run_guest(probe, "three", toml=toml)
    assert outcome.stdout.decode().splitlines() == [
        "arg main.wasm",
        "arg environment",
        "arg one two",
        "arg three",
        "env FD_COUNT=3",
        "env FD_NAMES=stdin:stdout:stderr",
        "env A=1",
    ]
    assert b"FD_" not in run_guest(probe, toml=toml, fd_env=False).stdout


def test_without_a_configuration_there_are_three_streams(probe: bytes, run_guest: Runner) -> None:
    """Default standard streams are told as they are."""
    assert b"env FD_NAMES=stdin:stdout:stderr\n" in run_guest(probe, "environment").stdout


def test_names_are_told_as_the_configuration_gives_them(probe: bytes, run_guest: Runner) -> None:
    """A name of one's own, a default and a null device, in the order of `files`; the fourth descriptor is closed."""
    toml = '[[files]]\nkind="null"\n[[files]]\nkind="stdout"\nname="out"\n[[files]]\nkind="stderr"\n'
    outcome = run_guest(probe, "environment", toml=toml)
    assert b"env FD_COUNT=3\nenv FD_NAMES=null:out:stderr\n" in outcome.stdout
    assert run_guest(probe, "describe", "3", toml=toml).stdout.startswith(b"fdstat 8\nfilestat 8\nprestat 8\n")


def test_an_empty_configuration_leaves_a_program_without_descriptors(probe: bytes, run_guest: Runner) -> None:
    """`files` left out gives none: writing goes nowhere, and nothing is printed."""
    outcome = run_guest(probe, "environment", toml="")
    assert (outcome.stdout, outcome.stderr) == (b"", b"")


def test_null_is_empty_and_swallows(probe: bytes, run_guest: Runner) -> None:
    """Reading null is the end of file, writing succeeds."""
    toml = STDIO + '[[files]]\nkind="null"\n'
    assert run_guest(probe, "null", "3", toml=toml).stdout == b"0 3\n"
    described = run_guest(probe, "describe", "3", toml=toml).stdout.decode()
    assert "prestat 0 tag 1" in described  # no directory, and not closed: start-up scans go on
    assert "seek 70 tell 70" in described


def test_standard_input_that_stays_open_is_reported_by_poll_after_a_short_read(start_guest: Starter) -> None:
    """What was read ahead is no secret to poll: five bytes left are five bytes ready."""
    code = """(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store8 (i32.const 136) (i32.const 1))
        (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))
        (call $exit (i32.wrap_i64 (i64.load (i32.const 272))))))"""
    assert start_guest(bytes(wasmtime.wat2wasm(code)), stdin=b"hello\n").join().code == 5


def test_output_of_a_program_to_a_closed_pipe_is_its_error(probe: bytes) -> None:
    """A reader that has gone away is EPIPE for the program, and no traceback of ours."""
    reader, writer = os.pipe()
    os.close(reader)
    source, feed = os.pipe()
    os.write(feed, b"x")
    os.close(feed)
    stdio = Stdio(stdin=source, stdout=writer, stderr=None)
    assert run(Workload(wasm=probe), identity=None, stdio=stdio, extra_args=["echo"]) == 2
    os.close(source)
    os.close(writer)


def test_a_tls_file_needs_an_identity(probe: bytes) -> None:
    """Without a certificate nothing is served, and the configuration is named."""
    config = Config.parse('[[files]]\nkind="listen"\nname="x"\nprot="tls"\nport=0')
    with pytest.raises(MalformedError, match='a file has prot = "tls", and this Keep has no certificate'):
        run(Workload(wasm=probe, config=config), identity=None, stdio=Stdio())
