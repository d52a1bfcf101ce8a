"""Progress of long transfers and long waits, on standard error and only when that is a terminal."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self, TextIO

PATIENCE: Final = 0.5  # seconds before a wait is worth a word
TURN: Final = 0.1  # seconds between two pictures
PICTURES: Final = "|/-\\"
ERASE: Final = "\r\x1b[K"


@contextmanager
def progress(what: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar with sizes, rate and time left; what is given is called with bytes as they pass, negative ones included."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, advance=size)


class Activity:
    """One line that says what is waited for, and since when; it is gone before anything else is written.

    Apart from `progress`, whose library takes longer to load than most of these waits last.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet or not self._stream.isatty() or os.environ.get("TERM", "dumb") == "dumb"
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._what, self._since, self._shown = "", 0.0, False
        self._thread = threading.Thread(target=self._turn, name="activity", daemon=True)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def now(self, what: str) -> None:
        """What is waited for from now on."""
        with self._lock:
            self._what, self._since = what, time.monotonic()

    def end(self) -> None:
        """Nothing more, for the stream is somebody else's now."""
        self._over.set()
        with self.aside():
            self._what = ""
        if self._thread.ident is not None:
            self._thread.join()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While something else is written."""
        with self._lock:
            if self._shown:
                self._stream.write(ERASE)
                self._stream.flush()
                self._shown = False
            yield

    def _turn(self) -> None:
        turn = 0
        while not self._over.wait(TURN):
            with self._lock:
                since = time.monotonic() - self._since
                if self._what and since >= PATIENCE and not self._over.is_set():
                    picture, turn = PICTURES[turn % len(PICTURES)], turn + 1
                    self._stream.write(f"{ERASE}{picture} {self._what} ({since:.0f} s)")
                    self._stream.flush()
                    self._shown = True


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def counted(files: int) -> str:
    """How many files, for people."""
    return "1 file" if files == 1 else f"{files} files"
