"""Drawbridge on the wire: the originals' resources, and ours in the same grammar (protocol.md, 2; flow.md, 5 and 8).

Status codes and sentences are the originals' where they had one: `text/plain`, unless `Accept` names
`application/problem+json`. What they leave open is decided so:

    401  no token, a wrong one, one without the scope, or nothing that the asker may know of: always the same sentence
    403  a genuine certificate that does not open this: it names only what the certificate carries
    404  nothing there, said to who belongs to the name space     409  there already, and not the same
    413, 429, 503  too much, too often, somebody we need is silent

A file may arrive in several requests, so that a long upload survives a broken connection. Each is a PUT whose headers
declare the whole file but for Content-Length, and `Content-Range: bytes FIRST-LAST/TOTAL` for what it brings, or
`bytes */TOTAL` to ask. Who asks for a file that a recent version has at the same path is answered 201 and need not send
it. Else the answer is 202 with `Upload-Offset`, the number of bytes that are here to stay, until the last
one is; 409 with the same header where FIRST is not that number. `Enarx-Uploads: resumable` at a tag says that a server
can do this: others would take a part for the whole.

Whatever touches storage or an issuer runs in a thread, but for tags on a disk of this machine, asked for by somebody
whose token was verified before or who has none: a few small files, for which a thread would cost more than they do.
An upload passes through in pieces and is never held. A Keep
whose certificate names a sealing key gets sealed answers from tree paths, always. Downloads that are not sealed have
an ETag and ranges. What publishers uploaded is never run in a browser: `Content-Security-Policy: sandbox`.
"""

import asyncio
import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan, Receive, Scope, Send

from enarx.attested import sealing
from enarx.attested.relying import Peer, accept, judge_peer
from enarx.digest import Digest, Digests
from enarx.drawbridge import access, canonical, issuing, layout, openapi, routes
from enarx.drawbridge.access import HiddenError, Identity, Leave, Person, Principal, RepositoryFacts, ScopeError
from enarx.drawbridge.auth.development import DevelopmentIssuer
from enarx.drawbridge.auth.mtls import ANY_KEEP, Keeps, Network, forwarded_chain, is_proxy
from enarx.drawbridge.auth.oidc import Issuers, TokenError
from enarx.drawbridge.governance import TOKEN_PREFIX, Governance
from enarx.drawbridge.limits import Buckets, TooManyError, address_identity
from enarx.drawbridge.metrics import Metrics, MetricsFor
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.pages import Site
from enarx.drawbridge.pages import routes as page_routes
from enarx.drawbridge.parts import PartWriter
from enarx.drawbridge.registry import (
    JSON_TYPE,
    MAX_DOCUMENT,
    NodeUpload,
    Outcome,
    Registry,
    RepositoryRecord,
    ResumableUpload,
    Stored,
    StoredNode,
    StoredTag,
    UserRecord,
)
from enarx.drawbridge.routes import Target, UnsupportedVersionError
from enarx.drawbridge.tag import SigningKey
from enarx.drawbridge.tree import Meta
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
from enarx.web import app as web
from enarx.web.audit import AuditLog
from enarx.web.client import is_loopback
from enarx.web.counters import MEDIA_TYPE as METRICS

T = TypeVar("T")

DOCUMENT_LIMIT: Final = 2 * 1024 * 1024  # bytes of a body that is no file, as the originals' framework
SMALL: Final = 256 * 1024  # bytes of an answer that is not streamed
BATCH: Final = 1 << 20  # bytes of an upload that are handed to a thread at once
YANKED: Final = "Enarx-Yanked"  # header of a tag that was taken back; its value is the reason, percent-encoded
WORKLOAD: Final = "Enarx-Workload"  # header of a tag: its workload digest, also where its publisher did not send one
UPLOADS: Final = "Enarx-Uploads"  # header of a tag: files may come in parts
OFFSET: Final = "Upload-Offset"  # header: how many bytes of a file have arrived
MAX_FOUND: Final = 100

_IN_HEADERS: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # what stands for itself there
_UPLOADED: Final = {"Content-Security-Policy": "sandbox; default-src 'none'", "Referrer-Policy": "no-referrer"}
_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")
_OURS: Final = {**_UPLOADED, "Cache-Control": "no-store"}


class UnprocessableError(MalformedError):
    """JSON that is not the record it should be: 422."""


class OffsetError(ConflictError):
    """A part that does not begin where the last one ended."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"Upload: {offset} bytes have arrived, go on from there")
        self.offset = offset


class UnsupportedTypeError(MalformedError):
    """Not JSON by its media type: 415."""


STATUSES: Final[Mapping[type[EnarxError], int]] = {
    ScopeError: 401,
    UnsupportedVersionError: 501,
    UnprocessableError: 422,
    UnsupportedTypeError: 415,
    TooManyError: 429,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the routes need. `issuers`, `origin` and `development` are called, for they may only be known once we listen."""

    registry: Registry
    issuers: Callable[[], Issuers]
    origin: Callable[[], str]
    keeps: Keeps
    audit: AuditLog
    requests: Buckets
    uploads: Buckets
    upload_bytes: int
    proxies: Sequence[Network] = ()
    metrics: Metrics = field(default_factory=Metrics)
    metrics_for: MetricsFor = "loopback"
    steward: str | None = None
    leave: Leave = field(default_factory=Leave)
    development: Callable[[], DevelopmentIssuer] | None = None
    near: bool = False  # what is stored is on a disk of this machine
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def build(service: Service, *, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The application."""
    found: list[BaseRoute] = [
        Route("/health", _Health()),
        Route("/ready", _ready(service), methods=["GET"]),
        Route("/metrics", _metrics(service), methods=["GET"]),
        Route(
            "/openapi.json", lambda _: JSONResponse(openapi.document(service.origin()), headers=_OURS), methods=["GET"]
        ),
    ]
    found += page_routes(
        Site(
            registry=service.registry,
            origin=service.origin,
            leave=service.leave,
            steward=service.steward,
            throttle=lambda request: service.requests.take(_address(request, _client(request), service.proxies)),
        )
    )
    if service.development is not None:
        found += issuing.routes(service.development, service.now)
    return web.build(
        [*found, Route("/{path:path}", _Api(service))],
        name="drawbridge",
        body_limit=lambda scope: _body_limit(scope, service.upload_bytes),
        errors="text",
        statuses=STATUSES,
        error_headers=_error_headers,
        lifespan=lifespan,
    )


class _Health:
    """Any method: 200 and nothing."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)


def _ready(service: Service) -> Callable[[Request], Response]:
    """Whether requests can be answered: storage is there, and the lists of every Steward are current."""

    def ready(_: Request) -> Response:
        now = service.now()
        service.issuers()
        service.registry.store.stat(layout.USERS / "0")
        late = [source.name for source in service.keeps.sources if source.publishes and not source.is_current(now)]
        status = 503 if late else 200
        return JSONResponse({"ready": not late, "without_revocation_list": late}, status, _OURS)

    return ready


def _metrics(service: Service) -> Callable[[Request], Response]:
    def metrics(request: Request) -> Response:
        who = request.client.host if request.client is not None else ""
        if service.metrics_for == "nobody" or (service.metrics_for == "loopback" and not is_loopback(who)):
            raise NotFoundError("Route `/metrics` not found")
        sources, now = service.keeps.sources, service.now()
        current = sum(source.is_current(now) for source in sources)
        return PlainTextResponse(service.metrics.text(lists=current, stewards=len(sources)), media_type=METRICS)

    return metrics


def _body_limit(scope: Scope, upload_bytes: int) -> int:
    return upload_bytes if "/tree" in _raw_path(scope) else DOCUMENT_LIMIT


def _error_headers(error: EnarxError) -> Mapping[str, str]:
    """RFC 6750, 3 and RFC 6585, 4."""
    if isinstance(error, TokenError):
        return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{error.why}"'}
    if isinstance(error, ScopeError):
        return {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    if isinstance(error, UntrustedError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, OffsetError):
        return {OFFSET: str(error.offset)}
    if isinstance(error, TooManyError):
        return {"Retry-After": str(error.seconds)}
    return {}


def _raw_path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")


# -- who is asking


class Visit:
    """One request: what it names, and who makes it, found out when that is needed and not before."""

    def __init__(self, service: Service, request: Request, target: Target) -> None:
        self.service = service
        self.target = target
        self.method = request.method
        self.headers = request.headers
        self.query = request.query_params
        self.at = service.now()
        self.id = web.request_id(request)
        self.length = web.content_length(request.scope)
        client = _client(request)
        self._address = _address(request, client, service.proxies)
        shown: tuple[bytes, ...] = getattr(request.state, "peer_chain", ())
        self._chain = shown or forwarded_chain(request.scope["headers"], client, service.proxies)
        self._keep: Peer | None = None
        self._judged = False
        self._person: Person | None = None
        self._recalled: Person | None = None

    @property
    def keep(self) -> Peer | None:
        """The Keep whose certificate was shown. Raises what is wrong with it."""
        if not self._judged:
            self._keep = self.service.keeps.judge(self._chain, self.at)
            self._judged = True
        return self._keep

    @property
    def fingerprint(self) -> str | None:
        return None if self.keep is None else self.keep.certificate.sha256.hex()

    def person(self) -> Person | None:
        """Who an access token speaks for; None without one, or with a deploy token."""
        if self._person is None:
            token = self._bearer()
            if token is not None and not token.startswith(TOKEN_PREFIX):
                self._person = self._recalled or self.service.issuers().authenticate(token, self.at)
        return self._person

    def is_quick(self) -> bool:
        """Whether this is answered from a few small files on a disk of this machine, without asking anybody."""
        if not self.service.near or self.target.kind != "tag" or self.method not in {"GET", "HEAD"} or self._chain:
            return False
        try:
            token = self._bearer()
            if token is None:
                return True
            self._recalled = self.service.issuers().recall(token, self.at)
        except EnarxError:
            return False  # told in its turn
        return self._recalled is not None

    def principal(self) -> Principal:
        """All that was proven. Raises TokenError, HiddenError, UntrustedError, UnavailableError."""
        token = self._bearer()
        if token is not None and token.startswith(TOKEN_PREFIX):
            user, repository = self.target.user, self.target.repository
            if user is None or repository is None:
                raise HiddenError
            grant = Governance(self.service.registry).grant(user, repository, token, self.at, self.fingerprint)
            return Principal(keep=self.keep, token=grant)
        return Principal(person=self.person(), keep=self.keep)

    def throttle(self) -> None:
        """Count the request for whoever makes it, as far as that is known. Raises TooManyError."""
        self.service.requests.take(self.identity)

    @property
    def identity(self) -> str:
        if self._person is not None:
            return f"person:{self.by}"
        if self._keep is not None:
            return f"keep:{self._keep.certificate.sha256.hex()}"
        return self._address

    @property
    def by(self) -> str:
        """As whom the registry and the audit log know the asker."""
        if self._person is not None:
            return f"{self._person.identity.issuer} {self._person.identity.subject}"
        if self._keep is not None:
            return f"keep {self._keep.certificate.sha256.hex()}"
        return "anonymous"

    def tell(self, event: str, **fields: object) -> None:
        """One line in the audit log. No token can be in it: none is known by its text beyond this object."""
        target = self.target
        named = {
            "user": target.user,
            "repository": target.repository,
            "tag": target.tag,
            "path": str(target.path) or None,
            "item": target.item or None,
        }
        self.service.audit.write(
            event,
            self.at,
            request=self.id,
            kind=target.kind,
            method=self.method,
            by=self.by,
            address=self._address.removeprefix("address:"),
            **{name: str(value) for name, value in named.items() if value is not None},
            **fields,
        )

    def _bearer(self) -> str | None:
        """The token of the Authorization header. Raises MalformedError for a header that is another thing."""
        value = self.headers.get("authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise MalformedError("Authorization: expected Bearer and a token")
        return token.strip()


def _client(request: Request) -> str | None:
    return request.client.host if request.client else None


def _address(request: Request, client: str | None, proxies: Sequence[Network]) -> str:
    """Whose address counts: the connection's, or what a trusted proxy says it is."""
    if is_proxy(client, proxies):
        forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
        return address_identity(forwarded or client)
    return address_identity(client)


# -- routes


class _Api:
    """Everything under /api. An ASGI application of its own, for the grammar is not Starlette's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._resources = Resources(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        target = routes.parse(_raw_path(request.scope))
        if request.method not in target.methods:
            allowed = ", ".join(target.methods)
            raise HTTPException(405, f"Method not allowed for {target.kind} endpoint", {"Allow": allowed})
        visit = Visit(self._service, request, target)
        if target.kind == "tree" and request.method == "PUT":
            return await (self._part if "content-range" in request.headers else self._upload)(request, visit)
        body = await request.body() if web.has_body(request.scope) else b""
        if visit.is_quick():
            return self._resources.answer(visit, body)
        return await run_in_threadpool(self._resources.answer, visit, body)

    async def _upload(self, request: Request, visit: Visit) -> Response:
        upload, length = await run_in_threadpool(self._resources.begin_upload, visit)
        done = False
        try:
            await _pour(request, upload.write)
            response = await run_in_threadpool(self._resources.finish_upload, visit, upload)
            done = True
            return response
        finally:
            if not done:  # refused, broken off or cancelled: nothing of it stays
                upload.abort()
                self._service.uploads.give_back(visit.identity, length)

    async def _part(self, request: Request, visit: Visit) -> Response:
        """Whatever of a part arrives is kept, however the request ends."""
        part = await run_in_threadpool(self._resources.begin_part, visit)
        if part.writer is not None:
            try:
                await _pour(request, part.writer.write)
            finally:
                await run_in_threadpool(part.writer.keep)
                self._service.uploads.give_back(visit.identity, part.end - part.writer.offset)
        return await run_in_threadpool(self._resources.finish_part, visit, part)


async def _pour(request: Request, write: Callable[[bytes], None]) -> None:
    """The body, batch by batch: one is hashed and written in a thread while the next one arrives, and never two."""
    writing: asyncio.Task[None] | None = None
    try:
        async for batch in _batches(request):
            if writing is not None:
                await writing
            writing = asyncio.create_task(run_in_threadpool(_write_all, write, batch))
        if writing is not None:
            await writing
    finally:
        if writing is not None:  # broken off or cancelled: whoever cleans up must be alone
            await _settled(writing)


def _write_all(write: Callable[[bytes], None], pieces: list[bytes]) -> None:
    for piece in pieces:
        write(piece)


async def _batches(request: Request) -> AsyncIterator[list[bytes]]:
    """The body in pieces that are worth a thread."""
    held: list[bytes] = []
    size = 0
    async for piece in request.stream():
        held.append(piece)
        size += len(piece)
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


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
        self._verbs: Mapping[tuple[str, str], Callable[[Visit, bytes], Response]] = {
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
        verb = self._verbs[visit.target.kind, "GET" if visit.method == "HEAD" else visit.method]
        return self._told(visit, lambda: verb(visit, body))

    def _told(self, visit: Visit, act: Callable[[], T]) -> T:
        try:
            self._identify(visit)
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
        user = _user(visit)
        access.require_in_namespace(visit.principal(), access.READ_USER, self._governance.namespace(user))
        return _stored(visit, self._registry.user_body(user))

    def _put_user(self, visit: Visit, body: bytes) -> Response:
        user = _user(visit)
        access.require_person(visit.principal())
        meta = _declared(visit)
        record: UserRecord = _record(meta, body, UserRecord.parse, "user record")
        person = access.require_new_user(visit.principal(), record.subject)
        try:
            outcome = self._registry.put_user(user, body, meta, by=visit.by, only_one=person.one_name)
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
        user = _user(visit)
        namespace = self._governance.namespace(user)
        person = visit.person()
        found = []
        for name in self._registry.repositories(user):
            facts = self._governance.facts(user, name)
            role = access.role_of(person, facts.namespace, facts.members)
            readable = (
                role is not None and person is not None and (person.machine or person.may("read", "repositories"))
            )
            if facts.public or readable:
                found.append({"name": str(name), "public": bool(facts.public), "role": role})
        if not found and access.role_of(person, namespace) is None:
            raise HiddenError
        return _json(visit, {"user": str(user), "repositories": found})

    # -- repositories

    def _get_repository(self, visit: Visit, _: bytes) -> Response:
        user, repository = _repository(visit)
        access.require_in_repository(
            visit.principal(), access.READ_REPOSITORY, self._governance.facts(user, repository)
        )
        return _stored(visit, self._registry.repository_body(user, repository))

    def _put_repository(self, visit: Visit, body: bytes) -> Response:
        user, repository = _repository(visit)
        access.require_person(visit.principal())
        meta = _declared(visit)
        _record(meta, body, RepositoryRecord.parse, "repository record")
        access.require_in_namespace(visit.principal(), access.WRITE_REPOSITORY, self._governance.namespace(user))
        return self._put(visit, self._registry.put_repository(user, repository, body, meta, by=visit.by))

    def _search(self, visit: Visit, _: bytes) -> Response:
        """Public repositories, and those the asker may read, whose name holds the words; in the order of names."""
        limit = _whole(visit.query.get("limit"), "limit", MAX_FOUND, MAX_FOUND)
        words, after = visit.query.get("q", ""), visit.query.get("after", "")
        found, last = self._governance.search(visit.person(), words, after=after, limit=limit)
        shown = [
            {"user": str(user), "name": str(name), "public": self._governance.is_public(user, name)}
            for user, name in found
        ]
        return _json(visit, {"repositories": shown, "after": last})

    # -- tags

    def _get_tags(self, visit: Visit, _: bytes) -> Response:
        user, repository = _repository(visit)
        if not self._governance.is_public(user, repository):
            access.require_list(visit.principal(), self._governance.facts(user, repository))
        body = canonical.encode([str(tag) for tag in self._registry.tags(user, repository)])
        return _body(visit, body, Meta.of(body, JSON_TYPE))

    def _get_tag(self, visit: Visit, _: bytes) -> Response:
        (user, repository), tag = _repository(visit), _tag(visit)
        facts = None
        if visit.keep is not None or not self._governance.is_public(user, repository):
            facts = self._governance.facts(user, repository)
            principal = visit.principal()
            workload = self._workload(principal, facts, user, repository, tag)
            access.require_tag(principal, facts, str(tag), workload, self._service.leave, visit.at)
        with _nothing_there():
            found = self._registry.tag(user, repository, tag)
        policy = self._governance.policy(user, repository) if facts is None else facts.policy
        return _stored(visit, found.stored, self._tag_headers(user, repository, tag, found, policy))

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
        workload = found.entry.sha256 or self._registry.workload(user, repository, tag)
        if workload is not None:
            headers[WORKLOAD] = str(workload)
        steward = (policy.steward if policy else None) or self._service.steward
        if steward is not None:
            headers["Link"] = f'<{steward}>; rel="steward"'
        if found.yanked is not None:
            headers[YANKED] = quote(found.yanked or "no reason is given", safe=_IN_HEADERS)
        return headers

    def _put_tag(self, visit: Visit, body: bytes) -> Response:
        (user, repository), tag = _repository(visit), _tag(visit)
        access.require_person(visit.principal())
        meta = _declared(visit)
        facts = self._governance.facts(user, repository)
        access.require_in_repository(visit.principal(), access.PUBLISH, facts)
        response = self._put(visit, self._registry.put_tag(user, repository, tag, body, meta, by=visit.by))
        response.headers[UPLOADS] = "resumable"
        return response

    def _workload(
        self, principal: Principal, facts: RepositoryFacts, user: UserName, repository: RepositoryName, tag: TagName
    ) -> Digest | None:
        """What only Keeps and deploy tokens are for: of persons it is not asked."""
        if facts.public is None or (principal.keep is None and principal.token is None):
            return None
        try:
            return self._registry.workload(user, repository, tag)
        except NotFoundError:
            return None

    # -- trees

    def _get_node(self, visit: Visit, _: bytes) -> Response:
        (user, repository), tag, path = _repository(visit), _tag(visit), visit.target.path
        if visit.keep is None and self._governance.is_public(user, repository):
            with _nothing_there():
                return _node(visit, self._registry.node(user, repository, tag, path))
        facts = self._governance.facts(user, repository)
        principal = visit.principal()
        workload = self._workload(principal, facts, user, repository, tag)
        access.require_tree(principal, facts, str(tag), workload, self._service.leave, visit.at)
        with _nothing_there():
            node = self._registry.node(user, repository, tag, path)
        if principal.keep is None or workload is None:
            return _node(visit, node)
        return self._release(visit, principal, facts, node, workload)

    def _release(
        self, visit: Visit, principal: Principal, facts: RepositoryFacts, node: StoredNode, workload: Digest
    ) -> Response:
        """To a Keep that may have it: sealed to its key; without one, only what everybody may read."""
        user, repository = _repository(visit)
        keep = principal.keep
        if keep is None or (keep.sealing_key is None and not facts.public):
            raise DeniedError("The certificate names no sealing key, so it may read public trees only")
        if principal.token is not None:
            self._governance.spend(user, repository, principal.token.id, keep.certificate.sha256.hex())
        if visit.target.path.is_root and visit.method == "GET":
            self._service.metrics.add("drawbridge_releases_total", technology=keep.technology)
            visit.tell("released", workload=str(workload), technology=keep.technology, simulated=keep.simulated)
        return _node(visit, node) if keep.sealing_key is None else _sealed(visit, node, keep, workload)

    def begin_upload(self, visit: Visit) -> tuple[NodeUpload, int]:
        """What can be told before the body comes. The length is taken from the day's allowance."""
        return self._told(visit, lambda: self._begin_upload(visit))

    def _begin_upload(self, visit: Visit) -> tuple[NodeUpload, int]:
        (user, repository), tag = _repository(visit), _tag(visit)
        access.require_person(visit.principal())
        meta = _declared(visit)
        access.require_in_repository(visit.principal(), access.PUBLISH, self._governance.facts(user, repository))
        upload = self._registry.put_node(user, repository, tag, visit.target.path, meta, by=visit.by)
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
        (user, repository), tag = _repository(visit), _tag(visit)
        access.require_person(visit.principal())
        start, total = _content_range(visit)
        meta = replace(_declared(visit), length=total)
        if meta.is_directory:
            raise MalformedError("Content-Range: expected a listing to come as a whole")
        access.require_in_repository(visit.principal(), access.PUBLISH, self._governance.facts(user, repository))
        if total > self._service.upload_bytes:
            raise HTTPException(413, f"The body may have at most {self._service.upload_bytes} bytes")
        upload = self._registry.resume_node(user, repository, tag, visit.target.path, meta, by=visit.by)
        if start is None:
            known = self._registry.take_over(user, repository, tag, visit.target.path, meta, by=visit.by)
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
        return Response(status_code=202, headers={**_OURS, OFFSET: str(part.upload.offset)})

    def finish_upload(self, visit: Visit, upload: NodeUpload) -> Response:
        return self._put(visit, upload.finish())

    def _put(self, visit: Visit, outcome: Outcome) -> Response:
        if outcome is Outcome.CREATED:
            visit.tell("created")
        return Response(status_code=201 if outcome is Outcome.CREATED else 200, headers=_OURS)

    # -- members

    def _namespace_or_facts(self, visit: Visit, read: access.Action, write: access.Action | None = None) -> None:
        """Members of a name space are its owners' business, those of a repository its owners'."""
        user, repository = _user(visit), visit.target.repository
        action = write or read
        if repository is None:
            access.require_in_namespace(visit.principal(), action, self._governance.namespace(user))
        else:
            access.require_in_repository(visit.principal(), action, self._governance.facts(user, repository))

    def _get_members(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER)
        user = _user(visit)
        owner = self._governance.owner(user)
        members = self._governance.members(user, visit.target.repository)
        shown = [{"name": label, **member.to_json()} for label, member in members.items()]
        return _json(visit, {"owner": _identity(owner), "members": shown})

    def _get_member(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER)
        members = self._governance.members(_user(visit), visit.target.repository)
        if visit.target.item not in members:
            raise NotFoundError(f"member {visit.target.item}: there is none")
        return _json(visit, {"name": visit.target.item, **members[visit.target.item].to_json()})

    def _put_member(self, visit: Visit, body: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER, access.WRITE_USER)
        _require_json(visit)
        person = access.require_person(visit.principal())
        member = self._governance.read_member(body, person.identity.issuer)
        return self._member(visit, member)

    def _delete_member(self, visit: Visit, _: bytes) -> Response:
        self._namespace_or_facts(visit, access.READ_USER, access.WRITE_USER)
        self._member(visit, None)
        return Response(status_code=204, headers=_OURS)

    def _member(self, visit: Visit, member: access.Member | None) -> Response:
        target = visit.target
        new = self._governance.set_member(_user(visit), target.repository, target.item, member, by=visit.by)
        visit.tell(
            "member-removed" if member is None else "member-set", **({} if member is None else {"role": member.role})
        )
        return Response(status_code=201 if new else 200, headers=_OURS)

    # -- release policy

    def _require(self, visit: Visit, action: access.Action) -> tuple[UserName, RepositoryName, RepositoryFacts]:
        user, repository = _repository(visit)
        facts = self._governance.facts(user, repository)
        access.require_in_repository(visit.principal(), action, facts)
        return user, repository, facts

    def _get_policy(self, visit: Visit, _: bytes) -> Response:
        user, repository, facts = self._require(visit, access.READ_REPOSITORY)
        values = self._governance.policy_values(user, repository)
        said = (facts.policy or access.NO_POLICY).sentences(self._service.leave)
        return _json(visit, {"policy": values, "sentences": said})

    def _put_policy(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.WRITE_REPOSITORY)
        values = _policy_body(visit, body)
        new = self._governance.set_policy(user, repository, values, by=visit.by)
        visit.tell("policy-set")
        return Response(status_code=201 if new else 200, headers=_OURS)

    def _delete_policy(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.WRITE_REPOSITORY)
        self._governance.set_policy(user, repository, None, by=visit.by)
        visit.tell("policy-removed")
        return Response(status_code=204, headers=_OURS)

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
        return _json(
            visit, {"accepted": not reasons, "reasons": reasons, "keep": None if peer is None else peer.to_json()}
        )

    # -- deploy tokens

    def _get_tokens(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        return _json(visit, {"tokens": [token.to_json() for token in self._governance.tokens(user, repository)]})

    def _make_token(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.READ_REPOSITORY)
        _require_json(visit)
        token, secret = self._governance.make_token(user, repository, body, visit.at, by=visit.by)
        visit.tell("token-made", id=token.id)
        return _json(visit, {**token.to_json(), "token": secret}, 201)

    def _get_token(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        return _json(visit, self._governance.token(user, repository, visit.target.item).to_json())

    def _delete_token(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        self._governance.revoke_token(user, repository, visit.target.item, by=visit.by)
        visit.tell("token-revoked")
        return Response(status_code=204, headers=_OURS)

    # -- who has to sign

    def _get_signers(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.READ_REPOSITORY)
        keys = self._registry.signers(user, repository)
        shown = [{"name": key.name, "id": key.key_id, "key": key.public_pem().decode()} for key in keys]
        return _json(visit, {"signers": shown})

    def _put_signers(self, visit: Visit, body: bytes) -> Response:
        """`{"NAME": "PEM or JWK", …}`: from now on one of these has to have signed every new tag."""
        user, repository, _facts = self._require(visit, access.WRITE_REPOSITORY)
        _require_json(visit)
        values = canonical.members(canonical.parse(body, "signers"), "signers")
        keys = tuple(_signer(name, value) for name, value in values.items())
        self._registry.set_signers(user, repository, keys, by=visit.by)
        visit.tell("signers-set")
        return Response(headers=_OURS)

    # -- what happened

    def _get_yank(self, visit: Visit, _: bytes) -> Response:
        (user, repository), tag = _repository(visit), _tag(visit)
        if not self._governance.is_public(user, repository):
            access.require_list(visit.principal(), self._governance.facts(user, repository))
        return _json(visit, {"yanked": self._registry.tag(user, repository, tag).yanked})

    def _put_yank(self, visit: Visit, body: bytes) -> Response:
        user, repository, _ = self._require(visit, access.PUBLISH)
        _require_json(visit)
        values = canonical.members(canonical.parse(body, "yank"), "yank")
        canonical.only(values, ("reason",), "yank")
        reason = canonical.member(values, "reason", str, "yank") if "reason" in values else ""
        outcome = self._registry.yank(user, repository, _tag(visit), reason, by=visit.by)
        visit.tell("yanked")
        return Response(status_code=201 if outcome is Outcome.CREATED else 200, headers=_OURS)

    def _delete_yank(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.PUBLISH)
        self._registry.unyank(user, repository, _tag(visit), by=visit.by)
        visit.tell("unyanked")
        return Response(status_code=204, headers=_OURS)

    def _get_log(self, visit: Visit, _: bytes) -> Response:
        user, repository, _facts = self._require(visit, access.READ_REPOSITORY)
        return _json(visit, {"changes": [change.to_json() for change in self._registry.history(user, repository)]})


# -- what a request says


def _user(visit: Visit) -> UserName:
    if visit.target.user is None:
        raise NotFoundError("Route not found")
    return visit.target.user


def _repository(visit: Visit) -> tuple[UserName, RepositoryName]:
    if visit.target.repository is None:
        raise NotFoundError("Route not found")
    return _user(visit), visit.target.repository


def _tag(visit: Visit) -> TagName:
    if visit.target.tag is None:
        raise NotFoundError("Route not found")
    return visit.target.tag


def _declared(visit: Visit) -> Meta:
    """What the headers of a PUT say about its body. Raises MalformedError for one that is missing."""
    if visit.length is None:
        raise MalformedError("Content-Length header missing")
    media_type = visit.headers.get("content-type")
    if media_type is None:
        raise MalformedError("Content-Type header missing")
    digests = Digests.parse_header(",".join(visit.headers.getlist("content-digest")))
    return Meta(digests=digests, length=visit.length, media_type=media_type)


def _content_range(visit: Visit) -> tuple[int | None, int]:
    """Where a part begins, None for a question, and the length of the whole (RFC 9110, 14.4)."""
    text = visit.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise MalformedError(
            f"Content-Range: expected `bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`, found {text[:80]!r}"
        )
    if found[1] is None:
        return None, int(found[3])
    start, last, total = (int(part) for part in found.groups())
    if not start <= last < total or visit.length != last - start + 1:
        raise MalformedError(f"Content-Range: expected a range of Content-Length in TOTAL, found {text[:80]!r}")
    return start, total


def _record(meta: Meta, body: bytes, parse: Callable[[bytes], Any], what: str) -> Any:  # Any: what `parse` gives
    """A record of the originals: 415 for another type, 400 for what is no JSON, 422 for another shape."""
    essence = meta.essence
    if essence != JSON_TYPE and not (essence.startswith("application/") and essence.endswith("+json")):
        raise UnsupportedTypeError(f"Expected request with `Content-Type: {JSON_TYPE}`, found {essence[:100]}")
    canonical.parse(body, what)
    try:
        return parse(body)
    except MalformedError as error:
        raise UnprocessableError(str(error)) from error


def _require_json(visit: Visit) -> None:
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise UnsupportedTypeError(f"Expected request with `Content-Type: {JSON_TYPE}`, found {kind[:100]!r}")


def _policy_body(visit: Visit, body: bytes) -> dict[str, Any]:  # Any: parsed JSON or TOML; the policy reads it strictly
    """A policy in JSON or TOML."""
    if len(body) > MAX_DOCUMENT:
        raise MalformedError(f"policy: expected at most {MAX_DOCUMENT} bytes, found {len(body)}")
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        return canonical.members(canonical.parse(body, "policy"), "policy")
    if kind != "application/toml":
        raise UnsupportedTypeError(f"Expected {JSON_TYPE} or application/toml, found {kind[:100]!r}")
    try:
        values = tomllib.loads(body.decode())
        return canonical.members(canonical.parse(json.dumps(values).encode(), "policy"), "policy")
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(f"policy: not TOML of strings, numbers, lists and tables: {error}") from error


def _signer(name: str, value: object) -> SigningKey:
    if not routes.LABEL.fullmatch(name) or not isinstance(value, str):
        raise MalformedError(
            f"signers: {name[:80]!r}: expected a name of letters, digits and . _ -, and a key as a string"
        )
    return SigningKey.parse(name, value.encode())


def _whole(text: str | None, name: str, default: int, maximum: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= maximum):
        raise MalformedError(f"{name}: expected a number from 1 to {maximum}, found {text[:40]!r}")
    return int(text)


class _nothing_there:  # noqa: N801 - reads as a clause: `with _nothing_there():`
    """What is not there is told as the originals do: in one sentence, whatever is missing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotFoundError):
            raise NotFoundError(access.NOT_THERE) from error


# -- answers


def _json(visit: Visit, value: object, status: int = 200) -> Response:
    del visit
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, _OURS, media_type=JSON_TYPE)


def _stored(visit: Visit, stored: Stored, headers: Mapping[str, str] | None = None) -> Response:
    return _body(visit, stored.body, stored.meta, headers)


def _body(visit: Visit, body: bytes, meta: Meta, headers: Mapping[str, str] | None = None) -> Response:
    named = {**_headers(meta, Digest.of(body)), **(headers or {})}
    if _is_known(visit, named["ETag"]):
        return Response(status_code=304, headers=named)
    response = Response(b"" if visit.method == "HEAD" else body, headers=named)
    response.headers["Content-Type"] = meta.media_type
    response.headers["Content-Length"] = str(len(body))
    return response


def _headers(meta: Meta, sha256: Digest) -> dict[str, str]:
    digests = meta.digests or Digests([sha256])
    return {
        **_UPLOADED,
        "Content-Digest": digests.header(),
        "ETag": f'"{sha256.hex}"',
        "Cache-Control": "no-cache",
        "Vary": "Authorization",
    }


def _node(visit: Visit, node: StoredNode) -> Response:
    """A node as it is, or a range of it. The first piece is read before anything is said, so damage is an error."""
    length, headers = node.meta.length, _headers(node.meta, node.sha256)
    headers["Accept-Ranges"] = "bytes"
    if _is_known(visit, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = _range(visit, length, headers["ETag"])
    start, stop = wanted or (0, length)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{length}"
    headers |= {"Content-Type": node.meta.media_type, "Content-Length": str(stop - start)}
    status = 200 if wanted is None else 206
    if visit.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return _streamed(node.read(start, stop), status, headers)


def _sealed(visit: Visit, node: StoredNode, keep: Peer, workload: Digest) -> Response:
    """A node that only this Keep can open: no ranges, nothing to keep."""
    key = keep.sealing_key
    if key is None:
        raise DeniedError("The certificate names no sealing key")
    meta = node.meta.encode()
    length = sealing.sealed_length(len(meta), node.meta.length)
    headers = {**_OURS, "Content-Type": sealing.MEDIA_TYPE, "Content-Length": str(length)}
    body = sealing.seal(
        key, leaf=keep.certificate.der, workload=workload, path=str(visit.target.path), meta=meta, body=node.read()
    )
    if visit.method == "HEAD":
        return Response(headers=headers)
    return _streamed(body, 200, headers)


def _streamed(pieces: Iterator[bytes], status: int, headers: Mapping[str, str]) -> Response:
    """What is small is read at once: going from thread to thread would cost more than reading it."""
    if int(headers["Content-Length"]) <= SMALL:
        return Response(b"".join(pieces), status, headers)
    first = next(pieces, b"")
    return StreamingResponse(_ahead(chain((first,), pieces)), status, headers)


async def _ahead(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, some for each turn of a thread: those that come next are read and compared while these are sent."""
    reading = asyncio.create_task(run_in_threadpool(_some, pieces))
    try:
        while some := await reading:
            reading = asyncio.create_task(run_in_threadpool(_some, pieces))
            for piece in some:
                yield piece
    finally:  # at the end, or when the reader has gone: nobody else may close what a thread still reads
        await _settled(reading)


def _some(pieces: Iterator[bytes]) -> list[bytes]:
    """The next ones, about a batch of them; none at the end. When one of them is wrong, none of these is given."""
    some: list[bytes] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= BATCH:
            break
    return some


async def _settled(task: "asyncio.Task[Any]") -> None:  # Any: whatever it would have given
    """Wait for the end of a thread's work, whatever it is: raised already, or beside what is raised."""
    await asyncio.wait([task])
    _ = task.cancelled() or task.exception()


def _is_known(visit: Visit, etag: str) -> bool:
    """RFC 9110, 13.1.2."""
    wanted = visit.headers.get("if-none-match")
    if wanted is None:
        return False
    return wanted.strip() == "*" or any(item.strip().removeprefix("W/") == etag for item in wanted.split(","))


def _range(visit: Visit, length: int, etag: str) -> tuple[int, int] | None:
    """The one range that is asked for, from and to before; None for all. Raises 416 for one outside.

    Several ranges, and what can not be read, are answered with the whole (RFC 9110, 14.2).
    """
    text = visit.headers.get("range", "").strip()
    condition = visit.headers.get("if-range")
    if not text.startswith("bytes=") or "," in text or (condition is not None and condition.strip() != etag):
        return None
    first, dash, last = text.removeprefix("bytes=").strip().partition("-")
    if not dash or not all(
        part == "" or (part.isascii() and part.isdigit() and len(part) < 20) for part in (first, last)
    ):
        return None
    if first:
        start, stop = int(first), min(int(last) + 1 if last else length, length)
        if last and int(last) < start:
            return None
    elif last:
        start, stop = max(0, length - int(last)), length
    else:
        return None
    if start >= stop:
        raise HTTPException(416, f"Range not satisfiable: {length} bytes", {"Content-Range": f"bytes */{length}"})
    return start, stop


def _identity(identity: Identity | None) -> dict[str, str] | None:
    return None if identity is None else {"issuer": identity.issuer, "subject": identity.subject}
