"""The program's linear memory as the host sees it: nothing is read or written before it was checked.

Every address comes from a program that nobody vouched for. Two things stand between it and the Keep's own memory:
each access is checked against the size that the router passed with the call, and the view itself is exactly as long
as the memory, so that even an unchecked slice could only come out short.
A view must not outlive the call it was made for: the program may grow its memory, and wasmtime may then move it.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Final

from enarx.keep.runtime.abi import IOVEC, Errno, Refused

PAGE: Final = 65536
MAX_IOVECS: Final = 1024  # as IOV_MAX of Linux; what lies beyond is left to the next call
MAX_PATH: Final = 4096  # bytes, as PATH_MAX of Linux


class GuestMemory:
    """Checked access to linear memory of `pages` pages that begins at the address `locate` returns."""

    __slots__ = ("_locate", "pages", "size", "view")

    def __init__(self, locate: Callable[[], int]) -> None:
        self._locate = locate
        self.pages = -1
        self.size = 0
        self.view = memoryview(b"")

    def update(self, pages: int) -> None:
        """Take note of the size at the time of a call; the view is made anew when it changed."""
        if pages == self.pages:
            return
        self.pages = pages
        self.size = pages * PAGE
        self.view = memoryview((ctypes.c_uint8 * self.size).from_address(self._locate())).cast("B")

    def slice(self, address: int, length: int) -> memoryview:
        """Exactly `length` bytes at `address`, writable. Refused(FAULT) when they are not all in memory."""
        end = address + length
        if address < 0 or length < 0 or end > self.size:
            raise Refused(Errno.FAULT)
        return self.view[address:end]

    def pack(self, layout: struct.Struct, address: int, *values: int) -> None:
        """Write a structure. Refused(FAULT) as `slice`."""
        layout.pack_into(self.slice(address, layout.size), 0, *values)

    def write(self, address: int, data: bytes) -> None:
        """Write `data`. Refused(FAULT) as `slice`."""
        self.slice(address, len(data))[:] = data

    def iovecs(self, address: int, count: int) -> list[memoryview]:
        """The buffers of a scatter or gather list, empty ones left out, at most MAX_IOVECS of them."""
        entries = self.slice(address, IOVEC.size * count)[: IOVEC.size * MAX_IOVECS]
        return [self.slice(start, length) for start, length in IOVEC.iter_unpack(entries) if length]

    def path(self, address: int, length: int) -> str:
        """A path as text. Refused with FAULT, NAMETOOLONG, or ILSEQ when it is not UTF-8, INVAL with a NUL in it."""
        if length > MAX_PATH:
            self.slice(address, length)
            raise Refused(Errno.NAMETOOLONG)
        try:
            text = bytes(self.slice(address, length)).decode()
        except UnicodeDecodeError:
            raise Refused(Errno.ILSEQ) from None
        if "\0" in text:
            raise Refused(Errno.INVAL)
        return text
