"""A configuration put to work: the service around an authority, and the server around that."""

from collections.abc import Callable

from enarx.errors import UnavailableError
from enarx.steward.audit import AuditLog
from enarx.steward.authority import Authority
from enarx.steward.config import Config, assemble
from enarx.steward.http import Service, build
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.web.server import serve
from enarx.web.tls import ServerTls


def run(config: Config, issuer: Issuer, *, tls: ServerTls | None, on_ready: Callable[[int], None]) -> None:
    """Serve until told to stop. What can be wrong is found before anybody is answered."""
    ledger = Ledger(config.state)
    ledger.revocations()
    made: list[Authority] = []

    def authority() -> Authority:
        if not made:
            raise UnavailableError("Steward is starting")
        return made[0]

    def ready(port: int) -> None:
        made.append(assemble(config, issuer, config.origin_at(port), ledger))
        on_ready(port)

    host = config.listen()
    if config.port:
        assemble(config, issuer, config.origin_at(config.port), ledger)
    service = Service(
        authority=authority, ledger=ledger, audit=AuditLog.open(config.audit), crl_lifetime=config.crl_lifetime
    )
    serve(build(service), host=host, port=config.port, tls=tls, on_ready=ready)
