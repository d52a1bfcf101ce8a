"""The time in a Keep: the machine's clock, held to what a Steward said."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import UnavailableError, UntrustedError
from enarx.keep.clock import SKEW, Clock

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass
class Machine:
    """A machine whose host holds the clock; what has passed is out of its reach."""

    wrong: timedelta = timedelta()
    passed: float = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: NOON + timedelta(seconds=self.passed) + self.wrong, lambda: self.passed)


def test_before_a_steward_spoke_the_machine_is_asked() -> None:
    """There is nothing to hold it to."""
    machine = Machine(wrong=timedelta(days=-3))
    assert machine.clock().now() == machine.clock().agreed() == NOON - timedelta(days=3)


@pytest.mark.parametrize("wrong", [SKEW, -SKEW, timedelta()])
def test_clocks_may_differ_a_little(wrong: timedelta) -> None:
    """Up to SKEW, either way; time is then the later of the two."""
    clock = Machine(wrong=wrong).clock()
    clock.hear(NOON)
    assert clock.now() == clock.agreed() == max(NOON, NOON + wrong)


@pytest.mark.parametrize("wrong", [SKEW + SECOND, -SKEW - SECOND, timedelta(days=400), timedelta(days=-400)])
def test_a_clock_that_is_wrong_is_told_with_both_times(wrong: timedelta) -> None:
    """And what was said is not taken over."""
    clock = Machine(wrong=wrong).clock()
    with pytest.raises(
        UntrustedError, match=rf"says {NOON + wrong:%Y-%m-%dT%H:%M:%SZ} and the Steward's 2026-11-25T12"
    ):
        clock.hear(NOON)
    assert clock.now() == NOON + wrong


def test_a_clock_that_is_turned_back_is_not_followed() -> None:
    """Time goes on from what the Steward said; beyond SKEW the disagreement is told, until it is over."""
    machine = Machine()
    clock = machine.clock()
    clock.hear(NOON)
    machine.passed = 3600.0
    machine.wrong = -SKEW
    assert clock.agreed() == NOON + timedelta(hours=1)
    machine.wrong = timedelta(hours=-2)
    assert clock.now() == NOON + timedelta(hours=1)
    with pytest.raises(UnavailableError, match=r"turned back, to 2026-11-25T11:00:00Z; it is 2026-11-25T13:00:00Z"):
        clock.agreed()
    machine.wrong = timedelta()
    assert clock.agreed() == NOON + timedelta(hours=1)


def test_a_clock_that_is_turned_forwards_is_followed() -> None:
    """Certificates end early, which lets nobody in; the next one is refused."""
    machine = Machine()
    clock = machine.clock()
    clock.hear(NOON)
    machine.wrong = timedelta(days=1)
    assert clock.agreed() == NOON + timedelta(days=1)
    with pytest.raises(UntrustedError):
        clock.hear(NOON)


@given(st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 10**4), st.integers(-400, 400))))
def test_time_never_runs_backwards(steps: list[tuple[int, int, int]]) -> None:
    """Whatever the host does to the clock, and whatever Stewards say: not beneath what was heard once."""
    machine = Machine()
    clock = machine.clock()
    clock.hear(NOON)
    for wrong, passes, lag in steps:
        least = NOON + timedelta(seconds=machine.passed)
        machine.wrong = timedelta(seconds=wrong)
        assert clock.now() >= least
        machine.passed += passes
        try:
            clock.hear(NOON + timedelta(seconds=machine.passed + lag))
        except UntrustedError:
            continue
