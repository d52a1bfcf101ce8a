"""The example is what its source says, and serves what its package holds."""

import importlib.util
import runpy
import ssl
import threading
from collections.abc import Sequence
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from enarx.cli.running import load, self_signed
from enarx.keep.config import Config
from enarx.keep.runtime import Listening, Stdio, run
from enarx.keep.workload import Workload

EXAMPLE = Path(__file__).resolve().parents[2] / "src" / "enarx" / "examples" / "hello-keep"


def test_main_wasm_is_what_its_source_compiles_to(tmp_path: Path) -> None:
    """The pinned compiler makes the committed bytes."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang, which compiles the example, is not installed")
    build = runpy.run_path(str(EXAMPLE / "build.py"))["build"]
    build(tmp_path / "main.wasm")
    assert (tmp_path / "main.wasm").read_bytes() == (EXAMPLE / "main.wasm").read_bytes()


def _request(port: int, method: str, path: str, accept: str) -> tuple[int, str, bytes]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        connection.request(method, path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_hello_keep_serves_its_greeting_over_tls_and_ends_after_its_requests() -> None:
    """GET / is the data file as text or as an escaped page, anything else is refused; REQUESTS bounds its life."""
    package = load(EXAMPLE, None)
    toml = (EXAMPLE / "Enarx.toml").read_text().replace("port = 8443", "port = 0")
    work = Workload(wasm=package.wasm, config=Config.parse(toml), files={"greeting.txt": b"a < b & c"})
    ports: list[int] = []
    ready = threading.Event()

    def on_ready(listening: Sequence[Listening]) -> None:
        ports.extend(at.port for at in listening)
        ready.set()

    codes: list[int] = []

    def serve() -> None:
        stdio = Stdio()
        env = [("REQUESTS", "5")]
        codes.append(run(work, identity=self_signed(), stdio=stdio, extra_env=env, on_ready=on_ready))

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(30)
    (port,) = ports
    assert _request(port, "GET", "/", "*/*") == (200, "text/plain; charset=utf-8", b"a < b & c")
    status, kind, page = _request(port, "GET", "/", "text/html")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert b"<pre>a &lt; b &amp; c</pre>" in page
    assert _request(port, "HEAD", "/", "*/*") == (200, "text/plain; charset=utf-8", b"")
    assert _request(port, "GET", "/other", "*/*")[0] == 404
    assert _request(port, "POST", "/", "*/*")[0] == 405
    thread.join(30)
    assert codes == [0]
