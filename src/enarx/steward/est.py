"""EST as bodies, without HTTP: what RFC 7030, RFC 8951 and draft-ietf-lamps-attestation-freshness put into them.

certs-only PKCS#7 and base64 (RFC 7030, 4.1.3); the attributes a request should have (4.5.2); nonce requests and answers
(draft, EST binding: `len` from 8 to 64 bytes, `reqTypeInfo.type` the OID of the attestation statement to come). Requests
may be in base64, as RFC 8951 says, with any white space; DER is not taken, for clients that send it are none of EST's.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from enarx import der
from enarx.attested.claims import RUNTIME_CLAIMS_OID
from enarx.errors import MalformedError
from enarx.pki.certificate import Certificate
from enarx.pki.csr import EXTENSION_REQUEST
from enarx.steward.nonce import LONGEST, SHORTEST, SIZE
from enarx.steward.request import ATTESTATION_ATTRIBUTE

EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
CURVES: Final = {"P-256": "1.2.840.10045.3.1.7", "P-384": "1.3.132.0.34"}
SIGNATURES: Final = {"P-256": "1.2.840.10045.4.3.2", "P-384": "1.2.840.10045.4.3.3"}

_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,38})){1,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NonceRequest:
    """How long a nonce shall be, and for which type of statement, if that was said."""

    length: int = SIZE
    statement: str | None = None

    @classmethod
    def parse(cls, body: bytes, known: Iterable[str]) -> "NonceRequest":
        """`known` are the OIDs of statements that we judge. Raises MalformedError."""
        try:
            members = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise MalformedError("nonce: expected a JSON object") from error
        if not isinstance(members, dict):
            raise MalformedError("nonce: expected a JSON object")
        length = members.get("len", SIZE)
        if not isinstance(length, int) or isinstance(length, bool) or not SHORTEST <= length <= LONGEST:
            raise MalformedError(f"nonce: len: expected {SHORTEST} to {LONGEST}, found {str(length)[:20]}")
        return cls(length=length, statement=_statement(members.get("reqTypeInfo"), frozenset(known)))


def nonce_answer(value: bytes, expiry: int, request: NonceRequest) -> dict[str, object]:
    """The members of the answer; `expiry` is in seconds."""
    answer: dict[str, object] = {
        "nonce": base64.urlsafe_b64encode(value).rstrip(b"=").decode(),
        "expiry": expiry,
    }
    return answer if request.statement is None else {**answer, "respTypeInfo": {"type": request.statement}}


def attributes(evidence: Iterable[str], curves: Sequence[str]) -> bytes:
    """CsrAttrs (DER): the attestation attribute or evidence as extensions, runtime claims, and the types of key."""
    extensions = b"".join(der.oid(each) for each in (*sorted(evidence), RUNTIME_CLAIMS_OID))
    keys = b"".join(der.oid(CURVES[curve]) for curve in curves)
    return der.wrap(
        0x30,
        der.oid(ATTESTATION_ATTRIBUTE)
        + _attribute(EXTENSION_REQUEST, extensions)
        + _attribute(EC_PUBLIC_KEY, keys)
        + b"".join(der.oid(SIGNATURES[curve]) for curve in curves),
    )


def certs_only(certificates: Iterable[Certificate]) -> bytes:
    """PKCS#7 that carries certificates and nothing else, in base64."""
    loaded = [x509.load_der_x509_certificate(certificate.der) for certificate in certificates]
    return armour(pkcs7.serialize_certificates(loaded, Encoding.DER))


def armour(data: bytes) -> bytes:
    return base64.encodebytes(data)


def unarmour(body: bytes, what: str) -> bytes:
    """Raises MalformedError."""
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise MalformedError(f"{what}: expected a certification request in base64") from error


def _attribute(oid: str, values: bytes) -> bytes:
    return der.wrap(0x30, der.oid(oid) + der.wrap(0x31, values))


def _statement(info: object, known: frozenset[str]) -> str | None:
    if info is None:
        return None
    oid = info.get("type") if isinstance(info, dict) else None
    if not isinstance(oid, str) or not _OID.fullmatch(oid):
        raise MalformedError('nonce: reqTypeInfo: expected {"type": "<OID>"}')
    if oid not in known:
        raise MalformedError(f"nonce: reqTypeInfo: statements of type {oid[:80]} are not judged here")
    return oid
