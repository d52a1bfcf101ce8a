"""Buckets: who asks too much waits, who asks steadily does not."""

import os
from contextlib import suppress

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


def test_the_memory_of_it_is_bounded() -> None:
    """The identity not seen for longest is forgotten, and begins anew."""
    clock = Clock()
    buckets = Buckets("requests", 1, 60.0, clock, sets=1)
    known = [f"i{number}" for number in range(limits.WAYS)]
    for identity in known:
        clock.now += 0.001
        buckets.take(identity)
    with pytest.raises(TooManyError):
        buckets.take(known[0])
    buckets.take("another")
    with pytest.raises(TooManyError):
        buckets.take(known[1])
    buckets.take(known[0])


def test_processes_count_together() -> None:
    """Of all that several processes ask for at once, no more is allowed than to one of them."""
    buckets = Buckets("requests", 1000, 1e9)
    reading, writing = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            allowed = 0
            for _ in range(900):
                with suppress(TooManyError):
                    buckets.take("one")
                    allowed += 1
            os.write(writing, allowed.to_bytes(4, "big"))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found = os.read(reading, 12)
    os.close(reading)
    os.close(writing)
    assert sum(int.from_bytes(found[at : at + 4], "big") for at in range(0, 12, 4)) == 1000


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
