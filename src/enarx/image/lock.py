"""Which packages an image is made of: resolved once, written down with their SHA-256, and never taken on trust again.

    [[deb]]     name, version, sha256            [[wheel]]    file, sha256

`resolve` asks Debian's package lists and Python's registry through apt and pip; `fetch` brings exactly what the lock
names into a directory, or says which package can not be had any more. The lock is part of an image's identity: whoever
has it can build the image again and compare.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final, Self

from enarx import toml
from enarx.errors import MalformedError, NotFoundError, UnavailableError, UntrustedError
from enarx.toml import Table

KERNEL: Final = "linux-image-cloud-amd64"  # a name whose dependency is the kernel of the day
DEBS: Final = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libssl3",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libcrypt1",
    "libgcc-s1",
)
ARCHITECTURE_FREE: Final = frozenset({"ca-certificates"})
WHEELS: Final = (
    "wasmtime",
    "cryptography",
    "httpx2",
    "joserfc",
    "msgspec",
)  # what the agent imports, with what they need
PYTHON: Final = "3.11"  # of the Debian release whose packages these are
PLATFORMS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17, 12, 5)),
    "manylinux2014_x86_64",
)
MAX_LOCK: Final = 1 << 20  # bytes
DEB_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")  # Debian Policy, 5.6.7 and 5.6.12
DEB_VERSION: Final = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")
WHEEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.+!]+){4,5}\.whl")  # binary distribution format
PATIENCE: Final = 600.0  # seconds for a package client


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A Debian package."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return (
            f"{self.name}_{self.version.replace(':', '%3a')}_{'all' if self.name in ARCHITECTURE_FREE else 'amd64'}.deb"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A file of Python's registry."""

    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        name, version_, *_ = self.file.split("-")
        return f"{name}=={version_}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Everything that goes in, but for this program itself."""

    debs: tuple[Deb, ...]
    wheels: tuple[Wheel, ...]

    @classmethod
    def parse(cls, text: str | bytes, *, source: str) -> Self:
        """Raises ConfigError with the line and path of what is wrong."""
        document = toml.parse(text, source=source)
        debs = tuple(_deb(table) for table in document.tables("deb"))
        wheels = tuple(_wheel(table) for table in document.tables("wheel"))
        document.end()
        if not debs or not wheels:
            raise MalformedError(f"{source}: expected [[deb]] and [[wheel]] entries")
        return cls(debs=debs, wheels=wheels)

    def encode(self) -> str:
        """The file, in a fixed order."""
        debs = (
            f'[[deb]]\nname = "{d.name}"\nversion = "{d.version}"\nsha256 = "{d.sha256}"\n'
            for d in sorted(self.debs, key=lambda deb: deb.name)
        )
        wheels = (
            f'[[wheel]]\nfile = "{w.file}"\nsha256 = "{w.sha256}"\n' for w in sorted(self.wheels, key=lambda w: w.file)
        )
        return "\n".join((*debs, *wheels))


def resolve(cache: Path) -> Lock:
    """The versions of today for a Keep's machine; the files are left in `cache`. Raises UnavailableError, NotFoundError."""
    return _resolve(cache, (*DEBS, _kernel()), WHEELS)


def resolve_container(cache: Path) -> Lock:
    """The versions of today for a container with all three programs: no kernel, every dependency of ours."""
    names = {
        re.split(r"[\s;<>=!~\[]", text, maxsplit=1)[0] for text in requires("enarx") or [] if "extra ==" not in text
    }
    return _resolve(cache, (*DEBS, "ca-certificates"), sorted(names))


def _resolve(cache: Path, packages: Sequence[str], wanted: Sequence[str]) -> Lock:
    cache.mkdir(parents=True, exist_ok=True)
    debs = tuple(_candidate(name) for name in packages)
    with tempfile.TemporaryDirectory(dir=cache) as name:  # only what this resolution wants is in it
        _pip(Path(name), [f"{item}{_pin(item)}" for item in wanted], deps=True)
        found = [path.replace(cache / path.name) for path in sorted(Path(name).glob("*.whl"))]
    return Lock(debs=debs, wheels=tuple(Wheel(file=path.name, sha256=_digest(path)) for path in found))


def fetch(lock: Lock, cache: Path) -> Mapping[str, Path]:
    """Every file that the lock names, by its name. Raises UnavailableError, and UntrustedError for other bytes."""
    cache.mkdir(parents=True, exist_ok=True)
    missing = [deb for deb in lock.debs if not (cache / deb.file).exists()]
    if missing:
        _run(["apt-get", "download", *(f"{deb.name}={deb.version}" for deb in missing)], cache)
    wheels = [wheel for wheel in lock.wheels if not (cache / wheel.file).exists()]
    if wheels:
        _pip(cache, [wheel.requirement for wheel in wheels], deps=False)
    return {name: _verified(cache / name, digest) for name, digest in _files(lock)}


def _files(lock: Lock) -> list[tuple[str, str]]:
    return [*((deb.file, deb.sha256) for deb in lock.debs), *((wheel.file, wheel.sha256) for wheel in lock.wheels)]


def _verified(path: Path, digest: str) -> Path:
    if not path.exists():
        raise NotFoundError(f"{path.name}: can not be had any more; resolve a new lock")
    if (found := _digest(path)) != digest:
        raise UntrustedError(f"{path.name}: expected SHA-256 {digest}, found {found}")
    return path


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _kernel() -> str:
    text = _run(["apt-cache", "depends", KERNEL], Path())
    names = [line.split()[-1] for line in text.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise NotFoundError(f"{KERNEL}: apt knows no kernel by that name; run apt-get update")
    return names[0]


def _candidate(name: str) -> Deb:
    text = _run(["apt-cache", "show", "--no-all-versions", name], Path())
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
    if "Version" not in fields or "SHA256" not in fields:
        raise NotFoundError(f"{name}: apt knows no such package; run apt-get update")
    return Deb(name=name, version=fields["Version"], sha256=fields["SHA256"])


def _pin(name: str) -> str:
    """The version that runs here, so that an image runs what was tested; none where it is not installed."""
    try:
        return f"=={version(name)}"
    except PackageNotFoundError:
        wanted = next(
            (text for text in requires("enarx") or [] if text.partition(">")[0].partition("=")[0] == name), ""
        )
        return wanted.removeprefix(name)


def _pip(cache: Path, requirements: Sequence[str], *, deps: bool) -> None:
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    command += ["--dest", str(cache.resolve()), *([] if deps else ["--no-deps"]), *requirements]
    _run(command, cache)


def _run(command: Sequence[str], folder: Path) -> str:
    """A package client's answer. Raises UnavailableError with its last words."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]}: not on this machine; images are built from Debian's packages") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]}: no answer within {PATIENCE:g} seconds") from error
    if done.returncode:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UnavailableError(f"{' '.join(command[:2])}: {words[-1][:500] if words else 'failed without a word'}")
    return done.stdout


def _deb(table: Table) -> Deb:
    name = _word(table, "name", DEB_NAME, "the name of a Debian package")
    return Deb(name=name, version=_word(table, "version", DEB_VERSION, "its version"), sha256=_sha256(table))


def _wheel(table: Table) -> Wheel:
    return Wheel(file=_word(table, "file", WHEEL, "the name of a wheel"), sha256=_sha256(table))


def _word(table: Table, key: str, form: re.Pattern[str], what: str) -> str:
    """A word that package clients are called with: never an option of theirs, nor a place outside the cache."""
    found = table.string(key)
    if not form.fullmatch(found):
        raise table.error(key, f"expected {what}, found {found[:100]!r}")
    return found


def _sha256(table: Table) -> str:
    return table.hex("sha256", length=32).hex()
