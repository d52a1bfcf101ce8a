"""Programs that were not written for a Keep.

Those that only large tools can build are looked for where ENARX_TEST_PROGRAMS says, by name, and skipped elsewhere:
`python-command.wasm`, `python-web.wasm` and `python-udp.wasm` of componentize-py, `javascript-web.wasm` and `javascript-outgoing.wasm` of
componentize-js. Their sources are in tests/guests/components; the worlds are wasi:cli/command and wasi:http/proxy.
"""

import http.client
import http.server
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enarx.keep.runtime import TlsIdentity
from enarx.keep.runtime.cache import Cache

from .conftest import Runner, Running, Starter

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def _listen(prot: str) -> str:
    return f'{STDIO}[[files]]\nkind="listen"\nname="web"\nprot="{prot}"\naddr="127.0.0.1"\nport=0\n'


def _program(name: str) -> bytes:
    folder = os.environ.get("ENARX_TEST_PROGRAMS")
    if folder is None or not Path(folder, name).exists():
        pytest.skip(f"ENARX_TEST_PROGRAMS has no {name}")
    return Path(folder, name).read_bytes()


def _client(guest: Running, prot: str) -> http.client.HTTPConnection:
    if prot == "tcp":
        return http.client.HTTPConnection("127.0.0.1", guest.ports[0], timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", guest.ports[0], context=context, timeout=60)


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_the_http_server_of_go(
    compile_go: Callable[[str], bytes],
    start_guest: Starter,
    identity: TlsIdentity,
    code_cache: Cache | None,
    prot: str,
) -> None:
    """net/http, unmodified, over the descriptor table; several requests on one connection, bodies, an exit code."""
    guest = start_guest(compile_go("server"), toml=_listen(prot), identity=identity, cache=code_cache)
    client = _client(guest, prot)
    for body in (None, b"x" * 100_000, None):
        client.request("POST" if body else "GET", "/path", body=body)
        answer = client.getresponse()
        expected = b"POST /path 100000\n" if body else b"GET /path 0\n"
        assert (answer.status, answer.read()) == (200, expected)
    client.request("GET", "/end")
    assert guest.join().code == 7
    client.close()


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_an_http_server_in_c(
    compile_guest: Callable[[str], bytes], start_guest: Starter, identity: TlsIdentity, prot: str
) -> None:
    """poll, accept, read and write of libc."""
    guest = start_guest(compile_guest("http"), toml=_listen(prot), identity=identity)
    client = _client(guest, prot)
    for path in ("/", "/again", "/end"):
        client.request("GET", path)
        assert client.getresponse().read() == b"hello\n"
    assert guest.join().code == 0
    client.close()


def test_python_as_a_command(run_guest: Runner) -> None:
    """CPython as a component reads standard input and the package."""
    outcome = run_guest(_program("python-command.wasm"), "x", stdin=b"line\n", files={"a.txt": b"data"})
    assert outcome.code == 0
    assert outcome.stdout.startswith(b"hello")
    assert b"['a.txt'] data" in outcome.stdout


@pytest.mark.parametrize("name", ["python-web.wasm", "javascript-web.wasm"])
def test_other_languages_behind_wasi_http(start_guest: Starter, identity: TlsIdentity, name: str) -> None:
    """A component that a script was made into answers over HTTPS, request after request."""
    guest = start_guest(_program(name), toml=_listen("tls"), identity=identity)
    client = _client(guest, "tls")
    for _ in range(5):
        client.request("GET", "/some/path")
        answer = client.getresponse()
        assert answer.status == 200
        assert b"/some/path" in answer.read()
    client.close()


def test_datagrams_of_python(run_guest: Runner) -> None:
    """CPython's socket module sends to whom the list names, and gets PermissionError elsewhere."""
    program = _program("python-udp.wasm")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        port = peer.getsockname()[1]
        toml = STDIO + f'[network]\noutgoing = ["127.0.0.1:{port}"]\n'
        assert run_guest(program, str(port), toml=toml).stdout == b"sent\n"
        assert peer.recv(100) == b"hello"
        assert run_guest(program, str(port + 1), toml=toml).stdout == b"PermissionError\n"


class _Upstream(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = b"pong " + self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_requests_of_a_component_are_held_to_the_lists(start_guest: Starter) -> None:
    """Whom network.outgoing names is reached; anybody else is HTTP-request-denied, without a packet."""
    program = _program("javascript-outgoing.wasm")
    with http.server.HTTPServer(("127.0.0.1", 0), _Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        port = upstream.server_port
        toml = _listen("tcp") + f'[network]\nincoming = [0]\noutgoing = ["localhost:{port}"]\n'
        guest = start_guest(program, toml=toml)
        client = _client(guest, "tcp")
        for asked, expected in ((port, b"201 pong ping\n"), (port + 1, b'error {"tag":"HTTP-request-denied"}\n')):
            client.request("GET", f"/{asked}/x")
            assert client.getresponse().read() == expected
        client.close()
        upstream.shutdown()
