"""What is read of a registry: nodes with what they have to be, tags as they are shown, and how much is taken."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from enarx.digest import Digest, Digests
from enarx.drawbridge.names import PackageSlug, TagName, TreePath
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import MAX_DIRECTORY, Entry
from enarx.errors import MalformedError, UntrustedError

ROOT: Final = TreePath()
LONE_FILE: Final = "main.wasm"  # what a package of one file runs

OnBytes = Callable[[int], None]


def nothing(_: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a tree is taken. `files` counts directories, too."""

    total: int = 2_000_000_000  # bytes of all files
    file: int = 2_000_000_000  # bytes of one
    files: int = 100_000


DEFAULT_LIMITS: Final = Limits()


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
        return first(self.entry.meta.digests)


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


def require_digest(entry: Entry, digest: Digest, where: str) -> None:
    """Raises UntrustedError when `entry` names another digest of that algorithm; that it names none proves nothing."""
    found = entry.meta.digests.get(digest.algorithm)
    if found is not None and found != digest.value:
        other = Digest(algorithm=digest.algorithm, value=found)
        raise UntrustedError(f"{where}: expected the digest {digest}, found {other}")


def require_tag(slug: PackageSlug) -> TagName:
    if slug.tag is None:
        raise MalformedError(f"package {slug}: expected :TAG after it")
    return slug.tag


def repository_url(slug: PackageSlug) -> str:
    return f"/{slug.user}/{slug.repository}"


def node_url(slug: PackageSlug, path: TreePath) -> str:
    return f"{repository_url(slug)}/_tag/{require_tag(slug)}/tree/{path.url}".removesuffix("/")


def shown(slug: PackageSlug) -> str:
    """The slug without its host, for messages that begin with the host."""
    return str(replace(slug, host=None))


def first(digests: Digests) -> Digest:
    """The one to show: SHA-256 where it is there."""
    found = digests.digests()
    return next((digest for digest in found if digest.algorithm == "sha-256"), found[0])


def expected(expected: Digests, found: Digests) -> str:
    shown = first(expected)
    other = found.get(shown.algorithm)
    return f"expected {shown}, found {'none' if other is None else Digest(algorithm=shown.algorithm, value=other)}"
