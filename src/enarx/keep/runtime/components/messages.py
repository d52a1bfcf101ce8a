"""HTTP/1.1 on a connection: heads and bodies as they come and go, for both sides (RFC 9112).

Parsing is llhttp's, through httptools, which refuses what is ambiguous. Here are the bounds: a head of at most MAX_HEAD
bytes, a body that is read only as fast as somebody takes it. A connection is a descriptor of the runtime; waiting for
it can be interrupted, and ends at a deadline where one is set.
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
PIECE: Final = 65536
HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "trailer", "host", "http2-settings",
})  # fmt: skip


class MessageError(Exception):
    """What came is not HTTP, or not within bounds. `status` is what a server answers."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class GoneError(Exception):
    """The other side has gone, or was too slow."""


class Wire:
    """A connection with deadlines."""

    def __init__(self, stream: Stream, waiter: Waiter) -> None:
        stream.flags |= NONBLOCK
        stream.waiter = waiter
        self.stream, self.waiter = stream, waiter
        self.deadline: float | None = None

    def read(self) -> bytes:
        """What is there, at least a byte; nothing at the end. Raises GoneError."""
        buffer = bytearray(PIECE)
        while True:
            try:
                return bytes(buffer[: self.stream.read(memoryview(buffer))])
            except Refused as refused:
                if refused.number != Errno.AGAIN:
                    raise GoneError(refused.number.name.lower()) from None
            except OSError as error:
                raise GoneError(error.strerror or "failed") from error
            self._wait(FD_READ)

    def write(self, data: bytes) -> None:
        """All of it. Raises GoneError."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.stream.write(view) :]
                continue
            except Refused as refused:
                if refused.number != Errno.AGAIN:
                    raise GoneError(refused.number.name.lower()) from None
            except OSError as error:
                raise GoneError(error.strerror or "failed") from error
            self._wait(FD_WRITE)

    def settle(self) -> None:
        """Wait until the socket has taken everything. Raises GoneError."""
        while not Readiness(self.stream, FD_WRITE, self.waiter).ready():
            self._wait(FD_WRITE)

    def _wait(self, kind: int) -> None:
        wanted = {self.stream.fileno(): self.stream.wants(kind)}
        moved = self.waiter.poll(wanted, self.deadline)
        if not moved and self.deadline is not None and time.monotonic() >= self.deadline:
            raise GoneError("too slow")


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

    def next(self) -> "Incoming | None":
        """Read the head of the next message; None when the other side ended before it. Raises as `Incoming.read`."""
        while not (self._messages and self._messages[0].headed):
            if not self.feed():
                if self._messages:
                    raise GoneError("ended in the middle of a head")
                return None
            if self._messages:
                self._messages[0].count(0)
        return Incoming(self, self._messages.popleft())

    @property
    def waiting(self) -> bool:
        """Whether more than the message that was taken has arrived already."""
        return bool(self._messages)

    def feed(self) -> bool:
        """Read and parse a piece; False at the end."""
        data = self.wire.read()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, MessageError) else MessageError("not HTTP/1.1") from error
        except httptools.HttpParserUpgrade as error:
            raise MessageError("expected no upgrade", 501) from error
        except httptools.HttpParserError as error:
            raise MessageError(f"not HTTP/1.1: {error}") from error
        return bool(data)

    def on_message_begin(self) -> None:
        self._current = Message()
        self._messages.append(self._current)

    def on_url(self, url: bytes) -> None:
        self._current.target += url
        self._current.count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        message = self._current
        message.count(len(name) + len(value))
        pair = (name.decode("latin-1").lower(), value)
        if message.headed:
            message.trailers = [*(message.trailers or []), pair]
        else:
            message.headers.append(pair)

    def on_headers_complete(self) -> None:
        message, parser = self._current, self._parser
        message.headed, message.version = True, parser.get_http_version()
        if isinstance(parser, httptools.HttpRequestParser):
            message.method = parser.get_method().decode("latin-1")
        else:
            message.status = parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self._current.pieces.append(piece)

    def on_message_complete(self) -> None:
        self._current.complete, self._current.keeps_alive = True, bool(self._parser.should_keep_alive())


class Incoming:
    """A message whose head has come; its body comes piece by piece."""

    def __init__(self, conversation: Conversation, message: Message) -> None:
        self._conversation, self.message, self.wire = conversation, message, conversation.wire

    def read(self) -> bytes:
        """The next piece of the body; nothing at its end. Raises MessageError and GoneError."""
        message = self.message
        while not message.pieces and not message.complete:
            if not self._conversation.feed() and not message.complete:
                if not message.status or message.get("content-length") is not None or self._chunked():
                    raise GoneError("ended in the middle of a body")
                message.complete = True  # an answer may end with its connection
        return message.pieces.popleft() if message.pieces else b""

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
