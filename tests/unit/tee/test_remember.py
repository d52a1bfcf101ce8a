"""What is remembered holds between two dates, is bounded, and is never a refusal."""

from datetime import UTC, datetime, timedelta

import pytest

from enarx.errors import UntrustedError
from enarx.tee.model import Checks
from enarx.tee.remember import Remembered

DAY = timedelta(days=1)
AT = datetime(2026, 6, 1, tzinfo=UTC)


class Work:
    """Counts how often it was asked."""

    def __init__(self, *dates: datetime, refuse: bool = False, keep: bool = True) -> None:
        self.asked, self._dates, self._refuse, self._keep = 0, dates, refuse, keep

    def at(self, memory: Remembered[int], at: datetime | None, key: str = "key") -> tuple[int, list[str]]:
        """The value, and the names of the checks in the ledger."""
        checks = Checks()
        with checks.gate("untrusted"):
            value = memory.recall(key, at, checks, lambda: self._work(checks))
        assert checks.rested_on == (b"document",)
        return value, [check.name for check in checks]

    def _work(self, checks: Checks) -> tuple[int, tuple[datetime, ...] | None]:
        self.asked += 1
        checks.check("one", not self._refuse)
        checks.check("two", ok=True)
        checks.rests_on(b"document")
        return self.asked, self._dates if self._keep else None


def test_what_was_found_is_told_again_with_its_checks() -> None:
    """The second judgement has the same value and the same ledger, and asked nothing."""
    memory, work = Remembered[int](2), Work(AT - DAY, AT + DAY)
    assert work.at(memory, AT) == work.at(memory, AT + DAY / 2) == (1, ["one", "two"])
    assert work.asked == 1


def test_it_holds_from_the_date_before_until_the_date_after() -> None:
    """The moment of a date itself already belongs to what comes then."""
    for at, again in ((AT, 1), (AT - DAY, 1), (AT + DAY, 2), (AT - 1.5 * DAY, 2), (AT + 5 * DAY, 2)):
        memory, work = Remembered[int](2), Work(AT - 2 * DAY, AT - DAY, AT + DAY, AT + 2 * DAY)
        work.at(memory, AT)
        work.at(memory, at)
        assert work.asked == again, at


def test_where_time_plays_no_part_it_always_holds() -> None:
    """Without a moment there are no dates to look at."""
    memory, work = Remembered[int](2), Work(AT)
    assert work.at(memory, None) == work.at(memory, None)
    assert work.asked == 1


def test_a_refusal_is_never_kept() -> None:
    """What was refused is asked again: it may have been put right."""
    memory, work = Remembered[int](2), Work(refuse=True)
    for _ in range(2):
        with pytest.raises(UntrustedError):
            work.at(memory, AT)
    assert (work.asked, len(memory)) == (2, 0)


def test_what_is_not_to_be_kept_is_not() -> None:
    """No dates at all mean that there is no span in which it would hold."""
    memory, work = Remembered[int](2), Work(keep=False)
    work.at(memory, AT)
    assert len(memory) == 0


def test_the_oldest_is_forgotten_first() -> None:
    """Never more than the limit, whoever asks for what."""
    memory, works = Remembered[int](2), {key: Work() for key in "abc"}
    for key in "abcbcab":
        works[key].at(memory, AT, key)
        assert len(memory) <= 2
    assert {key: work.asked for key, work in works.items()} == {"a": 2, "b": 2, "c": 1}
    memory.clear()
    assert len(memory) == 0
