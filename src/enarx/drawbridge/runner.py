"""A configuration put to work: issuers, Stewards, storage and the application around them, ready for any server."""

import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from starlette.applications import Starlette
from starlette.types import ASGIApp, Lifespan

from enarx.drawbridge import development
from enarx.drawbridge.auth.development import DevelopmentIssuer, load_key
from enarx.drawbridge.auth.fetch import Fetcher
from enarx.drawbridge.auth.mtls import CrlSource, Keeps, crl_fetch
from enarx.drawbridge.auth.oidc import Authenticator, IntrospectedIssuer, Issuers, JwtIssuer, Rules, UserinfoIssuer
from enarx.drawbridge.config import Config, IssuerConfig, StewardConfig
from enarx.drawbridge.http import build
from enarx.drawbridge.limits import MINUTE, Buckets
from enarx.drawbridge.metrics import Counted, Metrics
from enarx.drawbridge.quotas import Quotas
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.store import FilesystemStore, Store, open_store
from enarx.drawbridge.visit import Service
from enarx.errors import UnavailableError
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.web.audit import AuditLog
from enarx.web.files import read_file, read_private
from enarx.web.log import Log
from enarx.web.tls import ServerTls

ORIGIN_FILE: Final = "origin"  # in the state directory of --dev: where the server that uses it is
NEAR_STEP: Final = 0.05  # seconds; a refusal reads a few small files
FAR_STEP: Final = 0.5  # seconds; it asks a service for a few small objects, one after the other
REFRESH: Final = 30.0  # seconds between two looks at whether a revocation list is due

_LOG: Final = Log("drawbridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a server needs. `ready` is to be called with the port before anybody is told of it."""

    app: ASGIApp
    tls: ServerTls | None
    ready: Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all processes of one server count together; to be made before any of them is forked."""

    metrics: Metrics
    requests: Buckets

    @classmethod
    def by(cls, config: Config) -> Self:
        limits = config.limits
        requests = Buckets("requests", limits.requests_per_minute / limits.servers, MINUTE)
        return cls(metrics=Metrics(config.workers), requests=requests)


def prepare(
    config: Config, dev_dir: Path | None, dev_user: str, at: datetime, shared: Shared, opened: Store | None = None
) -> Prepared:
    """What can be wrong is found here, before anybody is answered.

    `opened` takes the place of the storage that the configuration names: who is going to fork must not open that, for
    the threads that speak with a bucket do not live on in the child. Raises ConfigError, NotFoundError,
    MalformedError, DeniedError, UnavailableError.
    """
    directory = None if dev_dir is None else development.state_directory(dev_dir)
    anchors_pem = b"\n".join(read_file(steward.ca) for steward in config.stewards)
    anchors = certificates_from_pem(anchors_pem, "the CAs of trusted Stewards") if config.stewards else ()
    keeps = Keeps(anchors=anchors, sources=[_source(steward) for steward in config.stewards])
    store = config.store or str((directory or Path()) / "store")
    made: list[tuple[Issuers, str, DevelopmentIssuer | None]] = []

    def known() -> tuple[Issuers, str, DevelopmentIssuer | None]:
        if not made:
            raise UnavailableError("Drawbridge is starting")
        return made[0]

    def dev() -> DevelopmentIssuer:
        found = known()[2]
        if found is None:
            raise UnavailableError("there is no development issuer here")
        return found

    def ready(port: int) -> None:
        origin = config.origin_at(port)
        issuer = None if directory is None else _development(directory, origin, dev_user)
        made.append((_issuers(config.issuers, origin, issuer), origin, issuer))
        if issuer is not None and directory is not None:
            _say_loudly(issuer, directory)

    limits = config.limits
    opened = opened or open_store(store)
    near = isinstance(opened, FilesystemStore)
    service = Service(
        registry=Registry(opened),
        near=near,
        refusal_step=NEAR_STEP if near else FAR_STEP,
        issuers=lambda: known()[0],
        origin=lambda: known()[1],
        keeps=keeps,
        proxies=config.proxies,
        metrics=shared.metrics,
        metrics_for=config.metrics,
        steward=config.steward,
        leave=config.leave,
        audit=AuditLog.open(config.audit),
        requests=shared.requests,
        uploads=Quotas(opened, limits.upload_bytes_per_day),
        upload_bytes=limits.upload_bytes,
        development=None if directory is None else dev,
    )
    _LOG.info("prepared", store=store, issuers=len(config.issuers), stewards=len(anchors))
    app = Counted(build(service, lifespan=_refreshing(keeps)), shared.metrics)
    return Prepared(app=app, tls=_tls(config, directory, anchors, at), ready=ready)


def _tls(config: Config, directory: Path | None, anchors: Sequence[Certificate], at: datetime) -> ServerTls | None:
    """Who we are to clients, and whose certificates we ask for; None for plain HTTP."""
    client_ca = b"".join(anchor.to_pem() for anchor in anchors) or None
    if config.tls_cert is not None and config.tls_key is not None:
        chain, key = read_file(config.tls_cert), read_private(config.tls_key)
        return ServerTls(cert_chain_pem=chain, key_pem=key, client_ca_pem=client_ca)
    if directory is None or config.behind_proxy:
        return None
    own = development.server_tls(directory, at)
    return ServerTls(cert_chain_pem=own.cert_chain_pem, key_pem=own.key_pem, client_ca_pem=client_ca)


def _source(steward: StewardConfig) -> CrlSource:
    if steward.crl is None:
        return CrlSource(str(steward.ca), None)
    fetcher = Fetcher(None if steward.tls_ca is None else read_file(steward.tls_ca))
    return CrlSource(steward.url or str(steward.ca), crl_fetch(steward.crl, fetcher))


def _issuers(configured: Sequence[IssuerConfig], origin: str, own: DevelopmentIssuer | None) -> Issuers:
    found = [(issuer.tokens, _issuer(issuer, origin)) for issuer in configured]
    jwt = [issuer for tokens, issuer in found if tokens == "jwt"]
    if own is not None:
        jwt.append(own.authenticator())
    return Issuers.of(jwt, next((issuer for tokens, issuer in found if tokens != "jwt"), None))


def _issuer(config: IssuerConfig, origin: str) -> Authenticator:
    fetcher = Fetcher(None if config.ca is None else read_file(config.ca))
    audience = config.audience or (f"{origin}/" if config.tokens == "jwt" else None)
    rules = Rules(
        name=config.name,
        url=config.url,
        audience=audience,
        algorithms=config.algorithms,
        scoped=config.scoped,
        machine=config.machine,
        typ=config.typ,
    )
    if config.tokens == "userinfo":
        return UserinfoIssuer(rules, fetcher, time.monotonic)
    if config.tokens == "introspection" and config.client_id is not None and config.client_secret is not None:
        secret = read_private(config.client_secret).decode().strip()
        return IntrospectedIssuer(rules, fetcher, time.monotonic, client_id=config.client_id, client_secret=secret)
    return JwtIssuer.discovered(rules, fetcher)


def _development(directory: Path, origin: str, user: str) -> DevelopmentIssuer:
    (directory / ORIGIN_FILE).write_text(origin)
    return DevelopmentIssuer(
        origin=origin, audience=f"{origin}/", key=load_key(directory), directory=directory, default_user=user
    )


def _say_loudly(issuer: DevelopmentIssuer, directory: Path) -> None:
    _LOG.warning(
        "DEVELOPMENT ISSUER: whoever can start a program as this user of this machine is anybody here",
        issuer=issuer.url,
        user=issuer.default_user,
        uid=os.getuid(),
        ca=str(directory / "ca.pem"),
    )


def _refreshing(keeps: Keeps) -> Lifespan[Starlette]:
    """Revocation lists are looked after in a thread of their own, so that requests find them fresh."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ended = threading.Event()

        def run() -> None:
            while not ended.is_set():
                keeps.refresh(datetime.now(UTC))
                ended.wait(REFRESH)

        thread = threading.Thread(target=run, name="revocation", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    return lifespan
