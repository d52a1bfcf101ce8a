"""Who issued whom: signatures with pinned algorithms, and paths from a leaf to an anchor at one moment.

`verify_chain` walks a path that the caller has put in order (RFC 5280, 6.1, as far as vendors'
chains need it):
  1  every certificate is within its validity at the moment, the anchor included unless told otherwise
  2  each issuer name equals the subject name above it, byte for byte
  3  each issuer is a CA, may sign certificates, and its path length allows what hangs below
  4  no critical extension is unknown to us
  5  each signature verifies, with exactly one of the algorithms below
There is no revocation here: `enarx.pki.crl` reads the lists and each vendor's rule says which apply.
Signature algorithms: ECDSA on P-256 with SHA-256, on P-384 with SHA-384 (RFC 5758), and
RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes (RFC 4055), as AMD uses.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import (
    AUTHORITY_KEY_ID,
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    SUBJECT_KEY_ID,
    Certificate,
    PublicKey,
    describe_name,
    public_key_of,
)

ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
# rsassaPss {SHA-384, MGF1 {SHA-384}, salt 48, trailer 1}: AMD writes the trailer explicitly, RFC 4055 leaves it out;
# both writings of the hash's NULL parameters occur. Whatever the writing, the numbers are these and no others.
_PSS_OID: Final = bytes.fromhex("06092a864886f70d01010a")
_SHA384_OID: Final = bytes.fromhex("0609608648016503040202")
_MGF1_OID: Final = bytes.fromhex("06092a864886f70d010108")

_SHA256: Final = ec.ECDSA(hashes.SHA256())
_SHA384: Final = ec.ECDSA(hashes.SHA384())

KEY_CERT_SIGN: Final = 5  # RFC 5280, 4.2.1.3
CRL_SIGN: Final = 6

_UNDERSTOOD: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE, SUBJECT_KEY_ID, AUTHORITY_KEY_ID})
_RSA_BITS: Final = range(2048, 8193)

_PROVEN: Final[set[bytes | tuple[bytes, ...]]] = set()  # signatures that verified; see verify_document
_MAX_PROVEN: Final = 2048  # at most 5 KiB each
_KEPT_WHOLE: Final = 4096  # bytes of what was signed; of more only a digest is kept


def verify_signature(key: PublicKey, algorithm: bytes, signature: bytes, signed: bytes | memoryview, what: str) -> None:
    """Check `signature` over `signed` under the DER AlgorithmIdentifier. Raises UntrustedError."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, _ecdsa(key, algorithm, what))
        else:
            _require_pss(key, algorithm, what)
            key.verify(
                signature, bytes(signed), padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48), hashes.SHA384()
            )
    except InvalidSignature as error:
        raise UntrustedError(f"{what}: the signature is wrong") from error


def verify_document(spki: bytes, algorithm: bytes, signature: bytes, signed: bytes, what: str) -> None:
    """As `verify_signature` with a DER SubjectPublicKeyInfo, for what is shown again and again.

    That a key signed these bytes stays true, so a success is remembered (bounded; what is large by its digest) for
    certificates, CRLs and vendors' documents; dates and revocation are asked anew each time by the callers. Reports,
    quotes and requests go through `verify_signature`, which remembers nothing. Raises UntrustedError.
    """
    parts = (spki, algorithm, signature, signed)
    proof: bytes | tuple[bytes, ...] = parts  # cheap to look up: bytes that are remembered know their hash
    if len(signed) > _KEPT_WHOLE:
        proof = sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    if proof in _PROVEN:
        return
    verify_signature(public_key_of(spki), algorithm, signature, signed, what)
    if len(_PROVEN) >= _MAX_PROVEN:
        _PROVEN.clear()
    _PROVEN.add(proof)


def verify_issued(child: Certificate, issuer: Certificate, what: str) -> None:
    """`issuer` signed `child` and their names agree. Raises UntrustedError."""
    if child.issuer != issuer.subject:
        raise UntrustedError(
            f"{what}: expected issuer {describe_name(issuer.subject)}, found {describe_name(child.issuer)}"
        )
    verify_document(issuer.spki, child.algorithm, child.signature, child.tbs, what)


def verify_chain(
    path: Sequence[Certificate],
    at: datetime,
    *,
    what: str = "certificate chain",
    understood: Iterable[str] = (),
    anchor_expires: bool = True,
) -> datetime:
    """Check a path, leaf first and anchor last, at one moment; returns the earliest `not_after` in it.

    `understood` names further extensions that the caller reads and that may therefore be critical.
    Raises UntrustedError; an empty path is refused.
    """
    if not path:
        raise UntrustedError(f"{what}: no certificate")
    known = _UNDERSTOOD | frozenset(understood)
    for position, certificate in enumerate(path):
        name = f"{what}: {certificate.common_name or describe_name(certificate.subject)}"
        if anchor_expires or position < len(path) - 1:
            require_valid_at(certificate, at, name)
        if position:
            _require_issuer(certificate, below=position - 1, name=name)
        unknown = [e.oid for e in certificate.extensions.values() if e.critical and e.oid not in known]
        if unknown:
            raise UntrustedError(f"{name}: critical extension {unknown[0]} is not understood")
        if position + 1 < len(path):
            verify_issued(certificate, path[position + 1], name)
    return min(certificate.not_after for certificate in path)


def require_valid_at(certificate: Certificate, at: datetime, what: str) -> None:
    """Raises UntrustedError outside the certificate's validity, naming the bound that was crossed."""
    if at < certificate.not_before:
        raise UntrustedError(
            f"{what}: not valid before {certificate.not_before:%Y-%m-%dT%H:%M:%SZ}, asked for {at:%Y-%m-%dT%H:%M:%SZ}"
        )
    if at > certificate.not_after:
        raise UntrustedError(
            f"{what}: expired at {certificate.not_after:%Y-%m-%dT%H:%M:%SZ}, asked for {at:%Y-%m-%dT%H:%M:%SZ}"
        )


def _require_issuer(certificate: Certificate, *, below: int, name: str) -> None:
    """`below` counts the intermediate certificates that hang between this issuer and the leaf."""
    if not certificate.is_ca:
        raise UntrustedError(f"{name}: issues certificates without being a CA")
    if certificate.key_usage is not None and KEY_CERT_SIGN not in certificate.key_usage:
        raise UntrustedError(f"{name}: its key usage does not allow signing certificates")
    if certificate.path_length is not None and below > certificate.path_length:
        raise UntrustedError(f"{name}: path length {certificate.path_length} allows fewer than {below} intermediates")


def _ecdsa(key: ec.EllipticCurvePublicKey, algorithm: bytes, what: str) -> ec.ECDSA:
    if algorithm == ECDSA_SHA256 and key.curve.name == "secp256r1":
        return _SHA256
    if algorithm == ECDSA_SHA384 and key.curve.name == "secp384r1":
        return _SHA384
    raise UntrustedError(f"{what}: signature algorithm {algorithm.hex()} is not the one for {key.curve.name}")


def _require_pss(key: rsa.RSAPublicKey, algorithm: bytes, what: str) -> None:
    if key.key_size not in _RSA_BITS:
        raise UntrustedError(
            f"{what}: RSA key of {key.key_size} bits, expected {_RSA_BITS.start} to {_RSA_BITS.stop - 1}"
        )
    if algorithm not in _PSS_SHA384:
        raise UntrustedError(f"{what}: expected RSASSA-PSS with SHA-384, MGF1-SHA-384 and a salt of 48 bytes")


def _pss_identifiers() -> frozenset[bytes]:
    """Every DER writing of the one set of PSS parameters that is accepted."""
    from enarx.der import wrap  # noqa: PLC0415 - only at import, to spell the constants out

    found = set()
    for hash_null in (b"", b"\x05\x00"):
        for mgf_null in (b"", b"\x05\x00"):
            for trailer in (b"", wrap(0xA3, b"\x02\x01\x01")):
                digest = wrap(0xA0, wrap(0x30, _SHA384_OID + hash_null))
                mask = wrap(0xA1, wrap(0x30, _MGF1_OID + wrap(0x30, _SHA384_OID + mgf_null)))
                salt = wrap(0xA2, b"\x02\x01\x30")
                found.add(wrap(0x30, _PSS_OID + wrap(0x30, digest + mask + salt + trailer)))
    return frozenset(found)


_PSS_SHA384: Final = _pss_identifiers()


def order_path(
    leaf: Certificate, pool: Iterable[Certificate], anchor: Certificate, *, limit: int = 4
) -> tuple[Certificate, ...]:
    """A path from `leaf` to `anchor` through `pool`, chosen by names and key identifiers alone.

    Nothing is verified here. Raises UntrustedError when there is none of at most `limit` intermediates.
    """
    candidates = list(pool)
    path = [leaf]
    while path[-1].issuer != anchor.subject:
        step = next(
            (c for c in candidates if c.subject == path[-1].issuer and c not in path and _keys_agree(path[-1], c)), None
        )
        if step is None or len(path) > limit:
            raise UntrustedError(
                f"{leaf.common_name or 'certificate'}: no path to {anchor.common_name}; "
                f"nobody here is {describe_name(path[-1].issuer)}"
            )
        path.append(step)
    return (*path, anchor)


def _keys_agree(child: Certificate, issuer: Certificate) -> bool:
    wanted, has = child.authority_key_id, issuer.subject_key_id
    return wanted is None or has is None or wanted == has


def parse_all(ders: Iterable[bytes]) -> tuple[Certificate, ...]:
    """Those of `ders` that can be read as certificates; a pool may hold others' rubbish."""
    found = []
    for data in ders:
        try:
            found.append(Certificate.parse(data))
        except MalformedError:
            continue  # not ours to judge: what the path needs and cannot find is refused by name
    return tuple(found)
