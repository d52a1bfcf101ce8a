"""Whether a Nitro document is authentic (Nitro Enclaves, attestation process, "Verifying the root of trust").

1  the root is AWS's, pinned by SHA-256; it may come with the document, and counts for nothing but its digest
2  the signing certificate leads to it through the bundle: names, signatures (ECDSA P-384 with SHA-384), CA flags, path
   lengths, and validity at the moment that is judged
3  the signing certificate is an end entity on P-384, and its key usage allows signing
4  the document is signed by it, over the bytes that came
5  the document's time lies within the certificate's life and not in the future
AWS publishes no revocation list for these certificates, which live for hours; so none is asked for. Key binding is
asked by `enarx.tee.appraise`, over `user_data`, which must be exactly the 64 bytes.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate
from enarx.pki.chain import order_path, parse_all, verify_chain
from enarx.tee.model import Checks, Claims, Endorsements, Field, Gate, Leniency, TrustAnchor
from enarx.tee.nitro.report import MAX_BUNDLE, Document

FUTURE: Final = timedelta(minutes=5)  # how far the enclave's clock may be ahead of ours
DIGITAL_SIGNATURE: Final = 0  # RFC 5280, 4.2.1.3
P384: Final = "secp384r1"

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    ("untrusted", "nitro.anchor"),
    ("untrusted", "nitro.chain"),
    ("untrusted", "nitro.signer"),
    ("untrusted", "nitro.signature"),
    ("untrusted", "nitro.timestamp"),
    ("untrusted", "binding"),
)


def verify(
    report: Document,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Claims[Document]:
    """What AWS vouches for. Raises UntrustedError."""
    del leniency  # nothing here can be overlooked
    # 1
    with checks.step("nitro.anchor", expected="a root that is pinned"):
        anchor, root = _root(endorsements, anchors)

    # 2
    with checks.step("nitro.chain", expected="a path to the root, valid at the moment", found="verified"):
        leaf = _parse(report.certificate)
        pool = [certificate for certificate in parse_all(endorsements.certificates) if certificate.der != root.der]
        path = order_path(leaf, pool, root, limit=MAX_BUNDLE)
        expires = verify_chain(path, at, what="nitro chain")

    # 3
    with checks.step("nitro.signer", expected=f"an end entity on {P384} that may sign", found=leaf.common_name):
        if leaf.is_ca or (leaf.key_usage is not None and DIGITAL_SIGNATURE not in leaf.key_usage):
            raise UntrustedError(f"nitro signer: {leaf.common_name}: not an end entity that may sign")

    # 4
    with checks.step("nitro.signature", expected="ES384 by the signing certificate", found="verified"):
        report.token.verify(leaf.public_key(), "nitro document")

    # 5
    inside = leaf.not_before <= report.timestamp <= leaf.not_after
    checks.check(
        "nitro.timestamp",
        inside and report.timestamp <= at + FUTURE,
        found=f"{report.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        expected=f"{leaf.not_before:%Y-%m-%dT%H:%M:%SZ} to {min(leaf.not_after, at + FUTURE):%Y-%m-%dT%H:%M:%SZ}",
    )
    return Claims(
        report=report,
        report_data=report.user_data or b"",
        measurement=report.pcrs[0],
        signer=report.pcrs.get(8) if any(report.pcrs.get(8, b"")) else None,
        debug=report.debug,
        product="AWS Nitro Enclave",
        tcb_status="NotReported",
        chip=None,
        anchor=anchor,
        expires=expires,
        fields={"report": describe(report)},
    )


def describe(report: Document) -> dict[str, Field]:
    """The document as JSON values, bytes in hexadecimal."""
    return {
        "module_id": report.module_id,
        "timestamp": f"{report.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        "pcrs": {str(index): content.hex() for index, content in sorted(report.pcrs.items()) if any(content)},
        "user_data": None if report.user_data is None else report.user_data.hex(),
        "public_key": None if report.public_key is None else report.public_key.hex(),
        "nonce": None if report.nonce is None else report.nonce.hex(),
    }


def _root(endorsements: Endorsements, anchors: Sequence[TrustAnchor]) -> tuple[TrustAnchor, Certificate]:
    for anchor in anchors:
        data = anchor.find(endorsements) if anchor.family == "aws" else None
        if data is not None:
            return anchor, _parse(data)
    raise UntrustedError("nitro: the document's bundle begins with none of the roots that are pinned")


def _parse(data: bytes) -> Certificate:
    try:
        return Certificate.parse(data, "nitro certificate")
    except MalformedError as error:
        raise UntrustedError(str(error)) from error
