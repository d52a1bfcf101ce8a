"""What Steward writes by hand is, byte for byte, what the library's builder writes."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx import der
from enarx.attested.result import ATTESTATION_RESULT_OID, AttestationResult
from enarx.pki import keys
from enarx.pki.certificate import Certificate
from enarx.pki.chain import verify_issued
from enarx.steward import issuer
from enarx.steward.profile import Profile
from tests.values import replace

NOW = datetime(2026, 1, 31, 12, 30, 5, tzinfo=UTC)
RESULT = AttestationResult(
    technology="snp",
    simulated=False,
    debug=False,
    measurement=bytes(range(48)),
    tcb_status="UpToDate",
    appraised_at=NOW,
    policy=bytes(32),
)
CURVES: tuple[keys.Curve, ...] = ("P-256", "P-384")


def cases() -> Iterator[tuple[keys.Curve, keys.Curve, AttestationResult, tuple[str, ...], str | None, datetime]]:
    """Every kind of CA, key, subject, list of names, with a place of the CRL and without, and ends in both centuries."""
    for ca in CURVES:
        for curve in CURVES:
            yield ca, curve, RESULT, (), None, NOW + timedelta(hours=1)
            yield (
                ca,
                curve,
                replace(RESULT, simulated=True),
                ("a.example", "b.example", "a.example"),
                "https://s/crl",
                NOW,
            )
    yield "P-256", "P-256", replace(RESULT, technology="nil", measurement=b""), ("x" * 60 + ".example",) * 3, None, NOW
    names = tuple(f"{number:03}.a-rather-long-name.example" for number in range(40))
    yield "P-256", "P-384", RESULT, names, "https://steward.example/crl", datetime(2050, 1, 1, tzinfo=UTC)
    yield "P-256", "P-256", RESULT, (), None, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("serial", [bytes(16), b"\xff" * 16, bytes(range(16))])
def test_a_certificate_has_the_bytes_that_the_builder_gives(serial: bytes) -> None:
    """Whatever the CA, the key, the subject, the names and the dates: what is signed is what the library would sign."""
    for ca_curve, curve, result, names, crl_url, end in cases():
        ca, key = issuer.development("a CA", NOW, keys.generate(ca_curve)), keys.generate(curve).public_key()
        profile = Profile(trust_domain="example.org", crl_url=crl_url)
        expected = built(ca, key, profile, result, names, serial, end)
        for spki in (keys.spki(key), compressed(key)):
            assert keys.public_from_spki(spki) == key
            shape = profile.certificate(
                key=key, spki=spki, result=result, dns_names=names, serial=serial, begin=NOW, end=end
            )
            found = ca.issue(shape)
            compare(found, expected, ca)


def compressed(key: keys.PublicKey) -> bytes:
    """The same key in a SubjectPublicKeyInfo that has one coordinate only."""
    algorithm = der.sequence_of(keys.spki(key), "key", limit=2)[0]
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return der.wrap(0x30, algorithm + der.wrap(0x03, b"\0" + point))


def compare(found: Certificate, expected: Certificate, ca: issuer.Issuer) -> None:
    """What is signed, who signed it, and that the value is what anybody would read from the bytes."""
    assert found.tbs == expected.tbs
    assert found == Certificate.parse(found.der)
    verify_issued(found, ca.certificate, "issued")


def built(
    ca: issuer.Issuer,
    key: keys.PublicKey,
    profile: Profile,
    result: AttestationResult,
    names: tuple[str, ...],
    serial: bytes,
    end: datetime,
) -> Certificate:
    """The same with the library's builder; the signature is by another key on the CA's curve."""
    own = x509.load_der_x509_certificate(ca.certificate.der)
    word = "UNATTESTED" if result.technology == "nil" else "SIMULATED" if result.simulated else None
    subject = x509.Name([] if word is None else [x509.NameAttribute(NameOID.ORGANIZATION_NAME, word)])
    usage = x509.KeyUsage(
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
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    general: list[x509.GeneralName] = [x509.UniformResourceIdentifier(profile.spiffe_id(result))]
    general += [x509.DNSName(name) for name in dict.fromkeys(names)]
    builder = (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(serial, "big") | 1 << 120)
        .subject_name(subject)
        .issuer_name(own.subject)
        .not_valid_before(NOW)
        .not_valid_after(end)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.SubjectAlternativeName(general), critical=word is None)
    )
    if profile.crl_url is not None:
        place = x509.UniformResourceIdentifier(profile.crl_url)
        point = x509.DistributionPoint(full_name=[place], relative_name=None, reasons=None, crl_issuer=None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(ATTESTATION_RESULT_OID), result.encode())
    known = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    other = keys.generate(keys.curve_of(ca.certificate.public_key()))  # type: ignore[arg-type]  # a CA's is on a curve
    signed = (
        builder.add_extension(value, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known), critical=False)
        .sign(other, hashes.SHA256() if keys.curve_of(other) == "P-256" else hashes.SHA384())
    )
    return Certificate.parse(signed.public_bytes(Encoding.DER))
