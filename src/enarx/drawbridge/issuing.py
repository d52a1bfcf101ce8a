"""The development issuer on the wire: an OpenID provider of five endpoints beneath `/_issuer` of a --dev server.

Browsers are refused (they say where they come from in `Origin` or `Sec-Fetch-Site`): a page that somebody looks at
runs as the user of this machine, too, and must get no token.
"""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from enarx.drawbridge.auth.development import PATH, DevelopmentIssuer, OAuthError, same_user
from enarx.drawbridge.auth.oidc import TokenError
from enarx.errors import DeniedError, MalformedError
from enarx.web.log import Log

MAX_FIELDS: Final = 50

_LOG: Final = Log("drawbridge")


def routes(issuer: Callable[[], DevelopmentIssuer], now: Callable[[], datetime] | None = None) -> list[BaseRoute]:
    """The endpoints. `issuer` is called for each request, for its origin is only known once we listen."""
    found = _Endpoints(issuer, now or (lambda: datetime.now(UTC)))
    return [
        Route(f"{PATH}/.well-known/openid-configuration", found.discovery, methods=["GET"]),
        Route(f"{PATH}/jwks", found.jwks, methods=["GET"]),
        Route(f"{PATH}/device", found.device, methods=["POST"]),
        Route(f"{PATH}/token", found.token, methods=["POST"]),
        Route(f"{PATH}/userinfo", found.userinfo, methods=["GET"]),
        Route(f"{PATH}/approve", found.approve, methods=["GET"]),
    ]


class _Endpoints:
    def __init__(self, issuer: Callable[[], DevelopmentIssuer], now: Callable[[], datetime]) -> None:
        self._issuer = issuer
        self._now = now

    async def discovery(self, _: Request) -> Response:
        return JSONResponse(dict(self._issuer().discovery()))

    async def jwks(self, _: Request) -> Response:
        return JSONResponse(dict(self._issuer().keys()))

    async def device(self, request: Request) -> Response:
        form, own = await _form(request), await run_in_threadpool(_is_ours, request)
        answer = self._answer(lambda: self._issuer().device(form, self._now(), same_user=own))
        _LOG.warning("DEVELOPMENT ISSUER: a device asks", approved="at once" if own else "not yet")
        return answer

    async def token(self, request: Request) -> Response:
        form, own = await _form(request), await run_in_threadpool(_is_ours, request)
        return self._answer(lambda: self._issuer().token(form, self._now(), same_user=own))

    async def userinfo(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise TokenError("there is none")
        person = self._issuer().authenticator().authenticate(token.strip(), self._now())
        name = person.identity.subject.partition("|")[2]
        return JSONResponse({"sub": person.identity.subject, "preferred_username": name}, headers=_NOT_KEPT)

    async def approve(self, _: Request) -> Response:
        return PlainTextResponse(
            "Whoever started this server approves a code on its machine with\n\n    drawbridge dev approve CODE\n"
        )

    def _answer(self, ask: Callable[[], Mapping[str, object]]) -> Response:
        try:
            return JSONResponse(dict(ask()), headers=_NOT_KEPT)
        except OAuthError as error:
            members = {"error": error.code, "error_description": str(error)}
            return JSONResponse(members, 400, headers=_NOT_KEPT)


_NOT_KEPT: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form, each once (RFC 6749, 3.2)."""
    if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
        raise DeniedError("the development issuer answers programs, not pages")
    body = await request.body()
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, strict_parsing=bool(body))
    except ValueError as error:
        raise MalformedError("form: expected application/x-www-form-urlencoded") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise MalformedError("form: expected each field once")
    return dict(pairs)


def _is_ours(request: Request) -> bool:
    server: tuple[str, int] | None = request.scope.get("server")
    client: tuple[str, int] | None = request.scope.get("client")
    return same_user(client, server[1] if server else None, os.getuid())
