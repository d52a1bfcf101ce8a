"""Who is this TLS peer: the chain it showed, and what that chain says."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class TlsConnection(Protocol):
    """What we need of an `ssl.SSLSocket` or `ssl.SSLObject`."""

    def getpeercert(self, binary_form: bool = False) -> object: ...


def peer_chain(connection: object) -> tuple[bytes, ...]:
    """The certificates the peer of a TLS connection showed (DER, leaf first); empty without one.

    Python gives the whole chain publicly from 3.13 on; before, the same function stands on the object beneath.
    """
    if not isinstance(connection, TlsConnection):
        return ()
    leaf = connection.getpeercert(binary_form=True)
    if not isinstance(leaf, bytes):
        return ()
    beneath = connection if hasattr(connection, "get_unverified_chain") else getattr(connection, "_sslobj", None)
    shown = getattr(beneath, "get_unverified_chain", lambda: None)() or ()
    chain = tuple(item if isinstance(item, bytes) else _der_of(item) for item in shown)
    return chain if chain[:1] == (leaf,) else (leaf, *chain)


def _der_of(certificate: object) -> bytes:
    """DER of an `_ssl.Certificate`; 2 is its ENCODING_DER."""
    found = getattr(certificate, "public_bytes")(2)  # noqa: B009 - a type without a public name
    return found if isinstance(found, bytes) else b""
