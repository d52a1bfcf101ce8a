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
from functools import lru_cache
from typing import Final

from msgspec import Struct

from enarx.tee.dcap import enclave as bits
from enarx.tee.dcap import policy as dcap
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.rules import Rules, at_least, exactly, member, not_denied, within
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


class Policy(Struct, frozen=True, kw_only=True):
    """The table, checked. Bit masks are what is allowed; None and empty sets ask nothing."""

    platform: dcap.PlatformPolicy = dcap.PlatformPolicy()
    signer: frozenset[bytes] = frozenset()
    hash: dcap.Listing = dcap.Listing()
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

    # X18
    checks.check("policy.debug", not claims.debug, found=f"DEBUG is {int(claims.debug)}", expected="DEBUG is 0")

    # X19, X20, X21
    _rules(policy).ask(claims.report.enclave, checks)

    # X14, X16, X17, X24
    policy.platform.accept(claims, checks)


@lru_cache(maxsize=16)
def _rules(policy: Policy) -> Rules[EnclaveReport]:
    return Rules(
        # X19
        member("policy.signer", lambda enclave: enclave.mr_signer, policy.signer),
        member("policy.hash", lambda enclave: enclave.mr_enclave, policy.hash.allow),
        not_denied("policy.hash_blacklist", lambda enclave: enclave.mr_enclave, policy.hash.deny),
        exactly("policy.enclave_product_id", lambda enclave: enclave.product_id, policy.product_id),
        at_least("policy.enclave_security_version", lambda enclave: enclave.security_version, policy.security_version),
        # X21
        within("policy.features", lambda enclave: enclave.flags, policy.features, FEATURES),
        within("policy.misc_select", lambda enclave: enclave.misc_select, policy.misc_select, MISC_SELECT),
        within("policy.xfrm", lambda enclave: enclave.xfrm, policy.xfrm, {}),
        # X20
        member("policy.config_id", lambda enclave: enclave.config_id, policy.config_id),
        at_least("policy.config_svn", lambda enclave: enclave.config_svn, policy.config_svn),
        member("policy.family_id", lambda enclave: enclave.family_id, policy.family_id),
        member("policy.ext_product_id", lambda enclave: enclave.ext_product_id, policy.ext_product_id),
    )


def _mask(table: Table, key: str, names: Mapping[str, int]) -> int | None:
    chosen: Iterable[str] = table.choices(key, names)
    return sum({names[name] for name in chosen}) if key in table else None
