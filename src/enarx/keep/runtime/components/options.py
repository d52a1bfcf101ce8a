"""Options of sockets (wasi:sockets): what the operating system is asked for, in the units of WASI."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from enarx.keep.runtime.components.host import Implementation
from enarx.keep.runtime.components.values import Err

_BILLION: Final = 10**9
_LARGEST: Final = 2**30 - 1  # of a buffer: Linux doubles what it is asked for, and counts in 31 bits


@dataclass(frozen=True, slots=True)
class Option:
    """One of the operating system's; `ask` turns WASI's value into its own, or into None where it means nothing."""

    place: Callable[[socket.socket], tuple[int, int]]
    ask: Callable[[Any], int | None]  # Any: a number or a bool
    tell: Callable[[int], Any]  # Any: as above


def _tcp(name: int, *, seconds: bool) -> Option:
    if seconds:  # rounded up, for zero would mean nothing
        return Option(lambda _: (socket.IPPROTO_TCP, name), _seconds, lambda value: value * _BILLION)
    return Option(lambda _: (socket.IPPROTO_TCP, name), lambda value: min(value, 127) or None, int)


def _seconds(nanoseconds: int) -> int | None:
    return min(-(-nanoseconds // _BILLION), 32767) or None


def _buffer(name: int) -> Option:
    return Option(
        lambda _: (socket.SOL_SOCKET, name), lambda value: min(value, _LARGEST) or None, lambda value: value // 2
    )


def _hops(sock: socket.socket) -> tuple[int, int]:
    if sock.family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
    return socket.IPPROTO_IP, socket.IP_TTL


_BUFFERS: Final = {
    "receive-buffer-size": _buffer(socket.SO_RCVBUF),
    "send-buffer-size": _buffer(socket.SO_SNDBUF),
}
_HOP_LIMIT: Final = Option(_hops, lambda value: value or None, int)

UDP: Final[Mapping[str, Option]] = {**_BUFFERS, "unicast-hop-limit": _HOP_LIMIT}
TCP: Final[Mapping[str, Option]] = {
    **_BUFFERS,
    "hop-limit": _HOP_LIMIT,
    "keep-alive-enabled": Option(lambda _: (socket.SOL_SOCKET, socket.SO_KEEPALIVE), int, bool),
    "keep-alive-idle-time": _tcp(socket.TCP_KEEPIDLE, seconds=True),
    "keep-alive-interval": _tcp(socket.TCP_KEEPINTVL, seconds=True),
    "keep-alive-count": _tcp(socket.TCP_KEEPCNT, seconds=False),
}


def options(
    method: str,
    sock_of: Callable[[Any], socket.socket],  # Any: a socket of the component
    table: Mapping[str, Option],
) -> Mapping[str, Implementation]:
    """`method` followed by each name, and by `set-` and each name."""
    made: dict[str, Implementation] = {}
    for name, option in table.items():
        made[f"{method}{name}"], made[f"{method}set-{name}"] = _getter(option, sock_of), _setter(option, sock_of)
    return made


def _getter(option: Option, sock_of: Callable[[Any], socket.socket]) -> Implementation:  # Any: as above
    def get(thing: Any) -> Any:  # Any: as above
        sock = sock_of(thing)
        try:
            return option.tell(sock.getsockopt(*option.place(sock)))
        except OSError:
            return Err("invalid-state")

    return get


def _setter(option: Option, sock_of: Callable[[Any], socket.socket]) -> Implementation:  # Any: as above
    def change(thing: Any, value: Any) -> Err | None:  # Any: as above
        sock, wanted = sock_of(thing), option.ask(value)
        if wanted is None:
            return Err("invalid-argument")
        try:
            sock.setsockopt(*option.place(sock), wanted)
        except OSError:
            return Err("invalid-state")
        return None

    return change
