"""drawbridge.toml: what it may say, and the line and key of what it may not."""

from pathlib import Path
from typing import Any

import pytest

from enarx.drawbridge.access import Leave
from enarx.drawbridge.config import Config, Flags
from enarx.errors import MalformedError

ISSUER = "[[issuer]]\nname = 'corp'\nurl = 'https://login.example.com/'\n"
BASE = "store = 'data'\n"


def read(text: str, **flags: Any) -> Config:
    return Config.parse(text, source="drawbridge.toml", base=Path("/etc/drawbridge"), flags=Flags(**flags))


def test_a_whole_file() -> None:
    """Every key, relative to the file."""
    config = read(
        "listen = '[::]:8443'\norigin = 'https://store.example.com'\nstore = 'data'\ntls_cert = 'a.pem'\n"
        "tls_key = 'a.key'\naudit = 'audit.jsonl'\n"
        "[[issuer]]\nname = 'corp'\nurl = 'https://login.example.com/'\naudience = 'x'\ntokens = 'introspection'\n"
        "client_id = 'd'\nclient_secret = 'secret'\nca = 'i.pem'\n"
        "[[issuer]]\nname = 'ci'\nurl = 'https://ci.example.com'\nmachine = true\nalgorithms = ['RS256']\ntyp = 'at+jwt'\n"
        "[[steward]]\nurl = 'https://steward.example.com'\nca = 's.pem'\n"
        "[[steward]]\nca = 't.pem'\ncrl = ''\n"
        "[proxy]\naddresses = ['10.0.0.0/8']\n[limits]\nrequests_per_minute = 5\n[unsafe]\naccept_nil = true\n"
    )
    assert config.listen() == "::"
    assert config.port == 8443
    assert config.store == "/etc/drawbridge/data"
    assert config.tls
    assert [issuer.tokens for issuer in config.issuers] == ["introspection", "jwt"]
    assert config.issuers[0].client_secret == Path("/etc/drawbridge/secret")
    assert config.stewards[0].crl == "https://steward.example.com/crl"
    assert config.stewards[1].crl is None
    assert config.steward == "https://steward.example.com"
    assert config.leave == Leave(nil=True)
    assert config.limits.requests_per_minute == 5
    assert config.origin_at(1) == "https://store.example.com"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BASE, "issuer: none: nobody could publish"),
        (ISSUER, "store: missing"),
        ("store = ''\n" + ISSUER, "store: empty"),
        ("store = 'memory:'\nworkers = 2\n" + ISSUER, "workers: each process would have a memory"),
        (BASE + ISSUER + ISSUER, "issuer: expected each name and each url once"),
        (
            BASE + ISSUER + "token = 'jwt'\n",
            r"drawbridge.toml:5: issuer\[0\].token: unknown key; did you mean 'tokens'",
        ),
        ("metrics = 'all'\n" + BASE + ISSUER, "metrics: expected one of loopback, everybody, nobody, found 'all'"),
        ("workers = 0\n" + BASE + ISSUER, "workers: expected an integer from 1 to 256"),
        (BASE + ISSUER + "tokens = 'saml'\n", "expected one of jwt, introspection, userinfo, found 'saml'"),
        (BASE + ISSUER + "tokens = 'introspection'\n", "introspection needs client_id and client_secret"),
        (BASE + ISSUER + "tokens = 'userinfo'\nmachine = true\n", "a machine is known by the claims"),
        (BASE + ISSUER + "algorithms = ['HS256']\n", r"algorithms\[0\]: expected one of"),
        (BASE + ISSUER + "algorithms = ['none']\n", r"algorithms\[0\]: expected one of"),
        (BASE + ISSUER + "algorithms = []\n", "algorithms: empty"),
        (BASE + "[[issuer]]\nurl = 'http://login.example.com'\n", "url: expected an https URL"),
        (BASE + "[[issuer]]\nname = 'development'\nurl = 'https://x'\n", "expected a name other than development"),
        (
            BASE + ISSUER + "tokens = 'userinfo'\n[[issuer]]\nurl = 'https://b'\ntokens = 'userinfo'\n",
            "at most one whose tokens are opaque",
        ),
        (BASE + ISSUER + "[[steward]]\nurl = 'https://s'\n", r"steward\[0\].ca: missing"),
        (BASE + ISSUER + "[unsafe]\naccept_everything = true\n", "unsafe.accept_everything: unknown key"),
        (BASE + ISSUER + "[proxy]\naddresses = ['anywhere']\n", r"proxy.addresses\[0\]: expected an address"),
        ("origin = 'https://h/path'\n" + BASE + ISSUER, 'origin: expected "https://HOST'),
        ("tls_cert = 'a'\n" + BASE + ISSUER, "tls_cert and tls_key belong together"),
        ("listen = '8080'\n" + BASE + ISSUER, 'listen: expected "ADDRESS:PORT"'),
    ],
)
def test_a_file_that_says_what_it_may_not(text: str, why: str) -> None:
    """Each error names the key, and the line where it can be found."""
    with pytest.raises(MalformedError, match=why):
        read(text)


def test_the_originals_flags_stand_for_tables() -> None:
    """`--store --cert --key --ca --oidc-issuer --oidc-audience` alone configure a server."""
    config = read(
        "",
        store="/data",
        cert=Path("c"),
        key=Path("k"),
        ca=Path("ca.pem"),
        oidc_issuer="https://login.example.com/",
        oidc_audience="testserver",
    )
    assert config.store == "/data"
    assert config.issuers[0].audience == "testserver"
    assert config.stewards[0].ca == Path("ca.pem")
    assert config.listen() == "::"


def test_plain_http_and_the_development_issuer_stay_at_home() -> None:
    """Without TLS only loopback; with --dev only loopback, whatever TLS there is."""
    assert read(BASE + ISSUER).listen() == "127.0.0.1"
    with pytest.raises(MalformedError, match=r"plain HTTP on 0\.0\.0\.0 would be seen by everybody"):
        read(BASE + ISSUER, addr="0.0.0.0").listen()  # noqa: S104 - that is the point
    with pytest.raises(MalformedError, match=r"--dev believes whoever is at this machine, so it never listens on 0\.0"):
        read("tls_cert = 'a'\ntls_key = 'b'\n", dev=True, addr="0.0.0.0").listen()  # noqa: S104 - as above
    assert read("", dev=True).listen() == "127.0.0.1"
    assert read("", dev=True).origin_at(4433) == "https://localhost:4433"
    with pytest.raises(MalformedError, match="origin: missing"):
        read("tls_cert = 'a'\ntls_key = 'b'\n" + BASE + ISSUER).origin_at(8080)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("data", "/etc/drawbridge/data"),
        ("/var/lib/data", "/var/lib/data"),
        ("file:data", "file:/etc/drawbridge/data"),
        ("file:/var/lib/data", "file:/var/lib/data"),
        ("memory:", "memory:"),
        ("s3://bucket/prefix?region=x", "s3://bucket/prefix?region=x"),
    ],
)
def test_a_store_is_relative_to_the_file(written: str, meant: str) -> None:
    """A directory is, with its scheme or without; what is elsewhere stays as it is."""
    text = f"store = '{written}'\n{ISSUER}"
    assert Config.parse(text, source="x", base=Path("/etc/drawbridge"), flags=Flags()).store == meant
