"""Which enclaves are acceptable: the table `[sgx]`. The originals' keys keep their meaning, and are all enforced.

    signer, hash, hash_blacklist     MRSIGNER and MRENCLAVE, 32 bytes each, allowed and denied
    enclave_product_id               ISVPRODID, exactly
    enclave_security_version         ISVSVN, at least
    features                         a ceiling: attributes outside it are refused; INIT and MODE64BIT always may be
    misc_select                      a ceiling likewise
    xfrm                             a ceiling likewise, 8 bytes as they stand in ATTRIBUTES
    config_id, family_id, ext_product_id      KSS: allowed values, 64, 16 and 16 bytes
    config_svn                       KSS: at least
and the keys of `dcap.policy` for the platform. DEBUG is refused whatever `features` says: a debug enclave keeps
no secret from its host. Any key that is absent asks nothing, except these defaults: UpToDate, not DEBUG.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from enarx.tee.dcap import enclave as bits
from enarx.tee.dcap import policy as dcap
from enarx.tee.dcap.verify import DcapClaims
from enarx.tee.model import Checks, Claims, Gate
from enarx.tee.sgx.report import Report
from enarx.toml import Table

FEATURES: Final[Mapping[str, int]] = {
    "CET": bits.CET,
    "Debug": bits.DEBUG,
    "EInitKey": bits.EINITTOKEN_KEY,
    "KSS": bits.KSS,
    "ProvisioningKey": bits.PROVISION_KEY,
    "AEXNotify": bits.AEX_NOTIFY,
}
MISC_SELECT: Final[Mapping[str, int]] = {"EXINFO": bits.EXINFO}

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    *(
        ("rejected", f"policy.{name}")
        for name in (
            "debug",
            "signer",
            "hash",
            "hash_blacklist",
            "enclave_product_id",
            "enclave_security_version",
            "features",
            "misc_select",
            "xfrm",
            "config_id",
            "config_svn",
            "family_id",
            "ext_product_id",
        )
    ),
    *dcap.CHECK_NAMES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. Bit masks are what is allowed; None and empty sets ask nothing."""

    platform: dcap.PlatformPolicy = field(default_factory=dcap.PlatformPolicy)
    signer: frozenset[bytes] = frozenset()
    hash: dcap.Listing = field(default_factory=dcap.Listing)
    product_id: int | None = None
    security_version: int | None = None
    features: int | None = None
    misc_select: int | None = None
    xfrm: int | None = None
    config_id: frozenset[bytes] = frozenset()
    config_svn: int | None = None
    family_id: frozenset[bytes] = frozenset()
    ext_product_id: frozenset[bytes] = frozenset()


def read_policy(table: Table) -> Policy:
    """Read `[sgx]`. Raises ConfigError; unknown keys are the document's to refuse."""
    features = _mask(table, "features", FEATURES)
    return Policy(
        platform=dcap.PlatformPolicy.read(table),
        signer=table.hex_list("signer", length=32),
        hash=dcap.Listing.read(table, "hash", "hash_blacklist", 32),
        product_id=table.integer("enclave_product_id", None, maximum=0xFFFF),
        security_version=table.integer("enclave_security_version", None, maximum=0xFFFF),
        features=None if features is None else features | bits.INIT | bits.MODE64BIT,
        misc_select=_mask(table, "misc_select", MISC_SELECT),
        xfrm=int.from_bytes(table.hex("xfrm", length=8), "little") if "xfrm" in table else None,
        config_id=table.hex_list("config_id", length=64),
        config_svn=table.integer("config_svn", None, maximum=0xFFFF),
        family_id=table.hex_list("family_id", length=16),
        ext_product_id=table.hex_list("ext_product_id", length=16),
    )


def accept(claims: Claims[Report], policy: Policy, checks: Checks) -> None:
    """Record every rule of the policy. Raises nothing by itself: the gate collects the failures."""
    if not isinstance(claims, DcapClaims):
        raise TypeError("sgx claims are made by enarx.tee.sgx.verify alone")
    enclave = claims.report.enclave

    # X18
    checks.check("policy.debug", not claims.debug, found=f"DEBUG is {int(claims.debug)}", expected="DEBUG is 0")

    # X19
    dcap.accept_member("policy.signer", enclave.mr_signer, policy.signer, checks)
    dcap.accept_member("policy.hash", enclave.mr_enclave, policy.hash.allow, checks)
    dcap.accept_not_denied("policy.hash_blacklist", enclave.mr_enclave, policy.hash.deny, checks)
    dcap.accept_number("policy.enclave_product_id", enclave.product_id, policy.product_id, checks, exact=True)
    dcap.accept_number("policy.enclave_security_version", enclave.security_version, policy.security_version, checks)

    # X21
    dcap.accept_mask("policy.features", enclave.flags, policy.features, FEATURES, checks)
    dcap.accept_mask("policy.misc_select", enclave.misc_select, policy.misc_select, MISC_SELECT, checks)
    dcap.accept_mask("policy.xfrm", enclave.xfrm, policy.xfrm, {}, checks)

    # X20
    dcap.accept_member("policy.config_id", enclave.config_id, policy.config_id, checks)
    dcap.accept_number("policy.config_svn", enclave.config_svn, policy.config_svn, checks)
    dcap.accept_member("policy.family_id", enclave.family_id, policy.family_id, checks)
    dcap.accept_member("policy.ext_product_id", enclave.ext_product_id, policy.ext_product_id, checks)

    # X14, X16, X17, X24
    policy.platform.accept(claims, checks)


def _mask(table: Table, key: str, names: Mapping[str, int]) -> int | None:
    chosen: Iterable[str] = table.choices(key, names)
    return sum({names[name] for name in chosen}) if key in table else None
