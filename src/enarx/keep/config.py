"""Enarx.toml: what a workload is given when it starts.

Decides which arguments, environment and descriptors a program gets. The schema is that of the originals
(Enarx 0.7, enarx-config), with two refusals of our own, each of which would otherwise be a silent mistake:
an unknown top-level key, with a suggestion; and a name that would make FD_NAMES ambiguous.
The i-th entry of `files` is descriptor i. Without a configuration a program has standard input, output and
error; a configuration without `files` gives it no descriptor at all.

Ours are the tables beside `files`, and what a TLS entry may say about its peers: `enarx.keep.settings` has a sentence
on every key. Nothing is opened here: `enarx.keep.runtime` does that. Nobody's word is taken: a package brings this.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar, get_args

from enarx.errors import MalformedError
from enarx.keep import network
from enarx.keep.network import Network

if TYPE_CHECKING:
    from enarx.attested.relying import Expectation
    from enarx.toml import Table

T = TypeVar("T")

Protocol = Literal["tcp", "tls"]
StandardKind = Literal["null", "stdin", "stdout", "stderr"]
Client = Literal["none", "any", "attested"]
Translator = Literal["cranelift", "winch"]
Level = Literal["off", "error", "warn", "info", "debug"]

DEFAULT_PORTS: Final[Mapping[Protocol, int]] = {"tcp": 80, "tls": 443}
MAX_FILES: Final = 1024  # entries of `files`; each may be a listening socket of the Keep
MAX_NAMES: Final = 100  # DNS names in a certificate
MAX_DESCRIPTORS: Final = 16384  # the size of a program's descriptor table
DEFAULT_INSTANCES: Final = 256
DEFAULT_REQUEST_SECONDS: Final = 300

_UNITS: Final[Mapping[str, int]] = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """What a TLS entry of `files` asks of the other side, beyond what its kind does by itself.

    `roots` are the CAs that vouch: paths in the package, or PEM text. `pins` are SHA-256 digests of the peer's public
    key (DER SubjectPublicKeyInfo). `attestation` is what the certificate of an attested peer has to say.
    """

    client: Client = "none"
    roots: tuple[str, ...] = ()
    pins: frozenset[bytes] = frozenset()
    attestation: "Expectation | None" = None
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """`null`, or one of the three standard streams of whoever started the Keep."""

    kind: StandardKind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """A socket that accepts connections; with `tls` the program sees plain bytes."""

    name: str
    prot: Protocol
    addr: str
    port: int
    peers: Peers = Peers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A connection that is made before the program starts; with `tls` the peer is verified as `host`."""

    name: str
    prot: Protocol
    host: str
    port: int
    peers: Peers = Peers()


File = Standard | Listen | Connect

EVERYTHING_NAMED: Final = Network()  # leaves it to `files`

STANDARD_STREAMS: Final[tuple[File, ...]] = (
    Standard(kind="stdin", name="stdin"),
    Standard(kind="stdout", name="stdout"),
    Standard(kind="stderr", name="stderr"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Directories: the package's data, and a private one in memory of at most so many bytes."""

    package: bool = True
    memory: int | None = None
    path: str = "/tmp"  # noqa: S108 - a name inside the program's world


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use; None is without limit."""

    memory: int | None = None
    instances: int = DEFAULT_INSTANCES
    fuel: int | None = None
    seconds: int | None = None
    request_seconds: int = DEFAULT_REQUEST_SECONDS
    output: int | None = None
    descriptors: int = MAX_DESCRIPTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the certificate should be; a Steward grants what its policy allows."""

    lifetime: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the Keep itself says on standard error while the program runs."""

    level: Level = "warn"
    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overridable:
    """What whoever deploys the package may change. `env` are names of variables; None is all of them."""

    args: bool = False
    env: frozenset[str] | None = frozenset()
    ports: bool = False
    network: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A checked Enarx.toml. `Config()` is what holds when a package has none."""

    steward: str | None = None
    compiler: Translator = "cranelift"
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[File, ...] = STANDARD_STREAMS
    network: Network = EVERYTHING_NAMED
    storage: Storage = Storage()
    limits: Limits = Limits()
    certificate: Wishes = Wishes()
    identity: str | None = None  # the directory in which the program finds who it is
    log: Log = Log()
    deploy: Overridable = Overridable()

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "Enarx.toml") -> Self:
        """Read at most 1,000,000 bytes of TOML. Raises ConfigError with source, line, path, expected, found."""
        from enarx import toml  # noqa: PLC0415 - a program without Enarx.toml starts without a reader for it

        document = toml.parse(text, source=source)
        if isinstance(document.values.get("files"), dict):
            raise document.error("files", "expected entries under [[files]], found a table; directories are [storage]")
        steward = _steward(document)
        args = document.strings("args")
        env = document.string_map("env")
        tables = document.tables("files")
        if len(tables) > MAX_FILES:
            raise document.error("files", f"expected at most {MAX_FILES} entries, found {len(tables)}")
        files = tuple(_file(table) for table in tables)
        made = cls(
            steward=steward,
            compiler=_one_of(document, "compiler", get_args(Translator), "cranelift"),
            args=args,
            env=MappingProxyType(dict(env)),
            files=files,
            network=_network(document.table("network")),
            storage=_storage(document.table("storage")),
            limits=_limits(document.table("limits")),
            certificate=_certificate(document.table("certificate")),
            identity=_identity(document),
            log=_log(document.table("log")),
            deploy=_deploy(document.table("deploy")),
        )
        document.end()
        refuse_nul(document, args, env)
        for index, problem in made.forbidden_files():
            raise tables[index].error("port", problem)
        return made

    @property
    def uses_tls(self) -> bool:
        """Whether a descriptor needs the Keep's key and certificate."""
        return self.identity is not None or any(
            isinstance(file, Listen | Connect) and file.prot == "tls" for file in self.files
        )

    def may_listen(self, port: int) -> bool:
        """Whether a program that opens its own listeners may have this port."""
        named = any(isinstance(file, Listen) and file.port == port for file in self.files)
        return self.network.allows_incoming(port) and (self.network.incoming is not None or named)

    def may_reach(self, host: str, port: int) -> bool:
        """Whether a program that makes its own connections may reach `host`, as it names it, on this port."""
        named = any(
            isinstance(file, Connect) and (network.fold(file.host), file.port) == (network.fold(host), port)
            for file in self.files
        )
        return self.network.allows_outgoing(host, port) and (self.network.outgoing is not None or named)

    def forbidden_files(self) -> Iterable[tuple[int, str]]:
        """The entries of `files` that the network list does not allow, and why."""
        for index, file in enumerate(self.files):
            if isinstance(file, Listen) and not self.network.allows_incoming(file.port):
                yield index, f"{file.name!r} listens on port {file.port}, which network.incoming does not allow"
            if isinstance(file, Connect) and not self.network.allows_outgoing(file.host, file.port):
                yield index, f"{file.name!r} connects to {file.host}:{file.port}, which network.outgoing does not allow"


def _steward(document: "Table") -> str | None:
    url = document.string("steward", None)
    if url is None:
        return None
    from urllib.parse import urlsplit  # noqa: PLC0415 - as above

    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise document.error("steward", f"expected a URL such as https://steward.example, found {url[:200]!r}")
    return url


def refuse_nul(document: "Table", args: tuple[str, ...], env: Mapping[str, str]) -> None:
    """A program receives C strings: what follows a NUL would be lost without a word."""
    for index, argument in enumerate(args):
        if "\0" in argument:
            raise document.error(f"args[{index}]", "must not contain a NUL", at="args")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise document.error(f"env.{name}"[:100], "expected a name without '=' and no NUL in name or value")


def _file(table: "Table") -> File:
    kind = table.string("kind")
    if kind == "listen":
        return _listen(table)
    if kind == "connect":
        return _connect(table)
    for standard in get_args(StandardKind):
        if kind == standard:
            return Standard(kind=standard, name=_name(table, default=kind))
    known = ", ".join((*get_args(StandardKind), "listen", "connect"))
    raise table.error("kind", f"expected one of {known}, found {kind[:100]!r}")


def _listen(table: "Table") -> Listen:
    name = _name(table)
    prot = _protocol(table)
    addr = table.string("addr", "::")
    client = _one_of(table, "client", get_args(Client), "none")
    peers = _peers(table, prot, client)
    if client == "none" and (peers.roots or peers.pins or peers.attestation):
        raise table.error("client", 'expected "any" or "attested" where roots, pins or attestation are given')
    if client != "none" and not peers.roots:
        raise table.error("roots", f'missing: client = "{client}" needs the CAs that vouch for clients')
    if client == "any" and peers.attestation:
        raise table.error("client", 'expected "attested" where an attestation policy is given, found "any"')
    return Listen(name=name, prot=prot, addr=_host(table, "addr", addr), port=_port(table, prot), peers=peers)


def _connect(table: "Table") -> Connect:
    prot = _protocol(table)
    host = _host(table, "host", table.string("host"))
    if "name" not in table and ":" in host:
        raise table.error("name", f"missing: the host {host!r} contains ':' and cannot serve as the name")
    peers = _peers(table, prot, "none")
    if peers.attestation and not peers.roots:
        raise table.error("roots", "missing: an attested peer is believed on the word of the Stewards in `roots`")
    return Connect(name=_name(table, default=host), prot=prot, host=host, port=_port(table, prot), peers=peers)


def _peers(table: "Table", prot: Protocol, client: Client) -> Peers:
    """The keys that mean something with TLS alone."""
    for key in ("client", "roots", "pins", "attestation", "alpn"):
        if key in table and prot != "tls":
            raise table.error(key, 'expected only where prot = "tls"')
    roots = table.strings("roots")
    for index, root in enumerate(roots):
        if not root or "\0" in root:
            raise table.error(f"roots[{index}]", "expected a path in the package, or certificates in PEM", at="roots")
    return Peers(
        client=client,
        roots=roots,
        pins=table.hex_list("pins", length=32),
        attestation=_expectation(table) if "attestation" in table or client == "attested" else None,
        alpn=_alpn(table),
    )


def _expectation(table: "Table") -> "Expectation":
    from enarx.attested.relying import Expectation  # noqa: PLC0415 - costs the start of every program otherwise

    return Expectation.from_table(table.table("attestation"))


def _alpn(table: "Table") -> tuple[str, ...]:
    names = table.strings("alpn")
    for index, name in enumerate(names):
        if not 0 < len(name.encode()) <= 255 or not name.isascii():
            raise table.error(f"alpn[{index}]", f"expected 1 to 255 ASCII letters, found {name[:100]!r}", at="alpn")
    return names


def _network(table: "Table") -> Network:
    return Network(
        incoming=_rules(table, "incoming", network.incoming),
        outgoing=_rules(table, "outgoing", network.outgoing),
    )


def _rules(table: "Table", key: str, parse: Callable[[Iterable[str]], tuple[T, ...]]) -> tuple[T, ...] | None:
    if key not in table:
        table.strings(key)  # asked for, and so known where a key is misspelt
        return None
    values = table.values[key]
    if key == "incoming" and isinstance(values, list):
        values = [str(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in values]
        table.values = {**table.values, key: values}
    rules = table.strings(key)
    try:
        return parse(rules)
    except MalformedError as error:
        raise table.error(f"{key}{str(error).partition(': ')[0]}", str(error).partition(": ")[2], at=key) from error


def _storage(table: "Table") -> Storage:
    path = _directory(table, "path", Storage().path)
    memory = _size(table, "memory")
    if "path" in table and memory is None:
        raise table.error("memory", "missing, expected the size of the private directory")
    return Storage(package=table.boolean("package", default=True), memory=memory, path=path)


def _limits(table: "Table") -> Limits:
    return Limits(
        memory=_size(table, "memory", minimum=65536),
        instances=table.integer("instances", DEFAULT_INSTANCES, minimum=1, maximum=10_000),
        fuel=table.integer("fuel", None, minimum=1),
        seconds=table.integer("seconds", None, minimum=1, maximum=10**9),
        request_seconds=table.integer("request_seconds", DEFAULT_REQUEST_SECONDS, minimum=1, maximum=10**9),
        output=_size(table, "output"),
        descriptors=table.integer("descriptors", MAX_DESCRIPTORS, minimum=1, maximum=MAX_DESCRIPTORS),
    )


def _certificate(table: "Table") -> Wishes:
    names = tuple(network.fold(name) for name in table.strings("names"))
    if len(names) > MAX_NAMES:
        raise table.error("names", f"expected at most {MAX_NAMES} names, found {len(names)}")
    for index, name in enumerate(names):
        if not network.is_name(name.removeprefix("*.")):
            raise table.error(f"names[{index}]", f"expected a DNS name, found {name[:100]!r}", at="names")
    return Wishes(lifetime=table.integer("lifetime", None, minimum=60, maximum=10**8), names=names)


def _identity(document: "Table") -> str | None:
    table = document.table("identity")
    path = _directory(table, "path", "/enarx")
    return path if "identity" in document else None


def _directory(table: "Table", key: str, default: str) -> str:
    path = table.string(key, default)
    if not re.fullmatch(r"(/[^/\0]+)+", path) or {".", ".."} & set(path.split("/")) or len(path) > 255:
        raise table.error(key, f"expected an absolute path such as {default}, found {path[:100]!r}")
    return path


def _log(table: "Table") -> Log:
    return Log(
        level=_one_of(table, "level", get_args(Level), "warn"),
        format=_one_of(table, "format", ("text", "json"), "text"),
    )


def _deploy(table: "Table") -> Overridable:
    wish = table.values.get("env")
    anything = wish == "*"
    if isinstance(wish, str):
        table.string("env")
        if not anything:
            raise table.error("env", f"expected a list of names, or '*' for all of them, found {wish[:100]!r}")
    return Overridable(
        args=table.boolean("args", default=False),
        env=None if anything else frozenset(table.strings("env")),
        ports=table.boolean("ports", default=False),
        network=table.boolean("network", default=True),
    )


def _one_of(table: "Table", key: str, allowed: tuple[T, ...], default: T) -> T:
    found = table.string(key, default)
    for known in allowed:
        if found == known:
            return known
    raise table.error(key, f"expected one of {', '.join(map(str, allowed))}, found {str(found)[:100]!r}")


def _size(table: "Table", key: str, *, minimum: int = 1) -> int | None:
    """Bytes, as an integer or with a unit: "64 MiB"."""
    if key not in table:
        return table.integer(key, None)
    value = table.values[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return table.integer(key, minimum=minimum)
    if not isinstance(value, str):
        raise table.error(key, f"expected bytes, or a size such as '64 MiB', found {value!r:.100}")
    text = table.string(key)
    match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text)
    if match is None or match.group(2).lower() not in _UNITS:
        raise table.error(key, f"expected bytes, or a size such as '64 MiB', found {text[:100]!r}")
    size = int(match.group(1)) * _UNITS[match.group(2).lower()]
    if size < minimum:
        raise table.error(key, f"expected at least {minimum} bytes, found {size}")
    return size


def _name(table: "Table", default: str | None = None) -> str:
    name = table.string("name") if default is None else table.string("name", default)
    if ":" in name:
        raise table.error("name", f"file name must not contain ':', found {name[:100]!r}")
    if "\0" in name:
        raise table.error("name", "file name must not contain a NUL")
    return name


def _protocol(table: "Table") -> Protocol:
    prot = table.string("prot")
    if prot == "tcp":
        return "tcp"
    if prot == "tls":
        return "tls"
    raise table.error("prot", f"expected 'tcp' or 'tls', found {prot[:100]!r}")


def _host(table: "Table", key: str, host: str) -> str:
    if not host or len(host) > 255 or any(ord(letter) <= 32 or letter in "/@[]" for letter in host):
        raise table.error(key, f"expected a host name or an address, found {host[:100]!r}")
    return host


def _port(table: "Table", prot: Protocol) -> int:
    return table.integer("port", DEFAULT_PORTS[prot], minimum=0, maximum=65535)
