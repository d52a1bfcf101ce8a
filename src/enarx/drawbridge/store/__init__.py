"""Where Drawbridge keeps bytes: one interface, and every storage that there is."""

from collections.abc import Callable, Mapping
from typing import Final

from enarx.drawbridge.store.api import Item, Key, Store, Upload
from enarx.drawbridge.store.filesystem import FilesystemStore
from enarx.drawbridge.store.memory import MemoryStore
from enarx.errors import MalformedError

__all__ = ["STORES", "FilesystemStore", "Item", "Key", "MemoryStore", "Store", "Upload", "open_store"]


def _s3(location: str) -> Store:
    from enarx.drawbridge.store.s3 import S3Store  # noqa: PLC0415 - its library is of no use to those without a bucket

    return S3Store.open(location)


STORES: Final[Mapping[str, Callable[[str], Store]]] = {
    "file": FilesystemStore.open,
    "s3": _s3,
    "memory": lambda _: MemoryStore(),
}


def open_store(location: str) -> Store:
    """The store at a URL such as `s3://bucket/prefix` or `file:/var/lib/drawbridge`; without a scheme, a directory."""
    scheme, colon, rest = location.partition(":")
    if not colon or "/" in scheme:
        return FilesystemStore.open(location)
    if scheme not in STORES:
        raise MalformedError(f"storage {location[:80]!r}: expected a directory or one of {', '.join(STORES)}")
    return STORES[scheme](rest)
