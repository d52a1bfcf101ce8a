"""Registry: create and read what Drawbridge has. Every child is checked against its parent, whatever the storage.

Rules, for all four kinds of resources (users, repositories, tags, tree nodes):
  1  a parent must be there first                                   else NotFoundError
  2  the bytes must have the declared digests and length            else MalformedError; nothing is stored
  3  a tree node must be what its parent's listing (for the root:   else MalformedError; nothing is stored
     the tag) says of that name: type, length, and the digests they have in common
  4  what is there by that name stays: the same again is fine,      else ConflictError
     anything else is not
JSON bodies are kept as received if the digests are of the bytes as received, as their canonical form if the digests
are of that; nothing else is accepted. A node that its parent's listing does not name is refused, but for one case:
the originals' uploader leaves out of a listing what sorts after a sub-directory (`Directory.may_omit`). Those are
kept and served as the originals do, outside of what the root's digest covers; who walks the listings, as our client
and the Keep do, never meets them.

What was published does not change. What may change (yanking, who must sign, and documents that others keep here) is
appended with a number, and the highest number counts. Whoever changes a repository is in its history.

Everything here is synchronous and may be called from several threads and processes. Who may do what is decided before
(`access`): nothing here asks. `by` is the name under which history knows who did it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from types import MappingProxyType
from typing import Any, Final, Self

from enarx.digest import Digest, Digests, hash_bytes
from enarx.drawbridge import canonical, layout
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.content import Contents, ContentUpload, require
from enarx.drawbridge.history import Change, Histories
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.parts import Parts, PartWriter
from enarx.drawbridge.records import Journal, Records, damaged, until_it_is_ours
from enarx.drawbridge.store.api import Item, Key, Store
from enarx.drawbridge.tag import MAX_TAG, SigningKey, Tag, subject_of
from enarx.drawbridge.tree import MAX_DIRECTORY, WASM_TYPE, Directory, Entry, Meta
from enarx.errors import ConflictError, MalformedError, NotFoundError, UnavailableError

MAX_RECORD_BODY: Final = 10_000  # bytes of a user's or a repository's record; they have one member each
MAX_DOCUMENT: Final = 1_000_000  # bytes of a document
MAX_REASON: Final = 500  # characters of why a tag was yanked
MAX_SUBJECT: Final = 1000  # characters of an OpenID Connect subject; the standard says 255

COLLECTED_WAITS: Final = 20
COLLECTED_WAIT: Final = 0.25  # seconds

RECENT: Final = 8  # versions in which a file is looked for before it has to be sent

JSON_TYPE: Final = "application/json"
_CACHED_LISTINGS: Final = 16  # parsed directories: an upload asks for the same one again and again
_CACHED_BODIES: Final = 4096  # users, repositories and tags; a few megabytes
_WASM_ALIAS: Final = TreePath.of("main.wasm")
_NO_DETAIL: Final[Mapping[str, Json]] = MappingProxyType({})

_PUBLISHED: Final = "tag-published"
_YANK: Final = "yank"
_SIGNERS: Final = "signers"


class Outcome(Enum):
    """What became of a PUT: 201 or 200."""

    CREATED = "created"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """`{"subject": …}`: to whom a name space belongs."""

    subject: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        values = canonical.members(canonical.parse(data, "user record"), "user record")
        canonical.only(values, ("subject",), "user record")
        subject = canonical.member(values, "subject", str, "user record")
        if not 0 < len(subject) <= MAX_SUBJECT:
            raise MalformedError(f"user record: subject: expected from 1 to {MAX_SUBJECT} characters")
        return cls(subject=subject)

    def encode(self) -> bytes:
        return canonical.encode({"subject": self.subject})


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryRecord:
    """`{"public": …}`, and nothing else: original clients refuse other members."""

    public: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        values = canonical.members(canonical.parse(data, "repository record"), "repository record")
        canonical.only(values, ("public",), "repository record")
        return cls(public=canonical.member(values, "public", bool, "repository record"))

    def encode(self) -> bytes:
        return canonical.encode({"public": self.public})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A small body as it was uploaded: `meta` has the digests that the uploader sent, or all when it sent none."""

    meta: Meta
    body: bytes
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTag:
    """A tag as it was uploaded, and what became of it since."""

    stored: Stored
    tag: Tag
    yanked: str | None  # the reason, which may be empty

    @property
    def entry(self) -> Entry:
        return self.tag.entry


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNode:
    """A node of a tree: what it is, and the way to its bytes."""

    path: TreePath
    meta: Meta  # with the digests that the uploader sent
    sha256: Digest  # whatever the uploader sent
    contents: Contents

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes, each verified before it is handed on. Raises DamagedError, at once or later."""
        return self.contents.read(self.sha256, self.meta.length, start, stop)


class Registry:
    """What Drawbridge has, in a store."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now
        self._records = Records(store)
        self._contents = Contents(store)
        self._histories = Histories(store, now)
        self._parts = Parts(store)
        self._listings = _Listings(self._contents)
        self._bodies = _Bodies(store)

    @property
    def store(self) -> Store:
        return self._store

    @property
    def contents(self) -> Contents:
        return self._contents

    # -- users

    def put_user(self, user: UserName, body: bytes, meta: Meta, *, by: str, only_one: bool = False) -> Outcome:
        """Register a name space. With `only_one`, a subject may have no other (as the older generation)."""
        record = UserRecord.parse(_bounded(body, MAX_RECORD_BODY))
        stored, meta = _choose(body, record.encode(), meta)
        subject = layout.subject(record.subject)
        if only_one:
            self._claim(subject, user)
        try:
            outcome = self._create(layout.user(user), stored, meta, by)
        except ConflictError:
            if only_one:
                self._store.delete(subject / "_")  # the name is somebody else's: the subject has none yet
            raise
        self._mark(subject / user.text)
        return outcome

    def user(self, user: UserName) -> UserRecord:
        """Raises NotFoundError when there is none."""
        return UserRecord.parse(self.user_body(user).body)

    def user_body(self, user: UserName) -> Stored:
        return self._read(layout.user(user), f"user {user}")

    def users(self, after: UserName | None = None) -> Iterator[UserName]:
        """All, in the order of their names."""
        for item in self._store.list(layout.USERS, None if after is None else layout.user(after)):
            yield UserName(item.key.name)

    def users_of(self, subject: str) -> tuple[UserName, ...]:
        """The name spaces of a subject."""
        names = [UserName(item.key.name) for item in self._store.list(layout.subject(subject)) if item.key.name != "_"]
        return tuple(name for name in names if self._store.stat(layout.user(name)) is not None)

    # -- repositories

    def put_repository(
        self, user: UserName, repository: RepositoryName, body: bytes, meta: Meta, *, by: str
    ) -> Outcome:
        self._require(layout.user(user), f"user {user}")
        record = RepositoryRecord.parse(_bounded(body, MAX_RECORD_BODY))
        stored, meta = _choose(body, record.encode(), meta)
        outcome = self._create(layout.repository(user, repository), stored, meta, by)
        if outcome is Outcome.CREATED or not self._has_history(user, repository):
            self._append(user, repository, by, "repository-created", {"public": record.public})
        return outcome

    def repository(self, user: UserName, repository: RepositoryName) -> RepositoryRecord:
        """Raises NotFoundError when there is none."""
        return RepositoryRecord.parse(self.repository_body(user, repository).body)

    def repository_body(self, user: UserName, repository: RepositoryName) -> Stored:
        return self._read(layout.repository(user, repository), f"repository {user}/{repository}")

    def repositories(self, user: UserName, after: RepositoryName | None = None) -> Iterator[RepositoryName]:
        """Those of a user, in the order of their names."""
        begin = None if after is None else layout.repository(user, after)
        for item in self._store.list(layout.repositories(user), begin):
            yield RepositoryName(item.key.name)

    # -- tags

    def put_tag(
        self, user: UserName, repository: RepositoryName, tag: TagName, body: bytes, meta: Meta, *, by: str
    ) -> Outcome:
        """Bind a version to a tree's root. Raises UntrustedError when the repository wants a signature that is not there."""
        self._require(layout.repository(user, repository), f"repository {user}/{repository}")
        _require_digest(meta)
        parsed = Tag.parse(_bounded(body, MAX_TAG))
        if meta.media_type != parsed.media_type:
            raise MalformedError(f"Invalid content type: expected {parsed.media_type}, found {meta.media_type}")
        stored, meta = _choose(body, parsed.encode(), meta)
        signers = self.signers(user, repository)
        signed_by = parsed.verify(signers, subject_of(user, repository, tag)) if signers else ()
        outcome = self._create(layout.tag(user, repository, tag), stored, meta, by)
        if outcome is Outcome.CREATED:
            self._publish(user, repository, tag, parsed.entry, by=by, signed_by=signed_by)
        else:
            self.complete_history(user, repository, tag, by=by)
        return outcome

    def tag(self, user: UserName, repository: RepositoryName, tag: TagName) -> StoredTag:
        """Raises NotFoundError when there is none."""
        key = layout.tag(user, repository, tag)
        stored = self._read(key, f"tag {subject_of(user, repository, tag)}")
        try:
            parsed = _parsed_tag(stored.body)
        except MalformedError as error:
            raise damaged(key, str(error)) from error
        return StoredTag(stored=stored, tag=parsed, yanked=self._yanked(user, repository, tag))

    def tags(self, user: UserName, repository: RepositoryName) -> tuple[TagName, ...]:
        """In the order of their precedence. Raises NotFoundError when there is no such repository."""
        self._require(layout.repository(user, repository), f"repository {user}/{repository}")
        return tuple(sorted(TagName(item.key.name) for item in self._store.list(layout.tags(user, repository))))

    def workload(self, user: UserName, repository: RepositoryName, tag: TagName) -> Digest | None:
        """The workload digest: SHA-256 of the root. None while only the publisher could know it: before the root is here."""
        known = self.tag(user, repository, tag).entry.sha256
        if known is not None:
            return known
        try:
            return self._node(user, repository, tag, TreePath()).sha256
        except NotFoundError:
            return None

    def tags_of(self, user: UserName, repository: RepositoryName, workload: Digest) -> tuple[TagName, ...]:
        """The tags whose workload digest this is, oldest version first."""
        return tuple(tag for tag in self.tags(user, repository) if self.workload(user, repository, tag) == workload)

    def yank(self, user: UserName, repository: RepositoryName, tag: TagName, reason: str, *, by: str) -> Outcome:
        """Advise against a tag; nothing of it is removed."""
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise MalformedError(f"reason: expected at most {MAX_REASON} printable characters")
        return self._set_yanked(user, repository, tag, reason, by=by)

    def unyank(self, user: UserName, repository: RepositoryName, tag: TagName, *, by: str) -> Outcome:
        return self._set_yanked(user, repository, tag, None, by=by)

    # -- tree nodes

    def put_node(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> "NodeUpload":
        """Begin to upload a node; what can be told from `meta` is refused here."""
        _require_digest(meta)
        if meta.is_directory and meta.length > MAX_DIRECTORY:
            raise MalformedError(f"directory: expected at most {MAX_DIRECTORY} bytes, found {meta.length}")
        key = layout.node(user, repository, tag, path)
        expected = self._expected(user, repository, tag, path)
        if expected is not None:
            _require_same(expected.meta, meta, path)
        existing = self._records.find(key)
        if existing is not None and (found := _meta_of(key, existing).mismatch(meta)) and not meta.is_directory:
            raise ConflictError(f"Already exists: {path or 'root'}: {found}")
        if path.is_root and existing is None:
            self.complete_history(user, repository, tag, by=by)  # a publisher goes on who never heard of the tag
        return NodeUpload(
            registry=self, key=key, path=path, meta=meta, expected=None if expected is None else expected.meta, by=by
        )

    def resume_node(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> "ResumableUpload":
        """Begin to upload a node in several requests, or go on with it: the same node and meta are the same upload.

        What can be told from `meta` is refused here, each time.
        """
        self.put_node(user, repository, tag, path, meta, by=by).abort()
        key = layout.node(user, repository, tag, path)
        upload = sha256(key.text.encode() + b"\0" + meta.encode()).hexdigest()
        return ResumableUpload(
            parts=self._parts,
            upload=upload,
            meta=meta,
            begin=lambda: self.put_node(user, repository, tag, path, meta, by=by),
        )

    def take_over(
        self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath, meta: Meta, *, by: str
    ) -> Outcome | None:
        """Name a file that a recent version of this repository has at the same path; None when none has it.

        Never one of another repository: whoever knows the digest of a file must not get its bytes for that. All
        digests of `meta` have to be among those that were compared when the file came.
        """
        self.put_node(user, repository, tag, path, meta, by=by).abort()
        others = [other for other in self.tags(user, repository) if other != tag]
        for other in reversed(others[-RECENT:]):
            key = layout.node(user, repository, other, path)
            if self._records.find(key) is None:
                continue
            found = self.stored_node(key)
            same = found.meta.length == meta.length and meta.digests.items() <= found.meta.digests.items()
            if same and not found.meta.is_directory:
                return self.store_node(layout.node(user, repository, tag, path), path, meta, found.sha256, by)
        return None

    def node(self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath) -> StoredNode:
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

    def nodes(self, user: UserName, repository: RepositoryName, tag: TagName) -> tuple[StoredNode, ...]:
        """What has arrived of a tree, in the order of paths."""
        found = [self.stored_node(item.key) for item in self._store.list(layout.nodes(user, repository, tag))]
        return tuple(sorted(found, key=lambda node: node.path))

    def listing(self, node: StoredNode) -> Directory:
        """What a directory lists."""
        return self._listings.get(node.sha256, node.meta.length)

    # -- signatures

    def signers(self, user: UserName, repository: RepositoryName) -> tuple[SigningKey, ...]:
        """The keys of which one must have signed each new tag; none when anybody who may publish may."""
        found = self.document(user, repository, _SIGNERS, "keys")
        if found is None:
            return ()
        keys = canonical.members(canonical.parse(found.body, "signers"), "signers")
        return tuple(SigningKey.parse(name, str(pem).encode()) for name, pem in keys.items())

    def set_signers(self, user: UserName, repository: RepositoryName, keys: tuple[SigningKey, ...], *, by: str) -> None:
        """From now on every new tag must be signed by one of these. Tags that are there stay as they are."""
        if len({key.name for key in keys}) != len(keys):
            raise MalformedError("signers: expected every name once")
        body = canonical.encode({key.name: key.public_pem().decode() for key in sorted(keys, key=lambda key: key.name)})
        self.put_document(user, repository, _SIGNERS, "keys", body if keys else None, by=by)
        named: dict[str, Json] = {key.name: key.key_id for key in keys}
        self._append(user, repository, by, "signers-set", {"keys": {name: named[name] for name in sorted(named)}})

    # -- documents: what others keep here, each with its versions

    def document(self, user: UserName, repository: RepositoryName | None, kind: str, name: str) -> "Document | None":
        """The current version; None when there never was one, or when it was withdrawn."""
        journal = self._document(user, repository, kind, name)
        last = journal.last()
        found = _document(journal.read(last), last) if last else None
        return None if found is None or found.withdrawn else found

    def put_document(
        self,
        user: UserName,
        repository: RepositoryName | None,
        kind: str,
        name: str,
        body: bytes | None,
        *,
        by: str,
        replaces: int | None = None,
    ) -> int:
        """Write a new version, None to withdraw; its number is the answer.

        With `replaces`, only if that number is still the last one (0: if there never was one), else ConflictError:
        so a counter can be taken down by many without losing a step.
        """
        if repository is None:
            self._require(layout.user(user), f"user {user}")
        else:
            self._require(layout.repository(user, repository), f"repository {user}/{repository}")
        text = None if body is None else _text(_bounded(body, MAX_DOCUMENT))
        journal = self._document(user, repository, kind, name)
        for _ in until_it_is_ours(f"{kind} {name}"):
            last = journal.last()
            if replaces is not None and last != replaces:
                raise ConflictError(f"{kind} {name}: expected version {replaces} to be the last, found {last}")
            try:
                journal.create(last + 1, {**self._said(by), "body": text})
            except ConflictError:
                continue
            return last + 1
        raise AssertionError  # the attempts end with an error of their own

    def documents(
        self, user: UserName, repository: RepositoryName | None, kind: str
    ) -> Iterator[tuple[str, "Document"]]:
        """All current ones of a kind, by name."""
        names = {item.key.segments[-2]: None for item in self._store.list(layout.documents(user, repository, kind))}
        for name in names:
            found = self.document(user, repository, kind, name)
            if found is not None:
                yield name, found

    # -- history

    def history(self, user: UserName, repository: RepositoryName) -> Iterator[Change]:
        """Every change, oldest first, its chain checked. Raises NotFoundError when there is no such repository."""
        self._require(layout.repository(user, repository), f"repository {user}/{repository}")
        return self._histories.read(user, repository)

    def record(
        self, user: UserName, repository: RepositoryName, event: str, detail: Mapping[str, Json], *, by: str
    ) -> Change:
        """Put into the history what was changed elsewhere: a policy, a member, a token."""
        self._require(layout.repository(user, repository), f"repository {user}/{repository}")
        return self._append(user, repository, by, event, detail)

    def complete_history(self, user: UserName, repository: RepositoryName, tag: TagName, *, by: str) -> bool:
        """Record a publication that is not: whoever published died in between. Answers whether it was missing."""
        changes = self._histories.latest(user, repository)
        if any(change.event == _PUBLISHED and change.detail.get("tag") == tag.text for change in changes):
            return False
        self._publish(user, repository, tag, self.tag(user, repository, tag).entry, by=by)
        return True

    # -- for uploads

    def store_node(self, key: Key, path: TreePath, meta: Meta, digest: Digest, by: str) -> Outcome:
        """Name content that is stored. Raises UnavailableError when `gc` was faster: then it has to be sent again."""
        values = {**self._said(by), "path": str(path), "meta": meta.to_json(), "blob": digest.hex}
        outcome = Outcome.CREATED
        try:
            self._records.create(key, values)
        except ConflictError:
            existing = self._records.read(key)
            if found := _meta_of(key, existing).mismatch(meta):
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
                meta=_meta_of(key, values),
                sha256=Digest.parse(canonical.member(values, "blob", str, "node")),
                contents=self._contents,
            )
        except MalformedError as error:
            raise damaged(key, str(error)) from error

    # -- inside

    def _expected(self, user: UserName, repository: RepositoryName, tag: TagName, path: TreePath) -> Entry | None:
        """What the parent says of a node; None for what the originals leave out of their listings."""
        if path.is_root:
            return self.tag(user, repository, tag).entry
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

    def _create(self, key: Key, body: bytes, meta: Meta, by: str) -> Outcome:
        try:
            self._records.create(key, {**self._said(by), "meta": meta.to_json(), "body": _text(body)})
        except ConflictError:
            existing = _stored(key, self._records.read(key))
            if existing.body == body or existing.meta.mismatch(meta) is None:
                return Outcome.EXISTS
            raise ConflictError("Already exists") from None
        return Outcome.CREATED

    def _read(self, key: Key, what: str) -> Stored:
        return self._bodies.get(key, lambda: self._read_anew(key, what))

    def _read_anew(self, key: Key, what: str) -> Stored:
        values = self._records.find(key)
        if values is None:
            raise NotFoundError(f"{what}: there is none")
        return _stored(key, values)

    def _require(self, key: Key, what: str) -> None:
        if self._store.stat(key) is None:
            raise NotFoundError(f"{what}: there is none")

    def _said(self, by: str) -> dict[str, Json]:
        return {"at": self._now().isoformat(), "by": by}

    def _claim(self, subject: Key, user: UserName) -> None:
        """Let one name space be the only one of its subject. A claim for a name that was never registered is void."""
        try:
            self._records.create(subject / "_", {"user": user.text})
        except ConflictError:
            claimed = UserName(str(self._records.read(subject / "_").get("user")))
            if claimed != user and self._store.stat(layout.user(claimed)) is not None:
                raise ConflictError("User already associated with OpenID Connect subject") from None

    def _mark(self, key: Key) -> None:
        if self._store.stat(key) is None:
            try:
                self._records.create(key, {})
            except ConflictError:
                return

    def _append(
        self, user: UserName, repository: RepositoryName, by: str, event: str, detail: Mapping[str, Json] = _NO_DETAIL
    ) -> Change:
        return self._histories.append(user, repository, by=by, event=event, detail=detail)

    def _has_history(self, user: UserName, repository: RepositoryName) -> bool:
        return self._store.stat(layout.number(layout.history(user, repository), 1)) is not None

    def _publish(
        self,
        user: UserName,
        repository: RepositoryName,
        tag: TagName,
        entry: Entry,
        *,
        by: str,
        signed_by: tuple[str, ...] = (),
    ) -> None:
        signers: dict[str, Json] = {"signed-by": list(signed_by)} if signed_by else {}
        detail: dict[str, Json] = {"tag": tag.text, "digest": entry.meta.digests.to_json(), **signers}
        self._append(user, repository, by, _PUBLISHED, detail)

    def _document(self, user: UserName, repository: RepositoryName | None, kind: str, name: str) -> Journal:
        return Journal(self._store, layout.documents(user, repository, kind) / name)

    def _yanked(self, user: UserName, repository: RepositoryName, tag: TagName) -> str | None:
        found = self.document(user, repository, _YANK, tag.text)
        return None if found is None else str(canonical.parse(found.body, "yank"))

    def _set_yanked(
        self, user: UserName, repository: RepositoryName, tag: TagName, reason: str | None, *, by: str
    ) -> Outcome:
        event, outcome = ("tag-unyanked" if reason is None else "tag-yanked"), Outcome.EXISTS
        if self.tag(user, repository, tag).yanked != reason:
            body = None if reason is None else canonical.encode(reason)
            self.put_document(user, repository, _YANK, tag.text, body, by=by)
            outcome = Outcome.CREATED
        detail: dict[str, Json] = {"tag": tag.text} if reason is None else {"tag": tag.text, "reason": reason}
        if outcome is Outcome.CREATED or self._yanked_last(user, repository, tag) != event:
            self._append(user, repository, by, event, detail)
        return outcome

    def _yanked_last(self, user: UserName, repository: RepositoryName, tag: TagName) -> str:
        """What history says of a tag's yanking: who yanked it may have died before it was recorded."""
        changes = self._histories.latest(user, repository)
        said = (change for change in changes if change.detail.get("tag") == tag.text and "yanked" in change.event)
        return next((change.event for change in said), "tag-unyanked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One version of a document."""

    version: int
    body: bytes
    at: datetime
    by: str
    withdrawn: bool = False


class NodeUpload:
    """A node on its way in. Files pass through; a listing is held, for it has to be read before it may be stored."""

    def __init__(
        self, *, registry: Registry, key: Key, path: TreePath, meta: Meta, expected: Meta | None, by: str
    ) -> None:
        self._registry = registry
        self._key = key
        self._path = path
        self._meta = meta
        self._expected = expected
        self._by = by
        self._listing = bytearray() if meta.is_directory else None
        self._content: ContentUpload | None = None
        if self._listing is None:
            self._content = registry.contents.upload(meta.digests, meta.length)

    def write(self, data: bytes | memoryview) -> None:
        """Raises MalformedError as soon as there is too much."""
        if self._content is not None:
            self._content.write(data)
        elif self._listing is not None:
            self._listing += data
            if len(self._listing) > MAX_DIRECTORY:
                raise MalformedError(f"directory: expected at most {MAX_DIRECTORY} bytes, found more")

    def finish(self) -> Outcome:
        """Verify, make durable, then visible. Raises MalformedError or ConflictError; then nothing is visible."""
        with self:
            if self._content is not None:
                digest, meta = self._content.commit(), self._meta
            else:
                digest, meta = self._finish_listing(bytes(self._listing or b""))
            return self._registry.store_node(self._key, self._path, meta, digest, self._by)

    def _finish_listing(self, body: bytes) -> tuple[Digest, Meta]:
        stored, meta = _choose(body, Directory.parse(body).encode(), self._meta)
        if self._expected is not None and (found := self._expected.mismatch(meta)):
            raise MalformedError(f"Content digest mismatch: {self._path or 'root'}: its parent says otherwise: {found}")
        return self._registry.contents.put(stored), meta

    def abort(self) -> None:
        if self._content is not None:
            self._content.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


class ResumableUpload:
    """A node that arrives in several requests.

    upload = registry.resume_node(…)
    with upload.append(upload.offset, size) as writer:    # keeps what was written, whatever happens
        writer.write(…)
    if upload.is_complete:
        upload.finish()                             # as that of NodeUpload
    """

    def __init__(self, *, parts: Parts, upload: str, meta: Meta, begin: Callable[[], NodeUpload]) -> None:
        self._parts = parts
        self._id = upload
        self._begin = begin
        self.length: Final = meta.length

    @property
    def offset(self) -> int:
        """How many bytes have arrived and are durable."""
        return self._parts.offset(self._id)

    @property
    def is_complete(self) -> bool:
        return self.offset == self.length

    def append(self, offset: int, size: int) -> PartWriter:
        """Begin to append `size` bytes. Raises ConflictError when `offset` is not where to go on."""
        if offset + size > self.length:
            raise MalformedError(f"Content length mismatch: expected {self.length} bytes, found more")
        return self._parts.append(self._id, offset)

    def finish(self) -> Outcome:
        """Verify the whole and publish it. When it is not what was declared, what has arrived is forgotten."""
        if not self.is_complete:
            raise ConflictError(f"upload: expected {self.length} bytes to have arrived, found {self.offset}")
        with self._begin() as node:
            try:
                for data in self._parts.read(self._id):
                    node.write(data)
                outcome = node.finish()
            except MalformedError:
                self._parts.drop(self._id)
                raise
        self._parts.drop(self._id)
        return outcome


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


class _Bodies:
    """Small bodies that were read before. They can not change; whether the object is still the same is looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: OrderedDict[Key, tuple[Item, Stored]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key, read: Callable[[], Stored]) -> Stored:
        item = self._store.stat(key)
        with self._lock:
            found = self._held.get(key)
            if found is not None and found[0] == item:
                self._held.move_to_end(key)
                return found[1]
        stored = read()
        if item is not None:
            with self._lock:
                self._held[key] = (item, stored)
                if len(self._held) > _CACHED_BODIES:
                    self._held.popitem(last=False)
        return stored


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


@lru_cache(maxsize=_CACHED_BODIES)
def _parsed_tag(body: bytes) -> Tag:
    """The same bytes are the same tag."""
    return Tag.parse(body)


def _choose(received: bytes, encoded: bytes, meta: Meta) -> tuple[bytes, Meta]:
    """The bytes that the digests are of, and what is said about those. Without digests, the canonical ones."""
    if not meta.digests:
        return encoded, Meta(digests=Digests.of(encoded), length=len(encoded), media_type=meta.media_type)
    for body in (encoded, received):
        if all(hash_bytes(name, body) == value for name, value in meta.digests.items()):
            if meta.length not in {len(received), len(body)}:
                require(meta.digests, meta.length, meta.digests, len(body))
            return body, Meta(digests=meta.digests, length=len(body), media_type=meta.media_type)
    require(meta.digests, meta.length, Digests.of(received), len(received))
    raise AssertionError  # one of the digests is not that of the bytes received


def _require_digest(meta: Meta) -> None:
    if not meta.digests:
        raise MalformedError("At least one content digest value must be specified")


def _require_same(expected: Meta, meta: Meta, path: TreePath) -> None:
    """Compare what the parent says. The length of a listing is compared when it is known which bytes count."""
    if meta.is_directory and expected.is_directory:
        if expected.digests.agrees(meta.digests):
            return
        meta = Meta(digests=meta.digests, length=expected.length, media_type=meta.media_type)
    if found := expected.mismatch(meta):
        raise MalformedError(f"Content digest mismatch: {path or 'root'}: its parent says otherwise: {found}")


def _stored(key: Key, values: Mapping[str, Any]) -> Stored:  # Any: JSON of a record, checked here
    try:
        return Stored(
            meta=_meta_of(key, values),
            body=canonical.member(values, "body", str, "record").encode(),
            at=datetime.fromisoformat(canonical.member(values, "at", str, "record")),
            by=canonical.member(values, "by", str, "record"),
        )
    except (MalformedError, ValueError) as error:
        raise damaged(key, str(error)) from error


def _document(values: Mapping[str, Any], version: int) -> Document:  # Any: JSON of a record
    body = values.get("body")
    return Document(
        version=version,
        body=b"" if body is None else str(body).encode(),
        at=datetime.fromisoformat(str(values.get("at"))),
        by=str(values.get("by")),
        withdrawn=body is None,
    )


def _meta_of(key: Key, values: Mapping[str, Any]) -> Meta:  # Any: JSON of a record, checked here
    try:
        return Meta.from_json(canonical.member(values, "meta", dict, "record"), "record")
    except MalformedError as error:
        raise damaged(key, str(error)) from error


def _bounded(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise MalformedError(f"body: expected at most {limit} bytes, found {len(body)}")
    return body


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"body: expected UTF-8, found another byte at {error.start}") from error
