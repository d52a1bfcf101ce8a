"""What the registry keeps, as values: records of users and repositories, bodies, tags, nodes, documents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Self

from enarx.digest import Digest
from enarx.drawbridge import canonical
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.content import Contents
from enarx.drawbridge.names import TreePath
from enarx.drawbridge.records import damaged
from enarx.drawbridge.store.api import Key
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Entry, Meta
from enarx.errors import MalformedError

MAX_SUBJECT: Final = 1000  # characters of an OpenID Connect subject; the standard says 255


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One version of a document."""

    version: int
    body: bytes
    at: datetime
    by: str
    withdrawn: bool = False


def stored_body(key: Key, values: Mapping[str, Any]) -> Stored:  # Any: JSON of a record, checked here
    try:
        return Stored(
            meta=meta_of(key, values),
            body=canonical.member(values, "body", str, "record").encode(),
            at=datetime.fromisoformat(canonical.member(values, "at", str, "record")),
            by=canonical.member(values, "by", str, "record"),
        )
    except (MalformedError, ValueError) as error:
        raise damaged(key, str(error)) from error


def stored_document(values: Mapping[str, Any], version: int) -> Document:  # Any: JSON of a record
    body = values.get("body")
    return Document(
        version=version,
        body=b"" if body is None else str(body).encode(),
        at=datetime.fromisoformat(str(values.get("at"))),
        by=str(values.get("by")),
        withdrawn=body is None,
    )


def meta_of(key: Key, values: Mapping[str, Any]) -> Meta:  # Any: JSON of a record, checked here
    try:
        return Meta.from_json(canonical.member(values, "meta", dict, "record"), "record")
    except MalformedError as error:
        raise damaged(key, str(error)) from error


def said(at: datetime, by: str) -> dict[str, Json]:
    """The beginning of every record: when, and by whom."""
    return {"at": at.isoformat(), "by": by}
