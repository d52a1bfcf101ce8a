"""Enarx.toml in words: one sentence on every key, and the file that `enarx config init` writes.

`enarx.keep.config` reads and checks; a test holds the two, and docs/enarx-toml.md, together.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key by its dotted path, what it takes, what holds without it, and what it does."""

    path: str
    kind: str
    default: str
    text: str


def _s(path: str, kind: str, default: str, text: str) -> Setting:
    return Setting(path=path, kind=kind, default=default, text=text)


SETTINGS: Final[tuple[Setting, ...]] = (
    _s("steward", "URL", "none", "The Steward that certifies `enarx run`. `enarx deploy` ignores it: the registry names one."),
    _s("args", "list of strings", "[]", "Arguments after argv[0], which is always main.wasm."),
    _s("env", "table of strings", "{}", "Environment, after FD_COUNT and FD_NAMES."),
    _s("compiler", "cranelift, winch", "cranelift", "Which of wasmtime's compilers translates the program: winch is done three times as fast, with code that runs slower, and knows fewer proposals."),
    _s("files", "entries under [[files]]", "none", "Descriptors, from 0 on, in this order. Without any Enarx.toml: stdin, stdout, stderr."),
    _s("files.kind", "null, stdin, stdout, stderr, listen, connect", "required", "What the descriptor is."),
    _s("files.name", "string without ':'", "the kind, or the host", "Its name in FD_NAMES; `listen` has to have one."),
    _s("files.prot", "tcp, tls", "required", "For listen and connect. With tls the Keep speaks TLS 1.3 and the program sees plain bytes."),
    _s("files.addr", "address", '"::"', "Where to listen."),
    _s("files.host", "name or address", "required", "Whom to connect to, before the program starts. With tls the peer must prove that name."),
    _s("files.port", "integer", "80 (tcp), 443 (tls)", "The port to listen on or to connect to."),
    _s("files.client", "none, any, attested", "none", "Whether a tls listener wants a certificate of its clients: one that `roots` vouch for, or one of an attested Keep."),
    _s("files.roots", "list of paths or PEM", "the system's", "The CAs that vouch for the peer: files of the package, or their text. For attested peers: the CAs of Stewards."),
    _s("files.pins", "list of hex", "[]", "SHA-256 of the peer's public key (DER SubjectPublicKeyInfo). Without `roots`, a connection asks for nothing else."),
    _s("files.attestation", "table", "real hardware, no debugging", "What an attested peer has to be: workloads, technologies, measurements, signers, config_digests, tcb_statuses, trust_domains, max_age_seconds, unsafe."),
    _s("files.alpn", "list of strings", "[]", "Application protocols to offer or accept in TLS, best first."),
    _s("network.incoming", "list of ports", "those of `files`", 'Ports that may be listened on: 8443, "8000-8010". A listen entry outside is an error.'),
    _s("network.outgoing", "list of host:port", "those of `files`", 'Whom the program may reach: "example.org:443", "*.example.org:443", "10.0.0.0/8:5432", "localhost:*".'),
    _s("storage.package", "boolean", "true", "Whether the package's other files are readable under /package."),
    _s("storage.memory", "size", "none", "Give the program a private, empty directory in the Keep's memory of at most this size."),
    _s("storage.path", "absolute path", '"/tmp"', "Where the program finds it."),
    _s("limits.memory", "size", "none", "Linear memory of the program; growing beyond it fails."),
    _s("limits.instances", "integer", "256", "Threads of a module, or instances of a component that serves HTTP, at a time."),
    _s("limits.fuel", "integer", "none", "Instructions, roughly: the program is stopped when they are used up. Costs speed."),
    _s("limits.seconds", "integer", "none", "Wall clock: the program is stopped after so many seconds."),
    _s("limits.request_seconds", "integer", "300", "Wall clock of one request to a component that serves HTTP: beyond it this request is stopped, and answered 504 if it was not yet."),
    _s("limits.output", "size", "none", "Bytes on standard output and error together: the program is stopped beyond."),
    _s("limits.descriptors", "integer", "16384", "Open descriptors, connections above all; opening more fails."),
    _s("certificate.lifetime", "seconds", "the Steward's", "How long a certificate should last before it is renewed; a Steward grants what its policy allows, never more."),
    _s("certificate.names", "list of DNS names", "[]", "Names the certificate should carry; a Steward grants those that its policy allows this workload."),
    _s("identity.path", "absolute path", '"/enarx"', "With a table [identity] the program finds there who it is: certificate.pem, attestation.json, workload; and can ask to sign and for keys."),
    _s("log.level", "off, error, warn, info, debug", "warn", "What the Keep says on standard error while the program runs: refused peers, limits, renewals; with info every connection."),
    _s("log.format", "text, json", "text", "How it says it."),
    _s("deploy.args", "boolean", "false", "Whether whoever deploys may replace the arguments."),
    _s("deploy.env", 'list of names, or "*"', "[]", "Which variables whoever deploys may set."),
    _s("deploy.ports", "boolean", "false", "Whether whoever deploys may choose the ports of listeners."),
    _s("deploy.network", "boolean", "true", "Whether whoever deploys may narrow the network lists. They can never be widened."),
)  # fmt: skip

TEMPLATE: Final = """\
## What the program is given when it starts. A line with one '#' is a setting to uncomment.
## `enarx config check` reads this file, `enarx config explain` says what it means, key by key.

## Arguments after argv[0], which is always main.wasm.
# args = ["--verbose", "one more"]

## The Steward that certifies `enarx run`; without one the certificate is signed by its own key.
# steward = "https://localhost:8444"

## Which of wasmtime's compilers: winch starts large programs sooner, cranelift runs them faster.
# compiler = "winch"

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
## port 443 (tls) or 80 (tcp) unless given. With tls also:
##   client = "none", "any" or "attested"   whether clients have to show a certificate,
##   roots = ["clients.pem"]                from these CAs (files of the package, or PEM text),
##   pins = ["<hex>"]                       for one of these keys (SHA-256 of the public key, DER),
##   attestation = { technologies = ["snp"], workloads = ["sha256:<hex>"] }   and of such a Keep;
##   alpn = ["h2", "http/1.1"]              application protocols, best first.
# [[files]]
# kind = "listen"
# name = "web"
# prot = "tls"
# addr = "127.0.0.1"
# port = 12345

## A connection made before the program starts; with tls the peer must prove that it is `host`.
## Also with tls: roots, pins, attestation and alpn as above. Pins alone ask for nothing but the key.
# [[files]]
# kind = "connect"
# name = "upstream"
# prot = "tls"
# host = "localhost"
# port = 23456

## What may be listened on and reached. Without a list: what `files` names, and nothing else.
# [network]
# incoming = [12345, "8000-8010"]
# outgoing = ["localhost:23456", "*.example.org:443", "10.0.0.0/8:5432"]

## Directories: the package's own files, readable under /package, and a private one in memory.
# [storage]
# package = true
# memory = "64 MiB"
# path = "/tmp"

## What the program may use. Beyond fuel, seconds and output it is stopped, beyond request_seconds
## one request is; more memory, instances and descriptors are refused.
# [limits]
# memory = "512 MiB"
# instances = 64
# fuel = 1000000000000
# seconds = 86400
# request_seconds = 60
# output = "1 GiB"
# descriptors = 4096

## The certificate to ask for; a Steward grants what its policy allows this workload.
# [certificate]
# lifetime = 3600
# names = ["app.example.org"]

## Let the program know who it is: certificate, attestation result and workload digest as files
## there and in the environment, and ways to ask the Keep for signatures and keys.
# [identity]
# path = "/enarx"

## What the Keep itself says on standard error. level = off, error, warn, info or debug.
# [log]
# level = "info"
# format = "text"

## What whoever deploys this package may change. `env` lists names, or is "*".
# [deploy]
# args = true
# env = ["GREETING"]
# ports = true
# network = true
"""


def find(path: str) -> tuple[Setting, ...]:
    """The settings at `path` and below it."""
    return tuple(setting for setting in SETTINGS if setting.path == path or setting.path.startswith(f"{path}."))
