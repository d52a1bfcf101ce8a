"""A certification request taken apart: who asks, with what evidence, claiming what (protocol.md, 1.3; flow.md, 2 and 3).

What is allowed in a request is what the originals allow, and ours beside it: extensions that carry evidence, the
runtime claims, and the IETF attestation attribute (draft-ietf-lamps-csr-attestation) as an envelope for the same
evidence. Everything else is *malformed*: names, usages and passwords are not for the requester to choose. None of it
may be critical. Nothing is verified here but that the requester holds the key, which `CertificationRequest.parse` does.
"""

from collections.abc import Collection
from typing import Final, Self

from msgspec import Struct

from enarx import der
from enarx.attested.claims import RUNTIME_CLAIMS_OID, RuntimeClaims
from enarx.errors import MalformedError
from enarx.pki.csr import CertificationRequest
from enarx.tee.model import Binding, Evidence

ATTESTATION_ATTRIBUTE: Final = "1.2.840.113549.1.9.16.2.59"  # id-aa-attestation

MAX_EVIDENCE: Final = 4  # a Keep has one; the originals allow several
MAX_BUNDLE: Final = 64  # requests; within the body limit of 2 MiB real ones would be about 150


@der.sequence
class _Statement:
    type: der.ObjectIdentifier
    statement: der.TLV


class Request(Struct, frozen=True, kw_only=True):
    """One request. `claims_der` is the DER that the report has to bind, exactly as it came."""

    csr: CertificationRequest
    evidence: tuple[Evidence, ...]
    claims_der: bytes | None
    claims: RuntimeClaims | None

    @classmethod
    def parse(cls, data: bytes, known: Collection[str]) -> Self:
        """`known` are the OIDs of evidence. Raises MalformedError."""
        csr = CertificationRequest.parse(data)
        evidence = []
        claims_der = None
        for extension in csr.extensions.values():
            if extension.critical:
                raise MalformedError(f"certification request: extension {extension.oid} must not be critical")
            if extension.oid == RUNTIME_CLAIMS_OID:
                claims_der = extension.value
            elif extension.oid in known:
                evidence.append(Evidence(oid=extension.oid, body=extension.value))
            else:
                raise MalformedError(
                    f"certification request: extension {extension.oid} is neither evidence nor runtime claims"
                )
        for oid, values in csr.attributes:
            if oid != ATTESTATION_ATTRIBUTE:
                raise MalformedError(f"certification request: attribute {oid} is not allowed")
            evidence += _enveloped(values, known)
        if len(evidence) > MAX_EVIDENCE:
            raise MalformedError(f"certification request: expected at most {MAX_EVIDENCE} pieces of evidence")
        claims = None if claims_der is None else RuntimeClaims.parse(claims_der)
        return cls(csr=csr, evidence=tuple(evidence), claims_der=claims_der, claims=claims)

    @property
    def binding(self) -> Binding:
        return Binding.of_key(self.csr.spki, self.claims_der)


def parse_bundle(data: bytes) -> tuple[bytes, ...]:
    """The requests of a `SEQUENCE OF CertificationRequest`, not looked into. Raises MalformedError."""
    return der.sequence_of(data, "bundle", limit=MAX_BUNDLE)


def _enveloped(values: bytes, known: Collection[str]) -> list[Evidence]:
    """The evidence in the attribute's one AttestationBundle. Its certificates are not needed: ours carry their own."""
    what = "attestation attribute"
    bundles = der.sequence_of(der.wrap(0x30, der.content(values, 0x31, what)), what, limit=1)
    if not bundles:
        raise MalformedError(f"{what}: expected one value, found none")
    members = der.sequence_of(bundles[0], what, limit=2)  # attestations, certs OPTIONAL
    if not members:
        raise MalformedError(f"{what}: expected attestations, found none")
    found = []
    for element in der.sequence_of(members[0], what, limit=MAX_EVIDENCE):
        statement = der.decode(_Statement, element, what)
        oid = statement.type.dotted_string
        if oid not in known:
            raise MalformedError(f"{what}: statement of type {oid} is not evidence that is understood")
        found.append(Evidence(oid=oid, body=der.raw(statement.statement)))
    return found
