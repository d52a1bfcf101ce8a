"""Certificates, lists and requests are read strictly; paths are walked with every rule."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError, UntrustedError
from enarx.pki import chain, csr, keys
from enarx.pki.certificate import Certificate, Extension, certificates_from_pem, describe_name
from enarx.pki.chain import order_path, verify_chain, verify_issued
from enarx.pki.crl import Crl, current_for, require_not_revoked
from tests.values import replace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Party:
    """A name with a key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: Certificate
    name: x509.Name


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    name: str,
    issuer: Party | None = None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    usage: bool = True,
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + DAY,
    critical: bool = False,
) -> Party:
    """A certificate of `name`, issued by `issuer` or by itself, wrong in one way if asked."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = named(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name if issuer else subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if ca:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=usage, crl_sign=usage, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )  # fmt: skip
    if critical:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), critical=True
        )
    signed = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    return Party(key=key, certificate=Certificate.parse(signed.public_bytes(Encoding.DER)), name=subject)


def make_crl(issuer: Party, *, number: int = 1, revoked: tuple[int, ...] = (), begins: datetime = NOW - DAY, ends: datetime = NOW + DAY, signer: Party | None = None) -> Crl:  # fmt: skip
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.name)
        .last_update(begins)
        .next_update(ends)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign((signer or issuer).key, hashes.SHA256())
    return Crl.parse(signed.public_bytes(Encoding.DER))


ROOT = make("root")
MIDDLE = make("middle", ROOT, path_length=0)
LEAF = make("leaf", MIDDLE, ca=False)
MUTE = make("middle", ROOT, usage=False)
GOOD = (LEAF.certificate, MIDDLE.certificate, ROOT.certificate)


def test_a_good_path_is_verified_and_says_when_it_ends() -> None:
    """Leaf, intermediate, anchor: the earliest end is returned."""
    assert verify_chain(GOOD, NOW) == NOW + DAY


def test_an_empty_path_is_refused() -> None:
    """Empty means no."""
    with pytest.raises(UntrustedError, match="no certificate"):
        verify_chain((), NOW)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((make("leaf", ROOT, ends=NOW - timedelta(hours=1)), ROOT), "leaf: expired at 2025-12-31T23:00:00Z"),
        ((make("leaf", ROOT, begins=NOW + timedelta(hours=1)), ROOT), "leaf: not valid before 2026-01-01T01:00:00Z"),
        ((LEAF, ROOT), "leaf: expected issuer CN=root, found CN=middle"),
        ((LEAF, make("middle", ROOT)), "leaf: the signature is wrong"),
        ((make("x", LEAF), LEAF, MIDDLE, ROOT), "leaf: issues certificates without being a CA"),
        ((make("leaf", MUTE, ca=False), MUTE, ROOT), "middle: its key usage does not allow signing certificates"),
        ((make("leaf", ROOT, critical=True), ROOT), "leaf: critical extension 1.2.3.4 is not understood"),
    ],
    ids=["expired", "future", "issuer", "signature", "not-a-ca", "usage", "critical"],
)
def test_each_rule_of_the_path_refuses(path: tuple[Party, ...], message: str) -> None:
    """Validity, names, CA, key usage, critical extensions, signatures: each refuses by itself."""
    with pytest.raises(UntrustedError, match=message):
        verify_chain(tuple(party.certificate for party in path), NOW)


def test_path_length_counts_the_intermediates_below() -> None:
    """A CA whose path length is 0 may not have another CA under it."""
    lower = make("lower", MIDDLE)
    leaf = make("leaf", lower, ca=False)
    path = (leaf.certificate, lower.certificate, MIDDLE.certificate, ROOT.certificate)
    with pytest.raises(UntrustedError, match="middle: path length 0 allows fewer than 1 intermediates"):
        verify_chain(path, NOW)


def test_what_was_verified_is_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shows ever new certificates fills no memory, and the last one shown is always known."""
    monkeypatch.setattr(chain, "_PROVEN", set())
    monkeypatch.setattr(chain, "_MAX_PROVEN", 3)
    root = make("root")
    for index in range(10):
        leaf = make(f"leaf {index}", root, ca=False)
        verify_issued(leaf.certificate, root.certificate, "leaf")
        assert 1 <= len(chain._PROVEN) <= 3
        assert any(leaf.certificate.signature in proof for proof in chain._PROVEN if isinstance(proof, tuple))


def test_a_path_is_found_by_names() -> None:
    """The pool's order does not matter, and strangers in it are passed over."""
    found = order_path(LEAF.certificate, [make("other").certificate, MIDDLE.certificate], ROOT.certificate)
    assert found == GOOD
    with pytest.raises(UntrustedError, match="nobody here is CN=middle"):
        order_path(LEAF.certificate, [], ROOT.certificate)


def test_one_flipped_bit_in_a_certificate_is_refused() -> None:
    """Whatever bit of the leaf is flipped, it cannot be read or does not verify."""
    data = LEAF.certificate.der
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises((MalformedError, UntrustedError)):
            verify_issued(Certificate.parse(bytes(flipped)), MIDDLE.certificate, "leaf")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    """Certificates, lists, requests and PEM: a value or MalformedError, never another error."""
    for parse in (Certificate.parse, Crl.parse, csr.CertificationRequest.parse, certificates_from_pem):
        with pytest.raises(MalformedError):
            parse(data)


@given(st.integers(0, len(LEAF.certificate.der) - 1), st.binary(max_size=3))
def test_damaged_certificates_are_a_value_or_malformed(position: int, change: bytes) -> None:
    """A certificate with bytes replaced is a value or MalformedError."""
    data = LEAF.certificate.der[:position] + change + LEAF.certificate.der[position + 1 :]
    try:
        parsed = Certificate.parse(data)
        describe_name(parsed.subject)
        parsed.public_key()
        assert parsed.der == data
    except MalformedError:
        pass


def test_the_list_that_counts_has_the_highest_number() -> None:
    """Among current lists of the issuer, the highest number wins; strangers' lists are passed over."""
    old, new = make_crl(ROOT, number=1), make_crl(ROOT, number=2, revoked=(7,))
    crl, ends = current_for(ROOT.certificate, (old, new, make_crl(MIDDLE)), NOW, "chain")
    assert (crl, ends) == (new, NOW + DAY)
    with pytest.raises(UntrustedError, match=r"middle \(serial 0x7\) is revoked by its issuer"):
        require_not_revoked(MIDDLE.certificate, crl, "chain")
    require_not_revoked(MIDDLE.certificate, old, "chain")


@pytest.mark.parametrize(
    ("crls", "message"),
    [
        ((), "no CRL of root was provided"),
        ((make_crl(MIDDLE),), "no CRL of root was provided"),
        ((make_crl(ROOT, begins=NOW - 2 * DAY, ends=NOW - DAY),), "CRL of root: ended at 2025-12-31"),
        ((make_crl(ROOT, begins=NOW + DAY, ends=NOW + 2 * DAY),), "CRL of root: begins at 2026-01-02"),
        ((make_crl(ROOT, signer=MIDDLE),), "CRL of root: the signature is wrong"),
    ],
    ids=["none", "stranger", "ended", "future", "forged"],
)
def test_a_list_that_does_not_count_is_refused(crls: tuple[Crl, ...], message: str) -> None:
    """Missing, of another issuer, ended, not begun, not signed by the issuer: refused with the reason."""
    with pytest.raises(UntrustedError, match=message):
        current_for(ROOT.certificate, crls, NOW, "chain")


@pytest.mark.parametrize("curve", ["P-256", "P-384"])
def test_a_request_is_built_and_read(curve: keys.Curve) -> None:
    """What `build` writes, `parse` reads, and possession is proven."""
    key = keys.generate(curve)
    wanted = Extension(oid="1.3.6.1.4.1.58270.1.1", critical=False, value=b"")
    request = csr.CertificationRequest.parse(csr.build(key, (wanted,)))
    assert request.spki == keys.spki(key)
    assert request.extensions == {wanted.oid: wanted}
    assert request.attributes == ()
    assert request.subject == b"\x30\x00"


def test_a_request_signed_by_another_key_is_malformed() -> None:
    """Proof of possession is part of being a request."""
    mine, other = csr.build(keys.generate("P-256")), csr.build(keys.generate("P-256"))
    point = mine.index(b"\x03\x42\x00\x04")
    swapped = mine[:point] + other[point : point + 68] + mine[point + 68 :]
    with pytest.raises(MalformedError, match="proof of possession failed"):
        csr.CertificationRequest.parse(swapped)


def test_private_keys_travel_encrypted() -> None:
    """A passphrase is needed to read back what was encrypted; the error shows neither."""
    key = keys.generate("P-384")
    written = keys.to_pem(key, b"secret words")
    assert keys.spki(keys.from_pem(written, "ca.key", b"secret words")) == keys.spki(key)
    for wrong in (None, b"other"):
        with pytest.raises(MalformedError, match=r"^ca\.key: not a PEM private key") as caught:
            keys.from_pem(written, "ca.key", wrong)
        assert "secret" not in str(caught.value)


def test_recorded_documents_are_all_read(evidence: Path) -> None:
    """Every certificate, list, chain and request of real vendors can be read, serial number 0 included."""
    for path in sorted(evidence.rglob("*.der")):
        parse = csr.CertificationRequest.parse if path.name == "csr.der" else Certificate.parse
        parse(path.read_bytes())
    for path in sorted(evidence.rglob("*.crl")):
        Crl.parse(path.read_bytes())
    for path in sorted(evidence.rglob("*chain*.pem")):
        assert certificates_from_pem(path.read_bytes())


@given(st.binary(max_size=60))
def test_any_name_can_be_told_in_a_refusal(name: bytes) -> None:
    """A certificate whose issuer nobody can read is not its issuer's: untrusted, and no matter of malformed evidence."""
    assert describe_name(name)
    child = replace(ROOT.certificate, issuer=name)
    with pytest.raises(UntrustedError, match="expected issuer"):
        verify_issued(child, ROOT.certificate, "x")
