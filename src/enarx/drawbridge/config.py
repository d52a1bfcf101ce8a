"""drawbridge.toml and flags to a configuration: strict, and every error says where.

    listen = "[::]:8080"
    origin = "https://store.example.com"        # as clients know it
    store = "data"                              # a directory, or the URL of a bucket
    tls_cert = "server.pem"                     # with tls_key; without them plain HTTP on loopback or behind a proxy
    tls_key = "server.key"
    audit = "audit.jsonl"                       # default: standard error
    metrics = "loopback"                        # who may read /metrics: loopback, everybody, nobody
    workers = 4                                 # processes that serve; default: 1

    [[issuer]]                                  # who says who people are; several are possible
    name = "example"                            # what records call it: never change it
    url = "https://login.example.com/"
    audience = "https://store.example.com/"     # default: origin and a slash
    tokens = "jwt"                              # or introspection, or userinfo (the originals' older generation)
    algorithms = ["RS256", "ES256"]             # default: RS256, PS256, ES256, ES384, EdDSA
    scoped = true                               # false: it can not grant our scopes
    machine = false                             # true: its subjects are programs, known by their claims
    typ = "at+jwt"                              # default: any type
    client_id = "drawbridge"                    # introspection, with client_secret, a file
    ca = "issuer-ca.pem"                        # default: the system's

    [[steward]]                                 # whose certificates open what they name; the first is the one that
    url = "https://steward.example.com"         # tags name where a repository names no other
    ca = "steward-ca.pem"
    crl = "https://steward.example.com/crl"     # default: url and /crl; "" for a Steward that publishes none
    tls_ca = "web-ca.pem"                       # for fetching the list; default: the system's

    [proxy]
    addresses = ["10.0.0.0/8"]                  # who may end TLS for us and pass certificates on (RFC 9440)

    [limits]                                    # per identity, or address where there is none
    requests_per_minute = 6000                  # of all processes of this server together
    servers = 1                                 # that share the store: each allows its share of the requests
    upload_bytes_per_day = 100000000000         # of all servers together
    upload_bytes = 10000000000                  # one file

    [unsafe]
    accept_simulated = true                     # what repositories are released to that say nothing of it
    accept_nil = true
    accept_debug = true

Paths are relative to the file. A flag counts before the file; the originals' flags (`--ca`, `--oidc-issuer`,
`--oidc-audience`) add a Steward and an issuer.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from enarx import toml
from enarx.drawbridge.access import Leave
from enarx.toml import ConfigError, Table
from enarx.web import place
from enarx.web.files import read_file
from enarx.web.place import is_loopback
from enarx.web.proxy import Network, read_addresses

DEFAULT_PORT: Final = 8080
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")

Tokens = Literal["jwt", "introspection", "userinfo"]
TOKENS: Final[tuple[Tokens, ...]] = ("jwt", "introspection", "userinfo")
T = TypeVar("T")
MetricsFor = Literal["loopback", "everybody", "nobody"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line said; None where it was silent."""

    addr: str | None = None
    port: int | None = None
    store: str | None = None
    origin: str | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    steward: str | None = None
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    workers: int | None = None
    dev: bool = False
    behind_proxy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer as the file says. `audience` None: origin and a slash, which may only be known when we listen."""

    name: str
    url: str
    audience: str | None
    tokens: Tokens
    algorithms: tuple[str, ...] = ALGORITHMS
    scoped: bool = True
    machine: bool = False
    typ: str | None = None
    client_id: str | None = None
    client_secret: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StewardConfig:
    """One Steward as the file says. `crl` None: it publishes no list."""

    url: str | None
    ca: Path
    crl: str | None
    tls_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one identity may ask for."""

    requests_per_minute: int = 6000
    servers: int = 1
    upload_bytes_per_day: int = 100_000_000_000
    upload_bytes: int = 10_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that was read; files that it names were not."""

    source: str
    origin: str | None
    addr: str | None
    port: int
    behind_proxy: bool
    store: str | None
    tls_cert: Path | None
    tls_key: Path | None
    audit: Path | None
    metrics: MetricsFor
    workers: int
    steward: str | None
    issuers: tuple[IssuerConfig, ...]
    stewards: tuple[StewardConfig, ...]
    proxies: tuple[Network, ...]
    limits: LimitsConfig
    leave: Leave
    dev: bool

    @classmethod
    def read(cls, path: Path | None, flags: Flags) -> Self:
        """Read the file, or nothing. Raises ConfigError, NotFoundError."""
        text = b"" if path is None else read_file(path, toml.MAX_DOCUMENT)
        source = "the configuration (no --config was given)" if path is None else str(path)
        return cls.parse(text, source=source, base=Path() if path is None else path.parent, flags=flags)

    @classmethod
    def parse(cls, text: str | bytes, *, source: str, base: Path, flags: Flags) -> Self:
        """Raises ConfigError with the line and dotted path of what is wrong."""
        document = toml.parse(text, source=source)
        addr, port = place.listen(document, DEFAULT_PORT)
        unsafe = document.table("unsafe")
        stewards = tuple(_steward(table, base) for table in document.tables("steward"))
        config = cls(
            source=source,
            origin=place.origin(document, flags.origin),
            addr=flags.addr or addr,
            port=port if flags.port is None else flags.port,
            behind_proxy=flags.behind_proxy,
            store=_store(document, base, flags.store),
            tls_cert=flags.cert or _path(document, "tls_cert", base),
            tls_key=flags.key or _path(document, "tls_key", base),
            audit=_path(document, "audit", base),
            metrics=_one_of(document, "metrics", "loopback", ("loopback", "everybody", "nobody")),
            workers=_workers(document, flags),
            steward=flags.steward or next((steward.url for steward in stewards if steward.url), None),
            issuers=(*(_issuer(table, base) for table in document.tables("issuer")), *_flag_issuer(flags)),
            stewards=(*stewards, *_flag_steward(flags)),
            proxies=read_addresses(document.table("proxy")),
            limits=_limits(document.table("limits")),
            leave=Leave(
                simulated=unsafe.boolean("accept_simulated", default=False),
                nil=unsafe.boolean("accept_nil", default=False),
                debug=unsafe.boolean("accept_debug", default=False),
            ),
            dev=flags.dev,
        )
        document.end()
        config._require_whole(document)
        return config

    @property
    def tls(self) -> bool:
        """Whether this server ends TLS itself."""
        return self.tls_cert is not None or (self.dev and not self.behind_proxy)

    def listen(self) -> str:
        """The address to bind. Raises ConfigError for plain HTTP, or a development issuer, that others could reach."""
        outside = not self.dev and (self.tls or self.behind_proxy)
        addr = self.addr or ("::" if outside else "127.0.0.1")
        if self.dev and not is_loopback(addr):
            raise ConfigError(
                f"{self.source}: --dev believes whoever is at this machine, so it never listens on {addr}: "
                "leave the address out, or name an [[issuer]] and leave --dev out"
            )
        if not self.tls and not self.behind_proxy:
            place.require_loopback(self.source, addr)
        return addr

    def origin_at(self, port: int) -> str:
        """The origin, or what it is on loopback when nobody said so. Raises ConfigError."""
        if self.origin is not None:
            return self.origin
        return place.local_origin(self.source, self.listen(), port, tls=self.tls)

    def _require_whole(self, document: Table) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise document.error("tls_cert", "tls_cert and tls_key belong together")
        names = [issuer.name for issuer in self.issuers]
        urls = [issuer.url.rstrip("/") for issuer in self.issuers]
        if len(set(names)) != len(names) or len(set(urls)) != len(urls):
            raise document.error("issuer", "expected each name and each url once")
        if sum(issuer.tokens != "jwt" for issuer in self.issuers) > 1:
            raise document.error(
                "issuer", "expected at most one whose tokens are opaque: a token must not be shown to another issuer"
            )
        if self.store is None and not self.dev:
            raise document.error("store", "missing, expected a directory or the URL of a bucket")
        if self.dev and self.workers > 1:
            raise document.error("workers", "the issuer of --dev lives in one process")
        if self.workers > 1 and (self.store or "").startswith("memory:"):
            raise document.error("workers", "each process would have a memory: of its own")
        if not self.issuers and not self.dev:
            raise document.error("issuer", "none: nobody could publish; name one, or say --dev on a laptop")


def _one_of(table: Table, key: str, default: T, allowed: tuple[T, ...]) -> T:
    found = table.string(key, default)
    for choice in allowed:
        if choice == found:
            return choice
    raise table.error(key, f"expected one of {', '.join(map(str, allowed))}, found {str(found)[:40]!r}")


def _workers(document: Table, flags: Flags) -> int:
    written = document.integer("workers", 1, minimum=1, maximum=256)
    return flags.workers or written


def _steward(table: Table, base: Path) -> StewardConfig:
    url = _url(table, "url", None)
    crl = table.string("crl", None)
    if crl is None:
        crl = None if url is None else url.rstrip("/") + "/crl"
    elif crl:
        crl = _require_url(table, "crl", crl)
    return StewardConfig(url=url, ca=base / table.string("ca"), crl=crl or None, tls_ca=_path(table, "tls_ca", base))


def _issuer(table: Table, base: Path) -> IssuerConfig:
    url = _require_url(table, "url", table.string("url"))
    name = table.string("name", url)
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", name) or name == "development":
        raise table.error("name", f"expected a name other than development, found {name[:80]!r}")
    tokens: Tokens = _one_of(table, "tokens", "jwt", TOKENS)
    found = IssuerConfig(
        name=name,
        url=url,
        audience=table.string("audience", None),
        tokens=tokens,
        algorithms=table.choices("algorithms", ALGORITHMS, ALGORITHMS),
        scoped=table.boolean("scoped", default=tokens != "userinfo"),
        machine=table.boolean("machine", default=False),
        typ=table.string("typ", None),
        client_id=table.string("client_id", None),
        client_secret=_path(table, "client_secret", base),
        ca=_path(table, "ca", base),
    )
    if not found.algorithms:
        raise table.error("algorithms", "empty: no token would count")
    if tokens == "introspection" and (found.client_id is None or found.client_secret is None):
        raise table.error("client_id", "introspection needs client_id and client_secret")
    if found.machine and tokens != "jwt":
        raise table.error("machine", "a machine is known by the claims of a token, which only a jwt has")
    return found


def _flag_issuer(flags: Flags) -> Sequence[IssuerConfig]:
    if flags.oidc_issuer is None:
        return ()
    url = _require_url(_no_document(), "--oidc-issuer", flags.oidc_issuer)
    return (IssuerConfig(name=url, url=url, audience=flags.oidc_audience, tokens="jwt"),)


def _flag_steward(flags: Flags) -> Sequence[StewardConfig]:
    """`--ca` names whom to believe; `--steward`, beside it, where that Steward is."""
    if flags.ca is None:
        return ()
    crl = None if flags.steward is None else flags.steward.rstrip("/") + "/crl"
    return (StewardConfig(url=flags.steward, ca=flags.ca, crl=crl, tls_ca=flags.ca),)


def _no_document() -> Table:
    return Table(source="flags", text="", path="", values={})


def _store(document: Table, base: Path, flag: str | None) -> str | None:
    written = document.string("store", None)
    if "" in {flag, written}:  # else it would be whatever directory we are in
        raise document.error("store", "empty, expected a directory or the URL of a bucket")
    if flag is not None or written is None:
        return flag
    scheme, colon, rest = written.partition(":")
    if colon and "/" not in scheme:
        return f"file:{base / rest}" if scheme == "file" else written
    return str(base / written)


def _path(table: Table, key: str, base: Path) -> Path | None:
    name = table.string(key, None)
    return None if name is None else base / name


def _limits(table: Table) -> LimitsConfig:
    default = LimitsConfig()
    requests = table.integer("requests_per_minute", default.requests_per_minute, minimum=1)
    return dataclasses.replace(
        default,
        requests_per_minute=requests,
        servers=table.integer("servers", default.servers, minimum=1, maximum=requests),
        upload_bytes_per_day=table.integer("upload_bytes_per_day", default.upload_bytes_per_day, minimum=1),
        upload_bytes=table.integer("upload_bytes", default.upload_bytes, minimum=1),
    )


def _url(table: Table, key: str, flag: str | None) -> str | None:
    written = table.string(key, None)
    url = flag or written
    return None if url is None else _require_url(table, key, url)


def _require_url(table: Table, key: str, url: str) -> str:
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not secure or not parts.hostname or parts.username or parts.query or parts.fragment or not url.isascii():
        raise table.error(key, f"expected an https URL (http for loopback alone), found {url[:200]!r}")
    return url
