"""When a Keep is attested again: early, not all at once, and as often as it takes."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from enarx.errors import UnavailableError
from enarx.keep.identity import Identity
from enarx.keep.refusal import RefusalError
from enarx.keep.renewal import LONGEST_PAUSE, SHORTEST_PAUSE, Renewal

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Lasting:
    """As much of an identity as renewal looks at."""

    ends: datetime


@dataclass
class Life:
    """A Keep whose time passes when it sleeps, and whose Steward fails when told to."""

    now: datetime = NOW
    lifetime: timedelta = timedelta(hours=8)
    outages: list[tuple[datetime, datetime]] = field(default_factory=list)
    until: datetime = NOW + timedelta(days=1)
    random: float = 0.5
    tried: list[datetime] = field(default_factory=list)
    used: list[Identity] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def identity(self) -> Identity:
        return Lasting(self.now + self.lifetime)  # type: ignore[return-value]  # see Lasting

    def renew(self) -> Identity:
        self.tried.append(self.now)
        if any(begin <= self.now < end for begin, end in self.outages):
            raise RefusalError("steward", UnavailableError("nobody answers"))
        return self.identity()

    def sleep(self, seconds: float) -> bool:
        assert seconds >= SHORTEST_PAUSE
        self.now += timedelta(seconds=seconds)
        return self.now >= self.until

    def live(self) -> None:
        Renewal(
            renew=self.renew,
            use=self.used.append,
            failed=lambda error, _: self.failures.append(str(error)),
            now=lambda: self.now,
            sleep=self.sleep,
            random=lambda: self.random,
        ).run(self.identity())


def test_a_certificate_is_renewed_when_two_thirds_are_over() -> None:
    """Eight hours long, it is replaced after five hours and twenty minutes, and so the next."""
    life = Life()
    life.live()
    assert life.tried == [NOW + timedelta(minutes=320 * n) for n in range(1, 5)]
    assert len(life.used) == 4


@pytest.mark.parametrize(("random", "hours"), [(0.0, 4.8), (1.0, 5.866)])
def test_keeps_that_began_together_do_not_come_together(random: float, hours: float) -> None:
    """A tenth earlier or later."""
    life = Life(random=random, until=NOW + timedelta(hours=7))
    life.live()
    assert life.tried[0] - NOW == pytest.approx(timedelta(hours=hours), abs=timedelta(minutes=1))


def test_an_outage_is_outlived_with_growing_pauses() -> None:
    """The pauses double up to five minutes; after the outage the next try succeeds, before the certificate ends."""
    begin = NOW + timedelta(hours=5)
    life = Life(outages=[(begin, begin + timedelta(hours=1))], until=NOW + timedelta(hours=8))
    life.live()
    pauses = [(later - earlier).total_seconds() for earlier, later in zip(life.tried, life.tried[1:], strict=False)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == LONGEST_PAUSE
    assert len(life.failures) == len(life.tried) - 1
    assert life.used[0].ends > NOW + timedelta(hours=13)


def test_trying_goes_on_beyond_the_end() -> None:
    """A Steward that is away for a day finds the Keep still asking."""
    life = Life(outages=[(NOW, NOW + timedelta(hours=20))], until=NOW + timedelta(hours=21))
    life.live()
    assert len(life.used) == 1
    assert timedelta(0) <= life.tried[-1] - (NOW + timedelta(hours=20)) <= timedelta(seconds=LONGEST_PAUSE)


def test_short_certificates_get_several_tries() -> None:
    """The pauses shrink to what is left, so that not a single failure decides."""
    life = Life(
        lifetime=timedelta(seconds=60), outages=[(NOW, NOW + timedelta(seconds=57))], until=NOW + timedelta(seconds=59)
    )
    life.live()
    assert len(life.tried) >= 5
    assert life.used
