"""Whether a CCA token is authentic (RMM specification, A7.2; Arm CCA Security Model, attestation).

1  the platform's token is signed by a platform key (CPAK) that is trusted; no certificate comes with it, for Arm has no
   root: whoever makes the platform says which keys are genuine, and the operator names them
2  the platform's challenge is the hash of the realm's key as the token carries it: that is what joins the two
3  the realm's token is signed by the realm's key (ES384)
4  the platform is in the lifecycle state *secured* (0x3000 to 0x30FF): otherwise it may be debugged
A token carries no time. How fresh it is, only the nonce in the claims it binds can say. Key binding is asked by
`enarx.tee.appraise`, over all 64 bytes of the realm's challenge.
"""

import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from enarx.digest import hash_bytes
from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import public_key_of
from enarx.tee.cca.report import Platform, Token
from enarx.tee.model import Checks, Claims, Endorsements, Field, Gate, Leniency, TrustAnchor

SECURED: Final = range(0x3000, 0x3100)
NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # nothing here ends; the issuer still does

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    ("untrusted", "cca.platform_signature"),
    ("untrusted", "cca.realm_key"),
    ("untrusted", "cca.realm_signature"),
    ("untrusted", "cca.lifecycle"),
    ("untrusted", "binding"),
)


def verify(
    report: Token,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    leniency: Leniency,
    checks: Checks,
) -> Claims[Token]:
    """What a platform key vouches for. Raises UntrustedError."""
    del endorsements, at, leniency  # a token needs none, has no time, and nothing here can be overlooked
    platform, realm = report.platform, report.realm
    # 1
    with checks.step("cca.platform_signature", expected="by a platform key that is trusted", found="verified"):
        anchor = _signer(platform, anchors)

    # 2
    bound = hash_bytes(realm.key_hash, realm.key)
    checks.check(
        "cca.realm_key",
        hmac.compare_digest(platform.challenge, bound),
        found=platform.challenge.hex(),
        expected=f"{bound.hex()} ({realm.key_hash} of the realm's key)",
    )

    # 3
    with checks.step("cca.realm_signature", expected="ES384 by the realm's key", found="verified"):
        try:
            key = realm.public_key()
        except MalformedError as error:
            raise UntrustedError(str(error)) from error
        realm.token.verify(key, "cca realm token")

    # 4
    checks.check(
        "cca.lifecycle",
        platform.lifecycle in SECURED,
        found=f"0x{platform.lifecycle:04x}",
        expected="secured, 0x3000 to 0x30ff",
    )
    return Claims(
        report=report,
        report_data=realm.challenge,
        measurement=realm.initial,
        signer=None,
        debug=False,  # a platform that can be debugged is not secured; a realm has no such switch
        product=f"Arm CCA {platform.implementation.hex()[:16]}",
        tcb_status="NotReported",
        chip=platform.instance,
        anchor=anchor,
        expires=NEVER,
        fields={"report": describe(report)},
    )


def describe(report: Token) -> dict[str, Field]:
    """Both tokens as JSON values, bytes in hexadecimal."""
    platform, realm = report.platform, report.realm
    return {
        "platform_profile": platform.profile,
        "implementation_id": platform.implementation.hex(),
        "instance_id": platform.instance.hex(),
        "lifecycle": f"0x{platform.lifecycle:04x}",
        "components": [
            {"name": c.name, "version": c.version, "measurement": c.measurement.hex(), "signer": c.signer.hex()}
            for c in platform.components
        ],
        "personalization": realm.personalization.hex(),
        "initial_measurement": realm.initial.hex(),
        "extensible_measurements": [register.hex() for register in realm.extensible],
        "challenge": realm.challenge.hex(),
    }


def _signer(platform: Platform, anchors: Sequence[TrustAnchor]) -> TrustAnchor:
    keys = [anchor for anchor in anchors if anchor.family == "arm" and anchor.certificate is not None]
    if not keys:
        raise UntrustedError("cca: no platform key is trusted; Arm has no root, so each has to be named")
    for anchor in keys:
        try:
            platform.token.verify(public_key_of(anchor.certificate or b""), "cca platform token")
        except UntrustedError:
            continue
        return anchor
    raise UntrustedError(f"cca platform token: signed by none of the {len(keys)} platform keys that are trusted")
