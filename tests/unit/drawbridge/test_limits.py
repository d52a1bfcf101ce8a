"""Buckets: who asks too much waits, who asks steadily does not."""

import pytest

from enarx.drawbridge import limits
from enarx.drawbridge.limits import Buckets, TooManyError, address_identity


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_fine_and_a_stream_is_not() -> None:
    """The whole allowance at once, then as fast as it fills; one identity does not use up another's."""
    clock = Clock()
    buckets = Buckets("requests", 60, 60.0, clock)
    for _ in range(60):
        buckets.take("a")
    with pytest.raises(TooManyError, match="Too many requests; try again in 1 seconds"):
        buckets.take("a")
    buckets.take("b")
    clock.now += 2
    buckets.take("a", 2)
    with pytest.raises(TooManyError):
        buckets.take("a")
    clock.now += 1000
    buckets.take("a", 60)


def test_what_was_refused_is_given_back() -> None:
    """An upload that failed does not count."""
    buckets = Buckets("bytes", 100, 60.0, Clock())
    buckets.take("a", 100)
    buckets.give_back("a", 100)
    buckets.take("a", 100)
    with pytest.raises(TooManyError, match="Too many bytes"):
        buckets.take("a", 1)


def test_the_memory_of_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity not seen for longest is forgotten."""
    monkeypatch.setattr(limits, "MAX_KNOWN", 2)
    buckets = Buckets("requests", 1, 60.0, Clock())
    for identity in "abc":
        buckets.take(identity)
    buckets.take("a")
    with pytest.raises(TooManyError):
        buckets.take("c")


@pytest.mark.parametrize(
    ("client", "identity"),
    [
        ("192.0.2.1", "address:192.0.2.1"),
        ("::ffff:192.0.2.1", "address:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "address:2001:db8:1:2::/64"),
        (None, "address:unknown"),
        ("testclient", "address:unknown"),
    ],
)
def test_an_address_stands_for_who_holds_it(client: str | None, identity: str) -> None:
    """One IPv4 address, or the network that one host gets."""
    assert address_identity(client) == identity
