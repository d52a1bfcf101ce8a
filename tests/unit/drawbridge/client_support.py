"""A registry and an identity issuer of a few lines each, which answer, and lie, as a test says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from enarx.attested import sealing
from enarx.digest import Digests
from enarx.errors import EnarxError


@dataclass(slots=True, kw_only=True)
class Double:
    """Keeps what it is given and gives it back, but for what `instead` says; breaks off answers after `cut` bytes."""

    held: dict[str, tuple[bytes, Mapping[str, str]]] = field(default_factory=dict)
    instead: dict[str, Callable[[], Response]] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    sealed: Callable[[str, bytes, Mapping[str, str]], Iterator[bytes]] | None = None

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        self.tokens.append(request.headers.get("authorization", ""))
        self.asked.append(
            f"{request.method} {path}{' ' + request.headers['range'] if 'range' in request.headers else ''}"
        )
        if request.method == "PUT":
            return await self.put(request, path)
        if path in self.instead:
            return self.instead[path]()
        if path not in self.held:
            return PlainTextResponse("Repository does not exist", status_code=404)
        body, headers = self.held[path]
        if self.sealed is not None and "/tree" in path:
            return StreamingResponse(
                self.sealed(path.partition("/tree")[2].lstrip("/"), body, headers), media_type=sealing.MEDIA_TYPE
            )
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(body))})
        return self.body(body, headers, request.headers.get("range", ""))

    def body(self, body: bytes, headers: Mapping[str, str], ranged: str) -> Response:
        start = int(ranged.removeprefix("bytes=").removesuffix("-") or 0)
        more = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        end = self.cut.pop(0) if self.cut and len(body) > 100_000 else None

        def chunks() -> Iterator[bytes]:
            yield body[start : None if end is None else start + end]
            if end is not None:
                raise ValueError("the connection breaks")

        length = {"Content-Length": str(len(body) - start)}
        return StreamingResponse(chunks(), 206 if start else 200, headers={**headers, **length, **more})

    async def put(self, request: Request, path: str) -> Response:
        body = await request.body()
        if self.refuse:
            return PlainTextResponse("not now", status_code=self.refuse.pop(0))
        if path in self.held:
            return PlainTextResponse("Already exists", status_code=409)
        named = {name: request.headers[name] for name in ("content-type", "content-digest")}
        assert Digests.parse_header(named["content-digest"]) == Digests.of(body)
        self.held[path] = (body, named)
        return Response(status_code=201)


@dataclass(slots=True, kw_only=True)
class Provider:
    """An issuer whose token endpoint answers what the test put in line."""

    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    slept: list[float] = field(default_factory=list)

    async def discovery(self, request: Request) -> Response:
        self.url = f"http://{request.headers['host']}"
        named = {
            name: f"{self.url}/x/{name}" for name in ("token_endpoint", "userinfo_endpoint", "revocation_endpoint")
        }
        named["device_authorization_endpoint"] = f"{self.url}/x/device"
        return JSONResponse({"issuer": self.url, **named} | self.document)

    async def device(self, request: Request) -> Response:
        await self._remember(request)
        return JSONResponse(
            {
                "device_code": "secret-device-code",
                "user_code": "WDJB-MJHT",
                "verification_uri": f"{self.url}/activate",
                "expires_in": 60,
                "interval": 3,
            }
        )

    async def token(self, request: Request) -> Response:
        await self._remember(request)
        status, body = self.answers.pop(0)
        return JSONResponse(body, status_code=status)

    async def userinfo(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer good":
            return PlainTextResponse("no", status_code=401)
        return JSONResponse({"sub": "test|subject"})

    async def _remember(self, request: Request) -> None:
        self.asked.append({name: values[0] for name, values in parse_qs((await request.body()).decode()).items()})
        self.headers.append(dict(request.headers))

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/x/device", self.device, methods=["POST"]),
            Route("/x/token_endpoint", self.token, methods=["POST"]),
            Route("/x/revocation_endpoint", self.token, methods=["POST"]),
            Route("/x/userinfo_endpoint", self.userinfo),
        ]


def chain(error: BaseException | None) -> str:
    """The error and its causes."""
    found: list[str] = []
    while isinstance(error, EnarxError):
        found.append(str(error))
        error = error.__cause__
    return " | ".join(found)
