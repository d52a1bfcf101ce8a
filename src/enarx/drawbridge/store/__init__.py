"""Where Drawbridge keeps bytes: one interface, and every storage that there is."""

from collections.abc import Callable, Mapping
from typing import Final

from enarx.drawbridge.store.api import Item, Key, Store, Upload
from enarx.drawbridge.store.filesystem import FilesystemStore
from enarx.drawbridge.store.memory import MemoryStore
from enarx.errors import MalformedError

__all__ = ["STORES", "FilesystemStore", "Item", "Key", "MemoryStore", "Store", "Upload", "open_store"]

STORES: Final[Mapping[str, Callable[[str], Store]]] = {
    "file": FilesystemStore.open,
    "memory": lambda _: MemoryStore(),
}


def open_store(location: str) -> Store:
    """The store at a URL such as `file:/var/lib/drawbridge`; without a scheme it is a directory."""
    scheme, colon, rest = location.partition(":")
    if not colon or "/" in scheme:
        return FilesystemStore.open(location)
    if scheme not in STORES:
        raise MalformedError(f"storage {location[:80]!r}: expected a directory or one of {', '.join(STORES)}")
    return STORES[scheme](rest)
