"""The way down: nodes checked while they stream, trees checked from the workload digest downwards.

Never a byte more than an entry declares is taken, and every digest of it is compared at the end. A tree is walked
directory by directory, within limits that are set before a byte is asked for. A sealed answer is opened with the
Keep's sealing key; what comes out of it is checked all the same. A transfer that breaks goes on where it was.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from enarx.attested import sealing
from enarx.digest import Digest, Digests, Hasher
from enarx.drawbridge.client.values import (
    DEFAULT_LIMITS,
    Budget,
    Item,
    Limits,
    OnBytes,
    expected,
    node_url,
    nothing,
    require_digest,
    shown,
)
from enarx.drawbridge.client.wire import ACCEPT, API, REFUSALS, Wire
from enarx.drawbridge.names import PackageSlug, TreePath
from enarx.drawbridge.transfer import BusyError, Patience
from enarx.drawbridge.tree import Directory, Entry, Meta
from enarx.errors import MalformedError, NotFoundError, UnavailableError, UntrustedError
from enarx.web.client import MAX_PROBLEM, StreamedResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opens sealed answers: the sealing key and the leaf certificate (DER) that names it."""

    private: sealing.SealingPrivateKey
    leaf: bytes = field(repr=False)


class Down:
    """Reads trees, and proves what it reads. Touches no file."""

    def __init__(self, wire: Wire, opening: Opening | None = None) -> None:
        self._wire = wire
        self._opening = opening

    def workload(self, slug: PackageSlug, root: Entry) -> Digest:
        """The workload digest: what the tag says; where it does not, that of the root node, which is read for it."""
        if root.sha256 is not None:
            return root.sha256
        hasher, item = Hasher(), Item(TreePath(), root)
        for chunk in self.read(slug, item, workload=Digest.of(b"")):  # nobody's: an answer sealed to it stays closed
            hasher.update(chunk)
        return hasher.digests().digests()[0]

    def tree(
        self, slug: PackageSlug, root: Entry, *, workload: Digest, limits: Limits = DEFAULT_LIMITS
    ) -> tuple[Item, ...]:
        """Every node of the tree, parents before children: all listings are read and proven, no file is.

        `root` is what the tag says; it has to be what `workload` stands for. Raises UntrustedError for other bytes,
        MalformedError beyond the limits, and what the registry refuses with.
        """
        require_digest(root, workload, f"{self._wire.host}: {shown(slug)}")
        budget, found, waiting = Budget(limits=limits), list[Item](), [Item(TreePath(), _pinned(root, workload))]
        while waiting:
            item = waiting.pop()
            budget.take(item)
            found.append(item)
            if item.entry.is_directory:
                body = b"".join(self.read(slug, item, workload=workload))
                children = _listing(body, f"{self._wire.host}: {item.path or 'the root'}")
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

    def read(self, slug: PackageSlug, item: Item, *, workload: Digest, begun: Hasher | None = None) -> Iterator[bytes]:
        """The bytes of a node, which are what its entry says once the last one was read.

        Who has its beginning gives that, hashed with all digests of the entry, as `begun`, and gets the rest. A
        transfer that breaks is taken up where it broke. Raises UntrustedError, MalformedError, UnavailableError, and
        what the registry refuses with.
        """
        meta, where = item.entry.meta, f"{self._wire.host}: {shown(slug)}/{item.path}".rstrip("/")
        hasher, patience = begun or Hasher(meta.digests), Patience(self._wire.sleep)
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
            raise UntrustedError(f"{where}: {expected(meta.digests, hasher.digests())}")

    def _from(self, slug: PackageSlug, item: Item, workload: Digest, start: int) -> Iterator[bytes]:
        """The plain bytes from `start`, unchecked. Sealed answers and old registries begin at the beginning."""
        if 0 < start == item.entry.meta.length:
            return
        headers = {"Accept": ACCEPT} | ({"Range": f"bytes={start}-"} if start and self._opening is None else {})
        url = node_url(slug, item.path)
        with self._wire.http.stream_get(API + url, headers=headers, allow=REFUSALS) as answer:
            if answer.status == 404:  # it is in a listing that was proven, or is the root of a tag that is there
                what = f"{shown(slug)}: {item.path or 'the root of its tree'}"
                raise NotFoundError(
                    f"{self._wire.host}: {what} is not there: the version was never published to its end"
                )
            if answer.status >= 300:
                self._wire.refuse("GET", url, answer.status, answer.headers, _beginning(answer))
            chunks, skip = answer.chunks(), start
            if _essence(answer.headers) == sealing.MEDIA_TYPE:
                chunks = self._opened(chunks, item, workload)
            elif answer.status == 206:
                _require_range(answer.headers.get("content-range", ""), start, self._wire.host)
                skip = 0
            for chunk in chunks:
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def _opened(self, chunks: Iterable[bytes], item: Item, workload: Digest) -> Iterator[bytes]:
        """What is in a sealed answer. Its own Meta comes first, and must be that of the entry."""
        if self._opening is None:
            raise UntrustedError(f"{self._wire.host}: the answer is sealed to a key that is not ours")
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
            raise UntrustedError(f"{self._wire.host}: sealed {item.path or 'root'}: {wrong}")
        return True


def _pinned(root: Entry, workload: Digest) -> Entry:
    """The root's entry with the workload digest among its digests, so that it is checked with the others."""
    digests = Digests([*root.meta.digests.digests(), workload])
    return replace(root, meta=replace(root.meta, digests=digests))


def _listing(body: bytes, where: str) -> Directory:
    try:
        return Directory.parse(body)
    except MalformedError as error:
        raise MalformedError(f"{where}: {error}") from error


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


def _require_range(header: str, start: int, host: str) -> None:
    if not header.startswith(f"bytes {start}-"):
        raise MalformedError(f"{host}: expected the range from {start}, found {header[:80]!r}")
