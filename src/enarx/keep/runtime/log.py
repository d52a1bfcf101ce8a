"""What the Keep itself says while a program runs: refused peers, limits, renewals; lines on standard error.

Only names, addresses and reasons are said, never bytes of the program. A line that the reader of standard error does
not take at once is dropped: a log must not stop a program.
"""

import contextlib
import os
import select
from collections.abc import Mapping
from typing import Final

from enarx.keep.config import Level
from enarx.keep.config import Log as Settings
from enarx.keep.runtime.stdio import Output

ORDER: Final[Mapping[Level, int]] = {"off": 0, "error": 1, "warn": 2, "info": 3, "debug": 4}


class Log:
    """Lines at or above the configured level."""

    def __init__(self, settings: Settings, target: Output) -> None:
        self._settings, self._target = settings, target

    def say(self, level: Level, event: str, text: str) -> None:
        """`event` is a word for programs, `text` a sentence for people."""
        if ORDER[level] > ORDER[self._settings.level]:
            return
        if self._settings.format == "json":
            import json  # noqa: PLC0415 - most programs end without a line

            line = json.dumps({"level": level, "event": event, "message": text}, ensure_ascii=False)
        else:
            line = f"enarx: {level}: {text}"
        self._write(line.replace("\n", " ").encode() + b"\n")

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if callable(self._target):
                self._target(line)
            elif self._target is not None:
                poller = select.poll()
                poller.register(self._target, select.POLLOUT)
                if poller.poll(0):
                    os.write(self._target, line)
