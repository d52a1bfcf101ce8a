"""Progress bars are for terminals, and for nobody else."""

import io
import os
import pty
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enarx.cli.progress import ERASE, Activity, progress, size

PROGRAM = """
from enarx.cli.progress import progress
with progress("publishing", 4_000_000) as on_bytes:
    on_bytes(3_000_000)
    on_bytes(-1_000_000)
print("done")
"""


def test_a_terminal_is_shown_what_passes() -> None:
    """On a terminal: what is done, how much of it, at which rate; standard output stays clean."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stderr=theirs, stdout=subprocess.PIPE, env=environment, check=True
        )
        os.close(theirs)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
    assert done.stdout == b"done\n"
    assert b"publishing" in shown
    assert b"2.0/4.0 MB" in shown


def _read(terminal: object) -> bytes:
    try:
        return bytes(terminal.read(4096))  # type: ignore[attr-defined]  # a raw file
    except OSError:  # the other end of a terminal that was closed
        return b""


def test_nothing_is_shown_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    """In a pipe, or when asked to be quiet, not a byte."""
    with progress("publishing", 10) as on_bytes:
        on_bytes(10)
    assert capfd.readouterr() == ("", "")


def test_sizes_for_people() -> None:
    """Decimal units, as disks and networks have them."""
    assert [size(count) for count in (0, 999, 1000, 34_700, 1_500_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "34.7 kB",
        "1.5 GB",
    ]


class Terminal(io.StringIO):
    """A terminal, and everything that it was told."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_long_wait_is_told_and_gone_before_the_next_line(terminal: Terminal) -> None:
    """What is waited for and since when, on one line; nothing of it stays."""
    with Activity(terminal) as activity:
        activity.now("waiting for the moon")
        while "waiting for the moon (1 s)" not in terminal.getvalue():
            time.sleep(0.01)
        with activity.aside():
            terminal.write("a line\n")
        assert f"{ERASE}a line\n" in terminal.getvalue()
    assert terminal.getvalue().endswith(("a line\n", ERASE))


def test_a_short_wait_is_not_worth_a_word(terminal: Terminal) -> None:
    """What is over at once leaves the terminal alone."""
    with Activity(terminal) as activity:
        activity.now("a moment")
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("term", "quiet"), [("dumb", False), ("xterm", True)])
def test_nobody_else_is_told(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, term: str, quiet: bool) -> None:
    """Not a terminal that cannot erase, not one whose user wants JSON; and a file is no terminal."""
    monkeypatch.setenv("TERM", term)
    file = io.StringIO()
    with Activity(terminal, quiet=quiet) as one, Activity(file) as other:
        one.now("waiting")
        other.now("waiting")
        time.sleep(0.8)
    assert terminal.getvalue() == file.getvalue() == ""


def test_deploy_tells_what_it_waits_for(tmp_path: Path) -> None:
    """While a registry takes its time that is told; when it hangs up the line is gone, and the refusal stands there."""
    ours, theirs = pty.openpty()
    with socket.create_server(("127.0.0.1", 0)) as silent, os.fdopen(ours, "rb", buffering=0) as terminal:
        slug = f"127.0.0.1:{silent.getsockname()[1]}/user/repo:1.0.0"
        process = subprocess.Popen(
            [sys.executable, "-m", "enarx", "deploy", "--insecure", "--backend", "nil", slug],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "HOME": str(tmp_path)},
        )
        os.close(theirs)
        shown = b""
        while b"asking the registry" not in shown and (chunk := _read(terminal)):
            shown += chunk
        silent.accept()[0].close()
        silent.close()
        output, _ = process.communicate(timeout=60)
        while chunk := _read(terminal):
            shown += chunk
    assert (process.returncode, output) == (69, b"")
    last = shown[shown.rindex(b"asking the registry") :]
    assert last[last.rindex(ERASE.encode()) :].startswith(f"{ERASE}enarx: refused at tag: ".encode())
