"""Packages to kernel and initramfs: the same bytes wherever it is built, without root (keep.md of the design, 1).

  1  what the lock names is fetched and compared
  2  packages and wheels are unpacked into a tree, without what a Keep does not need (documentation, tests, compilers)
  3  this program's own sources are put beside them
  4  the tree's own interpreter compiles everything, by hash and not by time, so that no host's Python matters
  5  the kernel's modules that are needed, in the order of their dependencies, are unpacked
  6  all of it becomes one archive (`enarx.image.cpio`), whose SHA-256 is the image's

Only x86-64. The archive is not compressed: a compressor's version would be part of the image, and the kernel starts no
sooner from a smaller one.
"""

import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError
from enarx.image.cpio import Node, archive
from enarx.image.lock import Lock, fetch
from enarx.image.tree import Tree, compiled, merged_usr, own_sources, unpack, with_directories

KERNEL_NAME: Final = "vmlinuz"
INITRAMFS_NAME: Final = "initramfs.cpio"
LOCK_NAME: Final = "image.lock"

MODULES: Final = "usr/lib/enarx/modules"
WANTED_MODULES: Final = (
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "configfs",
    "tsm",
    "tsm_report",
    "sev-guest",
    "tdx-guest",
    "vmw_vsock_virtio_transport",
)
NOT_IN_A_KEEP: Final = ("cli/*", "examples/*", "image/*", "*/http.py")
NAME_SERVICE: Final = b"hosts: files dns\n"
# Outside is always at this address of QEMU's user network; names are not trusted, certificates are.
HOSTS: Final = b"127.0.0.1 keep\n10.0.2.2 localhost host\n"
RESOLVER: Final = b"nameserver 10.0.2.3\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was built."""

    kernel: bytes
    initramfs: bytes

    @property
    def digests(self) -> Mapping[str, str]:
        return {
            KERNEL_NAME: sha256(self.kernel).hexdigest(),
            INITRAMFS_NAME: sha256(self.initramfs).hexdigest(),
        }

    def write(self, folder: Path, lock: Lock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / KERNEL_NAME).write_bytes(self.kernel)
        (folder / INITRAMFS_NAME).write_bytes(self.initramfs)
        (folder / LOCK_NAME).write_text(lock.encode())


def build(lock: Lock, cache: Path) -> Image:
    """Raises UnavailableError and UntrustedError (packages), MalformedError (a package that is not one)."""
    # 1
    paths = fetch(lock, cache)
    # 2
    tree, boot = unpack(lock, paths)
    # 3
    tree |= {node.path: node for node in own_sources(NOT_IN_A_KEEP)}
    tree |= {node.path: node for node in _fixed()}
    # 4
    tree |= {node.path: node for node in compiled(tree)}
    # 5
    tree |= {node.path: node for node in _modules(boot)}
    # 6
    return Image(kernel=_kernel(boot), initramfs=archive(with_directories(tree)))


def _fixed() -> Iterator[Node]:
    yield from merged_usr()
    for name in ("dev", "proc", "sys", "tmp", "run", "root"):
        yield Node.directory(name)
    yield Node.character_device("dev/console", 5, 1, 0o600)
    yield Node.character_device("dev/null", 1, 3, 0o666)
    yield Node.file("etc/nsswitch.conf", NAME_SERVICE)
    yield Node.file("etc/hosts", HOSTS)
    yield Node.file("etc/resolv.conf", RESOLVER)
    yield Node.file("init", files("enarx.image").joinpath("init.py").read_bytes(), executable=True)


def _modules(boot: Tree) -> Iterator[Node]:
    """The wanted modules and those they depend on, uncompressed, and the order in which to load them."""
    known: dict[str, Node] = {}
    for path, node in boot.items():
        if found := re.fullmatch(r"usr/lib/modules/.*/([^/]+)\.ko(?:\.xz)?", path):
            known[found[1].replace("-", "_")] = node
    loaded: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in loaded or name not in known:
            return  # built into the kernel, or not of this version
        data = known[name].data
        if known[name].path.endswith(".xz"):
            data = lzma.decompress(data)
        for needed in _depends(data):
            add(needed)
        loaded[name] = data

    for wanted in WANTED_MODULES:
        add(wanted)
    for name, data in loaded.items():
        yield Node.file(f"{MODULES}/{name}.ko", data)
    yield Node.file(f"{MODULES}/order", "".join(f"{name}\n" for name in loaded).encode())


def _depends(module: bytes) -> Sequence[str]:
    """The section .modinfo holds NUL-separated assignments; `depends` lists names joined by commas."""
    found = re.search(rb"(?:^|\0)depends=([^\0]*)\0", module)
    return [name for name in (found[1].decode() if found else "").split(",") if name]


def _kernel(boot: Tree) -> bytes:
    found = [node.data for path, node in boot.items() if path.startswith("boot/vmlinuz-")]
    if len(found) != 1:
        raise MalformedError(f"kernel: expected one among the packages, found {len(found)}")
    return found[0]
