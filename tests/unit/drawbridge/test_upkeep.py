"""Upkeep: what is wrong is found, what is garbage goes, what somebody has stays; and uploads that go on."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from enarx.digest import Digest, Digests
from enarx.drawbridge import layout
from enarx.drawbridge.access import Member
from enarx.drawbridge.governance import Governance
from enarx.drawbridge.names import RepositoryName, TagName, TreePath
from enarx.drawbridge.registry import JSON_TYPE, Outcome, Registry, RepositoryRecord, ResumableUpload
from enarx.drawbridge.registry.trees import require_not_collected
from enarx.drawbridge.store import FilesystemStore, Item, Key, MemoryStore, Store
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Entry, Meta, Tree
from enarx.drawbridge.upkeep import fsck, gc
from enarx.errors import ConflictError, MalformedError, NotFoundError, UnavailableError
from tests.unit.drawbridge.support import (
    NOW,
    REPO,
    TAG,
    USER,
    content,
    damage,
    flip,
    publish,
    put_node,
    put_repository,
    put_tag,
    put_user,
)

BIG = b"0123456789" * 200_000
TREE = Tree.from_files({"big": BIG, "dir/small": b"small"})


SUMS = Key("sums/00") / ("0" * 64)  # of an earlier version


def list_of(data: bytes) -> Key:
    """Where the digests of its pieces are."""
    return layout.number(layout.pieces(Digest.of(data)), 0)


class Clock:
    """The time of a storage."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return MemoryStore(clock)


@pytest.fixture
def registry(store: Store) -> Registry:
    made = Registry(store, lambda: NOW)
    put_user(made)
    put_repository(made)
    publish(made, TREE)
    return made


def findings(registry: Registry, **options: bool) -> list[tuple[str, str]]:
    return [(finding.kind, finding.key.segments[0]) for finding in fsck(registry, **options)]


def test_nothing_is_wrong_with_what_was_published(registry: Registry, clock: Clock) -> None:
    """A whole registry has no findings, and nothing to collect however old it is."""
    registry.versions.yank(USER, REPO, TAG, "x", by="y")
    assert findings(registry) == []
    clock.now += timedelta(days=2)
    assert gc(registry).removed == ()
    assert content(registry, TreePath.of("big")) == BIG


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda store: damage(store, Digest.of(BIG), flip(1_000_000)), ("damaged", "blobs")),
        (lambda store: damage(store, Digest.of(b"small"), lambda data: data[:-1]), ("damaged", "blobs")),
        (lambda store: store.delete(layout.blob(Digest.of(b"small"))), ("missing", "blobs")),
        (lambda store: store.delete(layout.node(USER, REPO, TAG, TreePath.of("big"))), ("missing", "nodes")),
        (lambda store: damage(store, layout.node(USER, REPO, TAG, TreePath()), flip(70)), ("damaged", "nodes")),
        (lambda store: damage(store, layout.tag(USER, REPO, TAG), flip(70)), ("damaged", "tags")),
        (lambda store: damage(store, layout.user(USER), flip(0)), ("damaged", "users")),
        (lambda store: damage(store, layout.repository(USER, REPO), lambda _: b""), ("damaged", "repositories")),
        (lambda store: store.delete(layout.user(USER)), ("missing", "users")),
        (lambda store: store.delete(layout.tag(USER, REPO, TAG)), ("missing", "tags")),
        (lambda store: damage(store, layout.number(layout.history(USER, REPO), 1), flip(80)), ("damaged", "history")),
        (lambda store: store.delete(layout.number(layout.history(USER, REPO), 2)), ("unfinished", "tags")),
        (lambda store: store.delete(list_of(BIG)), ("unfinished", "pieces")),
        (lambda store: damage(store, list_of(BIG), flip(90)), ("unfinished", "pieces")),
        (lambda store: store.create(list_of(b"?"), b"?"), ("orphan", "pieces")),
        (lambda store: store.create(SUMS, b"?"), ("orphan", "sums")),
        (lambda store: store.create(layout.blob(Digest.of(b"?")), b"?"), ("orphan", "blobs")),
        (lambda store: store.create(layout.part("0" * 64, 0), b"?"), ("unfinished", "parts")),
    ],
)
def test_fsck_finds_what_is_wrong(
    registry: Registry, store: Store, harm: Callable[[Store], None], expected: tuple[str, str]
) -> None:
    """Every way of harming a store behind the registry's back is found, and is what it is called."""
    harm(store)
    assert expected in findings(Registry(store))


def test_fsck_can_leave_contents_unread(registry: Registry, store: Store) -> None:
    """Then a flipped bit is not found, a missing blob still is."""
    damage(store, Digest.of(BIG), flip(3))
    assert findings(registry, contents=False) == []
    store.delete(layout.blob(Digest.of(b"small")))
    assert findings(registry, contents=False) == [("missing", "blobs")]


def test_fsck_makes_lists_of_pieces_anew(registry: Registry, store: Store) -> None:
    """From content that is whole; of damaged content none are made."""
    store.delete(list_of(BIG))
    assert findings(registry, repair=True) == [("unfinished", "pieces")]
    assert findings(registry) == []
    store.delete(list_of(BIG))
    damage(store, Digest.of(BIG), flip(3))
    assert findings(registry, repair=True) == [("damaged", "blobs")]
    assert store.stat(list_of(BIG)) is None


def test_fsck_records_what_history_lacks(registry: Registry, store: Store) -> None:
    """A publication whose publisher died before it was recorded, and who never came back."""
    store.delete(layout.number(layout.history(USER, REPO), 2))
    assert findings(registry) == [("damaged", "history")]  # who has seen it misses it
    fresh = Registry(store)
    assert findings(fresh, repair=True) == [("unfinished", "tags")]
    assert findings(fresh) == []
    assert list(fresh.spaces.history(USER, REPO))[-1].by == "drawbridge fsck"


def test_fsck_lists_public_repositories_anew(registry: Registry, store: Store) -> None:
    """Where searches look may have got lost; what is private is never put there."""
    for name, public in (("shown", True), ("hidden", False)):
        body = RepositoryRecord(public=public).encode()
        registry.spaces.put_repository(USER, RepositoryName(name), body, Meta.of(body, JSON_TYPE), by="x")
    assert findings(registry) == []
    store.delete(layout.public(USER, RepositoryName("shown")))
    assert findings(registry) == [("unfinished", "repositories")]
    assert findings(registry, repair=True) == [("unfinished", "repositories")]
    assert findings(registry) == []
    assert list(registry.catalogue.public()) == [(USER, REPO), (USER, RepositoryName("shown"))]


def test_fsck_lists_names_and_memberships_anew(registry: Registry, store: Store) -> None:
    """Where their people's searches look; a membership that ended, and a machine's, are in no list."""
    governance = Governance(registry)
    alice = Member(role="reader", issuer="corp", subject="alice")
    machine = Member(role="reader", issuer="ci", claims={"repository": "org/app"})
    for place in (None, REPO):
        governance.set_member(USER, place, "alice", alice, by="x")
        governance.set_member(USER, place, "gone", replace(alice, subject="gone"), by="x")
        governance.set_member(USER, place, "gone", None, by="x")
        governance.set_member(USER, place, "ci", machine, by="x")
    assert findings(registry) == []
    for item in [*store.list(layout.MEMBERSHIPS), *store.list(layout.SUBJECTS)]:
        store.delete(item.key)
    told = [("unfinished", "users"), ("unfinished", "documents"), ("unfinished", "documents")]
    assert findings(registry) == told
    assert findings(registry, repair=True) == told
    assert findings(registry) == []
    assert set(registry.catalogue.memberships("corp alice")) == {(USER, None), (USER, REPO)}
    store.delete(layout.number(layout.history(USER, None), 2))
    assert findings(Registry(store)) == [("damaged", "history")]


def test_gc_removes_what_nothing_refers_to(registry: Registry, store: Store, clock: Clock) -> None:
    """Orphans, the lists of their pieces and broken-off uploads, when they are old enough; a dry run only says so."""
    orphan = b"orphan" * 200_000
    digest = registry.contents.put(orphan)
    store.create(layout.part("0" * 64, 0), b"part")
    store.create(SUMS, b"checksums")
    clock.now += timedelta(hours=23)
    assert gc(registry).removed == ()
    clock.now += timedelta(hours=2)
    planned = gc(registry, dry_run=True)
    assert {item.key for item in planned.removed} == {layout.blob(digest), layout.part("0" * 64, 0), SUMS}
    assert planned.size == len(orphan) + 4 + 9
    assert store.stat(layout.blob(digest)) is not None
    assert {item.key for item in gc(registry).removed} == {item.key for item in planned.removed}
    for key in (
        layout.blob(digest),
        layout.number(layout.pieces(digest), 0),
        layout.garbage(digest),
        layout.part("0" * 64, 0),
        SUMS,
    ):
        assert store.stat(key) is None
    assert content(registry, TreePath.of("big")) == BIG
    assert findings(registry) == []


def test_gc_removes_nothing_when_a_record_can_not_be_read(registry: Registry, store: Store) -> None:
    """It might have named what looks like an orphan."""
    digest = registry.contents.put(b"orphan")
    damage(store, layout.node(USER, REPO, TAG, TreePath()), flip(70))
    with pytest.raises(UnavailableError, match="is damaged"):
        gc(registry, grace=timedelta(0))
    assert store.stat(layout.blob(digest)) is not None


class Interrupted(MemoryStore):
    """A store in which something happens whenever the nodes are listed."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.before_nodes: Callable[[], None] = lambda: None

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        if prefix == layout.NODES:
            self.before_nodes()
        return super().list(prefix, after)


def test_who_publishes_garbage_while_it_is_marked_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was made before the second look saves the content, and its publisher is not told yes too early."""
    store = Interrupted(clock)
    registry = Registry(store)
    put_user(registry)
    put_repository(registry)
    meta = Entry.of(b"orphan", "a/b").meta
    put_tag(registry, Tag(entry=Entry(meta=meta)))
    registry.contents.put(b"orphan")
    monkeypatch.setattr("enarx.drawbridge.registry.trees.COLLECTED_WAIT", 0)
    clock.now += timedelta(days=2)
    looks = []

    def on_look() -> None:
        looks.append(1)
        if len(looks) == 2:
            with pytest.raises(UnavailableError, match="just being collected"):
                put_node(registry, TreePath(), meta, b"orphan")

    store.before_nodes = on_look
    assert gc(registry).removed == ()
    assert len(looks) == 2
    assert put_node(registry, TreePath(), meta, b"orphan") is Outcome.EXISTS
    assert content(registry, TreePath()) == b"orphan"


def test_who_publishes_garbage_while_it_is_removed_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that went after its record was made is never acknowledged."""
    digest = Digest.of(b"orphan")
    store.create(layout.garbage(digest), b"")
    monkeypatch.setattr("time.sleep", lambda _: store.delete(layout.garbage(digest)))
    with pytest.raises(UnavailableError, match="just collected: send it again"):
        require_not_collected(store, digest)
    store.create(layout.blob(digest), b"orphan")
    require_not_collected(store, digest)


class Hesitant(FilesystemStore):
    """A store that takes its time between the decision to remove something and its removal."""

    def delete(self, key: Key) -> None:
        time.sleep(0.01)
        super().delete(key)


class Publisher:
    """Publishes, again and again, what is garbage at that very moment; remembers what was acknowledged."""

    def __init__(self, registry: Registry, name: int) -> None:
        self.registry = registry
        self.name = name
        self.acknowledged: dict[TagName, bytes] = {}

    def run(self) -> None:
        for number in range(33):
            data, tag = b"content %d" % ((self.name + number) % 3), TagName(f"{self.name}.{number}.0")
            self.registry.contents.put(data)  # as one leaves it whose upload was never finished
            self.registry.contents.put(b"never named %d %d" % (self.name, number))
            entry = Entry.of(data, "a/b", ["sha-256"])
            put_tag(self.registry, Tag(entry=entry), tag)
            while tag not in self.acknowledged:
                with suppress(UnavailableError):
                    put_node(self.registry, TreePath(), entry.meta, data, tag)
                    self.acknowledged[tag] = data
            if number % 5 == 4:  # garbage again, behind the registry's back
                self.check()
                for gone in self.acknowledged:
                    self.registry.store.delete(layout.node(USER, REPO, gone, TreePath()))
                self.acknowledged.clear()

    def check(self) -> None:
        for tag, data in self.acknowledged.items():
            assert content(self.registry, TreePath(), name=tag) == data


@pytest.mark.parametrize("unnamed", [True, False])
def test_collections_while_publishers_publish(tmp_path: Path, *, unnamed: bool) -> None:
    """Garbage that is published at the very moment at which it is collected: nothing acknowledged is ever lost."""
    registry = Registry(FilesystemStore(tmp_path, unnamed_files=unnamed))
    put_user(registry)
    put_repository(registry)
    publishers = [Publisher(registry, name) for name in range(3)]
    removed, done = list[Item](), Event()

    def collect() -> None:
        while not done.is_set():
            removed.extend(gc(Registry(Hesitant(tmp_path)), grace=timedelta(0)).removed)

    collector = Thread(target=collect)
    collector.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Publisher.run, publishers))
    finally:
        done.set()
        collector.join()
    removed.extend(gc(registry, grace=timedelta(0)).removed)
    assert removed
    for publisher in publishers:
        publisher.check()
    assert {finding.kind for finding in fsck(registry)} <= {"missing"}  # the nodes that the test itself took away


def test_two_collections_do_not_hinder_each_other(registry: Registry, store: Store, clock: Clock) -> None:
    """What another has marked is left to it, and the marks of one that died are forgotten after an hour."""
    digest = registry.contents.put(b"orphan")
    store.create(layout.garbage(digest), b"")
    clock.now += timedelta(minutes=30)
    assert gc(registry, grace=timedelta(minutes=1)).removed == ()
    clock.now += timedelta(minutes=31)
    assert [item.key for item in gc(registry, grace=timedelta(0)).removed] == [layout.blob(digest)]


def test_leftovers_of_dead_writers_are_swept(tmp_path: Path) -> None:
    """Where files need names, those without a writer go when they are old."""
    store = FilesystemStore(tmp_path, unnamed_files=False)
    upload = store.upload()
    upload.write(b"half")
    assert len(list((tmp_path / ".tmp").iterdir())) == 1
    registry = Registry(store)
    assert gc(registry).leftovers == 0
    os.utime(next((tmp_path / ".tmp").iterdir()), (0, 0))
    assert gc(registry).leftovers == 1
    assert list((tmp_path / ".tmp").iterdir()) == []


# -- uploads that go on


@pytest.fixture
def upload(registry: Registry) -> ResumableUpload:
    """The second version's root, not yet begun."""
    meta = Entry.of(BIG, "application/wasm").meta
    put_tag(registry, Tag(entry=Entry(meta=meta)), TagName("2.0.0"))
    return resume(registry, meta)


def resume(registry: Registry, meta: Meta) -> ResumableUpload:
    return registry.trees.resume(USER, REPO, TagName("2.0.0"), TreePath(), meta, by="x")


def test_an_upload_goes_on_where_it_broke_off(
    registry: Registry, upload: ResumableUpload, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrived before the connection broke is there for another server, and at the end the whole is verified."""
    monkeypatch.setattr("enarx.drawbridge.parts.PART", 300_000)
    with pytest.raises(ConnectionError), upload.append(0, len(BIG)) as writer:  # noqa: PT012 - it breaks in the middle
        writer.write(BIG[:1_000_001])
        raise ConnectionError
    again = resume(Registry(store), Entry.of(BIG, "application/wasm").meta)
    assert again.offset == 1_000_001
    with pytest.raises(NotFoundError):
        registry.trees.find(USER, REPO, TagName("2.0.0"), TreePath())
    with pytest.raises(ConflictError, match="expected 2000000 bytes to have arrived, found 1000001"):
        again.finish()
    with again.append(again.offset, len(BIG) - again.offset) as writer:
        writer.write(BIG[again.offset :])
    assert again.is_complete
    assert again.finish() is Outcome.CREATED
    assert content(registry, TreePath(), name=TagName("2.0.0")) == BIG
    assert list(store.list(layout.PARTS)) == []


def test_an_upload_goes_on_from_where_it_is(upload: ResumableUpload) -> None:
    """Not before, not after, and not beyond what was declared."""
    with upload.append(0, 5) as writer:
        writer.write(BIG[:5])
    for offset in (0, 4, 6):
        with pytest.raises(ConflictError, match="expected to go on at 5"):
            upload.append(offset, 1)
    with pytest.raises(MalformedError, match="found more"):
        upload.append(5, len(BIG))


def test_an_upload_of_other_bytes_is_forgotten(upload: ResumableUpload) -> None:
    """The digests of the whole decide, and one begins anew."""
    with upload.append(0, len(BIG)) as writer:
        writer.write(BIG[::-1])
    with pytest.raises(MalformedError, match="Content digest mismatch"):
        upload.finish()
    assert upload.offset == 0


def test_two_who_append_at_once_do_no_harm(upload: ResumableUpload) -> None:
    """The chain goes on from where one of them ended, and nothing of the other is in it."""
    first, second = upload.append(0, 10), upload.append(0, 4)
    first.write(BIG[:10])
    second.write(BIG[:4])
    first.keep()
    second.keep()
    assert upload.offset == 4
    with upload.append(4, len(BIG) - 4) as writer:
        writer.write(BIG[4:])
    assert upload.finish() is Outcome.CREATED


def test_what_can_be_refused_at_once_is(registry: Registry, upload: ResumableUpload) -> None:
    """Nobody sends a gigabyte to be told that its parent says otherwise."""
    for meta in (Entry.of(b"other", "application/wasm").meta, Meta(digests=Digests(), length=1, media_type="a/b")):
        with pytest.raises(MalformedError):
            resume(registry, meta)
    assert upload.offset == 0
