"""A configuration put to work: the service around an authority, ready for whichever server runs it."""

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp

from enarx.errors import UnavailableError
from enarx.steward.authority import Authority
from enarx.steward.collateral import Directory
from enarx.steward.config import Config, assemble
from enarx.steward.http import Service, build
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import Counted, Metrics
from enarx.tee.model import Endorsements
from enarx.web.audit import AuditLog

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
    made: list[Authority] = []

    def authority() -> Authority:
        if not made:
            raise UnavailableError("Steward is starting")
        return made[0]

    def ready(port: int) -> None:
        made.append(assemble(config, issuer, config.origin_at(port), ledger, collateral))

    metrics = metrics or Metrics()
    service = Service(
        authority=authority,
        ledger=ledger,
        audit=AuditLog.open(config.audit),
        crl_lifetime=config.crl_lifetime,
        metrics=metrics,
        metrics_for=config.metrics,
        collateral=tuple if directory is None else lambda: directory.reading().documents,
    )
    return Counted(build(service), metrics), ready
