"""Copies with some fields changed, of a dataclass or of one of msgspec's structs."""

import dataclasses
from typing import Any, TypeVar

from msgspec import Struct, structs

T = TypeVar("T")


def replace(value: T, /, **changes: Any) -> T:  # Any: the fields of whichever type
    return structs.replace(value, **changes) if isinstance(value, Struct) else dataclasses.replace(value, **changes)  # type: ignore[type-var]  # a dataclass
