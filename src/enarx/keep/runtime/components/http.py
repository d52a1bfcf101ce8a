"""wasi:http/types for components: fields, messages, and their bodies as streams.

Bodies stream both ways and never block by themselves: what has not come is not there yet, what the other side does not
take holds back whoever writes. An answer's head goes out when the component sets it, every piece of its body as it is
written. Requests of a component's own are in `enarx.keep.runtime.components.outgoing`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from enarx.errors import EnarxError
from enarx.keep.runtime.abi import Refused
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Failure, Pollable, When, wait
from enarx.keep.runtime.components.messages import (
    HOP_BY_HOP,
    GoneError,
    Headers,
    Incoming,
    MessageError,
    Wire,
    chunk,
    last_chunk,
)
from enarx.keep.runtime.components.values import Err, Ok, Own
from enarx.keep.runtime.waiting import Waiter

MAX_COLLECTED: Final = 64 * 1024 * 1024  # bytes of a body that is written before it has anywhere to go
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


def visible(headers: Headers) -> "Fields":
    """What of a message that came concerns the component; it may hand all of it on."""
    return Fields([pair for pair in headers if pair[0] not in HOP_BY_HOP], fixed=True)


class Body:
    """The body of a message that came: one stream, then its trailers. Handles to all three are handles to this."""

    def __init__(
        self, incoming: Incoming, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        """`before` is called once, when the body is first wanted, `after` when nobody holds it any more."""
        self.incoming, self._before, self._after, self._rest = incoming, before, after, b""
        self._failed: Exception | None = None
        self._handles = 0
        self.opened = False

    def held(self, resource: str) -> Own:
        """One more handle."""
        self._handles += 1
        return Own(self, resource)

    def drop(self) -> None:
        self._handles -= 1
        if self._handles <= 0 and self._after is not None:
            self._after()

    def open(self) -> Own | Err:
        if self.opened:
            return Err()
        self.opened = True
        return self.held("input-stream")

    # -- as an input-stream

    def read(self, limit: int) -> bytes | Err:
        """What has come, at most `limit` bytes; none when nothing has; Err at the end."""
        if not limit:
            return b""
        if not self._look():
            return b""
        if self._failed is not None:
            return Err(("last-operation-failed", Own(Failure(str(self._failed), self._failed), "error")))
        if not self._rest:
            return Err(("closed", None))
        found, self._rest = self._rest[:limit], self._rest[limit:]
        return found

    def blocking_read(self, limit: int) -> bytes | Err:
        while (found := self.read(limit)) == b"" and limit:
            wait([self.pollable()], self.incoming.wire.waiter)
        return found

    def _look(self) -> bool:
        """Whether there is something to say: bytes, the end, or that it broke off."""
        if self._before is not None:
            before, self._before = self._before, None
            before()
        if self._rest or self._failed is not None:
            return True
        try:
            piece = self.incoming.look()
        except (MessageError, GoneError) as error:
            self._failed = error.with_traceback(None)  # which would hold this body, and it the error
            return True
        self._rest = piece or b""
        return piece is not None

    def pollable(self) -> Pollable:
        wire = self.incoming.wire
        return When(self._look, wire.watch, wire.ends)

    # -- as future-trailers

    def _drained(self) -> bool:
        """Read past what the component left of the body; whether its end has come."""
        while self._look() and self._failed is None and self._rest:
            self._rest = b""
        return self._failed is not None or (self.incoming.message.complete and not self._rest)

    def trailers(self) -> Any:  # Any: option<result<result<option<trailers>, error>>>
        if not self._drained():
            return None
        if self._failed is not None:
            return Ok(Err(error_code(self._failed)))
        found = self.incoming.message.trailers
        return Ok(Ok(Own(visible(found), "fields") if found else None))

    def end(self) -> Pollable:
        wire = self.incoming.wire
        return When(self._drained, wire.watch, wire.ends)


class Sink:
    """The body of a message that goes: an output-stream that collects until `attach` says where to."""

    def __init__(self, waiter: Waiter, length: int | None) -> None:
        self._waiter, self._left = waiter, length  # what is still to come, where the head has said how much
        self._collected = bytearray()
        self._wire: Wire | None = None
        self._chunked = self._bare = False
        self._gone: Exception | None = None
        self._coming: Callable[[], Pollable] | None = None
        self.finished = self.abandoned = False

    def expect(self, coming: Callable[[], Pollable]) -> None:
        """`attach` will come; `coming` is called while somebody waits for it, and answers what moves things on."""
        self._coming = coming

    def attach(self, wire: Wire, *, chunked: bool, bare: bool = False) -> None:
        """From now on pieces go out, those that were collected first; with `bare` they go nowhere."""
        self._wire, self._chunked, self._bare = wire, chunked, bare
        data, self._collected = bytes(self._collected), bytearray()
        self._post(data)

    def fail(self, error: Exception) -> None:
        """Nobody will take anything any more."""
        self._gone, self._collected, self._coming = error.with_traceback(None), bytearray(), None

    def abandon(self) -> None:
        """The component will not finish it."""
        self.abandoned = True
        self.fail(GoneError("left unfinished"))

    @property
    def open(self) -> bool:
        """Whether there may be more."""
        return not self.finished and self._gone is None

    @property
    def size(self) -> int:
        """Of what was collected."""
        return len(self._collected)

    @property
    def sound(self) -> bool:
        """Whether everything that the head announced has been written."""
        return self.finished and self._gone is None and (self._bare or not self._left)

    def _post(self, data: bytes) -> Err | None:
        if self._wire is None or self._bare or not data:
            return None
        try:
            self._wire.post(chunk(data) if self._chunked else data)
        except GoneError as error:
            self.fail(error)
            return Err(("closed", None))
        return None

    def end(self, trailers: Headers) -> bool:
        """There is no more; whether it is as much as was announced."""
        self.finished = True
        if self._wire is not None and self._chunked and not self._bare and self._gone is None:
            try:
                self._wire.post(last_chunk(trailers))
            except GoneError as error:
                self.fail(error)
        return self._bare or not self._left

    # -- as an output-stream

    def check(self) -> int | Err:
        if self._gone is not None:
            return Err(("closed", None))
        if self._wire is None:
            if self._coming is None:
                return min(WRITE_PIECE, MAX_COLLECTED - len(self._collected))
            return max(0, WRITE_PIECE - len(self._collected))
        try:
            return WRITE_PIECE if self._wire.post() else 0
        except GoneError as error:
            self.fail(error)
            return Err(("closed", None))

    def write(self, data: bytes) -> Err | None:
        if self._left is not None and len(data) > self._left:
            return Err(("last-operation-failed", Own(Failure("more than content-length says"), "error")))
        if self._wire is None and len(self._collected) + len(data) > MAX_COLLECTED:
            return Err(("last-operation-failed", Own(Failure(f"more than {MAX_COLLECTED} bytes"), "error")))
        if self._gone is not None:
            return Err(("closed", None))
        if self._left is not None:
            self._left -= len(data)
        if self._wire is None:
            self._collected += data
            return None
        return self._post(data)

    def flush(self) -> Err | None:
        """Wait until everything has gone, or is collected where nobody takes it yet."""
        while self._wire is not None or self._coming is not None:
            allowed = self.check()
            if isinstance(allowed, Err):
                return allowed
            if allowed:
                return None
            wait([self.pollable()], self._waiter)
        return None

    def pollable(self) -> Pollable:
        return When(self._ready, self._watch, self._ends)

    def _ready(self) -> bool:
        if self._wire is None and self._coming is not None:
            self._coming().ready()
        return self.check() != 0

    def _watch(self) -> tuple[int, int] | None:
        if self._wire is not None:
            return self._wire.watch()
        return None if self._coming is None else self._coming().watch()

    def _ends(self) -> float | None:
        if self._wire is not None:
            return self._wire.ends()
        return None if self._coming is None else self._coming().at()


class Request:
    """incoming-request."""

    def __init__(self, incoming: Incoming, method: str, scheme: str, body: Body) -> None:
        message = incoming.message
        self.method, self.scheme, self.body = method, scheme, body
        self.target = message.target.decode("latin-1")
        self.authority = (message.get("host") or b"").decode("latin-1") or None
        self.headers = visible(message.headers)
        self.consumed = False


class _Message:
    """What outgoing-response and outgoing-request have in common, and outgoing-body with them."""

    def __init__(self, headers: Fields, waiter: Waiter) -> None:
        self.headers, self._waiter = headers, waiter
        self.headers.fixed = True
        self.taken = self.opened = False
        self._sink: Sink | None = None
        self.trailers: Headers = []

    @property
    def length(self) -> int | None:
        """What content-length says, where it can be read."""
        said = self.headers.get("content-length")
        return int(said[0]) if len(said) == 1 and re.fullmatch(rb"[0-9]{1,18}", said[0]) else None

    @property
    def sink(self) -> Sink:
        if self._sink is None:
            self._sink = Sink(self._waiter, self.length)
        return self._sink

    def take(self) -> Own | Err:
        if self.taken:
            return Err()
        self.taken = True
        return Own(self, "outgoing-body")

    def open(self) -> Own | Err:
        if self.opened:
            return Err()
        self.opened = True
        return Own(self.sink, "output-stream")

    def finish(self, trailers: Fields | None) -> Err | None:
        self.trailers = trailers.pairs if trailers is not None else []
        if self.sink.end(self.trailers):
            return None
        self.sink.abandon()
        return Err((f"HTTP-{self.what}-body-size", None))

    def drop(self) -> None:
        if self._sink is not None and self._sink.open:
            self._sink.abandon()

    what = "response"


class Response(_Message):
    """outgoing-response."""

    status = 200


class Outparam:
    """response-outparam: where the component puts its answer, once."""

    def __init__(self, answer: Callable[[Response | Err], None]) -> None:
        self.answer = answer


class Outgoing(_Message):
    """outgoing-request."""

    what = "request"

    def __init__(self, headers: Fields, waiter: Waiter) -> None:
        super().__init__(headers, waiter)
        self.method: Any = "get"  # Any: a variant's name, or ("other", text)
        self.target: str | None = None
        self.scheme: Any = None  # Any: as above
        self.authority: str | None = None


class Options:
    """request-options, in nanoseconds."""

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first: int | None = None
        self.between: int | None = None


def error_code(error: BaseException) -> Any:  # Any: a variant of wasi:http
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


def method_text(method: Any) -> str:  # Any: a variant's name, or (name, text)
    name, text = method if isinstance(method, tuple) else (method, None)
    return text if name == "other" else str(name).upper()


def implementations(waiter: Waiter) -> Mapping[str, Implementation]:
    """wasi:http/types."""
    types = "wasi:http/types#"
    return {**_fields(types), **_incoming(types), **_answers(types, waiter), **_requests(types, waiter)}


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


class _Came(Protocol):
    """A message that came, of either kind."""

    body: Body
    consumed: bool


def consume(message: _Came) -> Own | Err:
    if message.consumed:
        return Err()
    message.consumed = True
    return message.body.held("incoming-body")


def _incoming(types: str) -> Mapping[str, Implementation]:
    request, body = f"{types}[method]incoming-request.", f"{types}[method]incoming-body."

    return {
        f"{request}method": lambda message: _variant(message.method),
        f"{request}path-with-query": lambda message: message.target,
        f"{request}scheme": lambda message: message.scheme,
        f"{request}authority": lambda message: message.authority,
        f"{request}headers": lambda message: Own(message.headers, "fields"),
        f"{request}consume": consume,
        f"{body}stream": lambda incoming: incoming.open(),
        f"{types}[static]incoming-body.finish": lambda incoming: Own(incoming, "future-trailers"),
        f"{types}[method]future-trailers.subscribe": lambda body: Own(body.end(), "pollable"),
        f"{types}[method]future-trailers.get": lambda body: body.trailers(),
        f"{types}http-error-code": lambda failure: (
            error_code(failure.cause) if isinstance(failure.cause, MessageError | GoneError) else None
        ),
    }


def _variant(method: str) -> Any:  # Any: a variant's name, or ("other", text)
    return method.lower() if method.lower() in METHODS and method.isupper() else ("other", method)


def _answers(types: str, waiter: Waiter) -> Mapping[str, Implementation]:
    response, body = f"{types}[method]outgoing-response.", f"{types}[method]outgoing-body."

    def status(message: Response, code: int) -> Err | None:
        if not 100 <= code <= 999:
            return Err()
        message.status = code
        return None

    return {
        f"{types}[constructor]outgoing-response": lambda fields: Own(Response(fields, waiter), "outgoing-response"),
        f"{response}status-code": lambda message: message.status,
        f"{response}set-status-code": status,
        f"{response}headers": lambda message: Own(message.headers, "fields"),
        f"{response}body": lambda message: message.take(),
        f"{types}[method]outgoing-request.body": lambda message: message.take(),
        f"{body}write": lambda message: message.open(),
        f"{types}[static]outgoing-body.finish": lambda message, trailers: message.finish(trailers),
        f"{types}[static]response-outparam.set": lambda outparam, answer: outparam.answer(answer),
    }


def _requests(types: str, waiter: Waiter) -> Mapping[str, Implementation]:
    request, options = f"{types}[method]outgoing-request.", f"{types}[method]request-options."

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

    table: dict[str, Implementation] = {
        f"{types}[constructor]outgoing-request": lambda fields: Own(Outgoing(fields, waiter), "outgoing-request"),
        f"{types}[constructor]request-options": lambda: Own(Options(), "request-options"),
        f"{request}headers": lambda message: Own(message.headers, "fields"),
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
