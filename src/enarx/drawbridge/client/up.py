"""The way up: a version and its tree, without sending what the registry has, again from where it broke.

A PUT is repeated, for what was published can not change. Large files are sent in parts where the registry takes parts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from enarx.digest import Digests
from enarx.drawbridge.client.values import OnBytes, expected, node_url, nothing, repository_url, require_tag, shown
from enarx.drawbridge.client.wire import ACCEPT, API, REFUSALS, RESUMABLE, UPLOADS, Wire
from enarx.drawbridge.names import PackageSlug, TagName, TreePath
from enarx.drawbridge.tag import MAX_TAG, Tag
from enarx.drawbridge.transfer import PASSING, Crew, Patience, retry_after
from enarx.drawbridge.tree import CHUNK, Meta, Node, Tree
from enarx.errors import ConflictError, MalformedError, UnavailableError
from enarx.web.client import Client, Response

UPLOAD_OFFSET: Final = "upload-offset"  # header: how many bytes of a file have arrived
RESUMED_FROM: Final = 16 * 1024 * 1024  # bytes from which a file is sent so that it can go on where it broke
ASKED_FROM: Final = 128 * 1024  # bytes from which it is worth a question whether the registry has a file already


class Up:
    """Publishes trees. Reads the files that the tree names, and writes none."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def stat(self, slug: PackageSlug, path: TreePath) -> Meta | None:
        """What the registry says of a node that it has; None where it has none."""
        url = node_url(slug, path)
        answer = self._wire.repeated(
            lambda: self._wire.http.head(API + url, headers={"Accept": ACCEPT}, allow=REFUSALS)
        )
        if answer.status == 404:
            return None
        if answer.status >= 300:
            self._wire.refuse("HEAD", url, answer.status, answer.headers, answer.body)
        return _meta(answer, f"{self._wire.host}: {url}")

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
        name = require_tag(slug)
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
        url = f"{repository_url(slug)}/_tag/{name}"
        known = self._wire.fetched(url, MAX_TAG)
        self._wire.is_resumable = known.headers.get(UPLOADS) == RESUMABLE
        if known.status == 200:
            bound = Tag.parse(known.body)
            what = f"{self._wire.host}: {shown(slug)}: this version is published"
            if bound.entry.encode() != tag.entry.encode():
                found = expected(tag.entry.meta.digests, bound.entry.meta.digests)
                raise ConflictError(f"{what} with other content and can not change: {found}; choose another version")
            if not {item.key_id for item in tag.signatures} <= {item.key_id for item in bound.signatures}:
                raise ConflictError(f"{what} without that signature and can not change; choose another version")
            return False
        body = tag.encode()
        return self._wire.put(url, body, tag.media_type)

    def _has(self, slug: PackageSlug, node: Node) -> bool:
        known = self.stat(slug, node.path)
        if known is not None and (wrong := node.entry.meta.mismatch(known)) is not None:
            raise ConflictError(f"{self._wire.host}: {shown(slug)}/{node.path}: the registry has another: {wrong}")
        return known is not None

    def _put_node(self, slug: PackageSlug, node: Node, on_bytes: OnBytes) -> bool:
        """Send one node, again or from where it broke if the connection breaks. Answers whether anything was sent."""
        url, meta = node_url(slug, node.path), node.entry.meta
        headers = {"Content-Type": meta.media_type, "Content-Digest": meta.digests.header(), "Accept": ACCEPT}
        parts = self._wire.is_resumable and not meta.is_directory and meta.length >= RESUMED_FROM
        upload = _Upload(
            http=self._wire.http, url=API + url, node=node, headers=headers, on_bytes=on_bytes, parts=parts
        )
        if self._wire.is_resumable and not meta.is_directory and RESUMED_FROM > meta.length >= ASKED_FROM:
            known = self._wire.repeated(upload.ask)
            if known.status in {200, 201}:
                return False
        answer = self._resumed(upload) if parts else self._wire.repeated(lambda: upload.send(0))
        if answer.status == 409 and self._has(slug, node):
            return True  # an older registry says so of the same bytes, too
        if answer.status >= 300:
            self._wire.refuse("PUT", url, answer.status, answer.headers, answer.body)
        return upload.sent

    def _resumed(self, upload: "_Upload") -> Response:
        """Send a file from where it is, as long as something of it arrives."""
        patience, arrived = Patience(self._wire.sleep), 0
        while True:
            try:
                answer = upload.ask()
                if answer.status == 202:
                    offset = _offset(answer, self._wire.host)
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


def _offset(answer: Response, host: str) -> int:
    text = answer.headers.get(UPLOAD_OFFSET, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MalformedError(f"{host}: expected how many bytes have arrived, found {text[:40]!r}")
    return int(text)


def _chunks(file: BinaryIO, count: OnBytes) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
        count(len(chunk))
