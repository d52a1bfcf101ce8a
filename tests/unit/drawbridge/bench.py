"""A Drawbridge in memory with an issuer and a Steward, asked without a network."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from enarx.digest import Digests
from enarx.drawbridge import openapi, routes
from enarx.drawbridge.access import Leave
from enarx.drawbridge.auth.mtls import CrlSource, Keeps
from enarx.drawbridge.auth.oidc import Issuers, JwtIssuer, Rules, UserinfoIssuer
from enarx.drawbridge.http import build
from enarx.drawbridge.limits import MINUTE, Buckets
from enarx.drawbridge.quotas import Quotas
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.routes import PREFIX
from enarx.drawbridge.store import MemoryStore, Store
from enarx.drawbridge.tree import Tree
from enarx.drawbridge.visit import Service
from enarx.errors import EnarxError
from enarx.pki.certificate import Certificate
from enarx.web.audit import AuditLog
from tests.unit.conftest import Authority
from tests.unit.drawbridge.issuers import AT, AUDIENCE, SUBJECT, URL, Provider

API: Final = "/api/v0.1.0"
ORIGIN: Final = "https://store.example.com"
JSON: Final = "application/json"
DESCRIPTION: Final = openapi.document("https://store.example.com")["paths"]
ENTRY: Final = "application/vnd.drawbridge.entry.v1+json"


def require_described(method: str, path: str, status: int) -> None:
    """Whatever a test sees, the OpenAPI document says that it may be."""
    try:
        target = routes.parse(path.partition("?")[0])
    except EnarxError:
        return
    if method in target.methods:
        described = DESCRIPTION[PREFIX + openapi.PATHS[target.kind]][method.lower()]["responses"]
        assert str(status) in described, f"{method} {target.kind}: {status} is not described"


class Shown:
    """What TLS would have put beside a request: the certificates of the client."""

    def __init__(self, app: ASGIApp, bench: "Bench") -> None:
        self._app = app
        self._bench = bench

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            chain = self._bench.chain
            scope.setdefault("state", {}).update(peer_chain=chain, peer_cert=chain[0] if chain else None)
            scope["client"] = (self._bench.address, 50000)
        await self._app(scope, receive, send)


@dataclass
class Bench:
    """`as_user` and `as_keep` say who asks; `at` is the moment for the server."""

    authority: Authority
    leave: Leave = field(default_factory=Leave)
    store: Store = field(default_factory=MemoryStore)
    at: datetime = AT
    chain: tuple[bytes, ...] = ()
    address: str = "192.0.2.1"
    requests: int = 10_000
    uploads: int = 1_000_000
    upload_bytes: int = 1_000_000
    proxies: tuple[Any, ...] = ()  # Any: networks
    sources: tuple[CrlSource, ...] = ()
    machine: Provider | None = None
    userinfo: bool = False

    def __post_init__(self) -> None:
        self.provider = Provider()
        self.log = io.StringIO()
        self.registry = Registry(self.store, now=lambda: self.at)
        opaque = None
        issuers = [JwtIssuer.discovered(Rules(name="corp", url=URL, audience=AUDIENCE), self.provider.fetch)]
        if self.machine is not None:
            rules = Rules(name="ci", url=self.machine.url, audience=AUDIENCE, machine=True)
            issuers.append(JwtIssuer.discovered(rules, self.machine.fetch))
        if self.userinfo:
            opaque, issuers = UserinfoIssuer(Rules(name="old", url=URL, audience=None), self.provider.fetch, float), []
        self.service = Service(
            registry=self.registry,
            issuers=lambda: Issuers.of(issuers, opaque),
            origin=lambda: ORIGIN,
            keeps=Keeps(anchors=(Certificate.parse(self.authority.issued.der),), sources=self.sources),
            audit=AuditLog.to(self.log),
            requests=Buckets("requests", self.requests, MINUTE),
            uploads=Quotas(self.store, self.uploads, lambda: self.at),
            upload_bytes=self.upload_bytes,
            proxies=self.proxies,
            steward="https://steward.example.com",
            leave=self.leave,
            now=lambda: self.at,
        )
        self.client = TestClient(Shown(build(self.service), self), base_url=ORIGIN)

    def token(self, subject: str = SUBJECT, **changes: Any) -> str:
        return self.provider.token(at=self.at, sub=subject, **changes)

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, token: str | None = None, **headers: str
    ) -> Any:  # Any: the response of the test client
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        answer = self.client.request(method, API + path, content=body, headers=named)
        require_described(method, API + path, answer.status_code)
        return answer

    def put(self, path: str, body: bytes | Mapping[str, Any], kind: str = JSON, *, token: str | None = None) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        digest = Digests.of(data).header()
        return self.ask("PUT", path, data, token=token, Content_Type=kind, Content_Digest=digest)

    def claim(self, user: str = "user", subject: str = SUBJECT, **repositories: bool) -> str:
        """Register a user and repositories (name=public); gives the owner's token."""
        token = self.token(subject)
        assert self.put(f"/{user}", {"subject": subject}, token=token).status_code in {200, 201}
        for name, public in repositories.items():
            assert self.put(f"/{user}/{name}", {"public": public}, token=token).status_code == 201
        return token

    def publish(self, where: str, files: Mapping[str, bytes], token: str) -> Tree:
        """Publish files as a tag, nodes in the originals' order."""
        tree = Tree.from_files(dict(files))
        answer = self.put(where, tree.root.encode(), ENTRY, token=token)
        assert answer.status_code in {200, 201}, answer.text
        for node in tree.nodes:
            with node.open() as file:
                meta = node.entry.meta
                answer = self.ask(
                    "PUT",
                    f"{where}/tree/{node.path.url}",
                    file.read(),
                    token=token,
                    Content_Type=meta.media_type,
                    Content_Digest=meta.digests.header(),
                )
            assert answer.status_code in {200, 201}, answer.text
        return tree

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]
