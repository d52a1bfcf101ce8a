"""Behind a proxy that ends TLS (HAProxy, of the distribution): the certificate arrives, and the proxy sees ciphertext."""

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from joserfc.jwk import RSAKey

from enarx.attested import sealing
from enarx.attested.claims import RuntimeClaims
from enarx.attested.result import AttestationResult
from enarx.attested.sealing import SealingPrivateKey
from enarx.drawbridge.tree import Tree
from enarx.errors import EnarxError, UnavailableError, UntrustedError
from enarx.pki import keys
from enarx.web.client import Client
from tests.stories.test_drawbridge_serves import API, ENTRY, attested, drawbridge, issuer, put
from tests.unit.conftest import Authority
from tests.unit.drawbridge.issuers import AUDIENCE, SUBJECT
from tests.values import replace

__all__ = ["attested"]  # a fixture

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
MARKER = b"the marker that nobody but the Keep may read"
CONFIGURATION = """
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend keeps
    bind 127.0.0.1:{port} ssl crt {folder}/proxy.pem ca-file {folder}/steward.pem verify optional
    http-request del-header Client-Cert
    http-request set-header Client-Cert :%[ssl_c_der,base64]: if {{ ssl_c_used }}
    default_backend registry
backend registry
    server registry 127.0.0.1:{behind}
"""


@contextmanager
def listening_between(target: int) -> Iterator[tuple[int, bytearray]]:
    """What a proxy could write down: every byte that passes between it and the registry."""
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def copy(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    seen.extend(data)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    near, _ = server.accept()
                    far = socket.create_connection(("127.0.0.1", target))
                    pair = [
                        threading.Thread(target=copy, args=args, daemon=True) for args in ((near, far), (far, near))
                    ]
                    for thread in pair:
                        thread.start()
                    threading.Thread(target=close, args=(pair, near, far), daemon=True).start()

        def close(pair: list[threading.Thread], near: socket.socket, far: socket.socket) -> None:
            for thread in pair:
                thread.join()
            near.close()
            far.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], seen
        ended.set()


@contextmanager
def haproxy(folder: Path, behind: int) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (folder / "haproxy.cfg").write_text(CONFIGURATION.format(port=port, folder=folder, behind=behind))
    process = subprocess.Popen([str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.PIPE)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stderr is not None:
            process.stderr.close()


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (Debian: apt-get install haproxy)")
def test_a_proxy_that_ends_tls_sees_ciphertext(tmp_path: Path, attested: AttestationResult) -> None:
    """RFC 9440 from the proxy's address; nothing of the workload passes through it in the clear; no forged header counts."""
    web_ca, steward, stranger = Authority.root("Web"), Authority.root("Steward"), Authority.root("Steward")
    localhost = web_ca.issue(names=(x509.DNSName("localhost"),))
    (tmp_path / "proxy.pem").write_bytes(localhost.chain_pem + keys.to_pem(localhost.key))
    (tmp_path / "steward.pem").write_bytes(steward.pem)
    tree = Tree.from_files({"main.wasm": MARKER})
    with ExitStack() as stack:
        provider = stack.enter_context(issuer(RSAKey.generate_key(2048, {"kid": "signkey"})))
        (tmp_path / "drawbridge.toml").write_text(
            f"origin = 'https://localhost'\nstore = 'store'\nlisten = '127.0.0.1:0'\n[proxy]\naddresses = ['127.0.0.1']\n"
            f"[[issuer]]\nurl = '{provider.url}'\naudience = '{AUDIENCE}'\n[[steward]]\nca = 'steward.pem'\ncrl = ''\n"
        )
        arguments = ["serve", "--config", str(tmp_path / "drawbridge.toml"), "--behind-proxy"]
        behind = stack.enter_context(drawbridge(tmp_path, arguments))
        relay, seen = stack.enter_context(listening_between(behind))
        base = f"https://localhost:{stack.enter_context(haproxy(tmp_path, relay))}"
        path = "/user/app/_tag/1.0.0"
        token = provider.token(at=datetime.now(UTC))
        with Client(f"http://127.0.0.1:{behind}", token=token) as owner:  # not by way of the proxy: it would see that
            put(owner, "/user", b'{"subject":"%s"}' % SUBJECT.encode())
            put(owner, "/user/app", b'{"public":false}')
            put(owner, path, tree.root.encode(), ENTRY)
            for node in tree.nodes:
                with node.open() as file:
                    put(owner, f"{path}/tree/{node.path.url}".rstrip("/"), file.read(), node.entry.meta.media_type)
        private = SealingPrivateKey.generate()
        claims = RuntimeClaims(audience="https://steward.example", digests=(tree.workload,), sealing=private.public)
        issued = steward.attest(replace(attested, claims=claims))
        with Client(base, ca_pem=web_ca.pem, identity=issued.identity) as keep:
            answer = keep.get(f"{API}{path}/tree/main.wasm")
        opener = sealing.Opener(private, leaf=issued.der, workload=tree.workload, path="main.wasm")
        assert b"".join(opener.feed(answer.body)) == MARKER
        opener.finish()
        assert b"client-cert: :MII" in bytes(seen).lower().replace(b":mii", b":MII")
        assert b"ENSEAL1" in seen
        assert MARKER not in seen
        forged = {"Client-Cert": ":TUlJ:"}
        with Client(base, ca_pem=web_ca.pem) as nobody, pytest.raises(UntrustedError):
            nobody.get(f"{API}{path}/tree/main.wasm", headers=forged)
        other = stranger.attest(replace(attested, claims=claims))
        with Client(base, ca_pem=web_ca.pem, identity=other.identity) as foreign, pytest.raises(EnarxError) as refused:
            foreign.get(f"{API}{path}/tree/main.wasm")
        assert isinstance(refused.value, UntrustedError | UnavailableError)
