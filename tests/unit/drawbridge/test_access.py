"""The table of who may do what, and what each refusal gives away: nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enarx import toml
from enarx.attested.relying import Expectation, Peer, judge_peer
from enarx.attested.result import AttestationResult
from enarx.digest import Digest
from enarx.drawbridge import access
from enarx.drawbridge.access import (
    ANONYMOUS,
    HiddenError,
    Identity,
    Leave,
    Member,
    NamespaceFacts,
    OtherWorkloadError,
    Person,
    Principal,
    ReleasePolicy,
    RepositoryFacts,
    ScopeError,
    TokenGrant,
)
from enarx.errors import DeniedError, MalformedError, NotFoundError, RejectedError, UntrustedError
from enarx.pki.certificate import Certificate
from tests.unit.conftest import Authority

ALL = frozenset(f"manage:drawbridge_{realm}" for realm in ("users", "repositories", "tags"))
WORKLOAD = Digest.of(b"workload")
OWNER = Identity(issuer="corp", subject="owner")
NAMESPACE = NamespaceFacts(owner=OWNER, members=(Member(role="reader", issuer="corp", subject="reader"),))
PRIVATE = RepositoryFacts(
    namespace=NAMESPACE,
    public=False,
    members=(
        Member(role="publisher", issuer="corp", subject="publisher"),
        Member(role="publisher", issuer="ci", claims={"repository": "org/app", "ref": "refs/tags/*"}),
    ),
)
PUBLIC = replace(PRIVATE, public=True)
STRICT = Leave()
MISSING = replace(PRIVATE, public=None, members=())


def person(subject: str, issuer: str = "corp", scopes: frozenset[str] | None = ALL, **claims: str) -> Principal:
    identity = Identity(issuer=issuer, subject=subject)
    return Principal(person=Person(identity=identity, scopes=scopes, claims=claims, machine=issuer == "ci"))


def policy(text: str = "") -> ReleasePolicy:
    document = toml.parse(text, source="policy")
    found = ReleasePolicy.from_table(document)
    document.end()
    return found


@pytest.fixture
def keep(authority: Authority, result: AttestationResult) -> Peer:
    return peer(authority, result)


def peer(authority: Authority, result: AttestationResult, **changes: Any) -> Peer:
    issued = authority.attest(replace(result, **changes))
    anchors = [Certificate.parse(authority.issued.der)]
    everything = Expectation(accept_simulated=True, accept_nil=True, accept_debug=True)
    return judge_peer(issued.chain, anchors, everything, datetime.now(UTC), side="client")


def tree(
    principal: Principal, facts: RepositoryFacts, workload: Digest | None = WORKLOAD, leave: Leave = STRICT
) -> None:
    access.require_tree(principal, facts, "1.0.0", workload, leave, datetime.now(UTC))


def tag(principal: Principal, facts: RepositoryFacts, workload: Digest | None = WORKLOAD) -> None:
    access.require_tag(principal, facts, "1.0.0", workload, Leave(), datetime.now(UTC))


def test_roles_go_from_the_name_space_down() -> None:
    """Owner of the name, members of the name space, members of the repository; everybody else has none."""
    for subject, expected in (("owner", "owner"), ("reader", "reader"), ("publisher", "publisher"), ("other", None)):
        found = access.role_of(person(subject).person, NAMESPACE, PRIVATE.members)
        assert found == expected
    assert access.role_of(person("owner", "elsewhere").person, NAMESPACE) is None, "a subject is one issuer's"
    assert access.role_of(None, NAMESPACE) is None


def test_what_a_role_may() -> None:
    """Readers read, publishers publish, owners write; who lacks a role learns its name, who has none learns nothing."""
    access.require_in_repository(person("reader"), access.READ_REPOSITORY, PRIVATE)
    access.require_in_repository(person("publisher"), access.PUBLISH, PRIVATE)
    access.require_in_repository(person("owner"), access.WRITE_REPOSITORY, PRIVATE)
    with pytest.raises(ScopeError, match="takes the role publisher, yours is reader"):
        access.require_in_repository(person("reader"), access.PUBLISH, PRIVATE)
    with pytest.raises(ScopeError, match="takes the role owner, yours is publisher"):
        access.require_in_repository(person("publisher"), access.WRITE_REPOSITORY, PRIVATE)
    with pytest.raises(HiddenError):
        access.require_in_repository(person("other"), access.READ_REPOSITORY, PRIVATE)
    with pytest.raises(UntrustedError, match="Bearer token header missing"):
        access.require_in_repository(ANONYMOUS, access.READ_REPOSITORY, PUBLIC)


def test_scopes_limit_what_a_role_may() -> None:
    """`read` and `manage` read, `write` and `manage` write; a token without the scope is told so, whoever owns what."""
    readers = frozenset({"read:drawbridge_repositories", "read:drawbridge_tags"})
    access.require_in_repository(person("owner", scopes=readers), access.READ_REPOSITORY, PRIVATE)
    for facts in (PRIVATE, MISSING):
        for subject in ("owner", "other"):
            with pytest.raises(ScopeError, match="Token does not grant write access to tags"):
                access.require_in_repository(person(subject, scopes=readers), access.PUBLISH, facts)
    access.require_in_repository(person("owner", scopes=None), access.PUBLISH, PRIVATE)


def test_a_machine_publishes_where_its_claims_match_and_nowhere_else() -> None:
    """Trusted publishing: the pattern of a member, against the claims of a token of that very issuer."""
    ci = {"repository": "org/app", "ref": "refs/tags/v1.0.0"}
    access.require_in_repository(person("run", "ci", frozenset(), **ci), access.PUBLISH, PRIVATE)
    for wrong in ({"ref": "refs/heads/main"}, {"repository": "org/app2"}, {"repository": "ORG/app"}):
        with pytest.raises(HiddenError):
            access.require_in_repository(person("run", "ci", frozenset(), **(ci | wrong)), access.PUBLISH, PRIVATE)
    with pytest.raises(HiddenError):
        access.require_in_repository(person("run", "corp", ALL, **ci), access.PUBLISH, PRIVATE)
    with pytest.raises(ScopeError, match="A machine has no name of its own"):
        access.require_new_user(person("run", "ci", ALL), "run")


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ({"role": "king", "subject": "s"}, "role: expected one of reader, publisher, owner, found 'king'"),
        ({"role": "reader"}, "expected either subject or claims"),
        ({"role": "reader", "subject": "s", "claims": {"a": "b"}}, "expected either subject or claims"),
        ({"role": "owner", "claims": {"a": "b"}}, "a machine is never an owner"),
        ({"role": "publisher", "claims": {"repository": "*"}}, "matches everybody's machines"),
        ({"role": "publisher", "claims": {"repository": "x" * 501}}, "at most 16 of 500 characters"),
    ],
)
def test_a_member_that_means_nothing_or_everybody_is_refused(member: dict[str, Any], why: str) -> None:
    """A role that does not exist, nobody in particular, a machine as owner, a pattern for everybody."""
    with pytest.raises(MalformedError, match=why):
        Member(issuer="ci", **member)


def test_only_patterns_are_special_in_a_pattern() -> None:
    """`*` and `?`; dots, brackets and line ends are what they are."""
    member = Member(role="publisher", issuer="ci", claims={"ref": "refs/t?gs/v[1].*"})
    for ref, expected in (
        ("refs/tags/v[1].0", True),
        ("refs/tags/v1x0", False),
        ("refs/tags/v[1]x0", False),
        ("refs/tags/v[1].0\nx", True),
    ):
        found = person("run", "ci", frozenset(), ref=ref).person
        assert found is not None
        assert member.matches(found) is expected


def test_what_may_not_be_known_has_one_answer() -> None:
    """Private or missing, list, tag or tree: who is nobody and who has no role hear the same sentence."""
    said = set()
    for principal in (ANONYMOUS, person("other")):
        for facts in (PRIVATE, MISSING, RepositoryFacts(namespace=NamespaceFacts(owner=None), public=None)):
            for ask in (
                access.require_list,
                tag,
                tree,
                lambda p, f: tag(p, f, None),
                lambda p, f: tree(p, f, None),
            ):
                with pytest.raises(HiddenError) as refused:
                    ask(principal, facts)
                said.add(str(refused.value))
    assert said == {access.HIDDEN}
    with pytest.raises(NotFoundError, match="Repository does not exist"):
        access.require_list(person("owner"), MISSING)


def test_what_is_public_everybody_may_read() -> None:
    """Tags, lists and trees; the repository's own record stays its members' (as in the originals)."""
    access.require_list(ANONYMOUS, PUBLIC)
    tag(ANONYMOUS, PUBLIC)
    tree(person("other"), PUBLIC)
    with pytest.raises(HiddenError):
        access.require_in_repository(person("other"), access.READ_REPOSITORY, PUBLIC)


def test_a_certificate_opens_its_own_workload_and_no_other(keep: Peer) -> None:
    """The tree whose root digest it carries, and that tree's tag; of anything else it hears only what it carries."""
    holder = Principal(keep=keep)
    tree(holder, PRIVATE)
    tag(holder, PRIVATE)
    said = set()
    for facts in (PRIVATE, PUBLIC, MISSING):
        for other in (Digest.of(b"another"), None):
            for ask in (tag, tree):
                with pytest.raises(OtherWorkloadError) as refused:
                    ask(holder, facts, other)
                said.add(str(refused.value))
    assert said == {f"The certificate is for workload {WORKLOAD}, and opens no other"}
    with pytest.raises(HiddenError):
        access.require_list(holder, PRIVATE)


def test_simulated_and_unattested_keeps_get_nothing_unless_it_is_said(
    authority: Authority, result: AttestationResult
) -> None:
    """By default only real hardware; the operator or the repository may say otherwise, and the repository counts."""
    simulated = Principal(keep=peer(authority, result, simulated=True))
    nil = Principal(keep=peer(authority, result, technology="nil", measurement=b"", signer=None))
    debug = Principal(keep=peer(authority, result, debug=True))
    for holder, name, why in (
        (simulated, "simulated", "expected real hardware, found a simulated TEE"),
        (nil, "nil", "expected a TEE, found none"),
        (debug, "debug", "open to debugging"),
    ):
        with pytest.raises(RejectedError, match=why):
            tree(holder, PRIVATE)
        tree(holder, PRIVATE, leave=Leave(**{name: True}))
        tree(holder, replace(PRIVATE, policy=policy(f"[unsafe]\naccept_{name} = true\n")))
        with pytest.raises(RejectedError, match=why):
            tree(
                holder,
                replace(PRIVATE, policy=policy(f"[unsafe]\naccept_{name} = false\n")),
                leave=Leave(**{name: True}),
            )
        tree(holder, PUBLIC)


def test_a_release_policy_names_every_reason(keep: Peer) -> None:
    """Technology, measurement, signer, TCB and age are compared, and all that fails is said."""
    strict = policy(
        f"technologies = ['sgx']\nmeasurements = ['{'aa' * 32}']\nsigners = ['{'bb' * 32}']\n"
        "tcb_statuses = ['OutOfDate']\nmax_age_seconds = 60\n"
    )
    with pytest.raises(RejectedError) as refused:
        tree(Principal(keep=keep), replace(PRIVATE, policy=strict))
    said = "\n".join(refused.value.reasons)
    for word in ("technology", "measurement", "signer", "TCB status", "age"):
        assert word in said
    fitting = policy(f"technologies = ['snp']\nmeasurements = ['{'11' * 48}']\nmax_age_seconds = 3600\n")
    tree(Principal(keep=keep), replace(PRIVATE, policy=fitting))
    assert any("Never released to a simulated TEE" in line for line in fitting.sentences(Leave()))


def test_a_token_is_a_second_factor_and_opens_a_tag_alone(keep: Peer) -> None:
    """Alone: its tag and nothing else. With the certificate: what a policy that asks for a token releases."""
    token = TokenGrant(id="t", tag="1.0.0", digest=None)
    tag(Principal(token=token), PRIVATE)
    for ask, holder in (
        (tree, Principal(token=token)),
        (tag, Principal(token=replace(token, tag="2.0.0"))),
        (tag, Principal(token=TokenGrant(id="t", tag=None, digest=Digest.of(b"another")))),
    ):
        with pytest.raises(HiddenError):
            ask(holder, PRIVATE)
    tag(Principal(token=TokenGrant(id="t", tag=None, digest=WORKLOAD)), PRIVATE)
    asking = replace(PRIVATE, policy=policy("require_token = true\n"))
    tree(Principal(keep=keep, token=token), asking)
    with pytest.raises(DeniedError, match="asks for a deploy token"):
        tree(Principal(keep=keep), asking)


def test_a_policy_is_read_strictly() -> None:
    """Unknown keys, and keys that can not mean anything here, are refused by name."""
    for text, why in (
        ("technologys = []", "technologys: unknown key"),
        ("workloads = []", "workloads: has no meaning here"),
        ("technologies = ['sev']", r"technologies\[0\]: expected one of"),
        ("[unsafe]\naccept_all = true", "unsafe.accept_all: unknown key"),
        ("steward = 'ftp://x'", "steward: expected a URL"),
        ("max_age_seconds = 0", "max_age_seconds: expected an integer from 1"),
        ("max_age_seconds = 9000000000000000000", "max_age_seconds: expected an integer from 1 to 3153600000"),
    ):
        with pytest.raises(MalformedError, match=why):
            policy(text)
    assert policy("max_age_seconds = 60").expectation.max_age == timedelta(seconds=60)
