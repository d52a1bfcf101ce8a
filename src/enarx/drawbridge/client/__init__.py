"""What a publisher, a reader and a Keep need of a registry. It believes nothing that it can check.

    with Client("https://registry.example", token=…) as http:
        registry = Registry(http)
        published = registry.tag(slug)                          what the registry says
        files = registry.down.fetch(slug, published.entry, workload=digest)     what is proven by `digest`

Rooms, each with what it may touch:

    wire     requests to the registry, and nothing else
    down     trees, checked from their digest; no file
    files    what `down` proved, written to files
    up       versions and their trees, read from files

Paths and bodies are those of the originals (protocol.md, 2), and what is beyond them is in flow.md, 5.
"""

import re
import time
from typing import Final
from urllib.parse import unquote

from enarx.drawbridge import canonical
from enarx.drawbridge.client.down import Down, Opening
from enarx.drawbridge.client.files import Files
from enarx.drawbridge.client.up import RESUMED_FROM, Up
from enarx.drawbridge.client.values import (
    DEFAULT_LIMITS,
    LONE_FILE,
    Item,
    Limits,
    Published,
    nothing,
    require_digest,
    shown,
)
from enarx.drawbridge.client.wire import MAX_LISTING, AnsweredError, Wire
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, UserName
from enarx.drawbridge.tag import MAX_TAG, Tag
from enarx.drawbridge.transfer import Sleep
from enarx.errors import MalformedError, NotFoundError, UntrustedError
from enarx.web.client import Client

__all__ = [
    "DEFAULT_LIMITS",
    "LONE_FILE",
    "RESUMED_FROM",
    "AnsweredError",
    "Item",
    "Limits",
    "Opening",
    "Published",
    "Registry",
    "nothing",
    "require_digest",
]

YANKED: Final = "enarx-yanked"  # header of a tag that was taken back; its value is the reason, percent-encoded
MAX_REASON: Final = 500  # characters of it that are shown

_STEWARD: Final = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?steward"?', re.IGNORECASE)


class Registry:
    """One registry, spoken to over `http` as whoever `http` says that we are."""

    def __init__(self, http: Client, *, opening: Opening | None = None, sleep: Sleep = time.sleep) -> None:
        self.wire: Final = Wire(http, sleep)
        self.down: Final = Down(self.wire, opening)
        self.files: Final = Files(self.down)
        self.up: Final = Up(self.wire)

    @property
    def host(self) -> str:
        return self.wire.host

    # -- users and repositories

    def user(self, name: UserName) -> str:
        """The subject that the name belongs to."""
        values = self.wire.object(f"/{name}", "user record")
        return str(canonical.member(values, "subject", str, f"{self.host}: user record"))

    def put_user(self, name: UserName, subject: str) -> bool:
        """Claim a name. Answers whether it is new. Raises ConflictError when it is somebody else's."""
        return self.wire.put_json(f"/{name}", {"subject": subject})

    def repository(self, user: UserName, name: RepositoryName) -> bool:
        """Whether the repository is public."""
        values = self.wire.object(f"/{user}/{name}", "repository")
        return bool(canonical.member(values, "public", bool, f"{self.host}: repository"))

    def put_repository(self, user: UserName, name: RepositoryName, *, public: bool) -> bool:
        """Register a repository. Answers whether it is new."""
        return self.wire.put_json(f"/{user}/{name}", {"public": public})

    def tags(self, user: UserName, name: RepositoryName) -> tuple[TagName, ...]:
        """Every version, the oldest first."""
        body = self.wire.get(f"/{user}/{name}/_tag", MAX_LISTING).body
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
        answer = self.wire.get(f"/{slug.user}/{slug.repository}/_tag/{name}", MAX_TAG)
        try:
            tag = Tag.parse(answer.body)
        except MalformedError as error:
            raise MalformedError(f"{self.host}: {error}") from error
        if slug.digest is not None:
            if slug.digest.algorithm not in tag.entry.meta.digests:
                raise UntrustedError(f"{self.host}: {shown(slug)}: the tag names no {slug.digest.algorithm} digest")
            require_digest(tag.entry, slug.digest, f"{self.host}: {shown(slug)}")
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


def _reason(text: str | None) -> str | None:
    """Why a version was taken back: percent-encoded in its header, and a stranger's words, made safe for a terminal."""
    if text is None:
        return None
    return "".join(character if character.isprintable() else " " for character in unquote(text)[:MAX_REASON])


def _steward(link: str) -> str | None:
    """The target of the link whose relation is `steward` (RFC 8288)."""
    found = _STEWARD.search(link)
    return None if found is None else found[1].strip()
