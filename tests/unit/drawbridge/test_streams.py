"""Bodies between the event loop and threads: in order, within bounds, and nobody is left behind."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from enarx.drawbridge import streams
from enarx.errors import UnavailableError

PIECES = [bytes([number % 256]) * (1 + number * 7919 % 100_000) for number in range(300)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SHARE", 400_000)
    monkeypatch.setattr(streams, "SENT", 30_000)


async def _given(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for number, piece in enumerate(pieces):
        if number % 7 == 0:
            await asyncio.sleep(0)
        yield piece


def test_what_is_read_ahead_comes_whole_and_in_order() -> None:
    """All bytes, in pieces that the server can take, whoever is slower."""

    async def everything(*, slowly: bool) -> bytes:
        found = bytearray()
        async for piece in streams.ahead(iter(PIECES)):
            assert 0 < len(piece) <= streams.SENT
            found += piece
            if slowly and len(found) % 3 == 0:
                await asyncio.sleep(0.001)
        return bytes(found)

    for slowly in (False, True):
        assert asyncio.run(everything(slowly=slowly)) == b"".join(PIECES)


class AtHand(Iterator[bytes]):
    """Pieces of which some are at hand, and in which threads the others were read."""

    def __init__(self, at_hand: Callable[[int], bool]) -> None:
        self.number = 0
        self.readers: list[str] = []
        self._at_hand = at_hand

    def __next__(self) -> bytes:
        if self.number == len(PIECES):
            raise StopIteration
        self.number += 1
        self.readers.append(threading.current_thread().name)
        return PIECES[self.number - 1]

    def now(self) -> bytes | None:
        if self.number == len(PIECES) or not self._at_hand(self.number):
            return None
        self.number += 1
        return PIECES[self.number - 1]


@pytest.mark.parametrize(
    "at_hand", [lambda _: True, lambda at: at % 50 != 49, lambda at: at > 200, lambda at: at < 200, lambda _: False]
)
def test_what_is_at_hand_needs_no_thread(at_hand: Callable[[int], bool]) -> None:
    """All bytes in order, whatever is at hand; the event loop's thread never reads what may take waiting."""
    pieces = AtHand(at_hand)

    async def everything() -> bytes:
        return b"".join([bytes(part) async for part in streams.ahead(pieces, b"first")])

    assert asyncio.run(everything()) == b"first" + b"".join(PIECES)
    assert threading.current_thread().name not in pieces.readers
    assert bool(pieces.readers) != all(map(at_hand, range(len(PIECES))))


def test_who_takes_nothing_has_nothing_read_that_is_at_hand() -> None:
    """However many readers wait, each piece is read when it is wanted; and a reader in a hurry lets others go on."""

    async def all_of_them() -> None:
        sources = [AtHand(lambda _: True) for _ in range(50)]
        bodies = [streams.ahead(source, b"first") for source in sources]
        for body in bodies:
            await anext(body)
        await asyncio.sleep(0.01)
        assert {source.number for source in sources} == {0}
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        async for _ in bodies[0]:
            pass
        task.cancel()
        assert turns >= len(PIECES) // streams.TURNS
        for body in bodies:
            await body.aclose()

    asyncio.run(all_of_them())


def test_what_is_poured_is_written_whole_and_in_order_by_one_thread_at_a_time() -> None:
    """All bytes, and no piece begins before the last one is written."""
    found = bytearray()
    alone = threading.Lock()

    def write(piece: bytes) -> None:
        assert alone.acquire(blocking=False)
        found.extend(piece)
        time.sleep(0.0005 if len(piece) % 5 == 0 else 0)
        alone.release()

    asyncio.run(streams.pour(_given(PIECES), write))
    assert bytes(found) == b"".join(PIECES)


def test_reading_ahead_is_bounded() -> None:
    """Who takes nothing lets a thread read no more than its share and a piece."""
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for piece in PIECES:
            read += len(piece)
            yield piece

    async def one() -> None:
        body = streams.ahead(pieces())
        await anext(body)
        await asyncio.sleep(0.05)
        assert read <= 2 * streams.SHARE + 200_000
        await body.aclose()

    asyncio.run(one())


def test_many_bodies_share_what_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more are under way, the less may wait for each."""
    monkeypatch.setattr(streams, "BUDGET", 800_000)
    read = [0] * 8

    def pieces(at: int) -> Iterator[bytes]:
        for _ in range(100):
            read[at] += 10_000
            yield bytes(10_000)

    async def all_of_them() -> None:
        bodies = [streams.ahead(pieces(at)) for at in range(8)]
        await asyncio.gather(*map(anext, bodies))
        await asyncio.sleep(0.05)
        assert read[7] <= 200_000 + 20_000
        for body in bodies:
            await body.aclose()
        assert streams._underway == 0

    asyncio.run(all_of_them())


def test_many_bodies_share_what_waits_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What storage is too slow for waits outside; what it is busy with counts."""
    monkeypatch.setattr(streams, "BUDGET", 800_000)
    taken, proceed = [0] * 20, threading.Event()

    async def pieces(at: int) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)  # until all are under way
        for _ in range(20):
            taken[at] += 10_000
            yield bytes(10_000)

    async def all_of_them() -> None:
        bodies = [
            asyncio.create_task(streams.pour(pieces(at), lambda _: _ignore(proceed.wait(10)))) for at in range(20)
        ]
        await asyncio.sleep(0.1)
        assert sum(taken) <= streams.BUDGET + 20 * 10_000
        proceed.set()
        await asyncio.gather(*bodies)
        assert sum(taken) == 20 * 200_000

    asyncio.run(all_of_them())


def _ignore(_: object) -> None:
    pass


def test_what_reading_raises_comes_after_what_was_read() -> None:
    """The pieces before are given, then the error; nothing after."""

    def pieces() -> Iterator[bytes]:
        yield from PIECES[:5]
        raise UnavailableError("storage: read: broken")

    async def everything() -> None:
        async for piece in streams.ahead(pieces()):
            found.extend(piece)

    found = bytearray()
    with pytest.raises(UnavailableError, match="broken"):
        asyncio.run(everything())
    assert bytes(found) == b"".join(PIECES[:5])


@pytest.mark.parametrize("at", [0, 3, len(PIECES) - 1])
def test_what_writing_raises_ends_it(at: int) -> None:
    """The first error is the answer, and nothing is written after it."""
    written: list[bytes] = []

    def write(piece: bytes) -> None:
        if len(written) == at:
            raise UnavailableError("storage: write: full")
        written.append(piece)

    with pytest.raises(UnavailableError, match="full"):
        asyncio.run(streams.pour(_given(PIECES), write))
    assert written == PIECES[:at]


def _broken_off(begin: Callable[[threading.Event, threading.Event], AsyncIterator[object]]) -> bool:
    """Cancel while a thread is in the middle of a piece; whether it was through when the cancelled one was."""
    entered, leave = threading.Event(), threading.Event()
    through = False

    async def work() -> None:
        nonlocal through
        try:
            async for _ in begin(entered, leave):
                pass
        finally:
            through = leave.is_set()

    async def broken_off() -> None:
        task = asyncio.create_task(work())
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, leave.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(broken_off())
    return through


def test_whoever_cleans_up_is_alone() -> None:
    """A body that is broken off waits for its thread, in both directions."""

    def reading(entered: threading.Event, leave: threading.Event) -> AsyncIterator[object]:
        def pieces() -> Iterator[bytes]:
            entered.set()
            leave.wait(10)
            yield b"x"

        return streams.ahead(pieces())

    async def writing(entered: threading.Event, leave: threading.Event) -> AsyncIterator[object]:
        def write(_: bytes) -> None:
            entered.set()
            leave.wait(10)

        await streams.pour(_given([b"x", b"y"]), write)
        yield None

    assert _broken_off(reading)
    assert _broken_off(writing)
