"""File systems in processes of their own (FUSE), for emulators of what the kernel shows as files."""

import ctypes.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

LIBRARY: Final = "libfuse3.so.3"
os.environ.setdefault("FUSE_LIBRARY_PATH", LIBRARY)

import mfusepy  # type: ignore[import-untyped]  # noqa: E402 - reads the variable when it is imported

Operations: Any = mfusepy.Operations  # Any: mfusepy has no types
FuseOSError: Any = mfusepy.FuseOSError


def serve(operations: Any, mount: str) -> None:  # Any: as above
    """Be the file system until it is unmounted; every read and write is asked of `operations`, one after another."""
    mfusepy.FUSE(operations, mount, foreground=True, direct_io=True, nothreads=True)


def missing() -> str | None:
    """Why it cannot run here; None when it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there, or not for this user"
    if ctypes.util.find_library("fuse3") is None:
        return "libfuse3 is not installed"
    return None


@contextmanager
def mounted(module: str, mount: Path, *words: str) -> Iterator[Path]:
    """`python -m MODULE MOUNT WORDS…` at a directory that is made; skips the test where that cannot be."""
    reason = missing()
    if reason is not None:
        pytest.skip(f"{module.rpartition('.')[2]} cannot be emulated here: {reason}")
    mount.mkdir()
    process = subprocess.Popen([sys.executable, "-m", module, str(mount), *words], cwd=Path(__file__).parents[2])
    try:
        while not mount.is_mount():
            assert process.poll() is None, "the emulator ended"
            time.sleep(0.02)
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        process.wait(timeout=30)
