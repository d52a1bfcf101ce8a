"""Enarx.toml: what a workload is given when it starts.

Decides which arguments, environment and descriptors a program gets. The schema is that of the originals
(Enarx 0.7, enarx-config), with two refusals of our own, each of which would otherwise be a silent mistake:
an unknown top-level key, with a suggestion; and a name that would make FD_NAMES ambiguous.
The i-th entry of `files` is descriptor i. Without a configuration a program has standard input, output and
error; a configuration without `files` gives it no descriptor at all.
Nothing is opened here: `enarx.keep.runtime` does that. Nobody's word is taken: a package brings this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Self, get_args
from urllib.parse import urlsplit

from enarx import toml
from enarx.toml import Table

Protocol = Literal["tcp", "tls"]
StandardKind = Literal["null", "stdin", "stdout", "stderr"]

DEFAULT_PORTS: Final[Mapping[Protocol, int]] = {"tcp": 80, "tls": 443}
MAX_FILES: Final = 1024  # entries of `files`; each may be a listening socket of the Keep


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A connection that is made before the program starts; with `tls` the peer is verified as `host`."""

    name: str
    prot: Protocol
    host: str
    port: int


File = Standard | Listen | Connect

STANDARD_STREAMS: Final[tuple[File, ...]] = (
    Standard(kind="stdin", name="stdin"),
    Standard(kind="stdout", name="stdout"),
    Standard(kind="stderr", name="stderr"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A checked Enarx.toml. `Config()` is what holds when a package has none."""

    steward: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[File, ...] = STANDARD_STREAMS

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "Enarx.toml") -> Self:
        """Read at most 1,000,000 bytes of TOML. Raises ConfigError with source, line, path, expected, found."""
        document = toml.parse(text, source=source)
        steward = _steward(document)
        args = document.strings("args")
        env = document.string_map("env")
        files = tuple(_file(table) for table in document.tables("files"))
        document.end()
        _refuse_nul(document, args, env)
        if len(files) > MAX_FILES:
            raise document.error("files", f"expected at most {MAX_FILES} entries, found {len(files)}")
        return cls(steward=steward, args=args, env=MappingProxyType(dict(env)), files=files)

    @property
    def uses_tls(self) -> bool:
        """Whether a descriptor needs the Keep's key and certificate."""
        return any(isinstance(file, Listen | Connect) and file.prot == "tls" for file in self.files)


def _steward(document: Table) -> str | None:
    url = document.string("steward", None)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise document.error("steward", f"expected a URL such as https://steward.example, found {url[:200]!r}")
    return url


def _refuse_nul(document: Table, args: tuple[str, ...], env: Mapping[str, str]) -> None:
    """A program receives C strings: what follows a NUL would be lost without a word."""
    for index, argument in enumerate(args):
        if "\0" in argument:
            raise document.error(f"args[{index}]", "must not contain a NUL", at="args")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise document.error(f"env.{name}"[:100], "expected a name without '=' and no NUL in name or value")


def _file(table: Table) -> File:
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


def _listen(table: Table) -> Listen:
    name = _name(table)
    prot = _protocol(table)
    addr = table.string("addr", "::")
    return Listen(name=name, prot=prot, addr=_host(table, "addr", addr), port=_port(table, prot))


def _connect(table: Table) -> Connect:
    prot = _protocol(table)
    host = _host(table, "host", table.string("host"))
    if "name" not in table and ":" in host:
        raise table.error("name", f"missing: the host {host!r} contains ':' and cannot serve as the name")
    return Connect(name=_name(table, default=host), prot=prot, host=host, port=_port(table, prot))


def _name(table: Table, default: str | None = None) -> str:
    name = table.string("name") if default is None else table.string("name", default)
    if ":" in name:
        raise table.error("name", f"file name must not contain ':', found {name[:100]!r}")
    if "\0" in name:
        raise table.error("name", "file name must not contain a NUL")
    return name


def _protocol(table: Table) -> Protocol:
    prot = table.string("prot")
    if prot == "tcp":
        return "tcp"
    if prot == "tls":
        return "tls"
    raise table.error("prot", f"expected 'tcp' or 'tls', found {prot[:100]!r}")


def _host(table: Table, key: str, host: str) -> str:
    if not host or len(host) > 255 or any(ord(letter) <= 32 or letter in "/@[]" for letter in host):
        raise table.error(key, f"expected a host name or an address, found {host[:100]!r}")
    return host


def _port(table: Table, prot: Protocol) -> int:
    return table.integer("port", DEFAULT_PORTS[prot], minimum=0, maximum=65535)


TEMPLATE: Final = """\
## What the program is given when it starts. A line with one '#' is a setting to uncomment.

## Arguments after argv[0], which is always main.wasm.
# args = ["--verbose", "one more"]

## The Steward that certifies `enarx run`; without one the certificate is signed by its own key.
# steward = "https://localhost:8444"

## Environment, after FD_COUNT and FD_NAMES.
# [env]
# GREETING = "hello"

## Descriptors, from 0 on, in this order. kind = null, stdin, stdout, stderr, listen or connect.
[[files]]
kind = "stdin"

[[files]]
kind = "stdout"

[[files]]
kind = "stderr"

## A socket that accepts connections. prot = "tls" or "tcp"; addr is "::" unless given,
## port 443 (tls) or 80 (tcp) unless given.
# [[files]]
# kind = "listen"
# name = "web"
# prot = "tls"
# addr = "127.0.0.1"
# port = 12345

## A connection made before the program starts; with tls the peer must prove that it is `host`.
# [[files]]
# kind = "connect"
# name = "upstream"
# prot = "tls"
# host = "localhost"
# port = 23456
"""
