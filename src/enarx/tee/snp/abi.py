"""Requirements on versions in the writing of Cargo's semver, as the key `abi` has it: `>=1.51`, `^1.0, <2`, `1.*`.

A requirement is comparators joined by commas, all of which must hold. A comparator is an operator (`=`, `>`, `>=`,
`<`, `<=`, `~`, `^`, and none means `^`) and a version of one to three numbers, where the missing ones and `*` are free.
There are no pre-releases: firmware has none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

Triple = tuple[int, int, int]

_COMPARATOR: Final = re.compile(
    r"\s*(=|>=?|<=?|~|\^|)\s*(\d{1,9}|[*xX])(?:\.(\d{1,9}|[*xX]))?(?:\.(\d{1,9}|[*xX]))?\s*"
)
_MAX_TEXT: Final = 200
_FREE: Final = "*xX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What a version has to be. `ranges` are half-open: first included, last excluded, None without end."""

    text: str
    ranges: tuple[tuple[Triple, Triple | None], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a requirement. Raises ValueError."""
        if len(text) > _MAX_TEXT:
            raise ValueError(f"expected at most {_MAX_TEXT} characters, found {len(text)}")
        return cls(text=text, ranges=tuple(_range(part) for part in text.split(",")))

    def matches(self, version: Triple) -> bool:
        return all(first <= version and (last is None or version < last) for first, last in self.ranges)


def _range(text: str) -> tuple[Triple, Triple | None]:
    match = _COMPARATOR.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a requirement such as '>=1.51', found {text!r}")
    operator, *written = match.groups()
    given: list[int] = []
    for part in written:
        if part is None or part in _FREE:
            break
        given.append(int(part))
    if any(part is not None and part not in _FREE for part in written[len(given) :]):
        raise ValueError(f"expected no number after *, found {text!r}")
    starred = any(part is not None and part in _FREE for part in written)
    if not given:
        if operator:
            raise ValueError(f"expected a version after {operator}, found {text!r}")
        return (0, 0, 0), None
    return _RANGES["=" if starred and operator in {"", "="} else operator](given)


def _low(given: list[int]) -> Triple:
    major, minor, patch = [*given, 0, 0][:3]
    return major, minor, patch


def _next(given: list[int], position: int) -> Triple:
    """The first version after all that agree with `given` up to `position`."""
    return _low([*given[:position], given[position] + 1])


def _exact(given: list[int]) -> tuple[Triple, Triple | None]:
    return _low(given), _next(given, len(given) - 1)


def _tilde(given: list[int]) -> tuple[Triple, Triple | None]:
    return _low(given), _next(given, min(1, len(given) - 1))


def _caret(given: list[int]) -> tuple[Triple, Triple | None]:
    """What does not change the first number that is not zero."""
    leading = next((position for position, number in enumerate(given) if number), len(given) - 1)
    return _low(given), _next(given, leading)


_RANGES: Final[dict[str, Callable[[list[int]], tuple[Triple, Triple | None]]]] = {
    "=": _exact,
    "~": _tilde,
    "^": _caret,
    "": _caret,
    ">": lambda given: (_next(given, len(given) - 1), None),
    ">=": lambda given: (_low(given), None),
    "<": lambda given: ((0, 0, 0), _low(given)),
    "<=": lambda given: ((0, 0, 0), _next(given, len(given) - 1)),
}
