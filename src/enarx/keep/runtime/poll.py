"""poll_oneoff: clocks and descriptors of every kind in one list.

A subscription to something that never blocks is an event at once. The others are asked of the operating system, and
what it says is confirmed by the descriptor: half a TLS record makes a socket readable, but not for the program.

What cannot be waited for fails the call as a whole, as in wasmtime; where a socket is waited for as well, which
wasmtime does not know, it is an event of its own (libc's POLLNVAL), and a server goes on with its other clients.
"""

import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from enarx.keep.runtime.abi import (
    ABSOLUTE,
    CLOCK,
    EVENT,
    FD_READ,
    FD_WRITE,
    HANGUP,
    MONOTONIC,
    REALTIME,
    SUBSCRIPTION,
    U32,
    Errno,
    FileType,
    Refused,
)
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.memory import GuestMemory
from enarx.keep.runtime.waiting import Waiter

Event = tuple[int, int, int, int, int]  # userdata, errno, type, bytes, flags

NATIVE: Final = "native"  # a descriptor of wasmtime's own: files, which never block

_CLOCKS: Final = {REALTIME: time.time_ns, MONOTONIC: time.monotonic_ns}


Watch = tuple[int, int, Descriptor]  # userdata, kind, and whom the operating system has to be asked about


def poll_oneoff(
    memory: GuestMemory, waiter: Waiter, find: Callable[[int], Descriptor | str | None], arguments: Sequence[int]
) -> None:
    """Answer the call whose arguments are the addresses of subscriptions, events, their count, and the result."""
    source, target, count, result = arguments
    if not count:
        raise Refused(Errno.INVAL)
    subscriptions = memory.slice(source, SUBSCRIPTION.size * count)
    memory.slice(target, EVENT.size * count)
    memory.slice(result, 4)
    events, clocks, watches = _sort(subscriptions, find)
    deadline = time.monotonic() if events else min((at for at, _ in clocks), default=None)
    events += _watch(waiter, watches, deadline)
    now = time.monotonic()
    events += [event for at, event in clocks if at <= now]
    for index, event in enumerate(events):
        memory.pack(EVENT, target + index * EVENT.size, *event)
    memory.pack(U32, result, len(events))


def _sort(
    subscriptions: memoryview, find: Callable[[int], Descriptor | str | None]
) -> tuple[list[Event], list[tuple[float, Event]], list[Watch]]:
    """What is true already, what becomes true at a monotonic time, and what has to be waited for."""
    events: list[Event] = []
    sockets, bad = False, False
    clocks: list[tuple[float, Event]] = []
    watches: list[Watch] = []
    for userdata, kind, first, timeout, _, flags in SUBSCRIPTION.iter_unpack(subscriptions):
        if kind == CLOCK:
            at = _deadline(first & 0xFFFFFFFF, timeout, flags & 0xFFFF)
            if at is None:
                events.append((userdata, Errno.INVAL, kind, 0, 0))
            else:
                clocks.append((at, (userdata, Errno.SUCCESS, kind, 0, 0)))
        elif kind in {FD_READ, FD_WRITE}:
            descriptor = find(first & 0xFFFFFFFF)
            if isinstance(descriptor, Descriptor):  # the usual one first: a server waits for thousands
                sockets = sockets or descriptor.filetype is FileType.SOCKET_STREAM
                if kind in descriptor.polled:
                    ready = descriptor.ready_bytes(kind)
                    if ready is None:
                        watches.append((userdata, kind, descriptor))
                    else:
                        events.append((userdata, Errno.SUCCESS, kind, ready, 0))
                    continue
            elif descriptor is not None:
                events.append((userdata, Errno.SUCCESS, kind, 1, 0))
                continue
            bad = True
            events.append((userdata, Errno.BADF, kind, 0, 0))
        else:
            raise Refused(Errno.INVAL)
    if bad and not sockets:
        raise Refused(Errno.BADF)
    return events, clocks, watches


def _deadline(clock: int, timeout: int, flags: int) -> float | None:
    """The monotonic time, in seconds, of a clock subscription; None for a clock that cannot be waited for."""
    if clock not in _CLOCKS:
        return None
    wait = timeout - _CLOCKS[clock]() if flags & ABSOLUTE else timeout
    return time.monotonic() + max(0, wait) / 1e9


def _watch(waiter: Waiter, watches: Sequence[Watch], deadline: float | None) -> list[Event]:
    """The events of the first wait that has any for the program; none when the deadline came first."""
    if not watches:
        if deadline is not None:
            waiter.poll({}, deadline)
        return []
    numbers = [descriptor.fileno() for _, _, descriptor in watches]
    while True:
        wanted: dict[int, int] = {}
        for number, (_, kind, descriptor) in zip(numbers, watches, strict=True):
            wanted[number] = wanted.get(number, 0) | descriptor.wants(kind)
        happened = waiter.poll(wanted, deadline)
        events = [
            event
            for number, watch in zip(numbers, watches, strict=True)
            if number in happened and (event := _event(watch, happened[number])) is not None
        ]
        if events or not happened:
            return events


def _event(watch: Watch, happened: int) -> Event | None:
    userdata, kind, descriptor = watch
    if happened & select.POLLNVAL:
        return (userdata, Errno.BADF, kind, 0, 0)
    failed = happened & (select.POLLHUP | select.POLLERR)
    if not happened & descriptor.wants(kind) and not failed:
        return None
    count = descriptor.confirm(kind)
    if count is None and not failed:
        return None
    return (userdata, Errno.SUCCESS, kind, count or 0, HANGUP if happened & select.POLLHUP else 0)
