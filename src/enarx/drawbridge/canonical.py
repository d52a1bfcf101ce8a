"""JSON as the originals write it: one value, one sequence of bytes, so that a digest of it means something.

Compact; UTF-8, escaping only what must be; members in the order in which they are given; numbers as serde_json writes
them. `parse` is strict: one value and nothing after it, no member twice, no NaN, no lone surrogate, integers of 64
bits, nesting within bounds. What is parsed is written again byte for byte if it was canonical.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from enarx.errors import MalformedError

Json = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None  # Any: JSON has no deeper type

MAX_DEPTH: Final = 64  # the originals stop at 128; no document of ours goes beyond five
_INTEGERS: Final = range(-(2**63), 2**64)


def parse(data: bytes, what: str) -> Any:  # Any: the caller reads it with `members`, `text` and `integer`
    """The one value that `data` is. Raises MalformedError, which begins with `what`."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_pairs,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_number,
        )
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: expected UTF-8, found another byte at {error.start}") from error
    except json.JSONDecodeError as error:
        raise MalformedError(f"{what}: expected JSON: {error.msg} at {error.pos}") from error
    except ValueError as error:
        raise MalformedError(f"{what}: {error}") from error
    except RecursionError as error:
        raise MalformedError(f"{what}: expected at most {MAX_DEPTH} levels, found more") from error
    _check(value, what, MAX_DEPTH)
    return value


def encode(value: Json) -> bytes:
    """The canonical bytes of `value`, which has what `parse` gives."""
    return _text(value).encode()


def members(value: object, what: str) -> dict[str, Any]:  # Any: as `parse`
    """`value` as an object."""
    if not isinstance(value, dict):
        raise MalformedError(f"{what}: expected an object, found {describe(value)}")
    return value


def member(values: Mapping[str, Any], name: str, kind: type, what: str) -> Any:  # Any: an instance of `kind`
    """The member of that name, which must be of that very type."""
    if name not in values:
        raise MalformedError(f"{what}: expected a member {name!r}, found none")
    if type(values[name]) is not kind:
        raise MalformedError(f"{what}: {name}: expected {_NAMES[kind]}, found {describe(values[name])}")
    return values[name]


def only(values: Mapping[str, Any], allowed: Sequence[str], what: str) -> None:
    """Raises MalformedError when there is a member that is not `allowed`."""
    for name in values:
        if name not in allowed:
            raise MalformedError(f"{what}: expected no member but {', '.join(allowed)}, found {name[:80]!r}")


_NAMES: Final[Mapping[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    float: "a number with a fraction",
    bool: "true or false",
    type(None): "null",
}


def describe(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: as `parse`
    found = dict(items)
    if len(found) != len(items):
        raise ValueError("expected every member once, found one twice")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"expected a number, found {name}")


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 2**64
    if value not in _INTEGERS:
        raise ValueError(f"expected integers of 64 bits, found {digits[:40]}")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"expected a number of double precision, found {digits[:40]}")
    return value


def _check(value: object, what: str, depth: int) -> None:
    if depth == 0:
        raise MalformedError(f"{what}: expected at most {MAX_DEPTH} levels, found more")
    if isinstance(value, str):
        _require_unicode(value, what)
    elif isinstance(value, list):
        for item in value:
            _check(item, what, depth - 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            _require_unicode(name, what)
            _check(item, what, depth - 1)


def _require_unicode(text: str, what: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"{what}: expected Unicode, found half of a surrogate pair") from error


def _text(value: object) -> str:
    if isinstance(value, float):
        return _real(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_quoted(str(name))}:{_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_text, value)) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _real(value: float) -> str:
    """The shortest digits that give `value` again, placed as serde_json places the point and the exponent."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)  # where the decimal point stands, counted from the first digit
    if value == 0:
        written = "0.0"
    elif len(text) <= point <= 16:
        written = text + "0" * (point - len(text)) + ".0"
    elif 0 < point <= 16:
        written = f"{text[:point]}.{text[point:]}"
    elif -5 < point <= 0:
        written = "0." + "0" * -point + text
    else:
        written = text[0] + ("." + text[1:] if len(text) > 1 else "") + f"e{point - 1}"
    return "-" + written if sign else written
