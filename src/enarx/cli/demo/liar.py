"""The host's own registry: it promises what the true one promises, and serves other bytes under the same name.

    python -c "from enarx.cli.demo.liar import main; main()" CERTIFICATE KEY CLIENT_CA STEWARD TRUE FALSE

TRUE and FALSE are directories with packages. It seals to the Keep's key as a true registry does and checks nothing, for
it is the attacker's. Nothing but the Keep's own hash check stands between its bytes and a Keep.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from enarx.attested import sealing
from enarx.attested.result import AttestationResult
from enarx.drawbridge.names import TreePath
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Tree
from enarx.pki.certificate import Certificate
from enarx.web.app import build
from enarx.web.server import serve, write_ready
from enarx.web.tls import ServerTls

TREE = "/tree"


def main() -> None:
    """Serve on a free port, told to the descriptor after `--ready-fd`."""
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    certificate, key, client_ca, steward, true, false, _, ready = sys.argv[1:]
    promised, served = Tree.from_path(Path(true)), Tree.from_path(Path(false))

    async def answer(request: Request) -> Response:
        _, found, path = request.url.path.partition(TREE)
        if not found:
            tag = Tag(entry=promised.root)
            return Response(tag.encode(), media_type=tag.media_type, headers={"Link": f'<{steward}>; rel="steward"'})
        return StreamingResponse(
            sealed(request.state.peer_cert, served, path.lstrip("/")), media_type=sealing.MEDIA_TYPE
        )

    tls = ServerTls(
        cert_chain_pem=Path(certificate).read_bytes(),
        key_pem=Path(key).read_bytes(),
        client_ca_pem=Path(client_ca).read_bytes(),
    )
    app = build([Route("/{path:path}", answer)], name="liar", body_limit=1000)
    serve(app, host="127.0.0.1", port=0, tls=tls, on_ready=lambda port: write_ready(int(ready), port), grace_seconds=1)


def sealed(leaf: bytes, tree: Tree, text: str) -> Iterator[bytes]:
    """A node of the false package, sealed to whoever asks."""
    result = AttestationResult.from_certificate(Certificate.parse(leaf))
    if result is None or result.claims is None or result.claims.sealing is None or result.claims.workload is None:
        raise ValueError("the liar speaks to Keeps alone")
    path = TreePath.from_url(text)
    node = next(node for node in tree.nodes if node.path == path)
    with node.open() as file:
        body = file.read()
    return sealing.seal(
        result.claims.sealing,
        leaf=leaf,
        workload=result.claims.workload,
        path=str(path),
        meta=node.entry.meta.encode(),
        body=[body],
    )
