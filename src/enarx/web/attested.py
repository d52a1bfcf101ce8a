r"""A TLS connection to a peer that one knows: connect, then judge what it showed (flow.md, 7).

    with connect("localhost", 8443, anchors=anchors, expectation=Expectation()) as (connection, peer):
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")

The connection that is judged is the one that is then used. TLS itself checks no certificate here: the
judgement is stricter, and says which gate refused. The peer's name in DNS plays no part, its digest does.
"""

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from enarx.attested.relying import Expectation, Peer, judge_connection
from enarx.errors import UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.web.tls import ClientIdentity, alert_text, bare_client_context


@contextmanager
def connect(
    host: str,
    port: int,
    *,
    anchors: Sequence[Certificate],
    expectation: Expectation,
    identity: ClientIdentity | None = None,
    at: datetime | None = None,
    timeout: float = 10.0,
) -> Iterator[tuple[ssl.SSLSocket, Peer]]:
    """A connection to an attested peer, and who it is. `timeout` in seconds bounds connect and every wait.

    `anchors` are the CAs of trusted Stewards, `identity` is ours, `at` is the moment of judgement (default: now).
    Raises UnavailableError when nobody answers TLS there, else the errors of `judge_peer`.
    """
    where = f"{host}:{port}"
    with _open(host, port, bare_client_context(identity), timeout, where) as connection:
        yield connection, judge_connection(connection, anchors, expectation, at or datetime.now(UTC))


def _open(host: str, port: int, context: ssl.SSLContext, timeout: float, where: str) -> ssl.SSLSocket:
    try:
        wire = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise UnavailableError(f"{where}: {error.strerror or error}") from error
    try:
        return context.wrap_socket(wire, server_hostname=host)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a name that can be in no SNI
        wire.close()
        if (alert := alert_text(error)) is not None:
            raise UntrustedError(f"{where}: the server refused our certificate: {alert}") from error
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UnavailableError(f"{where}: no TLS there: {reason}") from error
