"""wasmtime: compile a program, link it between shim and router, run it, and say how it ended.

Private names of wasmtime-py are used for one thing: a host function without arguments that costs half a microsecond
(`wasmtime_func_new_unchecked`). The package is pinned to one version, `_check_assumptions` looks at the structures
before anything is linked, and `Program` compares what it maps with what WebAssembly wrote there.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import wasmtime
from wasmtime import _ffi as ffi

from enarx.errors import MalformedError
from enarx.keep.runtime import router
from enarx.keep.runtime.abi import MODULE, SIGNATURES, Errno, Refused, errno_of
from enarx.keep.runtime.memory import PAGE, GuestMemory
from enarx.keep.runtime.waiting import Interrupted
from enarx.keep.runtime.wasi import Exit, Wasi

WASMTIME: Final = "50.0.1"  # whose private structures are known; a test compares what is installed
MAX_EXIT_CODE: Final = 255
TRAP_EXIT_CODE: Final = 134  # as `wasmtime run`: what a shell reports for SIGABRT

_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_TRAP_TEXT: Final = b"left by the Keep"


class TrapError(Exception):
    """The program trapped; the text is wasmtime's, with the backtrace."""


def new_engine() -> wasmtime.Engine:
    """An engine whose programs can be interrupted while they compute."""
    _check_assumptions()
    config = wasmtime.Config()
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def _check_assumptions() -> None:
    """Raises RuntimeError when the installed wasmtime is not the one whose private structures are known."""
    found = (
        ctypes.sizeof(ffi.wasmtime_func_t),
        ctypes.sizeof(ffi.wasmtime_val_raw_t),
        ctypes.sizeof(ffi.wasmtime_memory_t),
        hasattr(wasmtime.Func, "_from_raw") and hasattr(wasmtime.Store, "_context"),
    )
    expected = (16, 16, 24, True)
    if found != expected:
        raise RuntimeError(f"wasmtime: expected the structures of {WASMTIME}, {expected}, found {found}")


def compile_module(engine: wasmtime.Engine, wasm: bytes, what: str) -> wasmtime.Module:
    """Raises MalformedError with wasmtime's reason when `wasm` is not a module that it can run."""
    try:
        return wasmtime.Module(engine, wasm)
    except wasmtime.WasmtimeError as error:
        raise MalformedError(f"{what}: {error}".splitlines()[0]) from error


class Program:
    """One module in one store. Made, run and dropped in the thread that runs it."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, what: str) -> None:
        self._engine, self._module, self._what = engine, module, what
        self._store = wasmtime.Store(engine)
        self._store.set_epoch_deadline(1)
        self._failure: BaseException | None = None
        self._keep: list[object] = []  # what WebAssembly points to and Python must not collect

    def set_arguments(
        self, argv: Sequence[str], env: Iterable[tuple[str, str]], preopens: Iterable[tuple[Path, str]]
    ) -> None:
        """What wasmtime's own WASI tells the program. Raises MalformedError for a directory that cannot be opened."""
        wasi = wasmtime.WasiConfig()
        wasi.argv = list(argv)
        wasi.env = list(env)
        for host, guest in preopens:
            try:
                wasi.preopen_dir(str(host), guest)
            except wasmtime.WasmtimeError as error:
                raise MalformedError(f"directory {host}: {error}") from error
        self._store.set_wasi(wasi)

    def link(self, wasi: Wasi) -> None:
        """Instantiate shim, program and router around `wasi`; a start section runs here."""
        names = self._imports()
        native = wasmtime.Linker(self._engine)
        native.define_wasi()
        linker = wasmtime.Linker(self._engine)
        shim = self._instantiate(native, wasmtime.Module(self._engine, router.shim(names)))
        linker.define_instance(self._store, MODULE, shim)
        try:
            instance = self._instantiate(linker, self._module)
        except wasmtime.WasmtimeError as error:
            raise MalformedError(f"{self._what}: {error}".splitlines()[0]) from error
        self._exports = instance.exports(self._store)
        memory = self._memory()
        joint = wasmtime.Linker(self._engine)
        joint.define(self._store, "guest", "memory", memory)
        joint.define(self._store, "shim", "table", shim.exports(self._store)["table"])
        joint.define(self._store, "host", "call", self._host_function(wasi))
        for name in router.natives(names):
            joint.define(self._store, MODULE, name, native.get(self._store, MODULE, name))
        linked = self._instantiate(joint, wasmtime.Module(self._engine, router.router(names)))
        self._map(wasi, memory, linked.exports(self._store)["own"])

    def _imports(self) -> list[str]:
        """The WASI functions that the program wants. Raises MalformedError for imports that nobody can give it."""
        names: dict[str, None] = {}
        for wanted in self._module.imports:
            name = wanted.name or ""
            if wanted.module != MODULE or name not in SIGNATURES:
                raise MalformedError(f"{self._what}: imports {wanted.module}::{name}, which a Keep does not have")
            names[name] = None
        return list(names)

    def _memory(self) -> wasmtime.Memory:
        memory = self._exports.get("memory")
        if memory is None:  # every address of such a program is outside
            return wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(0, 0)))
        if not isinstance(memory, wasmtime.Memory) or memory.type(self._store).is_64:
            raise MalformedError(f"{self._what}: expected the export `memory` to be a memory with 32-bit addresses")
        return memory

    def _host_function(self, wasi: Wasi) -> wasmtime.Func:
        """The one function that the router calls."""
        operations = wasi.operations()

        def call(_env: object, _caller: object, _values: object, _count: object) -> int:
            mailbox = wasi.mailbox
            try:
                mailbox[0] = operations[mailbox[0]]()
            except Refused as refused:
                mailbox[0] = refused.number
            except OSError as error:
                mailbox[0] = errno_of(error)
            except MemoryError:
                mailbox[0] = Errno.NOMEM
            except BaseException as error:  # noqa: BLE001 - ctypes would print it and tell the program "success"
                self._failure = error
                trap = ffi.wasmtime_trap_new(_TRAP_TEXT, len(_TRAP_TEXT))
                return ctypes.cast(trap, ctypes.c_void_p).value or 0
            return 0

        callback = _CALLBACK(call)
        kind = wasmtime.FuncType([], [])
        raw = ffi.wasmtime_func_t()
        ffi.wasmtime_func_new_unchecked(
            self._store._context(),  # noqa: SLF001 - see above
            kind.ptr(),
            ctypes.cast(callback, ffi.wasmtime_func_unchecked_callback_t),
            None,
            _NO_FINALIZER,
            ctypes.byref(raw),
        )
        self._keep += [callback, kind]
        return wasmtime.Func._from_raw(raw)  # noqa: SLF001 - see above

    def _map(self, wasi: Wasi, memory: wasmtime.Memory, own: object) -> None:
        """Let Python see the router's memory, and the program's."""
        if not isinstance(own, wasmtime.Memory) or own.data_len(self._store) != router.ROUTER_PAGES * PAGE:
            raise RuntimeError("router: its memory is not what it exports")
        address = ctypes.addressof(own.data_ptr(self._store).contents)
        view = memoryview((ctypes.c_uint8 * (router.ROUTER_PAGES * PAGE)).from_address(address)).cast("B")
        if bytes(view[router.MARK_OFFSET :][: len(router.MARK)]) != router.MARK:
            raise RuntimeError("router: what WebAssembly wrote is not where Python looks")
        table = view[router.TABLE_OFFSET : router.TABLE_OFFSET + 4 * router.MAX_DESCRIPTORS].cast("I")
        for number, entry in enumerate(wasi.table):
            if entry:
                table[number] = entry
        wasi.mailbox, wasi.table = view[: 8 * router.MAILBOX_WORDS].cast("Q"), table
        store, raw = self._store._context(), memory._memory  # noqa: SLF001 - data_ptr() is the same and slower
        wasi.memory = GuestMemory(
            lambda: ctypes.cast(ffi.wasmtime_memory_data(store, ctypes.byref(raw)), ctypes.c_void_p).value or 0
        )

    def run(self) -> int:
        """Call the entry point. Returns the exit code, 0 to 255.

        Raises TrapError, Interrupted, and MalformedError for a program without entry point or beyond code 255.
        """
        self._initialize()
        entry = self._exports.get("_start") or self._exports.get("")
        if not isinstance(entry, wasmtime.Func):
            raise MalformedError(f"{self._what}: no entry point, expected an exported function `_start`")
        if entry.type(self._store).params:
            raise MalformedError(f"{self._what}: the entry point expects arguments")
        try:
            self._guarded(lambda: entry(self._store))
        except Exit as leave:
            if leave.status > MAX_EXIT_CODE:
                raise MalformedError(
                    f"{self._what}: expected an exit status from 0 to {MAX_EXIT_CODE}, found {leave.status}"
                ) from None
            return leave.status
        return 0

    def _initialize(self) -> None:
        """A reactor is made ready before its default function is called."""
        start = self._exports.get("_initialize")
        if isinstance(start, wasmtime.Func) and "_start" not in self._exports:
            self._guarded(lambda: start(self._store))

    def _instantiate(self, linker: wasmtime.Linker, module: wasmtime.Module) -> wasmtime.Instance:
        instances: list[wasmtime.Instance] = []
        self._guarded(lambda: instances.append(linker.instantiate(self._store, module)))
        return instances[0]

    def _guarded(self, action: Callable[[], object]) -> None:
        """Run WebAssembly. Raises what an operation raised, else TrapError or WasmtimeError."""
        try:
            action()
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure from None
            if not isinstance(error, wasmtime.Trap):
                raise
            raise TrapError(str(error)) from None


__all__ = ["Exit", "Interrupted", "Program", "TrapError", "compile_module", "new_engine"]
