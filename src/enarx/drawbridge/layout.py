"""Where everything is kept: names to storage keys, and nothing else.

    users/<user>                                      the record of a user
    subjects/<SHA-256 of the subject>/<user>          which name spaces a subject has
    repositories/<user>/<repository>                  the record of a repository
    public/<user>/<repository>                        which of them are public
    memberships/<SHA-256 of issuer and subject>/<user>/<repository>  of what somebody is, or was, a member
    tags/<user>/<repository>/<tag>                    the record of a tag
    nodes/<user>/<repository>/<tag>/<SHA-256 of path> the record of a node: its meta, and which blob it is
    blobs/<xx>/<SHA-256>                              content, once however many nodes have it
    pieces/<xx>/<SHA-256>/<number>                    digests of the pieces of a long blob, 256 MiB in each record
    history/<user>/<repository>/<number>              what changed in a repository; with `_`, in a whole name space
    documents/<user>/<repository>/<kind>/<id>/<number> what may change: the highest number counts
    quotas/<date>/<SHA-256 of identity>/<number>      what is left of somebody's allowance: the highest number counts
    parts/<upload>/<offset>                           what has arrived of an upload that can be resumed
    garbage/<SHA-256>                                 a blob that is being collected right now

What is under `sums/` is of an earlier version, and nobody reads it. No key is above another. Numbers have twelve digits, so that a listing is in their order.
"""

from datetime import date
from functools import lru_cache
from hashlib import sha256
from typing import Final

from enarx.digest import Digest
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.store.api import Key

USERS: Final = Key("users")
REPOSITORIES: Final = Key("repositories")
TAGS: Final = Key("tags")
NODES: Final = Key("nodes")
BLOBS: Final = Key("blobs")
PIECES: Final = Key("pieces")
FORMER: Final = (Key("sums"),)  # what earlier versions kept here and nobody reads
HISTORY: Final = Key("history")
DOCUMENTS: Final = Key("documents")
PARTS: Final = Key("parts")
QUOTAS: Final = Key("quotas")
GARBAGE: Final = Key("garbage")
SUBJECTS: Final = Key("subjects")
PUBLIC: Final = Key("public")
MEMBERSHIPS: Final = Key("memberships")

_KEPT: Final = 4096  # keys of each kind that every request asks for again


@lru_cache(_KEPT)
def user(name: UserName) -> Key:
    return USERS / name.text


def subject(text: str) -> Key:
    """Under this key are the name spaces of a subject, whatever characters it has."""
    return SUBJECTS / sha256(text.encode()).hexdigest()


@lru_cache(_KEPT)
def repositories(name: UserName) -> Key:
    return REPOSITORIES / name.text


@lru_cache(_KEPT)
def repository(owner: UserName, name: RepositoryName) -> Key:
    return repositories(owner) / name.text


def public(owner: UserName, name: RepositoryName) -> Key:
    return PUBLIC / owner.text / name.text


def memberships(member: str) -> Key:
    return MEMBERSHIPS / sha256(member.encode()).hexdigest()


def membership(member: str, owner: UserName, name: RepositoryName | None) -> Key:
    """No repository is called `_`, which is the whole name space."""
    return memberships(member) / owner.text / ("_" if name is None else name.text)


@lru_cache(_KEPT)
def tags(owner: UserName, name: RepositoryName) -> Key:
    return TAGS / owner.text / name.text


def tag(owner: UserName, name: RepositoryName, version: TagName) -> Key:
    return tags(owner, name) / version.text


def nodes(owner: UserName, name: RepositoryName, version: TagName) -> Key:
    return NODES / owner.text / name.text / version.text


def node(owner: UserName, name: RepositoryName, version: TagName, path: TreePath) -> Key:
    return nodes(owner, name, version) / sha256(str(path).encode()).hexdigest()


def blob(digest: Digest) -> Key:
    return BLOBS / digest.hex[:2] / digest.hex


def pieces(digest: Digest) -> Key:
    """Above the numbered records of a blob."""
    return PIECES / digest.hex[:2] / digest.hex


def garbage(digest: Digest) -> Key:
    return GARBAGE / digest.hex


@lru_cache(_KEPT)
def history(owner: UserName, name: RepositoryName | None) -> Key:
    """That of a repository, or of the user's whole name space; no repository is called `_`."""
    return HISTORY / owner.text / ("_" if name is None else name.text)


@lru_cache(_KEPT)
def documents(owner: UserName, name: RepositoryName | None, kind: str) -> Key:
    """Those of a repository, or of the user's whole name space; no repository is called `_`."""
    return DOCUMENTS / owner.text / ("_" if name is None else name.text) / kind


@lru_cache(_KEPT)
def number(prefix: Key, value: int) -> Key:
    return prefix / f"{value:012d}"


def quota(day: date, identity: str) -> Key:
    return QUOTAS / day.isoformat() / identity


def part(upload: str, offset: int) -> Key:
    return PARTS / upload / f"{offset:020d}"
