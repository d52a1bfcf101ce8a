"""Listeners and connections: what the originals' runtime tests ask, and peers that behave badly."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from enarx.errors import ConflictError, UnavailableError, UntrustedError
from enarx.keep.runtime import TlsIdentity
from enarx.keep.runtime.tls import server_context
from tests.unit.conftest import Authority

from .conftest import Runner, Starter

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def _listen(prot: str, name: str = "ingest") -> str:
    return f'{STDIO}[[files]]\nkind="listen"\nname="{name}"\nprot="{prot}"\naddr="127.0.0.1"\nport=0\n'


def _connect(prot: str, port: int) -> str:
    return f'{STDIO}[[files]]\nkind="connect"\nname="stream"\nprot="{prot}"\nhost="localhost"\nport={port}\n'


def _dial(port: int, prot: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    if prot == "tcp":
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context.wrap_socket(sock)


def _echo_three(sock: socket.socket) -> None:
    file = sock.makefile("rwb")
    for line in (b"first\n", b"second\n", b"third\n"):
        file.write(line)
        file.flush()
        assert file.readline() == line


@contextmanager
def _echo_server(authority: Authority | None) -> Iterator[int]:
    """A server of one connection that sends three lines and expects each back."""
    listener = socket.create_server(("127.0.0.1", 0))
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            sock, _ = listener.accept()
            sock.settimeout(30)
            if authority is not None:
                issued = authority.attest(None)
                assert isinstance(issued.key, EllipticCurvePrivateKey)
                served = TlsIdentity(chain_pem=issued.chain_pem, key=issued.key)
                sock = server_context(served).wrap_socket(sock, server_side=True)
            with sock:
                _echo_three(sock)
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(30)
    assert not failures


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_a_connection_is_open_before_the_program_starts(
    probe: bytes, run_guest: Runner, identity: TlsIdentity, authority: Authority, prot: str
) -> None:
    """Descriptor 3 echoes a line as it comes, blocking, and non-blocking (6.4: connect_tcp, connect_tls)."""
    with _echo_server(authority if prot == "tls" else None) as port:
        outcome = run_guest(
            probe, "connected", "3", toml=_connect(prot, port), identity=identity, roots_pem=authority.pem
        )
    assert outcome.code == 0
    told = run_guest(probe, "environment", toml=_listen("tcp")).stdout
    assert b"FD_COUNT=4\nenv FD_NAMES=stdin:stdout:stderr:ingest\n" in told


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_three_accepts_each_echo_three_lines(
    probe: bytes, start_guest: Starter, identity: TlsIdentity, prot: str
) -> None:
    """Blocking and non-blocking accepts serve a client each (6.4: listen_tcp, listen_tls)."""
    guest = start_guest(probe, "listening", "3", toml=_listen(prot), identity=identity)
    for _ in range(3):
        with _dial(guest.ports[0], prot) as sock:
            _echo_three(sock)
    assert guest.join().code == 0


def test_a_peer_that_is_not_who_it_should_be_is_refused(
    probe: bytes, run_guest: Runner, identity: TlsIdentity, authority: Authority, foreign: Authority
) -> None:
    """A connection whose certificate no trusted root issued ends before the program starts."""
    with contextlib.suppress(AssertionError), _echo_server(foreign) as port:  # noqa: SIM117 - the server fails as well
        with pytest.raises(UntrustedError, match=f"stream: TLS with localhost port {port}: "):
            run_guest(probe, "connected", "3", toml=_connect("tls", port), identity=identity, roots_pem=authority.pem)


def test_nobody_there_and_a_port_taken_are_named(probe: bytes, run_guest: Runner) -> None:
    """The file, the host and the port are in the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConflictError, match=f"ingest: cannot listen on 127.0.0.1 port {port}: Address already"):
            run_guest(probe, "listening", "3", toml=_listen("tcp").replace("port=0", f"port={port}"))
    with pytest.raises(UnavailableError, match=f"stream: cannot connect to localhost port {port}: Connection refused"):
        run_guest(probe, "connected", "3", toml=_connect("tcp", port))


def test_silent_clients_hold_up_nobody(probe: bytes, start_guest: Starter, identity: TlsIdentity) -> None:
    """Clients that connect and never begin a handshake, or stop in the middle, delay no other."""
    guest = start_guest(probe, "server", "3", "1", toml=_listen("tls"), identity=identity)
    with contextlib.ExitStack() as stack:
        for index in range(50):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30))
            if index % 2:
                silent.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        with _dial(guest.ports[0], "tls") as sock:
            _echo_three(sock)
            sock.sendall(b"end\n")
            assert sock.recv(10) == b"end\n"
    assert guest.join().code == 0


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_a_client_that_resets_ends_only_its_own_connection(
    probe: bytes, start_guest: Starter, identity: TlsIdentity, prot: str
) -> None:
    """RST is an error on one descriptor; the server goes on."""
    guest = start_guest(probe, "server", "3", "1", toml=_listen(prot), identity=identity)
    with _dial(guest.ports[0], prot) as rude:
        rude.sendall(b"x\n")
        assert rude.recv(10) == b"x\n"
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with _dial(guest.ports[0], prot) as sock:
        _echo_three(sock)
        sock.sendall(b"end\n")
        assert sock.recv(10) == b"end\n"
    assert guest.join().code == 0


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_half_a_connection_can_be_closed(probe: bytes, start_guest: Starter, identity: TlsIdentity, prot: str) -> None:
    """After shutdown the program writes no more (PIPE), and still reads what the peer has to say."""
    guest = start_guest(probe, "half-close", "3", toml=_listen(prot), identity=identity)
    with _dial(guest.ports[0], prot) as sock:
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
        if prot == "tcp":
            assert sock.recv(10) == b""
        sock.sendall(b"y" * 1000)
        sock.shutdown(socket.SHUT_WR) if prot == "tcp" else _goodbye(sock)
        outcome = guest.join()
    assert outcome.stdout == b"shutdown 0\nwrite 64\nread 1000 then 0\n"


def _goodbye(sock: socket.socket) -> None:
    assert isinstance(sock, ssl.SSLSocket)
    with contextlib.suppress(OSError):
        sock.unwrap()


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_peek_and_waitall(probe: bytes, start_guest: Starter, identity: TlsIdentity, prot: str) -> None:
    """Bytes that were peeked at are still there; waitall gathers what arrives in pieces."""
    guest = start_guest(probe, "receive", "3", toml=_listen(prot), identity=identity)
    with _dial(guest.ports[0], prot) as sock:
        sock.sendall(b"abcd")
        sock.sendall(b"efgh")
        assert sock.recv(3) == b"ok\n"
        sock.shutdown(socket.SHUT_WR) if prot == "tcp" else _goodbye(sock)
        outcome = guest.join()
    assert outcome.stdout == b"peek 4 abcd\nall 8 abcdefgh\nsend 3\nend 0\n"


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_a_slow_reader_gets_every_byte(
    probe: bytes, start_guest: Starter, identity: TlsIdentity, prot: str, nonblocking: bool
) -> None:
    """Four mebibytes to a peer with a tiny window arrive whole, those that were owed at the program's end included."""
    size = 4 << 20
    arguments = ("flood", "3", str(size), *(["nonblocking"] if nonblocking else []))
    guest = start_guest(probe, *arguments, toml=_listen(prot), identity=identity)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(30)
    raw.connect(("127.0.0.1", guest.ports[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = raw if prot == "tcp" else context.wrap_socket(raw)
    received = bytearray()
    with sock:
        sock.sendall(b"!")
        while piece := sock.recv(65536):
            received += piece
    assert guest.join().stdout == f"{size}\n".encode()
    period = bytes(range(251)) * ((size // 251) + 2)
    assert len(received) == size
    assert all(received[at : at + 65536] == period[at % 251 :][:65536] for at in range(0, size, 65536))


def test_poll_tells_streams_listeners_and_closed_descriptors_apart(
    probe: bytes, start_guest: Starter, identity: TlsIdentity
) -> None:
    """One list with input, output, a quiet listener and a number that is closed."""
    guest = start_guest(probe, "poll-many", "3", toml=_listen("tcp"), stdin=b"hello")
    assert guest.join().stdout.startswith(b"3: 1 1 0 1\n")


def test_clocks_wake_a_program(probe: bytes, run_guest: Runner) -> None:
    """A sleep lasts as long as it should, and an empty poll with a time-out returns."""
    assert run_guest(probe, "clocks").stdout == b"slept 1\npoll 0\n"


@pytest.mark.parametrize("what", [("hang", "3"), ("spin",)])
def test_whoever_holds_the_interrupt_ends_the_program(
    probe: bytes, start_guest: Starter, identity: TlsIdentity, what: tuple[str, ...]
) -> None:
    """Waiting or computing, a program that is interrupted ends with 128 plus the signal."""
    guest = start_guest(probe, *what, toml=_listen("tcp"), identity=identity)
    guest.interrupt.send(15)
    assert guest.join().code == 143


def test_descriptors_can_be_moved_over_each_other(probe: bytes, run_guest: Runner) -> None:
    """fd_renumber closes its target and moves: the source is closed (8), as is 1 once it was; 2 onto 2 is nothing."""
    outcome = run_guest(probe, "renumber", "3", toml=STDIO + '[[files]]\nkind="null"\n')
    assert (outcome.stdout, outcome.stderr) == (b"", b"8 8 0\n8\n")
