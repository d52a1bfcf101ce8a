"""wasi:http for components: the resources of `types`, and requests of a component's own (`outgoing-handler`).

An answer streams: its head goes out when the component sets it, every piece of its body as it is written. A request of a
component is collected until its body is finished, and then sent by a thread; whom it may reach is decided by the lists
of the package, TLS is the Keep's, and its certificate is shown to whoever asks for one.
"""

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from enarx.errors import EnarxError, UnavailableError
from enarx.keep import network
from enarx.keep.config import Connect
from enarx.keep.runtime.abi import FD_WRITE, Refused
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Failure, Pollable, When
from enarx.keep.runtime.components.messages import (
    HOP_BY_HOP,
    Conversation,
    GoneError,
    Headers,
    Incoming,
    MessageError,
    Wire,
    chunk,
    encode_head,
    last_chunk,
)
from enarx.keep.runtime.components.sockets import World, addresses, client_stream
from enarx.keep.runtime.components.values import Err, Ok, Own
from enarx.keep.runtime.streams import Stream
from enarx.keep.runtime.tls import TlsStream
from enarx.keep.runtime.waiting import Interrupt, Interrupted, Waiter

MAX_BODY: Final = 64 * 1024 * 1024  # bytes of a request that a component sends
CONNECT_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 60.0  # for the head of an answer, unless the component says otherwise
WRITE_PIECE: Final = 65536

METHODS: Final = frozenset({"get", "head", "post", "put", "delete", "connect", "options", "trace", "patch"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(r"[!-~]*")


class Fields:
    """Headers or trailers. Those of a message that has come cannot be changed."""

    def __init__(self, pairs: Headers | None = None, *, fixed: bool = False) -> None:
        self.pairs, self.fixed = list(pairs or []), fixed

    def change(self, name: str, values: Sequence[bytes], *, append: bool = False) -> Err | None:
        if self.fixed:
            return Err("immutable")
        if (wrong := _wrong(name, values)) is not None:
            return wrong
        if not append:
            self.pairs = [pair for pair in self.pairs if pair[0].lower() != name.lower()]
        self.pairs += [(name, bytes(value)) for value in values]
        return None

    def get(self, name: str) -> list[bytes]:
        return [value for known, value in self.pairs if known.lower() == name.lower()]


def _wrong(name: str, values: Sequence[bytes]) -> Err | None:
    if not _TOKEN.fullmatch(name) or any(set(value) & {0, 10, 13} for value in values):
        return Err("invalid-syntax")
    return Err("forbidden") if name.lower() in HOP_BY_HOP else None


class Body:
    """The body of a message that came: one stream, then its trailers."""

    def __init__(
        self, incoming: Incoming, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        """`before` is called once, when the body is first read, `after` when nobody holds it any more."""
        self.incoming, self._before, self._after, self._rest = incoming, before, after, b""
        self._handles = 0  # body, stream and trailers are handles to the same

    def held(self, resource: str) -> Own:
        """One more handle."""
        self._handles += 1
        return Own(self, resource)

    def drop(self) -> None:
        self._handles -= 1
        if self._handles <= 0 and self._after is not None:
            self._after()

    def read(self, limit: int) -> bytes | Err:
        """As an input-stream; waits for the network, for nothing else can be done meanwhile."""
        if self._before is not None:
            before, self._before = self._before, None
            before()
        try:
            self._rest = self._rest or self.incoming.read()
        except (MessageError, GoneError) as error:
            return Err(("last-operation-failed", Own(Failure(str(error), error), "error")))
        if not self._rest:
            return Err(("closed", None))
        found, self._rest = self._rest[:limit], self._rest[limit:]
        return found

    blocking_read = read

    def pollable(self) -> Pollable:
        return Pollable()


class Request:
    """incoming-request."""

    def __init__(self, incoming: Incoming, method: str, scheme: str, body: Body) -> None:
        message = incoming.message
        self.method, self.scheme, self.body = method, scheme, body
        self.target = message.target.decode("latin-1")
        self.authority = (message.get("host") or b"").decode("latin-1") or None
        self.headers = Fields([pair for pair in message.headers if pair[0] != "host"], fixed=True)
        self.consumed = False


class Response:
    """outgoing-response, and its body: written through `send` once the component has set it."""

    def __init__(self, headers: Fields) -> None:
        self.headers, self.status = headers, 200
        self.headers.fixed = True
        self.taken = self.finished = self.opened = False
        self.waiting: list[bytes] = []
        self.send: Callable[[bytes], None] | None = None
        self.trailers: Headers = []

    def attach(self, send: Callable[[bytes], None]) -> None:
        """From now on pieces go out; those that waited go first."""
        self.send = send
        for piece in self.waiting:
            send(piece)
        self.waiting.clear()

    # -- as an output-stream

    def check(self) -> int:
        return WRITE_PIECE

    def write(self, data: bytes) -> Err | None:
        try:
            if data and self.send is not None:
                self.send(data)
            elif data:
                self.waiting.append(data)
        except GoneError:
            return Err(("closed", None))
        return None

    def flush(self) -> Err | None:
        return None

    def pollable(self) -> Pollable:
        return Pollable()


class Outparam:
    """response-outparam: where the component puts its answer, once."""

    def __init__(self, answer: Callable[[Response | Err], None]) -> None:
        self.answer = answer


class Outgoing:
    """outgoing-request, its body, and the output-stream of that."""

    def __init__(self, headers: Fields) -> None:
        self.headers = headers
        self.headers.fixed = True
        self.method: Any = "get"  # Any: a variant's name, or ("other", text)
        self.target: str | None = None
        self.scheme: Any = None  # Any: as above
        self.authority: str | None = None
        self.data = bytearray()
        self.taken = self.opened = self.finished = False
        self.trailers: Headers = []
        self.go: Callable[[], None] | None = None

    def check(self) -> int:
        return WRITE_PIECE

    def write(self, data: bytes) -> Err | None:
        if len(self.data) + len(data) > MAX_BODY:
            return Err(("last-operation-failed", Own(Failure(f"more than {MAX_BODY} bytes"), "error")))
        self.data += data
        return None

    def flush(self) -> Err | None:
        return None

    def pollable(self) -> Pollable:
        return Pollable()

    def finish(self) -> None:
        self.finished = True
        if self.go is not None:
            go, self.go = self.go, None
            go()


class Options:
    """request-options, in nanoseconds."""

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first: int | None = None
        self.between: int | None = None


class Future:
    """future-incoming-response: filled by the thread that sends the request."""

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.result: Incoming | Err | None = None
        self.given = False

    def fill(self, result: Incoming | Err) -> None:
        self.result = result
        os.eventfd_write(self._event, 1)

    def pollable(self) -> Pollable:
        return When(lambda: self.result is not None, lambda: (self._event, select.POLLIN))

    def drop(self) -> None:
        os.close(self._event)
        if isinstance(self.result, Incoming) and not self.given:
            self.result.wire.stream.close()


class Answer:
    """incoming-response."""

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.headers = Fields(incoming.message.headers, fixed=True)
        self.body = Body(incoming, after=incoming.wire.stream.close)
        self.consumed = False

    def drop(self) -> None:
        if not self.consumed:
            self.incoming.wire.stream.close()


class Sender:
    """Sends a component's requests, within the lists of the package."""

    def __init__(self, world: World, interrupt: Interrupt, waiter: Waiter) -> None:
        self._world, self._interrupt, self._waiter = world, interrupt, waiter

    def handle(self, request: Outgoing, options: Options | None) -> Own | Err:
        """outgoing-handler.handle: refuses at once what may not be, else answers a future."""
        scheme = request.scheme or "HTTPS"
        if scheme not in {"HTTP", "HTTPS"} or not request.authority:
            return Err("HTTP-protocol-error" if request.authority else "HTTP-request-URI-invalid")
        host, port = _authority(request.authority, 443 if scheme == "HTTPS" else 80)
        if port is None or not self._world.policy.allows(host, port):
            self._world.denied(f"reach {host} port {port}")
            return Err("HTTP-request-denied")
        future = Future(self._waiter)

        def start() -> None:
            work = (future, request, scheme, host, port, options or Options())
            threading.Thread(target=self._send, args=work, name="request", daemon=True).start()

        if request.taken and not request.finished:
            request.go = start
        else:
            start()
        return Own(future, "future-incoming-response")

    def _send(self, future: Future, request: Outgoing, scheme: str, host: str, port: int, options: Options) -> None:
        waiter = Waiter(self._interrupt)
        try:
            wire = Wire(self._connect(scheme, host, port, options, waiter), waiter)
            wire.write(_request_bytes(request, host, port, scheme))
            wire.deadline = time.monotonic() + _seconds(options.first, ANSWER_SECONDS)
            incoming = _answer_head(wire, request)
            wire.deadline = None
            wire.waiter = wire.stream.waiter = self._waiter  # from now on the component's thread reads
            future.fill(incoming)
        except (EnarxError, Interrupted, GoneError, MessageError, Refused, OSError, ValueError) as error:
            future.fill(Err(_error_code(error)))

    def _connect(self, scheme: str, host: str, port: int, options: Options, waiter: Waiter) -> Stream:
        world = self._world
        deadline = time.monotonic() + _seconds(options.connect, CONNECT_SECONDS)
        found = addresses(world.policy, host) if network.is_name(host) else [host]
        if not found:
            raise GoneError("no address")
        sock = socket.socket(socket.AF_INET6 if ":" in found[0] else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        stream = Stream(sock, waiter)
        try:
            _reach(sock, (found[0], port), waiter, deadline)
            if scheme == "HTTP":
                return stream
            return self._encrypt(sock, host, world.policy.connection(found[0], port), waiter, deadline)
        except BaseException:
            stream.close()
            raise

    def _encrypt(
        self, sock: socket.socket, host: str, entry: Connect | None, waiter: Waiter, deadline: float
    ) -> TlsStream:
        if self._world.contexts is None:
            raise UnavailableError("this Keep has no TLS")
        entry = entry or Connect(name=host, prot="tls", host=host, port=443)
        stream = client_stream(sock, host, entry, self._world.contexts, waiter, self._world.log)
        while not stream.shake():
            if not waiter.poll({stream.fileno(): stream.wants(FD_WRITE)}, deadline):
                stream.close()
                raise TimeoutError
        return stream


def _answer_head(wire: Wire, request: Outgoing) -> Incoming:
    conversation = Conversation(wire, request=False)
    while (incoming := conversation.next()) is not None:
        if incoming.message.status >= 200:  # before it 100 Continue and its like
            if request.method == "head" or incoming.message.status in {204, 304}:
                incoming.message.complete = True
            return incoming
    raise GoneError("ended without an answer")


def _reach(sock: socket.socket, address: tuple[str, int], waiter: Waiter, deadline: float) -> None:
    sock.connect_ex(address)
    if not waiter.poll({sock.fileno(): select.POLLOUT}, deadline):
        raise TimeoutError
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))


def _error_code(error: BaseException) -> str:
    """What wasi:http calls it."""
    if isinstance(error, TimeoutError):
        return "connection-timeout"
    if isinstance(error, ConnectionRefusedError):
        return "connection-refused"
    if isinstance(error, GoneError | MessageError):
        codes = {"too slow": "connection-read-timeout", "no address": "destination-not-found"}
        return codes.get(str(error), "HTTP-protocol-error")
    if isinstance(error, EnarxError | Refused):
        return "TLS-certificate-error"
    return "connection-terminated"


def _seconds(nanoseconds: int | None, default: float) -> float:
    return default if nanoseconds is None else nanoseconds / 1e9


def _authority(text: str, default: int) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::([0-9]{1,5}))?", text)
    if match is None:
        return text, None
    port = int(match.group(2) or default)
    return network.fold(match.group(1).strip("[]")), port if 0 < port <= network.LAST_PORT else None


def method_text(method: Any) -> str:  # Any: a variant's name, or (name, text)
    name, text = method if isinstance(method, tuple) else (method, None)
    return text if name == "other" else str(name).upper()


def _request_bytes(request: Outgoing, host: str, port: int, scheme: str) -> bytes:
    shown = f"[{host}]" if ":" in host else host
    if port != (443 if scheme == "HTTPS" else 80):
        shown = f"{shown}:{port}"
    pairs = [("host", shown.encode()), *request.headers.pairs, ("connection", b"close")]
    length = request.headers.get("content-length")
    if request.trailers:
        body = chunk(bytes(request.data)) + last_chunk(request.trailers)
        pairs = [pair for pair in pairs if pair[0].lower() != "content-length"] + [("transfer-encoding", b"chunked")]
    else:
        body = bytes(request.data)
        if not length and (body or request.method in {"post", "put", "patch"}):
            pairs.append(("content-length", str(len(body)).encode()))
    return encode_head(f"{method_text(request.method)} {request.target or '/'} HTTP/1.1", pairs) + body


def implementations(sender: Sender | None) -> Mapping[str, Implementation]:
    """wasi:http/types and, with a sender, wasi:http/outgoing-handler."""
    types = "wasi:http/types#"
    table: dict[str, Implementation] = {**_fields(types), **_incoming(types), **_answers(types), **_requests(types)}
    if sender is not None:
        table["wasi:http/outgoing-handler#handle"] = sender.handle
    return table


def _fields(types: str) -> Mapping[str, Implementation]:
    def from_list(pairs: Sequence[tuple[str, bytes]]) -> Own | Err:
        for name, value in pairs:
            if (wrong := _wrong(name, [value])) is not None:
                return wrong
        return Own(Fields([(name, value) for name, value in pairs]), "fields")

    method = f"{types}[method]fields."
    return {
        f"{types}[constructor]fields": lambda: Own(Fields(), "fields"),
        f"{types}[static]fields.from-list": from_list,
        f"{method}get": lambda fields, name: fields.get(name),
        f"{method}has": lambda fields, name: bool(fields.get(name)),
        f"{method}set": lambda fields, name, values: fields.change(name, values),
        f"{method}delete": lambda fields, name: fields.change(name, []),
        f"{method}append": lambda fields, name, value: fields.change(name, [value], append=True),
        f"{method}entries": lambda fields: fields.pairs,
        f"{method}clone": lambda fields: Own(Fields(fields.pairs), "fields"),
    }


def _consume(message: Request | Answer) -> Own | Err:
    if message.consumed:
        return Err()
    message.consumed = True
    return message.body.held("incoming-body")


def _incoming(types: str) -> Mapping[str, Implementation]:
    request, body = f"{types}[method]incoming-request.", f"{types}[method]incoming-body."

    def trailers(incoming: Body) -> Any:  # Any: option<result<result<option<trailers>, error>>>
        found = incoming.incoming.message.trailers
        return Ok(Ok(Own(Fields(found, fixed=True), "fields") if found else None))

    return {
        f"{request}method": lambda message: _variant(message.method),
        f"{request}path-with-query": lambda message: message.target,
        f"{request}scheme": lambda message: message.scheme,
        f"{request}authority": lambda message: message.authority,
        f"{request}headers": lambda message: Own(message.headers, "fields"),
        f"{request}consume": _consume,
        f"{body}stream": lambda incoming: incoming.held("input-stream"),
        f"{types}[static]incoming-body.finish": lambda incoming: Own(incoming, "future-trailers"),
        f"{types}[method]future-trailers.subscribe": lambda _: Own(Pollable(), "pollable"),
        f"{types}[method]future-trailers.get": trailers,
        f"{types}http-error-code": lambda _: None,
    }


def _variant(method: str) -> Any:  # Any: a variant's name, or ("other", text)
    return method.lower() if method.lower() in METHODS and method.isupper() else ("other", method)


def _answers(types: str) -> Mapping[str, Implementation]:
    response, body = f"{types}[method]outgoing-response.", f"{types}[method]outgoing-body."

    def status(message: Response, code: int) -> Err | None:
        if not 100 <= code <= 999:
            return Err()
        message.status = code
        return None

    def take(message: Response | Outgoing) -> Own | Err:
        if message.taken:
            return Err()
        message.taken = True
        return Own(message, "outgoing-body")

    def open_body(message: Response | Outgoing) -> Own | Err:
        if message.opened:
            return Err()
        message.opened = True
        return Own(message, "output-stream")

    def finish(message: Response | Outgoing, trailers: Fields | None) -> None:
        message.trailers = trailers.pairs if trailers is not None else []
        if isinstance(message, Outgoing):
            message.finish()
        else:
            message.finished = True

    return {
        f"{types}[constructor]outgoing-response": lambda fields: Own(Response(fields), "outgoing-response"),
        f"{response}status-code": lambda message: message.status,
        f"{response}set-status-code": status,
        f"{response}headers": lambda message: Own(message.headers, "fields"),
        f"{response}body": take,
        f"{types}[method]outgoing-request.body": take,
        f"{body}write": open_body,
        f"{types}[static]outgoing-body.finish": finish,
        f"{types}[static]response-outparam.set": lambda outparam, answer: outparam.answer(answer),
    }


def _requests(types: str) -> Mapping[str, Implementation]:  # noqa: C901 - a table, with small functions of its own
    request, options = f"{types}[method]outgoing-request.", f"{types}[method]request-options."
    answer, future = f"{types}[method]incoming-response.", f"{types}[method]future-incoming-response."

    def setter(name: str, allowed: Callable[[Any], bool]) -> Implementation:  # Any: as the function says
        def change(message: Outgoing | Options, value: Any) -> Err | None:  # Any: as above
            if not allowed(value):
                return Err()
            setattr(message, name, value[0] if isinstance(value, tuple) and value[1] is None else value)
            return None

        return change

    def getter(name: str) -> Implementation:
        return lambda message: getattr(message, name)

    def method_ok(value: tuple[str, str | None]) -> bool:
        return value[0] != "other" or bool(_TOKEN.fullmatch(value[1] or ""))

    def text_ok(value: str | None) -> bool:
        return value is None or bool(_TARGET.fullmatch(value))

    def get(pending: Future) -> Any:  # Any: option<result<result<incoming-response, error-code>>>
        if pending.result is None:
            return None
        if pending.given:
            return Err()
        pending.given = True
        if isinstance(pending.result, Err):
            return Ok(pending.result)
        return Ok(Own(Answer(pending.result), "incoming-response"))

    table: dict[str, Implementation] = {
        f"{types}[constructor]outgoing-request": lambda fields: Own(Outgoing(fields), "outgoing-request"),
        f"{types}[constructor]request-options": lambda: Own(Options(), "request-options"),
        f"{request}headers": lambda message: Own(message.headers, "fields"),
        f"{answer}status": lambda message: message.incoming.message.status,
        f"{answer}headers": lambda message: Own(message.headers, "fields"),
        f"{answer}consume": _consume,
        f"{future}subscribe": lambda pending: Own(pending.pollable(), "pollable"),
        f"{future}get": get,
    }
    always: Callable[[Any], bool] = lambda _: True  # noqa: E731 - a predicate among predicates
    for key, name, allowed in (
        ("method", "method", method_ok),
        ("path-with-query", "target", text_ok),
        ("scheme", "scheme", always),
        ("authority", "authority", text_ok),
    ):
        table[f"{request}{key}"], table[f"{request}set-{key}"] = getter(name), setter(name, allowed)
    for key, name in (
        ("connect-timeout", "connect"),
        ("first-byte-timeout", "first"),
        ("between-bytes-timeout", "between"),
    ):
        table[f"{options}{key}"], table[f"{options}set-{key}"] = getter(name), setter(name, always)
    return table
