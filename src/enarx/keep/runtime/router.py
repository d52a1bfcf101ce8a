"""Two small WebAssembly modules that stand between a program and WASI, generated for what it imports.

The SHIM gives the program its imports: trampolines through a table that is filled later, for the ROUTER needs the
program's memory, which does not exist before the program does. The ROUTER owns the descriptor table. An entry is

    n > 0          descriptor n-1 of wasmtime's own WASI: called directly, at native speed
    0              closed: descriptor -1 of wasmtime's own WASI, which refuses it in its own words and order
    n < 0          token n & 0x7fffffff of a descriptor that Python serves

A call to Python takes no arguments: they lie in the mailbox, u64 words at the start of the router's own memory,
which the program cannot reach: 0 operation (in) and errno (out), 1 token, 2 pages of the program's memory,
3.. arguments (in), and in word 3 a count or a new token (out). This costs 0.5 us where a host function made by
wasmtime's public Python API costs 28. wasmtime's WASI finds the program's memory as the router's export "memory".

A program with threads has a router in each of them, with a mailbox of its own; the table is then a memory that all
share, and changed by atomic instructions alone. Here is only text; `enarx.keep.runtime.engine` compiles and links it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from enarx.keep.runtime.abi import CLOCK, MODULE, SIGNATURES, SUBSCRIPTION, Errno

MAX_DESCRIPTORS: Final = 16384
PYTHON: Final = 0x8000_0000  # set in the entry of a descriptor that Python serves
MAILBOX_WORDS: Final = 16
TABLE_OFFSET: Final = 65536  # bytes into the router's memory; MAX_DESCRIPTORS entries of 4 bytes follow
ROUTER_PAGES: Final = 2
TABLE_PAGES: Final = 1  # of the table that threads share: it begins there at 0
MARK: Final = b"enarx router"  # written by the router's data segment, read by Python: both look at one memory
MARK_OFFSET: Final = 1024

NATIVE: Final = frozenset({  # served by wasmtime alone
    "args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get", "environ_sizes_get",
    "proc_raise", "random_get", "sched_yield",
})  # fmt: skip

# Operations that Python serves, by number: the first five have arguments of their own, the others those of WASI.
READ, WRITE, READV, WRITEV = range(4)
OPERATIONS: Final[tuple[str, ...]] = (
    "read", "write", "readv", "writev", "cross",
    *(name for name in SIGNATURES if name not in NATIVE and name not in {"fd_read", "fd_write", "fd_renumber"}),
)  # fmt: skip

_DESCRIPTOR_AT: Final = {"path_symlink": 2}  # position of the descriptor, where it is not the first argument
_SECOND_DESCRIPTOR_AT: Final = {"path_link": 4, "path_rename": 3}
_NEW_DESCRIPTOR_AT: Final = {"path_open": 8, "sock_accept": 2}  # position of the address that receives one
_SOCKETS: Final = frozenset({"sock_accept", "sock_recv", "sock_send", "sock_shutdown"})
_ENUMERATED: Final = frozenset({  # have flags, rights or choices: what has no meaning there, wasmtime refuses for us
    "fd_advise", "fd_fdstat_set_flags", "fd_fdstat_set_rights", "fd_filestat_set_times", "fd_seek",
    "path_filestat_get", "path_filestat_set_times", "path_link", "path_open",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The program's memory, as far as the router's text depends on it.

    `wide` is whether its addresses have 64 bits (WASI's have 32: it reaches the first 4 GiB), `shared` the limits in
    pages of a memory that threads share.
    """

    wide: bool = False
    shared: tuple[int, int] | None = None

    @property
    def memory(self) -> str:
        """Its type, as an import declares it."""
        index = "i64 " if self.wide else ""
        return f"{index}{self.shared[0]} {self.shared[1]} shared" if self.shared else f"{index}0"


def shim(names: Sequence[str]) -> str:
    """The text of a module that exports `names` and calls the table entry of the same index."""
    parts = ["(module"]
    for index, name in enumerate(names):
        arguments = " ".join(f"(local.get {position})" for position in range(len(SIGNATURES[name])))
        parts.append(f"(type $t{index} (func {_parameters(name)} {_result(name)}))")
        parts.append(
            f'(func (export "{name}") (type $t{index})'
            f" (call_indirect (type $t{index}) {arguments} (i32.const {index})))"
        )
    parts.append(f'(table (export "table") {len(names)} {len(names)} funcref))')
    return "\n".join(parts)


def router(names: Sequence[str], shape: Shape) -> str:
    """The text of the module that fills the table of `shim(names)`, for a program with such a memory."""
    imports = [
        f'(import "guest" "memory" (memory $guest {shape.memory}))',
        *([f'(import "host" "table" (memory $shared {TABLE_PAGES} {TABLE_PAGES} shared))'] if shape.shared else []),
        f'(import "shim" "table" (table $table {len(names)} {len(names)} funcref))',
        '(import "host" "call" (func $call))',
        *(
            f'(import "{MODULE}" "{name}" (func $native_{name} {_parameters(name)} {_result(name)}))'
            for name in natives(names)
        ),
    ]
    functions = [
        f"(func $f{index} {_parameters(name)} {_result(name)} {_body(name, shape)})" for index, name in enumerate(names)
    ]
    entries = " ".join(f"$f{index}" for index in range(len(names)))
    return "\n".join(
        ["(module", *imports, _common(shape), *functions, f"(elem (table $table) (i32.const 0) func {entries}))"]
    )


def natives(names: Iterable[str]) -> list[str]:
    """What of wasmtime's own WASI the router imports: everything but what has no native counterpart here."""
    return sorted({*names, "fd_close"} - {"proc_exit", *_SOCKETS})


def _parameters(name: str) -> str:
    return " ".join(f"(param $p{position} {kind})" for position, kind in enumerate(SIGNATURES[name]))


def _result(name: str) -> str:
    return "" if name == "proc_exit" else "(result i32)"


def _body(name: str, shape: Shape) -> str:
    if name in NATIVE:
        return _native(name)
    if name == "proc_exit":
        return f"{_arguments(name)} (drop {_host(name, '(i32.const 0)')}) (unreachable)"
    if name == "poll_oneoff":
        return _poll(shape)
    if name == "fd_renumber":
        return _RENUMBER
    if name in {"fd_read", "fd_write"}:
        return _transfer(name)
    return _by_descriptor(name)


def _by_descriptor(name: str) -> str:
    position = _DESCRIPTOR_AT.get(name, 0)
    parts = [
        "(local $entry i32) (local $second i32) (local $answer i32)",
        f"(local.set $entry (call $lookup (local.get $p{position})))",
        f"(if (i32.lt_s (local.get $entry) (i32.const 0)) (then {_python(name)}))",
    ]
    moved = {position: "(i32.sub (local.get $entry) (i32.const 1))"}
    if name in _SECOND_DESCRIPTOR_AT:
        parts.append(_crossing(name, moved))
        moved[_SECOND_DESCRIPTOR_AT[name]] = "(i32.sub (local.get $second) (i32.const 1))"
    if name in _SOCKETS:
        parts.append(f"(if (i32.eqz (local.get $entry)) (then (return (i32.const {Errno.BADF:d}))))")
        parts.append(f"(i32.const {Errno.NOTSOCK:d})")
    elif name == "fd_close":
        parts.append(f"(if (local.get $entry) (then (drop (call $take (local.get $p0))))) {_native(name, moved)}")
    elif name in _NEW_DESCRIPTOR_AT:
        parts.append(_native_open(name, moved))
    else:
        parts.append(_native(name, moved))
    return "\n  ".join(parts)


def _crossing(name: str, moved: dict[int, str]) -> str:
    """From a directory of the host to what Python serves there is no way; whose fault that is, both are asked."""
    second = _SECOND_DESCRIPTOR_AT[name]
    return f"""(local.set $second (call $lookup (local.get $p{second})))
  (if (i32.lt_s (local.get $second) (i32.const 0)) (then
    (local.set $answer {_native(name, moved | {second: "(i32.const -1)"})})
    (if (i32.ne (local.get $answer) (i32.const {Errno.BADF:d})) (then (return (local.get $answer))))
    (if (i32.eqz (local.get $entry)) (then (return (local.get $answer))))
    (return {_host("cross", "(local.get $second)")})))"""


def _python(name: str) -> str:
    call = _host(name, "(local.get $entry)")
    before = _arguments(name)
    if name in _ENUMERATED:
        position = _DESCRIPTOR_AT.get(name, 0)
        nobody = dict.fromkeys((position, _SECOND_DESCRIPTOR_AT.get(name, position)), "(i32.const -1)")
        before = f"""(local.set $answer {_native(name, nobody)})
    (if (i32.ne (local.get $answer) (i32.const {Errno.BADF:d})) (then (return (local.get $answer)))) {before}"""
    if name == "fd_close":
        call = _host(name, "(local.get $second)")
        return f"(local.set $second (call $take (local.get $p0))) (if (i32.lt_s (local.get $second) (i32.const 0)) (then (return {call}))) (return (i32.const {Errno.BADF:d}))"
    if name in _NEW_DESCRIPTOR_AT:
        return f"""{before}
    (local.set $answer {call})
    (if (local.get $answer) (then (return (local.get $answer))))
    (local.set $second (call $allocate (i32.or (i32.const {PYTHON}) (i32.wrap_i64 (i64.load $own offset=24 (i32.const 0))))))
    (if (i32.lt_s (local.get $second) (i32.const 0)) (then
      (drop (call $host (i32.const {OPERATIONS.index("fd_close")}) (i32.wrap_i64 (i64.load $own offset=24 (i32.const 0)))))
      (return (i32.const {Errno.MFILE:d}))))
    (call $put (local.get $p{_NEW_DESCRIPTOR_AT[name]}) (i64.extend_i32_u (local.get $second)))
    (return (i32.const 0))"""
    return f"{before} (return {call})"


def _native_open(name: str, moved: dict[int, str]) -> str:
    address = f"(local.get $p{_NEW_DESCRIPTOR_AT[name]})"
    return f"""(local.set $answer {_native(name, moved)})
  (if (i32.eqz (local.get $answer)) (then
    (local.set $second (call $allocate (i32.add (i32.const 1) (i32.wrap_i64 (call $get {address})))))
    (if (i32.lt_s (local.get $second) (i32.const 0)) (then
      (drop (call $native_fd_close (i32.wrap_i64 (call $get {address}))))
      (return (i32.const {Errno.MFILE:d}))))
    (call $put {address} (i64.extend_i32_u (local.get $second)))))
  (local.get $answer)"""


def _transfer(name: str) -> str:
    """fd_read and fd_write: one buffer, by far the commonest list, is looked up here."""
    one, many = (READ, READV) if name == "fd_read" else (WRITE, WRITEV)
    return f"""(local $entry i32) (local $answer i32)
  (local.set $entry (call $lookup (local.get $p0)))
  (if (i32.ge_s (local.get $entry) (i32.const 0)) (then (return {_native(name, {0: "(i32.sub (local.get $entry) (i32.const 1))"})})))
  (if (i32.or (call $outside (local.get $p3) (i64.const 4))
              (call $outside (local.get $p1) (i64.shl (i64.extend_i32_u (local.get $p2)) (i64.const 3))))
    (then (return (i32.const {Errno.FAULT:d}))))
  (if (i32.eq (local.get $p2) (i32.const 1))
    (then
      (i64.store $own offset=24 (i32.const 0) (call $get (local.get $p1)))
      (i64.store $own offset=32 (i32.const 0) (call $get (i32.add (local.get $p1) (i32.const 4))))
      (local.set $answer (call $host (i32.const {one}) (local.get $entry))))
    (else
      (i64.store $own offset=24 (i32.const 0) (i64.extend_i32_u (local.get $p1)))
      (i64.store $own offset=32 (i32.const 0) (i64.extend_i32_u (local.get $p2)))
      (local.set $answer (call $host (i32.const {many}) (local.get $entry)))))
  (if (i32.eqz (local.get $answer)) (then
    (call $put (local.get $p3) (i64.load $own offset=24 (i32.const 0)))))
  (local.get $answer)"""


def _poll(shape: Shape) -> str:
    """What is wasmtime's own never blocks, or cannot be waited for: it is asked which, one subscription at a time.

    For that its number stands in the subscription for a moment; threads, which might look there, do without.
    """
    look = f"""(local $i i32) (local $at i32) (local $fd i32) (local $entry i32) (local $answer i32)
  (local.set $at (local.get $p0))
  (if (i32.eqz (i32.or (call $outside (local.get $p0) (i64.mul (i64.extend_i32_u (local.get $p2)) (i64.const {SUBSCRIPTION.size})))
                       (i32.eqz (local.get $p2)))) (then (loop $next
    (if (i32.ne (i32.and (i32.wrap_i64 (call $get (i32.add (local.get $at) (i32.const 8)))) (i32.const 255)) (i32.const {CLOCK})) (then
      (local.set $fd (i32.wrap_i64 (call $get (i32.add (local.get $at) (i32.const 16)))))
      (local.set $entry (call $lookup (local.get $fd)))
      (if (i32.gt_s (local.get $entry) (i32.const 0)) (then
        (call $put (i32.add (local.get $at) (i32.const 16)) (i64.extend_i32_u (i32.sub (local.get $entry) (i32.const 1))))
        (local.set $answer (call $native_poll_oneoff (local.get $at) (local.get $p1) (i32.const 1) (local.get $p3)))
        (call $put (i32.add (local.get $at) (i32.const 16)) (i64.extend_i32_u (local.get $fd)))
        (if (local.get $answer) (then (return (local.get $answer))))))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (local.set $at (i32.add (local.get $at) (i32.const {SUBSCRIPTION.size})))
    (br_if $next (i32.lt_u (local.get $i) (local.get $p2))))))"""
    return f"{'' if shape.shared else look} {_arguments('poll_oneoff')} {_host('poll_oneoff', '(i32.const 0)')}"


def _arguments(name: str) -> str:
    """Put every argument of the function into the mailbox."""
    return " ".join(
        f"(i64.store $own offset={24 + 8 * position} (i32.const 0) "
        + (f"(local.get $p{position}))" if kind == "i64" else f"(i64.extend_i32_u (local.get $p{position})))")
        for position, kind in enumerate(SIGNATURES[name])
    )


def _host(name: str, token: str) -> str:
    return f"(call $host (i32.const {OPERATIONS.index(name)}) {token})"


def _native(name: str, moved: dict[int, str] | None = None) -> str:
    arguments = ((moved or {}).get(position, f"(local.get $p{position})") for position in range(len(SIGNATURES[name])))
    return f"(call $native_{name} {' '.join(arguments)})"


def _common(shape: Shape) -> str:
    """What every router has: access to the program's memory, the descriptor table, and the call to Python."""
    address = "(i64.extend_i32_u (local.get $address))" if shape.wide else "(local.get $address)"
    pages = "(memory.size $guest)" if shape.wide else "(i64.extend_i32_u (memory.size $guest))"
    place = f"offset={TABLE_OFFSET} (i32.shl (local.get $fd) (i32.const 2))"
    if shape.shared:
        place = "(i32.shl (local.get $fd) (i32.const 2))"
        look, put = f"(i32.atomic.load $shared {place})", f"(i32.atomic.store $shared {place} (local.get $entry))"
        take = f"(i32.atomic.rmw.xchg $shared {place} (i32.const 0))"
        claim = f"(i32.eqz (i32.atomic.rmw.cmpxchg $shared {place} (i32.const 0) (local.get $entry)))"
    else:
        look, put = f"(i32.load $own {place})", f"(i32.store $own {place} (local.get $entry))"
        take = f"(call $lookup (local.get $fd)) (i32.store $own {place} (i32.const 0))"
        claim = "(i32.eqz (call $lookup (local.get $fd)))"
    return f"""
(export "memory" (memory $guest))
(memory $own (export "own") {ROUTER_PAGES} {ROUTER_PAGES})
(data (memory $own) (i32.const {MARK_OFFSET}) "{MARK.decode()}")
(func $get (param $address i32) (result i64) (i64.load32_u $guest {address}))
(func $put (param $address i32) (param $value i64) (i64.store32 $guest {address} (local.get $value)))
(func $lookup (param $fd i32) (result i32)
  (if (result i32) (i32.lt_u (local.get $fd) (i32.const {MAX_DESCRIPTORS})) (then {look}) (else (i32.const 0))))
(func $set (param $fd i32) (param $entry i32) {put})
(func $take (param $fd i32) (result i32) {take})
(func $allocate (param $entry i32) (result i32) (local $fd i32)
  (loop $next
    (if {claim} (then (call $set (local.get $fd) (local.get $entry)) (return (local.get $fd))))
    (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $fd) (i32.const {MAX_DESCRIPTORS}))))
  (i32.const -1))
(func $outside (param $address i32) (param $length i64) (result i32)
  (i64.gt_u (i64.add (i64.extend_i32_u (local.get $address)) (local.get $length))
            (i64.shl {pages} (i64.const 16))))
(func $host (param $operation i32) (param $entry i32) (result i32)
  (i64.store $own (i32.const 0) (i64.extend_i32_u (local.get $operation)))
  (i64.store $own offset=8 (i32.const 0) (i64.extend_i32_u (i32.and (local.get $entry) (i32.const 0x7fffffff))))
  (i64.store $own offset=16 (i32.const 0) {pages})
  (call $call)
  (i32.wrap_i64 (i64.load $own (i32.const 0))))"""


_RENUMBER: Final = f"""(local $from i32) (local $to i32)
  (local.set $from (call $lookup (local.get $p0)))
  (local.set $to (call $lookup (local.get $p1)))
  (if (i32.or (i32.eqz (local.get $from)) (i32.eqz (local.get $to))) (then (return (i32.const {Errno.BADF:d}))))
  (if (i32.eq (local.get $p0) (local.get $p1)) (then (return (i32.const 0))))
  (if (i32.lt_s (local.get $to) (i32.const 0))
    (then (drop (call $host (i32.const {OPERATIONS.index("fd_close")}) (local.get $to))))
    (else (drop (call $native_fd_close (i32.sub (local.get $to) (i32.const 1))))))
  (call $set (local.get $p1) (local.get $from))
  (drop (call $take (local.get $p0)))
  (i32.const 0)"""
