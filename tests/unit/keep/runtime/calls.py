"""Programs that nobody would write: straight lines of WASI calls, drawn at random, that say what each call answered.

They find out whether a Keep answers as wasmtime does, errno by errno, in cases of which nobody thought. A program has
two directories, 3 and 4, keeps what it opens in a few slots, and reports at its end on standard error: after each call
its errno, and what it wrote. Times, inodes and padding are left out.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Final

from enarx.keep.runtime.abi import MODULE, SIGNATURES

ALL: Final = (1 << 30) - 1
FUNCTIONS: Final[Mapping[str, str]] = {  # the kinds of their arguments, two positions for a path
    "args_sizes_get": "out4 more4",
    "environ_sizes_get": "out4 more4",
    "fd_advise": "fd offset length advice",
    "fd_allocate": "fd offset length",
    "fd_close": "slot",
    "fd_datasync": "fd",
    "fd_fdstat_get": "fd fdstat",
    "fd_fdstat_set_flags": "directory fdflags",
    "fd_fdstat_set_rights": "fd rights rights",
    "fd_filestat_get": "fd filestat",
    "fd_filestat_set_size": "fd length",
    "fd_filestat_set_times": "fd time time fstflags",
    "fd_pread": "fd buffers offset out4",
    "fd_prestat_dir_name": "fd data room",
    "fd_prestat_get": "fd out8",
    "fd_pwrite": "fd buffers offset out4",
    "fd_read": "fd buffers out4",
    "fd_readdir": "fd scratch room cookie out4",
    "fd_renumber": "slot slot",
    "fd_seek": "fd offset whence out8",
    "fd_sync": "fd",
    "fd_tell": "fd out8",
    "fd_write": "fd buffers out4",
    "path_create_directory": "fd path",
    "path_filestat_get": "fd lookup path filestat",
    "path_filestat_set_times": "fd lookup path time time fstflags",
    "path_link": "fd lookup path fd path",
    "path_open": "fd lookup path oflags rights rights fdflags new",
    "path_readlink": "fd path data room out4",
    "path_remove_directory": "fd path",
    "path_rename": "fd path fd path",
    "path_symlink": "path fd path",
    "path_unlink_file": "fd path",
    "poll_oneoff": "subscriptions events one out4",
    "random_get": "scratch room",
    "sched_yield": "",
    "sock_accept": "fd fdflags out4",
    "sock_recv": "fd buffers riflags out4 more4",
    "sock_send": "fd buffers none out4",
    "sock_shutdown": "fd sdflags",
}
OFTEN: Final = ("path_open", "path_open", "path_open", "path_open", "fd_write", "fd_pwrite", "fd_read", "fd_renumber")
PATHS: Final = (
    "a", "b", "d", "d/x", "a/", "d/", "nope", "nope/x", "l", "l/", "dl", "dl/x", "dang", "dang/", "../a", "/a", ".",
    "..", "d/..", "d/../a", "./a", "", "loop", "d//x", "a/x", "d/.", "n1", "n2", "n1/", "d/n3", "abs", "out", "x\0y",
)  # fmt: skip
CHOICES: Final[Mapping[str, tuple[int, ...]]] = {
    "advice": (0, 1, 2, 3, 4, 5),
    "cookie": (0, 0, 1, 2, 3, 100, 1 << 40),
    "fdflags": (0, 0, 1, 2, 4, 5, 8, 16, 31),
    "fstflags": (0, 1, 2, 3, 4, 5, 8, 10, 12, 15),
    "length": (0, 3, 10, 100, 5000, 1 << 63, (1 << 64) - 1),
    "lookup": (0, 1),
    "none": (0,),
    "oflags": (0, 0, 0, 1, 1, 2, 4, 5, 8, 9, 10, 13),
    "offset": (0, 1, 5, 10, 100, 1 << 20, (1 << 64) - 10, (1 << 63) - 1),
    "one": (1,),
    "riflags": (0, 1, 2, 3),
    "rights": (ALL, ALL, 0, 2, 64, 66, 1 << 14),
    "room": (0, 1, 2, 3, 24, 30, 100),
    "sdflags": (1, 2, 3),
    "time": (0, 5, 10**18),
    "whence": (0, 1, 2),
}
SLOTS: Final = range(1024, 1044, 4)  # where numbers of descriptors are kept
OUT, MORE, DATA, SCRATCH, EVENTS = 4096, 4160, 4224, 4352, 4480
BUFFERS, SUBSCRIPTIONS, TEXT, REPORT = 4608, 5120, 8192, 65536


def program(seed: int, length: int) -> str:
    """The text of the module that makes `length` calls; the same for the same seed."""
    return _Program(Random(seed), length).text()  # noqa: S311 - chance, no secret


def directories(root: Path) -> tuple[Path, Path]:
    """What the programs find: two directories of files, links that lead somewhere, nowhere, round and out."""
    first, second = root / "first", root / "second"
    (first / "d").mkdir(parents=True)
    second.mkdir()
    (first / "a").write_bytes(b"0123456789" * 5)
    (first / "b").write_bytes(b"bee")
    (first / "d" / "x").write_bytes(b"x" * 30)
    (second / "a").write_bytes(b"second")
    for name, target in {
        "l": "a", "dl": "d", "dang": "gone", "loop": "loop", "abs": "/etc/passwd", "out": "../second",
    }.items():  # fmt: skip
        (first / name).symlink_to(target)
    return first, second


def listing(root: Path) -> list[tuple[str, str, int, bytes]]:
    """What is left of them."""
    found = []
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            found.append((str(path.relative_to(root)), path.is_symlink() * "l", path.lstat().st_nlink, content))
    return sorted(found)


class _Program:
    def __init__(self, random: Random, length: int) -> None:
        self._random = random
        places, text = [], b""
        for path in PATHS:
            places.append((TEXT + len(text), len(path.encode())))
            text += path.encode()
        self._places, self._text = places, text
        self._calls = [self._call(random.choice((*FUNCTIONS, *OFTEN))) for _ in range(length)]

    def text(self) -> str:
        imports = "".join(
            f'(import "{MODULE}" "{name}" (func ${name} {" ".join(f"(param {kind})" for kind in SIGNATURES[name])}'
            " (result i32)))"
            for name in FUNCTIONS
        )
        data = "".join(f"\\{byte:02x}" for byte in self._text)
        start = "".join(_store(slot, 3) for slot in SLOTS)
        return f"""(module {imports} (memory (export "memory") 4) (data (i32.const {TEXT}) "{data}")
          (global $at (mut i32) (i32.const {REPORT}))
          (func $say (param $from i32) (param $length i32)
            (memory.copy (global.get $at) (local.get $from) (local.get $length))
            (global.set $at (i32.add (global.get $at) (local.get $length))))
          (func $answer (param i32) (i32.store (i32.const 0) (local.get 0)) (call $say (i32.const 0) (i32.const 4)))
          (func (export "_start") {start} {" ".join(self._calls)}
            (i32.store (i32.const 0) (i32.const {REPORT}))
            (i32.store (i32.const 4) (i32.sub (global.get $at) (i32.const {REPORT})))
            (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))))"""

    def _call(self, name: str) -> str:
        before, after, arguments = "", "", ""
        before = f"(memory.fill (i32.const {OUT}) (i32.const 0xEE) (i32.const 512))"
        wide = iter(SIGNATURES[name])
        for kind in FUNCTIONS[name].split():
            prepared, values, told = self._argument(kind, name)
            before, after = before + prepared, after + told
            arguments += "".join(value if value[0] == "(" else f"({next(wide)}.const {value})" for value in values)
            for value in values:
                if value[0] == "(":
                    next(wide)
        return f"{before} (call $answer (call ${name} {arguments})) {after}"

    def _argument(self, kind: str, name: str) -> tuple[str, list[str], str]:
        """What to prepare, the values, and what to tell afterwards."""
        choose: Mapping[str, Callable[[], tuple[str, list[str], str]]] = {
            "fd": lambda: ("", [self._descriptor(name)], ""),
            "directory": lambda: ("", [self._random.choice(("3", "4", "99", self._slot()))], ""),
            "slot": lambda: ("", [self._random.choice(("99", *([self._slot()] * 4)))], ""),
            "path": lambda: ("", [str(part) for part in self._random.choice(self._places)], ""),
            "buffers": self._buffers,
            "subscriptions": self._subscription,
            "new": self._opened,
            "out4": lambda: ("", [str(OUT)], _say(OUT, 4)),
            "out8": lambda: ("", [str(OUT)], _say(OUT, 8)),
            "more4": lambda: ("", [str(MORE)], _say(MORE, 4)),
            "fdstat": lambda: ("", [str(OUT)], _say(OUT, 1) + _say(OUT + 2, 2) + _say(OUT + 8, 16)),
            "filestat": lambda: ("", [str(OUT)], _say(OUT + 16, 1) + _say(OUT + 24, 16)),
            "data": lambda: ("", [str(DATA)], _say(DATA, 100)),
            "scratch": lambda: ("", [str(SCRATCH)], ""),
            "events": lambda: ("", [str(EVENTS)], _say(EVENTS, 11)),
        }
        if kind in choose:
            return choose[kind]()
        return "", [str(self._random.choice(CHOICES[kind]))], ""

    def _descriptor(self, name: str) -> str:
        standard: tuple[str, ...] = (
            () if "write" in name or "read" in name else ("0", "1")
        )  # those of one buffer are tried below
        numbers = ("3", "3", "4", "99", "16384", *standard, *([self._slot()] * 4))
        return self._random.choice(numbers)

    def _slot(self) -> str:
        return f"(i32.load (i32.const {self._random.choice(SLOTS)}))"

    def _buffers(self) -> tuple[str, list[str], str]:
        count = self._random.choice((0, 1, 1, 1, 2))
        lengths = [self._random.choice((0, 1, 3, 10, 60)) for _ in range(count)]
        table = "".join(
            _store(BUFFERS + 8 * index, DATA + 64 * index) + _store(BUFFERS + 8 * index + 4, length)
            for index, length in enumerate(lengths)
        )
        return table, [str(BUFFERS), str(count)], _say(DATA, 124)

    def _subscription(self) -> tuple[str, list[str], str]:
        kind = self._random.choice((0, 1, 2))
        number = "(i32.const 1)" if kind == 0 else f"{self._as_value(self._descriptor('poll_oneoff'))}"
        empty = f"(memory.fill (i32.const {SUBSCRIPTIONS}) (i32.const 0) (i32.const 48))"
        about = f"(i32.store (i32.const {SUBSCRIPTIONS + 16}) {number})"
        prepared = f"{empty} {_store(SUBSCRIPTIONS, 77)} {_store(SUBSCRIPTIONS + 8, kind)} {about}"
        return prepared, [str(SUBSCRIPTIONS)], ""

    def _opened(self) -> tuple[str, list[str], str]:
        """A new descriptor, kept in a slot when there is one: errno was the last thing said."""
        keep = f"(i32.store (i32.const {self._random.choice(SLOTS)}) (i32.load (i32.const {OUT})))"
        return "", [str(OUT)], f"(if (i32.eqz (i32.load (i32.const 0))) (then {keep} {_say(OUT, 4)}))"

    @staticmethod
    def _as_value(number: str) -> str:
        return number if number[0] == "(" else f"(i32.const {number})"


def _store(address: int, value: int) -> str:
    return f"(i32.store (i32.const {address}) (i32.const {value}))"


def _say(address: int, length: int) -> str:
    return f"(call $say (i32.const {address}) (i32.const {length}))"
