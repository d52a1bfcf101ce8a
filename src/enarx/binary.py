"""Fixed little-endian layouts, read and written field by field.

A Reader never goes past the end, reserved bytes must be zero, and nothing may follow. Every
error names the layout, the field, its offset, what was expected and what was found. A Writer is
the inverse. Integers of a TPM's are big-endian: `big` reads those.
"""

from typing import Self

from enarx.errors import MalformedError


class Reader:
    """Reads `data`, the layout called `what` in errors, from the front."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes | memoryview, *, what: str) -> None:
        self._data = bytes(data)
        self._position = 0
        self._what = what

    @property
    def position(self) -> int:
        """Bytes consumed so far."""
        return self._position

    @property
    def left(self) -> int:
        """Bytes not yet consumed."""
        return len(self._data) - self._position

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes. Raises MalformedError when fewer are left."""
        start = self._position
        end = start + count
        if count < 0 or end > len(self._data):
            raise MalformedError(f"{self._what}: {field} at 0x{start:x} needs {count} bytes, {self.left} left")
        self._position = end
        return self._data[start:end]

    def uint(self, count: int, field: str) -> int:
        """The next `count` bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(count, field), "little")

    def big(self, count: int, field: str) -> int:
        """The next `count` bytes as an unsigned big-endian integer."""
        return int.from_bytes(self.take(count, field), "big")

    def zeros(self, count: int, field: str = "reserved") -> None:
        """Skip `count` reserved bytes. Raises MalformedError when one of them is not zero."""
        start = self._position
        self.take(count, field)
        require_zeros(self._data, start, count, field, what=self._what)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left, "rest")

    def end(self) -> None:
        """Raises MalformedError when anything is left."""
        if self.left:
            raise MalformedError(
                f"{self._what}: {self.left} bytes follow the end at 0x{self._position:x}, expected none"
            )


def require_zeros(data: bytes, start: int, count: int, field: str = "reserved", *, what: str) -> None:
    """Raises MalformedError when one of `count` bytes from `start` on is not zero."""
    if data.count(0, start, start + count) != count:
        at = next(at for at in range(start, start + count) if data[at])
        raise MalformedError(
            f"{what}: {field} at 0x{start:x}..0x{start + count - 1:x} must be zero, found 0x{data[at]:02x} at 0x{at:x}"
        )


class Writer:
    """Writes a layout; the inverse of Reader."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def uint(self, value: int, count: int) -> Self:
        """Append an unsigned little-endian integer of `count` bytes. Raises OverflowError when it does not fit."""
        self._data += value.to_bytes(count, "little")
        return self

    def put(self, data: bytes, count: int | None = None) -> Self:
        """Append `data`; with `count`, it must be exactly that long."""
        if count is not None and len(data) != count:
            raise ValueError(f"expected {count} bytes, found {len(data)}")
        self._data += data
        return self

    def zeros(self, count: int) -> Self:
        self._data += bytes(count)
        return self

    def getvalue(self) -> bytes:
        return bytes(self._data)
