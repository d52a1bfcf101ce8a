"""wasi:sockets/udp for components: datagrams within the lists of `[network]`.

The lists alone decide, for what `files` names is TCP, and often TLS: a datagram is never encrypted by the Keep.

    to send        the receiver has to be in network.outgoing, datagram by datagram; or to have sent something to a
                   port of network.incoming before, for that is how a server answers
    to bind        the port has to be in network.incoming; 0 is always allowed, for whoever asks needs a port for answers
    to receive     on a port of network.incoming from anybody; elsewhere only from whom the program may send to

A datagram that may not be received is dropped without a word: its sender is not to learn that somebody is here.
"""

import ctypes
import select
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Pollable, When
from enarx.keep.runtime.components.options import UDP, options
from enarx.keep.runtime.components.sockets import Address, World, address_of, code_of, parts_of
from enarx.keep.runtime.components.values import Err, Own

LARGEST: Final = 65535  # bytes of a datagram
AT_ONCE: Final = 16  # datagrams received, or allowed to be sent, by one call
MAX_CALLERS: Final = 4096  # who may be answered; beyond that the oldest is forgotten
MAX_DROPPED: Final = 64  # datagrams nobody may see that one call reads past

NEW, BINDING, BOUND = range(3)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Udp:
    """A udp-socket; its streams are handles to the same."""

    def __init__(self, family: str, world: World) -> None:
        self.family, self.world = family, world
        self.sock = world.new_socket(family, socket.SOCK_DGRAM)
        self.state = NEW
        self.public = False  # whether anybody may send to it
        self.remote: tuple[str, int] | None = None
        self._callers: dict[tuple[str, int], None] = {}
        self._handles = 1

    def held(self, resource: str) -> Own:
        self._handles += 1
        return Own(_Stream(self), resource)

    def drop(self) -> None:
        self._handles -= 1
        if not self._handles:
            self.sock.close()
            self.world.allowance.give()

    def ready(self, events: int) -> bool:
        return bool(self.world.waiter.poll({self.sock.fileno(): events}, 0))

    def admits(self, source: tuple[str, int]) -> bool:
        """Whether a datagram from there may be received; on a public port it may be answered from then on."""
        if self.remote is not None:
            return source == self.remote
        if not self.public:
            return self.world.policy.listed(*source)
        self._callers.pop(source, None)
        self._callers[source] = None
        if len(self._callers) > MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        return True

    def reaches(self, receiver: tuple[str, int]) -> bool:
        return receiver in self._callers or self.world.policy.listed(*receiver)


class _Stream:
    """incoming-datagram-stream or outgoing-datagram-stream."""

    def __init__(self, udp: Udp) -> None:
        self.udp = udp

    def drop(self) -> None:
        self.udp.drop()


def _start_bind(udp: Udp, _: object, local: Address) -> Err | None:
    host, port = parts_of(local)
    if udp.state != NEW:
        return Err("invalid-state")
    if local[0] != udp.family:
        return Err("invalid-argument")
    lists = udp.world.policy.lists
    udp.public = lists.incoming is not None and lists.allows_incoming(port)
    if port and not udp.public:
        return udp.world.denied(f"receive datagrams on port {port}")
    try:
        udp.sock.bind((host, port))
    except OSError as error:
        return code_of(error.errno or 0)
    udp.state = BINDING
    return None


def _finish_bind(udp: Udp) -> Err | None:
    if udp.state != BINDING:
        return Err("not-in-progress")
    udp.state = BOUND
    return None


def _streams(udp: Udp, remote: Address | None) -> Err | tuple[Own, Own]:
    """The streams, to and from one peer where `remote` names it."""
    if udp.state != BOUND:
        return Err("invalid-state")
    wanted = None if remote is None else parts_of(remote)
    if remote is not None and wanted is not None:
        if remote[0] != udp.family or not wanted[1]:
            return Err("invalid-argument")
        if not udp.reaches(wanted):
            return udp.world.denied(f"send datagrams to {wanted[0]} port {wanted[1]}")
    try:
        if udp.remote is not None:
            _disconnect(udp.sock)
        udp.remote = None
        if wanted is not None:
            udp.sock.connect(wanted)
            udp.remote = _plain(udp.sock.getpeername())
    except OSError as error:
        return code_of(error.errno or 0)
    return udp.held("incoming-datagram-stream"), udp.held("outgoing-datagram-stream")


def _disconnect(sock: socket.socket) -> None:
    """Raises OSError. Python has no word for connecting to AF_UNSPEC."""
    nobody = bytes(16)
    if _LIBC.connect(sock.fileno(), nobody, len(nobody)):
        number = ctypes.get_errno()
        raise OSError(number, "connect")


def _plain(found: Any) -> tuple[str, int]:  # Any: an address as Python has it
    return str(found[0]).partition("%")[0], int(found[1])


def _receive(stream: _Stream, limit: int) -> Err | list[dict[str, Any]]:  # Any: records
    """What has come, at most `limit` datagrams; none when nothing has."""
    udp, found, dropped = stream.udp, list[dict[str, Any]](), 0
    while len(found) < min(limit, AT_ONCE) and dropped < MAX_DROPPED:
        try:
            data, source = udp.sock.recvfrom(LARGEST)
        except BlockingIOError:
            break
        except OSError as error:
            return found or code_of(error.errno or 0)
        if not udp.admits(_plain(source)):
            dropped += 1
            continue
        found.append({"data": data, "remote-address": address_of(source)})
    return found


def _check(stream: _Stream) -> int:
    return AT_ONCE if stream.udp.ready(select.POLLOUT) else 0


def _send(stream: _Stream, datagrams: Sequence[Mapping[str, Any]]) -> int | Err:  # Any: records
    """How many have gone. What is wrong with the first is an error; with a later one, the end."""
    for count, datagram in enumerate(datagrams):
        try:
            failed = _send_one(stream.udp, datagram["data"], datagram["remote-address"])
        except BlockingIOError:
            return count
        except OSError as error:
            failed = code_of(error.errno or 0)
        if failed is not None:
            return count or failed
    return len(datagrams)


def _send_one(udp: Udp, data: bytes, to: Address | None) -> Err | None:
    """Raises OSError."""
    if udp.remote is not None:
        if to is not None and parts_of(to) != udp.remote:
            return Err("invalid-argument")
        udp.sock.send(data)
        return None
    if to is None or to[0] != udp.family:
        return Err("invalid-argument")
    host, port = parts_of(to)
    if not udp.reaches((host, port)):
        return udp.world.denied(f"send datagrams to {host} port {port}")
    udp.sock.sendto(data, (host, port))
    return None


def _local(udp: Udp) -> Address | Err:
    return Err("invalid-state") if udp.state == NEW else address_of(udp.sock.getsockname())


def _remote(udp: Udp) -> Address | Err:
    return Err("invalid-state") if udp.remote is None else address_of(udp.remote)


def _readiness(stream: _Stream, events: int) -> Own:
    udp = stream.udp
    return Own(When(lambda: udp.ready(events), lambda: (udp.sock.fileno(), events)), "pollable")


def implementations(world: World) -> Mapping[str, Implementation]:
    """wasi:sockets/udp and udp-create-socket."""
    method, streams = "wasi:sockets/udp#[method]udp-socket.", "wasi:sockets/udp#[method]"

    def create(family: str) -> Own | Err:
        try:
            return Own(Udp(family, world), "udp-socket")
        except OSError as error:
            return code_of(error.errno or 0)

    return {
        "wasi:sockets/udp-create-socket#create-udp-socket": create,
        f"{method}start-bind": _start_bind,
        f"{method}finish-bind": _finish_bind,
        f"{method}stream": _streams,
        f"{method}local-address": _local,
        f"{method}remote-address": _remote,
        f"{method}address-family": lambda udp: udp.family,
        f"{method}subscribe": lambda _: Own(Pollable(), "pollable"),
        **options(method, lambda udp: udp.sock, UDP),
        f"{streams}incoming-datagram-stream.receive": _receive,
        f"{streams}incoming-datagram-stream.subscribe": lambda stream: _readiness(stream, select.POLLIN),
        f"{streams}outgoing-datagram-stream.check-send": _check,
        f"{streams}outgoing-datagram-stream.send": _send,
        f"{streams}outgoing-datagram-stream.subscribe": lambda stream: _readiness(stream, select.POLLOUT),
    }
