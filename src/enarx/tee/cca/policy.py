"""Which CCA realms are acceptable: the table `[cca]`.

    hash, hash_blacklist       the initial measurement (RIM), allowed and denied
    hash_size                  bytes of every measurement of realms: 32, 48 or 64; default 32
    extensible                 four lists of allowed values for REM 0 to 3; an empty list asks nothing
    personalization            allowed values, 64 bytes
    implementation             allowed implementation ids, 32 bytes
    chip_allow, chip_deny      instance ids of platforms, 33 bytes
    components                 allowed measurements of firmware: every component has to be among them
    component_size             bytes of firmware measurements: 32, 48 or 64; default 32

The platform keys that may vouch are named in `[anchors] arm`, for Arm publishes no root.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from enarx.tee.cca.report import Token
from enarx.tee.model import Checks, Claims, Gate
from enarx.toml import Table

NAMES: Final = (
    "hash",
    "hash_blacklist",
    "extensible",
    "personalization",
    "implementation",
    "chip_allow",
    "chip_deny",
    "components",
)
CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = tuple(("rejected", f"policy.{name}") for name in NAMES)

_SIZES: Final = (32, 48, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. Empty asks nothing."""

    hash: frozenset[bytes] = frozenset()
    hash_blacklist: frozenset[bytes] = frozenset()
    extensible: tuple[frozenset[bytes], ...] = ()
    personalization: frozenset[bytes] = frozenset()
    implementation: frozenset[bytes] = frozenset()
    chip_allow: frozenset[bytes] = frozenset()
    chip_deny: frozenset[bytes] = frozenset()
    components: frozenset[bytes] = frozenset()


def read_policy(table: Table) -> Policy:
    """Read `[cca]`. Raises ConfigError; unknown keys are the document's to refuse."""
    size, firmware = (_size(table, key) for key in ("hash_size", "component_size"))
    registers = table.table("extensible")
    made = Policy(
        hash=table.hex_list("hash", length=size),
        hash_blacklist=table.hex_list("hash_blacklist", length=size),
        extensible=tuple(registers.hex_list(str(index), length=size) for index in range(4)),
        personalization=table.hex_list("personalization", length=64),
        implementation=table.hex_list("implementation", length=32),
        chip_allow=table.hex_list("chip_allow", length=33),
        chip_deny=table.hex_list("chip_deny", length=33),
        components=table.hex_list("components", length=firmware),
    )
    for allow, deny, key in (
        (made.hash, made.hash_blacklist, "hash_blacklist"),
        (made.chip_allow, made.chip_deny, "chip_deny"),
    ):
        if both := allow & deny:
            raise table.error(key, f"{min(both).hex()} is both allowed and denied")
    return made


def accept(claims: Claims[Token], policy: Policy, checks: Checks) -> None:
    """Record every rule. Raises nothing by itself: the gate collects the failures."""
    platform, realm = claims.report.platform, claims.report.realm
    _among("hash", realm.initial, policy.hash, checks)
    _not_among("hash_blacklist", realm.initial, policy.hash_blacklist, checks)
    asked = [(index, allowed) for index, allowed in enumerate(policy.extensible) if allowed]
    if not asked:
        checks.not_applicable("policy.extensible", "nothing is configured")
    for index, allowed in asked:
        value = realm.extensible[index]
        checks.check(
            "policy.extensible", value in allowed, found=f"REM{index} {value.hex()}", expected=_one_of(allowed)
        )
    _among("personalization", realm.personalization, policy.personalization, checks)
    _among("implementation", platform.implementation, policy.implementation, checks)
    _among("chip_allow", platform.instance, policy.chip_allow, checks)
    _not_among("chip_deny", platform.instance, policy.chip_deny, checks)
    if not policy.components:
        checks.not_applicable("policy.components", "nothing is configured")
        return
    unknown = [f"{c.name} {c.measurement.hex()}" for c in platform.components if c.measurement not in policy.components]
    checks.check(
        "policy.components", not unknown, found=", ".join(unknown) or "all known", expected=_one_of(policy.components)
    )


def _among(name: str, value: bytes, allowed: frozenset[bytes], checks: Checks) -> None:
    if allowed:
        checks.check(f"policy.{name}", value in allowed, found=value.hex(), expected=_one_of(allowed))
    else:
        checks.not_applicable(f"policy.{name}", "nothing is configured")


def _not_among(name: str, value: bytes, denied: frozenset[bytes], checks: Checks) -> None:
    if denied:
        checks.check(f"policy.{name}", value not in denied, found=value.hex(), expected="not one that is denied")
    else:
        checks.not_applicable(f"policy.{name}", "nothing is configured")


def _one_of(values: Iterable[bytes]) -> str:
    return f"one of the {len(tuple(values))} that are allowed"


def _size(table: Table, key: str) -> int:
    size = table.integer(key, _SIZES[0])
    if size not in _SIZES:
        raise table.error(key, f"expected 32, 48 or 64, found {size}")
    return size
