"""The Keep's runtime: WebAssembly on wasmtime, with the descriptors of Enarx.toml and TLS done by the Keep.

abi          the numbers of WASI preview 1
router       two generated modules between the program and WASI; the descriptor table
memory       the program's memory: every address is checked here
wasi         the operations that Python serves
poll         poll_oneoff
waiting      blocking, and being called away from it
descriptors  what a descriptor can be asked; stdio, streams, tls, package, volume, identity: the kinds
sockets      opening what `files` asks for
engine       wasmtime: compile, link, run
threads      more than one thread in a program
cache        compiled code that need not be compiled again
components   programs that are components, and those that serve HTTP
log          what the Keep itself says
runner       a workload from start to exit code

TLS is imported by whoever needs it, for most programs do not; the engine when a program is about to run.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from enarx.keep.runtime.descriptors import Listening
from enarx.keep.runtime.stdio import Output, Stdio
from enarx.keep.runtime.waiting import Interrupt

if TYPE_CHECKING:
    from enarx.keep.runtime.runner import run
    from enarx.keep.runtime.tls import LiveIdentity, TlsIdentity

__all__ = ["Interrupt", "Listening", "LiveIdentity", "Output", "Stdio", "TlsIdentity", "run"]


_LATER = {"LiveIdentity": "tls", "TlsIdentity": "tls", "run": "runner"}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
