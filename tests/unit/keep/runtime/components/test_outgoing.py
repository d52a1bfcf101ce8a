"""Requests of a component's own: streamed both ways, bounded in time, held to the lists, under the Keep's TLS."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enarx.cli.running import self_signed
from enarx.keep.config import Config
from enarx.keep.runtime import Interrupt, TlsIdentity
from enarx.keep.runtime.components import http, outgoing
from enarx.keep.runtime.components.io import Allowance, wait
from enarx.keep.runtime.components.sockets import World
from enarx.keep.runtime.components.values import Err, Ok
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.tls import Contexts, LiveIdentity, server_context
from enarx.keep.runtime.waiting import Waiter

Script = Callable[[socket.socket], object]
TENTH = 100_000_000  # nanoseconds


class Component:
    """What a component does with wasi:http, without the component."""

    def __init__(self, outgoing_list: str, interrupt: Interrupt, contexts: Contexts | None = None) -> None:
        config = Config.parse(f"[network]\noutgoing = {outgoing_list}\n[limits]\ndescriptors = 2\n")
        self.said, self.allowance = bytearray(), Allowance(config.limits.descriptors)
        self.world = World(config, contexts, Waiter(interrupt), Log(config.log, self.said.extend), self.allowance)
        waiter = self.world.waiter
        self._table = {**http.implementations(waiter), **outgoing.implementations(self.world)}

    def call(self, name: str, *arguments: Any) -> Any:  # Any: as the functions of wasi:http answer
        return next(function for key, function in self._table.items() if key.endswith(name))(*arguments)

    def request(
        self, authority: str, *, method: str = "get", scheme: str = "HTTP", **headers: str
    ) -> Any:  # Any: as above
        fields = self.call(
            "fields.from-list", [(key.replace("_", "-"), value.encode()) for key, value in headers.items()]
        )
        made = self.call("constructor]outgoing-request", fields.thing).thing
        for key, value in (("method", (method, None)), ("scheme", (scheme, None)), ("authority", authority)):
            assert self.call(f"outgoing-request.set-{key}", made, value) is None
        return made

    def body(self, request: Any) -> tuple[Any, Any]:  # Any: as above
        body = self.call("outgoing-request.body", request).thing
        return body, self.call("outgoing-body.write", body).thing

    def send(self, request: Any, **times: int) -> Any:  # Any: as above
        options = self.call("constructor]request-options").thing
        for name, value in times.items():
            assert self.call(f"request-options.set-{name.replace('_', '-')}-timeout", options, value) is None
        return self.call("outgoing-handler#handle", request, options)

    def wait(self, future: Any) -> Any:  # Any: as above
        wait([self.call("future-incoming-response.subscribe", future).thing], self.world.waiter)
        found = self.call("future-incoming-response.get", future)
        return found.value.thing if isinstance(found, Ok) and not isinstance(found.value, Err) else found

    def read(self, answer: Any) -> tuple[bytes, Any]:  # Any: as above
        """All of the body, and what ended it."""
        body = self.call("incoming-response.consume", answer).thing
        stream, found = self.call("incoming-body.stream", body).thing, b""
        while not isinstance(piece := stream.blocking_read(1000), Err):
            found += piece
        stream.drop()
        body.drop()
        return found, piece.value[0]


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    with Interrupt() as made:
        yield made


@pytest.fixture
def serve() -> Iterator[Callable[[Script], int]]:
    """A server that does what the script says with its one connection; its port."""
    threads, listeners, failures = [], [], []

    def start(script: Script) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work() -> None:
            try:
                with listener.accept()[0] as sock:
                    sock.settimeout(30)
                    script(sock)
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(30)
    for listener in listeners:
        listener.close()
    assert not failures


def _until(sock: socket.socket, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end) and (piece := sock.recv(4096)):
        found += piece
    return found


def test_both_bodies_stream(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """The answer begins while the request goes on, and what is written then still arrives, in chunks with trailers."""

    def script(sock: socket.socket) -> None:
        assert _until(sock, b"\r\n5\r\nfirst\r\n").startswith(b"POST / HTTP/1.1\r\nhost: ")
        sock.sendall(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 6\r\nx: y\r\nkeep-alive: 1\r\n\r\nyes"
        )
        assert _until(sock, b"\r\n\r\n") == b"6\r\nsecond\r\n0\r\nx-sum: 42\r\n\r\n"
        sock.sendall(b"yes")

    port = serve(script)
    component = Component(f'["localhost:{port}"]', interrupt)
    request = component.request(f"localhost:{port}", method="post")
    body, stream = component.body(request)
    assert stream.write(b"first") is None
    future = component.send(request).thing
    answer = component.wait(future)
    assert component.call("incoming-response.status", answer) == 201
    assert component.call("incoming-response.headers", answer).thing.pairs == [("content-length", b"6"), ("x", b"y")]
    assert stream.write(b"second") is None
    sum_ = component.call("fields.from-list", [("x-sum", b"42")]).thing
    assert component.call("outgoing-body.finish", body, sum_) is None
    assert component.read(answer) == (b"yesyes", "closed")
    assert component.allowance.used == 0


def test_a_body_that_is_there_has_a_length(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """One that was finished before it was sent, or whose length the component says, is not chunked."""
    for before in (True, False):

        def script(sock: socket.socket) -> None:
            assert b"content-length: 4\r\nconnection: close\r\n\r\n" in _until(sock, b"ping")
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

        port = serve(script)
        component = Component(f'["localhost:{port}"]', interrupt)
        request = component.request(f"localhost:{port}", method="post", **({} if before else {"content_length": "4"}))
        body, stream = component.body(request)
        if before:
            stream.write(b"ping")
            component.call("outgoing-body.finish", body, None)
        future = component.send(request).thing
        if not before:
            assert stream.write(b"pinggg").value[0] == "last-operation-failed"
            stream.write(b"ping")
            component.call("outgoing-body.finish", body, None)
        assert component.read(component.wait(future)) == (b"until the end", "closed")


def test_a_large_body_goes_as_fast_as_it_is_taken(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """Nothing is collected: who writes waits for whoever reads, in a bounded window."""
    size, go = 32 << 20, threading.Event()  # more than the operating system holds for both sides

    def script(sock: socket.socket) -> None:
        go.wait(30)
        last, count, buffer = b"", 0, bytearray(1 << 20)
        while not last.endswith(b"\r\n0\r\n\r\n"):
            got = sock.recv_into(buffer)
            last, count = (last + buffer[:got])[-7:], count + got
        assert count > size
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    port = serve(script)
    component = Component(f'["localhost:{port}"]', interrupt)
    request = component.request(f"localhost:{port}", method="put")
    body, stream = component.body(request)
    future = component.send(request).thing
    written = 0
    while written < size:
        if not (allowed := stream.check()):
            go.set()  # not before it had to wait
            wait([stream.pollable()], component.world.waiter)
            continue
        assert stream.write(bytes(allowed)) is None
        written += allowed
    assert go.is_set()
    assert stream.flush() is None
    component.call("outgoing-body.finish", body, None)
    answer = component.wait(future)
    assert component.call("incoming-response.status", answer) == 204
    answer.drop()


@pytest.mark.parametrize(
    ("says", "times", "expected"),
    [
        (b"", {"first_byte": TENTH}, "connection-read-timeout"),
        (b"HTTP/1.1 200 OK\r\n", {"first_byte": TENTH}, "connection-read-timeout"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", {"between_bytes": TENTH}, b"abc"),
        (b"nonsense\r\n\r\n", {}, "HTTP-protocol-error"),
    ],
)
def test_the_times_of_the_component_count(
    interrupt: Interrupt, serve: Callable[[Script], int], says: bytes, times: dict[str, int], expected: object
) -> None:
    """To the head of the answer, and between bytes: whoever is too slow is an error with its name."""
    over = threading.Event()

    def script(sock: socket.socket) -> None:
        _until(sock, b"\r\n\r\n")
        sock.sendall(says)
        over.wait(30)

    port = serve(script)
    component = Component(f'["127.0.0.1:{port}"]', interrupt)
    answer = component.wait(component.send(component.request(f"127.0.0.1:{port}"), **times).thing)
    if isinstance(expected, bytes):
        assert component.read(answer) == (expected, "last-operation-failed")
    else:
        assert answer == Ok(Err(expected))
    over.set()
    assert component.allowance.used == 0


def test_connecting_has_its_time(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """A server that never shakes hands is a connection that was not made in time."""
    over = threading.Event()
    port = serve(lambda _: over.wait(30))
    contexts = Contexts(None, None, lambda _: b"")
    component = Component(f'["localhost:{port}"]', interrupt, contexts)
    future = component.send(component.request(f"localhost:{port}", scheme="HTTPS"), connect=TENTH).thing
    assert component.wait(future) == Ok(Err("connection-timeout"))
    assert component.call("future-incoming-response.get", future) == Err()
    over.set()


def test_every_address_of_a_name_is_tried(
    interrupt: Interrupt, serve: Callable[[Script], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that answers has the request; names are looked up aside, and only those of the list."""
    asked = []

    def find(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(outgoing, "find", find)

    def script(sock: socket.socket) -> None:
        assert b"host: upstream.example:" in _until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n")

    port = serve(script)
    component = Component(f'["upstream.example:{port}"]', interrupt)
    assert component.send(component.request("elsewhere.example")) == Err("HTTP-request-denied")
    answer = component.wait(component.send(component.request(f"upstream.example:{port}")).thing)
    assert component.call("incoming-response.status", answer) == 302  # a redirect is the component's business
    assert asked == ["upstream.example"]
    assert b"may not reach elsewhere.example port 443" not in component.said
    assert b"may not reach elsewhere.example port 80" in component.said
    answer.drop()


def test_what_is_left_unfinished_is_an_error(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """A body that the component drops, and one that is shorter than it said."""
    for finish in (False, True):
        port = serve(lambda sock: _until(sock, b"never"))
        component = Component(f'["localhost:{port}"]', interrupt)
        request = component.request(f"localhost:{port}", method="post", content_length="9")
        body, stream = component.body(request)
        future = component.send(request).thing
        stream.write(b"abc")
        if finish:
            assert component.call("outgoing-body.finish", body, None) == Err(("HTTP-request-body-size", None))
        else:
            body.drop()
        assert component.wait(future) == Ok(Err("HTTP-protocol-error"))


def test_connections_count_as_descriptors(interrupt: Interrupt, serve: Callable[[Script], int]) -> None:
    """Beyond limits.descriptors a request is refused; whoever is dropped makes room."""
    ports = [serve(lambda sock: _until(sock, b"never")) for _ in range(3)]
    component = Component('["localhost:*"]', interrupt)
    first, second = (component.send(component.request(f"localhost:{port}")).thing for port in ports[:2])
    assert component.send(component.request(f"localhost:{ports[2]}")) == Err("connection-limit-reached")
    first.drop()
    third = component.send(component.request(f"localhost:{ports[2]}")).thing
    second.drop()
    third.drop()
    assert component.allowance.used == 0


@pytest.mark.parametrize("trusted", [True, False])
def test_the_keep_shows_its_certificate_and_judges_the_server(
    interrupt: Interrupt, serve: Callable[[Script], int], tmp_path: Path, identity: TlsIdentity, trusted: bool
) -> None:
    """HTTPS to a server that wants to know who asks; one that nobody vouches for is refused before a byte."""
    server = self_signed()
    (tmp_path / "keep.pem").write_bytes(identity.chain_pem)
    context = server_context(server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tmp_path / "keep.pem")
    seen = []

    def script(sock: socket.socket) -> None:
        try:
            with context.wrap_socket(sock, server_side=True) as tls:
                seen.append(tls.getpeercert(binary_form=True))
                _until(tls, b"\r\n\r\n")
                tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except OSError:
            assert not trusted

    port = serve(script)
    roots = server.chain_pem if trusted else identity.chain_pem
    contexts = Contexts(LiveIdentity(identity), roots, lambda _: b"")
    component = Component(f'["localhost:{port}"]', interrupt, contexts)
    answer = component.wait(component.send(component.request(f"localhost:{port}", scheme="HTTPS")).thing)
    if trusted:
        assert component.read(answer) == (b"ok", "closed")
        assert seen == [ssl.PEM_cert_to_DER_cert(identity.chain_pem.decode())]
    else:
        assert answer == Ok(Err("TLS-certificate-error"))
        assert seen == []
