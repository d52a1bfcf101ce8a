"""What the place lets an engine do: reserve address space, and turn what it wrote into code.

wasmtime reserves gigabytes of addresses for each memory and compiles to machine code. An SGX enclave has no such
addresses to give, a hardened system refuses memory that becomes executable. So the two are tried once, and the engine is
made for what was found: without reservation every access is checked by the code itself, and traps stay exact; without
executable memory wasmtime's own interpreter (Pulley) runs the program, about ten times slower, with the same results.
Nothing has to be configured, and a place that gives both pays nothing.
"""

import ctypes
import mmap
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

RESERVATION: Final = 8 << 30  # bytes: what wasmtime wants for one memory of 32-bit addresses, guard regions included
GROWTH: Final = 1 << 20  # bytes that a memory without reservation may grow before it has to move
INTERPRETER: Final = "pulley64"

_MAP: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_NORESERVE: Final = 0x4000
_PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an engine may count on."""

    reserves: bool = True
    executes: bool = True

    def describe(self) -> str:
        """What of them decides the code that is compiled; empty where everything is as usual."""
        return f"{'' if self.reserves else ' unreserved'}{'' if self.executes else ' interpreted'}"


@lru_cache(maxsize=1)
def probe() -> Surroundings:
    """Try both, once in the life of a process: rules that a process gave itself can only become stricter."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mprotect.argtypes = libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [*libc.munmap.argtypes, ctypes.c_int]
    return Surroundings(reserves=_reserves(libc), executes=_executes(libc))


def _reserves(libc: ctypes.CDLL) -> bool:
    address = libc.mmap(None, RESERVATION, 0, _MAP | _NORESERVE, -1, 0)
    if _failed(address):
        return False
    libc.munmap(address, RESERVATION)
    return True


def _executes(libc: ctypes.CDLL) -> bool:
    address = libc.mmap(None, _PAGE, mmap.PROT_READ | mmap.PROT_WRITE, _MAP, -1, 0)
    if _failed(address):
        return False
    ok = libc.mprotect(address, _PAGE, mmap.PROT_READ | mmap.PROT_EXEC) == 0
    libc.munmap(address, _PAGE)
    return bool(ok)


def _failed(address: int | None) -> bool:
    return address is None or ctypes.c_ssize_t(address).value == -1
