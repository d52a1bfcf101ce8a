"""Which VMs of Azure's are acceptable: the tables `[az-snp]` and `[az-tdx]`.

Every key of `[snp]` or `[tdx]`, for the hardware and the paravisor that it measures, and

    [az-snp.pcrs]          a TPM's registers by number: 4 = ["…"], lists of allowed values, 32 bytes each
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from enarx.tee.azure.hcl import Kind
from enarx.tee.azure.report import HARDWARE, Report
from enarx.tee.azure.tpm import REGISTERS
from enarx.tee.azure.verify import AzureClaims
from enarx.tee.model import Checks, Claims, Gate
from enarx.toml import Table

OWN_CHECKS: Final[tuple[tuple[Gate, str], ...]] = (("rejected", "policy.registers"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table, checked. Empty asks nothing."""

    hardware: Any  # Any: the policy of whichever hardware
    registers: Mapping[int, frozenset[bytes]] = field(default_factory=dict)


def read_policy_as(kind: Kind, table: Table) -> Policy:
    """Raises ConfigError; unknown keys are the document's to refuse."""
    registers = table.table("pcrs")
    found: dict[int, frozenset[bytes]] = {}
    numbers = {str(number): number for number in range(REGISTERS)}  # written in one way: none stands there twice
    for key in tuple(registers.keys()):
        if key not in numbers:
            raise registers.error(key, f"expected the number of a register, 0 to {REGISTERS - 1}")
        found[numbers[key]] = registers.hex_list(key, length=32)
    return Policy(hardware=HARDWARE[kind].read_policy(table), registers=found)


def accept_as(kind: Kind, claims: Claims[Report[Any]], policy: Policy, checks: Checks) -> None:  # Any: as above
    """Record every rule. Raises nothing by itself: the gate collects the failures."""
    if not isinstance(claims, AzureClaims):
        raise TypeError("azure claims are made by enarx.tee.azure.verify alone")
    HARDWARE[kind].accept(claims.hardware, policy.hardware, checks)
    if not policy.registers:
        checks.not_applicable("policy.registers", "no register is configured")
    report = claims.report
    for index, allowed in sorted(policy.registers.items()):
        value = report.registers[index] if report.registers and index in report.quote.selected else None
        checks.check(
            "policy.registers",
            value in allowed,
            found=f"register {index} {'not quoted' if value is None else value.hex()}",
            expected=f"one of the {len(allowed)} that are allowed",
        )
