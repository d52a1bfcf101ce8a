"""wasmtime: compile a program, link it between shim and router, run it, and say how it ended.

Private names of wasmtime-py are used for one thing: a host function without arguments that costs half a microsecond
(`wasmtime_func_new_unchecked`). The package is pinned to one version, `_check_assumptions` looks at the structures
before anything is linked, and `Program` compares what it maps with what WebAssembly wrote there.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import wasmtime
from wasmtime import _ffi as ffi

from enarx.errors import MalformedError
from enarx.keep.config import Limits, Translator
from enarx.keep.runtime import router
from enarx.keep.runtime.abi import MODULE, SIGNATURES, Errno, Refused, errno_of
from enarx.keep.runtime.memory import PAGE, GuestMemory
from enarx.keep.runtime.surroundings import GROWTH, INTERPRETER, Surroundings
from enarx.keep.runtime.waiting import Interrupted
from enarx.keep.runtime.wasi import Exit, Wasi

if TYPE_CHECKING:
    from wasmtime import component

    from enarx.keep.runtime.cache import Cache

WASMTIME: Final = "50.0.1"  # whose private structures are known; a test compares what is installed
USUAL: Final = Surroundings()
TRAP_EXIT_CODE: Final = 134  # as `wasmtime run`: what a shell reports for SIGABRT

_CALLBACK: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_STRATEGY_WINCH: Final = 2  # wasmtime.h, WASMTIME_STRATEGY_WINCH
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_TRAP_TEXT: Final = b"left by the Keep"


class TrapError(Exception):
    """The program trapped; the text is wasmtime's, with the backtrace."""

    def __init__(self, text: str, *, fuel: bool = False, code: int = TRAP_EXIT_CODE) -> None:
        super().__init__(text)
        self.fuel = fuel  # whether it has used up what limits.fuel gave it
        self.code = code  # 1 where wasmtime's own WASI gave up on an argument that has no meaning, as its command does


def new_engine(
    *, fuel: bool = False, epochs: bool = True, place: Surroundings = USUAL, compiler: Translator = "cranelift"
) -> wasmtime.Engine:
    """An engine in which what wasmtime enables is enabled, as far as its compiler knows it.

    With `epochs` its programs can be interrupted while they compute, which costs them some of their speed.
    `compiler` is a wish, see `_winch`.
    """
    _check_assumptions()
    config = wasmtime.Config()
    config.epoch_interruption = epochs
    config.shared_memory = True
    config.consume_fuel = fuel
    ffi.wasmtime_config_concurrency_support_set(config.ptr(), False)  # or host functions of components trap in 50.0
    if not place.reserves:
        ffi.wasmtime_config_memory_reservation_set(config.ptr(), 0)
        ffi.wasmtime_config_memory_guard_size_set(config.ptr(), 0)
        ffi.wasmtime_config_memory_reservation_for_growth_set(config.ptr(), GROWTH)
        ffi.wasmtime_config_signals_based_traps_set(config.ptr(), False)
        ffi.wasmtime_config_memory_init_cow_set(config.ptr(), False)
    if not place.executes:
        ffi.wasmtime_config_target_set(config.ptr(), INTERPRETER.encode())
    if _winch(compiler, place):
        ffi.wasmtime_config_strategy_set(config.ptr(), _STRATEGY_WINCH)  # wasmtime-py knows no name for it
    return wasmtime.Engine(config)


def configuration(
    *, fuel: bool = False, epochs: bool = True, place: Surroundings = USUAL, compiler: Translator = "cranelift"
) -> str:
    """What of an engine's configuration decides the code that it compiles, and so the name under which it is kept."""
    winch = " winch" if _winch(compiler, place) else ""
    return f"wasmtime {WASMTIME} shared{' epochs' if epochs else ''}{' fuel' if fuel else ''}{winch}{place.describe()}"


def _winch(compiler: Translator, place: Surroundings) -> bool:
    """Whether Winch compiles. It writes machine code alone, whose traps are signals: elsewhere Cranelift does, as ever."""
    return compiler == "winch" and place.executes and place.reserves


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


class Compiler:
    """Compiles modules for one engine, through a cache where there is one."""

    def __init__(self, engine: wasmtime.Engine, cache: "Cache | None", about: str, hint: str = "") -> None:
        """`about` is the engine's `configuration`; `hint` is what to say to whoever brings what cannot be compiled."""
        self.engine, self._cache, self._about, self._hint = engine, cache, about, hint

    def module(self, wasm: bytes | str, what: str) -> wasmtime.Module:
        """Raises MalformedError with wasmtime's reason when `wasm`, code or text, is not a module that it can run."""
        data = wasm if isinstance(wasm, bytes) else wasm.encode()
        if self._cache is not None and (kept := self._cache.get(self._about, data)) is not None:
            try:
                return wasmtime.Module.deserialize(self.engine, kept)
            except wasmtime.WasmtimeError:
                pass  # made by the same version for another processor: compile
        try:
            module = wasmtime.Module(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise self._refused(what, error) from error
        if self._cache is not None:
            self._cache.put(self._about, data, bytes(module.serialize()))
        return module

    def component(self, wasm: bytes, what: str) -> "component.Component":
        """As `module`, for a component."""
        from wasmtime import component  # noqa: PLC0415 - most programs are modules

        if self._cache is not None and (kept := self._cache.get(self._about, wasm)) is not None:
            try:
                return component.Component.deserialize(self.engine, kept)
            except wasmtime.WasmtimeError:
                pass  # as above
        try:
            made = component.Component(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise self._refused(what, error) from error
        if self._cache is not None:
            self._cache.put(self._about, wasm, bytes(made.serialize()))
        return made

    def _refused(self, what: str, error: wasmtime.WasmtimeError) -> MalformedError:
        return MalformedError(f"{what}: {error}".splitlines()[0] + self._hint)


class Shared:
    """What the threads of one program share: its memory and its descriptor table, as WebAssembly sees them."""

    def __init__(self, engine: wasmtime.Engine, kind: wasmtime.MemoryType, where: tuple[str, str]) -> None:
        limits = kind.limits
        self.where = where  # module and name of the import
        self.limits = (limits.min, limits.max if limits.max is not None else limits.min)
        pages = router.TABLE_PAGES
        self.memory = wasmtime.SharedMemory(engine, kind)
        self.table = wasmtime.SharedMemory(engine, wasmtime.MemoryType(wasmtime.Limits(pages, pages), shared=True))

    @staticmethod
    def wanted(module: wasmtime.Module) -> tuple[wasmtime.MemoryType, tuple[str, str]] | None:
        """The shared memory that a module imports: it has threads."""
        for item in module.imports:
            if isinstance(item.type, wasmtime.MemoryType) and item.type.is_shared:
                return item.type, (item.module, item.name or "")
        return None

    @staticmethod
    def extern(memory: wasmtime.SharedMemory) -> ffi.wasmtime_extern_t:
        """What a linker wants; wasmtime-py 50.0.1 passes a pointer too much."""
        union = ffi.wasmtime_extern_union(sharedmemory=memory.ptr())
        return ffi.wasmtime_extern_t(ffi.WASMTIME_EXTERN_SHAREDMEMORY, union)


class Program:
    """One module in one store. Made, run and dropped in the thread that runs it."""

    def __init__(
        self,
        compiler: Compiler,
        module: wasmtime.Module,
        what: str,
        limits: Limits,
        shared: Shared | None = None,
        spawn: Callable[[int], int] | None = None,
    ) -> None:
        """`shared` and `spawn` are for a program with threads: `spawn(argument)` starts one and answers its number."""
        self._compiler, self._module, self._what, self._shared, self._spawn = compiler, module, what, shared, spawn
        self._engine = compiler.engine
        self._store = wasmtime.Store(self._engine)
        self._store.set_epoch_deadline(1)
        if limits.memory is not None:
            self._store.set_limits(memory_size=limits.memory)
            if shared is not None and shared.limits[1] * PAGE > limits.memory:
                raise MalformedError(
                    f"{what}: its threads share up to {shared.limits[1] * PAGE} bytes,"
                    f" and limits.memory is {limits.memory}"
                )
        if limits.fuel is not None:
            self._store.set_fuel(limits.fuel)
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
        shim = self._instantiate(native, self._compiler.module(router.shim(names), "shim"))
        linker.define_instance(self._store, MODULE, shim)
        if self._shared is not None:
            self._define(linker, *self._shared.where, self._shared.memory)
            if self._spawn is not None:
                kind = wasmtime.FuncType([wasmtime.ValType.i32()], [wasmtime.ValType.i32()])
                linker.define_func("wasi", "thread-spawn", kind, self._spawn)
        try:
            instance = self._instantiate(linker, self._module)
        except wasmtime.WasmtimeError as error:
            raise MalformedError(f"{self._what}: {error}".splitlines()[0]) from error
        self._exports = instance.exports(self._store)
        memory, shape = self._memory()
        joint = wasmtime.Linker(self._engine)
        if isinstance(memory, wasmtime.SharedMemory) and self._shared is not None:
            self._define(joint, "guest", "memory", memory)
            self._define(joint, "host", "table", self._shared.table)
        else:
            joint.define(self._store, "guest", "memory", memory)
        joint.define(self._store, "shim", "table", shim.exports(self._store)["table"])
        joint.define(self._store, "host", "call", self._host_function(wasi))
        for name in router.natives(names):
            joint.define(self._store, MODULE, name, native.get(self._store, MODULE, name))
        linked = self._instantiate(joint, self._compiler.module(router.router(names, shape), "router"))
        self._map(wasi, memory, linked.exports(self._store)["own"])

    def _define(self, linker: wasmtime.Linker, module: str, name: str, memory: wasmtime.SharedMemory) -> None:
        raw = Shared.extern(memory)
        encoded = [module.encode(), name.encode()]
        error = ffi.wasmtime_linker_define(
            linker.ptr(),
            self._store._context(),  # noqa: SLF001 - as everywhere here
            encoded[0], len(encoded[0]), encoded[1], len(encoded[1]),
            ctypes.byref(raw),
        )  # fmt: skip
        if error:  # type: ignore[truthy-bool]  # a null pointer is false
            raise RuntimeError(f"shared memory: {wasmtime.WasmtimeError._from_ptr(error)}")  # noqa: SLF001 - as above

    def _imports(self) -> list[str]:
        """The WASI functions that the program wants. Raises MalformedError for imports that nobody can give it."""
        names: dict[str, None] = {}
        for wanted in self._module.imports:
            name = wanted.name or ""
            if self._shared is not None and (
                (wanted.module, name) == self._shared.where or (wanted.module, name) == ("wasi", "thread-spawn")
            ):
                continue
            if wanted.module != MODULE or name not in SIGNATURES:
                raise MalformedError(f"{self._what}: imports {wanted.module}::{name}, which a Keep does not have")
            names[name] = None
        return list(names)

    def _memory(self) -> tuple[wasmtime.Memory | wasmtime.SharedMemory, router.Shape]:
        if self._shared is not None:
            return self._shared.memory, router.Shape(shared=self._shared.limits)
        memory = self._exports.get("memory")
        if memory is None:  # every address of such a program is outside
            return wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(0, 0))), router.Shape()
        if not isinstance(memory, wasmtime.Memory):
            raise MalformedError(f"{self._what}: expected the export `memory` to be a memory")
        return memory, router.Shape(wide=memory.type(self._store).is_64)

    def _host_function(self, wasi: Wasi) -> wasmtime.Func:
        """The one function that the router calls."""
        operations = wasi.operations()
        lock = wasi.waiter.lock

        def call_locked(*arguments: object) -> int:
            with lock or contextlib.nullcontext():
                return call(*arguments)

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

        callback = _CALLBACK(call if lock is None else call_locked)
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

    def _map(self, wasi: Wasi, memory: wasmtime.Memory | wasmtime.SharedMemory, own: object) -> None:
        """Let Python see the router's memory, and the program's."""
        if not isinstance(own, wasmtime.Memory) or own.data_len(self._store) != router.ROUTER_PAGES * PAGE:
            raise RuntimeError("router: its memory is not what it exports")
        address = ctypes.addressof(own.data_ptr(self._store).contents)
        view = memoryview((ctypes.c_uint8 * (router.ROUTER_PAGES * PAGE)).from_address(address)).cast("B")
        if bytes(view[router.MARK_OFFSET :][: len(router.MARK)]) != router.MARK:
            raise RuntimeError("router: what WebAssembly wrote is not where Python looks")
        wasi.mailbox = view[: 8 * router.MAILBOX_WORDS].cast("Q")
        wasi.memory = GuestMemory(self._locator(memory))
        if self._shared is None:
            table = view[router.TABLE_OFFSET : router.TABLE_OFFSET + 4 * router.MAX_DESCRIPTORS].cast("I")
        else:
            size = 4 * router.MAX_DESCRIPTORS
            place = ctypes.addressof(self._shared.table.data_ptr().contents)
            table = memoryview((ctypes.c_uint8 * size).from_address(place)).cast("B").cast("I")
        wasi.adopt(table)

    def _locator(self, memory: wasmtime.Memory | wasmtime.SharedMemory) -> Callable[[], int]:
        """What answers the address of a memory at this moment."""
        if isinstance(memory, wasmtime.SharedMemory):
            place = ctypes.cast(ffi.wasmtime_sharedmemory_data(memory.ptr()), ctypes.c_void_p).value or 0
            return lambda: place  # it never moves
        store, raw = self._store._context(), memory._memory  # noqa: SLF001 - data_ptr() is the same and slower
        return lambda: ctypes.cast(ffi.wasmtime_memory_data(store, ctypes.byref(raw)), ctypes.c_void_p).value or 0

    def run_thread(self, number: int, argument: int) -> None:
        """Call what a thread begins with (wasi-threads). Raises as `run`, and Exit when it ends the program."""
        entry = self._exports.get("wasi_thread_start")
        if not isinstance(entry, wasmtime.Func):
            raise MalformedError(f"{self._what}: expected an exported function `wasi_thread_start`")
        try:
            self._guarded(lambda: entry(self._store, number, argument))
        except wasmtime.WasmtimeError as error:
            raise TrapError(str(error), code=1) from None

    def invoke(self, name: str, arguments: Sequence[str]) -> tuple[str, ...]:
        """Call the exported function `name` and answer what it returns, as text.

        Raises MalformedError, TrapError, and Exit where the function ends the program.
        """
        self._initialize()
        entry = self._exports.get(name)
        if not isinstance(entry, wasmtime.Func):
            known = [export.name for export in self._module.exports if isinstance(export.type, wasmtime.FuncType)]
            raise MalformedError(f"{self._what}: exports no function `{name}`; it has {', '.join(known) or 'none'}")
        kinds = [str(kind) for kind in entry.type(self._store).params]
        if len(kinds) != len(arguments):
            raise MalformedError(f"{self._what}: `{name}` takes {len(kinds)} arguments, found {len(arguments)}")
        values = [_number(kind, text, name) for kind, text in zip(kinds, arguments, strict=True)]
        results: list[object] = []
        try:
            self._guarded(lambda: results.append(entry(self._store, *values)))
        except (TypeError, wasmtime.WasmtimeError) as error:  # a value of a kind that wasmtime does not hand over
            raise MalformedError(f"{self._what}: `{name}`: {error}") from error
        (result,) = results
        many = result if isinstance(result, list) else [] if result is None else [result]
        return tuple(map(str, many))

    def run(self) -> None:
        """Call the entry point.

        Raises Exit, TrapError, Interrupted, and MalformedError for a program without entry point.
        """
        self._initialize()
        entry = self._exports.get("_start") or self._exports.get("")
        if not isinstance(entry, wasmtime.Func):
            raise MalformedError(f"{self._what}: no entry point, expected an exported function `_start`")
        if entry.type(self._store).params:
            raise MalformedError(f"{self._what}: the entry point expects arguments")
        try:
            self._guarded(lambda: entry(self._store))
        except wasmtime.WasmtimeError as error:
            raise TrapError(str(error), code=1) from None

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
            raise TrapError(str(error), fuel=error.trap_code is wasmtime.TrapCode.OUT_OF_FUEL) from None


def _number(kind: str, text: str, name: str) -> int | float:
    """An argument of `--invoke`: numbers alone can be written on a command line."""
    try:
        if kind in {"i32", "i64"}:
            bits, value = int(kind[1:]), int(text, 0)
            if not -(1 << bits - 1) <= value < 1 << bits:
                raise MalformedError(f"`{name}`: expected a number of {bits} bits ({kind}), found {text[:100]}")
            return value
        if kind in {"f32", "f64"}:
            return float(text)
    except ValueError as error:
        raise MalformedError(f"`{name}`: expected a number ({kind}), found {text[:100]!r}") from error
    raise MalformedError(f"`{name}`: takes a value of type {kind}, which cannot be written here")


__all__ = ["Compiler", "Exit", "Interrupted", "Program", "Shared", "TrapError", "configuration", "new_engine"]
