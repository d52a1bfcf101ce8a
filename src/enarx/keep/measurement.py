"""What a TEE measures of us: the digest that a policy lists.

A real TEE measures the image that holds the agent. Where the agent is a plain process the same
question has an honest answer too: the hash over every file of the installed package and the
version of the engine, so that two machines with the same software have the same measurement and
a changed byte gives another. A simulated TEE signs this; it proves nothing to anybody else.
"""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import enarx
from enarx.digest import HashName, hash_bytes

_SUFFIXES = frozenset({".py", ".wat", ".pem", ".der"})  # what runs and what is trusted; not caches


@lru_cache(maxsize=4)
def of_agent(algorithm: HashName) -> bytes:
    """The measurement of this installation: 32 bytes for SHA-256, 48 for SHA-384."""
    root = Path(enarx.__file__).parent
    paths = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    lines = (f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)
    return hash_bytes(algorithm, "\n".join((f"wasmtime {version('wasmtime')}", *lines)).encode())
