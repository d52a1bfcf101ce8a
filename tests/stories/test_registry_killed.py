"""Registries that are killed in the middle of everything, and what is true of them afterwards.

Publishers work without pause, each at versions of its own and all of them at the same ones, while servers get SIGKILL at
random moments and start again. Whatever a publisher was told is true afterwards; whatever can be read is whole; every
version has one value.
"""

import base64
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from enarx.drawbridge.client import Registry as Remote
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.store import open_store
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Node, Tree
from enarx.drawbridge.upkeep import fsck, gc
from enarx.errors import ConflictError, EnarxError, UnavailableError
from enarx.web.client import Client
from tests import seaweed

# A peer that is killed between a connect and its handshake: `ssl.SSLSocket._create` of CPython 3.11 leaves the socket to
# the collector, which closes it at once and says so. Whoever calls it can not reach that socket.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

USER, REPO = UserName("alice"), RepositoryName("busy")
WORKERS = 4
SHARED = 1000  # from this major version on, all of them want the same ones


@dataclass(slots=True)
class Server:
    """One `drawbridge serve` with an issuer of its own, that can be killed and started again."""

    folder: Path
    store: str
    host: str = ""
    token: str = ""
    ca: bytes = b""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        reading, writing = os.pipe()
        options = ["--dev-dir", self.folder / "dev", "--write-ca", self.folder / "ca.pem", "--store", self.store]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                _drawbridge("serve", "--port", "0", "--ready-fd", str(writing), *map(str, options)),
                pass_fds=[writing],
                stderr=log,
            )
        os.close(writing)
        with os.fdopen(reading) as ready:
            port = ready.read().strip()
        assert port, (self.folder / "log").read_text()
        made = subprocess.run(
            _drawbridge("dev", "token", "--dev-dir", str(self.folder / "dev")), capture_output=True, check=True
        )
        self.ca = self.ca or (self.folder / "ca.pem").read_bytes()
        self.host, self.token = f"localhost:{port}", made.stdout.decode().strip()

    @property
    def subject(self) -> str:
        payload = self.token.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> Client:
        return Client(f"https://{self.host}", ca_pem=self.ca, token=self.token, timeout=20)


def luck_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret: when to kill, and what to publish


def _drawbridge(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from enarx.cli.drawbridge import main; main()", *arguments]


@dataclass(slots=True)
class Ledger:
    """What publishers were told."""

    nodes: dict[tuple[TagName, TreePath], bytes] = field(default_factory=dict)
    whole: dict[TagName, Tree] = field(default_factory=dict)
    bound: dict[TagName, set[bytes]] = field(default_factory=dict)
    lost: int = 0  # versions that somebody else got
    broken: int = 0  # answers that never came
    bugs: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def took(self, tag: TagName, tree: Tree, node: Node) -> None:
        """A node was acknowledged, and with it its tag."""
        with self.lock, node.open() as file:
            self.nodes[tag, node.path] = file.read()
            self.bound.setdefault(tag, set()).add(tree.root.encode())


@dataclass(slots=True)
class Publisher:
    """Publishes until it is told to stop; what was not answered it tries again."""

    name: int
    servers: list[Server]
    ledger: Ledger
    stop: Event
    luck: random.Random

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            for version in (f"{self.name}.{number}.0", f"{SHARED}.{number}.0"):
                self.publish(TagName(version), self.tree())

    def tree(self) -> Tree:
        large = self.luck.randbytes(self.luck.choice([100, 700_000, 2_500_000]))
        return Tree.from_files({"main.wasm": large, "dir/shared": b"the same for all", "dir/own": b"%d" % self.name},
                               algorithms=["sha-256"])  # fmt: skip

    def publish(self, tag: TagName, tree: Tree) -> None:
        slug = PackageSlug(user=USER, repository=REPO, tag=tag)
        while not self.stop.is_set():
            try:
                with self.luck.choice(self.servers).client() as http:
                    remote = Remote(http, sleep=lambda _: None)
                    remote.up.publish(
                        slug, Tag(entry=tree.root), tree, on_node=lambda node, _: self.ledger.took(tag, tree, node)
                    )
            except UnavailableError:
                self.ledger.broken += 1
                time.sleep(0.05)
            except ConflictError:
                self.ledger.lost += 1
                return
            except (EnarxError, OSError) as error:
                self.ledger.bugs.append(f"{type(error).__name__}: {error}")
                return
            else:
                self.ledger.whole[tag] = tree
                return


def story(servers: list[Server], rounds: int, luck: random.Random) -> Ledger:
    """Publish, kill, start again, and come to an end with all servers dead."""
    for server in servers:
        server.start()
    with servers[0].client() as http:
        remote = Remote(http)
        remote.put_user(USER, servers[0].subject)
        remote.put_repository(USER, REPO, public=False)
    ledger, stop = Ledger(), Event()
    publishers = [Publisher(name, servers, ledger, stop, luck_of(name)) for name in range(WORKERS)]
    threads = [Thread(target=publisher.run) for publisher in publishers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(rounds):
            time.sleep(luck.uniform(0.3, 1.5))
            victim = luck.choice(servers)
            victim.kill()
            victim.start()
        time.sleep(luck.uniform(0.3, 1.0))
    finally:
        for server in servers:
            server.kill()
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return ledger


def check(ledger: Ledger, location: str) -> None:
    """What must be true, by what the storage says and nothing else."""
    registry = Registry(open_store(location))
    assert ledger.bugs == []
    for (tag, path), data in ledger.nodes.items():
        assert b"".join(registry.trees.find(USER, REPO, tag, path).read()) == data, f"{tag}/{path} was acknowledged"
    recorded = {change.detail.get("tag") for change in registry.spaces.history(USER, REPO)}
    for tag, values in ledger.bound.items():
        assert values == {registry.versions.find(USER, REPO, tag).entry.encode()}, f"{tag} has one value"
        assert tag.text in recorded
    findings = list(fsck(registry))
    assert [finding for finding in findings if finding.kind == "damaged"] == []
    missing = [finding for finding in findings if finding.kind == "missing"]
    assert {finding.key.segments[0] for finding in missing} <= {"nodes"}  # of trees whose publisher was stopped
    unfinished = set(registry.versions.names(USER, REPO)) - set(ledger.whole)
    assert {finding.key.segments[3] for finding in missing} <= {tag.text for tag in unfinished}
    gc(registry, grace=timedelta(0))
    left = [finding for finding in fsck(registry) if finding.kind != "unfinished"]
    assert left == missing, "a collection takes what nobody has, and nothing else"


def test_a_server_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """One server on a directory, killed at six random moments of concurrent uploads."""
    store = str(tmp_path / "store")
    ledger = story([Server(folder=tmp_path / "one", store=store)], 6, luck_of(1))
    check(ledger, store)
    assert ledger.broken > 0
    assert len(ledger.whole) > WORKERS
    # who dies before the name leaves nothing; who dies while putting content in the place of the same, a hidden name
    open_store(store).sweep(datetime.now(UTC) + timedelta(days=1))
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


@pytest.fixture
def bucket(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in seaweed.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    running = seaweed.start(tmp_path_factory.mktemp("weed"))
    yield running.location("registry")
    running.stop()


def test_three_servers_share_a_bucket(tmp_path: Path, bucket: str) -> None:
    """Three servers on one bucket, one of them killed at each of several random moments: nothing is lost."""
    servers = [Server(folder=tmp_path / name, store=bucket) for name in ("one", "two", "three")]
    ledger = story(servers, 3, luck_of(2))
    check(ledger, bucket)
    assert ledger.broken > 0
    assert ledger.lost > 0  # they did want the same versions
    assert len(ledger.whole) > WORKERS
