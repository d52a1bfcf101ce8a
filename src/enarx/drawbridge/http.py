"""Drawbridge on the wire: the originals' resources, and ours in the same grammar (protocol.md, 2; flow.md, 5 and 8).

Status codes and sentences are the originals' where they had one: `text/plain`, unless `Accept` names
`application/problem+json`. What they leave open is decided so:

    401  no token, a wrong one, one without the scope, or nothing that the asker may know of: always the same sentence
    403  a genuine certificate that does not open this: it names only what the certificate carries
    404  nothing there, said to who belongs to the name space     409  there already, and not the same
    413, 429, 503  too much, too often, somebody we need is silent

Refusals of access (401, 403) leave a whole number of steps after their request came, so that the time they take does
not tell what was looked at.

A file may arrive in several requests, so that a long upload survives a broken connection. Each is a PUT whose headers
declare the whole file but for Content-Length, and `Content-Range: bytes FIRST-LAST/TOTAL` for what it brings, or
`bytes */TOTAL` to ask. Who asks for a file that a recent version has at the same path is answered 201 and need not send
it. Else the answer is 202 with `Upload-Offset`, the number of bytes that are here to stay, until the last
one is; 409 with the same header where FIRST is not that number. `Enarx-Uploads: resumable` at a tag says that a server
can do this: others would take a part for the whole.

Whatever touches storage or an issuer runs in a thread, but for tags and small nodes on a disk of this machine, asked for
by somebody whose token was verified before or who has none: a few small files, for which a thread would cost more than
they do.
A large upload passes through in pieces and is never held. A Keep whose certificate names a sealing key gets sealed answers
from tree paths, always. `enarx.drawbridge.visit` reads the request, `resources` does what it asks, `answers` shapes
what is said.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Lifespan, Receive, Scope, Send

from enarx.drawbridge import issuing, layout, openapi, routes
from enarx.drawbridge.access import ScopeError
from enarx.drawbridge.answers import OURS, Later
from enarx.drawbridge.auth.oidc import TokenError
from enarx.drawbridge.limits import TooManyError
from enarx.drawbridge.pages import Site
from enarx.drawbridge.pages import routes as page_routes
from enarx.drawbridge.resources import OFFSET, Resources
from enarx.drawbridge.routes import UnsupportedVersionError
from enarx.drawbridge.streams import pour
from enarx.drawbridge.visit import (
    OffsetError,
    Service,
    UnprocessableError,
    UnsupportedTypeError,
    Visit,
    address_of,
    client_of,
)
from enarx.errors import DeniedError, EnarxError, NotFoundError, RejectedError, UntrustedError
from enarx.web import app as web
from enarx.web.counters import MEDIA_TYPE as METRICS
from enarx.web.place import is_loopback

AT_ONCE: Final = 64 * 1024  # bytes of an upload that is taken before it is known who sends it
DOCUMENT_LIMIT: Final = 2 * 1024 * 1024  # bytes of a body that is no file, as the originals' framework


STATUSES: Final[Mapping[type[EnarxError], int]] = {
    ScopeError: 401,
    UnsupportedVersionError: 501,
    UnprocessableError: 422,
    UnsupportedTypeError: 415,
    TooManyError: 429,
}


def build(service: Service, *, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The application."""
    found: list[BaseRoute] = [
        Route("/health", _Health()),
        Route("/ready", _ready(service), methods=["GET"]),
        Route("/metrics", _metrics(service), methods=["GET"]),
        Route(
            "/openapi.json", lambda _: JSONResponse(openapi.document(service.origin()), headers=OURS), methods=["GET"]
        ),
    ]
    found += page_routes(
        Site(
            registry=service.registry,
            origin=service.origin,
            leave=service.leave,
            steward=service.steward,
            throttle=lambda request: service.requests.take(address_of(request, client_of(request), service.proxies)),
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
        return JSONResponse({"ready": not late, "without_revocation_list": late}, status, OURS)

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


class _Api:
    """Everything under /api. An ASGI application of its own, for the grammar is not Starlette's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._resources = Resources(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.monotonic()
        try:
            response = await self._answer(Request(scope, receive))
        except (UntrustedError, DeniedError, RejectedError):
            await asyncio.sleep(until_next(time.monotonic() - begun, self._service.refusal_step))
            raise
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        target = routes.parse(_raw_path(request.scope))
        if request.method not in target.methods:
            allowed = ", ".join(target.methods)
            raise HTTPException(405, f"Method not allowed for {target.kind} endpoint", {"Allow": allowed})
        _require_plain(request)
        visit = Visit(self._service, request, target)
        if target.kind == "tree" and request.method == "PUT":
            return await (self._part if "content-range" in request.headers else self._upload)(request, visit)
        body = await request.body() if web.has_body(request.scope) else b""
        if visit.is_quick():
            answer = self._resources.quick_answer(visit, body)
            return await run_in_threadpool(answer.begin) if isinstance(answer, Later) else answer
        return await run_in_threadpool(self._resources.answer, visit, body)

    async def _upload(self, request: Request, visit: Visit) -> Response:
        if visit.length is not None and visit.length <= AT_ONCE and "expect" not in request.headers:
            return await run_in_threadpool(self._resources.upload_at_once, visit, await request.body())
        upload, length = await run_in_threadpool(self._resources.begin_upload, visit)
        done = False
        try:
            await pour(request.stream(), upload.write, upload.look)
            response = await run_in_threadpool(self._resources.finish_upload, visit, upload)
            done = True
            return response
        finally:
            if not done:
                self._resources.abandon_upload(visit, upload, length)

    async def _part(self, request: Request, visit: Visit) -> Response:
        """Whatever of a part arrives is kept, however the request ends."""
        part = await run_in_threadpool(self._resources.begin_part, visit)
        if part.writer is not None:
            try:
                await pour(request.stream(), part.writer.write)
            finally:
                await run_in_threadpool(part.writer.keep)
                self._service.uploads.give_back(visit.identity, part.end - part.writer.offset)
        return await run_in_threadpool(self._resources.finish_part, visit, part)


def _require_plain(request: Request) -> None:
    """Digests and lengths are of what is stored, so a body comes as it is. Raises 415 (RFC 9110, 8.4)."""
    coding = request.headers.get("content-encoding")
    if coding is not None and coding.strip().lower() not in {"", "identity"} and request.method in {"PUT", "POST"}:
        raise HTTPException(
            415, f"Content-Encoding: expected none, found {coding[:40]!r}", {"Accept-Encoding": "identity"}
        )


def until_next(elapsed: float, step: float) -> float:
    """How long until a whole number of steps is over: what was looked up on the way to *no* must not be measurable."""
    return step - elapsed % step if step else 0.0
