"""The Merkle tree of a package: what each node is, and the one sequence of bytes that stands for it.

    Meta        digests, length and media type of some bytes: what HTTP headers say about a body
    Entry       a Meta that somebody vouches for: the value of a tag, or of a name in a directory
    Directory   names to entries, in byte order; its canonical bytes are what its own entry's digests cover
    Tree        a root entry and every node below it, in the order in which they are uploaded

So the digest of the root node covers every name and every byte of the package. A root may be a lone file. The
*workload digest* is the SHA-256 of the root node's bytes. Listings that we make are complete; the originals'
uploader left out what sorts after a sub-directory (`may_omit` tells those from listings that just lack a name).

`parse` is strict about what things are and liberal about white space and order. Members of an entry that we do not
know are kept, after those we know and sorted by name. Here nothing is fetched or stored, and nothing is compared
with what somebody else declared: that is the registry's and the client's part.
"""

import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Self

from enarx.digest import ALGORITHMS, Digest, Digests, Hasher, HashName
from enarx.drawbridge import canonical
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.names import TreeName, TreePath
from enarx.errors import MalformedError, NotFoundError

DIRECTORY_TYPE: Final = "application/vnd.drawbridge.directory.v1+json"
WASM_TYPE: Final = "application/wasm"
TOML_TYPE: Final = "application/toml"
FILE_TYPE: Final = "application/octet-stream"

MAX_DIRECTORY: Final = (
    8_000_000  # bytes of one listing: some 24,000 entries with all digests; the originals' Keep: 1 MB
)
MAX_LENGTH: Final = 2**63 - 1
MAX_TYPE: Final = 255  # characters of a media type: it stands in a header
CHUNK: Final = 1 << 20  # bytes read at once

_WORD = r"[0-9A-Za-z!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE: Final = re.compile(rf"{_WORD}/{_WORD}(?:[ \t]*;[\x20-\x7e\t]*)?")
_SUFFIXES: Final[Mapping[str, str]] = {".wasm": WASM_TYPE, ".toml": TOML_TYPE}
_KNOWN: Final = ("digest", "length", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What is said about some bytes. Without a digest it says too little to check a node by."""

    digests: Digests
    length: int
    media_type: str

    def __post_init__(self) -> None:
        if not 0 <= self.length <= MAX_LENGTH:
            raise MalformedError(f"length: expected from 0 to {MAX_LENGTH}, found {self.length}")
        if len(self.media_type) > MAX_TYPE or not _MEDIA_TYPE.fullmatch(self.media_type):
            raise MalformedError(f"type: expected a media type such as {WASM_TYPE}, found {self.media_type[:80]!r}")

    @classmethod
    def of(cls, data: bytes, media_type: str, algorithms: Iterable[HashName] = ALGORITHMS) -> Self:
        return cls(digests=Digests.of(data, algorithms), length=len(data), media_type=media_type)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        values = canonical.members(canonical.parse(data, "meta"), "meta")
        canonical.only(values, _KNOWN, "meta")
        return cls.from_json(values, "meta")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], what: str) -> Self:  # Any: parsed JSON, checked here
        digests = canonical.member(values, "digest", dict, what)
        for name, value in digests.items():
            if not isinstance(value, str):
                raise MalformedError(f"{what}: digest: {name[:20]!r}: expected a string of base64")
        try:
            return cls(
                digests=Digests.from_json(digests),
                length=canonical.member(values, "length", int, what),
                media_type=canonical.member(values, "type", str, what),
            )
        except MalformedError as error:
            raise error if str(error).startswith(what) else MalformedError(f"{what}: {error}") from error

    @property
    def essence(self) -> str:
        """The media type without parameters, in lower case."""
        return self.media_type.partition(";")[0].strip().lower()

    @property
    def is_directory(self) -> bool:
        return self.essence == DIRECTORY_TYPE

    def to_json(self) -> dict[str, Json]:
        return {"digest": self.digests.to_json(), "length": self.length, "type": self.media_type}

    def encode(self) -> bytes:
        return canonical.encode(self.to_json())

    def mismatch(self, other: "Meta") -> str | None:
        """How `other` is not the same bytes of the same type, or None. At least one digest must be in common."""
        if self.media_type != other.media_type:
            return f"type: expected {self.media_type}, found {other.media_type}"
        if self.length != other.length:
            return f"length: expected {self.length}, found {other.length}"
        if not self.digests.agrees(other.digests):
            return (
                f"digest: expected {_shown(self.digests, other.digests)}, found {_shown(other.digests, self.digests)}"
            )
        return None


def _shown(digests: Digests, other: Digests) -> str:
    """The digest that tells two sets apart, for people: SHA-256 where there is one, else the first that differs."""
    differing = [digest for digest in digests.digests() if other.get(digest.algorithm) != digest.value]
    best = next((digest for digest in differing if digest.algorithm == "sha-256"), None)
    return str(best or (differing[0] if differing else "none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A node as its parent, or its tag, names it; `custom` are the members that we do not know."""

    meta: Meta
    custom: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.meta.digests:
            raise MalformedError("entry: digest: expected at least one, found none")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls.from_json(canonical.parse(data, "entry"), "entry")

    @classmethod
    def from_json(cls, value: object, what: str) -> Self:
        values = canonical.members(value, what)
        custom = {name: _sorted(values[name]) for name in sorted(values) if name not in _KNOWN}
        meta = Meta.from_json(values, what)
        if not meta.digests:
            raise MalformedError(f"{what}: digest: expected at least one, found none")
        return cls(meta=meta, custom=MappingProxyType(custom))

    @classmethod
    def of(cls, data: bytes, media_type: str, algorithms: Iterable[HashName] = ALGORITHMS) -> Self:
        return cls(meta=Meta.of(data, media_type, algorithms))

    @property
    def is_directory(self) -> bool:
        return self.meta.is_directory

    @property
    def sha256(self) -> Digest | None:
        """The SHA-256 of the node, when the publisher sent it."""
        value = self.meta.digests.get("sha-256")
        return None if value is None else Digest(algorithm="sha-256", value=value)

    def to_json(self) -> dict[str, Json]:
        return {**self.meta.to_json(), **self.custom}

    def encode(self) -> bytes:
        return canonical.encode(self.to_json())


class Directory(Mapping[TreeName, Entry]):
    """A listing: immutable, sorted by the bytes of the names."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[TreeName, Entry]) -> None:
        self._entries = {name: entries[name] for name in sorted(entries)}

    @classmethod
    def parse(cls, data: bytes) -> Self:
        if len(data) > MAX_DIRECTORY:
            raise MalformedError(f"directory: expected at most {MAX_DIRECTORY} bytes, found {len(data)}")
        values = canonical.members(canonical.parse(data, "directory"), "directory")
        entries = {}
        for name, value in values.items():
            try:
                entries[TreeName(name)] = Entry.from_json(value, f"directory: {name[:80]!r}")
            except MalformedError as error:
                raise error if str(error).startswith("directory") else MalformedError(f"directory: {error}") from error
        return cls(entries)

    def encode(self) -> bytes:
        """The canonical bytes: what is hashed."""
        return canonical.encode({name.text: entry.to_json() for name, entry in self._entries.items()})

    def entry(self, algorithms: Iterable[HashName] = ALGORITHMS) -> Entry:
        """What a parent says of this directory."""
        return Entry.of(self.encode(), DIRECTORY_TYPE, algorithms)

    def may_omit(self, name: TreeName) -> bool:
        """Whether the originals' uploader would have left `name` out of this listing although it is in the tree.

        Listing a directory, it stopped at the first entry that is no direct child: at the content of the first
        non-empty sub-directory. So what it left out sorts after the last name that it listed, which is a directory.
        """
        if not self._entries:
            return False
        last = next(reversed(self._entries))
        return name > last and self._entries[last].is_directory

    def __getitem__(self, name: TreeName) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[TreeName]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(self.encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Directory) and self.encode() == other.encode()

    def __repr__(self) -> str:
        return f"Directory({', '.join(map(str, self._entries))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a tree at hand: where it hangs, what it is, and where its bytes are."""

    path: TreePath
    entry: Entry
    source: Path | bytes = field(repr=False)

    def open(self) -> BinaryIO:
        """The bytes, from the beginning. Raises NotFoundError when the file has gone since."""
        if isinstance(self.source, bytes):
            return BytesIO(self.source)
        try:
            return self.source.open("rb")
        except OSError as error:
            raise NotFoundError(f"{self.source}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Every node, parents before children, paths in the order of their names. The first is the root."""

    nodes: tuple[Node, ...]

    @classmethod
    def from_path(
        cls,
        path: Path,
        *,
        algorithms: Iterable[HashName] = ALGORITHMS,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Self:
        """Read a directory of any depth, or one file: then the root is that file.

        `on_bytes` is told how many bytes were hashed. Raises MalformedError for what is neither a file nor a
        directory, symbolic links included (they could show what was not meant), and for names that can not stand in
        a tree; NotFoundError for what can not be read.
        """
        names = tuple(algorithms)
        with _reading(path):
            root = path.resolve(strict=True)
            if root.is_dir():
                return cls(nodes=_from_directory(root, path, names, on_bytes))
            return cls(nodes=(_file(TreePath(), root, path, names, on_bytes),))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, algorithms: Iterable[HashName] = ALGORITHMS) -> Self:
        """A tree of files that are in memory, by path. Raises MalformedError when a file lies under a file."""
        names = tuple(algorithms)
        paths = {TreePath.parse(text): data for text, data in files.items()}
        directories = {TreePath(path.names[:depth]) for path in paths for depth in range(len(path))} | {TreePath()}
        for path in paths:
            if path in directories:
                raise MalformedError(f"tree: expected a file or a directory at {str(path)[:80]!r}, found both")
        found = [_held(path, data, names) for path, data in paths.items()]
        return cls(nodes=_with_directories(found, directories, names))

    @property
    def root(self) -> Entry:
        return self.nodes[0].entry

    @property
    def workload(self) -> Digest:
        """The workload digest: SHA-256 of the root node's bytes."""
        known = self.root.sha256
        if known is not None:
            return known
        hasher = Hasher()
        with self.nodes[0].open() as file:
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
        return hasher.digests().digests()[0]

    @property
    def size(self) -> int:
        """Bytes of all nodes, listings included."""
        return sum(node.entry.meta.length for node in self.nodes)


def media_type_of(name: str) -> str:
    """What the originals' client says a file is, by the end of its name."""
    return _SUFFIXES.get(name[name.rfind(".") :] if "." in name else "", FILE_TYPE)


def _from_directory(
    root: Path, shown: Path, algorithms: Sequence[HashName], on_bytes: Callable[[int], None]
) -> tuple[Node, ...]:
    found, directories, waiting = list[Node](), set[TreePath](), [(TreePath(), root)]
    while waiting:  # not by recursion: a tree may be deeper than a stack
        path, folder = waiting.pop()
        directories.add(path)
        for child in folder.iterdir():
            where = shown / child.relative_to(root)
            try:
                below = path / child.name
            except MalformedError as error:
                raise MalformedError(f"{_printable(where)}: cannot be part of a package: {error}") from error
            mode = child.lstat().st_mode
            if stat.S_ISDIR(mode):
                waiting.append((below, child))
            else:
                found.append(_file(below, child, where, algorithms, on_bytes))
    return _with_directories(found, directories, algorithms)


def _with_directories(
    files: Iterable[Node], directories: Iterable[TreePath], algorithms: Sequence[HashName]
) -> tuple[Node, ...]:
    """Add the directories, deepest first, each with the complete listing of its children."""
    nodes = {node.path: node for node in files}
    children: dict[TreePath, dict[TreeName, Entry]] = {path: {} for path in directories}
    for node in nodes.values():
        children[node.path.parent][node.path.name] = node.entry
    for path in sorted(children, key=len, reverse=True):
        data = Directory(children[path]).encode()
        if len(data) > MAX_DIRECTORY:
            raise MalformedError(f"tree: {str(path)[:80]!r}: expected a listing of at most {MAX_DIRECTORY} bytes")
        nodes[path] = Node(path=path, entry=Entry.of(data, DIRECTORY_TYPE, algorithms), source=data)
        if not path.is_root:
            children[path.parent][path.name] = nodes[path].entry
    return tuple(nodes[path] for path in sorted(nodes))


def _file(
    path: TreePath, file: Path, shown: Path, algorithms: Sequence[HashName], on_bytes: Callable[[int], None]
) -> Node:
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "something else"
        raise MalformedError(
            f"{_printable(shown)}: cannot be part of a package: expected a file or a directory, found {kind}"
        )
    hasher = Hasher(algorithms)
    with _reading(shown), file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            hasher.update(chunk)
            on_bytes(len(chunk))
    meta = Meta(digests=hasher.digests(), length=hasher.length, media_type=media_type_of(file.name))
    return Node(path=path, entry=Entry(meta=meta), source=file)


def _held(path: TreePath, data: bytes, algorithms: Sequence[HashName]) -> Node:
    return Node(path=path, entry=Entry.of(data, media_type_of(path.name.text), algorithms), source=data)


def _printable(path: Path) -> str:
    """A path whose bytes are no UTF-8 can be read, but not be printed."""
    return str(path).encode(errors="backslashreplace").decode()


@contextmanager
def _reading(shown: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotFoundError(f"{error.filename or shown}: cannot be read: {error.strerror}") from error


def _sorted(value: Json) -> Json:
    """As the originals keep it: objects sorted by name, at every level."""
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
