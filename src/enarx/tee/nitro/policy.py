"""Which Nitro enclaves are acceptable: the table `[nitro]`.

    hash, hash_blacklist     PCR0, the enclave's image: 48 bytes each, allowed and denied
    signer                   PCR8, the certificate that signed the image
    [nitro.pcrs]             further registers by number: 1 = ["…"], each a list of allowed values

Debug mode (PCR0, 1 and 2 are zero) is refused whatever stands here: its host sees everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from enarx.tee.model import Checks, Claims, Gate
from enarx.tee.nitro.report import PCR_SIZE, PCRS, Document
from enarx.toml import Table

CHECK_NAMES: Final[tuple[tuple[Gate, str], ...]] = (
    ("rejected", "policy.debug"),
    ("rejected", "policy.hash"),
    ("rejected", "policy.hash_blacklist"),
    ("rejected", "policy.signer"),
    ("rejected", "policy.pcrs"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. Empty asks nothing."""

    hash: frozenset[bytes] = frozenset()
    hash_blacklist: frozenset[bytes] = frozenset()
    signer: frozenset[bytes] = frozenset()
    pcrs: Mapping[int, frozenset[bytes]] = field(default_factory=dict)


def read_policy(table: Table) -> Policy:
    """Read `[nitro]`. Raises ConfigError; unknown keys are the document's to refuse."""
    allowed = table.hex_list("hash", length=PCR_SIZE)
    denied = table.hex_list("hash_blacklist", length=PCR_SIZE)
    if both := allowed & denied:
        raise table.error("hash_blacklist", f"{min(both).hex()} stands in hash too")
    registers = table.table("pcrs")
    pcrs: dict[int, frozenset[bytes]] = {}
    numbers = {str(number): number for number in PCRS}  # written in one way, so that none stands there twice
    for key in tuple(registers.keys()):
        if key not in numbers:
            raise registers.error(key, "expected the number of a register, 0 to 31")
        pcrs[numbers[key]] = registers.hex_list(key, length=PCR_SIZE)
    return Policy(hash=allowed, hash_blacklist=denied, signer=table.hex_list("signer", length=PCR_SIZE), pcrs=pcrs)


def accept(claims: Claims[Document], policy: Policy, checks: Checks) -> None:
    """Record every rule. Raises nothing by itself: the gate collects the failures."""
    report = claims.report
    image = claims.measurement.hex()
    checks.check(
        "policy.debug",
        not claims.debug,
        found="PCR0, PCR1 and PCR2 are zero: debug mode" if claims.debug else "not debug",
        expected="not debug",
    )
    if policy.hash:
        checks.check("policy.hash", claims.measurement in policy.hash, found=image, expected=_one_of(policy.hash))
    else:
        checks.not_applicable("policy.hash", "no PCR0 is configured")
    if policy.hash_blacklist:
        allowed = claims.measurement not in policy.hash_blacklist
        checks.check("policy.hash_blacklist", allowed, found=image, expected="not one that is denied")
    else:
        checks.not_applicable("policy.hash_blacklist", "no PCR0 is denied")
    if policy.signer:
        signer = claims.signer
        found = "none" if signer is None else signer.hex()
        checks.check("policy.signer", signer in policy.signer, found=found, expected=_one_of(policy.signer))
    else:
        checks.not_applicable("policy.signer", "no PCR8 is configured")
    if not policy.pcrs:
        checks.not_applicable("policy.pcrs", "no further register is configured")
    for index, values in sorted(policy.pcrs.items()):
        content = report.pcrs.get(index)
        found = f"PCR{index} {'absent' if content is None else content.hex()}"
        checks.check("policy.pcrs", content in values, found=found, expected=_one_of(values))


def _one_of(values: frozenset[bytes]) -> str:
    return f"one of the {len(values)} that are allowed"
