"""What a publisher, a reader and a Keep need of a registry. It believes nothing that it can check.

    with Client("https://registry.example", token=…) as http:
        registry = Registry(http)
        published = registry.tag(slug)                          what the registry says
        files = registry.fetch(slug, published.entry, workload=digest)     what is proven by `digest`

A node is checked while it streams: never a byte more than its entry declares, and every digest of the entry at the
end. A tree is checked from the workload digest (SHA-256 of its root node) downwards, directory by directory, within
limits that are set before a byte is asked for. A sealed answer is opened with the Keep's sealing key; what comes out
of it is checked all the same. A transfer that breaks goes on where it was; a PUT is repeated, for what was published
can not change. Paths and bodies are those of the originals (protocol.md, 2), and what is beyond them is in flow.md, 5.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn
from urllib.parse import unquote

from enarx.attested import sealing
from enarx.digest import Digest, Digests, Hasher
from enarx.drawbridge import canonical
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.tag import MAX_TAG, Tag
from enarx.drawbridge.transfer import PASSING, BusyError, Crew, Patience, Sleep, repeated, retry_after
from enarx.drawbridge.tree import CHUNK, MAX_DIRECTORY, Directory, Entry, Meta, Node, Tree
from enarx.errors import (
    ConflictError,
    EnarxError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UnavailableError,
    UntrustedError,
)
from enarx.web.client import MAX_PROBLEM, Client, Response, StreamedResponse
from enarx.web.problems import MEDIA_TYPE as PROBLEM_TYPE
from enarx.web.problems import error_of

API: Final = "/api/v0.1.0"  # what both generations of the originals' clients say
ROOT: Final = TreePath()
LONE_FILE: Final = "main.wasm"  # what a package of one file runs
JSON_TYPE: Final = "application/json"
ACCEPT: Final = f"*/*, {PROBLEM_TYPE}"  # an older registry answers with its sentence alone

MAX_DOCUMENT: Final = 1_000_000  # bytes of a record or a tag
MAX_LISTING: Final = 16_000_000  # bytes of a list of tags
YANKED: Final = "enarx-yanked"  # header of a tag that was taken back; its value is the reason, percent-encoded
MAX_REASON: Final = 500  # characters of it that are shown
UPLOADS: Final = "enarx-uploads"  # header of a tag: whether files may come in parts
RESUMABLE: Final = "resumable"  # its value where they may
UPLOAD_OFFSET: Final = "upload-offset"  # header: how many bytes of a file have arrived
RESUMED_FROM: Final = 16 * 1024 * 1024  # bytes from which a file is sent so that it can go on where it broke
ASKED_FROM: Final = 128 * 1024  # bytes from which it is worth a question whether the registry has a file already
REFUSALS: Final = range(300, 600)

_STEWARD: Final = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?steward"?', re.IGNORECASE)


class AnsweredError(EnarxError):
    """Beneath a refusal: what the registry answered to what. The command line tells it as the originals do."""

    def __init__(self, *, method: str, status: int, sentence: str, anonymous: bool) -> None:
        super().__init__(sentence)
        self.method, self.status, self.sentence, self.anonymous = method, status, sentence, anonymous


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opens sealed answers: the sealing key and the leaf certificate (DER) that names it."""

    private: sealing.SealingPrivateKey
    leaf: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a tree is taken. `files` counts directories, too."""

    total: int = 2_000_000_000  # bytes of all files
    file: int = 2_000_000_000  # bytes of one
    files: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A tag as the registry has it. Nothing of it is proven: `tag.verify` and `Registry.fetch` prove.

    `steward` is the Steward that the repository names, `yanked` the reason where the version was taken back.
    """

    name: TagName
    tag: Tag
    steward: str | None = None
    yanked: str | None = None

    @property
    def entry(self) -> Entry:
        return self.tag.entry


DEFAULT_LIMITS: Final = Limits()

OnBytes = Callable[[int], None]


def nothing(_: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class Item:
    """A node of a tree that is being read: where it hangs, and what it has to be."""

    path: TreePath
    entry: Entry

    @property
    def file_name(self) -> str:
        """The path, as a file is called on disk; a root that is a lone file is called main.wasm."""
        return LONE_FILE if self.path.is_root and not self.entry.is_directory else str(self.path)

    @property
    def digest(self) -> Digest:
        """The one to show: SHA-256 where it is there."""
        return _first(self.entry.meta.digests)


@dataclass(slots=True, kw_only=True)
class Budget:
    """What is left of the limits."""

    limits: Limits
    total: int = 0
    files: int = 0

    def take(self, item: Item) -> None:
        """Raises MalformedError when this node would be too much; nothing of it has been asked for then."""
        length = item.entry.meta.length
        self.files += 1
        self.total += length
        limit = min(self.limits.file, MAX_DIRECTORY) if item.entry.is_directory else self.limits.file
        what = str(item.path) or "the root"
        if length > limit:
            raise MalformedError(f"tree: {what}: expected at most {limit} bytes, {length} are declared")
        if self.total > self.limits.total:
            raise MalformedError(f"tree: expected at most {self.limits.total} bytes, more are declared at {what}")
        if self.files > self.limits.files:
            raise MalformedError(f"tree: expected at most {self.limits.files} files, more are declared at {what}")


class Registry:
    """One registry, spoken to over `http` as whoever `http` says that we are."""

    def __init__(self, http: Client, *, opening: Opening | None = None, sleep: Sleep = time.sleep) -> None:
        self._http = http
        self._opening = opening
        self._sleep = sleep
        self._met = False  # until it has answered once
        self._resumable = False  # until the registry says that it is

    @property
    def host(self) -> str:
        return self._http.host

    # -- users and repositories

    def user(self, name: UserName) -> str:
        """The subject that the name belongs to."""
        values = self._object(f"/{name}", "user record")
        return str(canonical.member(values, "subject", str, f"{self.host}: user record"))

    def put_user(self, name: UserName, subject: str) -> bool:
        """Claim a name. Answers whether it is new. Raises ConflictError when it is somebody else's."""
        return self._put_json(f"/{name}", {"subject": subject})

    def repository(self, user: UserName, name: RepositoryName) -> bool:
        """Whether the repository is public."""
        values = self._object(f"/{user}/{name}", "repository")
        return bool(canonical.member(values, "public", bool, f"{self.host}: repository"))

    def put_repository(self, user: UserName, name: RepositoryName, *, public: bool) -> bool:
        """Register a repository. Answers whether it is new."""
        return self._put_json(f"/{user}/{name}", {"public": public})

    def tags(self, user: UserName, name: RepositoryName) -> tuple[TagName, ...]:
        """Every version, the oldest first."""
        body = self._get(f"/{user}/{name}/_tag", MAX_LISTING).body
        values = canonical.parse(body, f"{self.host}: tags")
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise MalformedError(f"{self.host}: tags: expected an array of strings")
        return tuple(sorted(TagName(value) for value in values))

    # -- tags

    def tag(self, slug: PackageSlug) -> Published:
        """What the version is bound to. A digest in the slug must be that of the root.

        Raises UntrustedError when the registry shows another, NotFoundError when it shows nothing.
        """
        name = self.resolve(slug)
        answer = self._get(f"/{slug.user}/{slug.repository}/_tag/{name}", MAX_TAG)
        try:
            tag = Tag.parse(answer.body)
        except MalformedError as error:
            raise MalformedError(f"{self.host}: {error}") from error
        if slug.digest is not None:
            if slug.digest.algorithm not in tag.entry.meta.digests:
                raise UntrustedError(f"{self.host}: {_shown(slug)}: the tag names no {slug.digest.algorithm} digest")
            require_digest(tag.entry, slug.digest, f"{self.host}: {_shown(slug)}")
        return Published(
            name=name,
            tag=tag,
            steward=_steward(answer.headers.get("link", "")),
            yanked=_reason(answer.headers.get(YANKED)),
        )

    def resolve(self, slug: PackageSlug) -> TagName:
        """The tag of the slug; where it names a digest alone, the newest version that has it."""
        if slug.tag is not None:
            return slug.tag
        for name in reversed(self.tags(slug.user, slug.repository)):
            found = self.tag(PackageSlug(user=slug.user, repository=slug.repository, tag=name))
            if slug.digest in found.entry.meta.digests.digests():
                return name
        raise NotFoundError(f"{self.host}: {slug}: no version has that digest")

    def workload(self, slug: PackageSlug, root: Entry) -> Digest:
        """The workload digest: what the tag says; where it does not, that of the root node, which is read for it."""
        if root.sha256 is not None:
            return root.sha256
        hasher, item = Hasher(), Item(TreePath(), root)
        for chunk in self.read(slug, item, workload=Digest.of(b"")):  # nobody's: an answer sealed to it stays closed
            hasher.update(chunk)
        return hasher.digests().digests()[0]

    # -- down

    def tree(
        self, slug: PackageSlug, root: Entry, *, workload: Digest, limits: Limits = DEFAULT_LIMITS
    ) -> tuple[Item, ...]:
        """Every node of the tree, parents before children: all listings are read and proven, no file is.

        `root` is what the tag says; it has to be what `workload` stands for. Raises UntrustedError for other bytes,
        MalformedError beyond the limits, and what the registry refuses with.
        """
        require_digest(root, workload, f"{self.host}: {_shown(slug)}")
        budget, found, waiting = Budget(limits=limits), list[Item](), [Item(TreePath(), _pinned(root, workload))]
        while waiting:
            item = waiting.pop()
            budget.take(item)
            found.append(item)
            if item.entry.is_directory:
                body = b"".join(self.read(slug, item, workload=workload))
                children = _listing(body, f"{self.host}: {item.path or 'the root'}")
                waiting += [Item(item.path / name, children[name]) for name in reversed(list(children))]
        return tuple(found)

    def fetch(
        self,
        slug: PackageSlug,
        root: Entry,
        *,
        workload: Digest,
        limits: Limits = DEFAULT_LIMITS,
        on_bytes: OnBytes = nothing,
    ) -> dict[str, bytes]:
        """Every file by its path, in memory, proven by `workload`. A root that is a lone file is called main.wasm."""
        files = dict[str, bytes]()
        for item in self.tree(slug, root, workload=workload, limits=limits):
            if not item.entry.is_directory:
                body = bytearray()
                for chunk in self.read(slug, item, workload=workload):
                    body += chunk
                    on_bytes(len(chunk))
                files[item.file_name] = bytes(body)
        return files

    def fetch_into(
        self,
        slug: PackageSlug,
        items: Sequence[Item],
        directory: Path,
        *,
        workload: Digest,
        below: TreePath = ROOT,
        on_bytes: OnBytes = nothing,
    ) -> None:
        """Write what `tree` found (those of its nodes that are `below`) as `directory`, which appears when it is complete.

        Until then it grows beside it, under a name of its own; who calls again goes on from there. Raises
        ConflictError when `directory` is there and not empty.
        """
        directory = directory.absolute()
        if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
            raise ConflictError(f"{directory}: expected nothing or an empty directory there")
        growing = directory.with_name(f".{directory.name}.{items[0].digest.hex[:16]}.part")
        with _writing(directory):
            growing.mkdir(parents=True, exist_ok=True)
            with Crew[None](lambda _: None) as crew:
                for item in items:
                    target = growing.joinpath(*item.file_name.split("/")[len(below) :]) if item.file_name else growing
                    if item.entry.is_directory:
                        target.mkdir(exist_ok=True)
                    else:
                        crew.give(partial(self._fetch_file, slug, item, target, workload, on_bytes))
            growing.replace(directory)

    def fetch_file(
        self, slug: PackageSlug, item: Item, target: Path, *, workload: Digest, on_bytes: OnBytes = nothing
    ) -> None:
        """Write one node of `tree` as the file `target`, which must not be there."""
        if target.is_symlink() or target.exists():
            raise ConflictError(f"{target}: expected no file there")
        growing = target.with_name(f".{target.name}.{item.digest.hex[:16]}.part")
        with _writing(target):
            self._fetch_file(slug, item, growing, workload, on_bytes)
            growing.replace(target)

    def _fetch_file(self, slug: PackageSlug, item: Item, target: Path, workload: Digest, on_bytes: OnBytes) -> None:
        """Write one file. What is there already is kept if it turns out to be the beginning, else written again."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            begun = Hasher(item.entry.meta.digests)
            while chunk := file.read(CHUNK):
                begun.update(chunk)
            if 0 < begun.length <= item.entry.meta.length:
                on_bytes(begun.length)
                try:
                    self._write(file, self.read(slug, item, workload=workload, begun=begun), on_bytes)
                except UntrustedError:
                    on_bytes(-begun.length)  # somebody else's beginning, or a registry that lies: the next try tells
                else:
                    return
            file.seek(0)
            file.truncate()
            self._write(file, self.read(slug, item, workload=workload), on_bytes)

    @staticmethod
    def _write(file: BinaryIO, chunks: Iterable[bytes], on_bytes: OnBytes) -> None:
        for chunk in chunks:
            file.write(chunk)
            on_bytes(len(chunk))

    def read(self, slug: PackageSlug, item: Item, *, workload: Digest, begun: Hasher | None = None) -> Iterator[bytes]:
        """The bytes of a node, which are what its entry says once the last one was read.

        Who has its beginning gives that, hashed with all digests of the entry, as `begun`, and gets the rest. A
        transfer that breaks is taken up where it broke. Raises UntrustedError, MalformedError, UnavailableError, and
        what the registry refuses with.
        """
        meta, where = item.entry.meta, f"{self.host}: {_shown(slug)}/{item.path}".rstrip("/")
        hasher, patience = begun or Hasher(meta.digests), Patience(self._sleep)
        while True:
            try:
                for chunk in self._from(slug, item, workload, hasher.length):
                    if hasher.length + len(chunk) > meta.length:
                        raise UntrustedError(f"{where}: expected {meta.length} bytes, the registry sends more")
                    patience.progress()
                    hasher.update(chunk)
                    yield chunk
                break
            except UnavailableError as error:
                if not patience.again(error.seconds if isinstance(error, BusyError) else None):
                    raise
        if hasher.length != meta.length:
            raise UntrustedError(f"{where}: expected {meta.length} bytes, the registry sent {hasher.length}")
        if hasher.digests() != meta.digests:
            raise UntrustedError(f"{where}: {_expected(meta.digests, hasher.digests())}")

    def _from(self, slug: PackageSlug, item: Item, workload: Digest, start: int) -> Iterator[bytes]:
        """The plain bytes from `start`, unchecked. Sealed answers and old registries begin at the beginning."""
        if 0 < start == item.entry.meta.length:
            return
        headers = {"Accept": ACCEPT} | ({"Range": f"bytes={start}-"} if start and self._opening is None else {})
        url = _node_url(slug, item.path)
        with self._http.stream_get(API + url, headers=headers, allow=REFUSALS) as answer:
            if answer.status >= 300:
                self._refuse("GET", url, answer.status, answer.headers, _beginning(answer))
            chunks, skip = answer.chunks(), start
            if _essence(answer.headers) == sealing.MEDIA_TYPE:
                chunks = self._opened(chunks, item, workload)
            elif answer.status == 206:
                _require_range(answer.headers.get("content-range", ""), start, self.host)
                skip = 0
            for chunk in chunks:
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def _opened(self, chunks: Iterable[bytes], item: Item, workload: Digest) -> Iterator[bytes]:
        """What is in a sealed answer. Its own Meta comes first, and must be that of the entry."""
        if self._opening is None:
            raise UntrustedError(f"{self.host}: the answer is sealed to a key that is not ours")
        opener = sealing.Opener(self._opening.private, leaf=self._opening.leaf, workload=workload, path=str(item.path))
        checked = False
        for chunk in chunks:
            for piece in opener.feed(chunk):
                checked = checked or self._checked(opener, item)
                yield piece
        opener.finish()
        if not checked:
            self._checked(opener, item)

    def _checked(self, opener: sealing.Opener, item: Item) -> bool:
        wrong = item.entry.meta.mismatch(Meta.parse(opener.meta or b""))
        if wrong is not None:
            raise UntrustedError(f"{self.host}: sealed {item.path or 'root'}: {wrong}")
        return True

    # -- up

    def stat(self, slug: PackageSlug, path: TreePath) -> Meta | None:
        """What the registry says of a node that it has; None where it has none."""
        url = _node_url(slug, path)
        answer = self._repeated(lambda: self._http.head(API + url, headers={"Accept": ACCEPT}, allow=REFUSALS))
        if answer.status == 404:
            return None
        if answer.status >= 300:
            self._refuse("HEAD", url, answer.status, answer.headers, answer.body)
        return _meta(answer, f"{self.host}: {url}")

    def publish(
        self,
        slug: PackageSlug,
        tag: Tag,
        tree: Tree,
        *,
        on_bytes: OnBytes = nothing,
        on_node: Callable[[Node, bool], None] = lambda _node, _sent: None,
    ) -> bool:
        """Publish `tree` as the version of the slug. Answers whether the version is new; who calls again goes on.

        `on_node` is told of every node, and whether it had to be sent. Raises ConflictError when the version is
        bound to something else: what was published can not change.
        """
        name = _require_tag(slug)
        fresh = self._put_tag(slug, name, tag)
        with Crew[tuple[Node, bool]](lambda done: on_node(*done)) as crew:
            for node in tree.nodes:  # parents before children; files wait for nobody
                work = partial(self._publish_node, slug, node, on_bytes, fresh=fresh)
                (crew.now if node.entry.is_directory else crew.give)(work)
        return fresh

    def _publish_node(self, slug: PackageSlug, node: Node, on_bytes: OnBytes, *, fresh: bool) -> tuple[Node, bool]:
        if not fresh and self._has(slug, node):
            on_bytes(node.entry.meta.length)
            return node, False
        return node, self._put_node(slug, node, on_bytes)

    def _put_tag(self, slug: PackageSlug, name: TagName, tag: Tag) -> bool:
        url = f"{_repository_url(slug)}/_tag/{name}"
        known = self._fetched(url, MAX_TAG)
        self._resumable = known.headers.get(UPLOADS) == RESUMABLE
        if known.status == 200:
            bound = Tag.parse(known.body)
            what = f"{self.host}: {_shown(slug)}: this version is published"
            if bound.entry.encode() != tag.entry.encode():
                found = _expected(tag.entry.meta.digests, bound.entry.meta.digests)
                raise ConflictError(f"{what} with other content and can not change: {found}; choose another version")
            if not {item.key_id for item in tag.signatures} <= {item.key_id for item in bound.signatures}:
                raise ConflictError(f"{what} without that signature and can not change; choose another version")
            return False
        body = tag.encode()
        return self._put(url, body, tag.media_type)

    def _has(self, slug: PackageSlug, node: Node) -> bool:
        known = self.stat(slug, node.path)
        if known is not None and (wrong := node.entry.meta.mismatch(known)) is not None:
            raise ConflictError(f"{self.host}: {_shown(slug)}/{node.path}: the registry has another: {wrong}")
        return known is not None

    def _put_node(self, slug: PackageSlug, node: Node, on_bytes: OnBytes) -> bool:
        """Send one node, again or from where it broke if the connection breaks. Answers whether anything was sent."""
        url, meta = _node_url(slug, node.path), node.entry.meta
        headers = {"Content-Type": meta.media_type, "Content-Digest": meta.digests.header(), "Accept": ACCEPT}
        parts = self._resumable and not meta.is_directory and meta.length >= RESUMED_FROM
        upload = _Upload(http=self._http, url=API + url, node=node, headers=headers, on_bytes=on_bytes, parts=parts)
        if self._resumable and not meta.is_directory and RESUMED_FROM > meta.length >= ASKED_FROM:
            known = self._repeated(upload.ask)
            if known.status in {200, 201}:
                return False
        answer = self._resumed(upload) if parts else self._repeated(lambda: upload.send(0))
        if answer.status == 409 and self._has(slug, node):
            return True  # an older registry says so of the same bytes, too
        if answer.status >= 300:
            self._refuse("PUT", url, answer.status, answer.headers, answer.body)
        return upload.sent

    def _resumed(self, upload: "_Upload") -> Response:
        """Send a file from where it is, as long as something of it arrives."""
        patience, arrived = Patience(self._sleep), 0
        while True:
            try:
                answer = upload.ask()
                if answer.status == 202:
                    offset = _offset(answer, self.host)
                    if offset > arrived:
                        arrived = offset
                        patience.progress()
                    answer = upload.send(offset)
            except UnavailableError:
                if not patience.again():
                    raise
                continue
            if answer.status not in PASSING and not (answer.status == 409 and UPLOAD_OFFSET in answer.headers):
                return answer
            if not patience.again(retry_after(answer.status, answer.headers)):
                return answer

    # -- what else there is of a repository

    def look(self, url: str) -> canonical.Json:
        """A resource as JSON."""
        return _json(self._get(url, MAX_LISTING), f"{self.host}: {url}")

    def set(self, url: str, value: canonical.Json) -> canonical.Json:
        """Replace a resource. What the registry says of it comes back."""
        headers = {"Content-Type": JSON_TYPE, "Accept": ACCEPT}
        body = canonical.encode(value)
        answer = self._repeated(lambda: self._http.put(API + url, body, headers=headers, allow=REFUSALS))
        return self._accepted("PUT", url, answer)

    def remove(self, url: str) -> canonical.Json:
        """Remove a resource."""

        def send() -> Response:
            return self._http.request("DELETE", API + url, headers={"Accept": ACCEPT}, allow=REFUSALS)

        return self._accepted("DELETE", url, self._repeated(send))

    def make(self, url: str, value: canonical.Json) -> canonical.Json:
        """Make something new. Asked once: twice would make two."""
        return self.ask(url, canonical.encode(value), JSON_TYPE)

    def ask(self, url: str, body: bytes, media_type: str) -> canonical.Json:
        """POST, and the JSON that comes back."""
        headers = {"Content-Type": media_type, "Accept": ACCEPT}
        answer = self._http.post(API + url, body, headers=headers, allow=REFUSALS)
        return self._accepted("POST", url, answer)

    def _accepted(self, method: str, url: str, answer: Response) -> canonical.Json:
        if answer.status >= 300:
            self._refuse(method, url, answer.status, answer.headers, answer.body)
        return _json(answer, f"{self.host}: {url}") if answer.body else None

    # -- one request

    def _get(self, url: str, limit: int = MAX_DOCUMENT) -> Response:
        answer = self._fetched(url, limit)
        if answer.status >= 300:
            self._refuse("GET", url, answer.status, answer.headers, answer.body)
        return answer

    def _fetched(self, url: str, limit: int) -> Response:
        return self._repeated(
            lambda: self._http.get(API + url, headers={"Accept": ACCEPT}, allow=REFUSALS, limit=limit)
        )

    def _object(self, url: str, what: str) -> dict[str, Any]:  # Any: parsed JSON, checked by the caller
        what = f"{self.host}: {what}"
        return canonical.members(canonical.parse(self._get(url).body, what), what)

    def _put_json(self, url: str, value: canonical.Json) -> bool:
        return self._put(url, canonical.encode(value), JSON_TYPE)

    def _put(self, url: str, body: bytes, media_type: str) -> bool:
        """Answers whether it is new. Raises what the registry refuses with."""
        headers = {
            "Content-Type": media_type,
            "Content-Digest": Digests.of(body).header(),
            "Accept": ACCEPT,
        }
        answer = self._repeated(lambda: self._http.put(API + url, body, headers=headers, allow=REFUSALS))
        if answer.status >= 300:
            self._refuse("PUT", url, answer.status, answer.headers, answer.body)
        self._resumable = self._resumable or answer.headers.get(UPLOADS) == RESUMABLE
        return answer.status == 201

    def _repeated(self, send: Callable[[], Response]) -> Response:
        def noticed() -> Response:
            answer = send()
            self._met = True
            return answer

        return repeated(noticed, self._sleep, met=lambda: self._met)

    def _refuse(self, method: str, url: str, status: int, headers: Mapping[str, str], body: bytes) -> NoReturn:
        """Raise what the answer means: in one sentence for whoever sees only that, and beneath it what was said."""
        if status < 400:
            raise MalformedError(f"{self.host}: {method} {url}: answered with a redirect, which is not followed")
        said = error_of(status, headers.get("content-type", ""), body, who="")
        sentence = str(said).removeprefix(": ")
        text, seconds = f"{self.host}: {method} {url}: {status}: {sentence}", retry_after(status, headers)
        raised = _family(said, text) if seconds is None else BusyError(text, seconds)
        raise raised from AnsweredError(method=method, status=status, sentence=sentence, anonymous=self._http.anonymous)


@dataclass(slots=True, kw_only=True)
class _Upload:
    """One file on its way up. `on_bytes` hears of what arrived, and takes back what did not."""

    http: Client
    url: str
    node: Node
    headers: Mapping[str, str]
    on_bytes: OnBytes
    parts: bool
    told: int = 0
    sent: bool = False

    def ask(self) -> Response:
        """How much has arrived: 202 and the offset; or what became of it when all has."""
        length = self.node.entry.meta.length
        headers = {**self.headers, "Content-Range": f"bytes */{length}"}
        answer = self.http.put(self.url, b"", headers=headers, allow=REFUSALS)
        if answer.status in {200, 201}:
            self._tell(length - self.told)
        return answer

    def send(self, start: int) -> Response:
        """All from `start`."""
        length = self.node.entry.meta.length
        ranged = {"Content-Range": f"bytes {start}-{length - 1}/{length}"} if self.parts else {}
        self._tell(start - self.told)
        self.sent = True
        with self.node.open() as file:
            file.seek(start)
            return self.http.put_stream(
                self.url,
                _chunks(file, self._tell),
                length=length - start,
                headers={**self.headers, **ranged},
                allow=REFUSALS,
            )

    def _tell(self, size: int) -> None:
        self.told += size
        self.on_bytes(size)


def require_digest(entry: Entry, digest: Digest, where: str) -> None:
    """Raises UntrustedError when `entry` names another digest of that algorithm; that it names none proves nothing."""
    found = entry.meta.digests.get(digest.algorithm)
    if found is not None and found != digest.value:
        other = Digest(algorithm=digest.algorithm, value=found)
        raise UntrustedError(f"{where}: expected the digest {digest}, found {other}")


def _pinned(root: Entry, workload: Digest) -> Entry:
    """The root's entry with the workload digest among its digests, so that it is checked with the others."""
    digests = Digests([*root.meta.digests.digests(), workload])
    return replace(root, meta=replace(root.meta, digests=digests))


def _listing(body: bytes, where: str) -> Directory:
    try:
        return Directory.parse(body)
    except MalformedError as error:
        raise MalformedError(f"{where}: {error}") from error


def _meta(answer: Response, where: str) -> Meta:
    length = answer.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise MalformedError(f"{where}: expected a Content-Length, found {length[:40]!r}")
    try:
        return Meta(
            digests=Digests.parse_header(answer.headers.get("content-digest", "")),
            length=int(length[:20]),
            media_type=answer.headers.get("content-type", ""),
        )
    except MalformedError as error:
        raise MalformedError(f"{where}: {error}") from error


def _json(answer: Response, what: str) -> canonical.Json:
    found: canonical.Json = canonical.parse(answer.body, what)
    return found


def _require_tag(slug: PackageSlug) -> TagName:
    if slug.tag is None:
        raise MalformedError(f"package {slug}: expected :TAG after it")
    return slug.tag


def _repository_url(slug: PackageSlug) -> str:
    return f"/{slug.user}/{slug.repository}"


def _node_url(slug: PackageSlug, path: TreePath) -> str:
    return f"{_repository_url(slug)}/_tag/{_require_tag(slug)}/tree/{path.url}".removesuffix("/")


def _shown(slug: PackageSlug) -> str:
    """The slug without its host, for messages that begin with the host."""
    return str(replace(slug, host=None))


def _reason(text: str | None) -> str | None:
    """Why a version was taken back: percent-encoded in its header, and a stranger's words, made safe for a terminal."""
    if text is None:
        return None
    return "".join(character if character.isprintable() else " " for character in unquote(text)[:MAX_REASON])


def _steward(link: str) -> str | None:
    """The target of the link whose relation is `steward` (RFC 8288)."""
    found = _STEWARD.search(link)
    return None if found is None else found[1].strip()


def _essence(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _beginning(answer: StreamedResponse) -> bytes:
    """As much of a refusal as is read."""
    found = bytearray()
    for chunk in answer.chunks():
        found += chunk
        if len(found) >= MAX_PROBLEM:
            break
    return bytes(found[:MAX_PROBLEM])


def _offset(answer: Response, host: str) -> int:
    text = answer.headers.get(UPLOAD_OFFSET, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MalformedError(f"{host}: expected how many bytes have arrived, found {text[:40]!r}")
    return int(text)


def _require_range(header: str, start: int, host: str) -> None:
    if not header.startswith(f"bytes {start}-"):
        raise MalformedError(f"{host}: expected the range from {start}, found {header[:80]!r}")


def _chunks(file: BinaryIO, count: OnBytes) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
        count(len(chunk))


def _first(digests: Digests) -> Digest:
    """The one to show: SHA-256 where it is there."""
    found = digests.digests()
    return next((digest for digest in found if digest.algorithm == "sha-256"), found[0])


def _expected(expected: Digests, found: Digests) -> str:
    shown = _first(expected)
    other = found.get(shown.algorithm)
    return f"expected {shown}, found {'none' if other is None else Digest(algorithm=shown.algorithm, value=other)}"


def _family(error: EnarxError, text: str) -> EnarxError:
    """The same error with another text."""
    return RejectedError(text, reasons=error.reasons) if isinstance(error, RejectedError) else type(error)(text)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{error.filename or target}: {error.strerror}") from error
