"""steward.toml and flags to a configuration: strict, and every error says where (architecture.md, 7; protocol.md, 1.6).

    origin = "https://steward.example.com"      # the audience of requests and the base of the CRL's URL
    trust_domain = "example.com"                # of SPIFFE ids; default: the host of origin
    listen = "[::]:3000"
    tls_cert = "server.pem"                     # with tls_key; without them plain HTTP on loopback or behind a proxy
    tls_key = "server.key"
    tls_from_ca = true                          # instead: the CA itself issues Steward's certificate at every start
    crt = "ca.pem"                              # the issuing CA, then what is above it; with key
    key = "ca.key"                              # PKCS#8, never readable by everybody, or a PKCS#11 URI
    key_passphrase = "passphrase"               # file; also STEWARD_KEY_PASSPHRASE, STEWARD_KEY_PASSPHRASE_FILE,
                                                # and systemd's credential steward-key-passphrase
    collateral = "collateral"                   # directory of vendors' documents
    state = "state"                             # directory of what was issued and revoked
    audit = "audit.jsonl"                       # default: standard error
    durable = "state"                           # what is on the disk before a certificate leaves: nothing, state, all
    nonce_key = "nonce.key"                     # 32 bytes or more; default: derived from the CA key
    nonce = "claims"                            # who has to send one: claims, always, optional
    maximum_evidence_age = 300                  # seconds since the nonce; evidence without one is then refused
    crl_lifetime = 3600                         # seconds
    metrics = "loopback"                        # who may GET /metrics: loopback, everybody, nobody
    workers = 1                                 # processes

    [proxy]
    addresses = ["10.0.0.0/8"]                  # who may end TLS for us and pass certificates on (RFC 9440)

and the tables of `enarx.steward.policy`. Paths are relative to the file. A flag counts before the file. The CA is
loaded (key and crt), or generated (`--host NAME` as the originals, or `--dev`, which serves TLS with it as well),
which changes nothing about what is checked: the policy of the file is in force either way, which the originals
dropped.
"""

import dataclasses
import ipaddress
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self, get_args
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from enarx import toml
from enarx.errors import EnarxError, MalformedError, NotFoundError
from enarx.pki import keys
from enarx.pki.certificate import Certificate, certificates_from_pem, pem_blocks
from enarx.steward import issuer as ca
from enarx.steward.authority import Authority
from enarx.steward.highest import FILE as HIGHEST
from enarx.steward.highest import Highest
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import MetricsFor
from enarx.steward.nonce import LIFETIME as NONCE_LIFETIME
from enarx.steward.nonce import Nonces
from enarx.steward.policy import FAMILIES, SERVING, Judging, Policy, operator_anchor, read_policy, simulated_anchor
from enarx.steward.profile import SERIAL_BYTES, Profile, server_certificate, validity
from enarx.steward.token import SCHEME, open_key
from enarx.tee.model import Endorsements, TrustAnchor
from enarx.toml import Table
from enarx.web import place
from enarx.web.files import MAX_PEM, read_file, read_private, write_private
from enarx.web.place import is_loopback
from enarx.web.proxy import Network, read_addresses
from enarx.web.tls import ServerTls

Durable = Literal["nothing", "state", "all"]
MAX_WORKERS: Final = 256
PASSPHRASE: Final = "STEWARD_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable, not a secret
CREDENTIAL: Final = "steward-key-passphrase"
DEFAULT_PORT: Final = 3000
DEFAULT_CRL_LIFETIME: Final = timedelta(hours=1)
DEVELOPMENT_NAME: Final = "Steward (development)"
MIN_NONCE_KEY: Final = 32  # bytes

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE-ID, 2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line and the environment said; None where they were silent."""

    key: str | None = None
    crt: Path | None = None
    addr: str | None = None
    port: int | None = None
    host: str | None = None
    san: str | None = None
    origin: str | None = None
    dev: bool = False
    dev_dir: Path | None = None
    behind_proxy: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that was read, and files it names that were not, but for the simulated anchors."""

    source: str
    policy: Policy
    origin: str | None
    trust_domain: str | None
    addr: str | None
    port: int
    behind_proxy: bool
    tls_cert: Path | None
    tls_key: Path | None
    crt: Path | None
    key: str | None  # a path, or a PKCS#11 URI
    key_passphrase: Path | None
    generate: str | None
    keep_ca_in: Path | None
    tls_from_ca: bool
    collateral: Path | None
    state: Path | None
    audit: Path | None
    nonce_key: Path | None
    crl_lifetime: timedelta
    metrics: MetricsFor
    workers: int
    proxies: tuple[Network, ...]
    durable: Durable

    @classmethod
    def read(cls, path: Path | None, flags: Flags, judging: Judging = SERVING) -> Self:
        """Read the file, or nothing. Raises ConfigError, NotFoundError."""
        text = b"" if path is None else read_file(path, toml.MAX_DOCUMENT)
        source = "the configuration (no --config was given)" if path is None else str(path)
        base = Path() if path is None else path.parent
        return cls.parse(text, source=source, base=base, flags=flags, judging=judging)

    @classmethod
    def parse(cls, text: str | bytes, *, source: str, base: Path, flags: Flags, judging: Judging = SERVING) -> Self:
        """Raises ConfigError with the line and dotted path of what is wrong."""
        document = toml.parse(text, source=source)
        _require_no_empty(document)

        def path(key: str) -> Path | None:
            name = document.string(key, None)
            return None if name is None else base / name

        addr, port = place.listen(document, DEFAULT_PORT)
        workers = document.integer("workers", 1, minimum=1, maximum=MAX_WORKERS)
        lifetime = document.integer("crl_lifetime", None, minimum=60, maximum=30 * 86400)
        names = [flags.san] if flags.san else ()
        if judging is SERVING:  # whoever judges offline, perhaps for a moment long past, remembers nothing
            judging = dataclasses.replace(judging, memory=_memory(document, path("collateral"), path("state")))
        anchors = (*_simulated(document, base), *_named(document, base))
        policy = read_policy(document, anchors, extra_names=names, judging=judging)
        crt, key = path("crt"), document.string("key", None)
        if key is not None and not key.startswith(SCHEME):
            key = str(base / key)
        config = cls(
            source=source,
            policy=policy,
            origin=place.origin(document, flags.origin),
            trust_domain=_trust_domain(document),
            addr=flags.addr or addr,
            port=port if flags.port is None else flags.port,
            behind_proxy=flags.behind_proxy,
            tls_cert=path("tls_cert"),
            tls_key=path("tls_key"),
            crt=flags.crt or crt,
            key=flags.key or key,
            key_passphrase=path("key_passphrase"),
            generate=None,
            keep_ca_in=flags.dev_dir,
            tls_from_ca=document.boolean("tls_from_ca", default=False),
            collateral=path("collateral"),
            state=path("state"),
            audit=path("audit"),
            nonce_key=path("nonce_key"),
            crl_lifetime=DEFAULT_CRL_LIFETIME if lifetime is None else timedelta(seconds=lifetime),
            metrics=_metrics(document),
            workers=workers if flags.workers is None else flags.workers,
            proxies=read_addresses(document.table("proxy")),
            durable=_durable(document),
        )
        document.end()
        policy.require_something(document)
        if (config.tls_cert is None) != (config.tls_key is None):
            raise document.error("tls_cert", "tls_cert and tls_key belong together")
        if config.tls_cert is not None and config.tls_from_ca:
            raise document.error("tls_from_ca", "expected either this or tls_cert and tls_key")
        dev = flags.dev or flags.dev_dir is not None
        own = config.tls_from_ca or (dev and config.tls_cert is None and not flags.behind_proxy)
        return dataclasses.replace(config, generate=_generated(config, flags), tls_from_ca=own)

    @property
    def tls(self) -> bool:
        """Whether Steward serves TLS itself."""
        return self.tls_cert is not None or self.tls_from_ca

    def listen(self) -> str:
        """The address to bind. Raises ConfigError for plain HTTP that others could reach."""
        outside = (self.tls and self.generate is None) or self.behind_proxy
        addr = self.addr or ("::" if outside else "127.0.0.1")
        if not self.tls and not self.behind_proxy:
            place.require_loopback(self.source, addr)
        return addr

    def origin_at(self, port: int) -> str:
        """The origin, or what it is on loopback when nobody said so. Raises ConfigError."""
        if self.origin is not None:
            return self.origin
        return place.local_origin(self.source, self.listen(), port, tls=self.tls)


def load_issuer(config: Config, at: datetime) -> Issuer:
    """The CA of the configuration, from its files or generated. Raises MalformedError, NotFoundError, UntrustedError."""
    if config.generate is not None and config.keep_ca_in is not None:
        return _kept(config.keep_ca_in, config.generate, at)
    if config.generate is not None:
        return ca.development(config.generate, at)
    if config.crt is None or config.key is None:
        raise toml.ConfigError(
            f"{config.source}: no CA: give key and crt, or --host NAME or --dev to generate one for development"
        )
    chain = certificates_from_pem(read_file(config.crt, MAX_PEM), str(config.crt))
    return Issuer.of(private_key(config.key, chain[0], config.key_passphrase), chain)


def private_key(source: str, certificate: Certificate | None, passphrase_file: Path | None = None) -> keys.PrivateKey:
    """The key of `certificate` in a file or a security module. Raises MalformedError, NotFoundError, UnavailableError."""
    if not source.startswith(SCHEME):
        return keys.from_pem(read_private(Path(source)), source, passphrase(passphrase_file))
    if certificate is None:
        return open_key(source)
    key = open_key(source, keys.public_from_spki(certificate.spki, "CA certificate"))
    if not _is_pair(key):
        raise MalformedError(
            f"CA: the key does not belong to the certificate {certificate.common_name or 'without a name'}"
        )
    return key


def _is_pair(key: keys.PrivateKey) -> bool:
    """Whether what it signs verifies: a module does not show the private key, so there is nothing else to compare."""
    challenge = secrets.token_bytes(32)
    algorithm = ec.ECDSA(keys.hash_of(key))
    try:
        key.public_key().verify(key.sign(challenge, algorithm), challenge, algorithm)
    except InvalidSignature:
        return False
    return True


def passphrase(file: Path | None = None) -> bytes | None:
    """The CA key's passphrase, from wherever the operator put it; None when nobody did. Never from a command line."""
    if file is None and (named := os.environ.get(f"{PASSPHRASE}_FILE")):
        file = Path(named)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if file is None and PASSPHRASE not in os.environ and credentials:
        held = Path(credentials) / CREDENTIAL
        file = held if held.exists() else None
    if file is None:
        return os.environ.get(PASSPHRASE, "").encode() or None
    found = read_private(file).rstrip(b"\r\n")
    if not found:  # whoever names a file means keys that are encrypted
        raise MalformedError(f"{file}: expected a passphrase, found nothing")
    return found


def load_tls(config: Config, issuer: Issuer, at: datetime, former: Sequence[Issuer] = ()) -> ServerTls | None:
    """Who Steward is to its clients, or None for plain HTTP. Those whom `former` certified may still renew."""
    clients = _clients((issuer, *former))
    if config.tls_from_ca:
        return _own_tls(config, issuer, at, clients)
    if config.tls_cert is None or config.tls_key is None:
        return None
    return ServerTls(
        cert_chain_pem=read_file(config.tls_cert, MAX_PEM),
        key_pem=read_private(config.tls_key),
        client_ca_pem=clients,
    )


def assemble(
    config: Config,
    issuer: Issuer,
    origin: str,
    ledger: Ledger,
    collateral: Callable[[], Endorsements] = Endorsements,
    former: Sequence[Issuer] = (),
) -> Authority:
    """The parts put together for one origin. Raises ConfigError, NotFoundError."""
    domain = config.trust_domain or (urlsplit(origin).hostname or "")
    if not _TRUST_DOMAIN.fullmatch(domain):
        raise toml.ConfigError(f"{config.source}: trust_domain: {domain!r} cannot be one, name it")
    if config.nonce_key is None and (config.key or "").startswith(SCHEME):
        raise toml.ConfigError(
            f"{config.source}: nonce_key: missing; none can be derived from a key in a security module"
        )
    nonce_key = issuer.derive("nonce") if config.nonce_key is None else read_private(config.nonce_key)
    if len(nonce_key) < MIN_NONCE_KEY:
        raise toml.ConfigError(f"{config.nonce_key}: expected {MIN_NONCE_KEY} bytes or more, found {len(nonce_key)}")
    older = () if config.nonce_key is not None else tuple(each.derive("nonce") for each in former)
    crl_url = f"{origin}/crl/{issuer.key_id}" if issuer.may_sign_crls else None
    return Authority(
        origin=origin,
        policy=config.policy,
        issuer=issuer,
        profile=Profile(trust_domain=domain, crl_url=crl_url),
        former=tuple(former),
        nonces=Nonces(origin=origin, key=nonce_key, older=older, lifetime=config.policy.maximum_age or NONCE_LIFETIME),
        random=secrets.token_bytes,
        collateral=collateral,
        revocations=ledger.revocations,
    )


def read_anchor(path: Path) -> bytes:
    """The DER of one certificate in a file, PEM or DER, or of one public key in PEM. Raises MalformedError, NotFoundError."""
    data = read_file(path, MAX_PEM)
    if b"-----BEGIN " not in data:
        try:
            return Certificate.parse(data, str(path)).der
        except MalformedError as error:
            raise MalformedError(
                f"{path}: expected a certificate in DER or PEM, or a public key in PEM: {error}"
            ) from error
    data = data[data.index(b"-----BEGIN ") :]  # people's tools write above it what it is
    if b"-----BEGIN PUBLIC KEY-----" in data:
        return pem_blocks(data, "PUBLIC KEY", str(path), limit=1)[0]
    found = certificates_from_pem(data, str(path))
    if len(found) != 1:
        raise MalformedError(f"{path}: expected one certificate, found {len(found)}")
    return found[0].der


def _kept(directory: Path, name: str, at: datetime) -> Issuer:
    """The development CA of a directory, made there once: `ca.pem` and `ca.key`, unencrypted, mode 0600."""
    crt, key = directory / "ca.pem", directory / "ca.key"
    if crt.exists():
        chain = certificates_from_pem(read_file(crt, MAX_PEM), str(crt))
        return Issuer.of(keys.from_pem(read_private(key), str(key)), chain)
    private = keys.generate("P-256")
    issuer = ca.development(name, at, private)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(key, keys.to_pem(private))
        crt.write_bytes(issuer.certificate.to_pem())
    except OSError as error:
        raise NotFoundError(f"{directory}: {error.strerror or 'cannot be written'}") from error
    return issuer


def _own_tls(config: Config, issuer: Issuer, at: datetime, clients: bytes) -> ServerTls:
    """A fresh key and a certificate for the names that clients may use; it attests nothing."""
    host = urlsplit(config.origin or "").hostname
    names = [name for name in (host, config.addr) if name and not _unspecified(name)]
    if all(is_loopback(name) for name in names):
        names += ["localhost", "127.0.0.1", "::1"]
    key = keys.generate("P-256")
    _, end = validity(
        at, lifetime=ca.DEVELOPMENT_LIFETIME, issuer=issuer.certificate, expires=issuer.certificate.not_after
    )
    shape = server_certificate(keys.spki(key), names, secrets.token_bytes(SERIAL_BYTES), at, end)
    chain = (issuer.sign(shape), *issuer.chain)
    pem = b"".join(one.to_pem() for one in chain)
    return ServerTls(cert_chain_pem=pem, key_pem=keys.to_pem(key), client_ca_pem=clients)


def _clients(issuers: Sequence[Issuer]) -> bytes:
    """Whose clients may show who they are: those that were certified here, to be certified again."""
    return b"".join({each.der: each.to_pem() for issuer in issuers for each in issuer.ends}.values())


def _generated(config: Config, flags: Flags) -> str | None:
    """The common name of the CA to generate, by the originals' rule: key and crt win, half of them is an error."""
    if config.key is not None and config.crt is not None:
        return None
    if config.key is not None or config.crt is not None:
        missing = "crt" if config.crt is None else "key"
        raise toml.ConfigError(f"{config.source}: {missing}: missing; key and crt belong together")
    return flags.host or (DEVELOPMENT_NAME if flags.dev or flags.dev_dir is not None else None)


def _simulated(document: Table, base: Path) -> tuple[TrustAnchor, ...]:
    """The roots that `[unsafe.simulated]` names, by the family of vendors they imitate."""
    table = document.table("unsafe").table("simulated")
    return tuple(simulated_anchor(family, data) for family in FAMILIES for data in _anchor_files(table, family, base))


def _named(document: Table, base: Path) -> tuple[TrustAnchor, ...]:
    """The platform keys that `[anchors] arm` names, for Arm has no root; nobody else's may be added."""
    table = document.table("anchors")
    found = tuple(operator_anchor("arm", data) for data in _anchor_files(table, "arm", base))
    table.end()
    return found


def _anchor_files(table: Table, key: str, base: Path) -> Iterator[bytes]:
    for name in table.strings(key):
        try:
            yield read_anchor(base / name)
        except EnarxError as error:
            raise table.error(key, str(error)) from error


def _memory(document: Table, collateral: Path | None, state: Path | None) -> Highest:
    """Where the highest numbers are kept: with the documents, or with the state where those cannot be written."""
    places = [each for each in (collateral, state) if each is not None]
    for directory in places:
        if not directory.exists() or os.access(directory, os.W_OK | os.X_OK):
            return Highest(directory / HIGHEST)
    if places:
        raise document.error(
            "collateral",
            f"{places[0]} cannot be written, and the highest numbers of documents are kept there; add state",
        )
    return Highest()


def _require_no_empty(document: Table) -> None:
    """An empty table says nothing, and whoever wrote it meant something. Raises ConfigError."""
    for key, value in document.values.items():
        if value == {}:
            raise document.error(key, "an empty table; expected something in it, or no table")
        if isinstance(value, dict):
            path = f"{document.path}.{key}".removeprefix(".")
            _require_no_empty(Table(source=document.source, text=document.text, path=path, values=value))


def _trust_domain(document: Table) -> str | None:
    domain = document.string("trust_domain", None)
    if domain is not None and not _TRUST_DOMAIN.fullmatch(domain):
        raise document.error("trust_domain", f"expected lower-case letters, digits, dots and hyphens, found {domain!r}")
    return domain


def _unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _metrics(document: Table) -> MetricsFor:
    said = document.string("metrics", "loopback")
    for word in get_args(MetricsFor):
        if said == word:
            return word  # type: ignore[no-any-return]  # one of the literals
    raise document.error("metrics", f"expected loopback, everybody or nobody, found {said!r}")


def _durable(document: Table) -> Durable:
    said = document.string("durable", "state")
    for word in get_args(Durable):
        if said == word:
            return word  # type: ignore[no-any-return]  # one of the literals
    raise document.error("durable", f"expected nothing, state or all, found {said!r}")
