"""Compiled code is kept for its user, and nobody else's counts."""

import stat
from pathlib import Path

import pytest

from enarx.keep.runtime import cache as module
from enarx.keep.runtime.cache import MAC_BYTES, Cache

from .conftest import Runner

HELLO = b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\7\n\1\6_start\0\0\n\4\1\2\0\x0b"


def _cache(root: Path) -> Cache:
    made = Cache.of_user(root / "code", root / "state" / "key")
    assert made is not None
    return made


def test_what_was_put_is_found_by_source_and_configuration(tmp_path: Path) -> None:
    """The name is what was compiled and by what; a new object with the same key finds it."""
    _cache(tmp_path).put("engine", b"source", b"code")
    assert _cache(tmp_path).get("engine", b"source") == b"code"
    assert _cache(tmp_path).get("engine 2", b"source") is None
    assert _cache(tmp_path).get("engine", b"other") is None


def test_what_was_changed_moved_or_made_with_another_key_does_not_count(tmp_path: Path) -> None:
    """A flipped bit, a file under another name, a foreign key: each is a miss."""
    cache = _cache(tmp_path)
    cache.put("engine", b"source", b"code")
    cache.put("engine", b"other", b"evil")
    files = sorted((tmp_path / "code").iterdir(), key=lambda file: file.read_bytes()[MAC_BYTES:])
    code, evil = files
    saved = code.read_bytes()
    code.write_bytes(evil.read_bytes())
    assert cache.get("engine", b"source") is None
    code.write_bytes(saved[:-1] + b"!")
    assert cache.get("engine", b"source") is None
    code.write_bytes(saved)
    assert cache.get("engine", b"source") == b"code"
    (tmp_path / "state" / "key").write_bytes(b"k" * 32)
    assert _cache(tmp_path).get("engine", b"source") is None


def test_directories_that_others_can_use_are_not_used(tmp_path: Path) -> None:
    """Anything but 0700 and 0600 of this user means no cache at all."""
    cache = _cache(tmp_path)
    assert stat.S_IMODE((tmp_path / "state" / "key").stat().st_mode) == 0o600
    cache.put("engine", b"source", b"code")
    (tmp_path / "code").chmod(0o755)
    assert Cache.of_user(tmp_path / "code", tmp_path / "state" / "key") is None
    (tmp_path / "code").chmod(0o700)
    (tmp_path / "state" / "key").chmod(0o640)
    assert Cache.of_user(tmp_path / "code", tmp_path / "state" / "key") is None


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files together stay within their bound."""
    monkeypatch.setattr(module, "MAX_BYTES", 3000)
    cache = _cache(tmp_path)
    for index in range(6):
        cache.put("engine", bytes([index]), bytes(900))
    assert sum(file.stat().st_size for file in (tmp_path / "code").iterdir()) <= 3000
    assert cache.get("engine", bytes([5])) == bytes(900)


def test_a_program_runs_from_the_cache(tmp_path: Path, run_guest: Runner) -> None:
    """The second run deserializes; code that is authentic but not for this engine is compiled again."""
    cache = _cache(tmp_path)
    assert run_guest(HELLO, cache=cache).code == 0
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "code").iterdir()}
    assert len(made) == 3  # program, shim and router
    assert run_guest(HELLO, cache=cache).code == 0
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "code").iterdir()} == made
    from enarx.keep.runtime.engine import configuration

    cache.put(configuration(), HELLO, b"\x7fELF no such code")
    assert run_guest(HELLO, cache=cache).code == 0
