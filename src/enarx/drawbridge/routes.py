"""Paths to what they mean: the originals' grammar, letter by letter, and our resources in the same (protocol.md, 2.1).

    /api/v<SEMVER>/<user>                                    user
    /api/v<SEMVER>/<user>/<repository>                       repository
    …/<repository>/_tag                                      tags
    …/<repository>/_tag/<tag>                                tag
    …/<repository>/_tag/<tag>/tree[/<path>]                  tree

    /api/v<SEMVER>/_search                                   what is public, and what is yours
    /api/v<SEMVER>/<user>[/<repository>]/_member[/<label>]   members, of the name space or of the repository
    /api/v<SEMVER>/<user>/_repo                              repositories
    …/<repository>/_policy[/test]                            the release policy
    …/<repository>/_token[/<id>]                             deploy tokens
    …/<repository>/_yank/<tag>                               what is not to be used any more
    …/<repository>/_signer                                   whose signature every new tag needs
    /api/v<SEMVER>/<user>[/<repository>]/_log                who changed what, and when

Nothing is percent-decoded but the names in a tree's path. Slashes before `api` and before the version do not count.
A version that is newer than ours is refused as semantic versioning says; older ones mean the same as ours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.errors import MalformedError, NotFoundError

T = TypeVar("T")
Kind = Literal[
    "user", "repository", "tags", "tag", "tree", "search", "members", "member", "repositories", "policy", "policy-test",
    "tokens", "token", "yank", "log", "signers",
]  # fmt: skip

API_VERSION: Final = "0.4.3"  # of the protocol that we speak
PREFIX: Final = "/api/v0.1.0"  # what both generations of the originals' clients write

METHODS: Final[dict[Kind, tuple[str, ...]]] = {
    "user": ("HEAD", "GET", "PUT"),
    "repository": ("HEAD", "GET", "PUT"),
    "tags": ("HEAD", "GET"),
    "tag": ("HEAD", "GET", "PUT"),
    "tree": ("HEAD", "GET", "PUT"),
    "search": ("GET",),
    "members": ("GET",),
    "member": ("GET", "PUT", "DELETE"),
    "repositories": ("GET",),
    "policy": ("GET", "PUT", "DELETE"),
    "policy-test": ("POST",),
    "tokens": ("GET", "POST"),
    "token": ("GET", "DELETE"),
    "yank": ("GET", "PUT", "DELETE"),
    "log": ("GET",),
    "signers": ("GET", "PUT"),
}

ROOT: Final = TreePath()
LABEL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class UnsupportedVersionError(MalformedError):
    """The client speaks a newer protocol. Caught where statuses are given: 501."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path names. Which of the names are there, `kind` says."""

    kind: Kind
    user: UserName | None = None
    repository: RepositoryName | None = None
    tag: TagName | None = None
    path: TreePath = ROOT
    item: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS[self.kind]


def parse(raw: str) -> Target:
    """Read a path as it stands in the request line. Raises NotFoundError, MalformedError, UnsupportedVersionError."""
    rest = raw.lstrip("/")
    if not rest.startswith("api"):
        raise _no_route(raw)
    rest = rest.removeprefix("api").lstrip("/")
    if not rest.startswith("v"):
        raise _no_route(raw)
    version, _, rest = rest.removeprefix("v").partition("/")
    require_version(version)
    if rest.startswith("_"):
        if rest in {"_search", "_search/"}:
            return Target(kind="search")
        raise _no_route(raw)
    head, found, tail = rest.partition("/_")
    if not head:
        raise _no_route(raw)
    name, _, repository = head.partition("/")
    user = _named("user name", UserName, name)
    if not repository:
        return _of_namespace(user, tail)
    target = Target(kind="repository", user=user, repository=_named("repository name", RepositoryName, repository))
    return _of_repository(target, tail) if found else target


def require_version(text: str) -> None:
    """Raises MalformedError for what is no semantic version, UnsupportedVersionError for one beyond ours."""
    try:
        version, ours = TagName(text), TagName(API_VERSION)
    except MalformedError as error:
        said = str(error).removeprefix("tag name: ")  # which it is not, but of the same form
        raise MalformedError(f"Failed to parse API version: {said}") from None
    (major, minor), (our_major, our_minor) = _numbers(version), _numbers(ours)
    if ours.precedence() < version.precedence() and (major > our_major or (our_major == 0 and minor > our_minor)):
        raise UnsupportedVersionError(f"Unsupported API version `{version}`, this server speaks `{ours}`")


def _of_namespace(user: UserName, tail: str) -> Target:
    """The originals ignore what follows a bare user; we know three words there."""
    word, _, item = tail.partition("/")
    if word == "repo" and not item:
        return Target(kind="repositories", user=user)
    if word == "log" and not item:
        return Target(kind="log", user=user)
    if word == "member":
        return Target(kind="member", user=user, item=_label(item)) if item else Target(kind="members", user=user)
    return Target(kind="user", user=user)


def _of_repository(target: Target, tail: str) -> Target:
    user, repository = target.user, target.repository
    word, *parts = tail.split("/", 3)
    if word == "tag":
        return _of_tag(target, parts)
    item = parts[0] if len(parts) == 1 else ""
    if len(parts) <= 1:
        if word == "policy" and item in {"", "test"} and (not parts or item):
            return Target(kind="policy-test" if item else "policy", user=user, repository=repository)
        if word == "member" and parts:
            return Target(kind="member", user=user, repository=repository, item=_label(item))
        if word == "token" and parts:
            return Target(kind="token", user=user, repository=repository, item=_label(item))
        if word in {"member", "token"}:
            return Target(kind="members" if word == "member" else "tokens", user=user, repository=repository)
        if word == "yank" and parts:
            tag = _named("tag name", TagName, item)
            return Target(kind="yank", user=user, repository=repository, tag=tag)
        if word in {"log", "signer"} and not parts:
            return Target(kind="log" if word == "log" else "signers", user=user, repository=repository)
    raise NotFoundError("Route not found on repository")


def _of_tag(target: Target, parts: list[str]) -> Target:
    user, repository = target.user, target.repository
    if not parts:
        return Target(kind="tags", user=user, repository=repository)
    tag = _named("tag name", TagName, parts[0])
    if len(parts) == 1:
        return Target(kind="tag", user=user, repository=repository, tag=tag)
    if parts[1] != "tree":
        raise NotFoundError("Route not found on repository")
    try:
        path = TreePath.from_url(parts[2] if len(parts) > 2 else "")
    except MalformedError as error:
        raise MalformedError(f"Failed to parse tree path: {error}") from error
    return Target(kind="tree", user=user, repository=repository, tag=tag, path=path)


def _named(what: str, name: Callable[[str], T], text: str) -> T:
    try:
        return name(text)
    except MalformedError as error:
        raise MalformedError(f"Failed to parse {what}: {error}") from error


def _label(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise MalformedError(f"label: expected letters, digits and . _ -, found {text[:80]!r}")
    return text


def _numbers(version: TagName) -> tuple[int, int]:
    major, minor, *_ = version.text.split(".")
    return int(major), int(minor)


def _no_route(raw: str) -> NotFoundError:
    return NotFoundError(f"Route `{raw[:200]}` not found")
