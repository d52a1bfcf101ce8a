"""TLS contexts for both sides: version 1.2 or newer, forward secrecy, keys that never touch a disk.

OpenSSL reads certificates and keys from files only, so they are put into an anonymous memory file
that is emptied at once. A CA that is given is an anchor even if it is not self-signed: whoever
names an intermediate trusts what it issued and nothing above it. Sessions are not resumed: every
connection shows its whole certificate chain again.
"""

import os
import ssl
from dataclasses import dataclass, field
from typing import Final

from enarx.errors import MalformedError
from enarx.pki import keys

CIPHERS_12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # TLS 1.2; those of 1.3 are all good


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """Who we are, and by which CAs (PEM) clients may say who they are; None asks no client for a certificate."""

    cert_chain_pem: bytes
    key_pem: bytes = field(repr=False)
    client_ca_pem: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientIdentity:
    """A certificate chain (PEM, leaf first) and its private key, which stays in memory."""

    chain_pem: bytes
    key: keys.PrivateKey = field(repr=False)


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """A server's context. Raises MalformedError when certificate, key or CAs can not be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    load_identity(context, tls.cert_chain_pem, tls.key_pem)
    if tls.client_ca_pem is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        trust(context, tls.client_ca_pem, "client CA")
    return context


class Served:
    """What a server shows its clients, and whom it believes: it may be exchanged while the server serves.

    A connection keeps what its handshake saw, and the next one sees what is new.
    """

    def __init__(self, tls: ServerTls) -> None:
        """Raises MalformedError, as `server_context`."""
        self.context = server_context(tls)

    def exchange(self, tls: ServerTls) -> None:
        """Raises MalformedError for what can not be used, and then nothing changes."""
        self.context = server_context(tls)


def client_context(ca_pem: bytes | None, identity: ClientIdentity | None = None) -> ssl.SSLContext:
    """A client's context that trusts `ca_pem`, or what the system trusts when it is None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if ca_pem is None:
        context.load_default_certs()
    else:
        trust(context, ca_pem, "server CA")
    if identity is not None:
        load_identity(context, identity.chain_pem, keys.to_pem(identity.key))
    return context


def bare_client_context(identity: ClientIdentity | None = None) -> ssl.SSLContext:
    """A client's context that checks no certificate, for callers that judge the peer's chain themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # `enarx.web.attested` judges the chain, and nobody else may call this
    if identity is not None:
        load_identity(context, identity.chain_pem, keys.to_pem(identity.key))
    return context


def alert_text(error: BaseException | None) -> str | None:
    """Why the other side refused us: the alert in or beneath `error`, such as `unknown ca`; None without one."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return (error.reason or "").partition("ALERT_")[2].replace("_", " ").lower() or "it did not say why"
        error = error.__cause__ or error.__context__
    return None


def trust(context: ssl.SSLContext, ca_pem: bytes, what: str) -> None:
    """Make the CAs in `ca_pem` anchors of `context`. Raises MalformedError; no CA at all is an error, too."""
    before = context.cert_store_stats()["x509"]
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise MalformedError(f"{what}: expected certificates in PEM") from error
    if context.cert_store_stats()["x509"] == before:
        raise MalformedError(f"{what}: expected at least one certificate in PEM, found none")


def load_identity(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Give `context` a certificate chain and its key through memory. Raises MalformedError without key material."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(key_pem + b"\n" + chain_pem)
        context.load_cert_chain(
            f"/proc/self/fd/{descriptor}", password=""
        )  # an encrypted key is refused, not asked for
    except ssl.SSLError as error:
        raise MalformedError(f"TLS identity: not a PEM chain with its key ({error.reason or 'unreadable'})") from None
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_12)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
