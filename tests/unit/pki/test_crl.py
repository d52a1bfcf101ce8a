"""Revocation lists byte by byte: what each field may be, and from when until when a list counts."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from enarx import der
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Extension
from enarx.pki.chain import _PSS_SHA384 as PSS
from enarx.pki.chain import ECDSA_SHA256, ECDSA_SHA384, order_path, parse_all, verify_chain, verify_signature
from enarx.pki.crl import MAX_CRL, MAX_REVOKED, Crl, current_for, require_current
from tests.unit.pki.test_pki import DAY, MUTE, NOW, ROOT, Party, make, make_crl
from tests.values import replace

SECOND = timedelta(seconds=1)


def moment(at: datetime) -> bytes:
    return der.wrap(0x17, at.astimezone(UTC).strftime("%y%m%d%H%M%SZ").encode())


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.wrap(0x30, der.oid(oid) + (b"\x01\x01\xff" if critical else b"") + der.wrap(0x04, value))


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return extension("2.5.29.20", der.wrap(0x02, value.to_bytes(size, "big", signed=True)))


def written(
    *extensions: bytes,
    issuer: Party = ROOT,
    version: bytes = b"\x02\x01\x01",
    algorithm: bytes = ECDSA_SHA256,
    outer: bytes = ECDSA_SHA256,
    unused: int = 0,
    ends: datetime | None = NOW + DAY,
    revoked: bytes = b"",
) -> bytes:
    """A list signed by `issuer`, wrong in one way if asked."""
    until = b"" if ends is None else moment(ends)
    more = der.wrap(0xA0, der.wrap(0x30, b"".join(extensions))) if extensions else b""
    tbs = der.wrap(0x30, version + algorithm + issuer.certificate.subject + moment(NOW) + until + revoked + more)
    signature = issuer.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.wrap(0x30, tbs + outer + der.wrap(0x03, bytes((unused,)) + signature))


def entry(serial: int, *extensions: bytes) -> bytes:
    more = der.wrap(0x30, b"".join(extensions)) if extensions else b""
    return der.wrap(0x30, der.wrap(0x02, bytes((serial,))) + moment(NOW) + more)


def test_a_list_is_read() -> None:
    """Number, key id of the issuer, and serials."""
    key_id = extension("2.5.29.35", der.wrap(0x30, der.wrap(0x80, b"key id") + der.wrap(0x82, b"\x07")))
    crl = Crl.parse(written(number(5), key_id, revoked=der.wrap(0x30, entry(7) + entry(9))))
    assert (crl.number, crl.authority_key_id, crl.revoked) == (5, b"key id", frozenset({7, 9}))
    assert require_current(crl, ROOT.certificate, NOW, "CRL") == NOW + DAY
    bare = Crl.parse(written(extension("2.5.29.35", der.wrap(0x30, der.wrap(0x82, b"\x07")))))
    assert (bare.number, bare.authority_key_id, bare.revoked) == (None, None, frozenset())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (written(version=b"\x02\x01\x00"), "expected version 2, found 1"),
        (written(version=b"\x02\x01\x02"), "expected version 2, found 3"),
        (written(outer=ECDSA_SHA384), "the two signature algorithms differ"),
        (written(number(1), number(1)), "an extension stands twice"),
        (written(number(-1)), "CRL number -1 is out of range"),
        (written(number(1 << 160)), "out of range"),
        (written(extension("2.5.29.27", b"\x02\x01\x01", critical=True)), "critical extension 2.5.29.27"),
        (
            written(revoked=der.wrap(0x30, entry(7, extension("2.5.29.29", b"\x30\x00", critical=True)))),
            "critical extension 2.5.29.29",
        ),
        (written(extension("2.5.29.35", der.wrap(0x30, b"\x80\x00\x81\x00\x82\x00\x83\x00"))), "more than 3 elements"),
    ],
)
def test_a_list_that_means_something_else_is_malformed(data: bytes, message: str) -> None:
    """Other versions, delta and indirect lists, and anything that stands twice or is out of range."""
    with pytest.raises(MalformedError, match=message):
        Crl.parse(data)


def test_the_signature_has_no_unused_bits() -> None:
    """A BIT STRING whose last bit is not counted is another writing of the same signature: there is one."""
    signed = next(data for _ in range(64) if not (data := written())[-1] & 1)
    even = signed.replace(
        der.wrap(0x03, b"\0" + Crl.parse(signed).signature), der.wrap(0x03, b"\1" + Crl.parse(signed).signature)
    )
    with pytest.raises(MalformedError, match="unused bits"):
        Crl.parse(even)


@pytest.mark.parametrize("value", [0, 1, (1 << 160) - 1])
def test_a_number_has_up_to_twenty_octets(value: int) -> None:
    """RFC 5280, 5.2.3."""
    assert Crl.parse(written(number(value))).number == value


def test_a_list_is_bounded() -> None:
    """The bound is on bytes, before anything is read."""
    with pytest.raises(MalformedError, match=f"at most {MAX_CRL} bytes, found {MAX_CRL + 1}"):
        Crl.parse(bytes(MAX_CRL + 1))
    with pytest.raises(MalformedError) as refusal:
        Crl.parse(bytes(MAX_CRL))
    assert "at most" not in str(refusal.value)
    assert MAX_CRL == 2 * 1024 * 1024


def test_a_list_counts_from_its_first_second_to_before_its_last() -> None:
    """thisUpdate ≤ now < nextUpdate; a list without an end never counts."""
    crl = make_crl(ROOT, begins=NOW, ends=NOW + DAY)
    for at in (NOW, NOW + DAY - SECOND):
        assert require_current(crl, ROOT.certificate, at, "CRL") == NOW + DAY
    for at, message in ((NOW - SECOND, "begins at"), (NOW + DAY, "ended at")):
        with pytest.raises(UntrustedError, match=message):
            require_current(crl, ROOT.certificate, at, "CRL")
    with pytest.raises(UntrustedError, match="no nextUpdate"):
        require_current(Crl.parse(written(number(1), ends=None)), ROOT.certificate, NOW, "CRL")


def test_a_list_is_its_issuers_and_the_issuer_may_sign_lists() -> None:
    """The name counts as well as the key, and the key usage."""
    other = make("other")
    renamed = Party(key=ROOT.key, certificate=other.certificate, name=other.name)
    with pytest.raises(UntrustedError, match="expected issuer CN=root, found CN=other"):
        require_current(Crl.parse(written(issuer=renamed)), ROOT.certificate, NOW, "CRL")
    with pytest.raises(UntrustedError, match="does not allow signing CRLs"):
        require_current(make_crl(MUTE), MUTE.certificate, NOW, "CRL")


def test_a_certificate_is_valid_on_both_of_its_days() -> None:
    """notBefore ≤ now ≤ notAfter, to the second."""
    root = make("edge", begins=NOW, ends=NOW + DAY)
    for at in (NOW, NOW + DAY):
        assert verify_chain((root.certificate,), at) == NOW + DAY
    for at, message in ((NOW - SECOND, "not valid before"), (NOW + DAY + SECOND, "expired at")):
        with pytest.raises(UntrustedError, match=message):
            verify_chain((root.certificate,), at)


def test_path_length_one_allows_one_intermediate_and_no_more() -> None:
    """Each intermediate below is counted, the leaf is not."""
    root = make("top", path_length=1)
    first = make("first", root)
    leaf = make("leaf", first, ca=False)
    assert verify_chain((leaf.certificate, first.certificate, root.certificate), NOW) == NOW + DAY
    second = make("second", first)
    below = make("leaf", second, ca=False)
    with pytest.raises(UntrustedError, match="top: path length 1 allows fewer than 2"):
        verify_chain((below.certificate, second.certificate, first.certificate, root.certificate), NOW)


def test_a_pool_of_certificates_may_hold_rubbish() -> None:
    """What can be read is read, in order."""
    assert parse_all([b"rubbish", ROOT.certificate.der, b"", MUTE.certificate.der]) == (
        ROOT.certificate,
        MUTE.certificate,
    )


def test_a_path_has_at_most_so_many_intermediates() -> None:
    """Four, unless the caller allows fewer; the path ends at the first issuer that is the anchor."""
    chain = [ROOT]
    for name in ("one", "two", "three", "four", "five"):
        chain.append(make(name, chain[-1]))
    pool = [party.certificate for party in chain[1:]]
    for length, fits in ((4, True), (5, False)):
        leaf = make("leaf", chain[length], ca=False).certificate
        if fits:
            assert len(order_path(leaf, pool, ROOT.certificate)) == length + 2
        else:
            with pytest.raises(UntrustedError, match="no path to root"):
                order_path(leaf, pool, ROOT.certificate)
    direct = make("leaf", ROOT, ca=False).certificate
    assert order_path(direct, pool, ROOT.certificate) == (direct, ROOT.certificate)


def test_of_two_issuers_of_one_name_the_key_ids_choose() -> None:
    """Where both say which key it is, they have to agree; where one does not say, the name is enough."""
    right, wrong, silent = (make("issuer", ROOT) for _ in range(3))
    leaf = make("leaf", right, ca=False).certificate
    key_id = Extension(oid="2.5.29.14", critical=False, value=der.wrap(0x04, b"key"))
    authority = Extension(oid="2.5.29.35", critical=False, value=der.wrap(0x30, der.wrap(0x80, b"key")))
    other = Extension(oid="2.5.29.14", critical=False, value=der.wrap(0x04, b"other"))
    child = replace(leaf, extensions={**leaf.extensions, "2.5.29.35": authority})
    named = replace(right.certificate, extensions={**right.certificate.extensions, "2.5.29.14": key_id})
    misnamed = replace(wrong.certificate, extensions={**wrong.certificate.extensions, "2.5.29.14": other})
    assert order_path(child, [misnamed, named], ROOT.certificate)[1] is named
    assert order_path(child, [misnamed, silent.certificate], ROOT.certificate)[1] is silent.certificate
    assert order_path(leaf, [misnamed], ROOT.certificate)[1] is misnamed
    with pytest.raises(UntrustedError, match="no path"):
        order_path(child, [misnamed], ROOT.certificate)


@pytest.mark.parametrize(("bits", "fits"), [(2047, False), (2048, True), (8192, True), (8193, False)])
def test_rsa_keys_have_a_range(bits: int, fits: bool) -> None:
    """Shorter ones are weak, longer ones are slow to no purpose."""
    numbers = rsa.RSAPublicNumbers(65537, (1 << (bits - 1)) | 1)
    key = numbers.public_key() if bits >= 1024 else None
    assert key is not None
    message = "the signature is wrong" if fits else f"RSA key of {bits} bits, expected 2048 to 8192"
    with pytest.raises(UntrustedError, match=message):
        verify_signature(key, next(iter(PSS)), bytes((bits + 7) // 8), b"", "CRL")


def test_rsa_signatures_are_pss_with_one_set_of_parameters() -> None:
    """SHA-384 twice, a salt of 48 bytes: others are refused by their identifier, wrong ones by themselves."""
    key = rsa.generate_private_key(65537, 2048)
    good = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
    short = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=32)
    for identifier in PSS:
        verify_signature(key.public_key(), identifier, key.sign(b"x", good, hashes.SHA384()), b"x", "CRL")
        with pytest.raises(UntrustedError, match="signature is wrong"):
            verify_signature(key.public_key(), identifier, key.sign(b"x", short, hashes.SHA384()), b"x", "CRL")
    for identifier in (ECDSA_SHA256, ECDSA_SHA384, b""):
        with pytest.raises(UntrustedError, match="expected RSASSA-PSS with SHA-384"):
            verify_signature(key.public_key(), identifier, key.sign(b"x", good, hashes.SHA384()), b"x", "CRL")


def test_an_anchor_may_have_ended_where_the_caller_says_so_and_nothing_else_may() -> None:
    """An anchor is believed for its key; an intermediate is not."""
    root = make("old", ends=NOW - DAY / 2)
    middle = make("middle", root)
    leaf = make("leaf", middle, ca=False)
    path = (leaf.certificate, middle.certificate, root.certificate)
    assert verify_chain(path, NOW, anchor_expires=False) == NOW - DAY / 2
    with pytest.raises(UntrustedError, match="old: expired"):
        verify_chain(path, NOW)
    stale = make("middle", root, ends=NOW - DAY / 2)
    below = make("leaf", stale, ca=False)
    with pytest.raises(UntrustedError, match="middle: expired"):
        verify_chain((below.certificate, stale.certificate, root.certificate), NOW, anchor_expires=False)


def test_a_list_has_at_most_so_many_entries() -> None:
    """A hundred thousand; the bound is on entries as well as on bytes."""
    one = entry(7)
    for count, fits in ((MAX_REVOKED, True), (MAX_REVOKED + 1, False)):
        data = written(number(1), revoked=der.wrap(0x30, one * count))
        if fits:
            assert Crl.parse(data).revoked == frozenset({7})
        else:
            with pytest.raises(MalformedError, match=f"at most {MAX_REVOKED} entries, found {count}"):
                Crl.parse(data)
    assert MAX_REVOKED == 100_000


@pytest.mark.parametrize(("curve", "identifier"), [(ec.SECP256R1(), ECDSA_SHA384), (ec.SECP384R1(), ECDSA_SHA256)])
def test_each_curve_has_its_hash(curve: ec.EllipticCurve, identifier: bytes) -> None:
    """SHA-256 on P-256 and SHA-384 on P-384, whatever the signature itself would allow."""
    key = ec.generate_private_key(curve)
    algorithm = hashes.SHA384() if identifier == ECDSA_SHA384 else hashes.SHA256()
    signature = key.sign(b"x", ec.ECDSA(algorithm))
    with pytest.raises(UntrustedError, match="is not the one for secp"):
        verify_signature(key.public_key(), identifier, signature, b"x", "CRL")


def test_the_reason_is_that_of_the_best_list() -> None:
    """Of two that do not count, the one with the higher number says why: the other was superseded anyway."""
    ended = written(number(9), ends=NOW - SECOND)
    forged = written(number(3))[:-1] + b"\x00"
    pool = [Crl.parse(forged), Crl.parse(ended)]
    with pytest.raises(UntrustedError, match="x: CRL of") as best:
        current_for(ROOT.certificate, pool, NOW, "x")
    with pytest.raises(UntrustedError) as alone:
        current_for(ROOT.certificate, pool[1:], NOW, "x")
    assert str(best.value) == str(alone.value)


def test_a_list_without_a_number_counts_less_than_any_that_has_one() -> None:
    """RFC 5280 asks for numbers; without one nobody can say that nothing was taken back since."""
    numbered, bare = Crl.parse(written(number(1))), Crl.parse(written(ends=NOW + 2 * DAY))
    assert bare.number is None
    later = replace(bare, this_update=NOW + SECOND)
    for pool in ([numbered, later], [later, numbered]):
        assert current_for(ROOT.certificate, pool, NOW + 2 * SECOND, "x")[0] is numbered
