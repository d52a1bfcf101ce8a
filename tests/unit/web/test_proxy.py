"""What a proxy says of its clients counts from the addresses that are named, and from nobody else."""

import base64
import ipaddress

import pytest

from enarx import toml
from enarx.errors import MalformedError
from enarx.web.proxy import client_address, forwarded_chain, read_addresses

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def forwarded(*pairs: tuple[str, bytes], client: str | None = "10.1.2.3") -> tuple[bytes, ...]:
    return forwarded_chain([(name.encode(), value) for name, value in pairs], client, PROXIES)


def item(der: bytes) -> bytes:
    return b":" + base64.b64encode(der) + b":"


def test_a_trusted_proxy_passes_certificates_on() -> None:
    """RFC 9440: the leaf and what is above it, from the configured addresses; from others the headers mean nothing."""
    header = ("client-cert", item(b"leaf"))
    above = ("client-cert-chain", item(b"one") + b", " + item(b"two"))
    assert forwarded(header, above) == (b"leaf", b"one", b"two")
    assert forwarded(header, client="fd00::1") == (b"leaf",)
    assert forwarded(header, client="::ffff:10.1.2.3") == (b"leaf",)
    assert forwarded() == ()
    for stranger in ("11.0.0.1", "127.0.0.1", "::1", None, "unix"):
        assert forwarded(header, client=stranger) == ()


@pytest.mark.parametrize("value", [b"", b"::", b"MIIB", b":MII*:", b":TUlJ:;a=1", b":" + b"A" * 70_000 + b":"])
def test_a_header_that_can_not_be_read_is_an_error(value: bytes) -> None:
    """It is never taken for no certificate."""
    with pytest.raises(MalformedError, match="Client-Cert"):
        forwarded(("client-cert", value))


def test_a_header_comes_once_and_is_not_endless() -> None:
    """Two leaves are a quarrel between proxies; a long chain is refused before it is decoded."""
    with pytest.raises(MalformedError, match="expected once"):
        forwarded(("client-cert", item(b"a")), ("client-cert", item(b"b")))
    with pytest.raises(MalformedError, match="at most"):
        forwarded(("client-cert", item(b"a")), ("client-cert-chain", b",".join([item(b"b")] * 9)))


def test_the_last_address_that_a_trusted_proxy_appended_counts() -> None:
    """What clients wrote before it does not, and from others nothing does."""
    assert client_address("10.0.0.1", "127.0.0.1, 192.0.2.7", PROXIES) == "192.0.2.7"
    assert client_address("10.0.0.1", "", PROXIES) == "10.0.0.1"
    assert client_address("192.0.2.1", "127.0.0.1", PROXIES) == "192.0.2.1"
    assert client_address(None, "127.0.0.1", PROXIES) is None


def test_an_address_that_is_none_is_an_error_of_the_configuration() -> None:
    """Also a network with bits behind its mask, which somebody meant otherwise."""
    assert read_addresses(toml.parse('addresses = ["10.0.0.0/8", "fd00::/8"]', source="x")) == PROXIES
    for wrong in ("10.0.0.1/8", "proxy.example.com", ""):
        with pytest.raises(toml.ConfigError, match=r"addresses\[0\]: expected an address or a network"):
            read_addresses(toml.parse(f"addresses = ['{wrong}']", source="x"))
