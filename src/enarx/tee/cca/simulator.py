"""An Arm CCA platform in software: a platform key, a realm with its key, and tokens joined as the hardware joins them.

It writes what the parser reads; only the trust anchor, the platform's key, says `simulated`. It proves nothing.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx import cbor, der
from enarx.pki import cose
from enarx.tee.cca import report as token
from enarx.tee.model import Evidence, TrustAnchor

PLATFORM_PROFILE: Final = "tag:arm.com,2023:cca_platform#1.0.0"
REALM_PROFILE: Final = "tag:arm.com,2023:realm#1.0.0"
IMPLEMENTATION: Final = sha256(b"simulated CCA platform").digest()
FIRMWARE: Final = sha256(b"simulated RMM").digest()
SECURED: Final = 0x3003


@dataclass(frozen=True, kw_only=True)
class CcaMachine:
    """One realm on a simulated platform."""

    platform_key: ec.EllipticCurvePrivateKey
    realm_key: ec.EllipticCurvePrivateKey
    initial: bytes  # RIM, 32

    @classmethod
    def create(cls, *, initial: bytes) -> Self:
        """A platform of its own."""
        platform_key, realm_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        return cls(platform_key=platform_key, realm_key=realm_key, initial=initial)

    @property
    def spki(self) -> bytes:
        """The platform's public key, which an operator would name (DER SubjectPublicKeyInfo)."""
        return self.platform_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def anchor(self) -> TrustAnchor:
        pin = sha256(self.spki).digest()
        return TrustAnchor(family="arm", sha256=pin, certificate=self.spki, simulated=True, origin="simulator")

    def token(
        self,
        challenge: bytes,
        *,
        platform: dict[int | str, cbor.Value] | None = None,
        realm: dict[int | str, cbor.Value] | None = None,
        tag: int = 399,
        raw_key: bool = False,
    ) -> bytes:
        """A token for 64 bytes; `platform` and `realm` replace claims before they are signed."""
        key = self._point() if raw_key else self._cose_key()
        realm_claims: dict[int | str, cbor.Value] = {
            token.PROFILE: REALM_PROFILE,
            token.CHALLENGE: challenge,
            token.PERSONALIZATION: bytes(64),
            token.REALM_HASH: "sha-256",
            token.REALM_KEY: key,
            token.REALM_KEY_HASH: "sha-256",
            token.INITIAL: self.initial,
            token.EXTENSIBLE: tuple(bytes(32) for _ in range(4)),
        }
        platform_claims: dict[int | str, cbor.Value] = {
            token.PROFILE: PLATFORM_PROFILE,
            token.CHALLENGE: sha256(key).digest(),
            token.IMPLEMENTATION: IMPLEMENTATION,
            token.INSTANCE: b"\x01" + sha256(self.spki).digest(),
            token.CONFIGURATION: b"\xcf",
            token.LIFECYCLE: SECURED,
            token.PLATFORM_HASH: "sha-256",
            token.COMPONENTS: ({1: "RMM", 2: FIRMWARE, 5: bytes(32), 6: "sha-256"},),
        }
        signed = {
            token.PLATFORM: cose.sign(self.platform_key, cbor.encode({**platform_claims, **(platform or {})})),
            token.REALM: cose.sign(self.realm_key, cbor.encode({**realm_claims, **(realm or {})})),
        }
        members: dict[int | str, cbor.Value] = {
            label: (263, part) if tag == 907 else part for label, part in signed.items()
        }
        return cbor.encode(cbor.Tagged(tag=tag, value=members))

    def evidence(self, report_data: bytes) -> Evidence:
        """What a Keep puts into its request."""
        return Evidence(oid=token.OID, body=der.wrap(0x04, self.token(report_data)))

    def _point(self) -> bytes:
        return self.realm_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def _cose_key(self) -> bytes:
        point = self._point()
        return cbor.encode({1: 2, -1: 2, -2: point[1:49], -3: point[49:]})
