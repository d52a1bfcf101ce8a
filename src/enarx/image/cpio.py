"""The archive of an initramfs: cpio in the format "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format).

Entries are written in the order of their names, with inode numbers that count from 1, no owner, no time and normalised
modes, so the same tree gives the same bytes.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

MAGIC: Final = b"070701"
BLOCK: Final = 512  # bytes: archives are padded to this, so that another may follow
TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry. `path` is relative, with '/' between names."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, path: str, data: bytes, *, executable: bool = False) -> Self:
        return cls(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)

    @classmethod
    def directory(cls, path: str) -> Self:
        return cls(path=path, mode=stat.S_IFDIR | 0o755)

    @classmethod
    def link(cls, path: str, target: str) -> Self:
        return cls(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())

    @classmethod
    def character_device(cls, path: str, major: int, minor: int, mode: int) -> Self:
        return cls(path=path, mode=stat.S_IFCHR | mode, device=(major, minor))


def archive(nodes: Iterable[Node]) -> bytes:
    """The archive of `nodes`. Raises ValueError when a path stands twice or leaves the tree: our own mistake."""
    out = bytearray()
    last = ""
    for number, node in enumerate(sorted(nodes, key=lambda node: node.path), start=1):
        if node.path == last or node.path.startswith(("/", "../")) or "/../" in node.path or not node.path:
            raise ValueError(f"archive: {node.path!r} stands twice or is no relative path")
        last = node.path
        _write(out, number, node)
    _write(out, 0, Node(path=TRAILER, mode=0))
    out += bytes(-len(out) % BLOCK)
    return bytes(out)


def _write(out: bytearray, number: int, node: Node) -> None:
    name = node.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (number, node.mode, 0, 0, links, 0, len(node.data), 0, 0, *node.device, len(name), 0)
    out += MAGIC + b"".join(b"%08X" % field for field in fields) + name
    out += bytes(-len(out) % 4)
    out += node.data
    out += bytes(-len(out) % 4)
