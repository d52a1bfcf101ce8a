"""Who a certificate is for, and for what: subject alternative names and extended key usage (RFC 5280, 4.2.1.6, 4.2.1.12).

Only what the house reads: URIs, DNS names, and the purposes of TLS. Other kinds of names are passed
over; a name that is no ASCII text is malformed. Nothing is matched or decided here.
"""

from dataclasses import dataclass
from typing import Final

from enarx import der
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate

SUBJECT_ALT_NAME: Final = "2.5.29.17"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"

SERVER_AUTH: Final = bytes.fromhex("06082b06010505070301")  # DER of 1.3.6.1.5.5.7.3.1
CLIENT_AUTH: Final = bytes.fromhex("06082b06010505070302")

MAX_NAMES: Final = 64
MAX_PURPOSES: Final = 16

_DNS: Final = 0x82  # GeneralName: [2] IA5String
_URI: Final = 0x86  # [6] IA5String


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeNames:
    """The names of a certificate's subject, in its order."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


def alternative_names(certificate: Certificate) -> AlternativeNames:
    """The subject alternative names; empty without the extension. Raises MalformedError."""
    extension = certificate.extensions.get(SUBJECT_ALT_NAME)
    if extension is None:
        return AlternativeNames()
    names = der.sequence_of(extension.value, "subjectAltName", limit=MAX_NAMES)
    return AlternativeNames(
        uris=tuple(_text(name, _URI) for name in names if name[0] == _URI),
        dns=tuple(_text(name, _DNS) for name in names if name[0] == _DNS),
    )


def purposes(certificate: Certificate) -> frozenset[bytes] | None:
    """The extended key usages as DER OIDs, or None when the extension is absent. Raises MalformedError."""
    extension = certificate.extensions.get(EXTENDED_KEY_USAGE)
    if extension is None:
        return None
    return frozenset(der.sequence_of(extension.value, "extendedKeyUsage", limit=MAX_PURPOSES))


def _text(name: bytes, tag: int) -> str:
    try:
        return der.content(name, tag, "subjectAltName").decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedError("subjectAltName: a name is not ASCII") from error
