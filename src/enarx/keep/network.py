"""Where a program may listen and whom it may reach: lists of what is allowed, and nothing else gets out.

An incoming rule is a port or a range: 8443, "8000-8010". An outgoing rule is a host and its ports: "example.org:443",
"*.example.org:443" (any name below it), "10.0.0.0/8:5432", "[2001:db8::1]:443", "localhost:*". A name and an address
are different things: whoever may reach a name may reach the addresses that the Keep itself found for it, no others.

A `Network` may be narrowed by another: then both have to allow. Nothing is opened or resolved here.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar

from enarx.errors import MalformedError

if TYPE_CHECKING:
    import ipaddress

R = TypeVar("R")
T = TypeVar("T")

LAST_PORT: Final = 65535
MAX_RULES: Final = 1000

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Ports:
    """A range of ports, both ends included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """A port, "first-last", or "*". Raises MalformedError."""
        if text == "*":
            return cls(first=0, last=LAST_PORT)
        first, dash, last = str(text).partition("-")
        numbers = [int(part) for part in (first, last if dash else first) if re.fullmatch(r"[0-9]{1,5}", part)]
        if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= LAST_PORT:
            raise MalformedError(f"expected a port, a range such as 8000-8010, or '*', found {str(text)[:100]!r}")
        return cls(first=numbers[0], last=numbers[1])

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        if (self.first, self.last) == (0, LAST_PORT):
            return "*"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Endpoint:
    """A host, as a name, `*.name`, `*`, address or network, and its ports. The text is folded and canonical."""

    host: str
    ports: Ports

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises MalformedError."""
        host, colon, ports = text.rpartition(":")
        if not colon or not host:
            raise MalformedError(f"expected host:port, found {text[:100]!r}")
        return cls(host=_host(host), ports=Ports.parse(ports))

    def allows(self, host: str, port: int) -> bool:
        """Whether `host`, a name or an address as text, is meant, with that port."""
        return port in self.ports and self.names(host)

    def names(self, host: str) -> bool:
        """Whether `host` is meant, whatever the port."""
        host = fold(host)
        if self.host in {"*", host}:
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and not _address(host)
        address = _address(host)
        if address is None or "/" not in self.host:
            return False
        import ipaddress  # noqa: PLC0415 - as below

        network = ipaddress.ip_network(self.host)
        return address.version == network.version and address in network

    def __str__(self) -> str:
        return f"[{self.host}]:{self.ports}" if ":" in self.host else f"{self.host}:{self.ports}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Allowed incoming ports and outgoing endpoints. None leaves it to `files`: what they name, and nothing else."""

    incoming: tuple[Ports, ...] | None = None
    outgoing: tuple[Endpoint, ...] | None = None
    narrowed: "Network | None" = None

    def allows_incoming(self, port: int) -> bool:
        here = self.incoming is None or any(port in ports for ports in self.incoming)
        return here and (self.narrowed is None or self.narrowed.allows_incoming(port))

    def allows_outgoing(self, host: str, port: int) -> bool:
        here = self.outgoing is None or any(endpoint.allows(host, port) for endpoint in self.outgoing)
        return here and (self.narrowed is None or self.narrowed.allows_outgoing(host, port))

    def names(self, host: str) -> bool:
        """Whether `host` is meant by every list that there is, whatever the port."""
        here = self.outgoing is None or any(endpoint.names(host) for endpoint in self.outgoing)
        return here and (self.narrowed is None or self.narrowed.names(host))

    def narrow(self, other: "Network") -> "Network":
        """Both have to allow from now on."""
        if self.narrowed is not None:
            other = self.narrowed.narrow(other)
        return Network(incoming=self.incoming, outgoing=self.outgoing, narrowed=other)


def incoming(rules: Iterable[str | int]) -> tuple[Ports, ...]:
    """Raises MalformedError that begins with the position of the bad rule."""
    return _each(rules, Ports.parse)


def outgoing(rules: Iterable[str]) -> tuple[Endpoint, ...]:
    """Raises MalformedError that begins with the position of the bad rule."""
    return _each(rules, Endpoint.parse)


def _each(rules: Iterable[R], parse: Callable[[R], T]) -> tuple[T, ...]:
    made: list[T] = []
    for index, rule in enumerate(rules):
        if index >= MAX_RULES:
            raise MalformedError(f"[{index}]: expected at most {MAX_RULES} rules")
        try:
            made.append(parse(rule))
        except MalformedError as error:
            raise MalformedError(f"[{index}]: {error}") from error
    return tuple(made)


def fold(host: str) -> str:
    """A name in lower case without its last dot, an address in its shortest form and without an IPv4 disguise."""
    address = _address(host)
    if address is None:
        return host.lower().removesuffix(".")
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _address(host: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    import ipaddress  # noqa: PLC0415 - few programs need it

    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if _address(text) is None and "/" not in text:
            raise MalformedError(f"expected an IPv6 address in brackets, found {text[:100]!r}")
    if "/" in text:
        import ipaddress  # noqa: PLC0415 - as below

        try:
            return str(ipaddress.ip_network(text))
        except ValueError as error:
            raise MalformedError(f"expected a network such as 10.0.0.0/8, found {text[:100]!r}: {error}") from error
    host = fold(text)
    if host == "*" or _address(host) is not None or is_name(host.removeprefix("*.")):
        return host
    raise MalformedError(f"expected a host name, *.name, an address or a network, found {text[:100]!r}")


def is_name(text: str) -> bool:
    """Whether `text`, folded, can be a name in DNS (internationalised names in their ASCII form)."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))
