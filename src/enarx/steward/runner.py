"""A configuration put to work: the service around an authority, ready for whichever server runs it.

What was loaded may be exchanged while it runs. A request is answered by the service that was in force when it came.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from starlette.types import ASGIApp

from enarx.errors import UnavailableError
from enarx.steward.collateral import Directory, Document
from enarx.steward.config import assemble
from enarx.steward.durable import Flushing
from enarx.steward.http import Service, build
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import Counted, Metrics
from enarx.steward.reload import Loaded
from enarx.tee.model import Endorsements
from enarx.web.audit import AuditLog
from enarx.web.log import Log
from enarx.web.tls import Served

SOON: Final = timedelta(days=7)
REST: Final = 0.05  # seconds in which a new document may be overlooked


class Running:
    """A Steward at work: the application, and what its server shows.

    What can be wrong is found here, before anybody is answered. Raises ConfigError, NotFoundError, MalformedError.
    """

    def __init__(self, loaded: Loaded, metrics: Metrics | None = None) -> None:
        self._counters = metrics or Metrics()
        self._ledger = Ledger(loaded.config.state, durable=loaded.config.durable != "nothing")
        self._ledger.revocations()
        self._port: int | None = None
        kept = loaded.config.state is not None, loaded.config.audit is not None
        wanted = {"nothing": False, "state": kept[0], "all": any(kept)}[loaded.config.durable]
        self._flushing = (
            Flushing(self._flush) if wanted else None
        )  # one, whatever is exchanged: nobody's flush is missed
        self._service = self._made(loaded, loaded.config.port)
        self._configured = loaded
        self.served = None if loaded.tls is None else Served(loaded.tls)
        self.app: ASGIApp = Counted(build(self.service), self._counters)

    def service(self) -> Service:
        if self._port is None:
            raise UnavailableError("Steward is starting")
        return self._service

    def ready(self, port: int) -> None:
        """To be called once it listens: only then its origin may be known."""
        self._service = self._made(self._configured, port)
        self._port = port
        if self._counters.worker == 0:
            _warn(self._configured.issuer, self._service.collateral(), datetime.now(UTC))

    def exchange(self, loaded: Loaded) -> None:
        """Answer the next request by this. Raises as when it was made, and then nothing changes."""
        if self._port is None:
            raise UnavailableError("Steward is starting")
        before, service = self._service.authority(), self._made(loaded, self._port)
        made = service.authority()
        nonces = made.nonces.after(before.nonces, datetime.now(UTC))
        if self.served is not None and loaded.tls is not None and loaded.tls is not self._configured.tls:
            self.served.exchange(loaded.tls)
        authority = replace(made, nonces=nonces)
        self._service, self._configured = replace(service, authority=lambda: authority), loaded

    def _flush(self) -> None:
        self._ledger.flush()
        if self._configured.config.durable == "all":
            self._service.audit.flush()

    def _made(self, loaded: Loaded, port: int) -> Service:
        config = loaded.config
        directory = None if config.collateral is None else Directory(config.collateral, rest=REST)
        collateral = Endorsements if directory is None else directory.current
        origin = config.origin_at(port)
        authority = assemble(config, loaded.issuer, origin, self._ledger, collateral, loaded.former)
        return Service(
            authority=lambda: authority,
            ledger=self._ledger,
            audit=AuditLog.open(config.audit),
            crl_lifetime=config.crl_lifetime,
            metrics=self._counters,
            metrics_for=config.metrics,
            proxies=config.proxies,
            durable=self._flushing,
            collateral=partial(_documents, directory),
        )


def _documents(directory: Directory | None) -> Sequence[Document]:
    return () if directory is None else directory.reading().documents


def _warn(issuer: Issuer, documents: Sequence[Document], at: datetime) -> None:
    """Tell of what has ended, or will soon: nobody looks at the metrics of a Steward that was just set up."""
    log = Log("steward")
    if issuer.certificate.not_after - at < SOON:
        log.warning("issuer ends soon", at=issuer.certificate.not_after.isoformat())
    for document in documents:
        if document.end is not None and document.end <= at:
            log.warning("document has ended", kind=document.kind, title=document.title, source=document.source)
