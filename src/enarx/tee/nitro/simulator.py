"""AWS in software: a root, the chain beneath it, and a Nitro Secure Module that signs documents.

It writes what the parser reads and uses AWS's names; only the trust anchor differs, and that says `simulated`. Time is
an argument. It proves nothing to anybody.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from enarx import cbor, der
from enarx.pki import cose
from enarx.tee.model import Evidence, TrustAnchor
from enarx.tee.nitro.report import DIGEST, OID, PCR_SIZE

ROOT: Final = "aws.nitro-enclaves"
ZONE: Final = "0123456789abcdef.eu-nowhere-1.aws.nitro-enclaves"
MODULE: Final = "i-0123456789abcdef0-enc0123456789abcdef"
LEAF_LIFETIME: Final = timedelta(hours=3)
LIFETIME: Final = timedelta(days=20)


@dataclass(frozen=True, kw_only=True)
class NitroMachine:
    """An enclave on a simulated machine."""

    root: x509.Certificate
    zone: x509.Certificate
    signer: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    image: bytes  # PCR0, 48

    @classmethod
    def create(cls, at: datetime, *, image: bytes) -> Self:
        """A vendor and an enclave of its own, made at `at`."""
        root_key, zone_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
        begin = at.astimezone(UTC) - timedelta(seconds=10)
        root = _issue(ROOT, root_key.public_key(), ROOT, root_key, begin, timedelta(days=3650), ca=True)
        zone = _issue(ZONE, zone_key.public_key(), ROOT, root_key, begin, LIFETIME, ca=True)
        signer = _issue(MODULE, key.public_key(), ZONE, zone_key, begin, LEAF_LIFETIME, ca=False)
        return cls(root=root, zone=zone, signer=signer, key=key, image=image)

    @property
    def anchor(self) -> TrustAnchor:
        data = self.root.public_bytes(Encoding.DER)
        return TrustAnchor(
            family="aws", sha256=sha256(data).digest(), certificate=data, simulated=True, origin="simulator"
        )

    def document(self, user_data: bytes | None, at: datetime, **members: cbor.Value) -> bytes:
        """A signed document; `members` replace or add to its payload."""
        pcrs: dict[int | str, cbor.Value] = {
            0: self.image,
            1: b"\1" * PCR_SIZE,
            2: b"\2" * PCR_SIZE,
            8: bytes(PCR_SIZE),
        }
        payload: dict[int | str, cbor.Value] = {
            "module_id": MODULE,
            "digest": DIGEST,
            "timestamp": int(at.timestamp() * 1000),
            "pcrs": pcrs,
            "certificate": self.signer.public_bytes(Encoding.DER),
            "cabundle": tuple(c.public_bytes(Encoding.DER) for c in (self.root, self.zone)),
            "public_key": None,
            "user_data": user_data,
            "nonce": None,
        }
        payload.update(members)
        return cose.sign(self.key, cbor.encode(payload), tagged=False)

    def evidence(self, report_data: bytes, at: datetime) -> Evidence:
        """What a Keep puts into its request."""
        return Evidence(oid=OID, body=der.wrap(0x04, self.document(report_data, at)))


def _issue(
    subject: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    lifetime: timedelta,
    *,
    ca: bool,
) -> x509.Certificate:
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .sign(key, hashes.SHA384())
    )
