"""The manifest of an enclave that holds Python, wasmtime and the Keep's agent (Gramine, "Manifest syntax").

Everything that runs is a trusted file, measured into MRENCLAVE; nothing is an allowed file; arguments are fixed; one
variable of the host's comes in, and it proves nothing. The enclave may not be debugged, attests by DCAP, and asks for its
memory as it needs it where the processor can (EDMM). `gramine-sgx-sign` turns the manifest into what is launched, and
prints MRENCLAVE, which a policy lists.
"""

import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import enarx

MANIFEST_NAME: Final = "enarx.manifest"
STACK: Final = "8M"
THREADS: Final = 64
PACKAGES: Final = (
    "anyio",
    "cffi",
    "_cffi_backend",
    "cryptography",
    "enarx",
    "h11",
    "httpcore2",
    "httpx2",
    "idna",
    "joserfc",
    "msgspec",
    "pycparser",
    "truststore",
    "typing_extensions",
    "wasmtime",
)

Toml = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are on the machine whose files the enclave holds."""

    python: Path
    standard_library: Path
    site_packages: Path
    libraries: tuple[Path, ...] = (Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"))

    @classmethod
    def of_this_machine(cls) -> "Layout":
        """The interpreter that runs now, and the packages beside this one."""
        paths = sysconfig.get_paths()
        return cls(
            python=Path(sys.executable).resolve(),
            standard_library=Path(paths["stdlib"]),
            site_packages=Path(paths["purelib"]),
        )


def is_size(text: str) -> bool:
    """Whether an enclave can be so large: a power of two, in mebibytes or gibibytes."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})[MG]", text)
    return found is not None and int(found[1]).bit_count() == 1


def manifest(layout: Layout, *, size: str = "1G", edmm: bool = True) -> str:
    """The manifest's text: TOML, in a fixed order."""
    own = Path(enarx.__file__).parent
    packages = [layout.site_packages / name for name in PACKAGES if name != "enarx"]
    folders = [layout.standard_library, *layout.libraries, *sorted(packages), own]
    mounts = [*dict.fromkeys([layout.standard_library, layout.site_packages, *layout.libraries, own])]
    return "\n".join(
        (
            "# Keys and their meaning: Gramine's documentation, Manifest syntax. Written by `enarx image gramine`.",
            'loader.entrypoint.uri = "file:{{ gramine.libos }}"',
            f"libos.entrypoint = {_text(layout.python)}",
            f"loader.argv = {json.dumps([layout.python.name, '-I', '-m', 'enarx.keep.enclave'])}",
            'loader.env.LANG = "C.UTF-8"',
            f"loader.env.PYTHONPATH = {json.dumps(str(layout.site_packages))}",
            f"loader.env.LD_LIBRARY_PATH = {json.dumps(':'.join(map(str, ('/lib', *layout.libraries))))}",
            "loader.env.ENARX_CHANNEL = { passthrough = true }",
            'loader.log_level = "none"',
            f"sys.stack.size = {json.dumps(STACK)}",
            "sys.enable_sigterm_injection = true",
            "fs.mounts = [",
            '  { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },',
            *(f"  {{ path = {_text(path)}, uri = {json.dumps(f'file:{path}')} }}," for path in mounts),
            f"  {{ path = {_text(layout.python)}, uri = {json.dumps(f'file:{layout.python}')} }},",
            '  { type = "tmpfs", path = "/tmp" },',
            "]",
            "sgx.debug = false",
            'sgx.remote_attestation = "dcap"',
            f"sgx.edmm_enable = {str(edmm).lower()}",
            *([] if edmm else [f"sgx.enclave_size = {json.dumps(size)}"]),
            f"sgx.max_threads = {THREADS}",
            "sgx.use_exinfo = true",
            "sgx.isvprodid = 1",
            "sgx.isvsvn = 1",
            "sgx.trusted_files = [",
            '  "file:{{ gramine.libos }}",',
            '  "file:{{ gramine.runtimedir() }}/",',
            f"  {json.dumps(f'file:{layout.python}')},",
            *_trusted(folders),
            "]",
            "",
        )
    )


def _trusted(folders: Iterable[Path]) -> Iterable[str]:
    return (f"  {json.dumps(f'file:{folder}' + ('/' if folder.suffix != '.py' else ''))}," for folder in folders)


def _text(path: Path) -> str:
    return json.dumps(str(path))
