"""What was written is on the disk before a certificate leaves: one flush for all who wait for it.

A flush takes milliseconds, much longer than a judgement. So it is done beside the event loop, and whoever comes while
one is under way shares the next: under load a flush costs each request little, and none is answered before it.
"""

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool


class Flushing:
    """Calls `flush`, which raises UnavailableError when it fails, once for all that were written before it began."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._current: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def flushed(self) -> None:
        """Returns when all is on the disk that was written before the call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._round(self._current))
        await asyncio.shield(self._next)  # one client that leaves takes nobody's flush away

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._current, self._next = self._next, None  # from here on, others write what this may not see
        await run_in_threadpool(self._flush)
