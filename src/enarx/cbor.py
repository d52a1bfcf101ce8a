"""CBOR as attestation uses it (RFC 8949), read strictly and written deterministically.

Read are integers, byte and text strings, arrays, maps, tags, true, false and null, all of definite length. Floats, other
simple values and indefinite lengths are refused, as are duplicate keys, keys that are neither integers nor text, text
that is not UTF-8, nesting and counts beyond the bounds below, and anything that follows. An integer may be longer than
it needs to be, for some vendors write it so; what is verified are the bytes that came, never a rewriting.
`encode` writes the shortest form with map keys in the order of their encoding (RFC 8949, 4.2.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Union

from enarx.errors import MalformedError

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 10_000  # elements in all; the largest token in the field has a few hundred

_SIMPLE: Final[Mapping[int, bool | None]] = {20: False, 21: True, 22: None}
_INDEFINITE: Final = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A value under a tag."""

    tag: int
    value: "Value"


Value = Union[  # noqa: UP007 - names itself, which `|` can not before Python 3.14
    int, bytes, str, bool, None, Sequence["Value"], Mapping[int | str, "Value"], Tagged
]


def decode(data: bytes, what: str) -> Value:
    """The one value in `data`. Raises MalformedError, with the offset."""
    reader = _Reader(data, what)
    value = reader.value(0)
    if reader.position != len(data):
        raise reader.error(f"{len(data) - reader.position} bytes follow the value, expected none")
    return value


def encode(value: Value) -> bytes:
    """The deterministic encoding. Raises TypeError for what is no Value."""
    if isinstance(value, bool) or value is None:
        return bytes((0xE0 | next(code for code, meant in _SIMPLE.items() if meant is value),))
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, Tagged):
        return _head(6, value.tag) + encode(value.value)
    if isinstance(value, Mapping):
        members = sorted((encode(key), encode(item)) for key, item in value.items())
        return _head(5, len(members)) + b"".join(key + item for key, item in members)
    return _head(4, len(value)) + b"".join(map(encode, value))


def _head(major: int, argument: int) -> bytes:
    """The initial byte and its argument in the shortest form. Raises OverflowError beyond 64 bits."""
    if argument < 24:
        return bytes((major << 5 | argument,))
    size = next((size for size in (1, 2, 4, 8) if argument < 1 << 8 * size), 8)
    return bytes((major << 5 | 23 + size.bit_length(),)) + argument.to_bytes(size, "big")


class _Reader:
    """Walks `data` from the front."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._items = 0
        self.position = 0

    def error(self, text: str) -> MalformedError:
        return MalformedError(f"{self._what}: CBOR at 0x{self.position:x}: {text}")

    def value(self, depth: int) -> Value:  # noqa: C901 - one line a major type
        self._items += 1
        if depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep")
        if self._items > MAX_ITEMS:
            raise self.error(f"more than {MAX_ITEMS} elements")
        major, argument = self._head()
        if major == 0:
            return argument
        if major == 1:
            return -1 - argument
        if major == 2:
            return self._take(argument)
        if major == 3:
            return self._text(argument)
        if major == 4:
            self._require_room(argument)
            return tuple(self.value(depth + 1) for _ in range(argument))
        if major == 5:
            self._require_room(2 * argument)
            return self._map(argument, depth)
        if major == 6:
            return Tagged(tag=argument, value=self.value(depth + 1))
        if argument in _SIMPLE:
            return _SIMPLE[argument]
        raise self.error(f"simple value or float {argument}, expected true, false or null")

    def _map(self, count: int, depth: int) -> Mapping[int | str, Value]:
        found: dict[int | str, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise self.error("a map key that is neither an integer nor text")
            if key in found:
                raise self.error(f"the key {key!r} stands twice")
            found[key] = self.value(depth + 1)
        return found

    def _head(self) -> tuple[int, int]:
        initial = self._take(1)[0]
        major, short = initial >> 5, initial & 0x1F
        if short < 24:
            return major, short
        if major == 7 or short >= 28:
            kind = "an indefinite length" if short == _INDEFINITE and major < 7 else f"initial byte 0x{initial:02x}"
            raise self.error(f"{kind}, which is not read here")
        return major, int.from_bytes(self._take(1 << short - 24), "big")

    def _text(self, count: int) -> str:
        try:
            return self._take(count).decode()
        except UnicodeDecodeError as error:
            raise self.error("text that is not UTF-8") from error

    def _take(self, count: int) -> bytes:
        self._require_room(count)
        start, self.position = self.position, self.position + count
        return self._data[start : self.position]

    def _require_room(self, count: int) -> None:
        """Each element takes at least a byte, so a count can be judged before anything is made for it."""
        left = len(self._data) - self.position
        if count > left:
            raise self.error(f"needs {count} bytes, {left} left")
