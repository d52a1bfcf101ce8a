"""The Keep's runtime: WebAssembly on wasmtime, with the descriptors of Enarx.toml and TLS done by the Keep.

abi          the numbers of WASI preview 1
router       two generated modules between the program and WASI; the descriptor table
memory       the program's memory: every address is checked here
wasi         the operations that Python serves
poll         poll_oneoff
waiting      blocking, and being called away from it
descriptors  what a descriptor can be asked; streams, tls, package: the kinds
sockets      opening what `files` asks for
engine       wasmtime: compile, link, run
runner       a workload from start to exit code
"""

from enarx.keep.runtime.runner import run
from enarx.keep.runtime.sockets import Listening
from enarx.keep.runtime.streams import Output, Stdio
from enarx.keep.runtime.tls import TlsIdentity
from enarx.keep.runtime.waiting import Interrupt

__all__ = ["Interrupt", "Listening", "Output", "Stdio", "TlsIdentity", "run"]
