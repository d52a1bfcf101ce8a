"""The tree of files that an image is: unpacked packages and wheels, our own modules, and their bytecode.

Packages are read as the archives that they are; nothing in them is run, so no root is needed. What no image needs is left
out: documentation, tests, compilers, other people's caches. Bytecode is made by the tree's own interpreter and is valid
by hash and not by time, so that no host's Python and no clock leaves a trace.
"""

import fnmatch
import io
import posixpath
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import enarx
from enarx.errors import MalformedError, UnavailableError
from enarx.image.cpio import Node
from enarx.image.lock import Lock

SITE: Final = "usr/lib/python3/dist-packages"
KEPT: Final = ("usr/share/ca-certificates/*",)
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
MERGED: Final = ("bin", "sbin", "lib", "lib64")  # Debian's merged /usr

Tree = dict[str, Node]


def unpack(lock: Lock, paths: Mapping[str, Path]) -> tuple[Tree, Tree]:
    """What packages and wheels hold; in the second tree what belongs to a kernel. Raises MalformedError."""
    tree: Tree = {}
    boot: Tree = {}
    for deb in sorted(lock.debs, key=lambda item: item.name):
        for node in _deb(paths[deb.file]):
            (boot if node.path.startswith(("boot/", "usr/lib/modules/")) else tree)[node.path] = node
    for wheel in sorted(lock.wheels, key=lambda item: item.file):
        tree |= {node.path: node for node in _wheel(paths[wheel.file])}
    return {path: node for path, node in tree.items() if not _left_out(path)}, boot


def merged_usr() -> Iterator[Node]:
    """The links that make of /bin, /lib and their like parts of /usr, and the interpreter's short name."""
    for name in MERGED:
        yield Node.link(name, f"usr/{name}")
    yield Node.link("usr/bin/python3", "python3.11")


def own_sources(left_out: Sequence[str] = ()) -> Iterator[Node]:
    """Our own modules and their metadata, without those that match `left_out`."""
    root = Path(enarx.__file__).parent
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if path.is_file() and "__pycache__" not in relative and not _matches(relative, left_out):
            yield Node.file(f"{SITE}/enarx/{relative}", path.read_bytes())
    metadata = f"Metadata-Version: 2.1\nName: enarx\nVersion: {enarx.__version__}\n"
    yield Node.file(f"{SITE}/enarx-{enarx.__version__}.dist-info/METADATA", metadata.encode())


def compiled(tree: Tree) -> Iterator[Node]:
    """Bytecode of every module, made by the tree's own interpreter and valid whatever the time (PEP 552)."""
    with tempfile.TemporaryDirectory(prefix="enarx-image-") as name:
        root = Path(name)
        for node in with_directories(tree):
            _put(root, node)
        libraries = ":".join(str(root / path) for path in ("usr/lib/x86_64-linux-gnu", "usr/lib"))
        loader = root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        command = [str(loader), "--library-path", libraries, str(root / "usr/bin/python3.11"), "-I", "-B", "-S", "-m"]
        command += ["compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
        command += [str(root / "usr/lib/python3.11"), str(root / SITE)]
        environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        made = sorted(root.rglob("*.pyc"))
        if not made:
            raise UnavailableError(f"the image's interpreter does not run here: {done.stderr.strip()[-500:]}")
        for path in made:
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


def with_directories(tree: Tree) -> Sequence[Node]:
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
    return _matches(path, LEFT_OUT) and not _matches(path, KEPT)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


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
