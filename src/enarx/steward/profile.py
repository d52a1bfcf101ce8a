"""The shape of a certificate that Steward issues; nothing else decides it (flow.md, 4; RFC 5280, 4).

  subject      empty with a critical SAN; or O=SIMULATED, or O=UNATTESTED. The request's subject is ignored.
  SAN          one URI, `spiffe://<trust domain>/workload/sha-256/<hex>`, or without a workload
               `…/keep/<technology>/<measurement>` (`…/keep/nil` for no TEE, which measures nothing); granted DNS names
  usage        digitalSignature; TLS server and client; no CA
  validity     never longer than what was granted, the issuer, or the collateral that the claims rest on
  result       the attestation result, never critical

Beside these there is `server_certificate`, for Steward's own TLS and nothing else: no client, and nothing attested.

Evidence is not copied into certificates. The originals copied one extension, the empty KVM one; it said nothing but
"not attested", which `O=UNATTESTED` and technology `nil` now say, so it is not copied either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from enarx import der
from enarx.attested.result import ATTESTATION_RESULT_OID, AttestationResult
from enarx.errors import UnavailableError
from enarx.pki import keys
from enarx.pki.certificate import SUBJECT_KEY_ID, Certificate, Extension

BACKDATE: Final = timedelta(minutes=1)  # what clocks of a Keep's peers may lag without refusing a fresh certificate
SERIAL_BYTES: Final = 16  # random; the originals' UUIDs have 122 random bits

SUBJECT_ALT_NAME: Final = "2.5.29.17"
VARIABLE: Final = frozenset(
    {SUBJECT_ALT_NAME, SUBJECT_KEY_ID, ATTESTATION_RESULT_OID}
)  # what differs from leaf to leaf

SIMULATED: Final = "SIMULATED"
UNATTESTED: Final = "UNATTESTED"


class Shape(Struct, frozen=True, kw_only=True):
    """An end entity's certificate before anybody signs it, for signatures alone. `subject` and `spki` are DER."""

    serial: int
    subject: bytes
    begin: datetime
    end: datetime
    spki: bytes
    extensions: tuple[Extension, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What all certificates of one Steward have in common. `crl_url` is None when its CA may not sign CRLs."""

    trust_domain: str
    crl_url: str | None

    def spiffe_id(self, result: AttestationResult) -> str:
        """The name of the workload, or of whatever was measured when no workload was claimed."""
        workload = None if result.claims is None else result.claims.workload
        if workload is not None:
            return f"spiffe://{self.trust_domain}/workload/{workload.algorithm}/{workload.hex}"
        measured = f"/{result.measurement.hex()}" if result.measurement else ""
        return f"spiffe://{self.trust_domain}/keep/{result.technology}{measured}"

    def certificate(
        self,
        *,
        key: keys.PublicKey,
        spki: bytes,
        result: AttestationResult,
        dns_names: Iterable[str],
        serial: bytes,
        begin: datetime,
        end: datetime,
    ) -> Shape:
        """Everything but issuer, authority key and signature, which `Issuer.issue` adds. `spki` is what `key` was read from.

        `serial` is SERIAL_BYTES of randomness; `begin` and `end` come from `validity`. Written out here and not with
        the library's builder, which takes as long as verifying the evidence does; a test compares every byte of both.
        """
        written = keys.spki_of(key, spki)
        subject = _subject(result)
        extensions = [*_ALWAYS]
        extensions.append(_plain(SUBJECT_KEY_ID, der.wrap(0x04, keys.key_id(key, written))))
        names = self._names(result, dns_names)
        extensions.append(Extension(oid=SUBJECT_ALT_NAME, critical=subject == _NO_NAME, value=names))
        if self.crl_url is not None:
            extensions.append(_distribution(self.crl_url))
        extensions.append(_plain(ATTESTATION_RESULT_OID, result.encode()))
        return Shape(
            serial=int.from_bytes(serial, "big") | 1 << 120,  # 16 octets, positive, never zero
            subject=subject,
            begin=begin,
            end=end,
            spki=written,
            extensions=tuple(extensions),
        )

    def _names(self, result: AttestationResult, dns_names: Iterable[str]) -> bytes:
        """GeneralNames: a URI is [6], a DNS name [2], and both are ASCII or not written."""
        names = der.wrap(0x86, self.spiffe_id(result).encode("ascii"))
        return der.wrap(
            0x30, names + b"".join(der.wrap(0x82, name.encode("ascii")) for name in dict.fromkeys(dns_names))
        )


def server_certificate(
    spki: bytes, names: Iterable[str], serial: bytes, at: datetime, end: datetime
) -> x509.CertificateBuilder:
    """Steward's own certificate: a TLS server of these DNS names and addresses, until `end`."""
    key = keys.public_from_spki(spki)
    return (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(serial, "big") | 1 << 120)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Steward")]))
        .not_valid_before((at - BACKDATE).astimezone(UTC).replace(microsecond=0))
        .not_valid_after(end)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in dict.fromkeys(names)]), critical=False)
    )


def validity(at: datetime, *, lifetime: timedelta, issuer: Certificate, expires: datetime) -> tuple[datetime, datetime]:
    """Begin and end, in whole seconds: bounded by the lifetime, the issuer and the collateral.

    Raises UnavailableError when the issuer has ended or not begun: that is our trouble, not the requester's.
    """
    if not issuer.not_before <= at < issuer.not_after:
        raise UnavailableError(
            f"the issuing certificate is valid from {issuer.not_before:%Y-%m-%dT%H:%M:%SZ} "
            f"to {issuer.not_after:%Y-%m-%dT%H:%M:%SZ}, and now is {at:%Y-%m-%dT%H:%M:%SZ}"
        )
    begin = max(at - BACKDATE, issuer.not_before).astimezone(UTC).replace(microsecond=0)
    end = min(at + lifetime, issuer.not_after, expires).astimezone(UTC).replace(microsecond=0)
    return begin, end


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _subject(result: AttestationResult) -> bytes:
    if result.technology == "nil":
        return _ORGANIZATION[UNATTESTED]
    return _ORGANIZATION[SIMULATED] if result.simulated else _NO_NAME


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _plain(oid: str, value: bytes) -> Extension:
    return Extension(oid=oid, critical=False, value=value)


@lru_cache(maxsize=16)
def _distribution(url: str) -> Extension:
    point = x509.DistributionPoint(
        full_name=[x509.UniformResourceIdentifier(url)], relative_name=None, reasons=None, crl_issuer=None
    )
    points = x509.CRLDistributionPoints([point])
    return _plain(points.oid.dotted_string, points.public_bytes())


_NO_NAME: Final = x509.Name([]).public_bytes()
_ORGANIZATION: Final = {
    word: x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, word)]).public_bytes()
    for word in (SIMULATED, UNATTESTED)
}
_BOTH_SIDES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_ALWAYS: Final = tuple(
    Extension(oid=value.oid.dotted_string, critical=critical, value=value.public_bytes())
    for value, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(), True),
        (_BOTH_SIDES, False),
    )
)
