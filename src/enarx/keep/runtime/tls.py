"""TLS between a program's plain bytes and the network: TLS 1.3 alone, done here, invisible to the program.

Suites and groups are OpenSSL's defaults for TLS 1.3: the three suites of the originals, and groups that begin with
X25519 (where OpenSSL knows it, the hybrid with ML-KEM-768). No tickets: every connection shows who it is.
The handshake happens when the program first reads, writes or polls, never inside accept, so a peer that connects and
says nothing holds up nobody else. The end of a connection without close_notify is a reset, not an end (RFC 8446, 6.1).

OpenSSL encrypts a record before it knows whether the socket takes it, and then insists on the same record. So when
the socket is full the record counts as written, a copy is kept, and `enarx.keep.runtime.waiting` delivers it.
"""

import contextlib
import hashlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.attested import relying
from enarx.errors import EnarxError, MalformedError, UnavailableError, UntrustedError
from enarx.keep.config import Peers
from enarx.keep.runtime.abi import FD_READ, FD_WRITE, NONBLOCK, SHUT_RD, SHUT_WR, Errno, Refused
from enarx.keep.runtime.streams import Stream
from enarx.keep.runtime.waiting import Waiter
from enarx.pki import keys
from enarx.pki.certificate import certificates_from_pem

RECORD: Final = 16384  # bytes of plaintext in a record, at most (RFC 8446, 5.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """Who the Keep is on the network: its certificate chain, leaf first, and the key, which stays in memory."""

    chain_pem: bytes
    key: EllipticCurvePrivateKey = field(repr=False)


class LiveIdentity:
    """The identity of this moment. Renewal replaces it, from any thread, while connections live on.

    Handshakes that begin later show the new certificate; who has shaken hands is not asked again. When the last
    certificate has ended and no new one came, `require` refuses. `now` is the clock by which all that is judged.
    """

    def __init__(self, identity: TlsIdentity, now: Callable[[], datetime] | None = None) -> None:
        self._lock = threading.Lock()
        self.now = now or _machine_clock
        self._current, self._ends, self._generation = identity, _end_of(identity.chain_pem), 0

    def replace(self, identity: TlsIdentity) -> None:
        """Raises MalformedError when key and chain do not belong together; the old identity then stays."""
        server_context(identity)
        ends = _end_of(identity.chain_pem)
        with self._lock:
            self._current, self._ends, self._generation = identity, ends, self._generation + 1

    @property
    def current(self) -> TlsIdentity:
        with self._lock:
            return self._current

    def require(self, at: datetime) -> tuple[TlsIdentity, int]:
        """The identity and how often it was replaced. Raises UnavailableError from the end of its certificate on."""
        with self._lock:
            if at >= self._ends:
                raise UnavailableError(f"the certificate ended at {self._ends:%Y-%m-%dT%H:%M:%SZ} and was not renewed")
            return self._current, self._generation


def _machine_clock() -> datetime:
    return datetime.now(UTC)


def _end_of(chain_pem: bytes) -> datetime:
    """The earliest end in a chain."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError as error:
        raise MalformedError("TLS identity: expected certificates in PEM") from error
    return min(certificate.not_valid_after_utc for certificate in chain)


class Contexts:
    """The TLS contexts of one program: by what an entry of `files` asks of its peers, and by identity."""

    def __init__(
        self,
        identity: LiveIdentity | None,
        roots_pem: bytes | None,
        read: Callable[[str], bytes],
    ) -> None:
        """`read` gives the PEM text of an entry of `roots`; `roots_pem` holds where an entry has none.

        Without an identity there are clients alone, who show no certificate.
        """
        self._identity, self._roots, self._read = identity, roots_pem, read
        self._now = _machine_clock if identity is None else identity.now
        self._made: dict[tuple[str, Peers], tuple[int, ssl.SSLContext]] = {}

    def server(self, peers: Peers) -> ssl.SSLContext:
        """For a handshake that begins now. Raises UnavailableError when the certificate has ended."""
        return self._get("server", peers)

    def client(self, peers: Peers) -> ssl.SSLContext:
        """As `server`, for a connection that we make."""
        return self._get("client", peers)

    def _get(self, side: str, peers: Peers) -> ssl.SSLContext:
        identity, generation = (None, 0) if self._identity is None else self._identity.require(self._now())
        found = self._made.get((side, peers))
        if found is None or found[0] != generation:
            made = self._server(identity, peers) if side == "server" else self._client(identity, peers)
            if peers.alpn:
                made.set_alpn_protocols(list(peers.alpn))
            found = self._made[side, peers] = generation, made
        return found[1]

    def _server(self, identity: TlsIdentity | None, peers: Peers) -> ssl.SSLContext:
        if identity is None:
            raise UnavailableError("this Keep has no certificate")
        context = server_context(identity)
        if peers.client != "none":
            context.verify_mode = ssl.CERT_REQUIRED
            _trust(context, self._anchors(peers))
        return context

    def _client(self, identity: TlsIdentity | None, peers: Peers) -> ssl.SSLContext:
        context = client_context(identity, self._anchors(peers) if peers.roots else self._roots)
        if peers.attestation is not None:
            context.check_hostname = False  # the peer's workload counts, its name does not
        elif peers.pins and not peers.roots:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # its key is compared, and nothing else is asked
        return context

    def _anchors(self, peers: Peers) -> bytes:
        return b"\n".join(self._read(root) for root in peers.roots)

    def admission(self, peers: Peers, side: Literal["server", "client"]) -> Callable[[ssl.SSLSocket], None] | None:
        """What judges a peer on that side after its handshake; raises UntrustedError or RejectedError. None: nothing."""
        if not peers.pins and peers.attestation is None:
            return None
        expectation = peers.attestation
        anchors = None if expectation is None else certificates_from_pem(self._anchors(peers), "roots")

        def judge(connection: ssl.SSLSocket) -> None:
            chain = relying.peer_chain(connection)
            if peers.pins and (not chain or key_digest(chain[0]) not in peers.pins):
                raise UntrustedError("its key is not one of `pins`")
            if expectation is not None and anchors is not None:
                relying.judge_peer(chain, anchors, expectation, self._now(), side=side)

        return judge


def key_digest(certificate: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a DER certificate."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def server_context(identity: TlsIdentity) -> ssl.SSLContext:
    """For listeners. Raises MalformedError when key and chain do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    _load(context, identity)
    return context


def client_context(identity: TlsIdentity | None, roots_pem: bytes | None) -> ssl.SSLContext:
    """For connections: the peer is verified against `roots_pem`, or the system's roots when None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if roots_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, roots_pem)
    if identity is not None:
        _load(context, identity)
    return context


def _trust(context: ssl.SSLContext, roots_pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise MalformedError("roots: expected PEM certificates") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whoever names an intermediate trusts what it issued


def _load(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    """`ssl` reads keys from files only; this one has no name, no disk behind it, and is gone at once."""
    pem = keys.to_pem(identity.key) + identity.chain_pem
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise MalformedError(f"TLS identity: key and certificate chain do not fit: {error.reason}") from error
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


class TlsStream(Stream):
    """A connection whose bytes are encrypted on the network and plain for the program."""

    __slots__ = (
        "_admit", "_ahead", "_closed", "_events", "_goodbye", "_note", "_over", "_owed", "_read_shut", "_tls",
        "_write_shut",
    )  # fmt: skip

    def __init__(
        self,
        tls: ssl.SSLSocket,
        waiter: Waiter,
        flags: int = 0,
        *,
        admit: Callable[[ssl.SSLSocket], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`admit` judges the peer before a byte passes; `note` is told when it refuses, or the handshake fails."""
        super().__init__(tls, waiter, flags)
        self._tls = tls
        self._admit, self._note = admit, note
        self._ahead = b""  # read for a peek or a poll, not yet by the program
        self._owed = b""  # at most one record: written for the program, not yet taken by the socket
        self._goodbye = b""  # of close_notify, what the socket did not take
        self._events = {FD_READ: select.POLLIN}  # by kind, what OpenSSL waits for; POLLOUT where nothing is said
        self._read_shut = self._write_shut = self._closed = False
        self._over = False  # both sides have said goodbye

    # -- reading

    def read(self, buffer: memoryview) -> int:
        if self._read_shut or not len(buffer):
            return 0
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        while True:
            count = self._read(buffer)
            if count >= 0:
                return count
            self.block(self.wants(FD_READ))

    def receive(self, buffers: Sequence[memoryview], *, peek: bool, wait_all: bool) -> int:
        if not buffers:
            return 0
        if peek:
            while not self._ahead and not self._look_ahead():
                self.block(self.wants(FD_READ))
            count = min(len(buffers[0]), len(self._ahead))
            buffers[0][:count] = self._ahead[:count]
            return count
        if wait_all:
            return super().receive(buffers, peek=False, wait_all=True)
        return self.read(buffers[0])

    def _read(self, buffer: memoryview | bytearray) -> int:
        """Bytes read, 0 at the end, or -1 when the network has to move first."""
        if self._owed:
            self.settle()
        try:
            if self._admit is not None:
                self._judge()
            count = self._tls.read(len(buffer), buffer)
        except ssl.SSLWantReadError:
            self._events[FD_READ] = select.POLLIN
            return -1
        except ssl.SSLWantWriteError:
            self._events[FD_READ] = select.POLLOUT
            return -1
        except ssl.SSLZeroReturnError:  # both sides have said goodbye, ours first
            return 0
        except ssl.SSLEOFError:
            raise Refused(Errno.CONNRESET) from None
        except ssl.SSLError as error:
            self._failed(error)
            raise Refused(Errno.IO) from None
        except ValueError:  # never connected, or both sides have said goodbye
            return 0
        self._events[FD_READ] = select.POLLIN
        return int(count)

    def _look_ahead(self) -> bool:
        """Whether a read would not block; what had to be read to know it is kept."""
        piece = bytearray(RECORD)
        count = self._read(piece)
        if count > 0:
            self._ahead = bytes(piece[:count])
        return count >= 0

    # -- writing

    def write(self, buffer: memoryview) -> int:
        if self._write_shut:
            raise Refused(Errno.PIPE)
        self._wait_for_admission()
        taken = 0
        while taken < len(buffer):
            if self._owed and not self._pay(quietly=bool(taken)):
                return taken
            count = self._write(buffer[taken : taken + RECORD])
            taken += max(count, 0)
            if count < 0:  # the handshake waits for the peer; nothing of ours is on its way
                if taken:
                    return taken
                self.block(select.POLLIN)
        if self._owed and not self.flags & NONBLOCK:
            self._pay(quietly=True)
        return taken

    def _write(self, piece: memoryview) -> int:
        """Bytes written or owed from now on, or -1 when the peer has to say something first."""
        try:
            return self._tls.write(piece)
        except ssl.SSLWantWriteError:
            self._owed = bytes(piece)
            self._events[FD_WRITE] = select.POLLOUT
            self.waiter.owe(self)
            return len(piece)
        except ssl.SSLWantReadError:
            self._events[FD_WRITE] = select.POLLIN
            return -1
        except ssl.SSLError as error:
            self._failed(error)
            raise Refused(Errno.IO) from None
        except ValueError:
            raise Refused(Errno.NOTCONN) from None

    def _wait_for_admission(self) -> None:
        """Nothing is written, nor owed, to a peer that was not judged."""
        while self._admit is not None:
            try:
                self._judge()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                wanted = select.POLLIN if isinstance(error, ssl.SSLWantReadError) else select.POLLOUT
                self._events[FD_WRITE] = wanted
                self.block(wanted)
            except ssl.SSLError as error:
                self._failed(error)
                raise Refused(Errno.IO) from None

    def writev(self, buffers: Sequence[memoryview]) -> int:
        if sum(map(len, buffers)) <= RECORD:  # a header and a short body make one record
            return self.write(memoryview(b"".join(buffers)))
        return super().writev(buffers)

    def _pay(self, *, quietly: bool) -> bool:
        """Deliver what is owed; waits if the program does. False, or AGAIN, when it does not and there is no room."""
        while True:
            self.settle()
            if not self._owed:
                return True
            if quietly and self.flags & NONBLOCK:
                return False
            self.block(self.wants(FD_WRITE))

    # -- the waiter's side

    def owes(self) -> int:
        if self._goodbye:
            return select.POLLOUT
        return self.wants(FD_WRITE) if self._owed else 0

    def settle(self) -> None:
        if self._goodbye:
            self._send_goodbye()
            if not self._goodbye and self._closed:
                self._tls.close()
            return
        try:
            while self._owed:
                self._owed = self._owed[self._tls.write(self._owed) :]
        except ssl.SSLWantWriteError:
            self._events[FD_WRITE] = select.POLLOUT
            return
        except ssl.SSLWantReadError:
            self._events[FD_WRITE] = select.POLLIN
            return
        except (OSError, ValueError):
            self._owed = b""
        self._events[FD_WRITE] = select.POLLOUT
        if self._write_shut or self._closed:
            self._say_goodbye()
        if self._closed and not self._goodbye:
            self._tls.close()

    def abandon(self) -> None:
        self._owed = self._goodbye = b""
        if self._closed:
            self._tls.close()

    # -- the handshake

    def shake(self) -> bool:
        """Go on with the handshake and the judgement; False while the network has to move. Refused when it failed."""
        try:
            if self._admit is not None:
                self._judge()
            else:
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._events[FD_WRITE] = select.POLLIN
            return False
        except ssl.SSLWantWriteError:
            self._events[FD_WRITE] = select.POLLOUT
            return False
        except ssl.SSLError as error:
            self._failed(error)
            raise Refused(Errno.CONNRESET) from None
        return True

    def _judge(self) -> None:
        """Finish the handshake, then ask whether this peer is admitted; once refused it stays so."""
        self._tls.do_handshake()
        if self._admit is None:
            return
        try:
            self._admit(self._tls)
        except EnarxError as error:
            self._admit = _barred
            self._tell(f"refused: {error}")
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
            raise Refused(Errno.CONNRESET) from None
        self._admit = None

    def _failed(self, error: ssl.SSLError) -> None:
        if self._tls.version() is None:
            self._tell(f"no TLS connection: {getattr(error, 'verify_message', None) or error.reason or error}")

    def _tell(self, text: str) -> None:
        note, self._note = self._note, None  # once: what follows only repeats it
        if note is not None:
            note(text)

    # -- ending

    def shutdown(self, how: int) -> None:
        if how not in {SHUT_RD, SHUT_WR, SHUT_RD | SHUT_WR}:
            raise Refused(Errno.INVAL)
        self._read_shut |= bool(how & SHUT_RD)
        if how & SHUT_WR and not self._write_shut:
            self._write_shut = True
            if not self._owed:
                self._say_goodbye()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._owed and not self._write_shut:
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()  # what the peer still says is of no interest any more
        if self._owed or self._goodbye:
            self.waiter.linger(self)
            return
        self.waiter.forgive(self)
        self._tls.close()

    def _say_goodbye(self) -> None:
        """Send close_notify, or owe it. The peer's own is not waited for: it may still have much to say.

        Python's `ssl` sends it and at once tries to read the peer's; OpenSSL then loses whatever else it finds. So
        while that happens the descriptor means a socket on which nothing has arrived.
        """
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            kept = os.dup(self.fd)
            try:
                os.dup2(here.fileno(), self.fd, inheritable=False)
                with contextlib.suppress(OSError, ValueError):
                    self._tls.unwrap()
                    self._over = True
            finally:
                os.dup2(kept, self.fd, inheritable=False)
                os.close(kept)
            with contextlib.suppress(BlockingIOError):
                self._goodbye = there.recv(RECORD)
        self._send_goodbye()

    def _send_goodbye(self) -> None:
        try:
            self._goodbye = self._goodbye[os.write(self.fd, self._goodbye) :]
        except BlockingIOError:
            self.waiter.owe(self)
        except OSError:
            self._goodbye = b""

    # -- poll

    def ready_bytes(self, kind: int) -> int | None:
        if kind != FD_READ:
            return None
        if self._read_shut:
            return 1
        return len(self._ahead) or self._tls.pending() or None

    def wants(self, kind: int) -> int:
        if kind == FD_WRITE and self._tls.version() is not None:
            return select.POLLOUT  # past the handshake of TLS 1.3 a write waits for nothing else
        return self._events.get(kind, select.POLLOUT)

    def confirm(self, kind: int) -> int | None:
        """Records that carry nothing for the program, the handshake above all, are dealt with here."""
        if self._over:
            return 1
        try:
            if self._admit is not None:
                self._judge()
            if self._tls.version() is None:
                self._tls.do_handshake()
            if kind == FD_READ:
                if self.flags & NONBLOCK:
                    return self._tls.pending() or 1
                return max(1, len(self._ahead)) if self._ahead or self._look_ahead() else None
            self.settle()
        except ssl.SSLWantReadError:
            self._events[kind] = select.POLLIN
            return None
        except ssl.SSLWantWriteError:
            self._events[kind] = select.POLLOUT
            return None
        except (OSError, ValueError, Refused) as error:
            if isinstance(error, ssl.SSLError):
                self._failed(error)
            return 1  # the program learns what happened when it reads or writes
        return None if self._owed else 1


def _barred(_: ssl.SSLSocket) -> None:
    raise Refused(Errno.CONNRESET)


def accepted(
    context: ssl.SSLContext,
    connection: socket.socket,
    waiter: Waiter,
    flags: int,
    *,
    admit: Callable[[ssl.SSLSocket], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> TlsStream:
    """The program's descriptor of a connection that a TLS listener accepted; the handshake is still to come."""
    connection.setblocking(False)
    tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False)
    return TlsStream(tls, waiter, flags, admit=admit, note=note)
