"""What each resource of the registry does: ask `access`, call the registry, shape the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import Response

from enarx.attested.relying import Peer, accept, judge_peer
from enarx.digest import Digest
from enarx.drawbridge import access, canonical
from enarx.drawbridge.access import HiddenError, Identity, Principal, RepositoryFacts
from enarx.drawbridge.answers import NOT_AS_EXPECTED, OURS, Later, as_body, as_json, as_node, as_sealed, as_stored
from enarx.drawbridge.auth.mtls import ANY_KEEP
from enarx.drawbridge.governance import Governance
from enarx.drawbridge.limits import TooManyError
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.parts import PartWriter
from enarx.drawbridge.registry import (
    JSON_TYPE,
    NodeUpload,
    Outcome,
    RepositoryRecord,
    ResumableUpload,
    StoredNode,
    StoredTag,
    UserRecord,
)
from enarx.drawbridge.tree import Meta
from enarx.drawbridge.visit import (
    OffsetError,
    Service,
    Visit,
    content_range,
    declared,
    nothing_there,
    policy_body,
    read_record,
    repository_of,
    require_json,
    signer,
    tag_of,
    user_of,
    whole,
)
from enarx.errors import (
    ConflictError,
    DeniedError,
    EnarxError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UntrustedError,
)
from enarx.pki.certificate import certificates_from_pem

T = TypeVar("T")

YANKED: Final = "Enarx-Yanked"  # header of a tag that was taken back; its value is the reason, percent-encoded
WORKLOAD: Final = "Enarx-Workload"  # header of a tag: its workload digest, also where its publisher did not send one
UPLOADS: Final = "Enarx-Uploads"  # header of a tag: files may come in parts
OFFSET: Final = "Upload-Offset"  # header: how many bytes of a file have arrived
MAX_FOUND: Final = 100
_IN_HEADERS: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what stands for itself there


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a file on its way in; `writer` None: only a question. `known`: the file was here already."""

    upload: ResumableUpload
    writer: PartWriter | None
    end: int
    known: Outcome | None = None


class Resources:
    """What each resource does: ask `access`, call the registry, shape the answer. Runs in threads."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = service.registry
        self._governance = Governance(service.registry)
        self._verbs: Mapping[tuple[str, str], Callable[[Visit, bytes], Response | Later]] = {
            ("user", "GET"): self._get_user,
            ("user", "PUT"): self._put_user,
            ("repository", "GET"): self._get_repository,
            ("repository", "PUT"): self._put_repository,
            ("tags", "GET"): self._get_tags,
            ("tag", "GET"): self._get_tag,
            ("tag", "PUT"): self._put_tag,
            ("tree", "GET"): self._get_node,
            ("search", "GET"): self._search,
            ("repositories", "GET"): self._get_repositories,
            ("members", "GET"): self._get_members,
            ("member", "GET"): self._get_member,
            ("member", "PUT"): self._put_member,
            ("member", "DELETE"): self._delete_member,
            ("policy", "GET"): self._get_policy,
            ("policy", "PUT"): self._put_policy,
            ("policy", "DELETE"): self._delete_policy,
            ("policy-test", "POST"): self._test_policy,
            ("tokens", "GET"): self._get_tokens,
            ("tokens", "POST"): self._make_token,
            ("token", "GET"): self._get_token,
            ("token", "DELETE"): self._delete_token,
            ("yank", "GET"): self._get_yank,
            ("yank", "PUT"): self._put_yank,
            ("yank", "DELETE"): self._delete_yank,
            ("log", "GET"): self._get_log,
            ("signers", "GET"): self._get_signers,
            ("signers", "PUT"): self._put_signers,
        }

    def answer(self, visit: Visit, body: bytes) -> Response:
        """The answer of any resource but an upload. Refusals of access are told to the audit log."""
        found = self.quick_answer(visit, body)
        return found.begin() if isinstance(found, Later) else found

    def quick_answer(self, visit: Visit, body: bytes) -> Response | Later:
        """The same, but for large files without their beginning."""
        verb = self._verbs[visit.target.kind, "GET" if visit.method == "HEAD" else visit.method]
        return self._told(visit, lambda: verb(visit, body))

    def _told(self, visit: Visit, act: Callable[[], T]) -> T:
        try:
            self._identify(visit)
            self._require_expected(visit)
            return act()
        except (UntrustedError, DeniedError, RejectedError) as error:
            visit.tell("refused", why=str(error))
            self._service.metrics.add("drawbridge_refusals_total")
            raise self._as_the_older_generation(visit, error) from error

    def _identify(self, visit: Visit) -> None:
        """Who is asking is found out first where it will be needed, so that what they ask counts for them."""
        try:
            _ = visit.keep
            if visit.method not in {"GET", "HEAD"} or visit.target.kind not in {"tags", "tag", "tree", "search"}:
                visit.person()
        finally:
            visit.throttle()

    def _require_expected(self, visit: Visit) -> None:
        """A change that is wanted only of what is there, or only of what is not (RFC 9110, 13.1). Raises 412.

        What is there is looked up as whoever asks, so this tells nobody more than a GET would.
        """
        if visit.method in {"GET", "HEAD"} or not {"if-match", "if-none-match"} & set(visit.headers):
            return
        look = self._verbs.get((visit.target.kind, "GET"))
        try:
            found = None if look is None else look(visit, b"")
        except NotFoundError:
            found = None
        unchanged = isinstance(found, Response) and found.status_code == 304
        unwanted = unchanged or visit.headers.get("if-none-match", "").strip() == "*"
        if unwanted if found is not None else "if-match" in visit.headers:
            raise HTTPException(412, NOT_AS_EXPECTED)

    def _as_the_older_generation(self, visit: Visit, error: EnarxError) -> EnarxError:
        """Drawbridge 0.2.2 told a subject that it has no user, or another one (protocol.md, 2.12)."""
        try:
            person = visit.person()
        except EnarxError:
            return error
        if not isinstance(error, HiddenError) or person is None or not person.one_name:
            return error
        names = self._governance.names_of(person.identity)
        if not names:
            return UntrustedError(f"User with OpenID Connect subject `{person.identity.subject}` not found")
        return UntrustedError(f"User `{names[0]}` is not `{visit.target.user}`")

    # -- users

    def _get_user(self, visit: Visit, _: bytes) -> Response:
        user = user_of(visit)
        access.require_in_namespace(visit.principal(), access.READ_USER, self._governance.namespace(user))
        return as_stored(visit, self._registry.spaces.user_body(user))

    def _put_user(self, visit: Visit, body: bytes) -> Response:
        user = user_of(visit)
        access.require_person(visit.principal())
        meta = declared(visit)
        record: UserRecord = read_record(meta, body, UserRecord.parse, "user record")
        person = access.require_new_user(visit.principal(), record.subject)
        try:
            outcome = self._registry.spaces.put_user(user, body, meta, by=visit.by, only_one=person.one_name)
        except ConflictError as error:
            if "already associated" in str(error):
                raise ConflictError(
                    f"User already associated with OpenID Connect subject `{record.subject}`"
                ) from error
            raise
        if outcome is Outcome.EXISTS and self._governance.owner(user) != person.identity:
            raise ConflictError("Already exists")  # the same subject, but another issuer's
        return self._put(visit, outcome)

    def _get_repositories(self, visit: Visit, _: bytes) -> Response:
        user = user_of(visit)
        namespace = self._governance.namespace(user)
        person = visit.person()
        found = []
        for name in self._registry.spaces.repositories(user):
            facts = self._governance.facts(user, name)
            role = access.role_of(person, facts.namespace, facts.members)
            readable = (
                role is not None and person is not None and (person.machine or person.may("read", "repositories"))
            )
            if facts.public or readable:
                found.append({"name": str(name), "public": bool(facts.public), "role": role})
        if not found and access.role_of(person, namespace) is None:
            raise HiddenError
        return as_json(visit, {"user": str(user), "repositories": found})

    # -- repositories

    def _get_repository(self, visit: Visit, _: bytes) -> Response:
        user, repository = repository_of(visit)
        access.require_in_repository(
            visit.principal(), access.READ_REPOSITORY, self._governance.facts(user, repository)
        )
        return as_stored(visit, self._registry.spaces.repository_body(user, repository))

    def _put_repository(self, visit: Visit, body: bytes) -> Response:
        user, repository = repository_of(visit)
        access.require_person(visit.principal())
        meta = declared(visit)
        read_record(meta, body, RepositoryRecord.parse, "repository record")
        access.require_in_namespace(visit.principal(), access.WRITE_REPOSITORY, self._governance.namespace(user))
        return self._put(visit, self._registry.spaces.put_repository(user, repository, body, meta, by=visit.by))

    def _search(self, visit: Visit, _: bytes) -> Response:
        """Public repositories, and those the asker may read, whose name holds the words; in the order of names."""
        limit = whole(visit.query.get("limit"), "limit", MAX_FOUND, MAX_FOUND)
        words, after = visit.query.get("q", ""), visit.query.get("after", "")
        found, last = self._governance.search(visit.person(), words, after=after, limit=limit)
        shown = [
            {"user": str(user), "name": str(name), "public": self._governance.is_public(user, name), "role": role}
            for (user, name), role in self._governance.roles(visit.person(), found).items()
        ]
        return as_json(visit, {"repositories": shown, "after": last})

    # -- tags

    def _get_tags(self, visit: Visit, _: bytes) -> Response:
        user, repository = repository_of(visit)
        if not self._governance.is_public(user, repository):
            access.require_list(visit.principal(), self._governance.facts(user, repository))
        body = canonical.encode([str(tag) for tag in self._registry.versions.names(user, repository)])
        return as_body(visit, body, Meta.of(body, JSON_TYPE))

    def _get_tag(self, visit: Visit, _: bytes) -> Response:
        (user, repository), tag = repository_of(visit), tag_of(visit)
        facts = None
        if visit.keep is not None or not self._governance.is_public(user, repository):
            facts = self._governance.facts(user, repository)
            principal = visit.principal()
            workload = self._workload(principal, facts, user, repository, tag)
            access.require_tag(principal, facts, str(tag), workload, self._service.leave, visit.at)
        with nothing_there():
            found = self._registry.versions.find(user, repository, tag)
        policy = self._governance.policy(user, repository) if facts is None else facts.policy
        return as_stored(visit, found.stored, self._tag_headers(user, repository, tag, found, policy))

    def _tag_headers(
        self,
        user: UserName,
        repository: RepositoryName,
        tag: TagName,
        found: StoredTag,
        policy: access.ReleasePolicy | None,
    ) -> dict[str, str]:
        """What is said of a version beside its entry."""
        headers = {UPLOADS: "resumable"}
        workload = found.entry.sha256 or self._registry.trees.workload(user, repository, tag)
        if workload is not None:
            headers[WORKLOAD] = str(workload)
        steward = (policy.steward if policy else None) or self._service.steward
        if steward is not None:
            headers["Link"] = f'<{steward}>; rel="steward"'
        if found.yanked is not None:
            headers[YANKED] = quote(found.yanked or "no reason is given", safe=_IN_HEADERS)
        return headers

    def _put_tag(self, visit: Visit, body: bytes) -> Response:
        (user, repository), tag = repository_of(visit), tag_of(visit)
        access.require_person(visit.principal())
        meta = declared(visit)
        facts = self._governance.facts(user, repository)
        access.require_in_repository(visit.principal(), access.PUBLISH, facts)
        response = self._put(visit, self._registry.versions.put(user, repository, tag, body, meta, by=visit.by))
        response.headers[UPLOADS] = "resumable"
        return response

    def _workload(
        self, principal: Principal, facts: RepositoryFacts, user: UserName, repository: RepositoryName, tag: TagName
    ) -> Digest | None:
        """What only Keeps and deploy tokens are for: of persons it is not asked."""
        if facts.public is None or (principal.keep is None and principal.token is None):
            return None
        try:
            return self._registry.trees.workload(user, repository, tag)
        except NotFoundError:
            return None

    # -- trees

    def _get_node(self, visit: Visit, _: bytes) -> Response | Later:
        (user, repository), tag, path = repository_of(visit), tag_of(visit), visit.target.path
        if visit.keep is None and self._governance.is_public(user, repository):
            with nothing_there():
                return as_node(visit, self._registry.trees.find(user, repository, tag, path))
        facts = self._governance.facts(user, repository)
        principal = visit.principal()
        workload = self._workload(principal, facts, user, repository, tag)
        access.require_tree(principal, facts, str(tag), workload, self._service.leave, visit.at)
        with nothing_there():
            node = self._registry.trees.find(user, repository, tag, path)
        if principal.keep is None or workload is None:
            return as_node(visit, node)
        return self._release(visit, principal, facts, node, workload)

    def _release(
        self, visit: Visit, principal: Principal, facts: RepositoryFacts, node: StoredNode, workload: Digest
    ) -> Response | Later:
        """To a Keep that may have it: sealed to its key; without one, only what everybody may read."""
        user, repository = repository_of(visit)
        keep = principal.keep
        if keep is None or (keep.sealing_key is None and not facts.public):
            raise DeniedError("The certificate names no sealing key, so it may read public trees only")
        if principal.token is not None:
            self._governance.spend(user, repository, principal.token.id, keep.certificate.sha256.hex())
        if visit.target.path.is_root and visit.method == "GET":
            self._service.metrics.add("drawbridge_releases_total", technology=keep.technology)
            visit.tell("released", workload=str(workload), technology=keep.technology, simulated=keep.simulated)
        return as_node(visit, node) if keep.sealing_key is None else as_sealed(visit, node, keep, workload)

    def begin_upload(self, visit: Visit) -> tuple[NodeUpload, int]:
        """What can be told before the body comes. The length is taken from the day's allowance."""
        return self._told(visit, lambda: self._begin_upload(visit))

    def _begin_upload(self, visit: Visit) -> tuple[NodeUpload, int]:
        (user, repository), tag = repository_of(visit), tag_of(visit)
        access.require_person(visit.principal())
        meta = declared(visit)
        access.require_in_repository(visit.principal(), access.PUBLISH, self._governance.facts(user, repository))
        upload = self._registry.trees.put(user, repository, tag, visit.target.path, meta, by=visit.by)
        try:
            self._service.uploads.take(visit.identity, meta.length)
        except TooManyError:
            upload.abort()
            raise
        return upload, meta.length

    def begin_part(self, visit: Visit) -> "Part":
        """As `begin_upload`, for one part of a file, or the question how much has arrived."""
        found: Part = self._told(visit, lambda: self._begin_part(visit))
        return found

    def _begin_part(self, visit: Visit) -> "Part":
        (user, repository), tag = repository_of(visit), tag_of(visit)
        access.require_person(visit.principal())
        start, total = content_range(visit)
        meta = replace(declared(visit), length=total)
        if meta.is_directory:
            raise MalformedError("Content-Range: expected a listing to come as a whole")
        access.require_in_repository(visit.principal(), access.PUBLISH, self._governance.facts(user, repository))
        if total > self._service.upload_bytes:
            raise HTTPException(413, f"The body may have at most {self._service.upload_bytes} bytes")
        upload = self._registry.trees.resume(user, repository, tag, visit.target.path, meta, by=visit.by)
        if start is None:
            known = self._registry.trees.take_over(user, repository, tag, visit.target.path, meta, by=visit.by)
            return Part(upload=upload, writer=None, end=0, known=known)
        size = visit.length or 0
        if start != upload.offset:
            raise OffsetError(upload.offset)
        self._service.uploads.take(visit.identity, size)
        return Part(upload=upload, writer=upload.append(start, size), end=start + size)

    def finish_part(self, visit: Visit, part: "Part") -> Response:
        if part.known is not None:
            return self._put(visit, part.known)
        if part.upload.is_complete:
            return self._put(visit, part.upload.finish())
        return Response(status_code=202, headers={**OURS, OFFSET: str(part.upload.offset)})

    def upload_at_once(self, visit: Visit, body: bytes) -> Response:
        """A small file whose body is here already: going from thread to thread would cost more than storing it."""
        upload, length = self.begin_upload(visit)
        done = False
        try:
            upload.write(body)
            response = self.finish_upload(visit, upload)
            done = True
            return response
        finally:
            if not done:
                self.abandon_upload(visit, upload, length)

    def abandon_upload(self, visit: Visit, upload: NodeUpload, length: int) -> None:
        """Refused, broken off or cancelled: nothing of it stays, and it does not count."""
        upload.abort()
        self._service.uploads.give_back(visit.identity, length)

    def finish_upload(self, visit: Visit, upload: NodeUpload) -> Response:
        return self._put(visit, upload.finish())

    def _put(self, visit: Visit, outcome: Outcome) -> Response:
        if outcome is Outcome.CREATED:
            visit.tell("created")
        return Response(status_code=201 if outcome is Outcome.CREATED else 200, headers=OURS)

    # -- members

    def _namespace_or_facts(self, visit: Visit, read: access.Action, write: access.Action | None = None) -> None:
        """Members of a name space are its owners' business, those of a repository its owners'."""
        user, repository = user_of(visit), visit.target.repository
        action = write or read
        if repository is None:
            access.require_in_namespace(visit.principal(), action, self._governance.namespace(user))
        else:
            access.require_in_repository(visit.principal(), action, self._governance.facts(user, repository))

    def _get_members(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER)
        user = user_of(visit)
        owner = self._governance.owner(user)
        members = self._governance.members(user, visit.target.repository)
        shown = [{"name": label, **member.to_json()} for label, member in members.items()]
        return as_json(visit, {"owner": _identity(owner), "members": shown})

    def _get_member(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER)
        members = self._governance.members(user_of(visit), visit.target.repository)
        if visit.target.item not in members:
            raise NotFoundError(f"member {visit.target.item}: there is none")
        return as_json(visit, {"name": visit.target.item, **members[visit.target.item].to_json()})

    def _put_member(self, visit: Visit, body: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER, access.WRITE_USER)
        require_json(visit)
        person = access.require_person(visit.principal())
        member = self._governance.read_member(body, person.identity.issuer)
        self._service.issuers().require_known(member)
        return self._member(visit, member)

    def _delete_member(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER, access.WRITE_USER)
        self._member(visit, None)
        return Response(status_code=204, headers=OURS)

    def _member(self, visit: Visit, member: access.Member | None) -> Response:
        target = visit.target
        new = self._governance.set_member(user_of(visit), target.repository, target.item, member, by=visit.by)
        visit.tell(
            "member-removed" if member is None else "member-set", **({} if member is None else {"role": member.role})
        )
        return Response(status_code=201 if new else 200, headers=OURS)

    # -- release policy

    def _require(self, visit: Visit, action: access.Action) -> tuple[UserName, RepositoryName, RepositoryFacts]:
        user, repository = repository_of(visit)
        facts = self._governance.facts(user, repository)
        access.require_in_repository(visit.principal(), action, facts)
        return user, repository, facts

    def _get_policy(self, visit: Visit, _: bytes) -> Response:
        user, repository, facts = self._require(visit, access.READ_REPOSITORY)
        values = self._governance.policy_values(user, repository)
        said = (facts.policy or access.NO_POLICY).sentences(self._service.leave)
        return as_json(visit, {"policy": values, "sentences": said})

    def _put_policy(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.WRITE_REPOSITORY)
        values = policy_body(visit, body)
        new = self._governance.set_policy(user, repository, values, by=visit.by)
        visit.tell("policy-set")
        return Response(status_code=201 if new else 200, headers=OURS)

    def _delete_policy(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.WRITE_REPOSITORY)
        self._governance.set_policy(user, repository, None, by=visit.by)
        visit.tell("policy-removed")
        return Response(status_code=204, headers=OURS)

    def _test_policy(self, visit: Visit, body: bytes) -> Response:
        """A Keep's certificate chain, PEM: whether the policy would release to it, and every reason why not."""
        _, _, facts = self._require(visit, access.READ_REPOSITORY)
        shown = [certificate.der for certificate in certificates_from_pem(body, "certificates")]
        policy = facts.policy or access.NO_POLICY
        reasons: list[str] = []
        peer: Peer | None = None
        try:
            peer = judge_peer(shown, self._service.keeps.anchors, ANY_KEEP, visit.at, side="client")
            accept(peer, policy.effective(self._service.leave), visit.at)
        except (UntrustedError, MalformedError) as error:
            reasons = [str(error)]
        except RejectedError as error:
            reasons = list(error.reasons)
        return as_json(
            visit, {"accepted": not reasons, "reasons": reasons, "keep": None if peer is None else peer.to_json()}
        )

    # -- deploy tokens

    def _get_tokens(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        return as_json(visit, {"tokens": [token.to_json() for token in self._governance.tokens(user, repository)]})

    def _make_token(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.READ_REPOSITORY)
        require_json(visit)
        token, secret = self._governance.make_token(user, repository, body, visit.at, by=visit.by)
        visit.tell("token-made", id=token.id)
        return as_json(visit, {**token.to_json(), "token": secret}, 201)

    def _get_token(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        return as_json(visit, self._governance.token(user, repository, visit.target.item).to_json())

    def _delete_token(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        self._governance.revoke_token(user, repository, visit.target.item, by=visit.by)
        visit.tell("token-revoked")
        return Response(status_code=204, headers=OURS)

    # -- who has to sign

    def _get_signers(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.READ_REPOSITORY)
        keys = self._registry.versions.signers(user, repository)
        shown = [{"name": key.name, "id": key.key_id, "key": key.public_pem().decode()} for key in keys]
        return as_json(visit, {"signers": shown})

    def _put_signers(self, visit: Visit, body: bytes) -> Response:
        """`{"NAME": "PEM or JWK", …}`: from now on one of these has to have signed every new tag."""
        user, repository, _facts = self._require(visit, access.WRITE_REPOSITORY)
        require_json(visit)
        values = canonical.members(canonical.parse(body, "signers"), "signers")
        keys = tuple(signer(name, value) for name, value in values.items())
        self._registry.versions.set_signers(user, repository, keys, by=visit.by)
        visit.tell("signers-set")
        return Response(headers=OURS)

    # -- what happened

    def _get_yank(self, visit: Visit, _: bytes) -> Response:
        (user, repository), tag = repository_of(visit), tag_of(visit)
        if not self._governance.is_public(user, repository):
            access.require_list(visit.principal(), self._governance.facts(user, repository))
        return as_json(visit, {"yanked": self._registry.versions.find(user, repository, tag).yanked})

    def _put_yank(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.PUBLISH)
        require_json(visit)
        values = canonical.members(canonical.parse(body, "yank"), "yank")
        canonical.only(values, ("reason",), "yank")
        reason = canonical.member(values, "reason", str, "yank") if "reason" in values else ""
        outcome = self._registry.versions.yank(user, repository, tag_of(visit), reason, by=visit.by)
        visit.tell("yanked")
        return Response(status_code=201 if outcome is Outcome.CREATED else 200, headers=OURS)

    def _delete_yank(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        self._registry.versions.unyank(user, repository, tag_of(visit), by=visit.by)
        visit.tell("unyanked")
        return Response(status_code=204, headers=OURS)

    def _get_log(self, visit: Visit, _: bytes) -> Response:
        user, repository = user_of(visit), visit.target.repository
        self._namespace_or_facts(visit, access.READ_USER if repository is None else access.READ_REPOSITORY)
        changes = self._registry.spaces.history(user, repository)
        return as_json(visit, {"changes": [change.to_json() for change in changes]})


def _identity(identity: Identity | None) -> dict[str, str] | None:
    return None if identity is None else {"issuer": identity.issuer, "subject": identity.subject}
