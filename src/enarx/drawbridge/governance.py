"""What a repository's people decided: members, release policy, deploy tokens. Kept as documents of the registry.

A user name belongs to the subject of its record, as vouched for by the issuer in whose name it was registered: `by`
of every record is `<issuer> <subject>`, so the same subject of another issuer is somebody else.

A deploy token is `enarx_dt_<id>_<secret>`; the secret is kept as its SHA-256 and compared in constant time. A use is
the release of a root node to one certificate: the same Keep may read on and come again, the next one takes another.
Changes of these documents are in the repository's history, without any secret.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Self

from enarx.digest import Digest
from enarx.drawbridge import canonical
from enarx.drawbridge.access import (
    NO_RELEASE,
    HiddenError,
    Identity,
    Member,
    NamespaceFacts,
    Person,
    ReleasePolicy,
    RepositoryFacts,
    Role,
    TokenGrant,
    role_of,
)
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.registry import Registry, UserRecord
from enarx.drawbridge.registry.catalogue import Place, member_name
from enarx.errors import ConflictError, DeniedError, MalformedError, NotFoundError, UntrustedError
from enarx.toml import Table

MEMBER: Final = "member"
POLICY: Final = "policy"
TOKEN: Final = "token"  # noqa: S105 - a kind of document, not a secret

TOKEN_FORM: Final = re.compile(r"enarx_dt_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
TOKEN_PREFIX: Final = "enarx_dt_"  # noqa: S105 - as above
ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
DEFAULT_LIFETIME: Final = timedelta(minutes=10)
MAX_LIFETIME: Final = timedelta(days=366)
MAX_USES: Final = 1_000
PRIVATE: Final = "private"  # the first stage of a search
PUBLIC: Final = "public"  # the second
SEARCHED: Final = 2_000  # names that one search looks at before it hands on where to go on
REMEMBERED: Final = 10_000  # repositories of which it is remembered whether they are public
MAX_LABEL: Final = 200  # characters
_ATTEMPTS: Final = 20  # to take a use while others do


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A deploy token as it is kept. `used` are the SHA-256 of the certificates it was used with."""

    id: str
    sha256: str = field(repr=False)
    tag: str | None
    digest: Digest | None
    created: datetime
    expires: datetime
    uses: int | None
    used: tuple[str, ...] = ()
    label: str = ""
    by: str = ""
    version: int = 0

    @classmethod
    def parse(cls, name: str, body: bytes, *, by: str, version: int) -> Self:
        values = canonical.members(canonical.parse(body, "token"), "token")
        digest = values.get("digest")
        return cls(
            id=name,
            sha256=canonical.member(values, "sha256", str, "token"),
            tag=values.get("tag"),
            digest=None if digest is None else Digest.parse(str(digest)),
            created=_moment(values, "created"),
            expires=_moment(values, "expires"),
            uses=values.get("uses"),
            used=tuple(str(item) for item in canonical.member(values, "used", list, "token")),
            label=canonical.member(values, "label", str, "token"),
            by=str(values.get("by", by)),
            version=version,
        )

    def encode(self) -> bytes:
        return canonical.encode({**self.to_json(), "sha256": self.sha256, "used": list(self.used)})

    def to_json(self) -> dict[str, Json]:
        """What may be shown."""
        return {
            "id": self.id,
            "tag": self.tag,
            "digest": None if self.digest is None else str(self.digest),
            "created": _stamp(self.created),
            "expires": _stamp(self.expires),
            "uses": self.uses,
            "left": None if self.uses is None else max(0, self.uses - len(self.used)),
            "label": self.label,
            "by": self.by,
        }


class Governance:
    """Facts for `access`, and the changes of them. Who may change is decided before."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._public: dict[tuple[UserName, RepositoryName], bool] = {}

    # -- facts

    def namespace(self, user: UserName) -> NamespaceFacts:
        """Whose a name is, and who is a member of it."""
        return NamespaceFacts(owner=self.owner(user), members=tuple(self.members(user, None).values()))

    def facts(self, user: UserName, repository: RepositoryName) -> RepositoryFacts:
        """All that decides about a repository."""
        try:
            public = self._registry.spaces.repository(user, repository).public
        except NotFoundError:
            return RepositoryFacts(namespace=self.namespace(user), public=None)
        return RepositoryFacts(
            namespace=self.namespace(user),
            public=public,
            members=tuple(self.members(user, repository).values()),
            policy=self.policy(user, repository),
        )

    def is_public(self, user: UserName, repository: RepositoryName) -> bool:
        """Whether everybody may read it, which needs no other fact. The record of a repository never changes."""
        known = self._public.get((user, repository))
        if known is not None:
            return known
        try:
            public = self._registry.spaces.repository(user, repository).public
        except NotFoundError:
            return False
        if len(self._public) >= REMEMBERED:
            self._public.clear()
        self._public[user, repository] = public
        return public

    def owner(self, user: UserName) -> Identity | None:
        try:
            stored = self._registry.spaces.user_body(user)
        except NotFoundError:
            return None
        issuer, _, subject = stored.by.partition(" ")
        record = UserRecord.parse(stored.body)
        return Identity(issuer=issuer, subject=subject) if subject == record.subject else None

    def names_of(self, identity: Identity) -> tuple[UserName, ...]:
        """The user names that belong to somebody."""
        return tuple(name for name in self._registry.spaces.users_of(identity.subject) if self.owner(name) == identity)

    # -- search

    def search(self, person: Person | None, words: str, *, after: str, limit: int) -> tuple[list[Place], str | None]:
        """What is public, and what the person may read, whose names hold the words; what is theirs alone comes first.

        At most SEARCHED names are looked at. The second answer is where to go on, None at the end: it holds no name
        but one that the person may know.
        """
        wanted, stop = words.lower().split(), None
        found: list[Place] = []
        for looked, (stage, place) in enumerate(self._places(person, *_after(after)), start=1):
            if stop is not None:
                return found, stop
            matches = all(word in f"{place[0]}/{place[1]}".lower() for word in wanted)
            if matches and self._is_shown(person, stage, place):
                found.append(place)
            enough = looked >= SEARCHED or len(found) >= limit
            if enough and self._is_shown(person, stage, place):  # else its name would be told
                stop = f"{stage}:{place[0]}/{place[1]}"
        return found, None

    def roles(self, person: Person | None, places: Sequence[Place]) -> dict[Place, Role | None]:
        """What the person is in each place; what is no place of theirs costs nothing."""
        if person is None:
            return dict.fromkeys(places)
        own, member = (
            set(self.names_of(person.identity)),
            set(self._registry.catalogue.memberships(_named(person.identity))),
        )
        found = dict[Place, Role | None]()
        for user, repository in places:
            theirs = user in own or bool({(user, None), (user, repository)} & member)
            facts = self.facts(user, repository) if theirs else None
            found[user, repository] = None if facts is None else role_of(person, facts.namespace, facts.members)
        return found

    def _places(self, person: Person | None, begin: str, after: Place | None) -> Iterator[tuple[str, Place]]:
        """Where to look: for what is private among what is the person's, then for what is public."""
        if person is not None and begin == PRIVATE:
            yield from ((PRIVATE, place) for place in self._places_of(person) if after is None or place > after)
        for place in self._registry.catalogue.public(after if begin == PUBLIC else None):
            yield PUBLIC, place

    def _is_shown(self, person: Person | None, stage: str, place: Place) -> bool:
        public = self.is_public(*place)
        return public if stage == PUBLIC else not public and self.may_see(person, *place)

    def _places_of(self, person: Person) -> list[Place]:
        """Where to look for what is private and somebody's: under their names, and where they are members."""
        spaces, places = set(self.names_of(person.identity)), set[Place]()
        for user, repository in self._registry.catalogue.memberships(_named(person.identity)):
            if repository is None:
                spaces.add(user)
            else:
                places.add((user, repository))
        return sorted(
            places.union((user, name) for user in spaces for name in self._registry.spaces.repositories(user))
        )

    def may_see(self, person: Person | None, user: UserName, name: RepositoryName) -> bool:
        """Whether somebody may know of a repository."""
        if self.is_public(user, name):
            return True
        if person is None or not (person.machine or person.may("read", "repositories")):
            return False
        facts = self.facts(user, name)
        return facts.public is not None and role_of(person, facts.namespace, facts.members) is not None

    # -- members

    def members(self, user: UserName, repository: RepositoryName | None) -> dict[str, Member]:
        documents = self._registry.documents.all(user, repository, MEMBER)
        return {label: _member(canonical.parse(found.body, "member")) for label, found in documents}

    def read_member(self, body: bytes, default_issuer: str) -> Member:
        """A member as a client writes it: `role` and `user`, or `subject` and perhaps `issuer`, or `issuer` and `claims`."""
        values = canonical.members(canonical.parse(body, "member"), "member")
        if "user" not in values:
            return _member({"issuer": default_issuer, **values})
        canonical.only(values, ("role", "user"), "member")
        owner = self.owner(UserName(canonical.member(values, "user", str, "member")))
        if owner is None:
            raise NotFoundError(f"member: user {values['user']}: there is none")
        return _member({"role": values.get("role"), "issuer": owner.issuer, "subject": owner.subject})

    def set_member(
        self, user: UserName, repository: RepositoryName | None, label: str, member: Member | None, *, by: str
    ) -> bool:
        """Whether it is new. Raises NotFoundError when there is none to remove."""
        known = self._registry.documents.find(user, repository, MEMBER, label)
        if member is not None and member.subject is not None:
            somebody = Identity(issuer=member.issuer, subject=member.subject)
            self._registry.catalogue.list_member(_named(somebody), user, repository)
        if member is None and known is None:
            raise NotFoundError(f"member {label}: there is none")
        body = None if member is None else canonical.encode(member.to_json())
        self._registry.documents.put(user, repository, MEMBER, label, body, by=by)
        detail: dict[str, Json] = {"member": label, **({} if member is None else member.to_json())}
        self._record(user, repository, "member-removed" if member is None else "member-set", detail, by=by)
        return known is None

    # -- release policy

    def policy(self, user: UserName, repository: RepositoryName) -> ReleasePolicy | None:
        values = self.policy_values(user, repository)
        if values is None:
            return None
        try:
            return read_policy(values)
        except MalformedError:  # it was set under rules that allowed more: nobody gets anything until it is set anew
            return NO_RELEASE

    def policy_values(self, user: UserName, repository: RepositoryName) -> dict[str, Any] | None:  # Any: parsed JSON
        found = self._registry.documents.find(user, repository, POLICY, "release")
        return None if found is None else canonical.members(canonical.parse(found.body, "policy"), "policy")

    def set_policy(
        self, user: UserName, repository: RepositoryName, values: Mapping[str, Json] | None, *, by: str
    ) -> bool:
        """Whether it is the first. Raises MalformedError for what is no policy."""
        known = self._registry.documents.find(user, repository, POLICY, "release")
        if values is not None:
            read_policy(values)
        body = None if values is None else canonical.encode(values)
        self._registry.documents.put(user, repository, POLICY, "release", body, by=by)
        detail: dict[str, Json] = {} if values is None else {"policy": dict(values)}
        self._record(user, repository, "policy-removed" if values is None else "policy-set", detail, by=by)
        return known is None

    # -- deploy tokens

    def tokens(self, user: UserName, repository: RepositoryName) -> Iterable[Token]:
        for name, found in self._registry.documents.all(user, repository, TOKEN):
            yield Token.parse(name, found.body, by=found.by, version=found.version)

    def token(self, user: UserName, repository: RepositoryName, name: str) -> Token:
        """Raises NotFoundError when there is none, or it was revoked."""
        found = self._registry.documents.find(user, repository, TOKEN, name)
        if found is None:
            raise NotFoundError(f"token {name}: there is none")
        return Token.parse(name, found.body, by=found.by, version=found.version)

    def make_token(
        self, user: UserName, repository: RepositoryName, body: bytes, at: datetime, *, by: str
    ) -> tuple[Token, str]:
        """The token as it is kept, and as it is shown once. Raises MalformedError."""
        name = "".join(secrets.choice(ALPHABET) for _ in range(12))
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
        token = _read_order(body, name, sha256(secret.encode()).hexdigest(), at, by)
        self._registry.documents.put(user, repository, TOKEN, name, token.encode(), by=by)
        self._record(user, repository, "token-made", token.to_json(), by=by)
        return token, f"{TOKEN_PREFIX}{name}_{secret}"

    def revoke_token(self, user: UserName, repository: RepositoryName, name: str, *, by: str) -> None:
        self.token(user, repository, name)
        self._registry.documents.put(user, repository, TOKEN, name, None, by=by)
        self._record(user, repository, "token-revoked", {"id": name}, by=by)

    def grant(
        self, user: UserName, repository: RepositoryName, text: str, at: datetime, fingerprint: str | None
    ) -> TokenGrant:
        """What a deploy token grants to whoever holds it, to the Keep of this certificate if one asks.

        Raises HiddenError when there is no such token here, UntrustedError when it has ended.
        """
        match = TOKEN_FORM.fullmatch(text)
        if match is None:
            raise HiddenError
        try:
            token = self.token(user, repository, match[1])
        except NotFoundError:
            raise HiddenError from None
        if not hmac.compare_digest(sha256(match[2].encode()).hexdigest(), token.sha256):
            raise HiddenError
        if at >= token.expires:
            raise UntrustedError(f"The deploy token ended at {_stamp(token.expires)}")
        if token.uses is not None and len(token.used) >= token.uses and fingerprint not in token.used:
            raise UntrustedError("The deploy token was used as often as it may be")
        return TokenGrant(id=token.id, tag=token.tag, digest=token.digest)

    def spend(self, user: UserName, repository: RepositoryName, name: str, fingerprint: str) -> None:
        """Take one use for a certificate, once however often it comes. Raises DeniedError when none is left."""
        for _ in range(_ATTEMPTS):
            token = self.token(user, repository, name)
            if token.uses is None or fingerprint in token.used:
                return
            if len(token.used) >= token.uses:
                raise DeniedError("The deploy token was used as often as it may be")
            spent = canonical.encode({**token.to_json(), "sha256": token.sha256, "used": [*token.used, fingerprint]})
            try:
                self._registry.documents.put(user, repository, TOKEN, name, spent, by=token.by, replaces=token.version)
            except ConflictError:
                continue  # another Keep was faster; look again
            return
        raise ConflictError(f"token {name}: too many use it at once; try again")

    def _record(
        self,
        user: UserName,
        repository: RepositoryName | None,
        event: str,
        detail: Mapping[str, Json],
        *,
        by: str,
    ) -> None:
        self._registry.histories.append(user, repository, by=by, event=event, detail=detail)


def read_policy(values: Mapping[str, Any]) -> ReleasePolicy:  # Any: parsed JSON or TOML, checked here
    """Raises MalformedError, which names the key."""
    table = Table(source="policy", text="", path="", values=values)
    policy = ReleasePolicy.from_table(table)
    table.end()
    return policy


def _named(identity: Identity) -> str:
    return member_name(identity.issuer, identity.subject)


def _after(text: str) -> tuple[str, Place | None]:
    """Where a search goes on. Raises MalformedError for what no search ever answered."""
    if not text:
        return PRIVATE, None
    stage, colon, place = text.partition(":")
    user, slash, name = place.partition("/")
    if stage not in {PRIVATE, PUBLIC} or not colon or not slash:
        raise MalformedError(f"after: expected what the last answer said, found {text[:80]!r}")
    return stage, (UserName(user), RepositoryName(name))


def _member(value: Any) -> Member:  # Any: parsed JSON, checked here
    values = canonical.members(value, "member")
    canonical.only(values, ("role", "issuer", "subject", "claims"), "member")
    claims = canonical.member(values, "claims", dict, "member") if "claims" in values else {}
    if not all(isinstance(pattern, str) for pattern in claims.values()):
        raise MalformedError("member: claims: expected strings")
    return Member(
        role=canonical.member(values, "role", str, "member"),
        issuer=canonical.member(values, "issuer", str, "member"),
        subject=canonical.member(values, "subject", str, "member") if "subject" in values else None,
        claims=claims,
    )


def _read_order(body: bytes, name: str, digest: str, at: datetime, by: str) -> Token:
    """What a client asks for: `tag` or `digest`, `lifetime` in seconds, `uses`, `label`."""
    values = canonical.members(canonical.parse(body, "token"), "token")
    canonical.only(values, ("tag", "digest", "lifetime", "uses", "label"), "token")
    if ("tag" in values) == ("digest" in values):
        raise MalformedError("token: expected either tag or digest: a token is for one of them")
    lifetime = canonical.member(values, "lifetime", int, "token") if "lifetime" in values else None
    seconds = int(DEFAULT_LIFETIME.total_seconds()) if lifetime is None else lifetime
    if not 0 < seconds <= MAX_LIFETIME.total_seconds():
        raise MalformedError(
            f"token: lifetime: expected 1 to {int(MAX_LIFETIME.total_seconds())} seconds, found {seconds}"
        )
    uses = canonical.member(values, "uses", int, "token") if values.get("uses") is not None else None
    if uses is not None and not 0 < uses <= MAX_USES:
        raise MalformedError(f"token: uses: expected 1 to {MAX_USES}, found {uses}")
    label = canonical.member(values, "label", str, "token") if "label" in values else ""
    if len(label) > MAX_LABEL or not label.isprintable():
        raise MalformedError(f"token: label: expected at most {MAX_LABEL} printable characters")
    workload = Digest.parse(canonical.member(values, "digest", str, "token")) if "digest" in values else None
    if workload is not None and workload.algorithm != "sha-256":
        raise MalformedError(f"token: digest: expected sha-256, found {workload.algorithm}")
    tag = TagName(canonical.member(values, "tag", str, "token")).text if "tag" in values else None
    return Token(
        id=name,
        sha256=digest,
        tag=tag,
        digest=workload,
        created=at.replace(microsecond=0),
        expires=at.replace(microsecond=0) + timedelta(seconds=seconds),
        uses=uses,
        label=label,
        by=by,
    )


def _moment(values: Mapping[str, Any], name: str) -> datetime:  # Any: parsed JSON
    return datetime.fromisoformat(canonical.member(values, name, str, "token"))


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
