"""Tables of a TOML document to checked values: strict, and every error says where.

    document = toml.parse(text, source="steward.toml")
    snp = document.table("snp")
    hashes = snp.hex_list("hash", length=48)
    document.end()                      # refuses every key that nobody asked for, in all tables

An error begins with the source, the line where it can be located, and the dotted path:
`steward.toml:12: snp.hash[0]: expected 48 bytes of hex, found 31`. An unknown key is refused
with the nearest known one as a suggestion. TOML itself is read by the standard library.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, overload

from enarx.errors import MalformedError

T = TypeVar("T")

MAX_DOCUMENT = 1_000_000  # bytes; the originals' bound on Enarx.toml, and no configuration of ours is larger


class ConfigError(MalformedError):
    """A configuration file does not say what it may say; caught by commands that print it by itself."""


@dataclass(slots=True)
class Table:
    """One table, its dotted path, and which of its keys have been asked for."""

    source: str
    text: str
    path: str
    values: Mapping[str, Any]  # Any: what tomllib gives, checked by the accessors below
    _asked: dict[str, None] = field(default_factory=dict)
    _children: list["Table"] = field(default_factory=list)
    _tables: dict[str, "Table"] = field(default_factory=dict)

    @property
    def asked(self) -> Collection[str]:
        """The keys that somebody has asked for: those that are known here, once the table was read."""
        return self._asked.keys()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def keys(self) -> Sequence[str]:
        return tuple(self.values)

    # -- scalars

    @overload
    def string(self, key: str) -> str: ...
    @overload
    def string(self, key: str, default: T) -> str | T: ...
    def string(self, key: str, default: object = ...) -> object:
        return self._value(key, default, str, "a string")

    @overload
    def integer(self, key: str, *, minimum: int = ..., maximum: int = ...) -> int: ...
    @overload
    def integer(self, key: str, default: T, *, minimum: int = ..., maximum: int = ...) -> int | T: ...
    def integer(self, key: str, default: object = ..., *, minimum: int = 0, maximum: int = 2**63 - 1) -> object:
        value = self._value(key, default, int, "an integer")
        if key in self.values and not (isinstance(value, int) and minimum <= value <= maximum):
            raise self.error(key, f"expected an integer from {minimum} to {maximum}, found {value}")
        return value

    @overload
    def boolean(self, key: str) -> bool: ...
    @overload
    def boolean(self, key: str, default: T) -> bool | T: ...
    def boolean(self, key: str, default: object = ...) -> object:
        return self._value(key, default, bool, "true or false")

    @overload
    def moment(self, key: str) -> datetime: ...
    @overload
    def moment(self, key: str, default: T) -> datetime | T: ...
    def moment(self, key: str, default: object = ...) -> object:
        value = self._value(key, default, datetime, "a date and time")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise self.error(key, "expected a date and time with an offset such as Z")
        return value

    @overload
    def hex(self, key: str, *, length: int) -> bytes: ...
    @overload
    def hex(self, key: str, default: T, *, length: int) -> bytes | T: ...
    def hex(self, key: str, default: object = ..., *, length: int) -> object:
        """`length` bytes written in hexadecimal, in any case."""
        if key not in self.values:
            return self._value(key, default, str, "a string")
        return self._unhex(key, self.string(key), length)

    # -- lists

    def strings(self, key: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        return self._list(key, default, str, "a string")

    def integers(self, key: str, default: Iterable[int] = ()) -> tuple[int, ...]:
        return self._list(key, default, int, "an integer")

    def hex_list(self, key: str, *, length: int | Sequence[int]) -> frozenset[bytes]:
        """A list of hexadecimal strings of `length` bytes each, or of one of these lengths; duplicates collapse."""
        items = self.strings(key)
        return frozenset(self._unhex(f"{key}[{index}]", item, length, at=key) for index, item in enumerate(items))

    def choices(self, key: str, allowed: Iterable[str], default: Iterable[str] = ()) -> tuple[str, ...]:
        """A list of strings that each must be one of `allowed`."""
        known = tuple(allowed)
        items = self.strings(key, default)
        for index, item in enumerate(items):
            if item not in known:
                raise self.error(f"{key}[{index}]", f"expected one of {', '.join(known)}, found {item!r}", at=key)
        return items

    # -- tables

    def table(self, key: str) -> "Table":
        """The table of that name, empty when absent; the same one however often it is asked for."""
        value = self._value(key, {}, dict, "a table")
        if key not in self._tables:
            self._tables[key] = self._child(key, value if isinstance(value, dict) else {})
        return self._tables[key]

    def tables(self, key: str) -> tuple["Table", ...]:
        """An array of tables, empty when absent."""
        values: tuple[dict[str, Any], ...] = self._list(key, (), dict, "a table")  # Any: as `values`
        return tuple(self._child(f"{key}[{index}]", value, locate=key) for index, value in enumerate(values))

    def string_map(self, key: str) -> Mapping[str, str]:
        """A table of strings whose keys the author chose."""
        parent = self.table(key)
        return {name: parent.string(name) for name in parent.keys()}  # noqa: SIM118 - Table is no mapping

    # -- the end

    def end(self) -> None:
        """Raises ConfigError for the first key, here or below, that nobody asked for."""
        for key in self.values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, self._asked, n=1)
                hint = (
                    f"; did you mean {near[0]!r}?"
                    if near
                    else f"; known here: {', '.join(sorted(self._asked)) or 'nothing'}"
                )
                raise self.error(key, f"unknown key{hint}")
        for child in self._children:
            child.end()

    def error(self, key: str, message: str, *, at: str | None = None) -> ConfigError:
        """The error to raise for `key`: source, line where it can be found, dotted path, message."""
        dotted = ".".join(part for part in (self.path, key) if part)
        line = _locate(self.text, self.path, at or key)
        where = f"{self.source}:{line}" if line else self.source
        return ConfigError(f"{where}: {dotted}: {message}" if dotted else f"{where}: {message}")

    # -- inside

    def _child(self, key: str, values: Mapping[str, Any], *, locate: str | None = None) -> "Table":  # Any: as `values`
        del locate
        path = ".".join(part for part in (self.path, key) if part)
        child = Table(source=self.source, text=self.text, path=path, values=values)
        self._children.append(child)
        return child

    def _value(self, key: str, default: object, kind: type, expected: str) -> object:
        self._asked[key] = None
        if key not in self.values:
            if default is ...:
                raise self.error(key, f"missing, expected {expected}")
            return default
        value = self.values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"expected {expected}, found {_describe(value)}")
        return value

    def _list(self, key: str, default: Iterable[T], kind: Callable[..., T], expected: str) -> tuple[T, ...]:
        self._asked[key] = None
        if key not in self.values:
            return tuple(default)
        value = self.values[key]
        if not isinstance(value, list):
            raise self.error(key, f"expected a list, found {_describe(value)}")
        for index, item in enumerate(value):
            if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):  # type: ignore[arg-type]  # kind is a class
                raise self.error(f"{key}[{index}]", f"expected {expected}, found {_describe(item)}", at=key)
        return tuple(value)

    def _unhex(self, key: str, text: str, length: int | Sequence[int], *, at: str | None = None) -> bytes:
        sizes = (length,) if isinstance(length, int) else length
        expected = " or ".join(map(str, sizes))
        if not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", text):
            raise self.error(key, f"expected {expected} bytes of hex, found {text[:100]!r}", at=at)
        value = bytes.fromhex(text)
        if len(value) not in sizes:
            raise self.error(key, f"expected {expected} bytes of hex, found {len(value)}", at=at)
        return value


def _require_small(values: Mapping[str, Any], source: str) -> None:  # Any: what tomllib gives
    """Integers of TOML have 64 bits, here with a sign or without; larger ones could not even be printed."""
    left: list[Any] = [values]  # Any: as above
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise ConfigError(f"{source}: not TOML: a number of more than 64 bits")


def parse(text: str | bytes, *, source: str) -> Table:
    """Read a whole document. Raises ConfigError when it is too large, not UTF-8 or not TOML."""
    if len(text) > MAX_DOCUMENT:
        raise ConfigError(f"{source}: larger than {MAX_DOCUMENT} bytes")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{source}: not UTF-8 at byte {error.start}") from error
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    except ValueError:  # Python's own bound on the digits of a number, in words for programmers
        raise ConfigError(f"{source}: not TOML: a number of more than 64 bits") from None
    _require_small(values, source)
    return Table(source=source, text=text, path="", values=values)


def _describe(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")


_HEADER = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")


def _locate(text: str, path: str, key: str) -> int | None:
    """The line, from 1, where `key` of the table `path` is set, else where that table begins; None when unknown."""
    wanted, index = _split(path)
    seen, table, begins = 0, "", None
    name = re.escape(key.split("[", 1)[0])
    setting = re.compile(rf"""^\s*(?:"{name}"|'{name}'|{name})\s*=""")
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            table = header.group(1).replace('"', "").replace("'", "").replace(" ", "")
            seen += table == wanted
            if table == wanted and begins is None and (index is None or seen == index + 1):
                begins = number
            if _joined(wanted, key) == table:
                return number
        elif table == wanted and (index is None or seen == index + 1) and setting.match(line):
            return number
    return begins


def _split(path: str) -> tuple[str, int | None]:
    """`files[2]` is the third table of the array `files`; deeper indices are not told apart."""
    match = re.fullmatch(r"(.*)\[(\d+)\]", path)
    return (match.group(1), int(match.group(2))) if match else (path, None)


def _joined(path: str, key: str) -> str:
    return ".".join(part for part in (path, key.split("[", 1)[0]) if part)
