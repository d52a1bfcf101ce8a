"""Between the event loop and threads: bodies that are read, hashed and written while the loop sends and receives.

`ahead` gives the pieces of an iterator that a thread runs where it has to wait, `pour` hands pieces to a function that
a thread calls. In both, what waits between the two is bounded, and neither waits for the other while there is something
left to do: each wait is a switch of threads, which on a busy machine takes longer than the work on one piece. Pieces
keep their order, and there is never more than one thread at an iterator or a function.

What may wait is SHARE for each body, and BUDGET for all bodies that are under way, but never less than a piece.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from itertools import count
from threading import Lock
from typing import Any, Final, Self

from starlette.concurrency import run_in_threadpool

from enarx.drawbridge.store.api import Prompt

SENT: Final = 1 << 17  # bytes that are given to the server at once: it holds what a slow reader does not take
SHARE: Final = 8 << 20
BUDGET: Final = 10 << 20
TURNS: Final = 4  # pieces after which a body lets others go on

_underway = 0  # bodies, of this process; changed by the event loop's thread alone


class _Between:
    """Pieces that one side has and the other has not taken yet, and whether a thread is at work on its side.

    A thread that finds nothing to do says so under the same lock under which pieces move, and ends; so it is either
    seen to be at work and sees what was put, or another is begun.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self._lock = Lock()
        self._pieces: deque[bytes] = deque()
        self._size = 0  # of all that and of what was taken last, which is in use
        self._in_use = 0
        self._working: set[asyncio.Task[None]] = set()  # the one at work, and those whose end the loop has not seen
        self._error: BaseException | None = None
        self.at_work = False
        self.is_over = False  # nobody wants any more

    # -- from both sides

    def put(self, piece: bytes) -> None:
        with self._lock:
            self._pieces.append(piece)
            self._size += len(piece)

    def take(self) -> bytes | None:
        """The next piece. Whoever takes it has done with the one before."""
        with self._lock:
            piece = self._pieces.popleft() if self._pieces else None
            self._size -= self._in_use
            self._in_use = len(piece or b"")
            return piece

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    @property
    def is_full(self) -> bool:
        return self._size >= _share()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    @property
    def has_room(self) -> bool:
        return self._size <= _share() // 2

    # -- from the thread

    def told(self) -> None:
        """Something was put or taken."""
        self._loop.call_soon_threadsafe(self._moved.set)

    def may_rest(self, when: Callable[[], bool]) -> bool:
        """Whether there is nothing to do; then the thread has to end, and another may already be at work."""
        with self._lock:
            self.at_work = not when()
            return not self.at_work

    def _run(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - for the other side, which raises it
            self._error = error
            self.at_work = False
        self.told()

    # -- from the event loop

    def work(self, act: Callable[[], None]) -> None:
        """Let a thread act. Raises what the last one raised."""
        self.require_success()
        self.at_work = True
        task = self._loop.create_task(run_in_threadpool(self._run, act))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    def require_success(self) -> None:
        """Raises what a thread raised."""
        if self._error is not None:
            raise self._error

    async def wait(self, until: Callable[[], bool]) -> None:
        """For what the thread does, or for its end."""
        while not until() and self.at_work:
            self._moved.clear()
            if not until() and self.at_work:
                await self._moved.wait()

    async def __aenter__(self) -> Self:
        global _underway  # noqa: PLW0603 - one number for the process
        _underway += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Whoever cleans up must be alone: the thread ends first."""
        global _underway  # noqa: PLW0603 - as above
        _underway -= 1
        self.is_over = True
        for task in tuple(self._working):
            await settled(task)


def _share() -> int:
    return min(SHARE, BUDGET // max(1, _underway))


class _Ahead(_Between):
    """Pieces that are read: at once where that takes no waiting, by a thread where it does."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces_to_come = pieces
        self._now = pieces.now if isinstance(pieces, Prompt) else lambda: None
        self._misses = 0  # one after the other
        self.has_ended = False

    def read(self) -> None:
        """From the thread."""
        for piece in self._pieces_to_come:
            self.put(piece)
            self.told()
            if self.may_rest(lambda: self._misses < 2 or self.is_full or self.is_over):  # else it might never catch up
                return
        self.has_ended = self.may_rest(lambda: True)

    async def next(self) -> bytes | None:
        """The next piece; None when it is on its way, or when there is none any more."""
        await self.wait(lambda: not self.is_empty)
        piece = self.take()
        if piece is None:
            self.require_success()
            piece = None if self.has_ended else self._now()
            self._misses = self._misses + 1 if piece is None else 0
        may_read = self.has_room and not (self.at_work or self.has_ended or self.has_failed)
        if may_read and (piece is None or self._misses > 1):
            self.work(self.read)
        return piece


async def ahead(pieces: Iterator[bytes], first: bytes = b"") -> AsyncGenerator[memoryview, None]:
    """`first` and the pieces. Raises what reading them raises, in its place.

    What is at hand is taken when it is wanted, without a thread. What is not, a thread reads, and once that has
    happened again it reads on while others are used.
    """
    async with _Ahead(pieces) as source:
        piece: bytes | None = first
        for turn in count(1):
            for part in _parts(piece or b""):
                yield part
            piece = await source.next()
            if piece is None and source.has_ended and source.is_empty:
                return
            if turn % TURNS == 0:
                await asyncio.sleep(0)  # however fast this reader is, others have their turn


def _parts(piece: bytes) -> Iterator[memoryview]:
    return (memoryview(piece)[at : at + SENT] for at in range(0, len(piece), SENT))


async def pour(
    pieces: AsyncIterator[bytes], write: Callable[[bytes], None], look: Callable[[bytes], None] = lambda _: None
) -> None:
    """Let a thread write each piece while the next ones arrive. Raises what writing raises; the rest is not written.

    `look` sees each piece before that, here. What takes many short steps belongs there: after each step a thread has
    to have the interpreter again, and on a busy machine whoever has it may be out of turn for longer than a step takes.
    """

    def write_all() -> None:
        while not between.may_rest(lambda: between.is_empty or between.is_over):
            piece = between.take()
            between.told()
            if piece is not None:
                write(piece)

    async with _Between() as between:
        async for piece in pieces:
            look(piece)
            between.put(piece)
            if not between.at_work:
                between.work(write_all)
            await between.wait(lambda: not between.is_full)
        await between.wait(lambda: False)
        between.require_success()


async def settled(task: "asyncio.Task[Any]") -> None:  # Any: whatever it would have given
    """Wait for the end of a thread's work, whatever it is: raised already, or beside what is raised."""
    await asyncio.wait([task])
    _ = task.cancelled() or task.exception()
