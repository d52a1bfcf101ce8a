"""A registry with something in it, for the tests of Drawbridge."""

from collections.abc import Callable
from datetime import UTC, datetime

from enarx.digest import Digest
from enarx.drawbridge import layout
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.registry import JSON_TYPE, Outcome, Registry, UserRecord
from enarx.drawbridge.store import Key, Store
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Meta, Tree

USER, REPO, TAG = UserName("user"), RepositoryName("repo"), TagName("1.0.0")
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def put_user(registry: Registry, name: UserName = USER, subject: str = "test|subject", **options: bool) -> Outcome:
    body = UserRecord(subject=subject).encode()
    return registry.spaces.put_user(name, body, Meta.of(body, JSON_TYPE), by=subject, **options)


def put_repository(
    registry: Registry, body: bytes = b'{"public":true}', meta: Meta | None = None, name: RepositoryName = REPO
) -> Outcome:
    return registry.spaces.put_repository(USER, name, body, meta or Meta.of(body, JSON_TYPE), by="test|subject")


def put_tag(registry: Registry, tag: Tag, name: TagName = TAG) -> Outcome:
    body = tag.encode()
    return registry.versions.put(USER, REPO, name, body, Meta.of(body, tag.media_type), by="test|subject")


def put_node(registry: Registry, path: TreePath, meta: Meta, data: bytes, name: TagName = TAG) -> Outcome:
    with registry.trees.put(USER, REPO, name, path, meta, by="test|subject") as upload:
        for at in range(0, len(data), 100_000):
            upload.write(data[at : at + 100_000])
        return upload.finish()


def publish(registry: Registry, tree: Tree, name: TagName = TAG) -> list[Outcome]:
    outcomes = [put_tag(registry, Tag(entry=tree.root), name)]
    for node in tree.nodes:
        with node.open() as file:
            outcomes.append(put_node(registry, node.path, node.entry.meta, file.read(), name))
    return outcomes


def content(registry: Registry, path: TreePath, start: int = 0, stop: int | None = None, name: TagName = TAG) -> bytes:
    return b"".join(registry.trees.find(USER, REPO, name, path).read(start, stop))


def damage(store: Store, at: Digest | Key, change: Callable[[bytes], bytes]) -> None:
    """Change what is stored behind the registry's back."""
    key = layout.blob(at) if isinstance(at, Digest) else at
    data = change(b"".join(store.get(key)))
    with store.upload() as upload:
        upload.write(data)
        upload.commit(key)


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change
