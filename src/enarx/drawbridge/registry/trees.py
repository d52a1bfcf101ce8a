"""Trees: nodes, each checked against what its parent's listing says, on the way in; and the way to them out.

A node has to be what its parent says of that name (for the root: what the tag says): type, length, and the digests
that they have in common. A node that its parent's listing does not name is refused, but for one case: the originals'
uploader leaves out of a listing what sorts after a sub-directory (`Directory.may_omit`). Those are kept and served as
the originals do, outside of what the root's digest covers; who walks the listings, as our client and the Keep do,
never meets them.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from threading import Lock
from typing import Final

from enarx.digest import Digest
from enarx.drawbridge import canonical, layout
from enarx.drawbridge.content import Contents
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.parts import Parts
from enarx.drawbridge.records import Records, damaged
from enarx.drawbridge.registry.bodies import require_digest
from enarx.drawbridge.registry.stored import Outcome, StoredNode, meta_of, said
from enarx.drawbridge.registry.uploads import NodeUpload, ResumableUpload
from enarx.drawbridge.registry.versions import Versions
from enarx.drawbridge.store.api import Key, Store
from enarx.drawbridge.tag import subject_of
from enarx.drawbridge.tree import MAX_DIRECTORY, WASM_TYPE, Directory, Entry, Meta
from enarx.errors import ConflictError, MalformedError, NotFoundError, UnavailableError

RECENT: Final = 8  # versions in which a file is looked for before it has to be sent
COLLECTED_WAITS: Final = 20
COLLECTED_WAIT: Final = 0.25  # seconds

_CACHED_LISTINGS: Final = 16  # parsed directories: an upload asks for the same one again and again
_WASM_ALIAS: Final = TreePath.of("main.wasm")


class Trees:
    """The nodes of every tree. May create nodes and content, and keep parts of uploads."""

    def __init__(self, store: Store, contents: Contents, versions: Versions, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._records = Records(store)
        self._contents = contents
        self._versions = versions
        self._parts = Parts(store)
        self._listings = _Listings(contents)

    # -- in

    def put(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> NodeUpload:
        """Begin to upload a node; what can be told from `meta` is refused here."""
        require_digest(meta)
        if meta.is_directory and meta.length > MAX_DIRECTORY:
            raise MalformedError(f"directory: expected at most {MAX_DIRECTORY} bytes, found {meta.length}")
        key = layout.node(user, repository, tag, path)
        expected = self._expected(user, repository, tag, path)
        if expected is not None:
            _require_same(expected.meta, meta, path)
        existing = self._records.find(key)
        if existing is not None and (found := meta_of(key, existing).mismatch(meta)) and not meta.is_directory:
            raise ConflictError(f"Already exists: {path or 'root'}: {found}")
        if path.is_root and existing is None:
            self._versions.complete_history(
                user, repository, tag, by=by
            )  # a publisher goes on who never heard of the tag
        return NodeUpload(
            contents=self._contents,
            name=lambda found, digest: self.store_node(key, path, found, digest, by),
            path=path,
            meta=meta,
            expected=None if expected is None else expected.meta,
        )

    def resume(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> ResumableUpload:
        """Begin to upload a node in several requests, or go on with it: the same node and meta are the same upload.

        What can be told from `meta` is refused here, each time.
        """
        self.put(user, repository, tag, path, meta, by=by).abort()
        key = layout.node(user, repository, tag, path)
        upload = sha256(key.text.encode() + b"\0" + meta.encode()).hexdigest()
        return ResumableUpload(
            parts=self._parts,
            upload=upload,
            meta=meta,
            begin=lambda: self.put(user, repository, tag, path, meta, by=by),
        )

    def take_over(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> Outcome | None:
        """Name a file that a recent version of this repository has at the same path; None when none has it.

        Never one of another repository: whoever knows the digest of a file must not get its bytes for that. All
        digests of `meta` have to be among those that were compared when the file came.
        """
        self.put(user, repository, tag, path, meta, by=by).abort()
        others = [other for other in self._versions.names(user, repository) if other != tag]
        for other in reversed(others[-RECENT:]):
            key = layout.node(user, repository, other, path)
            if self._records.find(key) is None:
                continue
            found = self.stored_node(key)
            same = found.meta.length == meta.length and meta.digests.items() <= found.meta.digests.items()
            if same and not found.meta.is_directory:
                return self.store_node(layout.node(user, repository, tag, path), path, meta, found.sha256, by)
        return None

    # -- out

    def find(self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath) -> StoredNode:
        """Raises NotFoundError when it is not there (yet). A lone file is also there as main.wasm, if it is one."""
        try:
            return self._node(user, repository, tag, path)
        except NotFoundError:
            if path != _WASM_ALIAS:
                raise
        root = self._node(user, repository, tag, TreePath())
        if root.meta.essence != WASM_TYPE:
            raise NotFoundError(f"node {subject_of(user, repository, tag)}/{path}: there is none")
        return root

    def arrived(self, user: UserName, repository: RepositoryName, tag: TagName) -> tuple[StoredNode, ...]:
        """What has arrived of a tree, in the order of paths."""
        found = [self.stored_node(item.key) for item in self._store.list(layout.nodes(user, repository, tag))]
        return tuple(sorted(found, key=lambda node: node.path))

    def listing(self, node: StoredNode) -> Directory:
        """What a directory lists."""
        return self._listings.get(node.sha256, node.meta.length)

    def workload(self, user: UserName, repository: RepositoryName, tag: TagName) -> Digest | None:
        """The workload digest: SHA-256 of the root. None while only the publisher could know it: before the root is here."""
        known = self._versions.find(user, repository, tag).entry.sha256
        if known is not None:
            return known
        try:
            return self._node(user, repository, tag, TreePath()).sha256
        except NotFoundError:
            return None

    def tags_of(self, user: UserName, repository: RepositoryName, workload: Digest) -> tuple[TagName, ...]:
        """The tags whose workload digest this is, oldest version first."""
        return tuple(
            tag for tag in self._versions.names(user, repository) if self.workload(user, repository, tag) == workload
        )

    def store_node(self, key: Key, path: TreePath, meta: Meta, digest: Digest, by: str) -> Outcome:
        """Name content that is stored. Raises UnavailableError when `gc` was faster: then it has to be sent again."""
        values = {**said(self._now(), by), "path": str(path), "meta": meta.to_json(), "blob": digest.hex}
        outcome = Outcome.CREATED
        try:
            self._records.create(key, values)
        except ConflictError:
            existing = self._records.read(key)
            if found := meta_of(key, existing).mismatch(meta):
                raise ConflictError(f"Already exists: {path or 'root'}: {found}") from None
            outcome = Outcome.EXISTS
        require_not_collected(self._store, digest)
        return outcome

    def stored_node(self, key: Key) -> StoredNode:
        """A node by its key, for who lists them."""
        values = self._records.read(key)
        try:
            return StoredNode(
                path=TreePath.parse(canonical.member(values, "path", str, "node")),
                meta=meta_of(key, values),
                sha256=Digest.parse(canonical.member(values, "blob", str, "node")),
                contents=self._contents,
            )
        except MalformedError as error:
            raise damaged(key, str(error)) from error

    # -- inside

    def _expected(self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath) -> Entry | None:
        """What the parent says of a node; None for what the originals leave out of their listings."""
        if path.is_root:
            return self._versions.find(user, repository, tag).entry
        parent = self._node(user, repository, tag, path.parent)
        if not parent.meta.is_directory:
            raise MalformedError(f"{path}: expected a parent that is a directory, found {parent.meta.media_type}")
        listing = self.listing(parent)
        if path.name in listing:
            return listing[path.name]
        if listing.may_omit(path.name):
            return None
        raise MalformedError(
            f"{path}: its parent does not list it; it lists {', '.join(map(str, listing))[:200] or 'nothing'}"
        )

    def _node(self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath) -> StoredNode:
        try:
            return self.stored_node(layout.node(user, repository, tag, path))
        except NotFoundError as error:
            raise NotFoundError(f"node {subject_of(user, repository, tag)}/{path}: there is none") from error


def require_not_collected(store: Store, digest: Digest) -> None:
    """Content that a record has just named is there to stay, or UnavailableError.

    `gc` marks what it is about to remove before it looks for records a last time. So either it sees the record, or we
    see the mark, or it is through; whichever, once there is no mark what is there stays.
    """
    for _ in range(COLLECTED_WAITS):
        if store.stat(layout.garbage(digest)) is None:
            break
        time.sleep(COLLECTED_WAIT)
    else:
        raise UnavailableError("storage: this content is just being collected: send it again later")
    if store.stat(layout.blob(digest)) is None:
        raise UnavailableError("storage: this content was just collected: send it again")


class _Listings:
    """Parsed directories by digest; what they say can not change."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._held: OrderedDict[Digest, Directory] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: Digest, length: int) -> Directory:
        with self._lock:
            if digest in self._held:
                self._held.move_to_end(digest)
                return self._held[digest]
        if length > MAX_DIRECTORY:
            raise damaged(layout.blob(digest), f"a listing of {length} bytes")
        try:
            listing = Directory.parse(b"".join(self._contents.read(digest, length)))
        except MalformedError as error:
            raise damaged(layout.blob(digest), str(error)) from error
        with self._lock:
            self._held[digest] = listing
            while len(self._held) > _CACHED_LISTINGS:
                self._held.popitem(last=False)
        return listing


def _require_same(expected: Meta, meta: Meta, path: TreePath) -> None:
    """Compare what the parent says. The length of a listing is compared when it is known which bytes count."""
    if meta.is_directory and expected.is_directory:
        if expected.digests.agrees(meta.digests):
            return
        meta = Meta(digests=meta.digests, length=expected.length, media_type=meta.media_type)
    if found := expected.mismatch(meta):
        raise MalformedError(f"Content digest mismatch: {path or 'root'}: its parent says otherwise: {found}")
