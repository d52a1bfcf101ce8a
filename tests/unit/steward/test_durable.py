"""Nothing is answered that the disk might forget, and one flush serves all who wait for it."""

import asyncio
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enarx.errors import UnavailableError
from enarx.steward.durable import Flushing
from enarx.steward.ledger import Ledger
from enarx.steward.revocation import Issued

AT = datetime(2026, 6, 1, tzinfo=UTC)


def issued(serial: int) -> Issued:
    return Issued(serial=f"{serial:x}", measurement="00", chip="", workload="", not_after=AT)


class Disk:
    """A flush that takes as long as it is told to, and what was written when each began."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.seen: list[int] = []
        self.begun = asyncio.Event()
        self.go = threading.Semaphore(0)
        self._loop = asyncio.get_running_loop()

    def flush(self) -> None:
        self.seen.append(len(self.written))
        self._loop.call_soon_threadsafe(self.begun.set)
        self.go.acquire()


def test_who_comes_during_a_flush_waits_for_the_next() -> None:
    """For the one that is under way may have begun before his line was written. Many share one."""

    async def story() -> None:
        disk = Disk()
        flushing = Flushing(disk.flush)

        async def write(number: int) -> None:
            disk.written.append(number)
            await flushing.flushed()
            assert any(seen > disk.written.index(number) for seen in disk.seen)

        first = asyncio.create_task(write(1))
        await disk.begun.wait()
        later = [asyncio.create_task(write(number)) for number in range(2, 6)]
        for _ in range(20):
            await asyncio.sleep(0)
        disk.go.release()
        await first
        assert not any(task.done() for task in later)
        disk.go.release()
        await asyncio.gather(*later)
        assert disk.seen == [1, 5]

    asyncio.run(story())


def test_a_client_that_leaves_takes_nobodys_flush_away() -> None:
    """And a flush that fails is told to all who waited for it, and to nobody after them."""

    async def story() -> None:
        disk, broken = Disk(), [True]

        def flush() -> None:
            disk.flush()
            if broken.pop():
                raise UnavailableError("no disk")

        flushing = Flushing(flush)
        leaving, staying = (asyncio.create_task(flushing.flushed()) for _ in range(2))
        await disk.begun.wait()
        leaving.cancel()
        disk.go.release()
        with pytest.raises(UnavailableError):
            await staying
        broken.append(False)
        disk.go.release()
        await flushing.flushed()

    asyncio.run(story())


def test_a_record_and_its_file_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines, and the directory when the file is new; then nothing is left to do, and no descriptor is left open."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").resolve().name))
    ledger, before = Ledger(tmp_path, durable=True), len([*Path("/proc/self/fd").iterdir()])
    ledger.record([issued(1)])
    ledger.record([issued(2)])
    ledger.flush()
    ledger.flush()
    assert sorted(flushed) == sorted([tmp_path.name, "issued-2026-06-01.jsonl"])
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert [item.serial for item in ledger.issued()] == ["1", "2"]


def test_a_disk_that_fails_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is not handed out."""

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    ledger = Ledger(tmp_path, durable=True)
    ledger.record([issued(1)])
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UnavailableError, match="Input/output error"):
        ledger.flush()


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    """A full disk, or a process that was lost, leaves a piece without an end; what comes after it is read."""
    ledger = Ledger(tmp_path)
    ledger.record([issued(1)])
    (file,) = tmp_path.glob("issued-*")
    whole = file.read_bytes()
    for cut in range(1, len(whole) - 1):
        file.write_bytes(whole + whole[:cut].rstrip(b"}\n"))
        ledger.record([issued(2)])
        assert [item.serial for item in ledger.issued()] == ["1", "2"]
