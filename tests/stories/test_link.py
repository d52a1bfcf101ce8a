"""An enclave without a network but its link: two name spaces of the kernel's, each with its device, and a socket between.

The vsock is played by a Unix socket, as hypervisors have it that keep vsock in user space; everything else is real.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.stories.linked_world import ENCLAVE, HERE

ALONE = ("unshare", "--net", "--mount", "sh", "-c", 'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh")
SERVER = """
import socket
with socket.create_server(("0.0.0.0", 9000)) as listener:
    print("listening", flush=True)
    client, _ = listener.accept()
    client.sendall(b"from the enclave")
"""


def possible() -> bool:
    """Root of a container may have neither."""
    if shutil.which("unshare") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return False
    return subprocess.run([*ALONE, os.devnull, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not possible(), reason="needs TUN devices, and the right to make name spaces")


@dataclass(kw_only=True)
class Instance:
    """The instance's side, and what it was told to deploy."""

    folder: Path
    command: list[str]
    ask: IO[str]
    answers: IO[str]

    def enclave(self, *command: str) -> list[str]:
        """A command with no network but the link's, for which `localhost` is the instance."""
        link = [sys.executable, "-m", "enarx", "platform", "link", "--connect", f"unix:{self.folder / 'link'}"]
        sides = ["--address", f"{ENCLAVE}/30", "--peer", HERE]
        return [*ALONE, str(self.folder / "hosts"), *link, *sides, "--", *command]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("instance")
    command = ["unshare", "--net", sys.executable, "-m", "tests.stories.linked_world", str(folder)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        (folder / "hosts").write_text(f"{HERE} localhost\n")
        told = json.loads(process.stdout.readline())
        yield Instance(folder=folder, command=told, ask=process.stdin, answers=process.stdout)
        process.stdin.close()
        process.wait(60)


def test_the_whole_flow_runs_through_the_link(instance: Instance) -> None:
    """Steward, registry and exit code: the command's own, as it would be without."""
    done = subprocess.run(instance.enclave(*instance.command), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (42, "from the Keep\n"), done.stderr
    assert "certified by" in done.stderr


def test_without_the_link_there_is_nobody(instance: Instance) -> None:
    """The enclave of the test above has no other way."""
    alone = [*ALONE, str(instance.folder / "hosts"), *instance.command]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 69
    assert "refused at tag" in done.stderr


def test_a_server_in_the_enclave_is_reached(instance: Instance) -> None:
    """At the enclave's address, from the instance, which forwards ports as to any machine."""
    command = instance.enclave(sys.executable, "-c", SERVER)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as enclave:
        assert enclave.stdout is not None
        assert enclave.stdout.readline() == "listening\n"
        instance.ask.write("9000\n")
        instance.ask.flush()
        assert instance.answers.readline() == "from the enclave\n"
        assert enclave.wait(30) == 0
