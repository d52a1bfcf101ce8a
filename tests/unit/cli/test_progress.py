"""Progress bars are for terminals, and for nobody else."""

import os
import pty
import subprocess
import sys

import pytest

from enarx.cli.progress import progress, size

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
