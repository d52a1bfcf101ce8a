"""An enclave's network: what is carried between the two sides, what is not, and what ends it."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from enarx.cli.main import main
from enarx.errors import ConflictError, MalformedError, UnavailableError
from enarx.keep.backends import link
from enarx.keep.backends.link import End, carry, keep_connected, parse_address, serve

PEER = "10.118.0.2"


def packet(source: str = PEER, body: bytes = b"", version: int = 4) -> bytes:
    return bytes((version << 4 | 5,)) + bytes(11) + socket.inet_aton(source) + bytes(4) + body


def frame(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@pytest.fixture
def device() -> Iterator[tuple[socket.socket, int]]:
    """The kernel's side of a device, and the descriptor that is read and written: packets keep their ends."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.settimeout(10)
    with kernel, ours:
        yield kernel, ours.fileno()


@pytest.fixture
def stream() -> Iterator[tuple[socket.socket, socket.socket]]:
    there, here = socket.socketpair()
    there.settimeout(10)
    with there, here:
        yield there, here


def read(stream: socket.socket, count: int) -> bytes:
    return stream.recv(count, socket.MSG_WAITALL)


def test_packets_of_the_enclave_go_both_ways(
    device: tuple[socket.socket, int], stream: tuple[socket.socket, socket.socket]
) -> None:
    """What is in another's name is dropped, and so is what is no IPv4; everything else arrives as it was."""
    (kernel, descriptor), (there, here) = device, stream
    carrying = threading.Thread(target=carry, args=(descriptor, here, socket.inet_aton(PEER)))
    carrying.start()
    there.sendall(frame(packet("10.0.0.1", b"forged")) + frame(packet(body=b"x" * 1400)) + frame(packet()))
    assert kernel.recv(4096) == packet(body=b"x" * 1400)
    assert kernel.recv(4096) == packet()
    for sent in (packet(version=6), packet("10.118.0.1", b"answer")):
        kernel.sendall(sent)
    expected = frame(packet("10.118.0.1", b"answer"))
    assert read(there, len(expected)) == expected
    there.close()
    carrying.join(10)
    assert not carrying.is_alive()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (frame(b""), "0 bytes that are none"),
        (frame(packet()[:19]), "19 bytes that are none"),
        (frame(packet(version=6)), "20 bytes that are none"),
        (frame(packet())[:-1], "1 bytes missing"),
        (frame(packet())[:2], "20 bytes missing"),
        (b"\0", "1 bytes missing"),
    ],
)
def test_what_is_no_packet_ends_the_connection(
    device: tuple[socket.socket, int], stream: tuple[socket.socket, socket.socket], sent: bytes, why: str
) -> None:
    """With what is wrong with it."""
    (_, descriptor), (there, here) = device, stream
    there.sendall(sent)
    there.shutdown(socket.SHUT_WR)
    with pytest.raises(MalformedError, match=why):
        carry(descriptor, here)
    assert there.recv(1) == b""


@given(st.binary(max_size=200), st.lists(st.binary(min_size=20, max_size=40), max_size=3))
def test_any_bytes_are_packets_or_malformed(data: bytes, packets: list[bytes]) -> None:
    """Whatever the other side sends: the connection is over, and nothing else happens."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there, here = socket.socketpair()
    with kernel, ours, there, here:
        there.sendall(b"".join(map(frame, packets)) + data)
        there.shutdown(socket.SHUT_WR)
        with contextlib.suppress(MalformedError):
            carry(ours.fileno(), here, socket.inet_aton(PEER))


class Background:
    """Both sides' loops in threads, which are over when the test is."""

    def __init__(self, folder: Path) -> None:
        self.end = End(path=folder / "end")
        self.said = list[str]()
        self.up, self.over = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def device(self) -> tuple[socket.socket, int]:
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kernel.settimeout(10)
        self._open += [kernel, ours]
        return kernel, ours.fileno()

    def serve(self, descriptor: int) -> None:
        listener = self.end.listen()
        self._open.append(listener)
        self._start(serve, listener, self.end, descriptor, PEER, self.said.append)

    def connect(self, descriptor: int) -> None:
        self._start(keep_connected, self.end, descriptor, self.up, self.over, self.said.append)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def close(self) -> None:
        self.over.set()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # a listener's accept, and a device's reading, end
        for thread in self._threads:
            thread.join(10)
        for each in self._open:
            each.close()


@pytest.fixture
def background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Background]:
    monkeypatch.setattr(link, "PAUSE", 0.01)
    made = Background(tmp_path)
    yield made
    made.close()


def test_one_enclave_after_the_other_is_served(background: Background) -> None:
    """Also after one that said rubbish; the door is this user's alone."""
    (kernel, descriptor), (ours, inside) = background.device(), background.device()
    background.serve(descriptor)
    assert background.end.path is not None
    assert background.end.path.stat().st_mode & 0o777 == 0o600
    with background.end.connect() as rubbish:
        rubbish.sendall(frame(b""))
        assert rubbish.recv(1) == b""
    background.connect(inside)
    assert background.up.wait(10)
    ours.sendall(packet())
    assert kernel.recv(100) == packet()
    kernel.sendall(packet("10.118.0.1"))
    assert ours.recv(100) == packet("10.118.0.1")
    assert any("are none" in line for line in background.said)


def test_an_instance_that_was_away_is_found_again(background: Background) -> None:
    """The device stays, and with it the enclave's sockets."""
    ours, inside = background.device()
    background.connect(inside)
    for _ in range(2):
        with background.end.listen() as listener:
            listener.settimeout(10)
            stream, _who = listener.accept()
        with stream:
            ours.sendall(packet())
            assert read(stream, 22) == frame(packet())
    assert background.up.is_set()


def test_another_enclave_of_the_instance_is_not_let_in(device: tuple[socket.socket, int]) -> None:
    """Where the end names one: it would have its address."""
    _, descriptor = device
    waiting = [(socket.socketpair(), (17, 1)), (socket.socketpair(), (16, 1))]

    class Listener:
        def accept(self) -> tuple[socket.socket, tuple[int, int]]:
            if not waiting:
                raise OSError("enough")
            (here, there), who = waiting.pop(0)
            there.close()
            return here, who

    said = list[str]()
    serve(Listener(), End(cid=16, port=7000), descriptor, PEER, said.append)  # type: ignore[arg-type]  # a vsock's
    assert said[1:] == ["CID 17 is not let in, expected 16", f"{PEER} is there", f"{PEER} is gone"]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("vsock:7000", End(port=7000)),
        ("vsock:3:7000", End(cid=3, port=7000)),
        ("unix:/run/enarx/link", End(path=Path("/run/enarx/link"))),
    ],
)
def test_ends_have_a_form(text: str, end: End) -> None:
    """And are written as they are read."""
    assert End.parse(text) == end
    assert str(end) == text


@given(st.text(max_size=30) | st.from_regex(r"(vsock|unix|tcp):[0-9:]{0,24}", fullmatch=True))
def test_any_text_is_an_end_or_malformed(text: str) -> None:
    """Whatever somebody types."""
    try:
        found = End.parse(text)
    except MalformedError:
        return
    assert End.parse(str(found)) == found


def test_what_cannot_be_an_end_is_refused(tmp_path: Path) -> None:
    """A place with something else in it, a door that nobody opens, an instance without a number."""
    (tmp_path / "thesis").write_text("")
    with pytest.raises(ConflictError, match="is no socket"):
        End(path=tmp_path / "thesis").listen()
    with pytest.raises(UnavailableError, match="No such file"):
        End(path=tmp_path / "nobody").connect()
    for text in ("vsock:4294967296", "vsock:3:99999999999", "vsock:-1", "vsock:"):
        with pytest.raises(MalformedError, match="expected vsock:PORT"):
            End.parse(text)
    with pytest.raises(MalformedError, match="the instance is CID 3"):
        End(port=7000).connect()


@pytest.mark.parametrize("text", ["10.118.0.2", "10.118.0.2/31", "10.0.0.1/7", "fe80::1/64", "10.118.0.2/x", ""])
def test_an_address_has_a_network_with_two_sides(text: str) -> None:
    """Anything else is malformed."""
    with pytest.raises(MalformedError, match="expected a"):
        parse_address(text)
    assert str(parse_address("10.118.0.2/30").network) == "10.118.0.0/30"


SIDE = ("--address", "10.118.0.1/30", "--peer", PEER)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (SIDE, "--listen on the instance, or --connect in the enclave"),
        (("--listen", "vsock:1", "--connect", "vsock:3:1", *SIDE), "--listen on the instance, or"),
        (("--listen", "vsock:1", *SIDE, "--", "true"), "are for --connect"),
        (("--listen", "vsock:1", *SIDE, "--dns", "10.0.0.2"), "are for --connect"),
        (("--connect", "vsock:3:1", *SIDE), "which COMMAND"),
        (("--listen", "tcp:1", *SIDE), "expected vsock:PORT"),
        (("--listen", "vsock:1", "--address", "10.118.0.1/30", "--peer", "10.118.0.1"), "another address"),
        (("--listen", "vsock:1", "--address", "10.118.0.1/30", "--peer", "10.119.0.2"), "another address"),
        (("--listen", "vsock:1", "--address", "10.118.0.1", "--peer", PEER), "with its network|of /8 to /30"),
        (("--connect", "vsock:3:1", *SIDE, "--dns", "resolver", "--", "true"), "expected an IPv4 address"),
    ],
)
def test_options_that_say_nothing_sensible_are_mistakes(options: tuple[str, ...], why: str) -> None:
    """Before any device is made."""
    done = CliRunner().invoke(main, ["platform", "link", *options])
    assert done.exit_code == 64
    assert any(part in done.output for part in why.split("|")), done.output


def test_nothing_waits_where_no_device_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The refusal names it."""
    monkeypatch.setattr(link, "DEVICE", tmp_path / "tun")
    done = CliRunner().invoke(main, ["platform", "link", "--listen", "vsock:1", *SIDE])
    assert (done.exit_code, done.stderr) == (69, f"Error: {tmp_path / 'tun'}: No such file or directory\n")
