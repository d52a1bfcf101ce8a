"""TLS on memory: what it promises to the network on one side and to HTTP on the other."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from enarx.web import wire
from enarx.web.tls import bare_client_context, server_context
from enarx.web.wire import PIECE, RECORD, HandshakeError, Wire

Fixture = Any  # Any: as in the other tests here


class Network(asyncio.Transport):
    """What a TCP transport does for a protocol, with the other end in the hand of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.did: set[str] = set()
        self.paused = False
        self.waiting = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert "end" not in self.did
        self.sent += data

    def write_eof(self) -> None:
        self.did.add("end")

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return "abort" in self.did

    def abort(self) -> None:
        self.did.add("abort")


class Application(asyncio.Protocol):
    """Takes everything, or pauses after each piece."""

    def __init__(self, *, hesitant: bool) -> None:
        self.hesitant = hesitant
        self.received = bytearray()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert 0 < len(data) <= PIECE
        self.received += data
        if self.hesitant:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Pair:
    """A client of OpenSSL's, and a wire that it speaks to."""

    def __init__(self, context: ssl.SSLContext, *, hesitant: bool = False) -> None:
        self.network = Network()
        self.application = Application(hesitant=hesitant)
        self.wire = Wire(context, self._make, linger_seconds=0.05, stall_seconds=0.2)
        self.wire.connection_made(self.network)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = bare_client_context().wrap_bio(self.incoming, self.outgoing)

    def _make(self) -> Application:
        return self.application

    def feed(self, data: bytes) -> None:
        """As the network does: into the buffer that it is given."""
        view = memoryview(data)
        while view and not self.network.paused:
            buffer = self.wire.get_buffer(-1)
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self.wire.buffer_updated(size)
            view = view[size:]
        self.unread = bytes(view)

    def shake_hands(self) -> None:
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.feed(self.outgoing.read())
            self.take()

    def take(self) -> None:
        self.incoming.write(self.network.sent)
        self.network.sent.clear()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.client.write(view) :]
        self.feed(self.outgoing.read())

    def receive(self) -> bytes:
        """Until nothing is left, or the server said that it was the last."""
        self.take()
        found = bytearray()
        while True:
            try:
                data = self.client.read(1 << 16)
            except ssl.SSLWantReadError:
                return bytes(found)
            if not data:
                self.closed = True
                return bytes(found)
            found += data


@pytest.fixture
def context(localhost: Fixture) -> ssl.SSLContext:
    return server_context(localhost.server_tls())


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(within_time())


@pytest.mark.parametrize("size", [1, RECORD, RECORD + 1, PIECE - RECORD, PIECE, PIECE + 1, 5 * PIECE + 17])
def test_bytes_pass_both_ways(context: ssl.SSLContext, size: int) -> None:
    """Whatever their number, they come whole and in order."""
    data = bytes(range(251)) * (size // 251 + 1)

    async def test() -> None:
        pair = Pair(context)
        pair.shake_hands()
        await pair.wire.opened
        pair.send(data[:size])
        assert pair.application.received == data[:size]
        pair.wire.write(memoryview(data)[:size])
        assert pair.receive() == data[:size]

    _run(test)


def test_who_reads_nothing_is_given_nothing(context: ssl.SSLContext) -> None:
    """While the application pauses, one piece is taken from the network at the most; afterwards nothing is missing."""
    data = bytes(range(256)) * (8 * PIECE // 256)

    async def test() -> None:
        pair = Pair(context, hesitant=True)
        pair.shake_hands()
        pair.send(data)
        assert pair.network.paused
        assert len(pair.application.received) <= PIECE
        assert len(pair.unread) >= len(data) - 2 * PIECE
        while pair.unread or len(pair.application.received) < len(data):
            before = len(pair.application.received)
            pair.wire.resume_reading()
            await asyncio.sleep(0)
            assert len(pair.application.received) - before <= PIECE
            pair.feed(pair.unread)
        assert pair.application.received == data

    _run(test)


def test_the_more_connections_the_less_is_taken_of_each(context: ssl.SSLContext) -> None:
    """So that what all of them sent at once has its bounds; and when they are gone, one has it all again."""

    async def test() -> None:
        pairs = [Pair(context) for _ in range(40)]
        assert len(pairs[0].wire.get_buffer(-1)) == wire.TAKEN_BY_ALL // 40
        more = [Pair(context) for _ in range(200)]
        assert len(pairs[0].wire.get_buffer(-1)) == wire.LEAST
        for pair in [*pairs[1:], *more]:
            pair.wire.connection_lost(None)
            assert isinstance(pair.wire.opened.exception(), ConnectionResetError)
        assert len(pairs[0].wire.get_buffer(-1)) == PIECE
        pairs[0].wire.connection_lost(None)
        assert isinstance(pairs[0].wire.opened.exception(), ConnectionResetError)

    wire._open.clear()
    _run(test)


def test_closing_says_so_and_waits_for_the_peer(context: ssl.SSLContext) -> None:
    """All that was written arrives, then `close_notify` and the end; what the peer still says is dropped, for a while."""

    async def test() -> None:
        pair = Pair(context)
        pair.shake_hands()
        pair.wire.write(b"the last")
        pair.wire.close()
        assert pair.receive() == b"the last"
        assert pair.closed
        assert "end" in pair.network.did
        assert "abort" not in pair.network.did
        pair.send(b"too late")
        pair.wire.write(b"too late")
        assert pair.application.received == b""
        assert pair.network.sent == b""
        await asyncio.sleep(0.1)
        assert "abort" in pair.network.did
        pair.wire.connection_lost(None)
        assert pair.application.lost

    _run(test)


def test_a_slow_reader_gets_the_end(context: ssl.SSLContext) -> None:
    """While something waits to be sent, closing has as long as any reader that stalls."""

    async def test() -> None:
        pair = Pair(context)
        pair.shake_hands()
        pair.network.waiting = 1
        pair.wire.close()
        await asyncio.sleep(0.1)
        assert "abort" not in pair.network.did
        await asyncio.sleep(0.2)
        assert "abort" in pair.network.did

    _run(test)


def test_the_end_of_the_peer_is_the_end(context: ssl.SSLContext) -> None:
    """What came before its `close_notify` is handed on."""

    async def test() -> None:
        pair = Pair(context)
        pair.shake_hands()
        pair.client.write(b"bye")
        with pytest.raises(ssl.SSLWantReadError):
            pair.client.unwrap()
        pair.feed(pair.outgoing.read())
        assert pair.application.received == b"bye"
        assert pair.wire.is_closing()
        assert "end" in pair.network.did

    _run(test)


def test_a_record_that_is_not_authentic_ends_it(context: ssl.SSLContext) -> None:
    """Nothing of it is handed on, and the peer is told."""

    async def test() -> None:
        pair = Pair(context)
        pair.shake_hands()
        pair.client.write(b"attack at dawn")
        record = bytearray(pair.outgoing.read())
        record[-1] ^= 1
        pair.feed(bytes(record))
        assert pair.application.received == b""
        assert pair.wire.is_closing()
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            pair.receive()

    _run(test)


def test_a_handshake_that_fails_is_told(context: ssl.SSLContext) -> None:
    """There is no application then, and the peer gets an alert."""

    async def test() -> None:
        pair = Pair(context)
        pair.feed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with pytest.raises(HandshakeError, match="HTTP_REQUEST"):
            await pair.wire.opened
        assert not hasattr(pair.application, "transport")
        assert "end" in pair.network.did

    _run(test)


def test_a_peer_that_goes_away_in_its_handshake_is_an_error(context: ssl.SSLContext) -> None:
    """Whoever waits for the handshake learns of it."""

    async def test() -> None:
        pair = Pair(context)
        pair.wire.connection_lost(None)
        with pytest.raises(ConnectionError):
            await pair.wire.opened

    _run(test)
