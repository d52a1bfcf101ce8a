"""HTTP/1.1 on a connection: heads and bodies as they come and go, for both sides (RFC 9112).

Parsing is llhttp's, through httptools, which refuses what is ambiguous. Here are the bounds: a head of at most MAX_HEAD
bytes, a body that is read only as fast as somebody takes it, and sent only as fast as the other side does. A connection
is a descriptor of the runtime; waiting for it can be interrupted, and ends when the other side has been silent too long.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import httptools

from enarx.keep.runtime.abi import FD_READ, FD_WRITE, NONBLOCK, Errno, Refused
from enarx.keep.runtime.components.io import Readiness
from enarx.keep.runtime.streams import Stream
from enarx.keep.runtime.waiting import Waiter

Headers = list[tuple[str, bytes]]

MAX_HEAD: Final = 64 * 1024
HEADER: Final = 32  # bytes that a header costs beside its name and value, as in HTTP/2 (RFC 9113, 10.5.1)
PIECE: Final = 65536
HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "transfer-encoding",
    "upgrade", "host", "http2-settings",
})  # fmt: skip


class MessageError(Exception):
    """What came is not HTTP, or not within bounds. `status` is what a server answers."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class GoneError(Exception):
    """The other side has gone, or was too slow."""


class Wire:
    """A connection. `patience` is how many seconds the other side may be silent while it is waited for."""

    def __init__(self, stream: Stream, waiter: Waiter, patience: float | None = None) -> None:
        stream.flags |= NONBLOCK
        stream.waiter = waiter
        self.stream, self.waiter, self.patience = stream, waiter, patience
        self._pending = b""  # posted, not yet taken
        self._moved = time.monotonic()  # when a byte last came or went

    # -- what does not wait

    def look(self) -> bytes | None:
        """What is there; nothing at the end; None when nothing has come yet. Raises GoneError."""
        buffer = bytearray(PIECE)
        try:
            found = bytes(buffer[: self.stream.read(memoryview(buffer))])
        except Refused as refused:
            if refused.number != Errno.AGAIN:
                raise GoneError(refused.number.name.lower()) from None
            self._be_patient()
            return None
        except OSError as error:
            raise GoneError(error.strerror or "failed") from error
        self._moved = time.monotonic()
        return found

    def post(self, data: bytes = b"") -> bool:
        """Send `data` after what waits already; whether all of it has gone. Raises GoneError."""
        if data and not self._pending:
            self._moved = time.monotonic()  # nobody was waited for until now
        self._pending += data
        while self._pending:
            try:
                taken = self.stream.write(memoryview(self._pending))
            except Refused as refused:
                if refused.number != Errno.AGAIN:
                    raise GoneError(refused.number.name.lower()) from None
                taken = 0
            except OSError as error:
                raise GoneError(error.strerror or "failed") from error
            if not taken:
                self._be_patient()
                return False
            self._pending = self._pending[taken:]
            self._moved = time.monotonic()
        return True

    def forget(self) -> None:
        """Send nothing of what was posted and has not gone."""
        self._pending = b""

    def _be_patient(self) -> None:
        if (ends := self.ends()) is not None and time.monotonic() >= ends:
            raise GoneError("too slow")

    def ends(self) -> float | None:
        """When patience ends, if nothing moves until then."""
        return None if self.patience is None else self._moved + self.patience

    def begin(self, patience: float | None) -> None:
        """Silence counts from now on."""
        self.patience, self._moved = patience, time.monotonic()

    def watch(self) -> tuple[int, int]:
        """What to wait for: bytes that come, and room for what is posted."""
        events = self.stream.wants(FD_READ) | (self.stream.wants(FD_WRITE) if self._pending else 0)
        return self.stream.fileno(), events

    # -- what does

    def read(self) -> bytes:
        """At least a byte; nothing at the end. Raises GoneError."""
        self.begin(self.patience)
        while (found := self.look()) is None:
            self._wait(FD_READ)
        return found

    def write(self, data: bytes = b"") -> None:
        """All of it, and of what was posted. Raises GoneError."""
        self.begin(self.patience)
        gone = self.post(data)
        while not gone:
            self._wait(FD_WRITE)
            gone = self.post()

    def settle(self) -> None:
        """Wait until the socket has taken everything. Raises GoneError."""
        self.write()
        while not Readiness(self.stream, FD_WRITE, self.waiter).ready():
            self._wait(FD_WRITE)
            self._be_patient()

    def _wait(self, kind: int) -> None:
        self.waiter.poll({self.stream.fileno(): self.stream.wants(kind)}, self.ends())


class Message:
    """What is known of one message so far."""

    def __init__(self) -> None:
        self.target = b""
        self.method, self.version = "", ""  # of a request
        self.status = 0  # of an answer
        self.headers: Headers = []
        self.trailers: Headers | None = None
        self.pieces: deque[bytes] = deque()
        self.headed = self.complete = self.keeps_alive = False
        self.size = 0  # of the head

    def count(self, size: int) -> None:
        self.size += size
        if self.size > MAX_HEAD:
            raise MessageError(f"expected a head of at most {MAX_HEAD} bytes", 431)

    def get(self, name: str) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)


class Conversation:
    """The messages that arrive on one connection, one after the other. Its methods `on_…` are llhttp's callbacks."""

    def __init__(self, wire: Wire, *, request: bool) -> None:
        self.wire = wire
        self._messages: deque[Message] = deque()
        self._parser = (httptools.HttpRequestParser if request else httptools.HttpResponseParser)(self)
        self._current = Message()
        self._unsaid = 0  # bytes of which the parser has not said what they are

    def next(self) -> "Incoming | None":
        """Read the head of the next message; None when the other side ended before it. Raises as `Incoming.read`."""
        while (incoming := self.arrived()) is None:
            if not self.feed():
                if self._messages:
                    raise GoneError("ended in the middle of a head")
                return None
        return incoming

    @property
    def begun(self) -> bool:
        """Whether more than the message that was taken has begun to arrive."""
        return bool(self._messages)

    def feed(self) -> bool:
        """Wait for a piece and parse it; False at the end."""
        return self._parse(self.wire.read())

    def glance(self) -> bool | None:
        """As `feed`, without waiting: None when nothing has come."""
        data = self.wire.look()
        return None if data is None else self._parse(data)

    def arrived(self) -> "Incoming | None":
        """The next message whose head is there already."""
        if self._messages and self._messages[0].headed:
            return Incoming(self, self._messages.popleft())
        return None

    def _parse(self, data: bytes) -> bool:
        self._unsaid += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, MessageError) else MessageError("not HTTP/1.1") from error
        except httptools.HttpParserUpgrade:
            self._current.keeps_alive = False  # nothing is switched to: the request counts, what follows it does not
        except httptools.HttpParserError as error:
            raise MessageError(f"not HTTP/1.1: {error}") from error
        if self._unsaid > MAX_HEAD:  # a header, trailer or chunk extension without end
            raise MessageError(f"expected lines of at most {MAX_HEAD} bytes", 431)
        return bool(data)

    def on_message_begin(self) -> None:
        self._current = Message()
        self._messages.append(self._current)

    def on_url(self, url: bytes) -> None:
        self._unsaid = 0
        self._current.target += url
        self._current.count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        message, self._unsaid = self._current, 0
        message.count(len(name) + len(value) + HEADER)
        pair = (name.decode("latin-1").lower(), value)
        if message.headed:
            message.trailers = [*(message.trailers or []), pair]
        else:
            message.headers.append(pair)

    def on_headers_complete(self) -> None:
        message, parser, self._unsaid = self._current, self._parser, 0
        message.headed, message.version = True, parser.get_http_version()
        if isinstance(parser, httptools.HttpRequestParser):
            message.method = parser.get_method().decode("latin-1")
        else:
            message.status = parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self._unsaid = 0
        self._current.pieces.append(piece)

    def on_message_complete(self) -> None:
        self._current.complete, self._current.keeps_alive = True, bool(self._parser.should_keep_alive())


class Incoming:
    """A message whose head has come; its body comes piece by piece."""

    def __init__(self, conversation: Conversation, message: Message) -> None:
        self._conversation, self.message, self.wire = conversation, message, conversation.wire

    def read(self) -> bytes:
        """The next piece of the body; nothing at its end. Raises MessageError and GoneError."""
        while (piece := self._piece()) is None:
            self._take(self._conversation.feed())
        return piece

    def look(self) -> bytes | None:
        """As `read`, without waiting: None when nothing has come."""
        while (piece := self._piece()) is None:
            fed = self._conversation.glance()
            if fed is None:
                return None
            self._take(fed)
        return piece

    def _piece(self) -> bytes | None:
        message = self.message
        if message.pieces:
            return message.pieces.popleft()
        return b"" if message.complete else None

    def _take(self, more: bool) -> None:
        message = self.message
        if more or message.complete:
            return
        if not message.status or message.get("content-length") is not None or self._chunked():
            raise GoneError("ended in the middle of a body")
        message.complete = True  # an answer may end with its connection

    def _chunked(self) -> bool:
        return b"chunked" in (self.message.get("transfer-encoding") or b"").lower()


def encode_head(first: str, headers: Sequence[tuple[str, bytes]]) -> bytes:
    """A head; the headers were checked by whoever made them."""
    lines = [first.encode("latin-1"), *(name.encode("latin-1") + b": " + value for name, value in headers)]
    return b"\r\n".join([*lines, b"", b""])


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def last_chunk(trailers: Headers) -> bytes:
    lines = [name.encode("latin-1") + b": " + value + b"\r\n" for name, value in trailers]
    return b"0\r\n" + b"".join(lines) + b"\r\n"
