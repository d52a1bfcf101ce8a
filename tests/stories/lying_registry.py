"""A registry of a few lines that serves whatever a test puts into it, to whoever shows a certificate with a workload.

It seals as flow.md says, but releases without asking, and what it serves need not be what it promises: the Keep has to
notice. Over TLS, on loopback, in a thread.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from enarx.attested import sealing
from enarx.attested.result import AttestationResult
from enarx.drawbridge.names import TreePath
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Tree
from enarx.pki.certificate import Certificate
from enarx.web.app import build
from enarx.web.server import serve
from enarx.web.tls import ServerTls

TREE = "/tree"


@dataclass(slots=True, kw_only=True)
class LyingRegistry:
    """`promised` is what the tag says, `served` what comes instead of it, `signed` the tag for users and
    `signed_for_keeps` the one for Keeps where they are not plain, all by slug path `user/repo/_tag/1.0.0`."""

    steward: str
    promised: dict[str, Tree] = field(default_factory=dict)
    served: dict[str, Tree] = field(default_factory=dict)
    signed: dict[str, Tag] = field(default_factory=dict)
    signed_for_keeps: dict[str, Tag] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        path = request.url.path.removeprefix("/api/v0.1.0/")
        self.asked.append(path)
        name, _, below = path.partition(TREE)
        if name not in self.promised:
            return PlainTextResponse("Repository does not exist", status_code=404)
        if TREE not in path:
            signed = self.signed if request.state.peer_cert is None else self.signed_for_keeps
            tag = signed.get(name, Tag(entry=self.promised[name].root))
            link = f'<{self.steward}>; rel="steward"'
            return Response(tag.encode(), media_type=tag.media_type, headers={"Link": link})
        return self.node(request, self.served.get(name, self.promised[name]), TreePath.from_url(below.lstrip("/")))

    def node(self, request: Request, tree: Tree, path: TreePath) -> Response:
        leaf = Certificate.parse(request.state.peer_cert)
        result = AttestationResult.from_certificate(leaf)
        assert result is not None
        claims = result.claims
        assert claims is not None
        assert claims.workload is not None
        assert claims.sealing is not None
        node = next(node for node in tree.nodes if node.path == path)
        with node.open() as file:
            body = file.read()
        sealed = sealing.seal(
            claims.sealing,
            leaf=leaf.der,
            workload=claims.workload,
            path=str(path),
            meta=node.entry.meta.encode(),
            body=[body],
        )
        return StreamingResponse(sealed, media_type=sealing.MEDIA_TYPE)

    def publish(self, name: str, files: Mapping[str, bytes]) -> Tree:
        """Promise a package, honestly so far."""
        user, repository, version = name.replace(":", "/").split("/")
        tree = self.promised[f"{user}/{repository}/_tag/{version}"] = Tree.from_files(files)
        return tree

    @contextmanager
    def serving(self, tls: ServerTls) -> Iterator[int]:
        """Serve in a thread; gives the port."""
        app = build([Route("/{path:path}", self.answer)], name="lying-registry", body_limit=1000)
        ready, stop, ports = Event(), Event(), list[int]()

        def on_ready(port: int) -> None:
            ports.append(port)
            ready.set()

        def run() -> None:
            serve(app, host="127.0.0.1", port=0, tls=tls, on_ready=on_ready, grace_seconds=1, stop=stop)

        thread = Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(20)
        try:
            yield ports[0]
        finally:
            stop.set()
            thread.join(20)
