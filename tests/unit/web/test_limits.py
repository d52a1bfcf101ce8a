"""The holes of the stock server, each by what a stranger would do to it (`enarx.web.server`).

Limits are made short; each test waits for the server to end something, and the socket's own timeout turns a server that
does not into a failure. `test_the_stock_server_has_every_hole` does the same to uvicorn as it is, and each of them
fails.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from weakref import WeakSet

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from enarx.web import server
from enarx.web.app import build
from enarx.web.server import Limits
from tests.unit.conftest import Issued

PATIENCE = 15.0  # seconds that a test waits for the server to act
SHORT = Limits(
    handshake_seconds=0.4,
    header_seconds=0.4,
    keep_alive_seconds=1,
    body_seconds=0.4,
    stall_seconds=0.4,
    linger_seconds=0.4,
    header_bytes=16 * 1024,
    header_count=20,
    connections=4,
)


async def _early(_: Request) -> Response:
    """Answers before the body."""
    return PlainTextResponse("no")


async def _echo(request: Request) -> Response:
    return Response(await request.body())


async def _flood(_: Request) -> Response:
    return StreamingResponse(iter([b"x" * 65536] * 1000))


async def _slow(_: Request) -> Response:
    await asyncio.sleep(0.02)
    return PlainTextResponse("done")


FLOODS = ["one long header", "many headers", "a long path", "endless trailers", "chunk extensions"]
APP: Starlette = build(
    [
        Route("/early", _early, methods=["GET", "PUT", "POST"]),
        Route("/echo", _echo, methods=["POST"]),
        Route("/flood", _flood),
        Route("/slow", _slow),
    ],
    name="limits",
    body_limit=4_000_000,
)


@pytest.fixture
def port(start: Callable[..., int]) -> int:
    return start(APP, limits=SHORT)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What the server sends until it ends the connection."""
    found = bytearray()
    while data := _receive(connection):
        found += data
    return bytes(found)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def test_who_connects_and_says_nothing_is_cut_off(port: int) -> None:
    """No request within the time for headers: the connection ends."""
    with connected(port) as connection:
        assert everything(connection) == b""


def test_who_never_shakes_hands_is_cut_off(start: Callable[..., int], localhost: Issued) -> None:
    """TCP without TLS, and TLS without a request, both end."""
    port = start(APP, localhost.server_tls(), limits=SHORT)
    with connected(port) as connection:
        assert everything(connection) == b""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connected(port) as connection, context.wrap_socket(connection) as secure:
        assert everything(secure) == b""


def test_headers_that_trickle_are_cut_off(port: int) -> None:
    """A byte now and then does not start the time anew."""
    with connected(port) as connection:
        connection.settimeout(0.1)
        connection.sendall(b"GET /early HTTP/1.1\r\nHost: x\r\n")
        for _ in range(int(PATIENCE / 0.1)):
            try:
                connection.sendall(b"X")
                if connection.recv(1024) == b"":
                    return
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                return
    raise AssertionError("the server still reads")


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_what_is_no_body_is_refused(port: int, kind: str) -> None:
    """What is not body is bounded, wherever it stands, and the server says so where it can."""
    post = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    first, more = {
        "one long header": (b"GET /early HTTP/1.1\r\nHost: x\r\nX: ", b"x" * 4096),
        "many headers": (b"GET /early HTTP/1.1\r\nHost: x\r\n", b"".join(b"X-%d: y\r\n" % n for n in range(300))),
        "a long path": (b"GET /", b"x" * 4096),
        "endless trailers": (post + b"0\r\n", b"X: y\r\n" * 800),
        "chunk extensions": (post, b"1;" + b"e" * 4096 + b"\r\nx\r\n"),
    }[kind]
    with connected(port) as connection:
        connection.sendall(first)
        sent = 0
        try:
            while sent < 8 * 1024 * 1024:
                connection.sendall(more)
                sent += len(more)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 8 * 1024 * 1024
        answer = everything(connection)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer[:80]


def test_a_body_that_does_not_come_is_answered_408(port: int) -> None:
    """Who promises a body and sends none is told, and the connection ends."""
    with connected(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhello")
        assert everything(connection).startswith(b"HTTP/1.1 408")


def test_a_body_that_trickles_is_answered_408(start: Callable[..., int]) -> None:
    """Each byte in time, and the whole too slow: the average counts."""
    port = start(APP, limits=Limits(body_seconds=0.3, body_rate=1_000_000, linger_seconds=0.2))
    with connected(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        connection.settimeout(0.05)
        for _ in range(int(PATIENCE / 0.05)):
            try:
                connection.sendall(b"x")
                if answer := connection.recv(1024):
                    assert answer.startswith(b"HTTP/1.1 408")
                    return
            except TimeoutError:
                continue
    raise AssertionError("the server still reads")


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_an_answer_before_the_body_ends_the_connection(port: int, expect: bytes) -> None:
    """Else what the client sends next would be taken for the rest of the body, or the reverse."""
    with connected(port) as connection:
        connection.sendall(b"PUT /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n" + expect + b"\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("version", "headers", "status"),
    [
        ("1.1", "", 400),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.0", "Host: a\r\nhost: b\r\n", 400),
        ("1.1", "Host: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n", 400),
        ("1.1", "Host: a\r\nAuthorization: Bearer a\r\n", 200),
        ("1.0", "", 200),
    ],
)
def test_a_request_that_others_may_read_in_another_way_is_refused(
    port: int, version: str, headers: str, status: int
) -> None:
    """One Host, which HTTP/1.0 may leave out, and one Authorization at the most: else 400, and the connection ends."""
    with connected(port) as connection:
        connection.sendall(f"GET /early HTTP/{version}\r\n{headers}Connection: close\r\n\r\n".encode())
        assert everything(connection).startswith(f"HTTP/1.1 {status} ".encode())


def test_an_answer_after_the_body_keeps_it(port: int) -> None:
    """Only early answers cost the connection."""
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            answer = b""
            while not answer.endswith(b"hello"):
                answer += connection.recv(1024)
            assert b"connection: close" not in answer.lower()


def test_an_answer_without_a_look_at_a_body_that_is_there_keeps_it(port: int) -> None:
    """Where the body ends is known, so what follows is the next request, and nobody has to connect again."""
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(
                b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"GET / HT\r\n" * 900
            )
            answer = b""
            while not answer.endswith(b"no"):
                piece = connection.recv(1024)
                assert piece, "the server ended the connection"
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" not in answer.lower()


def test_a_reader_that_takes_nothing_is_cut_off(port: int) -> None:
    """An answer that nobody reads is not kept for ever."""
    with connected(port) as connection:
        connection.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3 * SHORT.stall_seconds)  # meanwhile the server gives up; what the kernel holds still comes
        assert len(everything(connection)) < 1000 * 65536


def test_a_reader_that_takes_nothing_over_tls_is_cut_off(start: Callable[..., int], localhost: Issued) -> None:
    """The same where the server waits for TLS."""
    port = start(APP, localhost.server_tls(), limits=SHORT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connected(port) as plain, context.wrap_socket(plain) as connection:
        connection.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3 * SHORT.stall_seconds)
        found = 0
        with suppress(OSError):  # TLS without its end is an error
            while data := connection.recv(65536):
                found += len(data)
        assert found < 1000 * 65536


def test_little_of_a_body_is_taken_before_anybody_asks(start: Callable[..., int]) -> None:
    """Who may be refused makes the server hold no more than a piece; who is listened to may send faster."""
    sizes: list[int] = []

    async def later(request: Request) -> Response:
        await asyncio.sleep(0.3)
        sizes.extend([len(piece) async for piece in request.stream()])
        return PlainTextResponse("done")

    port = start(build([Route("/", later, methods=["POST"])], name="later", body_limit=20_000_000))
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        connection.sendall(bytes(9_000_000))
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
    assert sum(sizes) == 9_000_000
    assert sizes[0] <= 350_000  # 64 KiB, and what one reading of the socket brings beyond
    assert max(sizes) <= 2_500_000


def test_many_bodies_share_what_may_wait(start: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many send at once to handlers that are slow, what the server holds of all bodies stays what it is."""
    waiting, people = WeakSet[server._Held](), 60

    class Counted(server._Held):
        __slots__ = ("__weakref__",)

        def __init__(self) -> None:
            super().__init__()
            waiting.add(self)

    async def slow(request: Request) -> Response:
        async for _ in request.stream():
            await asyncio.sleep(PATIENCE)
        return PlainTextResponse("done")

    monkeypatch.setattr(server, "_Held", Counted)
    port = start(build([Route("/", slow, methods=["POST"])], name="slow", body_limit=20_000_000))
    with ExitStack() as stack:
        senders = [stack.enter_context(connected(port)) for _ in range(people)]
        for sender in senders:
            sender.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
            sender.sendall(b"x")
            sender.setblocking(False)
        while len(server._arriving) < people:
            time.sleep(0.01)
        idle = 0
        while idle < 20:
            time.sleep(0.01)
            idle = 0 if sum(_sent(sender) for sender in senders) else idle + 1
        held = [len(one) for one in list(waiting)]
        assert len(held) >= people
        assert (
            sum(held) <= server.HELD_BY_ALL + people * 256_000
        )  # of which each has what one reading of its socket brought


def _sent(sender: socket.socket) -> int:
    try:
        return sender.send(bytes(1_000_000))
    except BlockingIOError:
        return 0


def test_there_is_a_last_connection(port: int) -> None:
    """More at once than the limit are closed at once; when one ends, another may come."""
    with ExitStack() as stack:
        held = [stack.enter_context(connected(port)) for _ in range(8)]
        ended = [everything(connection) for connection in held]
    assert ended == [b""] * 8
    with connected(port) as connection:
        connection.sendall(b"GET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_bounded(port: int) -> None:
    """Many requests in one piece are not all taken at once."""
    with connected(port) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        answer = everything(connection)
    assert answer.count(b"HTTP/1.1 200") < 100


@contextmanager
def stock(**options: str) -> Iterator[int]:
    """uvicorn as it is, with the protocol that ours is made from."""
    config = uvicorn.Config(APP, port=0, http="httptools", ws="none", log_config=None, timeout_graceful_shutdown=1)
    for name, value in options.items():
        setattr(config, name, value)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


def test_the_stock_server_has_every_hole(tmp_path: Path, localhost: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """What strangers do to ours above they do to uvicorn's own: it holds to none of it, so each test proves something."""
    monkeypatch.setattr("tests.unit.web.test_limits.PATIENCE", 1.5)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(localhost.server_tls().cert_chain_pem)
    key.write_bytes(localhost.server_tls().key_pem)
    with stock() as plain, stock(ssl_certfile=str(chain), ssl_keyfile=str(key)) as tls:
        strangers: dict[str, Callable[[], None]] = {
            "silence": partial(test_who_connects_and_says_nothing_is_cut_off, plain),
            "no handshake": partial(test_who_never_shakes_hands_is_cut_off, lambda *_, **__: tls, localhost),
            "trickling headers": partial(test_headers_that_trickle_are_cut_off, plain),
            **{kind: partial(test_a_flood_of_what_is_no_body_is_refused, plain, kind) for kind in FLOODS},
            "no body": partial(test_a_body_that_does_not_come_is_answered_408, plain),
            "trickling body": partial(test_a_body_that_trickles_is_answered_408, lambda *_, **__: plain),
            "early answer": partial(test_an_answer_before_the_body_ends_the_connection, plain, b""),
            "early answer, expected": partial(
                test_an_answer_before_the_body_ends_the_connection, plain, b"Expect: 100-continue\r\n"
            ),
            "no reader": partial(test_a_reader_that_takes_nothing_is_cut_off, plain),
            "connections": partial(test_there_is_a_last_connection, plain),
            "pipelining": partial(test_pipelined_requests_are_bounded, plain),
        }
        with ThreadPoolExecutor(len(strangers)) as pool:
            closed = [
                name for name, shut in zip(strangers, pool.map(_is_closed, strangers.values()), strict=True) if shut
            ]
    assert closed == []


def _is_closed(stranger: Callable[[], None]) -> bool:
    try:
        stranger()
    except (AssertionError, TimeoutError):
        return False
    return True
