"""What a Keep needs of a Steward: a nonce, and a certificate for its key (flow.md, 1, steps 3 and 6).

What comes back is not trusted for having come: the leaf has to carry the key of the request and be signed by the
certificate beside it. Whether that one is a Steward anybody believes is for relying parties to say.
"""

import base64
import binascii
import json
from typing import Final

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.chain import verify_issued
from enarx.pki.csr import CertificationRequest
from enarx.web.client import Client

MAX_ANSWER: Final = 256 * 1024  # bytes; a path of two certificates has about 3,000
MAX_PATH: Final = 4  # certificates


def nonce(client: Client) -> bytes:
    """A fresh nonce of this Steward. Raises UnavailableError, UntrustedError, MalformedError."""
    answer = client.get("/.well-known/est/nonce", limit=MAX_ANSWER)
    try:
        text = json.loads(answer.body)["nonce"]
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise MalformedError(f"{client.host}: the answer carries no nonce") from error
    if not value:
        raise MalformedError(f"{client.host}: the nonce is empty")
    return value


def attest(client: Client, request: bytes) -> tuple[bytes, ...]:
    """The certificate chain (DER, leaf first) for a certification request (DER).

    Raises what the Steward refused with, in its words; UntrustedError when the leaf is not for our key.
    """
    key = CertificationRequest.parse(request).spki
    answer = client.post("/", request, headers={"Content-Type": "application/pkcs10"}, limit=MAX_ANSWER)
    path = der.sequence_of(answer.body, f"{client.host}: certificate path", limit=MAX_PATH)
    if len(path) < 2:
        raise MalformedError(f"{client.host}: expected a path of issuer and leaf, found {len(path)} certificates")
    issuer, leaf = Certificate.parse(path[-2]), Certificate.parse(path[-1])
    if leaf.spki != key:
        raise UntrustedError(f"{client.host}: the certificate is for another key than ours")
    verify_issued(leaf, issuer, f"{client.host}: certificate")
    return tuple(reversed(path))
