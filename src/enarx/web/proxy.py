"""What a proxy in front says of its clients, believed from the addresses that configuration names and from nobody else.

A proxy that ends TLS passes the client's certificate on in `Client-Cert`, and what is above it in `Client-Cert-Chain`
(RFC 9440), and appends the client's address to `X-Forwarded-For`. It has to remove these headers from what clients
send. From any other address they mean nothing here, as if they had not been sent.
"""

import base64
import binascii
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from enarx.attested.relying import MAX_CHAIN
from enarx.errors import MalformedError
from enarx.toml import Table

MAX_HEADER: Final = 64 * 1024  # characters of a certificate in a proxy's header

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_addresses(table: Table) -> tuple[Network, ...]:
    """The key `addresses` of a table. Raises ConfigError."""
    found = []
    for index, text in enumerate(table.strings("addresses")):
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise table.error(
                f"addresses[{index}]", f"expected an address or a network, found {text[:80]!r}", at="addresses"
            ) from error
    return tuple(found)


def forwarded_chain(
    headers: Iterable[tuple[bytes, bytes]], client: str | None, proxies: Sequence[Network]
) -> tuple[bytes, ...]:
    """The certificates that a trusted proxy was shown (RFC 9440), leaf first; empty from everybody else.

    Raises MalformedError for a header that can not be read.
    """
    if not is_proxy(client, proxies):
        return ()
    found: Mapping[bytes, list[bytes]] = {b"client-cert": [], b"client-cert-chain": []}
    for name, value in headers:
        if name in found:
            found[name].append(value)
    leaves, above = found[b"client-cert"], b",".join(found[b"client-cert-chain"])
    if not leaves:
        return ()
    if len(leaves) > 1:
        raise MalformedError("Client-Cert: expected once")
    parts = [leaves[0], *(part for part in above.split(b",") if part.strip())]
    if len(parts) > MAX_CHAIN:
        raise MalformedError(f"Client-Cert-Chain: expected at most {MAX_CHAIN - 1} certificates")
    return tuple(_byte_sequence(part) for part in parts)


def client_address(client: str | None, forwarded_for: str, proxies: Sequence[Network]) -> str | None:
    """Whose address counts: the connection's, or the last one that a trusted proxy appended to `X-Forwarded-For`."""
    if is_proxy(client, proxies):
        return forwarded_for.rpartition(",")[2].strip() or client
    return client


def is_proxy(client: str | None, proxies: Sequence[Network]) -> bool:
    """Whether the other end of the connection is one of the proxies that are trusted."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address.version == network.version and address in network for network in proxies)


def _byte_sequence(item: bytes) -> bytes:
    """A byte sequence of RFC 8941, 3.3.5."""
    text = item.strip()
    if not (2 < len(text) <= MAX_HEADER and text.startswith(b":") and text.endswith(b":")):
        raise MalformedError("Client-Cert: expected :BASE64:")
    try:
        return base64.b64decode(text[1:-1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("Client-Cert: expected :BASE64:") from error
