"""Programs that are components (WASI 0.2)."""

from enarx.errors import MalformedError
from enarx.keep.runtime.engine import Compiler
from enarx.keep.runtime.waiting import Interrupt
from enarx.keep.workload import WASM_NAME, Workload


def execute(workload: Workload, settings: object, compiler: Compiler, interrupt: Interrupt) -> int:
    """Run a component."""
    del workload, settings, compiler, interrupt
    raise MalformedError(f"{WASM_NAME}: expected a core module (WASI preview 1), found a component")
