"""What members do with a repository over HTTP, beyond publishing: policy, tokens, members, yanking, history.

Paths and members of the JSON are those that `enarx.drawbridge.http` serves. What comes back is checked for its form
here, once; a history is checked link by link, for whoever serves it may have left something out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from enarx.digest import Digest
from enarx.drawbridge import canonical
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.client import Registry
from enarx.drawbridge.history import Change, check
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, UserName
from enarx.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    from enarx.drawbridge.signing import SigningKey

MAX_PAGES: Final = 1000  # of one search: a registry that always names another page must not hold us for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A name space, or a repository in it."""

    user: UserName
    repository: RepositoryName | None = None

    @property
    def url(self) -> str:
        return f"/{self.user}" if self.repository is None else f"/{self.user}/{self.repository}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A repository as a list names it. `role` is ours in it, if we have one."""

    user: str
    name: str
    public: bool
    role: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {"user": self.user, "name": self.name, "public": self.public, "role": self.role}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A release policy: as it was set (None: never), and in the server's words, its own settings included."""

    values: Mapping[str, Json] | None
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a policy says of a Keep."""

    accepted: bool
    reasons: tuple[str, ...]
    keep: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A deploy token. `text` is shown this once."""

    text: str = field(repr=False)
    facts: Mapping[str, Json]


class Management:
    """The resources beside the packages."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    # -- lists

    def repositories(self, user: UserName) -> tuple[Found, ...]:
        """Those of a user that we may know of."""
        values = self._object(f"/{user}/_repo", "repositories")
        return tuple(_found({"user": str(user), **item}) for item in _objects(values, "repositories"))

    def search(self, words: str) -> tuple[Found, ...]:
        """All that we may know of and whose name has these words. Raises UnavailableError when there is no end."""
        found, after = list[Found](), ""
        for _ in range(MAX_PAGES):
            query = urlencode({"q": words} | ({"after": after} if after else {}))
            values = self._object(f"/_search?{query}", "search")
            found += [_found(item) for item in _objects(values, "repositories")]
            following = values.get("after")
            if not isinstance(following, str) or not following:
                return tuple(found)
            after = following
        raise UnavailableError(
            f"{self.registry.host}: the search has no end after {MAX_PAGES} answers: give it more words"
        )

    # -- release policy

    def policy(self, place: Place) -> Policy:
        values = self._object(f"{place.url}/_policy", "policy")
        policy = values.get("policy")
        said = values.get("sentences")
        return Policy(
            values=None if policy is None else canonical.members(policy, "policy"),
            sentences=tuple(str(item) for item in said) if isinstance(said, list) else (),
        )

    def set_policy(self, place: Place, values: Mapping[str, Json]) -> None:
        self.registry.wire.set(f"{place.url}/_policy", values)

    def remove_policy(self, place: Place) -> None:
        self.registry.wire.remove(f"{place.url}/_policy")

    def test_policy(self, place: Place, certificates: bytes) -> Verdict:
        """Whether the workload would be released to the Keep with this chain (PEM, leaf first)."""
        answer = self.registry.wire.ask(f"{place.url}/_policy/test", certificates, "application/x-pem-file")
        values = canonical.members(answer, "verdict")
        keep = values.get("keep")
        return Verdict(
            accepted=canonical.member(values, "accepted", bool, "verdict"),
            reasons=tuple(str(reason) for reason in canonical.member(values, "reasons", list, "verdict")),
            keep=None if keep is None else canonical.members(keep, "verdict: keep"),
        )

    # -- deploy tokens

    def make_token(
        self,
        place: Place,
        *,
        tag: TagName | None = None,
        digest: Digest | None = None,
        lifetime: int | None = None,
        uses: int | None = None,
        label: str = "",
    ) -> NewToken:
        """A token for one tag or one workload, for `lifetime` seconds (the server's default: ten minutes)."""
        asked: dict[str, Json] = {"label": label} if label else {}
        asked |= {"digest": str(digest)} if digest is not None else {"tag": str(tag)}
        asked |= {} if lifetime is None else {"lifetime": lifetime}
        asked |= {} if uses is None else {"uses": uses}
        values = canonical.members(self.registry.wire.make(f"{place.url}/_token", asked), "token")
        text = canonical.member(values, "token", str, "token")
        return NewToken(text=text, facts={name: value for name, value in values.items() if name != "token"})

    def tokens(self, place: Place) -> tuple[Mapping[str, Json], ...]:
        return _objects(self._object(f"{place.url}/_token", "tokens"), "tokens")

    def token(self, place: Place, name: str) -> Mapping[str, Json]:
        """One of them, without its secret."""
        return self._object(f"{place.url}/_token/{_label(name)}", "token")

    def revoke_token(self, place: Place, name: str) -> None:
        self.registry.wire.remove(f"{place.url}/_token/{_label(name)}")

    # -- members

    def members(self, place: Place) -> tuple[Json, tuple[Mapping[str, Json], ...]]:
        """The owner of the name space, and the members."""
        values = self._object(f"{place.url}/_member", "members")
        return values.get("owner"), _objects(values, "members")

    def set_member(self, place: Place, name: str, member: Mapping[str, Json]) -> None:
        """`member` has role, and user, or subject and perhaps issuer, or issuer and claims."""
        self.registry.wire.set(f"{place.url}/_member/{_label(name)}", member)

    def remove_member(self, place: Place, name: str) -> None:
        self.registry.wire.remove(f"{place.url}/_member/{_label(name)}")

    # -- who has to sign

    def signers(self, place: Place) -> tuple[Mapping[str, Json], ...]:
        """The public keys of which one has to have signed each new version: name, id and key (PEM)."""
        return _objects(self._object(f"{place.url}/_signer", "signers"), "signers")

    def set_signers(self, place: Place, keys: "Sequence[SigningKey]") -> None:
        """Replace them; none means that nobody has to sign. Only the public half of a key is sent."""
        self.registry.wire.set(f"{place.url}/_signer", {_label(key.name): key.public_pem().decode() for key in keys})

    # -- yanking and history

    def yank(self, slug: PackageSlug, reason: str) -> None:
        self.registry.wire.set(_yank_url(slug), {"reason": reason})

    def unyank(self, slug: PackageSlug) -> None:
        self.registry.wire.remove(_yank_url(slug))

    def history(self, place: Place) -> tuple[Change, ...]:
        """Every change, the oldest first. Raises MalformedError where the chain does not hold."""
        values = self._object(f"{place.url}/_log", "history")
        return tuple(check(Change.from_json(item) for item in _objects(values, "changes")))

    def _object(self, url: str, what: str) -> dict[str, Any]:  # Any: parsed JSON, checked by the caller
        return canonical.members(self.registry.wire.look(url), f"{self.registry.host}: {what}")


def _yank_url(slug: PackageSlug) -> str:
    if slug.tag is None:
        raise MalformedError(f"package {slug}: expected :TAG after it")
    return f"/{slug.user}/{slug.repository}/_yank/{slug.tag}"


def _found(values: Mapping[str, Any]) -> Found:  # Any: parsed JSON, checked here
    role = values.get("role")
    return Found(
        user=canonical.member(values, "user", str, "repository"),
        name=canonical.member(values, "name", str, "repository"),
        public=canonical.member(values, "public", bool, "repository"),
        role=role if isinstance(role, str) else None,
    )


def _objects(values: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:  # Any: parsed JSON
    return tuple(canonical.members(item, name) for item in canonical.member(values, name, list, name))


def _label(text: str) -> str:
    """A name that stands in a path as it is. The server says what else it must be."""
    if not text or not all(character.isascii() and (character.isalnum() or character in "._-") for character in text):
        raise MalformedError(f"name {text[:80]!r}: expected letters, digits and . _ -")
    return text
