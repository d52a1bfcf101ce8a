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

import fnmatch
import io
import lzma
import posixpath
import re
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

import enarx
from enarx.errors import MalformedError, UnavailableError
from enarx.image.cpio import Node, archive
from enarx.image.lock import Lock, fetch

KERNEL_NAME: Final = "vmlinuz"
INITRAMFS_NAME: Final = "initramfs.cpio"
LOCK_NAME: Final = "image.lock"

SITE: Final = "usr/lib/python3/dist-packages"
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
LEFT_OUT: Final = (
    "usr/share/*",
    "etc/*",
    "var/*",
    "*/__pycache__/*",
    "*.pyc",
    "*.pyi",
    "*.a",
    "*.la",
    "*/RECORD",
    "usr/lib/python3.11/test/*",
    "usr/lib/python3.11/idlelib/*",
    "usr/lib/python3.11/lib2to3/*",
    "usr/lib/python3.11/tkinter/*",
    "usr/lib/python3.11/ensurepip/*",
    "usr/lib/python3.11/pydoc_data/*",
    "usr/lib/python3.11/unittest/*",
    "usr/lib/python3.11/distutils/*",
    "usr/lib/python3.11/sqlite3/*",
    "usr/lib/python3.11/curses/*",
    "usr/lib/python3.11/dbm/*",
    "usr/lib/python3.11/venv/*",
    "usr/lib/python3.11/config-*",
    "usr/lib/python3.11/lib-dynload/_codecs_*",
    "usr/lib/python3.11/lib-dynload/*curses*",
    "usr/lib/python3.11/lib-dynload/*dbm*",
    "usr/lib/python3.11/lib-dynload/*sqlite*",
    "usr/lib/python3.11/lib-dynload/readline*",
    "usr/lib/python3.11/lib-dynload/nis*",
    "usr/lib/x86_64-linux-gnu/gconv/*",
    "usr/lib/x86_64-linux-gnu/audit/*",
    "usr/bin/[!p]*",
    "usr/sbin/*",
    "usr/lib/modules/*",
    "boot/*",
)
OWN_ROOMS: Final = ("cli/*", "examples/*", "image/*", "*/http.py")
OWN_KEPT: Final = ("image/__init__.py",)
MERGED: Final = ("bin", "sbin", "lib", "lib64")  # Debian's merged /usr
NAME_SERVICE: Final = b"hosts: files dns\n"
# Outside is always at this address of QEMU's user network; names are not trusted, certificates are.
HOSTS: Final = b"127.0.0.1 keep\n10.0.2.2 localhost host\n"
RESOLVER: Final = b"nameserver 10.0.2.3\n"

Tree = dict[str, Node]


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
    tree: Tree = {}
    boot: Tree = {}
    for deb in sorted(lock.debs, key=lambda item: item.name):
        for node in _deb(paths[deb.file]):
            (boot if node.path.startswith(("boot/", "usr/lib/modules/")) else tree)[node.path] = node
    for wheel in sorted(lock.wheels, key=lambda item: item.file):
        tree |= {node.path: node for node in _wheel(paths[wheel.file])}
    tree = {path: node for path, node in tree.items() if not _left_out(path)}
    # 3
    tree |= {node.path: node for node in _own_sources()}
    tree |= {node.path: node for node in _fixed()}
    # 4
    tree |= {node.path: node for node in _compiled(tree)}
    # 5
    tree |= {node.path: node for node in _modules(boot)}
    # 6
    return Image(kernel=_kernel(boot), initramfs=archive(_with_directories(tree)))


def _deb(path: Path) -> Iterator[Node]:
    """The files of a Debian package: an `ar` archive with a tar inside."""
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise MalformedError(f"{path.name}: not a Debian package")
    position = 8
    while position + 60 <= len(data):
        name = data[position : position + 16].strip()
        size = int(data[position + 48 : position + 58])
        content = data[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
        if name.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
                yield from _members(tar)


def _members(tar: tarfile.TarFile) -> Iterator[Node]:
    files_: dict[str, Node] = {}
    for member in tar:
        path = _merged(posixpath.normpath(member.name).lstrip("/"))
        if member.issym():
            yield Node.link(path, member.linkname)
        elif member.islnk():
            original = files_[_merged(posixpath.normpath(member.linkname).lstrip("/"))]
            yield Node(path=path, mode=original.mode, data=original.data)
        elif member.isfile() and (content := tar.extractfile(member)) is not None:
            files_[path] = Node.file(path, content.read(), executable=bool(member.mode & 0o111))
            yield files_[path]


def _wheel(path: Path) -> Iterator[Node]:
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if not name.endswith("/"):
                yield Node.file(f"{SITE}/{name}", wheel.read(name), executable=".so" in name)


def _own_sources() -> Iterator[Node]:
    """Our own modules, without what only a host needs."""
    root = Path(enarx.__file__).parent
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if not path.is_file() or "__pycache__" in relative:
            continue
        if _matches(relative, OWN_ROOMS) and not _matches(relative, OWN_KEPT):
            continue
        yield Node.file(f"{SITE}/enarx/{relative}", path.read_bytes())


def _fixed() -> Iterator[Node]:
    for name in MERGED:
        yield Node.link(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "tmp", "run", "root"):
        yield Node.directory(name)
    yield Node.character_device("dev/console", 5, 1, 0o600)
    yield Node.character_device("dev/null", 1, 3, 0o666)
    yield Node.link("usr/bin/python3", "python3.11")
    yield Node.file("etc/nsswitch.conf", NAME_SERVICE)
    yield Node.file("etc/hosts", HOSTS)
    yield Node.file("etc/resolv.conf", RESOLVER)
    yield Node.file("init", files("enarx.image").joinpath("init.py").read_bytes(), executable=True)


def _compiled(tree: Tree) -> Iterator[Node]:
    """Bytecode of every module, made by the tree's own interpreter and valid whatever the time (PEP 552)."""
    with tempfile.TemporaryDirectory(prefix="enarx-image-") as name:
        root = Path(name)
        for node in _with_directories(tree):
            _put(root, node)
        libraries = ":".join(str(root / path) for path in ("usr/lib/x86_64-linux-gnu", "usr/lib"))
        loader = root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        command = [str(loader), "--library-path", libraries, str(root / "usr/bin/python3.11"), "-I", "-B", "-S", "-m"]
        command += ["compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
        command += [str(root / "usr/lib/python3.11"), str(root / SITE)]
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        compiled = sorted(root.rglob("*.pyc"))
        if not compiled:
            raise UnavailableError(f"the image's interpreter does not run here: {done.stderr.strip()[-500:]}")
        for path in compiled:
            yield Node.file(path.relative_to(root).as_posix(), path.read_bytes())


def _put(root: Path, node: Node) -> None:
    path = root / node.path
    if stat.S_ISDIR(node.mode):
        path.mkdir(exist_ok=True)
    elif stat.S_ISLNK(node.mode):
        path.symlink_to(node.data.decode())
    elif stat.S_ISREG(node.mode):
        path.write_bytes(node.data)
        path.chmod(node.mode & 0o777)


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


def _with_directories(tree: Tree) -> Sequence[Node]:
    """The tree with every directory that its paths need, and nothing beneath a link."""
    made = dict(tree)
    for path in tree:
        parent = posixpath.dirname(path)
        while parent and parent not in made:
            made[parent] = Node.directory(parent)
            parent = posixpath.dirname(parent)
    return [made[path] for path in sorted(made)]


def _merged(path: str) -> str:
    head, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and head in MERGED else path


def _left_out(path: str) -> bool:
    return _matches(path, LEFT_OUT)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
