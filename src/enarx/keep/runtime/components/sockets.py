"""wasi:sockets for components: what all sockets share, name lookup, and TCP with TLS where a file says so.

The lists decide at the moment at which an address is named: `start-bind` and `start-connect`. A component names
addresses; where a list allows a name, the addresses that the Keep itself found for that name, when the component asked
for it, are what that name means. Only names that may be reached are resolved at all. An endpoint that an entry of
`files` describes with prot = "tls" is TLS, as that entry says, and the component sees plain bytes. UDP has a module of
its own, `enarx.keep.runtime.components.udp`.
"""

import errno
import select
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enarx.errors import EnarxError
from enarx.keep import network
from enarx.keep.config import Config, Connect, Listen
from enarx.keep.runtime.abi import FD_WRITE, Errno, Refused
from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.io import Allowance, Input, Output, Pollable, Readiness, When
from enarx.keep.runtime.components.options import TCP, options
from enarx.keep.runtime.components.values import Err, Own
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.sockets import peer_name
from enarx.keep.runtime.streams import BACKLOG, Stream
from enarx.keep.runtime.tls import Contexts, TlsStream, accepted
from enarx.keep.runtime.waiting import Waiter

NEW, BINDING, BOUND, LISTENING_SOON, LISTENING, CONNECTING, CONNECTED, OVER = range(8)
MAX_TOLD: Final = 1000  # different refusals that are logged: a program may ask for ever

_CODES: Final[Mapping[int, str]] = {
    errno.EACCES: "access-denied", errno.EPERM: "access-denied", errno.EADDRINUSE: "address-in-use",
    errno.EADDRNOTAVAIL: "address-not-bindable", errno.ECONNREFUSED: "connection-refused",
    errno.ECONNRESET: "connection-reset", errno.ECONNABORTED: "connection-aborted", errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "remote-unreachable", errno.ENETUNREACH: "remote-unreachable", errno.EINVAL: "invalid-argument",
    errno.EMFILE: "new-socket-limit", errno.ENFILE: "new-socket-limit", errno.EAGAIN: "would-block",
    errno.EMSGSIZE: "datagram-too-large", errno.EOPNOTSUPP: "not-supported", errno.EISCONN: "invalid-state",
}  # fmt: skip

Address = tuple[str, dict[str, Any]]  # Any: a variant of wasi:sockets/network


class Policy:
    """What the package's lists and files say of endpoints, with the names that were resolved."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._names: dict[str, set[str]] = {}  # by address, the names for which it was found

    def resolvable(self, name: str) -> bool:
        """Whether some port of that name may be reached."""
        config = self._config
        files = any(isinstance(file, Connect) and network.fold(file.host) == name for file in config.files)
        return (files or config.network.outgoing is not None) and config.network.names(name)

    def found(self, name: str, address: str) -> None:
        self._names.setdefault(network.fold(address), set()).add(name)

    def allows(self, host: str, port: int) -> bool:
        """Whether a host may be reached as it is named."""
        return self._config.may_reach(host, port)

    def reach(self, address: str, port: int) -> bool:
        return any(self._config.may_reach(host, port) for host in self._known(address))

    def listed(self, address: str, port: int) -> bool:
        """As `reach`, by the lists alone."""
        lists = self.lists
        if lists.outgoing is None:
            return False
        return any(lists.allows_outgoing(host, port) for host in self._known(address))

    def connection(self, address: str, port: int) -> Connect | None:
        """The entry of `files` that describes this endpoint."""
        known = set(self._known(address))
        for file in self._config.files:
            if isinstance(file, Connect) and file.port == port and network.fold(file.host) in known:
                return file
        return None

    def listener(self, port: int) -> Listen | None:
        for file in self._config.files:
            if isinstance(file, Listen) and file.port == port:
                return file
        return None

    def listen(self, port: int) -> bool:
        return self._config.may_listen(port)

    @property
    def lists(self) -> network.Network:
        """The lists alone: what `files` names is TCP."""
        return self._config.network

    def _known(self, address: str) -> Sequence[str]:
        folded = network.fold(address)
        local = ["localhost"] if folded == "127.0.0.1" else []  # as everywhere here, whatever a resolver says
        return [folded, *local, *self._names.get(folded, ())]


class Tcp:
    """A tcp-socket in one of the states of wasi:sockets."""

    def __init__(self, family: str, world: "World") -> None:
        self.family, self.world = family, world
        self.sock = world.new_socket(family, socket.SOCK_STREAM)
        self.state, self.error = NEW, 0
        self.entry: Listen | Connect | None = None
        self.stream: Stream | None = None
        self.backlog = BACKLOG
        self._streams = 0

    def pollable(self) -> Pollable:
        if self.state == CONNECTING and self.stream is not None:
            return Readiness(self.stream, FD_WRITE, self.world.waiter)
        events = {CONNECTING: select.POLLOUT, LISTENING: select.POLLIN}.get(self.state)
        if events is None:
            return Pollable()
        return When(lambda: bool(self.world.waiter.poll({self.fileno(): events}, 0)), lambda: (self.fileno(), events))

    def fileno(self) -> int:
        return self.sock.fileno() if self.stream is None else self.stream.fileno()

    def streams(self) -> tuple[Own, Own]:
        """Input and output of a connection; the socket stays open until both and this object are gone."""
        if self.stream is None:
            raise RuntimeError("tcp: a connection without a stream")
        self._streams = 3
        part = _Part(self)
        made = Input(self.stream, self.world.waiter), Output(self.stream, self.world.waiter)
        return Own(_Held(made[0], part), "input-stream"), Own(_Held(made[1], part), "output-stream")

    def release(self) -> None:
        self._streams -= 1
        if self._streams <= 0:
            if self.stream is not None:
                self.stream.close()
            self.sock.close()
            self.world.allowance.give()

    def drop(self) -> None:
        self.release()


class _Part:
    def __init__(self, tcp: Tcp) -> None:
        self.tcp = tcp


class _Held:
    """A stream of a connection, which it lets go of when it is dropped."""

    def __init__(self, stream: Input | Output, part: _Part) -> None:
        self._stream, self._part = stream, part
        for name in ("read", "blocking_read", "check", "write", "flush", "pollable"):
            if hasattr(stream, name):
                setattr(self, name, getattr(stream, name))

    def drop(self) -> None:
        self._stream.drop()
        self._part.tcp.release()


class World:
    """What all sockets of a program share."""

    def __init__(
        self, config: Config, contexts: Contexts | None, waiter: Waiter, log: Log, allowance: Allowance
    ) -> None:
        self.policy, self.contexts, self.waiter, self.log = Policy(config), contexts, waiter, log
        self.allowance = allowance
        self._told: set[str] = set()

    def denied(self, what: str) -> Err:
        """The lists do not have it; said once."""
        if what not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(what)
            self.log.say("warn", "denied", f"the program may not {what}")
        return Err("access-denied")

    def new_socket(self, family: str, kind: int) -> socket.socket:
        """A socket that does not block. Raises OSError."""
        self.allowance.take()
        try:
            made = socket.socket(socket.AF_INET if family == "ipv4" else socket.AF_INET6, kind)
        except OSError:
            self.allowance.give()
            raise
        made.setblocking(False)
        if family == "ipv6":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made


def parts_of(address: Address) -> tuple[str, int]:
    kind, value = address
    if kind == "ipv4":
        return ".".join(map(str, value["address"])), value["port"]
    return socket.inet_ntop(socket.AF_INET6, b"".join(part.to_bytes(2, "big") for part in value["address"])), value[
        "port"
    ]


def address_of(found: Any) -> Address:  # Any: what `getsockname` answers
    host, port = found[0], found[1]
    if ":" not in host:
        return "ipv4", {"port": port, "address": tuple(int(part) for part in host.split("."))}
    raw = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    parts = tuple(int.from_bytes(raw[at : at + 2], "big") for at in range(0, 16, 2))
    return "ipv6", {"port": port, "flow-info": 0, "address": parts, "scope-id": 0}


def code_of(number: int) -> Err:
    return Err(_CODES.get(number, "unknown"))


def _start_bind(tcp: Tcp, _: object, local: Address) -> Err | None:
    host, port = parts_of(local)
    if tcp.state != NEW:
        return Err("invalid-state")
    if local[0] != tcp.family:
        return Err("invalid-argument")
    if not tcp.world.policy.listen(port):
        return tcp.world.denied(f"listen on port {port}")
    try:
        tcp.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.sock.bind((host, port))
    except OSError as error:
        return code_of(error.errno or 0)
    tcp.entry, tcp.state = tcp.world.policy.listener(port), BINDING
    return None


def _finish_bind(tcp: Tcp) -> Err | None:
    if tcp.state != BINDING:
        return Err("not-in-progress")
    tcp.state = BOUND
    return None


def _start_listen(tcp: Tcp) -> Err | None:
    if tcp.state != BOUND:
        return Err("invalid-state")
    try:
        tcp.sock.listen(tcp.backlog)
    except OSError as error:
        return code_of(error.errno or 0)
    tcp.state = LISTENING_SOON
    return None


def _finish_listen(tcp: Tcp) -> Err | None:
    if tcp.state != LISTENING_SOON:
        return Err("not-in-progress")
    tcp.state = LISTENING
    return None


def _accept(tcp: Tcp) -> Err | tuple[Own, Own, Own]:
    if tcp.state != LISTENING:
        return Err("invalid-state")
    while True:
        try:
            tcp.world.allowance.take()
        except OSError as error:
            return code_of(error.errno or 0)
        try:
            connection, _ = tcp.sock.accept()
        except OSError as error:
            tcp.world.allowance.give()
            return code_of(error.errno or 0)
        stream = _accepted(tcp, connection)
        if stream is None:
            connection.close()
            tcp.world.allowance.give()
            continue
        made = Tcp.__new__(Tcp)
        made.family, made.world, made.sock, made.backlog = tcp.family, tcp.world, connection, tcp.backlog
        made.state, made.error, made.entry, made.stream = CONNECTED, 0, tcp.entry, stream
        streams = made.streams()
        return (Own(made, "tcp-socket"), *streams)


def _accepted(tcp: Tcp, connection: socket.socket) -> Stream | None:
    world, entry = tcp.world, tcp.entry
    if not isinstance(entry, Listen) or entry.prot == "tcp":
        return Stream(connection, world.waiter)
    return encrypted(entry, connection, world.contexts, world.waiter, world.log)


def encrypted(
    entry: Listen, connection: socket.socket, contexts: Contexts | None, waiter: Waiter, log: Log
) -> Stream | None:
    """The stream of a connection that a TLS listener accepted; None when the Keep has no valid certificate."""
    who = peer_name(connection)
    if contexts is None:
        return None  # never: whoever speaks TLS has an identity, which `run` checks
    try:
        context, admit = contexts.server(entry.peers), contexts.admission(entry.peers, "client")
    except EnarxError as error:
        log.say("error", "refused", f"{entry.name}: refused {who}: {error}")
        return None

    def note(text: str) -> None:
        level = "info" if admit is None and entry.peers.client == "none" else "warn"
        log.say("warn" if level == "warn" else "info", "refused", f"{entry.name}: {who}: {text}")

    return accepted(context, connection, waiter, 0, admit=admit, note=note)


def _start_connect(tcp: Tcp, _: object, remote: Address) -> Err | None:
    host, port = parts_of(remote)
    if tcp.state not in {NEW, BOUND}:
        return Err("invalid-state")
    if remote[0] != tcp.family or not port:
        return Err("invalid-argument")
    if not tcp.world.policy.reach(host, port):
        return tcp.world.denied(f"reach {host} port {port}")
    tcp.entry = tcp.world.policy.connection(host, port)
    tcp.error = tcp.sock.connect_ex((host, port))
    if tcp.error == errno.EINPROGRESS:
        tcp.error = 0
    tcp.state = CONNECTING
    return None


def _finish_connect(tcp: Tcp) -> Err | tuple[Own, Own]:
    if tcp.state != CONNECTING:
        return Err("not-in-progress")
    if tcp.stream is None:
        if not tcp.error:
            if not tcp.world.waiter.poll({tcp.sock.fileno(): select.POLLOUT}, 0):
                return Err("would-block")
            tcp.error = tcp.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if tcp.error:
            tcp.state = OVER
            return code_of(tcp.error)
        try:
            tcp.stream = _connected(tcp)
        except (EnarxError, OSError, ValueError) as error:
            return _refused(tcp, str(error))
    if isinstance(tcp.stream, TlsStream):
        try:
            if not tcp.stream.shake():
                return Err("would-block")
        except (Refused, OSError) as error:
            return _refused(tcp, str(error))
    tcp.state = CONNECTED
    return tcp.streams()


def _refused(tcp: Tcp, why: str) -> Err:
    tcp.state = OVER
    name = tcp.entry.name if tcp.entry is not None else "a connection"
    tcp.world.log.say("warn", "refused", f"{name}: {why}")
    return Err("connection-aborted")


def _connected(tcp: Tcp) -> Stream:
    entry, world = tcp.entry, tcp.world
    if not isinstance(entry, Connect) or entry.prot == "tcp":
        return Stream(tcp.sock, world.waiter)
    if world.contexts is None:
        raise EnarxError("this Keep has no certificate")
    return client_stream(tcp.sock, entry.host, entry, world.contexts, world.waiter, world.log)


def client_stream(
    sock: socket.socket, host: str, entry: Connect, contexts: Contexts, waiter: Waiter, log: Log
) -> TlsStream:
    """TLS over a connection of ours, as an entry of `files` says; the handshake is still to come."""
    sock.setblocking(False)
    tls: ssl.SSLSocket = contexts.client(entry.peers).wrap_socket(
        sock, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )

    def note(text: str) -> None:
        log.say("warn", "refused", f"{entry.name}: {text}")

    return TlsStream(tls, waiter, admit=contexts.admission(entry.peers, "server"), note=note)


def _shutdown(tcp: Tcp, how: str) -> Err | None:
    if tcp.stream is None or tcp.state != CONNECTED:
        return Err("invalid-state")
    try:
        tcp.stream.shutdown({"receive": 1, "send": 2, "both": 3}[how])
    except (Refused, OSError):
        return Err("invalid-state")
    return None


def _local(tcp: Tcp) -> Address | Err:
    if tcp.state in {NEW, OVER}:
        return Err("invalid-state")
    return address_of(socket.socket.getsockname(tcp.sock if tcp.stream is None else tcp.stream.sock))


def _remote(tcp: Tcp) -> Address | Err:
    if tcp.state != CONNECTED or tcp.stream is None:
        return Err("invalid-state")
    try:
        return address_of(tcp.stream.sock.getpeername())
    except OSError as error:
        return code_of(error.errno or 0)


class Lookup(Pollable):
    """resolve-address-stream: the addresses of a name, all at once; without any, an error first."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._rest, self._empty = list(addresses), not addresses

    def next(self) -> tuple[str, tuple[int, ...]] | Err | None:
        if self._empty:
            self._empty = False
            return Err("name-unresolvable")
        if not self._rest:
            return None
        kind, value = address_of((self._rest.pop(0), 0))
        return kind, value["address"]


def resolve(world: World, name: str) -> Own | Err:
    """Find the addresses of a name that may be reached; others are not even asked for."""
    folded = network.fold(name)
    if not network.is_name(folded):
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in folded else socket.AF_INET, folded)
        except OSError:
            return Err("invalid-argument")
        return Own(Lookup([folded]), "resolve-address-stream")
    if not world.policy.resolvable(folded):
        return world.denied(f"resolve {folded}")
    return Own(Lookup(addresses(world.policy, folded)), "resolve-address-stream") if folded else Err("invalid-argument")


def addresses(policy: Policy, name: str) -> Sequence[str]:
    """The addresses of a name, noted as its meaning; `localhost` is 127.0.0.1, whatever a resolver says."""
    found = ["127.0.0.1"] if name == "localhost" else find(name)
    for address in found:
        policy.found(name, address)
    return found


def find(name: str) -> Sequence[str]:
    """What the system's resolver answers; nothing when it does not know."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def implementations(world: World) -> Mapping[str, Implementation]:
    """wasi:sockets without udp."""
    method = "wasi:sockets/tcp#[method]tcp-socket."

    def create(family: str) -> Own | Err:
        try:
            return Own(Tcp(family, world), "tcp-socket")
        except OSError as error:
            return code_of(error.errno or 0)

    def backlog(tcp: Tcp, size: int) -> Err | None:
        if not size:
            return Err("invalid-argument")
        tcp.backlog = min(size, BACKLOG)
        return None

    functions: dict[str, Implementation] = {
        "start-bind": _start_bind,
        "finish-bind": _finish_bind,
        "start-connect": _start_connect,
        "finish-connect": _finish_connect,
        "start-listen": _start_listen,
        "finish-listen": _finish_listen,
        "accept": _accept,
        "local-address": _local,
        "remote-address": _remote,
        "is-listening": lambda tcp: tcp.state == LISTENING,
        "address-family": lambda tcp: tcp.family,
        "set-listen-backlog-size": backlog,
        "subscribe": lambda tcp: Own(tcp.pollable(), "pollable"),
        "shutdown": _shutdown,
    }
    lookup = "wasi:sockets/ip-name-lookup#"
    return {
        **{f"{method}{name}": function for name, function in functions.items()},
        **options(method, lambda tcp: tcp.sock if tcp.stream is None else tcp.stream.sock, TCP),
        "wasi:sockets/instance-network#instance-network": lambda: Own(world, "network"),
        "wasi:sockets/network#network-error-code": lambda failure: (
            "connection-reset" if failure.cause == Errno.CONNRESET else None
        ),
        "wasi:sockets/tcp-create-socket#create-tcp-socket": create,
        f"{lookup}resolve-addresses": lambda _, name: resolve(world, name),
        f"{lookup}[method]resolve-address-stream.resolve-next-address": lambda found: found.next(),
        f"{lookup}[method]resolve-address-stream.subscribe": lambda _: Own(Pollable(), "pollable"),
    }
