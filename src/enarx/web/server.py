"""uvicorn with TLS, its holes closed, and the peer's certificate in the hand of the request.

The stock server accepts for ever: connections that never speak, headers that trickle or flood, bodies
and readers that stall, answers given before the body came. Here every wait has a limit and every
limit is an argument with its reason (`Limits`). HTTP/1.1 only; TLS 1.2 or newer; a client
certificate is asked for when CAs are given, and must then be valid or absent. `request.state` carries
`peer_cert` (DER, or None) and `peer_chain` (DER, leaf first). Nothing is printed here: `on_ready`
tells the port, `enarx.web.log` tells the rest. The protocol subclass stands on uvicorn's internals,
which `tests/contracts/test_uvicorn.py` holds to what is used; `tests/unit/web/test_limits.py` does what strangers do.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
import uvloop
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from enarx.attested.relying import peer_chain
from enarx.errors import UnavailableError
from enarx.web.app import has_body
from enarx.web.log import Log
from enarx.web.tls import Served, ServerTls
from enarx.web.wire import HandshakeError, Wire

BACKLOG: Final = 512  # connections that the kernel keeps for us between two turns of the loop
MAX_UNASKED: Final = 1 << 16  # bytes of body that are taken before a handler asks for any: it may refuse all
MAX_HELD: Final = 1 << 21  # bytes of body that wait for one that does,
HELD_BY_ALL: Final = 1 << 22  # and of all bodies together, but for MAX_UNASKED of each and what came with that
WORTH: Final = 1 << 20  # bytes of a long body for which it is woken,
NUDGE_SECONDS: Final = 0.005  # and how long it is left alone with fewer: waking it costs as much as hashing 50 KiB
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MAX_PIPELINED: Final = 16  # requests waiting on one connection; our client sends one at a time
ARRIVED: Final = "enarx.arrived"  # an extension of the scope: the whole body was there before the application began

_log = Log("web")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the server waits for a stranger, and how much it takes from one. Seconds and bytes."""

    handshake_seconds: float = 10.0  # from TCP connect to the end of the TLS handshake
    header_seconds: float = 10.0  # from then, or from a request's first byte, to the end of its headers
    keep_alive_seconds: int = 15  # between two requests; longer than clients keep idle connections (httpx2: 5)
    body_seconds: float = 20.0  # one wait for a piece of body; also the grace before the rate below counts
    body_rate: int = 1024  # bytes a second of body, on average, that waiting for it may not fall below
    stall_seconds: float = 30.0  # a reader that does not take what was written
    linger_seconds: float = 5.0  # how long the rest of a body is taken after an early answer, so that it arrives
    linger_bytes: int = 64 * 1024 * 1024
    header_bytes: int = 64 * 1024  # request line, headers and framing of one request
    header_count: int = 100
    connections: int = 1000  # at one time, those in their handshake included


DEFAULT_LIMITS: Final = Limits()


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    tls: ServerTls | Served | None,
    on_ready: Callable[[int], None] | None = None,
    on_hangup: Callable[[], None] | None = None,
    grace_seconds: float = 30.0,
    limits: Limits = DEFAULT_LIMITS,
    stop: threading.Event | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`, for a server in a thread), then finish what is under way.

    Port 0 takes a free one. `on_ready` is called with the port once connections are accepted. Requests still
    running `grace_seconds` after the signal are cancelled. `on_hangup` is called for SIGHUP. A `listener` that is open already takes the place of host
    and port. Raises UnavailableError when the address can not be had.
    """
    served = Served(tls) if isinstance(tls, ServerTls) else tls
    listener = listener or listen(host, port)
    _silence_uvicorn()
    _keep_memory()
    config = Config(
        app=Guard(app, limits),
        http=GuardedProtocol,
        ws="none",
        lifespan="auto",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=grace_seconds,  # type: ignore[arg-type]  # it is waited for, and fractions can be
        workers=1,
    )
    server = _Server(config, listener, served, limits, on_ready, on_hangup, stop)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.run_until_told())
    finally:
        listener.close()


class Guard:
    """Bounds how slowly a body may come, and ends connections whose request was answered before its body came.

    A body that is there already is waited for by nobody, and what follows it is the next request: nothing is to guard.
    """

    def __init__(self, app: ASGIApp, limits: Limits = DEFAULT_LIMITS) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or ARRIVED in scope.get("extensions", ()) or not has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._limits)
        await self._app(scope, body.receive, body.send)


class _Body:
    """The body of one request on its way in."""

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._received = 0
        self._waited = 0.0
        self._complete = False

    async def receive(self) -> Message:
        """The next piece. Time in which nobody asked for one does not count against the sender."""
        if self._complete:
            return await self._receive()
        limits = self._limits
        budget = limits.body_seconds + self._received / limits.body_rate - self._waited
        before = time.monotonic()
        try:
            async with asyncio.timeout(min(limits.body_seconds, budget)):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body came too slowly") from error
        self._waited += time.monotonic() - before
        self._received += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """An answer before the end of the body ends the connection, for what follows can not be told apart."""
        if self._complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
            await self._send({**message, "headers": [*headers, (b"connection", b"close")]})
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        """Take what is still coming, within limits: closing with unread bytes would reset the answer away."""
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds):
                while taken <= self._limits.linger_bytes:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return


def _require_unambiguous(names: list[bytes], version: str) -> None:
    """Raises ValueError where a proxy before us may have read the request in another way than we do."""
    hosts = names.count(b"host")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise ValueError("expected one Host")  # RFC 9112, 3.2
    if names.count(b"authorization") > 1:
        raise ValueError("expected one Authorization")  # RFC 9110, 5.3: no list, so it comes once


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Counts what is not body, and gives every wait for headers a deadline."""

    limits: Limits = DEFAULT_LIMITS

    def __init__(self, *args: Any, limits: Limits = DEFAULT_LIMITS, **named: Any) -> None:  # Any: uvicorn's own
        super().__init__(*args, **named)
        self.limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._overhead = 0  # bytes received in this request that were not body
        self._body = 0
        self._asked = 0  # how often a handler took what had come of the body, and once more
        self._header_bytes = 0
        self._refusal = 400

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        chain = peer_chain(transport.get_extra_info("ssl_object"))
        self.app_state = {**self.app_state, "peer_cert": chain[0] if chain else None, "peer_chain": chain}
        self._arm(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._settle()
        _arriving.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        current = self._current()
        if self._deadline is None and (current is None or current.response_complete):
            self._arm(self.limits.header_seconds)
        self._overhead += len(data)
        super().data_received(data)
        # A body of one-byte chunks has five bytes of framing to one of body; nothing honest has more than eight.
        if self._overhead > self.limits.header_bytes + 8 * self._body and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = self._asked = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        current = self._current()
        if current is not None and current.scope is self.scope:
            return  # a trailer: it came after the request was handed over, and changes nothing in it
        super().on_header(name, value)
        if len(self.headers) > self.limits.header_count:
            self._refusal = 431
            raise ValueError("too many headers")  # the parser stops, and send_400_response answers

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        _require_unambiguous([name for name, _ in self.headers], self.parser.get_http_version())
        self._disarm()
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose answer has no body that its head could wait for
            self.cycle.transport = _Together(self.cycle)  # type: ignore[assignment]  # as much of one as a cycle uses

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._body += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        held: object = cycle.body
        if not isinstance(held, _Held):
            cycle.body = held = _Held()  # type: ignore[assignment]  # `len` and `bytes` are what a cycle asks of it
            self._asked += 1
        held.append(body)
        _arriving.add(self)
        most = _most_held() if self._asked > 1 else MAX_UNASKED
        if len(held) >= most:
            self.flow.pause_reading()
        if len(held) >= min(WORTH, most) or self._body < WORTH:
            cycle.message_event.set()
        elif self._nudge is None:
            self._nudge = self.loop.call_later(NUDGE_SECONDS, self._wake, cycle)

    def on_message_complete(self) -> None:
        _arriving.discard(self)
        super().on_message_complete()
        self.cycle.scope["extensions"] = {ARRIVED: {}}  # too late for an application that has begun, which has looked
        self._overhead = self._body = 0

    def _wake(self, cycle: RequestResponseCycle) -> None:
        self._nudge = None
        if cycle.body:
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called by the parser's owner when the parser gave up, which it also does when one of us refused."""
        self._refuse(self._refusal)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.limits.stall_seconds, self._give_up, "reader stalled")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._settle()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def _current(self) -> RequestResponseCycle | None:
        return self.cycle  # None until the first request, whatever its annotation says

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.header_bytes:
            self._refusal = 431
            raise ValueError("too long a header")  # the parser stops, and send_400_response answers

    def _refuse(self, status: int) -> None:
        """Answer without a request, as far as one is still possible, and close."""
        current = self._current()
        started = current is not None and current.response_started and not current.response_complete
        if not started and not self.transport.is_closing():
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        _log.info("refused", status=status, client=self.client[0] if self.client else None)
        if current is not None:
            current.disconnected = True
            current.message_event.set()
        self._close()

    def _close(self) -> None:
        """Close, and do not wait for ever for a reader that takes nothing."""
        self.transport.close()
        self.loop.call_later(self.limits.linger_seconds, self.transport.abort)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._give_up, "headers too slow")

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _settle(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _give_up(self, why: str) -> None:
        _log.info("gave up", why=why, client=self.client[0] if self.client else None)
        self.transport.abort()


_arriving: Final[set[GuardedProtocol]] = set()  # those, of this process, of whose bodies more is to come


def _most_held() -> int:
    return max(MAX_UNASKED, min(MAX_HELD, HELD_BY_ALL // max(1, len(_arriving))))


class _Held:
    """Body that waits for a handler: pieces, joined once when it is asked for."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _Together:
    """The transport as one response sees it: its head leaves with the first of its body, in one TLS record.

    Two writes are two records and two system calls, which cost more than all else that HTTP does for a short answer.
    """

    __slots__ = ("_cycle", "_head", "_started", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._started = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Hold the head back. What comes before it, `100 Continue`, goes out at once, as does all that follows."""
        if self._started:
            self._transport.write(self._head + data if self._head else data)
            self._head = b""
        elif self._cycle.response_started:
            self._started, self._head = True, data
        else:
            self._transport.write(data)

    def close(self) -> None:
        """A handler may have failed between head and body."""
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


@dataclass(slots=True)
class _Listener:
    """Accepts connections itself, so that those in their handshake are counted, bounded and told of."""

    listener: socket.socket
    served: Served | None
    limits: Limits
    make: Callable[[], GuardedProtocol]
    state: ServerState
    _opening: set[asyncio.Task[None]] = field(default_factory=set)
    _accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        for task in (self._accepting, *self._opening):
            if task is not None:
                task.cancel()
        self.listener.close()

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self.listener)
            except OSError as error:  # the peer is gone already, or we are out of descriptors: wait for some to end
                _log.warning("accept failed", error=error.strerror)
                await asyncio.sleep(0.05)
                continue
            if len(self._opening) + len(self.state.connections) >= self.limits.connections:
                _log.warning("too many connections", limit=self.limits.connections)
                connection.close()
                continue
            task = loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self.served is None:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self.make, connection)
            return
        limits = self.limits
        client = _address(connection)
        wire = Wire(
            self.served.context, self.make, linger_seconds=limits.linger_seconds, stall_seconds=limits.stall_seconds
        )
        try:
            await loop.connect_accepted_socket(lambda: wire, connection)
            async with asyncio.timeout(limits.handshake_seconds):
                await wire.opened
        except HandshakeError as error:
            _log.info("handshake failed", why=error.why, client=client)
            await wire.lost  # until the peer has heard why it counts as a connection
        except (OSError, TimeoutError) as error:
            _log.info("handshake failed", why=type(error).__name__, client=client)
            wire.abort()


class _Server(uvicorn.Server):
    """uvicorn's server with our listener, our signals, and an end that is no error."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        served: Served | None,
        limits: Limits,
        on_ready: Callable[[int], None] | None,
        on_hangup: Callable[[], None] | None,
        stop: threading.Event | None,
    ) -> None:
        super().__init__(config)
        self._socket = listener
        self._served = served
        self._limits = limits
        self._on_ready = on_ready
        self._on_hangup = on_hangup
        self._stop = stop

    async def run_until_told(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._told)
            if self._on_hangup is not None:
                loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a parent may have blocked it until now
        await self._serve()
        if self._on_hangup is not None:  # the loop takes its hand away when it ends, and the program has not yet
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise UnavailableError("the service could not start; its log says why")
        listener = _Listener(self._socket, self._served, self._limits, self._protocol, self.server_state)
        listener.start()
        self.servers = [listener]  # type: ignore[list-item]  # uvicorn closes it and waits for it, and no more
        self.started = True
        if self._on_ready is not None:
            self._on_ready(self._socket.getsockname()[1])

    async def on_tick(self, counter: int) -> bool:
        if self._stop is not None and self._stop.is_set():
            self.should_exit = True
        return await super().on_tick(counter)

    def _protocol(self) -> GuardedProtocol:
        return GuardedProtocol(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            limits=self._limits,
        )

    def _told(self) -> None:
        """The first signal ends gently, the second at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _address(connection: socket.socket) -> str | None:
    with contextlib.suppress(OSError):
        return str(connection.getpeername()[0])
    return None


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one. Raises UnavailableError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UnavailableError(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _keep_memory() -> None:
    """Let the C library keep what it would give back between two pieces of a body, only to ask for it again page by page.

    And let all threads share it: by itself it keeps a store of free memory for each, which is far more than is used.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have their own ways
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 4 * MAX_HELD)
        mallopt(_M_TRIM_THRESHOLD, 8 * MAX_HELD)


def _silence_uvicorn() -> None:
    """Its messages are replaced by our events; its tracebacks could carry what was in a request."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def write_ready(descriptor: int, port: int) -> None:
    """Tell whoever started us where we listen: `<port>` and a newline on an inherited descriptor, then close it."""
    with contextlib.suppress(BrokenPipeError):  # the one who asked need not wait for the answer
        os.write(descriptor, f"{port}\n".encode())
    os.close(descriptor)
