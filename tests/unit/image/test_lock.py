"""The lock: what it names is what is used, or nothing is."""

from hashlib import sha256
from pathlib import Path

import pytest

from enarx.errors import MalformedError, NotFoundError, UntrustedError
from enarx.image.lock import Deb, Lock, Wheel, fetch

LOCK = Lock(
    debs=(Deb(name="libc6", version="2:2.36-9+deb12u9", sha256=sha256(b"deb").hexdigest()),),
    wheels=(Wheel(file="enarx_guest-1.0-py3-none-any.whl", sha256=sha256(b"wheel").hexdigest()),),
)


def place(cache: Path, deb: bytes = b"deb", wheel: bytes = b"wheel") -> None:
    (cache / LOCK.debs[0].file).write_bytes(deb)
    (cache / LOCK.wheels[0].file).write_bytes(wheel)


def test_what_is_written_is_read() -> None:
    """The file says everything, in a fixed order."""
    assert Lock.parse(LOCK.encode(), source="image.lock") == LOCK


def test_packages_in_the_cache_are_compared_and_used(tmp_path: Path) -> None:
    """An epoch in a version is written as apt writes it in names of files."""
    place(tmp_path)
    assert set(fetch(LOCK, tmp_path)) == {"libc6_2%3a2.36-9+deb12u9_amd64.deb", "enarx_guest-1.0-py3-none-any.whl"}


@pytest.mark.parametrize("change", [{"deb": b"other"}, {"wheel": b"other"}])
def test_other_bytes_are_untrusted(tmp_path: Path, change: dict[str, bytes]) -> None:
    """Whatever a mirror or a cache holds, only what the lock names goes in."""
    place(tmp_path, **change)
    with pytest.raises(UntrustedError, match="expected SHA-256"):
        fetch(LOCK, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected \\[\\[deb\\]\\] and \\[\\[wheel\\]\\]"),
        ('[[deb]]\nname = "a"\nversion = "1"\nsha256 = "00"', "deb\\[0\\].sha256"),
        ('[[wheel]]\nfile = "../a-1-py3-none-any.whl"\nsha256 = ""', "wheel\\[0\\].file: expected the name of a wheel"),
        (
            '[[deb]]\nname = "-oAcquire::http::Proxy-Auto-Detect=/tmp/x"\n',
            "deb\\[0\\].name: expected the name of a Debian",
        ),
        ('[[deb]]\nname = "../../etc/a"\nversion = "1"\n', "deb\\[0\\].name"),
        ('[[deb]]\nname = "a"\nversion = "1 --option"\n', "deb\\[0\\].version: expected its version"),
        (
            '[[wheel]]\nfile = "-rother-1-py3-none-any.whl"\nsha256 = ""',
            "wheel\\[0\\].file: expected the name of a wheel",
        ),
        ('[[wheel]]\nfile = "a @ url-1-py3-none-any.whl"\nsha256 = ""', "wheel\\[0\\].file"),
        ("[[other]]\n", "other"),
    ],
)
def test_a_lock_that_is_none_is_refused(text: str, message: str) -> None:
    """Errors name the place."""
    with pytest.raises((MalformedError, NotFoundError), match=message):
        Lock.parse(text, source="image.lock")
