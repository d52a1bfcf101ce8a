"""Quotas: what one identity uploads in a day, counted where all servers see it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from enarx.drawbridge import layout
from enarx.drawbridge.limits import TooManyError
from enarx.drawbridge.quotas import SHARES, Quotas
from enarx.drawbridge.records import DamagedError
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.store import MemoryStore
from enarx.drawbridge.upkeep import fsck, gc

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
ALLOWED = 64_000


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def test_a_restart_gives_nothing_back() -> None:
    """What was taken is known to the next process, but for what the last one had set aside."""
    store, clock = MemoryStore(), Clock()
    Quotas(store, ALLOWED, clock).take("a", ALLOWED - 1000)
    after = Quotas(store, ALLOWED, clock)
    with pytest.raises(TooManyError, match="Too many uploaded bytes; try again in 2 seconds"):
        after.take("a", 1001)
    after.take("a", 1000)
    after.take("b", ALLOWED)


def test_many_processes_allow_no_more_than_one() -> None:
    """However they race: never more than the allowance, and less by at most a share for each of them."""
    store, clock, size = MemoryStore(), Clock(), 100
    servers = [Quotas(store, ALLOWED, clock) for _ in range(4)]

    def upload(number: int) -> int:
        try:
            servers[number % 4].take("a", size)
        except TooManyError:
            return 0
        return size

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(upload, range(2 * ALLOWED // size)))
    assert ALLOWED - 4 * ALLOWED // SHARES <= taken <= ALLOWED


def test_a_small_upload_costs_no_entry() -> None:
    """A process sets a share aside; only when that is used up does it ask again."""
    store, clock = MemoryStore(), Clock()
    quotas = Quotas(store, ALLOWED, clock)
    for _ in range(2 * ALLOWED // SHARES):
        quotas.take("a", 1)
    assert len(list(store.list(layout.QUOTAS))) == 2


def test_it_fills_through_the_day_and_over_midnight() -> None:
    """Half a day gives half of it back, on the next date as well; after a day it is whole, and no more than that."""
    store, clock = MemoryStore(), Clock()
    Quotas(store, ALLOWED, clock).take("a", ALLOWED)
    clock.now += timedelta(hours=12)  # midnight
    with pytest.raises(TooManyError):
        Quotas(store, ALLOWED, clock).take("a", ALLOWED // 2 + 10)
    Quotas(store, ALLOWED, clock).take("a", ALLOWED // 2)
    clock.now += timedelta(days=10)
    with pytest.raises(TooManyError):
        Quotas(store, ALLOWED, clock).take("a", ALLOWED + 1)
    Quotas(store, ALLOWED, clock).take("a", ALLOWED)


def test_what_was_set_aside_does_not_add_up() -> None:
    """What a process holds since yesterday counts no more: the allowance has filled meanwhile."""
    store, clock = MemoryStore(), Clock()
    quotas = Quotas(store, ALLOWED, clock)
    quotas.take("a", 1)
    clock.now += timedelta(days=2)
    with pytest.raises(TooManyError):
        quotas.take("a", ALLOWED + 1)
    quotas.take("a", ALLOWED)


def test_what_was_refused_or_failed_is_given_back() -> None:
    """A refusal takes nothing, and an upload that failed does not count."""
    quotas = Quotas(MemoryStore(), ALLOWED, Clock())
    quotas.take("a", 10)  # and sets a share aside
    with pytest.raises(TooManyError):
        quotas.take("a", ALLOWED)
    quotas.take("a", ALLOWED - 10)
    quotas.give_back("a", ALLOWED)
    quotas.take("a", ALLOWED)
    with pytest.raises(TooManyError):
        quotas.take("a", 1)


def test_upkeep_knows_them() -> None:
    """Old days are collected, today and yesterday stay; an entry that is damaged is found."""
    clock = Clock()
    store = MemoryStore(clock)
    registry = Registry(store, clock)
    for _ in range(5):
        Quotas(store, ALLOWED, clock).take("a", 1)
        clock.now += timedelta(days=1)
    gc(registry)
    left = sorted(item.key.segments[1] for item in store.list(layout.QUOTAS))
    assert left == ["2026-05-06", "2026-05-07", "2026-05-08"]
    assert list(fsck(registry)) == []
    key = next(iter(store.list(layout.QUOTAS))).key
    with store.upload() as upload:
        upload.write(b"x")
        upload.commit(key)
    assert [finding.key for finding in fsck(registry)] == [key]
    clock.now = datetime(2026, 5, 6, 13, tzinfo=UTC)
    with pytest.raises(DamagedError):
        Quotas(store, ALLOWED, clock).take("a", 1)
