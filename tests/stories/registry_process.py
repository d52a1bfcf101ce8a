"""`drawbridge` and `enarx` as processes, for the stories that need both."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Enarx:
    """`enarx(…)` runs in a process of its own, in a home of its own; `start` does not wait for its end."""

    environment: Mapping[str, str]

    def __call__(self, *arguments: str, **env: str) -> Done:
        command = [sys.executable, "-m", "enarx", *arguments]
        given = {**self.environment, **env}
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=120)

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "enarx", *arguments]
        given = {**self.environment, **env}
        return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def drawbridge(log: Path, *options: str) -> Iterator[str]:
    """`drawbridge serve` on a free port; gives the host as it stands in slugs."""
    reading, writing = os.pipe()
    program = "from enarx.cli.drawbridge import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--ready-fd", str(writing), *options]
    with log.open("ab") as file:
        process = subprocess.Popen(command, pass_fds=[writing], stderr=file)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            port = ready.read().strip()
        assert port, log.read_text()
        yield f"localhost:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def enarx_in(home: Path, settings: Mapping[str, str]) -> Enarx:
    """Commands with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ENARX_", "XDG_"))}
    return Enarx({**inherited, "HOME": str(home), **settings})


def worked(result: Done) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
