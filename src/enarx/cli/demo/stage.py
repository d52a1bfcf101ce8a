"""The stage of the demonstration: a private directory, processes that are ended again, and lines that tell the story.

Every actor is a process of its own that is started as a user would start it. A server says through an inherited
descriptor on which port it listens; a command is run to its end and its words are kept. What was started is ended by
its process id when the stage is left, whatever happened.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from enarx.errors import ConflictError, UnavailableError

PATIENCE: Final = 60.0  # seconds that an actor may take before the story is called off
GRACE: Final = 5.0  # seconds between asking a process to end and ending it
PROGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "enarx": "from enarx.cli.main import main; main()",
        "steward": "from enarx.cli.steward import main; main()",
        "drawbridge": "from enarx.cli.drawbridge import main; main()",
        "liar": "from enarx.cli.demo.liar import main; main()",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that ended: its exit code and its words."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """What the user was told, as one line without the word `Error`."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith(("Error: ", "enarx: refused"))), "")
        return (told or (lines[-1] if lines else "no word")).removeprefix("Error: ").removeprefix("enarx: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that listens."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where the story plays. `home` is private to this user and gone afterwards, unless it was named."""

    home: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def set(cls, home: Path | None) -> Iterator[Self]:
        """A stage in `home`, or in a temporary directory that is removed at the end. Raises ConflictError when it is used."""
        if home is not None and home.exists() and any(home.iterdir()):
            raise ConflictError(f"{home}: is there already, and not empty")
        if home is not None:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="enarx-demo-")) if home is None else home.resolve()
        stage = cls(home=place, environment=_environment(place))
        try:
            yield stage
        finally:
            stage.close()
            if home is None:
                shutil.rmtree(place, ignore_errors=True)

    def use(self, **variables: str) -> None:
        """Give these variables to every actor from now on."""
        self.environment.update(variables)

    def run(self, program: str, *arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> Finished:
        """Run a program to its end. Raises UnavailableError when it does not end in time."""
        try:
            done = subprocess.run(
                _command(program, arguments),
                env={**self.environment, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"{program} {arguments[0]}: did not end within {PATIENCE:g} seconds") from error
        return Finished(code=done.returncode, out=done.stdout, err=done.stderr)

    def must(self, program: str, *arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> str:
        """Run a program that has to succeed; returns what it printed. Raises UnavailableError with its words."""
        done = self.run(program, *arguments, env=env)
        if done.code:
            raise UnavailableError(f"{program} {' '.join(arguments[:2])}: ended with {done.code}: {done.refusal}")
        return done.out

    def start(self, program: str, *arguments: str, name: str) -> subprocess.Popen[bytes]:
        """Start a program whose output goes to a log named `name`."""
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                _command(program, arguments), env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def serve(self, program: str, *arguments: str, name: str) -> Server:
        """Start a server and wait until it says where it listens. Raises UnavailableError with its last words."""
        log = self.home / f"{name}.log"
        reading, writing = os.pipe()
        with os.fdopen(reading) as ready, log.open("wb") as words:
            process = subprocess.Popen(
                [*_command(program, arguments), "--ready-fd", str(writing)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                pass_fds=[writing],
            )
            os.close(writing)
            self.processes.append(process)
            said = ready.readline().strip()
        if not said.isdigit():
            raise UnavailableError(f"{name}: did not start: {last_words(log)}")
        return Server(process=process, port=int(said), log=log)

    def events(self, process: subprocess.Popen[bytes], log: Path, seconds: float) -> Iterator[Mapping[str, Any]]:
        """What a program tells with `--json`, as it tells it, until it ends or `seconds` have passed. Any: JSON."""
        end = time.monotonic() + seconds
        rest = ""
        with log.open(errors="replace") as lines:
            while time.monotonic() < end:
                ended = process.poll() is not None
                *whole, rest = (rest + lines.read()).split("\n")
                yield from map(parse_event, whole)
                if ended:
                    return
                time.sleep(0.02)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """End a process that was started here; returns its exit code."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()

    def close(self) -> None:
        """End everything that was started, the last first."""
        for process in reversed(self.processes):
            self.end(process)
        self.processes.clear()


def parse_event(line: str) -> Mapping[str, Any]:  # Any: JSON
    """A line of `--json`, or nothing when it is the program's own."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no word"


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    """The program in this very interpreter and installation, whatever PATH says."""
    return [sys.executable, "-c", PROGRAMS[program], *arguments]


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the user's own configuration reaches the story, and nothing of the story the user's."""
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
    inherited = {name: os.environ[name] for name in kept if name in os.environ}
    own = {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "XDG_RUNTIME_DIR": str(home),
    }
    return {**inherited, **own}
