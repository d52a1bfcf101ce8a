"""The CA key, and the only calls that sign with it: certificates and the revocation list (RFC 5280, 4 and 5).

An `Issuer` is a key on P-256 or P-384 and the certificate that belongs to it, which must be a CA's. It may be
self-signed (development) or an intermediate below an offline root; nothing that is checked depends on which.
Where keys are stored and who may read them is `enarx.steward.config`'s business; nothing here touches a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from enarx import der
from enarx.errors import MalformedError
from enarx.pki import keys
from enarx.pki.certificate import AUTHORITY_KEY_ID, Certificate, Extension
from enarx.pki.chain import CRL_SIGN, ECDSA_SHA256, ECDSA_SHA384, KEY_CERT_SIGN, verify_issued
from enarx.steward.profile import VARIABLE, Shape

ROOT_LIFETIME: Final = timedelta(days=3650)
INTERMEDIATE_LIFETIME: Final = timedelta(days=30)
DEVELOPMENT_LIFETIME: Final = timedelta(days=365)  # as the originals' generated CA
MAX_NAME: Final = 64  # characters (RFC 5280, ub-common-name)

_BACKDATE: Final = timedelta(minutes=5)  # of a CA certificate; it is made minutes before its first leaf
_ALGORITHMS: Final[dict[keys.Curve, bytes]] = {"P-256": ECDSA_SHA256, "P-384": ECDSA_SHA384}
_SIGNS: Final = frozenset({0})  # digitalSignature alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One entry of the list: which certificate, since when."""

    serial: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A signing CA. `chain` begins with its own certificate and ends with the highest one known."""

    chain: tuple[Certificate, ...]
    _key: keys.PrivateKey = field(repr=False)
    _name: x509.Name = field(repr=False)
    _key_id: x509.AuthorityKeyIdentifier = field(repr=False)
    _own_key_id: Extension = field(repr=False)  # the same, written
    _algorithm: bytes = field(repr=False)
    _ecdsa: ec.ECDSA = field(repr=False)

    @classmethod
    def of(cls, key: keys.PrivateKey, chain: Sequence[Certificate]) -> Self:
        """Raises MalformedError unless `chain[0]` is a CA certificate for this key and each is signed by the next."""
        if not chain:
            raise MalformedError("CA: no certificate")
        own = chain[0]
        if own.spki != keys.spki(key):
            raise MalformedError(
                f"CA: the key does not belong to the certificate {own.common_name or 'without a name'}"
            )
        if not own.is_ca or (own.key_usage is not None and KEY_CERT_SIGN not in own.key_usage):
            raise MalformedError("CA: the certificate may not sign certificates (basicConstraints CA, keyCertSign)")
        loaded = x509.load_der_x509_certificate(own.der)
        if loaded.subject.public_bytes() != own.subject:
            raise MalformedError("CA: the subject name of the certificate is not in a form that can be issued under")
        for child, parent in pairwise(chain):
            verify_issued(child, parent, "CA")
        key_id = _authority_key_id(loaded)
        return cls(
            chain=tuple(chain),
            _key=key,
            _name=loaded.subject,
            _key_id=key_id,
            _own_key_id=Extension(oid=AUTHORITY_KEY_ID, critical=False, value=key_id.public_bytes()),
            _algorithm=_ALGORITHMS[keys.curve_of(key)],
            _ecdsa=ec.ECDSA(keys.hash_of(key)),
        )

    @property
    def certificate(self) -> Certificate:
        return self.chain[0]

    @property
    def ends(self) -> tuple[Certificate, Certificate]:
        """Its own certificate and the highest one known."""
        return self.chain[0], self.chain[-1]

    @property
    def key_id(self) -> str:
        """The key's identifier, as issued certificates name it: which of a Steward's issuers this is."""
        return (self._key_id.key_identifier or b"").hex()

    @property
    def self_signed(self) -> bool:
        return self.certificate.self_issued

    @property
    def may_sign_crls(self) -> bool:
        return self.certificate.key_usage is None or CRL_SIGN in self.certificate.key_usage

    def sign(self, shape: x509.CertificateBuilder) -> Certificate:
        """Issue a certificate of that shape."""
        signed = (
            shape.issuer_name(self._name)
            .add_extension(self._key_id, critical=False)
            .sign(self._key, keys.hash_of(self._key))
        )
        return Certificate.parse(signed.public_bytes(Encoding.DER))

    def issue(self, shape: Shape) -> Certificate:
        """Issue a certificate of that shape, written out here: version 3, then the fields of RFC 5280, 4.1."""
        algorithm, own = self._algorithm, self.certificate
        extensions = (*shape.extensions, self._own_key_id)
        tbs = der.wrap(
            0x30,
            b"\xa0\x03\x02\x01\x02"
            + der.integer(shape.serial)
            + algorithm
            + own.subject
            + der.wrap(0x30, _time(shape.begin) + _time(shape.end))
            + shape.subject
            + shape.spki
            + der.wrap(0xA3, der.wrap(0x30, b"".join(map(_extension, extensions)))),
        )
        signature = self._key.sign(tbs, self._ecdsa)
        return Certificate(  # what `Certificate.parse` would read, as a test says
            der=der.wrap(0x30, tbs + algorithm + der.wrap(0x03, b"\0" + signature)),
            tbs=tbs,
            serial=shape.serial,
            issuer=own.subject,
            subject=shape.subject,
            not_before=shape.begin,
            not_after=shape.end,
            spki=shape.spki,
            algorithm=algorithm,
            signature=signature,
            extensions=MappingProxyType({extension.oid: extension for extension in extensions}),
            is_ca=False,
            path_length=None,
            key_usage=_SIGNS,
        )

    def sign_crl(self, revoked: Iterable[Revoked], *, number: int, begin: datetime, end: datetime) -> bytes:
        """The revocation list, DER. Raises MalformedError when the CA certificate does not allow signing one."""
        if not self.may_sign_crls:
            raise MalformedError("CA: the certificate's key usage does not allow signing CRLs")
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(begin.astimezone(UTC).replace(microsecond=0))
            .next_update(end.astimezone(UTC).replace(microsecond=0))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._key_id, critical=False)
        )
        for entry in revoked:
            since = entry.since.astimezone(UTC).replace(microsecond=0)
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(since).build()
            )
        return builder.sign(self._key, keys.hash_of(self._key)).public_bytes(Encoding.DER)

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes for one purpose, the same for whoever holds the same CA key (RFC 5869)."""
        secret = self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"enarx steward\0" + purpose.encode()).derive(secret)


def _extension(extension: Extension) -> bytes:
    """Written anew only where it differs from one certificate to the next."""
    return _write(extension) if extension.oid in VARIABLE else _constant(extension)


@lru_cache(maxsize=64)
def _constant(extension: Extension) -> bytes:
    return _write(extension)


def _write(extension: Extension) -> bytes:
    """RFC 5280, 4.1; `critical` is left out where it is false, as DER has it."""
    critical = b"\x01\x01\xff" if extension.critical else b""
    return der.wrap(0x30, _oid(extension.oid) + critical + der.wrap(0x04, extension.value))


@lru_cache(maxsize=64)
def _oid(dotted: str) -> bytes:
    return der.oid(dotted)


def _time(moment: datetime) -> bytes:
    """A moment in whole seconds: with two digits of the year until 2049, then with four (RFC 5280, 4.1.2.5)."""
    return der.utc_time(moment) if 1950 <= moment.astimezone(UTC).year < 2050 else der.generalized_time(moment)


def self_signed(name: str, key: keys.PrivateKey, at: datetime, *, lifetime: timedelta, path_length: int) -> Certificate:
    """A CA certificate that signs itself: the development CA (path length 0), or a root above intermediates (1)."""
    subject = _common_name(name)
    shape = _ca_shape(subject, key, at, lifetime, path_length).issuer_name(subject)
    return Certificate.parse(shape.sign(key, keys.hash_of(key)).public_bytes(Encoding.DER))


def intermediate(
    name: str,
    key: keys.PrivateKey,
    at: datetime,
    *,
    root: Issuer,
    lifetime: timedelta = INTERMEDIATE_LIFETIME,
) -> Certificate:
    """An online CA certificate below `root`, never living longer than it; its path length is 0."""
    end = min(at + lifetime, root.certificate.not_after)
    shape = _ca_shape(_common_name(name), key, at, end - at, 0)
    return root.sign(shape)


def development(name: str, at: datetime, key: keys.PrivateKey | None = None) -> Issuer:
    """A self-signed CA in memory, as the originals' `--host` makes, with what RFC 5280 asks for."""
    key = key or keys.generate("P-256")
    certificate = self_signed(name, key, at, lifetime=DEVELOPMENT_LIFETIME, path_length=0)
    return Issuer.of(key, (certificate,))


def _ca_shape(
    subject: x509.Name, key: keys.PrivateKey, at: datetime, lifetime: timedelta, path_length: int
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .not_valid_before((at - _BACKDATE).astimezone(UTC).replace(microsecond=0))
        .not_valid_after((at + lifetime).astimezone(UTC).replace(microsecond=0))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise MalformedError(f"CA: a name has 1 to {MAX_NAME} printable characters, found {len(name)}: {name[:80]!r}")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _authority_key_id(own: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = own.public_key()
        assert isinstance(key, keys.PublicKey)  # noqa: S101 - `of` compared it with the CA key
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
