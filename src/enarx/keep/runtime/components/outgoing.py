"""wasi:http/outgoing-handler: requests of a component's own.

Whom it may reach is decided by the lists of the package, TLS is the Keep's, and its certificate is shown to whoever asks
for one. Redirects are the component's business. There is no thread: whoever waits for the answer, for room in the body
or for the answer's body moves the exchange on.

    look up the name (in a thread: nothing else cannot wait)   try its addresses in turn   shake hands
    send the head, and the body as it is written               read the head of the answer, while the body may go on

Time is bounded by the component's options, else by the constants here: to connect, to the answer's head once the
request has gone, and between bytes afterwards.
"""

import errno
import os
import re
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enarx.errors import EnarxError, UnavailableError
from enarx.keep import network
from enarx.keep.config import Connect
from enarx.keep.runtime.abi import FD_WRITE, Refused
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.http import Body, Options, Outgoing, consume, error_code, method_text, visible
from enarx.keep.runtime.components.io import Pollable, When
from enarx.keep.runtime.components.messages import (
    Conversation,
    GoneError,
    Headers,
    Incoming,
    MessageError,
    Wire,
    encode_head,
)
from enarx.keep.runtime.components.sockets import World, addresses, client_stream, find
from enarx.keep.runtime.components.values import Err, Ok, Own
from enarx.keep.runtime.streams import Stream
from enarx.keep.runtime.tls import TlsStream

CONNECT_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 60.0
SILENCE_SECONDS: Final = 60.0

_STARTED: Final = frozenset({0, errno.EINPROGRESS})


class Exchange:
    """future-incoming-response: one request, from its name to the head of its answer."""

    def __init__(self, world: World, request: Outgoing, scheme: str, host: str, port: int, options: Options) -> None:
        """Raises OSError."""
        self._world, self._waiter, self._request = world, world.waiter, request
        self._scheme, self._host, self._port = scheme, host, port
        self._first = _seconds(options.first, ANSWER_SECONDS)
        self._between = _seconds(options.between, SILENCE_SECONDS)
        self._ends = time.monotonic() + _seconds(options.connect, CONNECT_SECONDS)
        self._chunked = request.taken and request.length is None and bool(request.trailers or not request.sink.finished)
        self._names: _Names | None = None
        self._candidates: list[str] = []
        self._last: OSError | None = None  # why the last address did not answer
        self._sock: socket.socket | None = None
        self._stream: Stream | None = None
        self._conversation: Conversation | None = None
        self.result: Incoming | Err | None = None
        self.given = False
        world.allowance.take()
        self._counted = True
        if request.taken:
            request.sink.expect(self.pollable)
        else:
            request.sink.end([])
        if network.is_name(host) and host != "localhost":
            self._names = _Names(host)
        else:
            self._candidates = list(addresses(world.policy, host)) if host == "localhost" else [host]
        self.step()

    def pollable(self) -> Pollable:
        return When(self.step, self._watch, lambda: self._ends)

    def step(self) -> bool:
        """Go on as far as nothing has to be waited for; whether there is a result."""
        try:
            while self.result is None and self._advance():
                pass
            if self.result is None and time.monotonic() >= self._ends:
                raise TimeoutError if self._conversation is None else GoneError("too slow")
        except (EnarxError, GoneError, MessageError, Refused, OSError, ValueError) as error:
            self.result = Err(error_code(error))
            self._request.sink.fail(error)
            self.close()
        return self.result is not None

    def _advance(self) -> bool:
        if self._conversation is not None:
            return self._receive(self._conversation)
        if self._stream is not None:
            return self._shake(self._stream)
        if self._sock is not None:
            return self._reach(self._sock)
        if self._names is not None:
            return self._find(self._names)
        return self._try_next()

    def _find(self, names: "_Names") -> bool:
        if names.found is None:
            return False
        for address in names.found:
            self._world.policy.found(self._host, address)
        self._candidates, self._names = list(names.found), None
        names.close()
        return True

    def _try_next(self) -> bool:
        if not self._candidates:
            raise self._last or GoneError("no address")
        address = self._candidates.pop(0)
        self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        number = self._sock.connect_ex((address, self._port))
        if number not in _STARTED:
            self._give_up(self._sock, number)
        return True

    def _give_up(self, sock: socket.socket, number: int) -> None:
        """Nobody answers at this address; the next one may do."""
        self._last = OSError(number, os.strerror(number))
        sock.close()
        self._sock = None

    def _reach(self, sock: socket.socket) -> bool:
        if not self._waiter.poll({sock.fileno(): select.POLLOUT}, 0):
            return False
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._give_up(sock, number)
            return True
        if self._scheme == "HTTP":
            self._stream = Stream(sock, self._waiter)
        else:
            self._stream = self._encrypted(sock)
        return True

    def _encrypted(self, sock: socket.socket) -> TlsStream:
        world = self._world
        if world.contexts is None:
            raise UnavailableError("this Keep has no TLS")
        entry = world.policy.connection(str(sock.getpeername()[0]), self._port)
        entry = entry or Connect(name=self._host, prot="tls", host=self._host, port=self._port)
        return client_stream(sock, self._host, entry, world.contexts, self._waiter, world.log)

    def _shake(self, stream: Stream) -> bool:
        if isinstance(stream, TlsStream) and not stream.shake():
            return False
        wire = Wire(stream, self._waiter, self._between)
        wire.post(self._head())
        self._request.sink.attach(wire, chunked=self._chunked)
        if self._request.sink.finished and self._chunked:
            self._request.sink.end(self._request.trailers)
        self._conversation = Conversation(wire, request=False)
        self._ends = time.monotonic() + self._first
        return True

    def _receive(self, conversation: Conversation) -> bool:
        sink, wire = self._request.sink, conversation.wire
        if sink.abandoned:
            raise GoneError("the request was left unfinished")
        try:
            gone = wire.post()
        except GoneError as error:
            wire.forget()  # whoever does not want the rest may have answered already
            sink.fail(error)
            gone = True
        if not gone or sink.open:
            self._ends = time.monotonic() + self._first  # the request is still going
        while (incoming := conversation.arrived()) is None or incoming.message.status < 200:
            if incoming is None:  # else it was 100 Continue, or its like
                more = conversation.glance()
                if more is None:
                    return False
                if not more:
                    raise GoneError("ended without an answer")
        if self._request.method == "head" or incoming.message.status in {204, 304}:
            incoming.message.complete = True
        wire.begin(self._between)
        self.result = incoming
        return True

    def _head(self) -> bytes:
        request, host = self._request, self._host
        shown = f"[{host}]" if ":" in host else host
        if self._port != (443 if self._scheme == "HTTPS" else 80):
            shown = f"{shown}:{self._port}"
        pairs: Headers = [("host", shown.encode())]
        pairs += [pair for pair in request.headers.pairs if pair[0].lower() != "content-length"]
        if self._chunked:
            pairs.append(("transfer-encoding", b"chunked"))
        elif request.taken or request.method in {"post", "put", "patch"}:
            length = request.sink.size if request.length is None or not request.taken else request.length
            pairs.append(("content-length", str(length).encode()))
        pairs.append(("connection", b"close"))
        return encode_head(f"{method_text(request.method)} {request.target or '/'} HTTP/1.1", pairs)

    def _watch(self) -> tuple[int, int] | None:
        if self._conversation is not None:
            return self._conversation.wire.watch()
        if self._stream is not None:
            return self._stream.fileno(), self._stream.wants(FD_WRITE)
        if self._sock is not None:
            return self._sock.fileno(), select.POLLOUT
        return None if self._names is None else (self._names.fileno(), select.POLLIN)

    def get(self) -> Any:  # Any: option<result<result<incoming-response, error-code>>>
        if not self.step():
            return None
        if self.given:
            return Err()
        self.given = True
        if isinstance(self.result, Incoming):
            return Ok(Own(Answer(self.result, self), "incoming-response"))
        return Ok(self.result)

    def close(self) -> None:
        """Let go of the connection."""
        if self._names is not None:
            self._names.close()
            self._names = None
        if self._stream is not None:
            self._stream.close()
        elif self._sock is not None:
            self._sock.close()
        if self._counted:
            self._counted = False
            self._world.allowance.give()

    def drop(self) -> None:
        if not (self.given and isinstance(self.result, Incoming)):  # else the answer has it
            self._request.sink.fail(GoneError("nobody waits for the answer"))
            self.close()


class _Names:
    """The addresses of a name, looked up in a thread; readable when they are there."""

    def __init__(self, name: str) -> None:
        self.found: Sequence[str] | None = None
        self._here, there = socket.socketpair()

        def look() -> None:
            with there:
                self.found = find(name)

        threading.Thread(target=look, name="lookup", daemon=True).start()

    def fileno(self) -> int:
        return self._here.fileno()

    def close(self) -> None:
        self._here.close()


class Answer:
    """incoming-response."""

    def __init__(self, incoming: Incoming, exchange: Exchange) -> None:
        self.incoming, self._exchange = incoming, exchange
        self.headers = visible(incoming.message.headers)
        self.body = Body(incoming, after=exchange.close)
        self.consumed = False

    def drop(self) -> None:
        if not self.consumed:
            self._exchange.close()


def _seconds(nanoseconds: int | None, default: float) -> float:
    return default if nanoseconds is None else nanoseconds / 1e9


def _authority(text: str, default: int) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::([0-9]{1,5}))?", text)
    if match is None:
        return text, None
    port = int(match.group(2) or default)
    return network.fold(match.group(1).strip("[]")), port if 0 < port <= network.LAST_PORT else None


def implementations(world: World) -> Mapping[str, Implementation]:
    """wasi:http/outgoing-handler, and of wasi:http/types what comes back."""

    def handle(request: Outgoing, options: Options | None) -> Own | Err:
        """Refuses at once what may not be, else answers a future."""
        scheme = request.scheme or "HTTPS"
        if scheme not in {"HTTP", "HTTPS"} or not request.authority:
            return Err("HTTP-protocol-error" if request.authority else "HTTP-request-URI-invalid")
        host, port = _authority(request.authority, 443 if scheme == "HTTPS" else 80)
        if port is None or not world.policy.allows(host, port):
            world.denied(f"reach {host} port {port}")
            return Err("HTTP-request-denied")
        try:
            exchange = Exchange(world, request, scheme, host, port, options or Options())
        except OSError:
            return Err("connection-limit-reached")
        return Own(exchange, "future-incoming-response")

    answer, future = "wasi:http/types#[method]incoming-response.", "wasi:http/types#[method]future-incoming-response."
    return {
        "wasi:http/outgoing-handler#handle": handle,
        f"{answer}status": lambda message: message.incoming.message.status,
        f"{answer}headers": lambda message: Own(message.headers, "fields"),
        f"{answer}consume": consume,
        f"{future}subscribe": lambda exchange: Own(exchange.pollable(), "pollable"),
        f"{future}get": lambda exchange: exchange.get(),
    }
