"""The registry's pages in a real browser: readable in light and dark and on a phone, and nothing of a stranger's runs."""

import os
import shutil
import struct
import subprocess
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enarx.drawbridge.http import build
from tests.unit.conftest import Authority, Start, authority, start
from tests.unit.drawbridge.bench import Bench

__all__ = ["authority", "start"]  # fixtures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
README = (
    b"# Hello\n\nA package.\n\n<script>document.title = 'taken'</script>\n"
    b"<img src=x onerror=\"document.title = 'taken'\">\n\n[a](javascript:document.title='taken')\n"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture
def site(authority: Authority, start: Start, tmp_path: Path) -> "Site":
    """A registry with one public package, over plain HTTP on loopback."""
    bench = Bench(authority, at=datetime.now(UTC))
    token = bench.claim("alice", hello=True, secret=False)
    bench.publish("/alice/hello/_tag/1.0.0", {"main.wasm": b"\0asm\1\0\0\0", "README.md": README}, token)
    bench.publish("/alice/secret/_tag/1.0.0", {"main.wasm": b"\0asm\1\0\0\0"}, token)
    return Site(f"http://127.0.0.1:{start(build(bench.service))}", tmp_path)


class Site:
    """Pages, as the browser has them."""

    def __init__(self, base: str, folder: Path) -> None:
        self._base = base
        self._folder = folder

    def look(self, path: str, *options: str) -> tuple[str, str]:
        """The page after everything in it ran, and what the browser complained of."""
        command = [str(CHROMIUM), "--headless", "--disable-gpu", "--enable-logging=stderr", "--no-first-run"]
        command += ["--no-sandbox"] if os.getuid() == 0 else []
        command += [f"--user-data-dir={self._folder / 'profile'}", *options, self._base + path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    def picture(self, path: str, *options: str) -> tuple[int, tuple[int, ...]]:
        """Width of a screenshot, and the colour of its first pixel."""
        file = self._folder / "picture.png"
        self.look(path, f"--screenshot={file}", "--hide-scrollbars", *options)
        return first_pixel(file.read_bytes())


def first_pixel(png: bytes) -> tuple[int, tuple[int, ...]]:
    """Of a PNG: whatever its filter, the first pixel of the first row is stored as it is."""
    width = struct.unpack(">I", png[16:20])[0]
    data, at = b"", 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return width, tuple(zlib.decompress(data)[1:4])


def test_nothing_of_a_stranger_runs(site: Site) -> None:
    """A README full of scripts is text; the browser has nothing to complain of on any page."""
    for path in (
        "/",
        "/?q=hello",
        "/u/alice",
        "/u/alice/hello",
        "/u/alice/hello/1.0.0",
        "/u/alice/hello/1.0.0/README.md",
    ):
        page, complaints = site.look(path, "--dump-dom")
        assert "<script" not in page
        assert "<img" not in page
        assert "taken</title>" not in page
        assert not complaints
    assert "<h2>Hello</h2>" in page
    assert "secret" not in site.look("/", "--dump-dom")[0]


def test_light_and_dark_and_a_phone(site: Site) -> None:
    """The page follows what the reader prefers, and fits the width of a phone."""
    width, light = site.picture("/u/alice/hello", "--blink-settings=preferredColorScheme=1", "--window-size=390,844")
    _, dark = site.picture("/u/alice/hello", "--blink-settings=preferredColorScheme=0", "--window-size=390,844")
    assert width == 390
    assert min(light) > 200
    assert max(dark) < 60
