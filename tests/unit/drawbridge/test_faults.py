"""A storage that fails on demand: at every single step of a publication, before it was done and after.

A full disk (ENOSPC), a broken one (EIO), a service that does not answer, an answer that got lost. Whatever step it is:
what was acknowledged stays, what can be read is whole, and who publishes again comes to the same end as without it.
"""

import errno
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from enarx.drawbridge.names import TreePath
from enarx.drawbridge.pieces import PIECE
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.store import FilesystemStore, Item, Key, MemoryStore, Store, Upload
from enarx.drawbridge.store import filesystem as module
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Tree
from enarx.drawbridge.upkeep import fsck, gc
from enarx.errors import NotFoundError, UnavailableError
from tests.unit.drawbridge.support import REPO, TAG, USER, content, put_node, put_repository, put_tag, put_user

FILES = {"main.wasm": b"\0asm" * 200_000, "dir/a": b"a", "dir/b": b"b"}
TREE = Tree.from_files(FILES)


class Fault:
    """Counts steps, and makes one of them fail."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.after = False
        self.count = 0

    def step(self, act: Callable[[], Any], error: Callable[[], Exception]) -> Any:  # Any: what the step gives
        self.count += 1
        if self.count != self.at:
            return act()
        if self.after:
            act()
        raise error()


def unavailable() -> Exception:
    return UnavailableError("storage: it fails on demand")


class FailingStore:
    """A store of which one step fails."""

    def __init__(self, store: Store, fault: Fault) -> None:
        self._store = store
        self._fault = fault

    def get(self, key: Key, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        found: Iterator[bytes] = self._step(lambda: self._store.get(key, start, stop))
        return found

    def stat(self, key: Key) -> Item | None:
        found: Item | None = self._step(lambda: self._store.stat(key))
        return found

    def list(self, prefix: Key, after: Key | None = None) -> Iterator[Item]:
        found: Iterator[Item] = self._step(lambda: self._store.list(prefix, after))
        return found

    def create(self, key: Key, data: bytes) -> None:
        self._step(lambda: self._store.create(key, data))

    def upload(self, key: Key | None = None) -> Upload:
        upload: Upload = self._step(lambda: self._store.upload(key))
        return FailingUpload(upload, self._step)

    def delete(self, key: Key) -> None:
        self._step(lambda: self._store.delete(key))

    def sweep(self, before: datetime) -> int:
        return self._store.sweep(before)

    def _step(self, act: Callable[[], Any]) -> Any:  # Any: as `Fault.step`
        return self._fault.step(act, unavailable)


class FailingUpload:
    """An upload of which one step fails."""

    def __init__(self, upload: Upload, step: Callable[[Callable[[], Any]], Any]) -> None:
        self._upload = upload
        self._step = step

    def write(self, data: bytes | memoryview) -> None:
        self._step(lambda: self._upload.write(data))

    def commit(self, key: Key) -> None:
        self._step(lambda: self._upload.commit(key))

    def abort(self) -> None:
        self._upload.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def publish(registry: Registry, acknowledged: set[str]) -> None:
    """Everything from the user on; what was acknowledged is told."""
    put_user(registry)
    acknowledged.add("user")
    put_repository(registry)
    acknowledged.add("repository")
    put_tag(registry, Tag(entry=TREE.root))
    acknowledged.add("tag")
    for node in TREE.nodes:
        with node.open() as file:
            put_node(registry, node.path, node.entry.meta, file.read())
        acknowledged.add(f"/{node.path}")


def check(store: Store, acknowledged: set[str]) -> None:
    """What is true at any moment."""
    registry = Registry(store)
    if "user" in acknowledged:
        assert registry.spaces.user(USER).subject == "test|subject"
    if "repository" in acknowledged:
        assert registry.spaces.repository(USER, REPO).public
    if "tag" in acknowledged:
        assert registry.versions.find(USER, REPO, TAG).entry == TREE.root
    for node in TREE.nodes:
        try:
            found = content(registry, node.path)
        except NotFoundError:
            assert f"/{node.path}" not in acknowledged
        else:
            with node.open() as file:
                assert found == file.read()
    assert [finding for finding in fsck(registry) if finding.kind == "damaged"] == []


def check_end(store: Store) -> None:
    """What is true once somebody published again without a fault."""
    registry = Registry(store)
    done = set[str]()
    publish(registry, done)
    check(store, done)
    gc(registry)
    assert [finding for finding in fsck(registry) if finding.kind != "orphan"] == []
    assert [change.event for change in registry.spaces.history(USER, REPO)] == ["repository-created", "tag-published"]
    assert [change.number for change in registry.spaces.history(USER, REPO)] == [1, 2]


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_every_step_of_a_storage_may_fail(*, after: bool) -> None:
    """Each of them in its turn, over a store in memory."""
    fault = Fault()
    publish(Registry(FailingStore(MemoryStore(), fault)), set())
    assert fault.count > 50
    for step in range(1, fault.count + 1):
        store, fault = MemoryStore(), Fault()
        fault.at, fault.after = step, after
        acknowledged = set[str]()
        try:
            publish(Registry(FailingStore(store, fault)), acknowledged)
        except UnavailableError:
            check(store, acknowledged)
        check_end(store)


class FailingSystem:
    """The operating system of a store in a directory, of which one call fails."""

    def __init__(self, fault: Fault, number: int) -> None:
        self._fault = fault
        self._number = number

    def __getattr__(self, name: str) -> Any:  # Any: whatever `os` has
        real = (lambda _: None) if name == "fsync" else getattr(os, name)  # no machine fails here: no need to wait
        if name not in {"open", "write", "fsync", "link", "pread"}:
            return real
        return lambda *given, **options: self._fault.step(lambda: real(*given, **options), self._error)

    def _error(self) -> Exception:
        return OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "offset"), [(errno.ENOSPC, 0), (errno.EIO, 1)], ids=["full", "broken"])
@pytest.mark.parametrize("unnamed", [True, False])
def test_every_call_of_a_directory_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, offset: int, *, unnamed: bool
) -> None:
    """A disk that is full or broken, at every fifth call: an error that says so, and the same end."""
    fault = Fault()
    with monkeypatch.context() as patch:
        store = FilesystemStore(tmp_path / "whole", unnamed_files=unnamed)
        patch.setattr(module, "os", FailingSystem(fault, number))
        publish(Registry(store), set())
    failed = 0
    for step in range(1 + offset, fault.count + 1, 5):
        fault = Fault()
        fault.at = step
        root, acknowledged = tmp_path / str(step), set[str]()
        store = FilesystemStore(root, unnamed_files=unnamed)
        with monkeypatch.context() as patch:
            patch.setattr(module, "os", FailingSystem(fault, number))
            said = ""
            try:
                publish(Registry(store), acknowledged)
            except UnavailableError as error:
                failed, said = failed + 1, str(error)
            assert said == "" or os.strerror(number) in said
            assert list((root / ".tmp").iterdir()) == []
            patch.setattr(module, "os", FailingSystem(Fault(), number))
            check(store, acknowledged)
            check_end(FilesystemStore(root, unnamed_files=unnamed))
    assert failed > 10


def test_reading_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO in the middle of a file is an error, and what came before it was right."""
    store = FilesystemStore(tmp_path / "s")
    publish(Registry(store), set())
    monkeypatch.setattr(module, "CHUNK", PIECE)  # so that the file is read in several turns
    fault = Fault()
    node = Registry(store).trees.find(USER, REPO, TAG, TreePath.of("main.wasm"))
    monkeypatch.setattr(module, "os", FailingSystem(fault, errno.EIO))
    pieces = node.read()
    first = next(pieces)
    assert FILES["main.wasm"].startswith(first)
    fault.at = fault.count + 1
    with pytest.raises(UnavailableError, match="storage: read: Input/output error"):
        next(pieces)
