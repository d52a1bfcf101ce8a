"""Who may do what: principals, scopes, roles, and the one table that says yes (protocol.md, 2.9; flow.md, 5 and 8).

A request brings up to three proofs, and each opens something of its own:

    a person or a machine    an access token of a trusted issuer: what the role in the name space and the
                             scopes of the token allow together
    a Keep                   a certificate of a trusted Steward with an attestation result: the tree whose
                             root digest it carries, and that tree's tag, where the release policy accepts it
    a deploy token           the tag it is for, nothing else; with a certificate it is the second factor that a
                             release policy may ask for

Whoever may not know of a thing gets one answer, `HiddenError`, whether the thing is there or not; who belongs to
the name space gets "not found". A scope that is missing is told before anything is looked up, so it tells nothing.
Nothing is fetched here and no clock is read: the registry's facts and the moment are arguments.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, Self

from enarx.attested.relying import Expectation, Peer, accept
from enarx.digest import Digest
from enarx.drawbridge.canonical import Json
from enarx.errors import DeniedError, MalformedError, NotFoundError, RejectedError, UntrustedError
from enarx.toml import Table

Level = Literal["read", "write"]
Realm = Literal["users", "repositories", "tags"]
Role = Literal["reader", "publisher", "owner"]

ROLES: Final[tuple[Role, ...]] = ("reader", "publisher", "owner")  # each may do what those before it may

HIDDEN: Final = "Authentication is required, or there is nothing here that you may know of"
NO_TOKEN: Final = "Bearer token header missing"  # noqa: S105 - a sentence, the originals' own
NOT_THERE: Final = "Repository does not exist"
MAX_CLAIMS: Final = 16  # claims that one machine member may ask for
MAX_PATTERN: Final = 500  # characters


class HiddenError(UntrustedError):
    """The answer to whoever may not know. Always the same, for it must not tell what exists."""

    def __init__(self) -> None:
        super().__init__(HIDDEN)


class ScopeError(DeniedError):
    """A genuine token that was not granted what this needs. Caught where statuses are given: the originals say 401."""


class OtherWorkloadError(DeniedError):
    """A genuine certificate for another workload. Its text names only what the certificate carries."""


# -- who


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A subject as one issuer knows it. `issuer` is the name that the configuration gave it."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody, or some machine, an issuer vouches for. `scopes` None: the issuer grants none, and limits nothing.

    `one_name`: the issuer is of the generation in which a subject has one user name at most.
    """

    identity: Identity
    scopes: frozenset[str] | None
    claims: Mapping[str, str] = field(default_factory=dict)
    machine: bool = False
    one_name: bool = False

    def may(self, level: Level, realm: Realm) -> bool:
        """Whether the token was granted this; `manage` grants both levels."""
        return self.scopes is None or not self.scopes.isdisjoint(
            {f"{level}:drawbridge_{realm}", f"manage:drawbridge_{realm}"}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """A deploy token that was found, is current and has uses left."""

    id: str
    tag: str | None
    digest: Digest | None

    def covers(self, tag: str | None, workload: Digest | None) -> bool:
        """Whether it was made for this tag, or for this workload under whatever tag."""
        if self.digest is not None:
            return workload is not None and self.digest == workload
        return self.tag is not None and self.tag == tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """All that a request proved."""

    person: Person | None = None
    keep: Peer | None = None
    token: TokenGrant | None = None


ANONYMOUS: Final = Principal()


# -- members


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A role for one subject, or for every machine whose token's claims match (`*` and `?` in the patterns)."""

    role: Role
    issuer: str
    subject: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise MalformedError(f"member: role: expected one of {', '.join(ROLES)}, found {str(self.role)[:40]!r}")
        if (self.subject is None) == (not self.claims):
            raise MalformedError("member: expected either subject or claims")
        if len(self.claims) > MAX_CLAIMS or any(len(pattern) > MAX_PATTERN for pattern in self.claims.values()):
            raise MalformedError(f"member: claims: expected at most {MAX_CLAIMS} of {MAX_PATTERN} characters")
        if self.claims and self.role == "owner":
            raise MalformedError("member: a machine is never an owner")
        if self.claims and all(not pattern.strip("*?") for pattern in self.claims.values()):
            raise MalformedError("member: claims: a pattern that matches everybody's machines is none")

    def matches(self, person: Person) -> bool:
        if person.identity.issuer != self.issuer:
            return False
        if self.subject is not None:
            return not person.machine and person.identity.subject == self.subject
        return person.machine and all(_like(person.claims.get(name), text) for name, text in self.claims.items())

    def to_json(self) -> dict[str, Json]:
        who: dict[str, Json] = {"subject": self.subject} if self.subject is not None else {"claims": dict(self.claims)}
        return {"role": self.role, "issuer": self.issuer, **who}


def _like(value: str | None, pattern: str) -> bool:
    """`*` is any run of characters and `?` any one; nothing else is special, least of all brackets."""
    if value is None:
        return False
    escaped = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(escaped, value, re.DOTALL) is not None


# -- release policies


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What the server's operator allows under `[unsafe]` where a repository says nothing."""

    simulated: bool = False
    nil: bool = False
    debug: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """Which Keeps a repository is released to. What it leaves out under `unsafe` is the operator's word.

    `steward` is the URL of the Steward that its Keeps shall use, None for the server's own.
    """

    expectation: Expectation
    simulated: bool | None
    nil: bool | None
    debug: bool | None
    require_token: bool
    steward: str | None = None

    @classmethod
    def from_table(cls, table: Table) -> Self:
        """Read a policy, TOML or JSON. Raises ConfigError, which names the key."""
        require_token = table.boolean("require_token", default=False)
        steward = table.string("steward", None)
        if steward is not None and not re.fullmatch(r"https?://[\x21-\x7e]{1,500}", steward):
            raise table.error("steward", f"expected a URL, found {steward[:80]!r}")
        unsafe = table.table("unsafe")
        said = [
            unsafe.boolean(f"accept_{name}") if f"accept_{name}" in unsafe else None
            for name in ("simulated", "nil", "debug")
        ]
        for key in ("workloads", "config_digests"):
            if key in table:
                raise table.error(key, "has no meaning here: a certificate opens its own workload and no other")
        expectation = Expectation.from_table(table)
        return cls(
            expectation=expectation,
            simulated=said[0],
            nil=said[1],
            debug=said[2],
            require_token=require_token,
            steward=steward,
        )

    def effective(self, leave: Leave) -> Expectation:
        """What is asked of a Keep, with the operator's word where the repository is silent."""
        return Expectation(
            technologies=self.expectation.technologies,
            measurements=self.expectation.measurements,
            signers=self.expectation.signers,
            tcb_statuses=self.expectation.tcb_statuses,
            trust_domains=self.expectation.trust_domains,
            max_age=self.expectation.max_age,
            accept_simulated=leave.simulated if self.simulated is None else self.simulated,
            accept_nil=leave.nil if self.nil is None else self.nil,
            accept_debug=leave.debug if self.debug is None else self.debug,
        )

    def sentences(self, leave: Leave) -> list[str]:
        """The policy in words, for people."""
        asked = self.effective(leave)
        said = []
        for name, values in (
            ("technology", asked.technologies),
            ("TCB status", asked.tcb_statuses),
            ("trust domain", asked.trust_domains),
        ):
            if values is not None:
                said.append(f"The {name} has to be {' or '.join(sorted(values)) or 'none there is'}.")
        for name, digests in (("measurement", asked.measurements), ("signer", asked.signers)):
            if digests is not None:
                said.append(f"The {name} has to be {' or '.join(sorted(d.hex() for d in digests)) or 'none there is'}.")
        if asked.max_age is not None:
            said.append(f"It was judged at most {int(asked.max_age.total_seconds())} seconds ago.")
        for name, allowed in (
            ("a simulated TEE, which protects nothing", asked.accept_simulated),
            ("no TEE at all, which protects nothing", asked.accept_nil),
            ("a TEE open to debugging, which protects nothing", asked.accept_debug),
        ):
            said.append(f"{'UNSAFE: released to' if allowed else 'Never released to'} {name}.")
        if self.require_token:
            said.append("A deploy token is needed beside the certificate.")
        return said


NO_POLICY: Final = ReleasePolicy(expectation=Expectation(), simulated=None, nil=None, debug=None, require_token=False)
NO_RELEASE: Final = replace(NO_POLICY, expectation=Expectation(technologies=frozenset()))  # to nobody


# -- what is there


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFacts:
    """What the registry knows of a user name. `owner` None: nobody has it."""

    owner: Identity | None
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFacts:
    """What the registry knows of a repository. `public` None: there is none."""

    namespace: NamespaceFacts
    public: bool | None
    members: tuple[Member, ...] = ()
    policy: ReleasePolicy | None = None


def role_of(person: Person | None, namespace: NamespaceFacts, members: Iterable[Member] = ()) -> Role | None:
    """The highest role of a person, from the name space down to the repository."""
    if person is None:
        return None
    if namespace.owner is not None and person.identity == namespace.owner and not person.machine:
        return "owner"
    found = [member.role for member in (*namespace.members, *members) if member.matches(person)]
    return max(found, key=ROLES.index, default=None)


# -- the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What can be done: the role it takes, and level and realm of the scope. Reading what is public takes none."""

    role: Role
    level: Level
    realm: Realm

    def require_scope(self, person: Person) -> None:
        """Raises ScopeError. Machines are limited by what they are members of: their tokens have no scopes of ours."""
        if not person.machine and not person.may(self.level, self.realm):
            raise ScopeError(f"Token does not grant {self.level} access to {self.realm}")


READ_USER: Final = Action(role="reader", level="read", realm="users")
WRITE_USER: Final = Action(role="owner", level="write", realm="users")
READ_REPOSITORY: Final = Action(role="reader", level="read", realm="repositories")
WRITE_REPOSITORY: Final = Action(role="owner", level="write", realm="repositories")
PUBLISH: Final = Action(role="publisher", level="write", realm="tags")


def require_person(principal: Principal) -> Person:
    """Raises UntrustedError without an access token."""
    if principal.person is None:
        raise UntrustedError(NO_TOKEN)
    return principal.person


def require_new_user(principal: Principal, subject: str) -> Person:
    """A name may be claimed by whoever has the subject that its record names."""
    person = require_person(principal)
    if person.machine:
        raise ScopeError("A machine has no name of its own")
    WRITE_USER.require_scope(person)
    if person.identity.subject != subject:
        raise ScopeError("OpenID Connect subject mismatch")
    return person


def require_in_namespace(principal: Principal, action: Action, namespace: NamespaceFacts) -> Person:
    """Something about the name space itself. Raises UntrustedError, ScopeError, HiddenError."""
    person = require_person(principal)
    action.require_scope(person)
    _require_role(role_of(person, namespace), action)
    return person


def require_in_repository(principal: Principal, action: Action, facts: RepositoryFacts) -> Person:
    """Something that a repository's members do. Raises UntrustedError, ScopeError, HiddenError, NotFoundError."""
    person = require_person(principal)
    action.require_scope(person)
    role = role_of(person, facts.namespace, facts.members)
    _require_role(role, action)
    if facts.public is None:
        raise NotFoundError(NOT_THERE)
    return person


def require_list(principal: Principal, facts: RepositoryFacts) -> None:
    """The list of tags: everybody's where the repository is public, else its readers'."""
    if not facts.public:
        _require_reader(principal, facts)


def require_tag(
    principal: Principal, facts: RepositoryFacts, tag: str, workload: Digest | None, leave: Leave, at: datetime
) -> None:
    """One tag: as the list, and for a Keep or a deploy token that it is for. `workload` None: there is no such tag."""
    if principal.keep is not None:
        require_release(principal, facts, tag, workload, leave, at)
    elif facts.public or (principal.token is not None and principal.token.covers(tag, workload)):
        return
    else:
        _require_reader(principal, facts)


def require_tree(
    principal: Principal, facts: RepositoryFacts, tag: str, workload: Digest | None, leave: Leave, at: datetime
) -> None:
    """A node of a tree. A deploy token alone opens none."""
    if principal.keep is not None:
        require_release(principal, facts, tag, workload, leave, at)
    elif not facts.public:
        _require_reader(principal, facts)


def require_release(
    principal: Principal, facts: RepositoryFacts, tag: str, workload: Digest | None, leave: Leave, at: datetime
) -> None:
    """A Keep asks: its own workload, under a policy that accepts it, with a token where one is needed.

    Raises OtherWorkloadError, and from there on the Keep may know what its certificate names: RejectedError with
    every reason, DeniedError for the token.
    """
    keep = principal.keep
    if keep is None:
        raise HiddenError
    if keep.workload is None:
        raise OtherWorkloadError("The certificate names no workload, so it opens none")
    if workload is None or keep.workload != workload:
        raise OtherWorkloadError(f"The certificate is for workload {keep.workload}, and opens no other")
    if facts.public and facts.policy is None:
        return  # everybody may read it; what a Keep is stands in its certificate, for those who talk to it
    policy = facts.policy or NO_POLICY
    try:
        accept(keep, policy.effective(leave), at)
    except RejectedError as error:
        raise RejectedError(f"The release policy does not accept this Keep: {error}", reasons=error.reasons) from error
    if policy.require_token and (principal.token is None or not principal.token.covers(tag, workload)):
        raise DeniedError("The release policy asks for a deploy token beside the certificate")


def _require_reader(principal: Principal, facts: RepositoryFacts) -> None:
    if principal.person is None:
        raise HiddenError
    READ_REPOSITORY.require_scope(principal.person)
    if role_of(principal.person, facts.namespace, facts.members) is None:
        raise HiddenError
    if facts.public is None:
        raise NotFoundError(NOT_THERE)


def _require_role(role: Role | None, action: Action) -> None:
    """Who has no role must not learn that others have; who has one learns what it lacks."""
    if role is None:
        raise HiddenError
    if ROLES.index(role) < ROLES.index(action.role):
        raise ScopeError(f"This takes the role {action.role}, yours is {role}")
