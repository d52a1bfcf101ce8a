"""A configuration put to work: the service around an authority, ready for whichever server runs it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.types import ASGIApp

from enarx.errors import UnavailableError
from enarx.steward.authority import Authority
from enarx.steward.collateral import Directory, Document
from enarx.steward.config import Config, assemble
from enarx.steward.http import Service, build
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import Counted, Metrics
from enarx.tee.model import Endorsements
from enarx.web.audit import AuditLog
from enarx.web.log import Log

SOON: Final = timedelta(days=7)
REST: Final = 0.05  # seconds in which a new document may be overlooked


def prepare(config: Config, issuer: Issuer, metrics: Metrics | None = None) -> tuple[ASGIApp, Callable[[int], None]]:
    """The application, and what to call with the port once it listens: only then its origin may be known.

    What can be wrong is found here, before anybody is answered. Raises ConfigError, NotFoundError, MalformedError.
    """
    ledger = Ledger(config.state)
    ledger.revocations()
    directory = None if config.collateral is None else Directory(config.collateral, rest=REST)
    collateral = Endorsements if directory is None else directory.current
    assemble(config, issuer, config.origin_at(config.port), ledger, collateral)
    counters = metrics or Metrics()
    made: list[Authority] = []

    def documents() -> Sequence[Document]:
        return () if directory is None else directory.reading().documents

    def authority() -> Authority:
        if not made:
            raise UnavailableError("Steward is starting")
        return made[0]

    def ready(port: int) -> None:
        made.append(assemble(config, issuer, config.origin_at(port), ledger, collateral))
        if counters.worker == 0:
            _warn(issuer, documents(), datetime.now(UTC))

    service = Service(
        authority=authority,
        ledger=ledger,
        audit=AuditLog.open(config.audit),
        crl_lifetime=config.crl_lifetime,
        metrics=counters,
        metrics_for=config.metrics,
        collateral=documents,
    )
    return Counted(build(service), counters), ready


def _warn(issuer: Issuer, documents: Sequence[Document], at: datetime) -> None:
    """Tell of what has ended, or will soon: nobody looks at the metrics of a Steward that was just set up."""
    log = Log("steward")
    if issuer.certificate.not_after - at < SOON:
        log.warning("issuer ends soon", at=issuer.certificate.not_after.isoformat())
    for document in documents:
        if document.end is not None and document.end <= at:
            log.warning("document has ended", kind=document.kind, title=document.title, source=document.source)
