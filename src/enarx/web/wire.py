"""TLS between a socket and HTTP: OpenSSL on memory, in large pieces.

Event loops bring TLS of their own, which hands on each record by itself and asks for a callback for it. Here whatever
has arrived is decrypted into one piece, up to PIECE, and whatever is written leaves in one piece, so the costs of a
turn of the loop, of a system call and of a callback are paid once for many records. The rules are those of TLS (RFC
8446, 6; RFC 5246, 7.2):

  1  nothing is handed on before the handshake is through; when it fails, the peer gets the alert that says why
  2  an end without `close_notify` and an end with it both end the connection: HTTP knows how long a message is
  3  closing sends what was written, `close_notify` and the end of the stream, and then waits for the peer's end, for
     closing with unread bytes would reset away what was sent; how long it waits is bounded
  4  while the application reads nothing, one piece is taken at the most, and the socket is left alone

`Wire` is the protocol of a TCP transport and the transport of the application's protocol. Everything happens in the
thread of the event loop.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

PIECE: Final = 1 << 18  # bytes that are taken from a socket, and handed on, at once
TAKEN_BY_ALL: Final = 1 << 22  # bytes that are taken from the sockets of all connections, one turn each
PORTION: Final = 1 << 16  # bytes that are encrypted before they are sent
LEAST: Final = 1 << 16  # bytes that are taken at once however many connections there are
RECORD: Final = 1 << 14  # bytes of one TLS record at the most (RFC 8446, 5.1)

# What has come is decrypted, and what was decrypted is parsed, before anything else happens in this thread, so all
# connections share these two.
_CIPHERTEXT: Final = memoryview(bytearray(PIECE))
_PLAINTEXT: Final = memoryview(bytearray(PIECE))


class HandshakeError(Exception):
    """A handshake failed; the peer has been told."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Wire(asyncio.Transport, asyncio.BufferedProtocol):
    """One connection, as its server. `make` gives the application's protocol when the handshake is through.

    `opened` is done then; it has HandshakeError, or ConnectionError when the peer went away before. `lost` is done when
    nothing is left of it.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        *,
        linger_seconds: float,
        stall_seconds: float,
    ) -> None:
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._context = context
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._make = make
        self._linger_seconds = linger_seconds
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._network: asyncio.Transport | None = None
        self._application: asyncio.Protocol | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._paused = False  # the application reads nothing
        self._held = False  # and neither do we
        self._closing = False
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    # -- what the network tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._network = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        _open.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return _CIPHERTEXT[: max(LEAST, TAKEN_BY_ALL // len(_open))]

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return  # rule 3
        self._incoming.write(_CIPHERTEXT[:nbytes])
        if self._paused and self._network is not None:
            self._held = True
            self._network.pause_reading()  # rule 4
        elif self._application is not None or self._shake_hands():
            self._hand_on()

    def eof_received(self) -> bool:
        return False  # rule 2: the network's transport sends what it has, and ends

    def connection_lost(self, exc: Exception | None) -> None:
        _open.discard(self)
        self._closing = True
        if self._ending is not None:
            self._ending.cancel()
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the peer went away"))
        if self._application is not None:
            self._application.connection_lost(exc)
        self._application = self._network = None
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        if self._application is not None:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        if self._application is not None:
            self._application.resume_writing()

    # -- what the application asks

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. What `data` is may change afterwards."""
        if self._closing or not data:
            return
        try:
            if len(data) <= RECORD:
                self._tls.write(data)
            else:
                self._write_large(memoryview(data))
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()

    def _write_large(self, view: memoryview) -> None:
        """In portions that are still near the processor when they are copied on."""
        write, portion = self._tls.write, 0
        while view:
            sent = write(view)  # one record
            view, portion = view[sent:], portion + sent
            if portion >= PORTION:
                self._flush()
                portion = 0

    def close(self) -> None:
        if self._closing:
            return
        if self._application is not None:
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's, which nobody waits for
                self._tls.unwrap()
            self._flush()
        self._end()

    def abort(self) -> None:
        self._closing = True
        if self._network is not None:
            self._network.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        self._loop.call_soon(self._hand_on)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: as asyncio has it
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        return default if self._network is None else self._network.get_extra_info(name, default)

    # -- TLS

    def _shake_hands(self) -> bool:
        """One step of the handshake; whether it was the last one."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or type(error).__name__
            self._flush()  # the alert
            self._end()
            self.opened.set_exception(HandshakeError(str(why)))
            return False
        self._flush()
        self._application = self._make()
        self._application.connection_made(self)
        self.opened.set_result(None)
        return True

    def _hand_on(self) -> None:
        """Decrypt what has come, and give it to the application until it wants no more."""
        while self._application is not None and not self._paused and not self._closing:
            try:
                size, ended = self._decrypt()
            except ssl.SSLError as error:
                self._fail(error)
                return
            if size:
                self._application.data_received(_PLAINTEXT[:size])  # type: ignore[arg-type]  # as good as bytes
            if self._outgoing.pending:
                self._flush()  # an answer to the peer's change of keys
            if ended:
                self.close()
            if not size:
                self._read_on()
                return

    def _read_on(self) -> None:
        """All that was taken from the network was handed on: take more."""
        if self._held and self._network is not None:
            self._held = False
            self._network.resume_reading()

    def _decrypt(self) -> tuple[int, bool]:
        """Fill the piece as far as there is something; how far, and whether the peer said that it was the last."""
        size = 0
        incoming, tls = self._incoming, self._tls
        while size <= PIECE - RECORD and (incoming.pending or tls.pending()):
            try:
                read = cast("int", tls.read(PIECE - size, _PLAINTEXT[size:]))  # into a buffer, so it is how many
            except ssl.SSLWantReadError:
                break
            if not read:
                return size, True
            size += read
        return size, False

    def _flush(self) -> None:
        if self._network is not None:
            self._network.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """TLS is broken: the peer gets the alert, if there is one, and the application hears no more."""
        del error
        self._flush()
        self._end()

    def _end(self) -> None:
        """Send the end of the stream, and wait for the peer's."""
        self._closing = True
        network = self._network
        if network is None or network.is_closing():
            return
        waiting = network.get_write_buffer_size()
        network.write_eof()
        self._read_on()
        seconds = self._stall_seconds if waiting else self._linger_seconds
        self._ending = self._loop.call_later(seconds, network.abort)


_open: Final[set[Wire]] = set()  # of this process
