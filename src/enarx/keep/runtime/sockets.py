"""Opening what `files` asks for: listeners are bound and connections made before the program starts.

Everything waits in `enarx.keep.runtime.waiting`, so a Keep that hangs on a silent peer can still be told to end.
`localhost` is 127.0.0.1 whatever the host's resolver says, as with the originals.
"""

import contextlib
import errno
import os
import resource
import select
import socket
import ssl
import time
from functools import partial
from typing import Final

from enarx.errors import (
    ConflictError,
    EnarxError,
    MalformedError,
    RejectedError,
    UnavailableError,
    UntrustedError,
)
from enarx.keep.config import Connect, Level, Listen
from enarx.keep.runtime.abi import NONBLOCK
from enarx.keep.runtime.descriptors import Listening
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.streams import BACKLOG, Listener, Stream
from enarx.keep.runtime.tls import Contexts, TlsStream, accepted
from enarx.keep.runtime.waiting import Waiter

CONNECT_SECONDS: Final = 30.0  # for name, connection and handshake together


class Opener:
    """Opens the descriptors of one program."""

    def __init__(self, contexts: Contexts | None, waiter: Waiter, log: Log) -> None:
        self._contexts, self._waiter, self._log = contexts, waiter, log
        self.listening: list[Listening] = []
        self.listeners: list[Listener] = []

    def open(self, file: Listen | Connect) -> Listener | Stream:
        """Raises UnavailableError, ConflictError, UntrustedError, RejectedError or MalformedError, naming the file."""
        return self.listen(file) if isinstance(file, Listen) else self._connect(file)

    def listen(self, file: Listen) -> Listener:
        """As `open`."""
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
        try:
            made = self._listener(file, sock)
        except EnarxError:
            sock.close()
            raise
        self.listeners.append(made)
        return made

    def _listener(self, file: Listen, sock: socket.socket) -> Listener:
        if file.prot == "tcp":

            def plain(connection: socket.socket, waiter: Waiter, flags: int) -> Stream:
                self._log.say("info", "accepted", f"{file.name}: a connection from {peer_name(connection)}")
                return Stream(connection, waiter, flags)

            return Listener(sock, self._waiter, plain)
        contexts = self._require_contexts(file)
        contexts.server(file.peers)  # what is wrong with it is said now
        admit = contexts.admission(file.peers, "client")

        def encrypted(connection: socket.socket, waiter: Waiter, flags: int) -> Stream | None:
            who = peer_name(connection)
            try:
                context = contexts.server(file.peers)
            except UnavailableError as error:
                self._log.say("error", "refused", f"{file.name}: refused {who}: {error}")
                return None
            self._log.say("info", "accepted", f"{file.name}: a connection from {who}")
            level: Level = "info" if admit is None and file.peers.client == "none" else "warn"
            note = partial(self._note, level, f"{file.name}: {who}")
            return accepted(context, connection, waiter, flags, admit=admit, note=note)

        # like the originals, whose programs may rely on it: TLS listeners begin non-blocking, TCP ones do not
        return Listener(sock, self._waiter, encrypted, NONBLOCK)

    def _note(self, level: Level, who: str, text: str) -> None:
        self._log.say(level, "refused", f"{who}: {text}")

    def _connect(self, file: Connect) -> Stream:
        deadline = time.monotonic() + CONNECT_SECONDS
        sock = self._reach(file, deadline)
        if file.prot == "tcp":
            return Stream(sock, self._waiter)
        contexts = self._require_contexts(file)
        tls = contexts.client(file.peers).wrap_socket(
            sock, server_hostname=file.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        try:
            self._handshake(tls, file, deadline)
            self._judge(tls, file, contexts)
        except BaseException:
            tls.close()
            raise
        return TlsStream(tls, self._waiter)

    def _judge(self, tls: ssl.SSLSocket, file: Connect, contexts: Contexts) -> None:
        admit = contexts.admission(file.peers, "server")
        where = f"{file.name}: TLS with {file.host} port {file.port}"
        try:
            if admit is not None:
                admit(tls)
        except RejectedError as error:
            raise RejectedError(f"{where}: {error}", reasons=error.reasons) from error
        except EnarxError as error:
            raise type(error)(f"{where}: {error}") from error

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

    def _require_contexts(self, file: Listen | Connect) -> Contexts:
        if self._contexts is None:
            raise MalformedError(f'{file.name}: prot = "tls" needs a certificate, and this Keep has none')
        return self._contexts


def allow_many() -> None:
    """Let this process have as many descriptors as it may: connections are descriptors of the operating system."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def peer_name(connection: socket.socket) -> str:
    """The address at the other end, as text; "somebody" when it has already gone."""
    try:
        host, port, *_ = connection.getpeername()
    except (OSError, ValueError):
        return "somebody"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
