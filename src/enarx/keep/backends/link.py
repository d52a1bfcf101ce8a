"""A network for a place that has none: IP packets of an AWS Nitro enclave, carried by its instance over vsock.

An enclave has one door, a vsock to the instance that started it. So each side makes a TUN device, and this carries
packets between the two over one stream:

    length u16, big-endian ‖ IPv4 packet

The instance's kernel does the rest, as for any machine behind it: addresses are translated on the way out, ports on the
way in (docs/clouds.md). So every socket in the enclave works as it is: Steward, registry, names, TCP and UDP of the
program. Nothing here is trusted with anything: what it carries is what every router sees, and TLS ends in the Keep.

The instance takes only packets from the address that the enclave was given; the enclave believes no packet anyway. What
is no packet ends the connection. It is made anew by the enclave, and its sockets live through that.

Ends are named `vsock:PORT`, `vsock:CID:PORT` (to listen: for that enclave alone), or `unix:PATH`, as hypervisors have it
that keep vsock in user space.
"""

import contextlib
import fcntl
import os
import re
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Interface, NetmaskValueError
from pathlib import Path
from typing import Final, Self

from enarx.errors import ConflictError, MalformedError, UnavailableError
from enarx.image.init import IFF_UP, RTF_GATEWAY, RTF_UP, SIOCADDRT, SIOCSIFADDR, SIOCSIFFLAGS, SIOCSIFNETMASK
from enarx.image.init import address as sockaddr

DEVICE: Final = Path("/dev/net/tun")
NAME: Final = "enarx0"
MTU: Final = 1500  # bytes: packets go on into other networks
MAX_PACKET: Final = 0xFFFF
PATIENCE: Final = 60.0  # seconds until the instance has to answer for the first time
PAUSE: Final = 0.5  # seconds between two tries

_TUNSETIFF: Final = 0x400454CA
_TUN, _NO_PI = 0x0001, 0x1000
_SIOCSIFMTU: Final = 0x8922
_HEADER: Final = struct.Struct(">H")
_SOURCE: Final = slice(12, 16)  # where an IPv4 packet says from whom it is
_MIN_PACKET: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where the other side is. `cid` None is any, for who listens."""

    path: Path | None = None
    cid: int | None = None
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises MalformedError."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=Path(rest))
        found = re.fullmatch(r"(?:([0-9]{1,10}):)?([0-9]{1,10})", rest) if kind == "vsock" else None
        if found is None or any(int(number) > 0xFFFFFFFF for number in found.groups("0")):
            raise MalformedError(f"expected vsock:PORT, vsock:CID:PORT or unix:PATH, found {text[:100]!r}")
        return cls(cid=None if found[1] is None else int(found[1]), port=int(found[2]))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"vsock:{'' if self.cid is None else f'{self.cid}:'}{self.port}"

    def listen(self) -> socket.socket:
        """Raises UnavailableError, ConflictError."""
        if self.path is not None:
            _remove_socket(self.path)
        made = self._socket()
        try:
            if self.path is not None:
                made.bind(str(self.path))
                self.path.chmod(0o600)
            else:
                made.bind((socket.VMADDR_CID_ANY, self.port))
            made.listen(1)
        except OSError as error:
            made.close()
            raise UnavailableError(f"{self}: {error.strerror}") from error
        return made

    def connect(self) -> socket.socket:
        """Raises UnavailableError."""
        if self.path is None and self.cid is None:
            raise MalformedError(f"{self}: whom to connect to? Expected vsock:CID:PORT; the instance is CID 3")
        made = self._socket()
        try:
            made.connect(str(self.path) if self.path is not None else (self.cid, self.port))
        except OSError as error:
            made.close()
            raise UnavailableError(f"{self}: {error.strerror or 'no answer'}") from error
        return made

    def _socket(self) -> socket.socket:
        family = socket.AF_VSOCK if self.path is None else socket.AF_UNIX
        try:
            return socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise UnavailableError(f"{self}: {error.strerror}") from error


def _remove_socket(path: Path) -> None:
    """What an earlier run left. Raises ConflictError for what is no socket."""
    if path.is_socket():
        path.unlink()
    elif path.exists():
        raise ConflictError(f"{path}: is there already, and is no socket")


def parse_address(text: str) -> IPv4Interface:
    """An address and the network that it is in. Raises MalformedError."""
    try:
        found = IPv4Interface(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise MalformedError(
            f"expected an IPv4 address with its network, such as 10.118.0.2/30, found {text!r}"
        ) from error
    if not 8 <= found.network.prefixlen <= 30:
        raise MalformedError(f"expected a network of /8 to /30, found {text!r}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Tun:
    """A TUN device: its network is what `carry` carries."""

    descriptor: int

    @classmethod
    def open(cls, address: IPv4Interface, *, mtu: int = MTU, gateway: str | None = None) -> Self:
        """A new device that is up, with its address, and everything else behind `gateway`. Raises UnavailableError."""
        try:
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"{DEVICE}: {error.strerror}") from error
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", NAME.encode(), _TUN | _NO_PI))
            _configure(address, mtu, gateway)
        except OSError as error:
            os.close(descriptor)
            raise UnavailableError(f"{NAME}: {error.strerror}") from error
        return cls(descriptor=descriptor)

    def close(self) -> None:
        os.close(self.descriptor)


def _configure(address: IPv4Interface, mtu: int, gateway: str | None) -> None:
    name = NAME.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", name, sockaddr(str(address.ip))))
        fcntl.ioctl(control, SIOCSIFNETMASK, struct.pack("16s16s", name, sockaddr(str(address.netmask))))
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si12x", name, mtu))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name, IFF_UP))
        if gateway is not None:
            anywhere = sockaddr("0.0.0.0")  # noqa: S104 - a route, and nothing is bound to it
            route = struct.pack("8x16s16s16sH38x", anywhere, sockaddr(gateway), anywhere, RTF_UP | RTF_GATEWAY)
            fcntl.ioctl(control, SIOCADDRT, route)


def carry(device: int, stream: socket.socket, accepted: bytes | None = None) -> None:
    """Carry packets both ways until the stream ends. `accepted` is the only address that may send from there.

    Raises MalformedError for what is no packet.
    """
    over, ended = os.pipe()
    outwards = threading.Thread(target=_outwards, args=(device, stream, over), daemon=True)
    outwards.start()
    try:
        _inwards(device, stream, accepted)
    finally:
        os.close(ended)
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)  # the other direction may wait for one who does not read
        outwards.join()
        os.close(over)


def _outwards(device: int, stream: socket.socket, over: int) -> None:
    poller = select.poll()
    poller.register(device, select.POLLIN)
    poller.register(over, select.POLLHUP)
    try:
        while all(descriptor == device for descriptor, _ in poller.poll()) and (packet := os.read(device, MAX_PACKET)):
            if packet[0] >> 4 == 4:  # nothing of IPv6, which the kernel speaks on every device
                stream.sendall(_HEADER.pack(len(packet)) + packet)
    except OSError:
        pass  # the other side is gone, or the device
    finally:
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)  # wakes the other direction


def _inwards(device: int, stream: socket.socket, accepted: bytes | None) -> None:
    with stream.makefile("rb", buffering=1 << 18) as reading:
        while header := _exactly(reading.read, _HEADER.size, within=False):
            (length,) = _HEADER.unpack(header)
            packet = _exactly(reading.read, length)
            if length < _MIN_PACKET or packet[0] >> 4 != 4:
                raise MalformedError(f"link: expected an IPv4 packet, found {length} bytes that are none")
            if accepted is not None and packet[_SOURCE] != accepted:
                continue  # in another's name
            with contextlib.suppress(OSError):  # the kernel takes no nonsense, and may drop what is too much
                os.write(device, packet)


def _exactly(read: Callable[[int], bytes], count: int, *, within: bool = True) -> bytes:
    """So many bytes; none where the stream ends before the first, unless that is `within` a packet.

    Raises MalformedError where it ends too early.
    """
    try:
        found = read(count)
    except OSError:
        found = b""
    if len(found) < count and (found or within):
        raise MalformedError(f"link: ended within a packet, {count - len(found)} bytes missing")
    return found


def serve(listener: socket.socket, end: End, device: int, peer: str, tell: Callable[[str], None]) -> None:
    """The instance's side: one enclave after the other, until nobody listens there any more."""
    tell(f"waits for {peer} at {end}")
    while True:
        try:
            stream, who = listener.accept()
        except OSError:
            return
        with stream:
            if end.cid is not None and who[0] != end.cid:
                tell(f"CID {who[0]} is not let in, expected {end.cid}")
                continue
            tell(f"{peer} is there")
            try:
                carry(device, stream, socket.inet_aton(peer))
            except MalformedError as error:
                tell(str(error))
        tell(f"{peer} is gone")


def keep_connected(
    end: End, device: int, up: threading.Event, over: threading.Event, tell: Callable[[str], None]
) -> None:
    """The enclave's side: connect, and again whenever the instance is gone, until it is `over`. `up` tells of the first."""
    while True:
        try:
            with end.connect() as stream:
                up.set()
                carry(device, stream)
            tell(f"the network is away: {end} ended")
        except MalformedError as error:
            tell(str(error))
        except UnavailableError:
            pass  # tried again; who waits for the first time has patience, and an end to it
        if over.wait(PAUSE):
            return
