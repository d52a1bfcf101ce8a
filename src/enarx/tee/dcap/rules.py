"""What a policy asks of one kind of report, made ready once: a line for each key, whether it is configured or not.

    _rules = Rules(member("policy.signer", lambda enclave: enclave.mr_signer, policy.signer), …)

Each function below makes one rule from what a key allows. Where the key is not configured it gives the line that the
ledger has of it, which is the same for every report; else the question, which compares and is asked every time.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from enarx.tee.model import Check, Checks, Outcome

V = TypeVar("V")

Question = Callable[[V, Checks], None]
Rule = Question[V] | Check


class Rules(Generic[V]):
    """The rules of one policy for reports of type V."""

    def __init__(self, *rules: Rule[V]) -> None:
        self._asked = tuple(rule for rule in rules if not isinstance(rule, Check))
        self._unasked = tuple(rule for rule in rules if isinstance(rule, Check))

    def ask(self, report: V, checks: Checks) -> None:
        """Record every rule. The caller's gate collects the failures."""
        for question in self._asked:
            question(report, checks)
        checks.replay((self._unasked, (), ()))


def unasked(name: str, why: str = "not configured: nothing was compared") -> Check:
    """A rule that policy does not have."""
    return Check("rejected", name, Outcome.NOT_APPLICABLE, why)


def member(name: str, read: Callable[[V], bytes], allowed: frozenset[bytes]) -> Rule[V]:
    """The value is one of those that are allowed."""
    if not allowed:
        return unasked(name)
    expected = " or ".join(sorted(each.hex() for each in allowed))

    def ask(report: V, checks: Checks) -> None:
        value = read(report)
        checks.check(name, value in allowed, found=value.hex(), expected=expected)

    return ask


def not_denied(name: str, read: Callable[[V], bytes], denied: frozenset[bytes]) -> Rule[V]:
    """The value is none of those that are denied."""
    if not denied:
        return unasked(name, "not configured")

    def ask(report: V, checks: Checks) -> None:
        value = read(report)
        checks.check(name, value not in denied, found=value.hex(), expected="not one that is denied")

    return ask


def at_least(name: str, read: Callable[[V], int], wanted: int | None) -> Rule[V]:
    """The number is not below the one that is wanted."""
    if wanted is None:
        return unasked(name)

    def ask(report: V, checks: Checks) -> None:
        value = read(report)
        checks.check(name, value >= wanted, found=str(value), expected=f"{wanted} or higher")

    return ask


def exactly(name: str, read: Callable[[V], int], wanted: int | None) -> Rule[V]:
    """The number is the one that is wanted."""
    if wanted is None:
        return unasked(name)

    def ask(report: V, checks: Checks) -> None:
        value = read(report)
        checks.check(name, value == wanted, found=str(value), expected=str(wanted))

    return ask


def within(name: str, read: Callable[[V], int], ceiling: int | None, names: Mapping[str, int]) -> Rule[V]:
    """No bit is set that is outside the ceiling; `names` are those of the bits."""
    if ceiling is None:
        return unasked(name)
    expected = f"nothing outside 0x{ceiling:x}"

    def ask(report: V, checks: Checks) -> None:
        value = read(report)
        extra = value & ~ceiling
        found = f"0x{value:x}" + (f", of which {_bits(extra, names)} not allowed" if extra else "")
        checks.check(name, not extra, found=found, expected=expected)

    return ask


def _bits(value: int, names: Mapping[str, int]) -> str:
    known = [name for name, bit in names.items() if value & bit]
    rest = value & ~sum(names.values())
    return " and ".join([*known, *([f"0x{rest:x}"] if rest else [])])
