"""Upkeep: what an operator runs now and then, while the servers go on serving.

`fsck` reads everything and says what is wrong:

    damaged     an object is not what was stored, or says what can not be
    missing     something that must be there is not: content, a parent, a node that a listing names
    orphan      content that nothing refers to; `gc` removes it when it is old enough
    unfinished  an upload that broke off, a publication that is not in the history, lists that can be made anew

`gc` removes what nothing refers to: orphaned content, and what broken-off uploads and dead writers left behind, if it
is older than a grace period. It is safe while publishers publish the very same content: it marks what it is going to
remove, then looks once more for records that name it, then removes it, then takes the mark away. A publisher names
content in a record first and looks for the mark and for the content after that, so one of the two sees the other; the
publisher is answered 503 if the content is gone, never 201 (`registry.trees.require_not_collected`).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from secrets import token_hex
from typing import Final, Literal

from enarx.digest import Digest, Digests
from enarx.drawbridge import canonical, layout
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.records import DamagedError, Records
from enarx.drawbridge.registry import Registry, StoredNode
from enarx.drawbridge.registry.catalogue import member_name
from enarx.drawbridge.store.api import Item, Key, Store
from enarx.drawbridge.tag import subject_of
from enarx.errors import ConflictError, EnarxError, MalformedError, NotFoundError, UnavailableError

Kind = Literal["damaged", "missing", "orphan", "unfinished"]

GRACE: Final = timedelta(days=1)  # longer than any upload takes
_ALIVE: Final = timedelta(hours=12)  # for which a writer may go on without being committed
_QUOTAS_COUNT: Final = timedelta(days=3)  # yesterday's are the oldest that anybody looks at
_MARK_AGE: Final = timedelta(hours=1)  # a mark as old as that is of a collection that died
_MARKED_FOR: Final = 1800.0  # seconds that a collection may take from its first mark; half of _MARK_AGE
_SKEW: Final = timedelta(minutes=10)  # by which the clocks of one storage may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    kind: Kind
    key: Key
    detail: str

    @property
    def is_serious(self) -> bool:
        """Whether something that was published can not be read, or not be trusted."""
        return self.kind in {"damaged", "missing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed, or would have."""

    removed: tuple[Item, ...]
    leftovers: int = 0  # of dead writers, which have no key

    @property
    def size(self) -> int:
        return sum(item.size for item in self.removed)


def fsck(registry: Registry, *, contents: bool = True, repair: bool = False) -> Iterator[Finding]:
    """Everything that is wrong. Without `contents`, blobs are not read, only counted and measured.

    With `repair`, lists of pieces that are missing are made anew from content that is whole, publications that
    are not in the history are recorded, and what searches do not find is listed: names with their owners, public
    repositories, memberships.
    """
    check = _Check(registry, contents=contents, repair=repair)
    yield from check.names()
    yield from check.trees()
    yield from check.blobs()
    yield from check.rest()


def gc(registry: Registry, *, grace: timedelta = GRACE, dry_run: bool = False) -> Collected:
    """Remove what nothing refers to and what is older than `grace`, by the clock of the storage.

    Raises DamagedError before anything is removed when a record can not be read: it might have named something.
    """
    store = registry.store
    begun = _now(store)
    before = begun - grace
    referred = _referred(registry, since=None)
    orphans = [item for item in store.list(layout.BLOBS) if item.modified < before and item.key.name not in referred]
    stale = [item for item in store.list(layout.PARTS) if item.modified < before]
    stale += [item for item in store.list(layout.QUOTAS) if item.modified < begun - _QUOTAS_COUNT]
    stale += [item for prefix in layout.FORMER for item in store.list(prefix) if item.modified < before]
    if dry_run:
        return Collected(removed=(*orphans, *stale))
    for item in list(store.list(layout.GARBAGE)):
        if item.modified < begun - _MARK_AGE:
            store.delete(item.key)
    removed = [*_collect(registry, orphans, since=begun - _SKEW), *stale]
    for item in stale:
        store.delete(item.key)
    for item in list(store.list(layout.PIECES)):
        if item.modified < before and store.stat(layout.blob(_named(item.key.segments[2], item.key))) is None:
            store.delete(item.key)
            removed.append(item)
    leftovers = store.sweep(min(before, begun - _ALIVE))  # whatever the grace: younger ones may have a living writer
    return Collected(removed=tuple(removed), leftovers=leftovers)


def _now(store: Store) -> datetime:
    """What time it is where objects get their times."""
    key = layout.GARBAGE / f"now-{token_hex(16)}"
    store.create(key, b"")
    try:
        item = store.stat(key)
    finally:
        store.delete(key)
    if item is None:
        raise UnavailableError(f"storage: {key} was created, but is not there")
    return item.modified


def _collect(registry: Registry, orphans: list[Item], *, since: datetime) -> Iterator[Item]:
    """Mark, look again, remove, unmark."""
    store, clock = registry.store, time.monotonic()
    marked = [item for item in orphans if _mark(store, item)]
    try:
        referred = _referred(registry, since=since) if marked else frozenset[str]()
        for item in marked:
            if time.monotonic() - clock > _MARKED_FOR:
                raise UnavailableError("gc: it took so long that publishers may not heed the marks: run it again")
            if item.key.name in referred:
                continue
            store.delete(item.key)
            for record in list(store.list(layout.pieces(_digest(item.key)))):
                store.delete(record.key)
            yield item
    finally:
        for item in marked:
            store.delete(layout.garbage(_digest(item.key)))


def _mark(store: Store, item: Item) -> bool:
    """False when another collection has it."""
    try:
        store.create(layout.garbage(_digest(item.key)), b"")
    except ConflictError:
        return False
    return True


def _referred(registry: Registry, *, since: datetime | None) -> frozenset[str]:
    """The blobs that nodes name; with `since`, those nodes alone that may have been made after it."""
    records = Records(registry.store)
    found = set()
    for item in registry.store.list(layout.NODES):
        if since is None or item.modified >= since:
            try:
                found.add(_blob_of(records, item.key).hex)
            except NotFoundError:
                continue
    return frozenset(found)


def _blob_of(records: Records, key: Key) -> Digest:
    return Digest.parse(canonical.member(records.read(key), "blob", str, "node"))


class _Check:
    """One run of `fsck`."""

    def __init__(self, registry: Registry, *, contents: bool, repair: bool) -> None:
        self._registry = registry
        self._store = registry.store
        self._records = Records(registry.store)
        self._contents = contents
        self._repair = repair
        self._named: dict[str, int] = {}  # blobs that nodes name, and their length

    def names(self) -> Iterator[Finding]:
        """Users, repositories and tags, each with its parent; histories with their chains."""
        for item in self._store.list(layout.USERS):
            user = UserName(item.key.name)
            yield from self._owned(item.key, user)
            yield from self._members(user, None)
            yield from self._chain(user, None)
        for item in self._store.list(layout.REPOSITORIES):
            user, repository = UserName(item.key.segments[1]), RepositoryName(item.key.name)
            yield from self._try(item.key, self._registry.spaces.repository, user, repository)
            yield from self._parent(item.key, layout.user(user))
            yield from self._listed(item.key, user, repository)
            yield from self._members(user, repository)
            yield from self._history(user, repository)

    def trees(self) -> Iterator[Finding]:
        """Every tag, and what has arrived of its tree."""
        for item in self._store.list(layout.TAGS):
            user, repository = UserName(item.key.segments[1]), RepositoryName(item.key.segments[2])
            yield from self._parent(item.key, layout.repository(user, repository))
            yield from self._tree(item.key, user, repository, TagName(item.key.name))
        for item in self._store.list(layout.NODES):
            _, owner, name, version, _ = item.key.segments
            tag = layout.tag(UserName(owner), RepositoryName(name), TagName(version))
            yield from self._parent(item.key, tag)

    def blobs(self) -> Iterator[Finding]:
        """Content: named by somebody, of its length, and, if it is read, of its digest."""
        present = set()
        for item in self._store.list(layout.BLOBS):
            name = item.key.name
            present.add(name)
            if name not in self._named:
                yield Finding(kind="orphan", key=item.key, detail=f"{item.size} bytes that no tree has")
            elif self._named[name] != item.size:
                detail = f"expected {self._named[name]} bytes, found {item.size}"
                yield Finding(kind="damaged", key=item.key, detail=detail)
            elif self._contents:
                yield from self._content(item)
        for name in sorted(set(self._named) - present):
            key = layout.blob(Digest(algorithm="sha-256", value=bytes.fromhex(name)))
            if self._store.stat(key) is None:  # it may have come since it was listed
                yield Finding(kind="missing", key=key, detail="content that a tree has")

    def rest(self) -> Iterator[Finding]:
        """Documents, quotas, lists of what is not there, and uploads that broke off."""
        for item in self._store.list(layout.PIECES):
            if self._store.stat(layout.blob(_named(item.key.segments[2], item.key))) is None:
                yield Finding(kind="orphan", key=item.key, detail="digests of content that is not there")
        for item in chain.from_iterable(map(self._store.list, layout.FORMER)):
            yield Finding(kind="orphan", key=item.key, detail="an earlier version's, which nobody reads")
        for prefix in (layout.DOCUMENTS, layout.QUOTAS):
            for item in self._store.list(prefix):
                yield from self._try(item.key, self._records.read, item.key)
        for item in self._store.list(layout.PARTS):
            yield Finding(kind="unfinished", key=item.key, detail=f"{item.size} bytes of an upload that broke off")

    def _tree(self, key: Key, user: UserName, repository: RepositoryName, tag: TagName) -> Iterator[Finding]:
        nodes = dict[TreePath, StoredNode]()
        for item in self._store.list(layout.nodes(user, repository, tag)):
            try:
                node = self._registry.trees.stored_node(item.key)
            except EnarxError as error:
                yield _damage(item.key, error)
                continue
            self._named[node.sha256.hex] = node.meta.length
            nodes[node.path] = node
            if item.key != layout.node(user, repository, tag, node.path):
                yield Finding(kind="damaged", key=item.key, detail=f"it is of another path: {node.path}")
        try:
            waiting = [(TreePath(), self._registry.versions.find(user, repository, tag).entry)]
        except EnarxError as error:
            yield _damage(key, error)
            return
        while waiting:
            path, entry = waiting.pop()
            where = layout.node(user, repository, tag, path)
            found = nodes.get(path)
            if found is None:
                what = f"{subject_of(user, repository, tag)}: {path or 'the root'}"
                yield Finding(kind="missing", key=where, detail=f"{what} is lost, or its upload never ended")
                continue
            if mismatch := entry.meta.mismatch(found.meta):
                yield Finding(kind="damaged", key=where, detail=f"its parent says otherwise: {mismatch}")
            elif found.meta.is_directory:
                try:
                    waiting.extend((path / name, child) for name, child in self._registry.trees.listing(found).items())
                except EnarxError as error:
                    yield _damage(where, error)

    def _content(self, item: Item) -> Iterator[Finding]:
        digest = _digest(item.key)
        try:
            self._registry.contents.verify(digest, Digests(), item.size)
        except DamagedError as error:
            yield _damage(item.key, error)
            return
        if not self._registry.contents.has_lists(digest, item.size):
            if self._repair:
                self._registry.contents.list_pieces(digest, item.size)
            detail = "made anew" if self._repair else "readings of it hash the whole first; --repair makes it anew"
            yield Finding(kind="unfinished", key=layout.pieces(digest), detail=f"no list of its pieces: {detail}")

    def _listed(self, key: Key, user: UserName, repository: RepositoryName) -> Iterator[Finding]:
        """A public repository is where searches look."""
        catalogue = self._registry.catalogue
        try:
            listed = not self._registry.spaces.repository(user, repository).public
        except EnarxError:
            return  # told already
        if not (listed or catalogue.lists_public(user, repository)):
            yield self._unlisted(key, "public, but searches", lambda: catalogue.list_public(user, repository))

    def _owned(self, key: Key, user: UserName) -> Iterator[Finding]:
        """A name is where its subject's searches look."""
        catalogue = self._registry.catalogue
        try:
            subject = self._registry.spaces.user(user).subject
        except EnarxError as error:
            yield _damage(key, error)
            return
        if not catalogue.lists_name(subject, user):
            yield self._unlisted(key, "its owner's searches", lambda: catalogue.list_name(subject, user))

    def _members(self, user: UserName, repository: RepositoryName | None) -> Iterator[Finding]:
        """A membership is where its member's searches look; machines have none."""
        catalogue = self._registry.catalogue
        for label, found in self._registry.documents.all(user, repository, "member"):
            key = layout.documents(user, repository, "member") / label
            try:
                values = canonical.members(canonical.parse(found.body, "member"), "member")
            except EnarxError as error:
                yield _damage(key, error)
                continue
            name = member_name(str(values.get("issuer")), str(values.get("subject")))
            if "subject" in values and not catalogue.lists_member(name, user, repository):
                list_it = partial(catalogue.list_member, name, user, repository)
                yield self._unlisted(key, "its member's searches", list_it)

    def _unlisted(self, key: Key, searches: str, list_it: Callable[[], None]) -> Finding:
        if self._repair:
            list_it()
        detail = "listed now" if self._repair else "--repair lists it"
        return Finding(kind="unfinished", key=key, detail=f"{searches} do not find it: {detail}")

    def _chain(self, user: UserName, repository: RepositoryName | None) -> Iterator[Finding]:
        yield from self._try(
            layout.history(user, repository), lambda: list(self._registry.spaces.history(user, repository))
        )

    def _history(self, user: UserName, repository: RepositoryName) -> Iterator[Finding]:
        """Its chain, and that it has every version."""
        try:
            changes = list(self._registry.spaces.history(user, repository))
        except EnarxError as error:
            yield _damage(layout.history(user, repository), error)
            return
        published = {change.detail.get("tag") for change in changes if change.event == "tag-published"}
        for item in self._store.list(layout.tags(user, repository)):
            if item.key.name not in published:
                if self._repair:
                    self._registry.versions.complete_history(
                        user, repository, TagName(item.key.name), by="drawbridge fsck"
                    )
                detail = "recorded now" if self._repair else "--repair records it"
                yield Finding(kind="unfinished", key=item.key, detail=f"published, but not in the history: {detail}")

    def _parent(self, key: Key, parent: Key) -> Iterator[Finding]:
        if self._store.stat(parent) is None:
            yield Finding(kind="missing", key=parent, detail=f"the parent of {key}")

    def _try(self, key: Key, read: Callable[..., object], *names: object) -> Iterator[Finding]:
        try:
            read(*names)
        except EnarxError as error:
            yield _damage(key, error)


def _damage(key: Key, error: EnarxError) -> Finding:
    said = error.reason if isinstance(error, DamagedError) and error.key == key else str(error)
    return Finding(kind="damaged", key=key, detail=said)


def _digest(key: Key) -> Digest:
    return _named(key.name, key)


def _named(name: str, key: Key) -> Digest:
    try:
        return Digest(algorithm="sha-256", value=bytes.fromhex(name))
    except ValueError as error:
        raise MalformedError(f"storage: {key}: expected a name that is a SHA-256") from error
