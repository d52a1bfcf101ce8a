"""Names: what a user, a repository, a tag and a file of a tree may be called, and how one writes all of them at once.

    UserName        [0-9A-Za-z]+
    RepositoryName  [0-9A-Za-z-]+
    TagName         SemVer 2.0.0 exactly, without a leading `v`; ordered by its precedence
    TreeName        one file or directory: any printable Unicode in NFC, except what could harm who extracts it
    TreePath        TreeNames from the root of a tree downwards; none of them is the root itself
    *Slug           [host[:port]/]user[/repository[:tag][@digest]]

The first three are those of the originals. Tree names are wider, for packages hold any files: what the originals could
not spell is percent-encoded in a URL, and what they could (`[0-9A-Za-z_.-]`) stands there as it is. Refused are `.` and
`..`, slashes of both kinds, the colon (a drive or a stream elsewhere), control and invisible characters, and a
second spelling of a name (not NFC). Every name is at most 255 bytes, the bound of file systems.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Self
from urllib.parse import quote, unquote_to_bytes

from enarx.digest import Digest
from enarx.errors import MalformedError

MAX_NAME: Final = 255  # bytes of one name; file systems go no further
MAX_PATH: Final = 4096  # bytes of a tree path; PATH_MAX, beyond which nothing can be extracted
MAX_SLUG: Final = 1024  # characters, as in what a Keep claims

_PLAIN: Final = re.compile(r"[0-9A-Za-z_.-]+")
_HARMFUL: Final = frozenset("/\\:")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode categories: no glyph of their own

_NUMBER = r"0|[1-9][0-9]*"
_WORD = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER: Final = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_WORD}(?:\.{_WORD})*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_MAX_NUMBER: Final = 2**64 - 1  # a version that the originals can not read would hide every other from them
_LABEL = r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True, order=True)
class UserName:
    """The name space of one user or organisation."""

    text: str

    def __post_init__(self) -> None:
        _require(self.text, "user name", r"[0-9A-Za-z]+", "letters and digits")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class RepositoryName:
    """One repository in the name space of a user."""

    text: str

    def __post_init__(self) -> None:
        _require(self.text, "repository name", r"[0-9A-Za-z-]+", "letters, digits and hyphens")

    def __str__(self) -> str:
        return self.text


@total_ordering
@dataclass(frozen=True, slots=True)
class TagName:
    """One version. `1.0.0+a` and `1.0.0+b` have one precedence but are two tags; then the text decides."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_NAME:
            raise MalformedError(f"tag name: expected at most {MAX_NAME} characters, found {len(self.text)}")
        match = _SEMVER.fullmatch(self.text)
        if match is None:
            raise MalformedError(f"tag name: expected a semantic version such as 1.0.0, found {self.text[:80]!r}")
        for part in ("major", "minor", "patch"):
            if len(match[part]) > 20 or int(match[part]) > _MAX_NUMBER:
                raise MalformedError(f"tag name: expected a {part} version of at most {_MAX_NUMBER}, found more")

    def precedence(self) -> tuple[object, ...]:
        """SemVer 2.0.0, section 11: numbers by value and before words, a release after its pre-releases."""
        version, _, pre = self.text.partition("+")[0].partition("-")
        numbers = tuple(int(part) for part in version.split("."))
        words = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in pre.split(".") if word)
        return (numbers, not words, words)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, TagName):
            return NotImplemented
        return (*self.precedence(), self.text) < (*other.precedence(), other.text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class TreeName:
    """One file or directory in its parent."""

    text: str

    def __post_init__(self) -> None:
        text = self.text
        if _PLAIN.fullmatch(text) and len(text) <= MAX_NAME and text not in {".", ".."}:
            return
        if not text or text in {".", ".."}:
            raise MalformedError(f"tree name: expected the name of a file or directory, found {text!r}")
        for character in text:
            if character in _HARMFUL or unicodedata.category(character) in _INVISIBLE:
                raise MalformedError(f"tree name {text[:80]!r}: expected no {character!r}")
        if unicodedata.normalize("NFC", text) != text:
            raise MalformedError(f"tree name {text[:80]!r}: expected Unicode in its composed form (NFC)")
        if len(text.encode()) > MAX_NAME:
            raise MalformedError(f"tree name {text[:80]!r}…: expected at most {MAX_NAME} bytes")

    @property
    def url(self) -> str:
        return quote(self.text, safe="")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class TreePath:
    """A node of a tree. Paths sort name by name, so a directory comes right before what it holds."""

    names: tuple[TreeName, ...] = ()

    def __post_init__(self) -> None:
        if sum(len(name.text.encode()) + 1 for name in self.names) - 1 > MAX_PATH:
            raise MalformedError(f"tree path: expected at most {MAX_PATH} bytes, found more")

    @classmethod
    def of(cls, *names: str) -> Self:
        return cls(tuple(TreeName(name) for name in names))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Names joined by `/`. Leading slashes and one trailing slash mean nothing; no name at all is the root."""
        return cls(tuple(TreeName(part) for part in _split(text)))

    @classmethod
    def from_url(cls, raw: str) -> Self:
        """As `parse`, each name percent-decoded once, after the split: an encoded slash is refused, not followed."""
        return cls(tuple(TreeName(_decode(part)) for part in _split(raw)))

    @property
    def url(self) -> str:
        """As it stands in a URL, without a leading slash; empty for the root."""
        return "/".join(name.url for name in self.names)

    @property
    def is_root(self) -> bool:
        return not self.names

    @property
    def name(self) -> TreeName:
        """The last name. Raises MalformedError for the root, which has none."""
        if not self.names:
            raise MalformedError("tree path: expected the path of a node below the root, found the root")
        return self.names[-1]

    @property
    def parent(self) -> "TreePath":
        """The directory that holds this node. Raises MalformedError for the root."""
        if not self.names:
            raise MalformedError("tree path: expected the path of a node below the root, found the root")
        return TreePath(self.names[:-1])

    def __truediv__(self, name: TreeName | str) -> "TreePath":
        return TreePath((*self.names, name if isinstance(name, TreeName) else TreeName(name)))

    def __iter__(self) -> Iterator[TreeName]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return "/".join(name.text for name in self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSlug:
    """`[host[:port]/]user`. Without a host, what is configured decides; nothing is compiled in."""

    host: str | None = None
    user: UserName

    @classmethod
    def parse(cls, text: str) -> Self:
        host, (user,) = _parts(text, "[host[:port]/]user", 1)
        return cls(host=host, user=UserName(user))

    def __str__(self) -> str:
        return _joined(self.host, str(self.user))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySlug:
    """`[host[:port]/]user/repository`."""

    host: str | None = None
    user: UserName
    repository: RepositoryName

    @classmethod
    def parse(cls, text: str) -> Self:
        host, (user, repository) = _parts(text, "[host[:port]/]user/repository", 2)
        return cls(host=host, user=UserName(user), repository=RepositoryName(repository))

    def __str__(self) -> str:
        return _joined(self.host, f"{self.user}/{self.repository}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSlug:
    """`[host[:port]/]user/repository[:tag][@digest]`, with a tag, a digest, or both: then the tag must have it."""

    host: str | None = None
    user: UserName
    repository: RepositoryName
    tag: TagName | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if self.tag is None and self.digest is None:
            raise MalformedError(f"package {self.user}/{self.repository}: expected :TAG, @DIGEST or both after it")

    @classmethod
    def parse(cls, text: str) -> Self:
        form = "[host[:port]/]user/repository[:tag][@digest]"
        _bound(text, form)
        rest, at, digest = text.partition("@")
        host, (user, last) = _parts(rest, form, 2)
        repository, colon, tag = last.partition(":")
        return cls(
            host=host,
            user=UserName(user),
            repository=RepositoryName(repository),
            tag=TagName(tag) if colon else None,
            digest=Digest.parse(digest) if at else None,
        )

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return _joined(self.host, f"{self.user}/{self.repository}{tag}{digest}")


def require_host(text: str) -> str:
    """A host with or without a port, as it stands in a URL. Raises MalformedError when it is none."""
    name, port = _split_port(text)
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise MalformedError(f"host {text[:80]!r}: expected a port from 1 to 65535, found {port[:20]!r}")
    if name.startswith("[") and name.endswith("]"):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError as error:
            raise MalformedError(f"host {text[:80]!r}: expected an IPv6 address in the brackets") from error
    elif len(name) > 253 or not _HOST.fullmatch(name):
        raise MalformedError(f"host {text[:80]!r}: expected a host name or an address")
    return text


def _require(text: str, what: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, text):
        raise MalformedError(f"{what}: expected {expected}, found {text[:80]!r}")
    if len(text) > MAX_NAME:
        raise MalformedError(f"{what}: expected at most {MAX_NAME} characters, found {len(text)}")


def _split(text: str) -> Iterable[str]:
    trimmed = text.lstrip("/").removesuffix("/")
    return trimmed.split("/") if trimmed else ()


def _decode(part: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", part):
        raise MalformedError(f"tree name {part[:80]!r}: expected two hexadecimal digits after every %")
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"tree name {part[:80]!r}: expected UTF-8 once percent-decoded") from error


def _bound(text: str, form: str) -> None:
    if len(text) > MAX_SLUG:
        raise MalformedError(f"slug: expected {form} of at most {MAX_SLUG} characters, found {len(text)}")


def _parts(text: str, form: str, count: int) -> tuple[str | None, list[str]]:
    """The host, if there is one, and the last `count` parts."""
    _bound(text, form)
    parts = text.split("/")
    if not count <= len(parts) <= count + 1:
        raise MalformedError(f"slug {text[:80]!r}: expected {form}")
    return require_host(parts[0]) if len(parts) > count else None, parts[-count:]


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        name, bracket, rest = text.partition("]")
        return name + bracket, (rest[1:] if rest.startswith(":") else rest or None)
    name, colon, port = text.partition(":")
    return name, port if colon else None


def _joined(host: str | None, rest: str) -> str:
    return rest if host is None else f"{host}/{rest}"
