"""A Keep as a plain process of this machine, with no TEE: for development. It protects nothing from the host.

The other way round it does protect: what runs in it can hardly harm the host (`sandbox`). The process is born with a
clean environment, in a session of its own, with one inherited descriptor, which is its channel. Its own standard
streams lead nowhere; those of the program go over the channel.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError, UnavailableError
from enarx.keep.backends import sandbox
from enarx.keep.backends.api import Datum, Keep, Wishes

SIMULATED: Final = ("snp", "sgx", "tdx")  # what `enarx.keep.backends.simulators` can make
ENVIRONMENT: Final = {"LANG": "C.UTF-8"}  # nothing of the user's: no token, no path, no proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepProcess:
    """The process and the host's end of its channel."""

    process: subprocess.Popen[bytes]
    stream: socket.socket

    def wait(self, seconds: float) -> str | None:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def expose(self, port: int) -> None:
        """Its sockets are the host's own."""

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stream.close()


def spawn(attester: Sequence[str]) -> KeepProcess:
    """Start the agent, empty; `attester` are the words that `enarx.keep.agent` chooses its attester by."""
    host, keep = socket.socketpair()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "enarx.keep.start", str(keep.fileno()), *attester],
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[keep.fileno()],
            start_new_session=True,
        )
    except OSError as error:
        host.close()
        raise UnavailableError(f"a process for the Keep: {error.strerror}") from error
    finally:
        keep.close()
    return KeepProcess(process=process, stream=host)


@dataclass(frozen=True, slots=True)
class Process:
    """The backend."""

    name: str = "process"
    title: str = "a plain process, no TEE"
    protects: str | None = None

    def data(self) -> Sequence[Datum]:
        return sandbox.data()

    def launch(self, wishes: Wishes) -> Keep:
        del wishes
        return spawn(["nil"])


@dataclass(frozen=True, slots=True)
class Simulated:
    """The same beside a TEE in software (`enarx.keep.backends.simulated`), which is as little protection."""

    name: str = "simulated"
    title: str = "a simulated TEE in a plain process"
    protects: str | None = None

    def data(self) -> Sequence[Datum]:
        return (Datum(name="technologies", ok=True, info=", ".join(SIMULATED)), *sandbox.data())

    def launch(self, wishes: Wishes) -> Keep:
        if wishes.machine is None or wishes.technology is None:
            raise MalformedError("simulated: expected a technology and the directory of a simulated machine")
        return spawn(["simulated", wishes.technology, str(Path(wishes.machine).absolute())])
