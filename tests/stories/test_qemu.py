"""A Keep in a real virtual machine, emulated: the image is built, booted, provisioned, served from and ended.

The machine has no TEE, so nothing vouches for it; everything else is what a confidential machine would do: the same
image, the same first process, the same agent, the same channel.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enarx.attested.relying import Expectation
from enarx.cli.demo import Narrator
from enarx.cli.demo.stage import Stage
from enarx.cli.demo.world import USER, World
from enarx.errors import UnavailableError
from enarx.image.build import LOCK_NAME, build
from enarx.image.lock import Lock, resolve
from enarx.keep.backends.qemu import PROGRAM
from enarx.pki.certificate import certificates_from_pem
from enarx.web.attested import connect

BOOT = 120.0  # seconds; emulation on a busy machine
GREETING = b"a greeting that only the package and the Keep know: 5d0b7e"
CONFIG = """
[[files]]
kind = "null"
[[files]]
kind = "stdout"
[[files]]
kind = "stderr"
[[files]]
kind = "listen"
name = "web"
prot = "tls"
addr = "0.0.0.0"
port = {port}
"""

pytestmark = pytest.mark.skipif(
    shutil.which(PROGRAM) is None or shutil.which("apt-get") is None,
    reason="needs QEMU, and apt to fetch what the image is made of",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def lock(cache: Path) -> Lock:
    """Today's packages; skipped where the registries cannot be reached."""
    try:
        return resolve(cache)
    except UnavailableError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"the registries cannot be reached: {error}")


@pytest.fixture(scope="module")
def image(lock: Lock, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    build(lock, cache).write(folder, lock)
    return folder


def test_the_same_lock_gives_the_same_bytes(image: Path, cache: Path, tmp_path: Path) -> None:
    """Another directory, another umask, another time zone, another hash seed: the same image."""
    command = [sys.executable, "-m", "enarx", "image", "build", str(tmp_path / "again"), "--cache", str(cache)]
    environment = {**os.environ, "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, "--lock", str(image / LOCK_NAME)],
        env=environment,
        umask=0o077,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines()[:2]:
        digest, path = line.split()
        name = Path(path).name
        assert (image / name).read_bytes() == Path(path).read_bytes(), name
        assert len(digest) == 64


def test_the_whole_flow_runs_in_a_virtual_machine(image: Path, tmp_path: Path) -> None:
    """Certified, released, served over TLS that the host carries and cannot read, ended by a signal with its code."""
    with Stage.set(tmp_path / "stage") as stage, World.made(stage, Narrator(as_json=True)) as world:
        port = _free_port()
        _publish(world, port)
        command = ["deploy", "--json", "--insecure", "--backend", "qemu", "--image", str(image)]
        slug = f"{world.registry}/{USER}/machine:1.0.0"
        process = stage.start("enarx", *command, "--steward-ca", str(world.steward_ca), slug, name="machine")
        log = stage.home / "machine.log"
        phases = [event["phase"] for event in _until_running(stage, process, log)]
        assert phases == ["sandboxed", "certified", "released", "ports", "running"], log.read_text()
        with _relay(port) as (relayed, seen):
            anchors = certificates_from_pem(world.steward_ca.read_bytes(), "ca.pem")
            expectation = Expectation(accept_nil=True)
            with connect("localhost", relayed, anchors=anchors, expectation=expectation, timeout=30) as (wire, peer):
                wire.sendall(b"GET / HTTP/1.1\r\nHost: keep\r\nConnection: close\r\n\r\n")
                page = b"".join(iter(lambda: wire.recv(65536), b""))
        assert GREETING in page
        assert peer.technology == "nil"
        assert peer.workload is not None
        assert bytes(seen).startswith(b"\x16\x03")
        assert GREETING not in seen
        assert b"GET /" not in seen
        process.terminate()
        assert process.wait(BOOT) == 143


def test_a_machine_whose_clock_its_host_set_wrong_is_refused(image: Path, tmp_path: Path) -> None:
    """Back or forwards: at the Steward, with what its clock says, and before anything is released to it."""
    with Stage.set(tmp_path / "stage") as stage, World.made(stage, Narrator(as_json=True)) as world:
        _publish(world, _free_port())
        for turned, why in (
            (timedelta(days=-1), "certificate is not yet valid, as this machine's clock says"),
            (timedelta(minutes=10), "one of them is wrong"),
        ):
            stage.use(PATH=f"{_skewing(tmp_path, turned)}:{os.environ['PATH']}")
            command = ["deploy", "--insecure", "--backend", "qemu", "--image", str(image)]
            slug = f"{world.registry}/{USER}/machine:1.0.0"
            done = stage.run("enarx", *command, "--steward-ca", str(world.steward_ca), slug)
            assert done.code == 77, done.err
            assert "refused at steward" in done.err
            assert why in done.err
            assert "released" not in done.err


def _skewing(folder: Path, turned: timedelta) -> Path:
    """A directory with a QEMU that gives its machine this clock."""
    program = folder / PROGRAM
    base = f"{datetime.now(UTC) + turned:%Y-%m-%dT%H:%M:%S}"
    program.write_text(f'#!/bin/sh\nexec {shutil.which(PROGRAM)} -rtc base={base} "$@"\n')
    program.chmod(0o755)
    return folder


def _publish(world: World, port: int) -> None:
    folder = world.stage.home / "packages" / "machine"
    shutil.copytree(world.stage.home / "packages" / "hello", folder)
    (folder / "greeting.txt").write_bytes(GREETING)
    (folder / "Enarx.toml").write_text(CONFIG.format(port=port))
    place = f"{world.registry}/{USER}/machine"
    world.stage.must("enarx", "repo", "register", place)
    world.stage.must("enarx", "package", "publish", f"{place}:1.0.0", str(folder))


def _until_running(stage: Stage, process: "subprocess.Popen[bytes]", log: Path) -> Iterator[dict[str, str]]:
    for event in stage.events(process, log, BOOT):
        if "phase" in event:
            yield dict(event)
            if event["phase"] == "running":
                return


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def _relay(port: int) -> Iterator[tuple[int, bytearray]]:
    """What the host sees of a connection: every byte in both directions."""
    seen = bytearray()

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                seen.extend(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def accept() -> None:
            client, _ = server.accept()
            keep = socket.create_connection(("127.0.0.1", port), 30)
            with client, keep:
                back = threading.Thread(target=carry, args=(keep, client))
                back.start()
                carry(client, keep)
                back.join(30)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(server.getsockname()[1]), seen
        thread.join(30)
