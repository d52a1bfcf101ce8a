"""Which platforms are acceptable: the rules that SGX and TDX share, read from their tables and asked of claims.

    allowed_tcb_statuses         beside UpToDate, which always is; Revoked can never be (verify refuses it)
    allowed_advisories           every advisory that applies must be listed; without the key, a platform that is
                                 UpToDate passes whatever is listed for it, and any other passes only without advisories
    denied_advisories            none of these may apply, whatever the status
    minimum_tcb_date             tcbDate of the platform's level
    minimum_evaluation           tcbEvaluationDataNumber of both documents
    fmspc_allow, fmspc_deny      platform families, 6 bytes
    ppid_allow, ppid_deny        single processors, 16 bytes
    platform_instance_allow, platform_instance_deny     multi-package platforms, 16 bytes
    allowed_sgx_types            Standard, Scalable, ScalableWithIntegrity
    allow_dynamic_platform, allow_cached_keys, allow_smt     flags of the PCK certificate, all allowed unless false

Status first, advisories second (flow.md, 8): allowing an advisory never allows a status.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Self

from msgspec import Struct

from enarx.tee.dcap.collateral import STATUSES
from enarx.tee.dcap.pck import SGX_TYPES
from enarx.tee.dcap.verify import DcapClaims
from enarx.tee.model import Checks, Gate
from enarx.tee.remember import Remembered
from enarx.toml import Table

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = tuple(
    ("rejected", f"policy.{name}")
    for name in (
        "tcb_status",
        "advisories",
        "denied_advisories",
        "tcb_date",
        "evaluation",
        "fmspc",
        "ppid",
        "platform_instance",
        "sgx_type",
        "dynamic_platform",
        "cached_keys",
        "smt",
    )
)


class Listing(Struct, frozen=True, kw_only=True):
    """An allow list and a deny list of one kind of identity. An empty allow list allows whatever is not denied."""

    allow: frozenset[bytes] = frozenset()
    deny: frozenset[bytes] = frozenset()

    @classmethod
    def read(cls, table: Table, allow: str, deny: str, length: int) -> Self:
        """Raises ConfigError when a value stands in both."""
        found = cls(allow=table.hex_list(allow, length=length), deny=table.hex_list(deny, length=length))
        both = found.allow & found.deny
        if both:
            raise table.error(deny, f"{min(both).hex()} stands in {allow} too")
        return found

    def check(self, name: str, value: bytes | None, what: str, checks: Checks) -> None:
        """Nothing configured: not applicable. A value that is absent is in no allow list."""
        if not self.allow and not self.deny:
            checks.not_applicable(name, f"no list of {what} is configured")
            return
        ok = value not in self.deny and (not self.allow or value in self.allow)
        wanted = f"one of the {len(self.allow)} allowed" if self.allow else "not one that is denied"
        checks.check(name, ok, found="none" if value is None else value.hex(), expected=wanted)


_ADVISORY: Final = re.compile(r"INTEL-[A-Z]+-[0-9]{5,}")
_ANSWERS: Final = Remembered[None](256)


class PlatformPolicy(Struct, frozen=True, kw_only=True):
    """The keys above, checked. The default accepts any platform that is UpToDate."""

    statuses: frozenset[str] = frozenset({"UpToDate"})
    advisories: frozenset[str] | None = None
    denied_advisories: frozenset[str] = frozenset()
    minimum_tcb_date: datetime | None = None
    minimum_evaluation: int = 0
    fmspc: Listing = Listing()
    ppid: Listing = Listing()
    platform_instance: Listing = Listing()
    sgx_types: frozenset[str] | None = None
    dynamic_platform: bool = True
    cached_keys: bool = True
    smt: bool = True

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read the shared keys of a technology's table. Raises ConfigError."""
        allowed, denied = (_advisories(table, key) for key in ("allowed_advisories", "denied_advisories"))
        both = set(allowed) & set(denied)
        if both:
            raise table.error("denied_advisories", f"{min(both)} stands in allowed_advisories too")
        choices = [status for status in STATUSES if status != "Revoked"]
        sgx_types = table.choices("allowed_sgx_types", SGX_TYPES)
        return cls(
            statuses=frozenset({"UpToDate", *table.choices("allowed_tcb_statuses", choices)}),
            advisories=frozenset(allowed) if "allowed_advisories" in table else None,
            denied_advisories=frozenset(denied),
            minimum_tcb_date=table.moment("minimum_tcb_date", None),
            minimum_evaluation=table.integer("minimum_evaluation", 0),
            fmspc=Listing.read(table, "fmspc_allow", "fmspc_deny", 6),
            ppid=Listing.read(table, "ppid_allow", "ppid_deny", 16),
            platform_instance=Listing.read(table, "platform_instance_allow", "platform_instance_deny", 16),
            sgx_types=frozenset(sgx_types) if "allowed_sgx_types" in table else None,
            dynamic_platform=table.boolean("allow_dynamic_platform", default=True),
            cached_keys=table.boolean("allow_cached_keys", default=True),
            smt=table.boolean("allow_smt", default=True),
        )

    def accept(self, claims: DcapClaims[Any], checks: Checks) -> None:  # Any: whichever report; it is not asked here
        """Record every rule. The caller's gate collects the failures."""

        def ask() -> tuple[None, tuple[()]]:
            self._accept(claims, checks)
            return None, ()

        _ANSWERS.recall((self, claims.platform, claims.standing), None, checks, ask)

    def _accept(self, claims: DcapClaims[Any], checks: Checks) -> None:  # Any: as above
        standing, platform = claims.standing, claims.platform
        certified = platform.pck

        checks.check(
            "policy.tcb_status",
            standing.status in self.statuses,
            found=standing.describe(),
            expected=" or ".join(sorted(self.statuses)),
        )
        self._accept_advisories(claims, checks)
        if self.minimum_tcb_date is None:
            checks.not_applicable("policy.tcb_date", "no minimum is configured")
        else:
            checks.check(
                "policy.tcb_date",
                standing.date >= self.minimum_tcb_date,
                found=f"{standing.date:%Y-%m-%d}",
                expected=f"{self.minimum_tcb_date:%Y-%m-%d} or later",
            )
        lowest = min(platform.tcb_info.evaluation, platform.qe_identity.evaluation)
        checks.check(
            "policy.evaluation",
            lowest >= self.minimum_evaluation,
            found=f"tcbEvaluationDataNumber {lowest}",
            expected=f"{self.minimum_evaluation} or higher",
        )
        self.fmspc.check("policy.fmspc", certified.fmspc, "FMSPCs", checks)
        self.ppid.check("policy.ppid", certified.ppid, "PPIDs", checks)
        self.platform_instance.check(
            "policy.platform_instance", certified.platform_instance_id, "platform instances", checks
        )
        if self.sgx_types is None:
            checks.not_applicable("policy.sgx_type", "allowed_sgx_types is not configured")
        else:
            wanted = " or ".join(sorted(self.sgx_types)) or "none"
            checks.check(
                "policy.sgx_type", certified.sgx_type in self.sgx_types, found=certified.sgx_type, expected=wanted
            )
        for name, allowed, has in (
            ("dynamic_platform", self.dynamic_platform, certified.dynamic_platform),
            ("cached_keys", self.cached_keys, certified.cached_keys),
            ("smt", self.smt, certified.smt_enabled),
        ):
            _accept_flag(f"policy.{name}", allowed=allowed, has=has, checks=checks)

    def _accept_advisories(self, claims: DcapClaims[Any], checks: Checks) -> None:  # Any: as above
        applying = claims.standing.advisories
        if self.advisories is None and claims.standing.status == "UpToDate":
            checks.not_applicable(
                "policy.advisories", "allowed_advisories is not configured and the status is UpToDate"
            )
        else:
            extra = [each for each in applying if each not in (self.advisories or ())]
            checks.check(
                "policy.advisories",
                not extra,
                found=f"{listed(extra)} not allowed" if extra else listed(applying),
                expected=f"only {listed(sorted(self.advisories))}" if self.advisories else "no advisories",
            )
        if not self.denied_advisories:
            checks.not_applicable("policy.denied_advisories", "denied_advisories is not configured")
            return
        hit = [each for each in applying if each in self.denied_advisories]
        checks.check(
            "policy.denied_advisories",
            not hit,
            found=listed(hit or applying),
            expected=f"not {listed(sorted(self.denied_advisories))}",
        )


def _advisories(table: Table, key: str) -> tuple[str, ...]:
    """A slip of the pen would deny nothing, and nobody would notice. Raises ConfigError."""
    found = table.strings(key)
    for index, text in enumerate(found):
        if not _ADVISORY.fullmatch(text):
            raise table.error(
                f"{key}[{index}]", f"expected an advisory like INTEL-SA-00615, found {text[:40]!r}", at=key
            )
    return found


def _accept_flag(name: str, *, allowed: bool, has: bool | None, checks: Checks) -> None:
    """A flag of the PCK certificate that policy may forbid; under the Processor CA there are none."""
    if allowed:
        checks.not_applicable(name, "allowed")
        return
    checks.check(name, not has, found={None: "not certified", True: "set", False: "not set"}[has], expected="not set")


def listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"
