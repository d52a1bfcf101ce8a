"""Datagrams: what the lists allow goes and comes, and nothing else does."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from enarx.keep.config import Config
from enarx.keep.runtime import Interrupt
from enarx.keep.runtime.components import udp
from enarx.keep.runtime.components.io import Allowance
from enarx.keep.runtime.components.sockets import World
from enarx.keep.runtime.components.values import Err
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.waiting import Waiter
from tests.unit.keep.runtime.conftest import Runner

ROOT = Path(__file__).resolve().parents[5]
STDOUT = '[[files]]\nkind="stdout"\n'
ANY = ("ipv4", {"port": 0, "address": (127, 0, 0, 1)})

Calls = Callable[..., Any]  # Any: as the functions of wasi:sockets answer


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who sends every datagram back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def answer() -> None:
            while (came := sock.recvfrom(100))[0] != b"end":
                sock.sendto(b"re:" + came[0], came[1])

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield sock.getsockname()[1]
        sock.sendto(b"end", sock.getsockname())
        thread.join()


def _guest(port: int, first: str = "") -> bytes:
    text = (ROOT / "tests" / "guests" / "udp.wat").read_text()
    return bytes(wasmtime.wat2wasm(text.replace("PORT", str(port)).replace("FIRST", first)))


def test_a_component_sends_and_receives_datagrams(run_guest: Runner, echo: int) -> None:
    """To an endpoint of the list, from a port that the system chose."""
    toml = STDOUT + f'[network]\noutgoing = ["127.0.0.1:{echo}"]\n'
    outcome = run_guest(_guest(echo), toml=toml)
    assert (outcome.code, outcome.stdout) == (0, b"re:ping")


@pytest.mark.parametrize(
    "lists",
    [
        "",
        "[network]\noutgoing = []\n",
        '[network]\noutgoing = ["127.0.0.1:9"]\n',
        '[[files]]\nkind = "listen"\nname = "x"\nprot = "tcp"\nport = PORT\n',
    ],
)
def test_a_component_sends_to_nobody_else(run_guest: Runner, echo: int, lists: str) -> None:
    """No list, an empty one, another port, and a TCP entry of `files`: the component gets an error, and it is logged."""
    outcome = run_guest(_guest(echo), toml=STDOUT + lists.replace("PORT", "0"))
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert f"the program may not send datagrams to 127.0.0.1 port {echo}".encode() in outcome.stderr


def test_a_component_binds_no_port_that_is_not_listed(run_guest: Runner, echo: int) -> None:
    """A listen entry is for TCP: datagrams need network.incoming."""
    outcome = run_guest(
        _guest(echo, "(local.set $port (i32.const 1025))"), toml=STDOUT + "[network]\nincoming=[1024]\n"
    )
    assert outcome.code == 1
    assert b"the program may not receive datagrams on port 1025" in outcome.stderr


@pytest.fixture
def calls() -> Iterator[Callable[[str], Calls]]:
    """The functions of wasi:sockets/udp under an Enarx.toml, by their names without the resource."""
    made: list[Any] = []  # Any: sockets, which a component's store would let go of
    with Interrupt() as interrupt:

        def under(toml: str) -> Calls:
            config = Config.parse(toml)
            world = World(
                config,
                None,
                Waiter(interrupt),
                Log(config.log, bytearray().extend),
                Allowance(config.limits.descriptors),
            )
            table = udp.implementations(world)

            def call(name: str, *arguments: Any) -> Any:  # Any: as above
                answer = next(function for key, function in table.items() if key.endswith(name))(*arguments)
                if name == "create-udp-socket" and not isinstance(answer, Err):
                    made.append(answer.thing)
                return answer

            return call

        yield under
    for thing in made:
        thing.sock.close()


def _bound(call: Calls, local: Any = ANY) -> Any:  # Any: as above
    made = call("create-udp-socket", "ipv4").thing
    assert call("udp-socket.start-bind", made, None, local) is None
    assert call("udp-socket.finish-bind", made) is None
    return made


def test_a_port_of_the_list_answers_whoever_sends(calls: Callable[[str], Calls]) -> None:
    """Anybody may send to a listed port, and only who has sent may be answered."""
    call = calls("[network]\nincoming = [0]\noutgoing = []\n")
    made = _bound(call)
    port = call("udp-socket.local-address", made)[1]["port"]
    incoming, outgoing = (own.thing for own in call("udp-socket.stream", made, None))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        where = ("ipv4", {"port": client.getsockname()[1], "address": (127, 0, 0, 1)})
        datagram = {"data": b"answer", "remote-address": where}
        assert call("stream.send", outgoing, [datagram]) == Err("access-denied")
        client.sendto(b"question", ("127.0.0.1", port))
        assert call("stream.receive", incoming, 10) == [{"data": b"question", "remote-address": where}]
        assert call("stream.send", outgoing, [datagram, datagram]) == 2
        assert client.recv(100) == b"answer"
        too_large = {"data": bytes(65536), "remote-address": where}
        assert call("stream.send", outgoing, [too_large]) == Err("datagram-too-large")
        assert call("stream.send", outgoing, [datagram, too_large]) == 1


def test_a_port_of_the_system_hears_only_who_may_be_reached(calls: Callable[[str], Calls]) -> None:
    """Datagrams of others are dropped without a word."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as friend,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        friend.bind(("127.0.0.1", 0))
        call = calls(f'[network]\noutgoing = ["localhost:{friend.getsockname()[1]}"]\n')
        made = _bound(call)
        incoming = call("udp-socket.stream", made, None)[0].thing
        port = call("udp-socket.local-address", made)[1]["port"]
        stranger.sendto(b"psst", ("127.0.0.1", port))
        assert call("stream.receive", incoming, 10) == []
        friend.sendto(b"hello", ("127.0.0.1", port))
        assert [item["data"] for item in call("stream.receive", incoming, 10)] == [b"hello"]


def test_a_connected_socket_has_one_peer(calls: Callable[[str], Calls]) -> None:
    """It sends to that one alone, and can be parted from it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        port = peer.getsockname()[1]
        call = calls('[network]\noutgoing = ["127.0.0.1:1-65535"]\n')
        made = _bound(call)
        where = ("ipv4", {"port": port, "address": (127, 0, 0, 1)})
        outgoing = call("udp-socket.stream", made, where)[1].thing
        assert call("udp-socket.remote-address", made) == where
        elsewhere = ("ipv4", {"port": 9, "address": (127, 0, 0, 1)})
        assert call("stream.send", outgoing, [{"data": b"x", "remote-address": None}]) == 1
        assert call("stream.send", outgoing, [{"data": b"x", "remote-address": elsewhere}]) == Err("invalid-argument")
        call("udp-socket.stream", made, None)
        assert call("udp-socket.remote-address", made) == Err("invalid-state")
        assert call("stream.send", outgoing, [{"data": b"x", "remote-address": None}]) == Err("invalid-argument")


def test_states_and_limits(calls: Callable[[str], Calls]) -> None:
    """No stream before a name, no name twice, options of the system, and no more sockets than descriptors."""
    call = calls("[limits]\ndescriptors = 2\n")
    made = call("create-udp-socket", "ipv4").thing
    assert call("udp-socket.stream", made, None) == Err("invalid-state")
    assert call("udp-socket.finish-bind", made) == Err("not-in-progress")
    second = _bound(call)
    assert call("udp-socket.start-bind", second, None, ANY) == Err("invalid-state")
    assert call("create-udp-socket", "ipv6") == Err("new-socket-limit")
    made.drop()
    sixth = call("create-udp-socket", "ipv6").thing
    assert call("udp-socket.start-bind", sixth, None, ANY) == Err("invalid-argument")
    assert call("udp-socket.set-unicast-hop-limit", sixth, 7) is None
    assert call("udp-socket.unicast-hop-limit", sixth) == 7
    assert call("udp-socket.set-receive-buffer-size", sixth, 0) == Err("invalid-argument")
    assert call("udp-socket.set-receive-buffer-size", sixth, 8192) is None
    assert call("udp-socket.receive-buffer-size", sixth) == 8192
