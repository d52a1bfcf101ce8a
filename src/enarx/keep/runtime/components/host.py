"""The functions that a component imports, served by Python: defined from the component's own types, never by hand.

A component names every interface and type that it needs. Each function among them is looked up by its name without the
version, `wasi:io/streams#[method]input-stream.read`, in one table of implementations; every 0.2 version links. What
nobody implements traps when it is called, and says so. An instance that lacks a resource which the component names would
abort the process inside wasmtime: that is why nothing here is written down twice.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime import component as wasm
from wasmtime.component import _types as types

from enarx.errors import MalformedError
from enarx.keep.runtime.components.values import SIZE, Codec, Table, drop
from enarx.keep.workload import WASM_NAME

Implementation = Callable[..., Any]  # Any: one for each function, typed where it is written

ALIASES: Final[Mapping[str, str]] = {"headers": "fields", "trailers": "fields", "io-error": "error"}
_FIRST_NUMBER: Final = 100

_CALL: Final = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,
    ctypes.c_void_p, ctypes.c_size_t,
)  # fmt: skip
_DROP: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
_LIBRARY: Final = ctypes.CDLL(ffi.dll._name)  # noqa: SLF001 - the library that wasmtime-py has loaded
_add_function: Final = _LIBRARY.wasmtime_component_linker_instance_add_func
_add_function.restype = ctypes.c_void_p
_add_function.argtypes = [
    ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, _CALL, ctypes.c_void_p, ctypes.c_void_p,
]  # fmt: skip
_add_resource: Final = _LIBRARY.wasmtime_component_linker_instance_add_resource
_add_resource.restype = ctypes.c_void_p
_add_resource.argtypes = [
    ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, _DROP, ctypes.c_void_p, ctypes.c_void_p,
]  # fmt: skip
_error_new: Final = _LIBRARY.wasmtime_error_new
_error_new.restype = ctypes.c_void_p
_error_new.argtypes = [ctypes.c_char_p]


class Host:
    """A linker for one component, and the implementations behind it. Used by one thread at a time."""

    def __init__(
        self, engine: wasmtime.Engine, component: wasm.Component, implementations: Mapping[str, Implementation]
    ) -> None:
        """Raises MalformedError for an import that a Keep does not have."""
        _check_assumptions()
        self._numbers: dict[str, int] = {}
        self._keep: list[object] = []  # what wasmtime points to and Python must not collect
        self.codec = Codec(self._number)
        self.failure: BaseException | None = None
        self.linker = wasm.Linker(engine)
        self._engine, self._component, self._implementations = engine, component, implementations
        for name, item in component.type.imports(engine).items():
            self._define(name, item)

    def _define(self, name: str, item: Any) -> None:  # Any: what wasmtime-py says of an import
        interface = name.partition("@")[0]
        content = getattr(item, "ty", None)
        if not isinstance(content, wasm.ComponentInstanceType):
            raise MalformedError(f"{WASM_NAME}: imports {name}, which a Keep does not have")
        exports = content.exports(self._engine)
        with self.linker.root() as root, root.add_instance(name) as instance:
            place = ctypes.cast(instance.ptr(), ctypes.c_void_p)
            for key, export in exports.items():
                if isinstance(export.ty, wasm.ResourceType):
                    self._resource(place, key)
                elif isinstance(export.ty, types.FuncType):
                    self._function(place, key, export.ty, f"{interface}#{key}")

    def _number(self, resource: str) -> int:
        name = ALIASES.get(resource, resource)
        return self._numbers.setdefault(name, _FIRST_NUMBER + len(self._numbers))

    def _resource(self, place: ctypes.c_void_p, key: str) -> None:
        kind = wasm.ResourceType.host(self._number(key))

        def dropped(_: object, __: object, number: int) -> None:
            try:
                drop(self.codec.table.take(number))
            except BaseException as error:  # noqa: BLE001 - must not escape into C; raised when the call returns
                self.failure = self.failure or error

        callback = _DROP(dropped)
        self._keep += [kind, callback]
        name = key.encode()
        if _add_resource(place, name, len(name), ctypes.cast(kind.ptr(), ctypes.c_void_p), callback, None, None):
            raise RuntimeError(f"component: the resource {key} could not be defined")

    def _function(self, place: ctypes.c_void_p, key: str, kind: Any, name: str) -> None:  # Any: wasmtime's FuncType
        implementation = self._implementations.get(name) or _missing(name)
        prepared: list[tuple[list[Any], Any]] = []  # Any: readers, and a writer or None

        def call(
            _: object, context: object, __: object, arguments: int, ___: object, results: int, ____: object
        ) -> int:
            try:
                if not prepared:
                    result = kind.result
                    readers = [self.codec.reader(parameter) for _, parameter in kind.params]
                    prepared.append((readers, None if result is None else self.codec.writer(result)))
                readers, writer = prepared[0]
                values = [read(context, arguments + index * SIZE) for index, read in enumerate(readers)]
                answer = implementation(*values)
                if writer is not None:
                    writer(context, results, answer)
            except BaseException as error:  # noqa: BLE001 - must not escape into C; raised when the call returns
                self.failure = self.failure or error
                return int(_error_new(b"left by the Keep"))
            return 0

        callback = _CALL(call)
        self._keep.append(callback)
        encoded = key.encode()
        if _add_function(place, encoded, len(encoded), callback, None, None):
            raise RuntimeError(f"component: the function {name} could not be defined")

    def run(self, table: Table, action: Callable[[], object]) -> object:
        """Do `action`, which runs the component, with the handles of its store.

        Raises what an implementation raised, else what wasmtime did.
        """
        self.codec.table, self.failure = table, None
        try:
            answer = action()
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            self._raise_failure()
            raise
        self._raise_failure()  # of something that was dropped
        return answer

    def _raise_failure(self) -> None:
        failure, self.failure = self.failure, None
        if failure is None:
            return
        try:
            raise failure from None
        finally:
            del failure  # its traceback has this frame, and through it the store: nobody else would part them

    def lower(self, store: wasmtime.Store, kinds: Sequence[Any], values: Sequence[Any]) -> Any:  # Any: as in Codec
        """Arguments for a call from our side, as an array of C structures."""
        space = (ffi.wasmtime_component_val_t * len(values))()
        context = store._context()  # noqa: SLF001 - as everywhere here
        for index, (kind, value) in enumerate(zip(kinds, values, strict=True)):
            self.codec.writer(kind)(context, ctypes.addressof(space) + index * SIZE, value)
        return space


def _missing(name: str) -> Implementation:
    def refuse(*_: object) -> None:
        raise UnsupportedError(f"{name} is not offered by a Keep")

    return refuse


class UnsupportedError(Exception):
    """A component called what a Keep does not offer."""


def _check_assumptions() -> None:
    """Raises RuntimeError when the installed wasmtime is not the one whose private structures are known."""
    if ctypes.sizeof(ffi.wasmtime_component_val_t) != SIZE:
        raise RuntimeError("wasmtime: a component's value is not laid out as it was in the known version")
