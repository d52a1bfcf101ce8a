"""Opening what `files` asks for: listeners are bound and connections made before the program starts.

Everything waits in `enarx.keep.runtime.waiting`, so a Keep that hangs on a silent peer can still be told to end.
`localhost` is 127.0.0.1 whatever the host's resolver says, as with the originals.
"""

import errno
import os
import select
import socket
import ssl
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from enarx.errors import ConflictError, MalformedError, UnavailableError, UntrustedError
from enarx.keep.config import Connect, File, Listen, Standard
from enarx.keep.runtime.abi import NONBLOCK
from enarx.keep.runtime.descriptors import Descriptor, Null
from enarx.keep.runtime.streams import BACKLOG, Input, Listener, Stdio, Stream, output
from enarx.keep.runtime.tls import TlsIdentity, TlsStream, accepted, client_context, server_context
from enarx.keep.runtime.waiting import Waiter

CONNECT_SECONDS: Final = 30.0  # for name, connection and handshake together


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A listener that is open: where, and what it speaks."""

    name: str
    prot: str
    addr: str
    port: int


class Opener:
    """Opens the descriptors of one program."""

    def __init__(self, stdio: Stdio, identity: TlsIdentity | None, roots_pem: bytes | None, waiter: Waiter) -> None:
        self._stdio, self._identity, self._roots, self._waiter = stdio, identity, roots_pem, waiter
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        self.listening: list[Listening] = []

    def open(self, file: File) -> Descriptor:
        """Raises UnavailableError, ConflictError, UntrustedError or MalformedError, naming the file."""
        if isinstance(file, Listen):
            return self._listen(file)
        if isinstance(file, Connect):
            return self._connect(file)
        return self._standard(file)

    def _standard(self, file: Standard) -> Descriptor:
        if file.kind == "stdin" and self._stdio.stdin is not None:
            return Input(self._stdio.stdin, self._waiter)
        if file.kind == "stdout":
            return output(self._stdio.stdout, self._waiter)
        if file.kind == "stderr":
            return output(self._stdio.stderr, self._waiter)
        return Null()

    def _listen(self, file: Listen) -> Listener:
        where = f"{file.name}: cannot listen on {file.addr} port {file.port}"
        try:
            family, _, _, _, address = socket.getaddrinfo(
                file.addr, file.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UnavailableError(f"{where}: {error}") from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and file.addr == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            kind = ConflictError if error.errno == errno.EADDRINUSE else UnavailableError
            raise kind(f"{where}: {error.strerror}") from error
        self.listening.append(Listening(name=file.name, prot=file.prot, addr=file.addr, port=sock.getsockname()[1]))
        if file.prot == "tcp":
            return Listener(sock, self._waiter, Stream)
        if self._server is None:
            self._server = server_context(self._require_identity(file))
        # like the originals, whose programs may rely on it: TLS listeners begin non-blocking, TCP ones do not
        return Listener(sock, self._waiter, partial(accepted, self._server), NONBLOCK)

    def _connect(self, file: Connect) -> Stream:
        deadline = time.monotonic() + CONNECT_SECONDS
        sock = self._reach(file, deadline)
        if file.prot == "tcp":
            return Stream(sock, self._waiter)
        if self._client is None:
            self._client = client_context(self._require_identity(file), self._roots)
        tls = self._client.wrap_socket(
            sock, server_hostname=file.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        try:
            self._handshake(tls, file, deadline)
        except BaseException:
            tls.close()
            raise
        return TlsStream(tls, self._waiter)

    def _reach(self, file: Connect, deadline: float) -> socket.socket:
        host = "127.0.0.1" if file.host == "localhost" else file.host
        failure = "no address"
        try:
            found = socket.getaddrinfo(host, file.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UnavailableError(f"{file.name}: cannot resolve {file.host}: {error}") from error
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            number = sock.connect_ex(address)
            if number == errno.EINPROGRESS:
                self._waiter.poll({sock.fileno(): select.POLLOUT}, deadline)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number and not _is_connected(sock):
                    number = errno.ETIMEDOUT
            if not number:
                return sock
            sock.close()
            failure = os.strerror(number)
        raise UnavailableError(f"{file.name}: cannot connect to {file.host} port {file.port}: {failure}")

    def _handshake(self, tls: ssl.SSLSocket, file: Connect, deadline: float) -> None:
        where = f"{file.name}: TLS with {file.host} port {file.port}"
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            except ssl.SSLCertVerificationError as error:
                raise UntrustedError(f"{where}: {error.verify_message}") from error
            except OSError as error:
                raise UnavailableError(f"{where}: {error.strerror or error}") from error
            else:
                return
            if not self._waiter.poll({tls.fileno(): events}, deadline):
                raise UnavailableError(f"{where}: no answer within {CONNECT_SECONDS:.0f} seconds")

    def _require_identity(self, file: File) -> TlsIdentity:
        if self._identity is None:
            raise MalformedError(f'{file.name}: prot = "tls" needs a certificate, and this Keep has none')
        return self._identity


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
