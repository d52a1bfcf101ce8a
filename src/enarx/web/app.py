"""The stack around the routes of a service: request id, body limit, errors, health, log without secrets.

`build` takes routes and gives an ASGI application. Handlers raise our errors and nothing else;
the table in `enarx.web.problems` answers them. What is no error of ours is logged with its type and
place, and answered 500 with the request id and no detail. A request's body is bounded here, by its
Content-Length before a byte is read and by count afterwards; how slowly it may come is the
server's business. The log has method, path, status, sizes and times: no query, no headers, no body.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Final, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from enarx.errors import EnarxError
from enarx.web.log import Log
from enarx.web.problems import MEDIA_TYPE, Problem, http_problem, problem_of

ErrorForm = Literal["problem", "text"]
BodyLimit = int | Callable[[Scope], int]
Exact = tuple[str, str]  # a method, and a path without parameters
Handler = Callable[[Request], Awaitable[Response]]

HEALTH_PATH: Final = "/health"


def build(
    routes: Sequence[BaseRoute],
    *,
    name: str,
    body_limit: BodyLimit,
    errors: ErrorForm = "problem",
    statuses: Mapping[type[EnarxError], int] | None = None,
    error_headers: Callable[[EnarxError], Mapping[str, str]] | None = None,
    health: Callable[[], None] | None = None,
    lifespan: Lifespan[Starlette] | None = None,
) -> Starlette:
    """The application `name`, which is also the name of its log.

    `body_limit` is in bytes, or a function of the ASGI scope. `errors` is the form of refusals when the client does
    not ask for one. `statuses` replaces status codes of the table, the most special type first; `error_headers` says
    what stands beside an error, such as a challenge. `health` raises one of our errors when the service can not do its
    work; `GET /health` answers 200 or 503.
    """
    answer = _Answers(errors, statuses or {}, error_headers or (lambda _: {}))
    log = Log(name)
    return Starlette(
        routes=[*routes, Route(HEALTH_PATH, _health(health), methods=["GET"])],
        middleware=[
            Middleware(_Envelope, body_limit=body_limit, answer=answer, log=log, handlers=_handlers(routes)),
        ],
        exception_handlers={EnarxError: answer.error, HTTPException: answer.http_error},
        lifespan=lifespan,
    )


def _handlers(routes: Sequence[BaseRoute]) -> Mapping[Exact, Handler]:
    """Of each route whose path is that and no pattern, its handler; the first counts, as in the list itself."""
    found: dict[Exact, Handler] = {}
    for route in routes:
        if not isinstance(route, Route) or route.param_convertors:
            break  # which of a pattern and what stands behind it applies, the list decides
        if iscoroutinefunction(route.endpoint):
            for method in route.methods or ():
                found.setdefault((method, route.path), route.endpoint)
    return found


def request_id(request: Request) -> str:
    """The id under which this request is logged; it is in the answer as `X-Request-Id`."""
    return str(request.state.request_id)


async def body(request: Request) -> bytes:
    """The whole body, within the limit of the service. `Request.body` gives the same through two generators, at a price."""
    pieces = []
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


class _Answers:
    """Errors to responses, in the form that this service and this client agree on."""

    def __init__(
        self,
        form: ErrorForm,
        statuses: Mapping[type[EnarxError], int],
        headers: Callable[[EnarxError], Mapping[str, str]],
    ) -> None:
        self._form = form
        self._statuses = statuses
        self._headers = headers

    async def error(self, request: Request, error: Exception) -> Response:
        status = next((self._statuses[kind] for kind in type(error).__mro__ if kind in self._statuses), None)
        headers = self._headers(error) if isinstance(error, EnarxError) else {}
        return self.response(request.scope, problem_of(error, status=status, instance=request_id(request)), headers)

    async def http_error(self, request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):  # registered for no other type
            raise TypeError(type(error).__name__)
        standard = HTTPStatus(error.status_code).phrase
        detail = "" if error.detail == standard else error.detail
        problem = http_problem(error.status_code, detail, instance=request_id(request))
        return self.response(request.scope, problem, error.headers)

    def response(self, scope: Scope, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
        if self._form == "problem" or _accepts_problems(scope):
            return Response(problem.body(), problem.status, headers, media_type=MEDIA_TYPE)
        return Response(problem.text(), problem.status, headers, media_type="text/plain")


class _Envelope:
    """One request, from its first byte to its line in the log."""

    def __init__(
        self, app: ASGIApp, *, body_limit: BodyLimit, answer: _Answers, log: Log, handlers: Mapping[Exact, Handler]
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._body_limit = body_limit
        self._answer = answer
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._limit(scope), secrets.token_hex(8))
        scope.setdefault("state", {})["request_id"] = exchange.id
        try:
            declared = content_length(scope)
            if declared is not None and declared > exchange.limit:
                problem = http_problem(413, f"at most {exchange.limit} bytes, found {declared}", instance=exchange.id)
                await self._answer.response(scope, problem)(scope, receive, exchange.send)
            else:
                await self._handle(scope, exchange)
        except ClientDisconnect:
            exchange.status = exchange.status or 499  # nobody is there to be told
        except Exception as error:  # noqa: BLE001 - the edge of the house: a bug becomes a 500 without detail
            self._log.bug("bug", error, request=exchange.id)
            if not exchange.status:
                problem = http_problem(500, instance=exchange.id)
                await self._answer.response(scope, problem)(scope, receive, exchange.send)
            # else: the answer is cut off; the server sees that it was not completed and closes the connection
        finally:
            if scope["path"] != HEALTH_PATH:
                self._log.info("request", **exchange.fields(scope))

    async def _handle(self, scope: Scope, exchange: "_Exchange") -> None:
        """By the handler of this very path, without looking through the routes for it; else by the routes."""
        handler = self._handlers.get((scope["method"], scope["path"])) if not scope.get("root_path") else None
        if handler is None:
            await self._app(scope, exchange.receive, exchange.send)
            return
        request = Request(scope, exchange.receive)
        try:
            response = await handler(request)
        except EnarxError as error:
            response = await self._answer.error(request, error)
        except HTTPException as error:
            response = await self._answer.http_error(request, error)
        await response(scope, exchange.receive, exchange.send)

    def _limit(self, scope: Scope) -> int:
        return self._body_limit if isinstance(self._body_limit, int) else self._body_limit(scope)


class _Exchange:
    """What passes between a handler and the server, counted."""

    __slots__ = ("_receive", "_send", "_started", "id", "limit", "received", "sent", "status")

    def __init__(self, receive: Receive, send: Send, limit: int, identifier: str) -> None:
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self.limit = limit
        self.id = identifier
        self.status = 0
        self.received = 0
        self.sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self.limit:
                raise HTTPException(413, f"at most {self.limit} bytes")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    def fields(self, scope: Scope) -> dict[str, str | int | float | None]:
        peer = scope.get("state", {}).get("peer_cert")
        client = scope.get("client")
        return {
            "request": self.id,
            "client": client[0] if client else None,
            "peer": sha256(peer).hexdigest()[:16] if peer else None,
            "method": scope["method"],
            "path": scope["path"],
            "status": self.status,
            "received": self.received,
            "sent": self.sent,
            "ms": round((time.perf_counter() - self._started) * 1000, 2),
        }


def content_length(scope: Scope) -> int | None:
    """The declared length of the body, or None. The server has already refused what is not a number."""
    value = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    return int(value) if value is not None and value.isdigit() else None


def has_body(scope: Scope) -> bool:
    """Whether a body follows the headers of this request."""
    return bool(content_length(scope)) or any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _accepts_problems(scope: Scope) -> bool:
    return any(name == b"accept" and MEDIA_TYPE.encode() in value.lower() for name, value in scope["headers"])


def _health(check: Callable[[], None] | None) -> Callable[[Request], Response]:
    def health(_: Request) -> Response:
        if check is not None:
            check()
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    return health
