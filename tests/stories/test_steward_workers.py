"""Several processes are one Steward: they share the port, the CA and the counters, and none outlives the others' parent."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enarx.web.client import Client
from tests.unit.steward import support

WORKERS = 2


class Family:
    """A Steward of two processes and their parent."""

    def __init__(self, folder: Path) -> None:
        config = folder / "steward.toml"
        config.write_text("listen = '127.0.0.1:0'\nstate = 'state'\naudit = 'audit.jsonl'\n" + support.ACCEPT_NIL)
        reading, writing = os.pipe()
        program = [sys.executable, "-c", "from enarx.cli.steward import main; main()", "serve", "--dev"]
        options = ["--config", str(config), "--workers", str(WORKERS), "--write-ca", str(folder / "ca.pem")]
        with (folder / "log").open("wb") as log:
            self.parent = subprocess.Popen(
                [*program, *options, "--ready-fd", str(writing)], pass_fds=[writing], stderr=log
            )
        os.close(writing)
        with os.fdopen(reading) as ready:
            self.port = int(ready.read())
        self.trust = (folder / "ca.pem").read_bytes()

    def children(self) -> set[int]:
        path = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        return {int(word) for word in path.read_text().split()}

    def get(self, path: str) -> str:
        with Client(f"https://localhost:{self.port}", ca_pem=self.trust) as client:
            return client.get(path).body.decode()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    made = Family(tmp_path)
    yield made
    if made.parent.poll() is None:
        made.parent.send_signal(signal.SIGTERM)
        made.parent.wait(timeout=30)


def eventually(true: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_workers_answer_as_one_and_end_gently(family: Family) -> None:
    """One CA, one sum of all counters, and exit code 0 after SIGTERM."""
    assert len(family.children()) == WORKERS
    assert {family.get("/ca.pem") for _ in range(8)} == {family.trust.decode()}
    for _ in range(8):
        family.get("/.well-known/est/nonce")
    assert re.search(r"^steward_nonces_total 8$", family.get("/metrics"), re.MULTILINE)
    children = family.children()
    family.parent.send_signal(signal.SIGTERM)
    assert family.parent.wait(timeout=30) == 0
    assert not any(alive(child) for child in children)


def test_a_worker_that_dies_is_replaced(family: Family) -> None:
    """The others go on, and the number is full again."""
    victim, *others = family.children()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(family.children() - {victim}) == WORKERS)
    assert set(others) <= family.children()
    assert family.get("/ready") == '{"status":"ready"}'


def test_no_worker_outlives_its_parent(family: Family) -> None:
    """A parent that is killed leaves no process on the port."""
    children = family.children()
    family.parent.kill()
    family.parent.wait(timeout=30)
    eventually(lambda: not any(alive(child) for child in children))
