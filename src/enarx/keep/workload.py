"""Workload: the program, its configuration and its data, checked against limits and ready to run.

Decides what of a package is the program: `main.wasm` is the program, `Enarx.toml` beside it the configuration,
every other file is data by its path, for the program to read under /package. The limits are those of the
originals for the first two and ours for the data. Where the bytes come from, and whether they are the right ones,
is decided before (`enarx.keep.provision`, `enarx.cli.run`); whether the module runs, after (`enarx.keep.runtime`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from enarx.errors import MalformedError
from enarx.keep.config import Config

MAX_WASM: Final = 100_000_000  # bytes of main.wasm, as the originals
MAX_CONFIG: Final = 1_000_000  # bytes of Enarx.toml, as the originals; `enarx.toml` refuses more
MAX_DATA: Final = 500_000_000  # bytes of all data files: they live in the Keep's memory
MAX_DATA_FILES: Final = 10_000

WASM_NAME: Final = "main.wasm"
CONFIG_NAME: Final = "Enarx.toml"
HANDLER: Final = "wasi:http/incoming-handler"  # what a component exports that serves HTTP

_CORE_MODULE: Final = b"\0asm\x01\0\0\0"
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What runs. `files` are the package's data: bytes by relative path with '/' between names."""

    wasm: bytes = field(repr=False)
    config: Config = field(default_factory=Config)
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __post_init__(self) -> None:
        _check_module(self.wasm)
        _check_data(self.files)

    @property
    def is_component(self) -> bool:
        """Whether the program is a component (WASI 0.2); else it is a module (WASI preview 1)."""
        return self.wasm.startswith(_COMPONENT)

    @property
    def may_serve(self) -> bool:
        """Whether the program speaks of handling HTTP: what can be known of a component that is not compiled yet."""
        return self.is_component and HANDLER.encode() in self.wasm

    @classmethod
    def from_package(cls, files: Mapping[str, bytes]) -> Self:
        """Take a package apart. Raises MalformedError without main.wasm, beyond a limit, or on a bad Enarx.toml."""
        if WASM_NAME not in files:
            raise MalformedError(f"package: {WASM_NAME} is missing; found {_listing(files)}")
        config = files.get(CONFIG_NAME)
        data = {path: content for path, content in files.items() if path not in {WASM_NAME, CONFIG_NAME}}
        return cls(
            wasm=files[WASM_NAME],
            config=Config() if config is None else Config.parse(config, source=CONFIG_NAME),
            files=MappingProxyType(data),
        )


def _check_module(wasm: bytes) -> None:
    if len(wasm) > MAX_WASM:
        raise MalformedError(f"{WASM_NAME}: expected at most {MAX_WASM} bytes, found {len(wasm)}")
    if not wasm.startswith((_CORE_MODULE, _COMPONENT)):
        raise MalformedError(f"{WASM_NAME}: expected a WebAssembly module, found {wasm[:8].hex() or 'nothing'}")


def _check_data(files: Mapping[str, bytes]) -> None:
    if len(files) > MAX_DATA_FILES:
        raise MalformedError(f"package: expected at most {MAX_DATA_FILES} data files, found {len(files)}")
    size = sum(map(len, files.values()))
    if size > MAX_DATA:
        raise MalformedError(f"package: expected at most {MAX_DATA} bytes of data, found {size}")
    for path in files:
        names = path.split("/")
        if any(name in {"", ".", ".."} or "\0" in name for name in names):
            raise MalformedError(f"package: not a relative path: {path[:200]!r}")
        for depth in range(1, len(names)):
            if "/".join(names[:depth]) in files:
                raise MalformedError(f"package: {path[:200]!r} lies under a file")


def _listing(files: Mapping[str, bytes]) -> str:
    names = sorted(files)[:10]
    return ", ".join(names)[:300] or "no files"
