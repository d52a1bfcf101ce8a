"""What a WebAssembly file says of itself: a module's imports and exports, or that it is a component (Core 2.0, 5.5).

Only as much is read as comes before the code: those sections stand first. Nothing is run or validated; a file that
lies is only described wrongly. Any bytes give a description or MalformedError.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from enarx.errors import MalformedError

LOOKED_AT: Final = 1 << 20  # bytes from the beginning
MAX_NAMES: Final = 1000  # imports or exports that are told
MAX_NAME: Final = 200  # characters

MAGIC: Final = b"\0asm"
_MODULE: Final = b"\1\0\0\0"
_COMPONENT: Final = b"\x0d\0\1\0"
_KINDS: Final = {0: "function", 1: "table", 2: "memory", 3: "global", 4: "tag"}
_IMPORT, _EXPORT, _COMPONENT_IMPORT, _COMPONENT_EXPORT = 2, 7, 10, 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One import (with the module it comes from) or export."""

    kind: str
    name: str
    module: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """`whole` is False when the file goes on beyond what was looked at before both lists were found."""

    kind: str
    imports: tuple[Item, ...] = ()
    exports: tuple[Item, ...] = ()
    whole: bool = True

    @classmethod
    def parse(cls, data: bytes, *, length: int) -> Self:
        """Describe a file of `length` bytes by its beginning. Raises MalformedError."""
        if data[:4] != MAGIC:
            raise MalformedError("WebAssembly: expected a file that begins with \\0asm")
        if data[4:8] == _COMPONENT:
            return cls._component(data, length)
        if data[4:8] != _MODULE:
            raise MalformedError(f"WebAssembly: expected version 1 or a component, found {data[4:8].hex()}")
        imports: tuple[Item, ...] = ()
        exports: tuple[Item, ...] = ()
        reader = _Reader(data, 8)
        while reader.at < min(len(data), length):
            kind, size = reader.byte(), reader.unsigned()
            if reader.at + size > len(data):
                return cls(kind="module", imports=imports, exports=exports, whole=kind > _EXPORT or kind == 0)
            section = _Reader(data[: reader.at + size], reader.at)
            if kind == _IMPORT:
                imports = _list(section, _import)
            elif kind == _EXPORT:
                exports = _list(section, _export)
            reader.at += size
        return cls(kind="module", imports=imports, exports=exports, whole=len(data) >= length or bool(exports))

    @classmethod
    def _component(cls, data: bytes, length: int) -> Self:
        """A component: the names of what it imports and exports, as far as they are plain."""
        imports: list[Item] = []
        exports: list[Item] = []
        reader = _Reader(data, 8)
        whole = True
        while reader.at < min(len(data), length):
            kind, size = reader.byte(), reader.unsigned()
            if reader.at + size > len(data):
                whole = False
                break
            if kind in {_COMPONENT_IMPORT, _COMPONENT_EXPORT}:
                section = _Reader(data[: reader.at + size], reader.at)
                if section.unsigned():
                    section.byte()  # the form of the name
                    (imports if kind == _COMPONENT_IMPORT else exports).append(Item(kind="item", name=section.name()))
            reader.at += size
        return cls(kind="component", imports=tuple(imports), exports=tuple(exports), whole=whole)


class _Reader:
    """Never past the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise MalformedError(f"WebAssembly: ends at {self.at}, expected more")
        self.at += 1
        return self.data[self.at - 1]

    def unsigned(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise MalformedError(f"WebAssembly: a number at {self.at} is too long")

    def name(self) -> str:
        size = self.unsigned()
        if self.at + size > len(self.data):
            raise MalformedError(f"WebAssembly: a name at {self.at} is longer than its section")
        self.at += size
        return self.data[self.at - size : self.at].decode(errors="replace")[:MAX_NAME]


def _list(section: _Reader, read: Callable[[_Reader], Item]) -> tuple[Item, ...]:
    count = section.unsigned()
    return tuple(read(section) for _ in range(min(count, MAX_NAMES)))


def _import(section: _Reader) -> Item:
    module, name, kind = section.name(), section.name(), section.byte()
    if kind == 0:
        section.unsigned()
    elif kind == 1:
        section.byte()
        _limits(section)
    elif kind == 2:
        _limits(section)
    elif kind == 3:
        section.byte()
        section.byte()
    elif kind == 4:
        section.byte()
        section.unsigned()
    else:
        raise MalformedError(f"WebAssembly: an import of kind {kind}")
    return Item(kind=_KINDS[kind], name=name, module=module)


def _export(section: _Reader) -> Item:
    name, kind = section.name(), section.byte()
    section.unsigned()
    return Item(kind=_KINDS.get(kind, "item"), name=name)


def _limits(section: _Reader) -> None:
    flags = section.byte()
    section.unsigned()
    if flags & 1:
        section.unsigned()
