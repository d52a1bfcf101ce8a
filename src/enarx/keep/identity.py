"""Who a Keep is: keys born in it, evidence that they were, and the certificate that a Steward gave for that.

  1  two keys are made here: one for TLS, of the type of the key that endorses the report, and one that registries seal
     to; neither has a way out of this process, and no encoding of them touches a disk
  2  the runtime claims say what they are for: which Steward, which workload, which sealing key
  3  the report covers H("enarx-keep-v1" ‖ 0 ‖ SPKI ‖ claims) (flow.md, 2), so both are bound to the hardware
  4  the request carries evidence and claims, and the certificate has to come back for exactly this key

What a certificate is worth is for relying parties to say. Where the user named the Stewards it accepts, `certify`
compares, so that a host that points to another is noticed here already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Self

from enarx.attested.claims import RUNTIME_CLAIMS_OID, RuntimeClaims, report_data
from enarx.attested.result import AttestationResult
from enarx.attested.sealing import SealingPrivateKey
from enarx.errors import UntrustedError
from enarx.keep.backends.api import Attester
from enarx.pki import csr, keys
from enarx.pki.certificate import Certificate, Extension, describe_name
from enarx.pki.chain import order_path, verify_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The keys of one Keep. They live as long as it does, across renewals."""

    tls: keys.PrivateKey = field(repr=False)
    sealing: SealingPrivateKey = field(repr=False)

    @classmethod
    def generate(cls, curve: keys.Curve) -> Self:
        return cls(tls=keys.generate(curve), sealing=SealingPrivateKey.generate())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Keys with a certificate for them: `chain` is DER, leaf first."""

    secrets: Secrets
    chain: tuple[bytes, ...]

    @property
    def leaf(self) -> Certificate:
        return Certificate.parse(self.chain[0])

    @property
    def chain_pem(self) -> bytes:
        return b"".join(Certificate.parse(item).to_pem() for item in self.chain)

    @property
    def ends(self) -> datetime:
        """When the first certificate of the chain ends."""
        return min(Certificate.parse(item).not_after for item in self.chain)

    def facts(self) -> dict[str, str]:
        """What the certificate says, for people; no secret is known to it."""
        leaf = self.leaf
        result = AttestationResult.from_certificate(leaf)
        found = {
            "certificate": sha256(leaf.der).hexdigest(),
            "issuer": describe_name(leaf.issuer),
            "until": leaf.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if result is None:
            return found
        return {
            **found,
            "technology": result.technology,
            "simulated": str(result.simulated).lower(),
            "measurement": result.measurement.hex(),
            "tcb": result.tcb_status,
        }


def request(attester: Attester, secrets: Secrets, claims: RuntimeClaims) -> bytes:
    """Steps 2 to 4: the certification request (DER), with evidence over key and claims."""
    encoded = claims.encode()
    data = report_data(attester.technology.binding_hash, keys.spki(secrets.tls), encoded)
    evidence = attester.evidence(data)
    return csr.build(
        secrets.tls,
        [
            Extension(oid=evidence.oid, critical=False, value=evidence.body),
            Extension(oid=RUNTIME_CLAIMS_OID, critical=False, value=encoded),
        ],
    )


def with_keys(claims: RuntimeClaims, secrets: Secrets) -> RuntimeClaims:
    """The claims with the sealing key in them."""
    return replace(claims, sealing=secrets.sealing.public)


def judged_at(chain: Sequence[bytes]) -> datetime:
    """When the Steward says that it judged: in its result, else (the originals' have none) where the certificate begins."""
    leaf = Certificate.parse(chain[0], "certificate")
    result = AttestationResult.from_certificate(leaf)
    return leaf.not_before if result is None else result.appraised_at


def require_issued_by(chain: Sequence[bytes], anchors: Sequence[Certificate], at: datetime) -> None:
    """Raises UntrustedError unless the chain (DER, leaf first) leads to one of the Stewards the user accepts."""
    leaf, *above = (Certificate.parse(item, "certificate") for item in chain)
    for anchor in anchors:
        try:
            path = order_path(leaf, above, anchor)
        except UntrustedError:
            continue  # another's, perhaps; if it is nobody's, the error below says so
        verify_chain(path, at, what="certificate", understood=_UNDERSTOOD)
        return
    raise UntrustedError(
        f"the certificate was issued by {describe_name(leaf.issuer)}, which is none of the Stewards that you accept"
    )


_UNDERSTOOD = frozenset({"2.5.29.17", "2.5.29.37"})  # alternative names and purposes: relying parties read them
