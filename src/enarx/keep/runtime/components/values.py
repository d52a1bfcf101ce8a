"""Values between a component and the host: from wasmtime's C structures to Python's, and back.

wasmtime-py's own conversion asks for every type again at each call and makes a Python object of every byte of a list;
here a reader and a writer are made once for a type. A `wasmtime_component_val_t` is 32 bytes: kind at 0, payload at 8.
Records, lists and tuples point to arrays; options, results and variants box what they carry.

    bool, numbers, char    int, float, bool                 option     the value or None
    string                 str                              result     the value, or Err(value)
    list<u8>               bytes                            variant    (name, value or None); to write, a name alone
    list, tuple            list, tuple                      enum       its name
    record                 dict by name                     flags      a frozenset of names
    own, borrow            the object behind the resource; to write, Own(object, resource)

The self-test of `enarx.keep.runtime.components.host` guards the sizes; wasmtime-py is pinned to one version.
"""

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import _ffi as ffi
from wasmtime.component import _types as types

Reader = Callable[[Any, int], Any]  # Any: a store context, and whatever the type says
Writer = Callable[[Any, int, Any], None]  # Any: as above

SIZE: Final = 32
_RECORD: Final = 48  # a name (16) and a value (32)

_U8: Final = ctypes.c_uint8.from_address
_U64: Final = ctypes.c_uint64.from_address


@dataclass(frozen=True, slots=True)
class Err:
    """The error of a result."""

    value: Any = None  # Any: what the type says


@dataclass(frozen=True, slots=True)
class Ok:
    """The value of a result, where that is itself a result: elsewhere the value stands for itself."""

    value: Any = None  # Any: what the type says


@dataclass(frozen=True, slots=True)
class Own:
    """A new resource to hand to the component."""

    thing: object
    resource: str


class Table:
    """The host's side of a component's handles: objects by number. One for each store."""

    def __init__(self) -> None:
        self._things: dict[int, object] = {}
        self._next = 1

    def add(self, thing: object) -> int:
        number, self._next = self._next, self._next + 1
        self._things[number] = thing
        return number

    def get(self, number: int) -> object:
        return self._things[number]

    def take(self, number: int) -> object:
        """The component has given it up."""
        return self._things.pop(number, None)

    def close(self) -> None:
        """Let go of everything that the component still held."""
        while self._things:
            _, thing = self._things.popitem()
            drop(thing)

    def __len__(self) -> int:
        return len(self._things)


def drop(thing: object) -> None:
    """Tell an object that nobody will use it again."""
    close = getattr(thing, "drop", None)
    if close is not None:
        close()


def _prototype(name: str, result: Any, *arguments: Any) -> Any:  # Any: ctypes
    """A function of the library with a prototype of our own, beside wasmtime-py's."""
    function = getattr(_LIBRARY, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


_P: Final = ctypes.c_void_p
_N: Final = ctypes.c_size_t
_LIBRARY: Final = ctypes.CDLL(ffi.dll._name)  # noqa: SLF001 - the library that wasmtime-py has loaded
_bytes_new: Final = _prototype("wasm_byte_vec_new", None, _P, _N, ctypes.c_char_p)
_list_new: Final = _prototype("wasmtime_component_vallist_new_uninit", None, _P, _N)
_tuple_new: Final = _prototype("wasmtime_component_valtuple_new_uninit", None, _P, _N)
_record_new: Final = _prototype("wasmtime_component_valrecord_new_uninit", None, _P, _N)
_flags_new: Final = _prototype("wasmtime_component_valflags_new_uninit", None, _P, _N)
_box: Final = _prototype("wasmtime_component_val_new", _P, _P)
_host_new: Final = _prototype(
    "wasmtime_component_resource_host_new", _P, ctypes.c_bool, ctypes.c_uint32, ctypes.c_uint32
)
_host_to_any: Final = _prototype("wasmtime_component_resource_host_to_any", _P, _P, _P, _P)
_host_delete: Final = _prototype("wasmtime_component_resource_host_delete", None, _P)
_host_number: Final = _prototype("wasmtime_component_resource_host_rep", ctypes.c_uint32, _P)
_any_to_host: Final = _prototype("wasmtime_component_resource_any_to_host", _P, _P, _P, _P)

_PRIMITIVES: Final[Mapping[type, tuple[int, Any]]] = {  # Any: ctypes
    types.Bool: (0, ctypes.c_uint8), types.S8: (1, ctypes.c_int8), types.U8: (2, ctypes.c_uint8),
    types.S16: (3, ctypes.c_int16), types.U16: (4, ctypes.c_uint16), types.S32: (5, ctypes.c_int32),
    types.U32: (6, ctypes.c_uint32), types.S64: (7, ctypes.c_int64), types.U64: (8, ctypes.c_uint64),
    types.F32: (9, ctypes.c_float), types.F64: (10, ctypes.c_double), types.Char: (11, ctypes.c_uint32),
}  # fmt: skip
_STRING, _LIST, _RECORD_KIND, _TUPLE, _VARIANT, _ENUM, _OPTION, _RESULT, _FLAGS, _RESOURCE = range(12, 22)


class Codec:
    """Makes readers and writers for the types of one component, against one table."""

    def __init__(self, number_of: Callable[[str], int]) -> None:
        """`number_of` gives the type number of a resource by its name."""
        self.table = Table()  # of the store that runs at this moment
        self._number_of = number_of

    def reader(self, kind: Any) -> Reader:  # noqa: C901 - one line for each kind of type; Any: wasmtime's value types
        """What reads a value of that type. Raises TypeError for a type that cannot cross."""
        made = type(kind)
        if made in _PRIMITIVES:
            return _read_primitive(made)
        if made is types.String or made is types.EnumType:
            return lambda _, at: _text(at + 8)
        if made is types.ListType:
            return _read_bytes if isinstance(kind.element, types.U8) else _read_list(self.reader(kind.element))
        if made is types.TupleType:
            return _read_tuple([self.reader(element) for element in kind.elements])
        if made is types.RecordType:
            return _read_record([(name, self.reader(field)) for name, field in kind.fields])
        if made is types.VariantType:
            return _read_variant({name: None if case is None else self.reader(case) for name, case in kind.cases})
        if made is types.OptionType:
            return _read_option(self.reader(kind.payload))
        if made is types.ResultType:
            return _read_result(*(None if case is None else self.reader(case) for case in (kind.ok, kind.err)))
        if made is types.FlagsType:
            return _read_flags
        if made is types.OwnType or made is types.BorrowType:
            return self._read_resource(owned=made is types.OwnType)
        raise TypeError(f"a value of type {made.__name__} cannot cross")

    def writer(self, kind: Any) -> Writer:  # noqa: C901 - as above; Any: as above
        """What writes one. Raises TypeError as above."""
        made = type(kind)
        if made in _PRIMITIVES:
            return _write_primitive(made)
        if made is types.String:
            return _write_text(_STRING)
        if made is types.EnumType:
            return _write_text(_ENUM)
        if made is types.ListType:
            return _write_bytes if isinstance(kind.element, types.U8) else _write_list(self.writer(kind.element))
        if made is types.TupleType:
            return _write_tuple([self.writer(element) for element in kind.elements])
        if made is types.RecordType:
            return _write_record([(name, self.writer(field)) for name, field in kind.fields])
        if made is types.VariantType:
            return _write_variant({name: None if case is None else self.writer(case) for name, case in kind.cases})
        if made is types.OptionType:
            return _write_option(self.writer(kind.payload))
        if made is types.ResultType:
            return _write_result(*(None if case is None else self.writer(case) for case in (kind.ok, kind.err)))
        if made is types.FlagsType:
            return _write_flags
        if made is types.OwnType or made is types.BorrowType:
            return self._write_resource
        raise TypeError(f"a value of type {made.__name__} cannot cross")

    def _read_resource(self, *, owned: bool) -> Reader:
        def read(context: Any, at: int) -> object:  # Any: a store context
            host = ctypes.c_void_p()
            if _any_to_host(context, _U64(at + 8).value, ctypes.byref(host)):
                raise RuntimeError("a handle that is none of ours")
            number = int(_host_number(host))
            _host_delete(host)
            return self.table.take(number) if owned else self.table.get(number)

        return read

    def _write_resource(self, context: Any, at: int, value: Own) -> None:  # Any: a store context
        host = _host_new(True, self.table.add(value.thing), self._number_of(value.resource))
        made = ctypes.c_void_p()
        error = _host_to_any(context, host, ctypes.byref(made))
        _host_delete(host)
        if error:
            raise RuntimeError("a handle could not be made")
        _U8(at).value = _RESOURCE
        _U64(at + 8).value = made.value or 0


def _text(at: int) -> str:
    length = _U64(at).value
    return ctypes.string_at(_U64(at + 8).value, length).decode() if length else ""


def _put_text(at: int, text: str) -> None:
    data = text.encode()
    _bytes_new(at, len(data), data)


def _read_primitive(kind: type) -> Reader:
    _, made = _PRIMITIVES[kind]
    place = made.from_address
    if kind is types.Bool:
        return lambda _, at: bool(place(at + 8).value)
    if kind is types.Char:
        return lambda _, at: chr(place(at + 8).value)
    return lambda _, at: place(at + 8).value


def _read_bytes(_: Any, at: int) -> bytes:  # Any: as Reader
    length = _U64(at + 8).value
    return ctypes.string_at(_U64(at + 16).value, length * SIZE)[8::SIZE] if length else b""


def _read_list(element: Reader) -> Reader:
    def read(context: Any, at: int) -> list[Any]:  # Any: as Reader
        length = _U64(at + 8).value
        start = _U64(at + 16).value if length else 0
        return [element(context, start + index * SIZE) for index in range(length)]

    return read


def _read_tuple(elements: Sequence[Reader]) -> Reader:
    def read(context: Any, at: int) -> tuple[Any, ...]:  # Any: as Reader
        start = _U64(at + 16).value if elements else 0
        return tuple(element(context, start + index * SIZE) for index, element in enumerate(elements))

    return read


def _read_record(fields: Sequence[tuple[str, Reader]]) -> Reader:
    def read(context: Any, at: int) -> dict[str, Any]:  # Any: as Reader
        start = _U64(at + 16).value if fields else 0
        return {name: field(context, start + index * _RECORD + 16) for index, (name, field) in enumerate(fields)}

    return read


def _read_variant(cases: Mapping[str, Reader | None]) -> Reader:
    def read(context: Any, at: int) -> tuple[str, Any]:  # Any: as Reader
        name = _text(at + 8)
        case = cases[name]
        return name, None if case is None else case(context, _U64(at + 24).value)

    return read


def _read_option(payload: Reader) -> Reader:
    def read(context: Any, at: int) -> Any:  # Any: as Reader
        place = _U64(at + 8).value
        return payload(context, place) if place else None

    return read


def _read_result(ok: Reader | None, err: Reader | None) -> Reader:
    def read(context: Any, at: int) -> Any:  # Any: as Reader
        fine = bool(_U8(at + 8).value)
        case = ok if fine else err
        value = None if case is None else case(context, _U64(at + 16).value)
        return value if fine else Err(value)

    return read


def _read_flags(_: Any, at: int) -> frozenset[str]:  # Any: as Reader
    length = _U64(at + 8).value
    start = _U64(at + 16).value if length else 0
    return frozenset(_text(start + 16 * index) for index in range(length))


def _write_primitive(kind: type) -> Writer:
    number, made = _PRIMITIVES[kind]
    place = made.from_address
    if kind is types.Char:

        def write_char(_: Any, at: int, value: str) -> None:  # Any: as Writer
            _U8(at).value = number
            place(at + 8).value = ord(value)

        return write_char

    def write(_: Any, at: int, value: Any) -> None:  # Any: as Writer
        _U8(at).value = number
        place(at + 8).value = value

    return write


def _write_text(kind: int) -> Writer:
    def write(_: Any, at: int, value: str) -> None:  # Any: as Writer
        _U8(at).value = kind
        _put_text(at + 8, value)

    return write


def _write_bytes(_: Any, at: int, value: bytes) -> None:  # Any: as Writer
    _U8(at).value = _LIST
    _list_new(at + 8, len(value))
    if value:
        block = bytearray(len(value) * SIZE)
        block[0::SIZE] = b"\x02" * len(value)
        block[8::SIZE] = value
        ctypes.memmove(_U64(at + 16).value, (ctypes.c_char * len(block)).from_buffer(block), len(block))


def _write_list(element: Writer) -> Writer:
    def write(context: Any, at: int, value: Sequence[Any]) -> None:  # Any: as Writer
        _U8(at).value = _LIST
        _list_new(at + 8, len(value))
        start = _U64(at + 16).value
        for index, item in enumerate(value):
            element(context, start + index * SIZE, item)

    return write


def _write_tuple(elements: Sequence[Writer]) -> Writer:
    def write(context: Any, at: int, value: Sequence[Any]) -> None:  # Any: as Writer
        _U8(at).value = _TUPLE
        _tuple_new(at + 8, len(elements))
        start = _U64(at + 16).value
        for index, (element, item) in enumerate(zip(elements, value, strict=True)):
            element(context, start + index * SIZE, item)

    return write


def _write_record(fields: Sequence[tuple[str, Writer]]) -> Writer:
    def write(context: Any, at: int, value: Mapping[str, Any]) -> None:  # Any: as Writer
        _U8(at).value = _RECORD_KIND
        _record_new(at + 8, len(fields))
        start = _U64(at + 16).value
        for index, (name, field) in enumerate(fields):
            _put_text(start + index * _RECORD, name)
            field(context, start + index * _RECORD + 16, value[name])

    return write


def _boxed(write: Writer, context: Any, value: Any) -> int:  # Any: as Writer
    space = (ctypes.c_uint8 * SIZE)()
    at = ctypes.addressof(space)
    write(context, at, value)
    return int(_box(at))


def _write_variant(cases: Mapping[str, Writer | None]) -> Writer:
    def write(context: Any, at: int, value: Any) -> None:  # Any: as Writer
        name, payload = value if isinstance(value, tuple) else (value, None)
        case = cases[name]
        _U8(at).value = _VARIANT
        _put_text(at + 8, name)
        _U64(at + 24).value = 0 if case is None else _boxed(case, context, payload)

    return write


def _write_option(payload: Writer) -> Writer:
    def write(context: Any, at: int, value: Any) -> None:  # Any: as Writer
        _U8(at).value = _OPTION
        _U64(at + 8).value = 0 if value is None else _boxed(payload, context, value)

    return write


def _write_result(ok: Writer | None, err: Writer | None) -> Writer:
    def write(context: Any, at: int, value: Any) -> None:  # Any: as Writer
        fine = not isinstance(value, Err)
        case, payload = (ok, value.value if isinstance(value, Ok) else value) if fine else (err, value.value)
        _U8(at).value = _RESULT
        _U8(at + 8).value = fine
        _U64(at + 16).value = 0 if case is None else _boxed(case, context, payload)

    return write


def _write_flags(_: Any, at: int, value: Iterable[str]) -> None:  # Any: as Writer
    names = list(value)
    _U8(at).value = _FLAGS
    _flags_new(at + 8, len(names))
    start = _U64(at + 16).value if names else 0
    for index, name in enumerate(names):
        _put_text(start + 16 * index, name)
