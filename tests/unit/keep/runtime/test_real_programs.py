"""Programs that were not written for a Keep: interpreters, servers, libraries, as their own tools build them."""

import http.client
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable

import pytest

from enarx.keep.runtime import TlsIdentity
from enarx.keep.runtime.cache import Cache

from .conftest import Runner, Running, Starter

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def _listen(prot: str) -> str:
    return f'{STDIO}[[files]]\nkind="listen"\nname="web"\nprot="{prot}"\naddr="127.0.0.1"\nport=0\n'


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


def test_cpython_itself(run_guest: Runner, cpython: bytes, code_cache: Cache | None) -> None:
    """The interpreter, a module: arguments, environment, standard input, files of the package and of its own, exit."""
    script = """if True:
        import json, os, pathlib, random, sys, tempfile, time
        private = pathlib.Path("/private/d"); private.mkdir(); (private / "x").write_text("kept")
        os.rename("/private/d/x", "/private/d/y")
        out = {"args": sys.argv[1:], "env": os.environ["A"], "stdin": sys.stdin.read(), "listed": os.listdir("/private/d"),
               "package": pathlib.Path("/package/a.txt").read_text(), "kept": (private / "y").read_text()}
        time.sleep(0.01); random.random(); print(json.dumps(out)); sys.exit(3)"""
    toml = STDIO + '[env]\nA = "b"\n[storage]\nmemory = 1000000\npath = "/private"\n'
    files = {"a.txt": b"data"}
    outcome = run_guest(
        cpython, "-c", script, "one", "two words", toml=toml, files=files, stdin=b"line\n", cache=code_cache
    )
    assert (outcome.code, outcome.stderr) == (3, b"")
    assert json.loads(outcome.stdout) == {
        "args": ["one", "two words"], "env": "b", "stdin": "line\n", "listed": ["y"], "package": "data", "kept": "kept",
    }  # fmt: skip
    failed = run_guest(cpython, "-c", "1 / 0", cache=code_cache)
    assert failed.code == 1
    assert b"ZeroDivisionError" in failed.stderr


def test_sqlite_in_memory_and_in_a_file(run_guest: Runner, cpython: bytes, code_cache: Cache | None) -> None:
    """A database without a file, and one in the private directory, with an index, a transaction and a join."""
    script = """if True:
        import sqlite3
        for where in (":memory:", "/private/data.db"):
            db = sqlite3.connect(where)
            db.execute("create table n(i integer primary key, square integer)")
            with db: db.executemany("insert into n values(?, ?)", ((i, i * i) for i in range(5000)))
            db.execute("create index s on n(square)")
            try:
                with db: db.execute("delete from n"); raise KeyError
            except KeyError: pass
            print(db.execute("select count(*), sum(a.square) from n a join n b on a.square = b.i").fetchone())
            db.close()
        print(sqlite3.connect("/private/data.db").execute("pragma integrity_check").fetchone())"""
    toml = STDIO + '[storage]\nmemory = 10000000\npath = "/private"\n'
    outcome = run_guest(cpython, "-c", script, toml=toml, cache=code_cache)
    expected = f"({71}, {sum(i * i for i in range(71))})\n"
    assert (outcome.code, outcome.stdout.decode()) == (0, expected * 2 + "('ok',)\n"), outcome.stderr.decode()


def test_python_as_a_command(
    run_guest: Runner, compile_python: Callable[[str, str], bytes], code_cache: Cache | None
) -> None:
    """CPython as a component reads standard input and the package."""
    program = compile_python("command", "command")
    outcome = run_guest(program, "x", stdin=b"line\n", files={"a.txt": b"data"}, cache=code_cache)
    assert outcome.code == 0
    assert outcome.stdout == b"hello ['main.wasm', 'x']\nstdin 'line\\n'\npackage ['a.txt'] data\n"


def test_datagrams_of_python(
    run_guest: Runner, compile_python: Callable[[str, str], bytes], code_cache: Cache | None
) -> None:
    """CPython's socket module sends to whom the list names, and gets PermissionError elsewhere."""
    program = compile_python("command", "command")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        port = peer.getsockname()[1]
        toml = STDIO + f'[network]\noutgoing = ["127.0.0.1:{port}"]\n'
        assert run_guest(program, str(port), toml=toml, cache=code_cache).stdout == b"sent\n"
        assert peer.recv(100) == b"hello"
        assert run_guest(program, str(port + 1), toml=toml, cache=code_cache).stdout == b"PermissionError\n"


def test_python_behind_wasi_http(
    start_guest: Starter, identity: TlsIdentity, compile_python: Callable[[str, str], bytes], code_cache: Cache | None
) -> None:
    """A component that a Python script was made into answers over HTTPS, request after request, bodies and all."""
    guest = start_guest(compile_python("web", "proxy"), toml=_listen("tls"), identity=identity, cache=code_cache)
    client = _client(guest, "tls")
    for size in (0, 5, 200_000):
        client.request("POST", "/some/path?q=1", body=b"x" * size)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, f"Method_Post() /some/path?q=1 {size}\n".encode())
    client.close()


def test_javascript_behind_wasi_http(
    start_guest: Starter, identity: TlsIdentity, compile_javascript: Callable[[str], bytes], code_cache: Cache | None
) -> None:
    """A component that a JavaScript module was made into, likewise."""
    guest = start_guest(compile_javascript("web"), toml=_listen("tls"), identity=identity, cache=code_cache)
    client = _client(guest, "tls")
    for path in ("/", "/some/path?q=1"):
        client.request("GET", path)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, f"js {path}\n".encode())
    client.close()


class _Upstream(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        size = int(self.rfile.readline(), 16)  # one chunk, for the request was not finished when it was sent
        body = b"pong " + self.rfile.read(size)
        while self.rfile.readline().strip() != b"":
            pass
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_requests_of_a_component_are_held_to_the_lists(
    start_guest: Starter, compile_javascript: Callable[[str], bytes], code_cache: Cache | None
) -> None:
    """Whom network.outgoing names is reached; anybody else is HTTP-request-denied, without a packet."""
    program = compile_javascript("web")
    with http.server.HTTPServer(("127.0.0.1", 0), _Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        port = upstream.server_port
        toml = _listen("tcp") + f'[network]\nincoming = [0]\noutgoing = ["localhost:{port}"]\n'
        guest = start_guest(program, toml=toml, cache=code_cache)
        client = _client(guest, "tcp")
        for asked, expected in ((port, b"201 pong ping\n"), (port + 1, b'error {"tag":"HTTP-request-denied"}\n')):
            client.request("GET", f"/ask/{asked}/x")
            assert client.getresponse().read() == expected
        client.close()
        upstream.shutdown()
