"""Run one workload to its end: open its descriptors, start it in a thread, own the signals, say how it ended.

The program computes in a thread of its own, for Python delivers signals to the main thread between two bytecodes and
there are none while WebAssembly runs. SIGINT and SIGTERM interrupt it wherever it is; the code is then 128 plus the
number, as a shell has it. Descriptors are open, listeners bound and connections made before the first instruction.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError
from enarx.keep.config import Config
from enarx.keep.runtime.abi import Refused
from enarx.keep.runtime.descriptors import Descriptor
from enarx.keep.runtime.engine import TRAP_EXIT_CODE, Program, TrapError, compile_module, new_engine
from enarx.keep.runtime.memory import GuestMemory
from enarx.keep.runtime.package import MOUNT, OpenDirectory, tree
from enarx.keep.runtime.sockets import Listening, Opener
from enarx.keep.runtime.streams import Output, Stdio, output
from enarx.keep.runtime.tls import TlsIdentity
from enarx.keep.runtime.waiting import Interrupt, Interrupted, Waiter
from enarx.keep.runtime.wasi import Wasi
from enarx.keep.workload import WASM_NAME, Workload

STACK_SIZE: Final = 16 * 1024 * 1024  # bytes of the program's thread: WebAssembly's 512 KiB and Python beside it
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_NATIVE_PREOPENS: Final = 3  # wasmtime gives its first directory this number


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a run that is not the workload."""

    identity: TlsIdentity | None
    stdio: Stdio
    extra_args: tuple[str, ...]
    extra_env: tuple[tuple[str, str], ...]
    preopens: tuple[tuple[Path, str], ...]
    fd_env: bool
    roots_pem: bytes | None
    on_ready: Callable[[Sequence[Listening]], None] | None


def run(
    workload: Workload,
    *,
    identity: TlsIdentity | None,
    stdio: Stdio,
    extra_args: Sequence[str] = (),
    extra_env: Sequence[tuple[str, str]] = (),
    preopens: Sequence[tuple[Path, str]] = (),
    fd_env: bool = True,
    roots_pem: bytes | None = None,
    interrupt: Interrupt | None = None,
    on_ready: Callable[[Sequence[Listening]], None] | None = None,
) -> int:
    """Run `workload` until it ends. Returns its exit code, 0 to 255; a trap gives 134, a signal 128 plus its number.

    `extra_args` and `extra_env` follow those of the configuration. `preopens` are directories of the host by the name
    that the program sees, for `enarx run` alone. `fd_env` is whether FD_COUNT and FD_NAMES are told. `roots_pem` are
    the roots of outgoing TLS, the system's when None. `interrupt` ends the program from another thread; in the main
    thread SIGINT and SIGTERM do as well. `on_ready` is called with the open listeners, before the first instruction.

    Raises MalformedError (module, configuration, a `tls` file without identity), UnavailableError and ConflictError
    (sockets), UntrustedError (the peer of a `connect` file). What the program wrote before is written.
    """
    if identity is None and workload.config.uses_tls:
        raise MalformedError('configuration: a file has prot = "tls", and this Keep has no certificate')
    settings = Settings(
        identity=identity,
        stdio=stdio,
        extra_args=tuple(extra_args),
        extra_env=tuple(extra_env),
        preopens=tuple(preopens),
        fd_env=fd_env,
        roots_pem=roots_pem,
        on_ready=on_ready,
    )
    if interrupt is not None:
        return _supervise(workload, settings, interrupt)
    with Interrupt() as own:
        return _supervise(workload, settings, own)


def _supervise(workload: Workload, settings: Settings, interrupt: Interrupt) -> int:
    """Run in a thread; wait for it where signals are heard."""
    outcome: list[int | BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append(_execute(workload, settings, interrupt))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome.append(error)
        finally:
            done.set()

    with _signals_to(interrupt):
        _start(work)
        done.wait()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def _start(work: Callable[[], None]) -> None:
    previous = threading.stack_size(STACK_SIZE)
    try:
        threading.Thread(target=work, name="workload", daemon=True).start()
    finally:
        threading.stack_size(previous)


@contextmanager
def _signals_to(interrupt: Interrupt) -> Iterator[None]:
    """SIGINT and SIGTERM interrupt the program; elsewhere than in the main thread they are not ours to take."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, lambda got, _: interrupt.send(got)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _execute(workload: Workload, settings: Settings, interrupt: Interrupt) -> int:
    engine = new_engine()
    waiter = Waiter(interrupt)
    wasi = Wasi(GuestMemory(lambda: 0), waiter)
    try:
        interrupt.attach(engine.increment_epoch)
        module = compile_module(engine, workload.wasm, WASM_NAME)
        listening = _open_descriptors(wasi, workload, settings, waiter)
        program = Program(engine, module, WASM_NAME)
        program.set_arguments(*_arguments(workload.config, settings))
        interrupt.check()
        if settings.on_ready is not None:
            settings.on_ready(listening)
        program.link(wasi)
        return program.run()
    except TrapError as trap:
        if interrupt.number is not None:  # wasmtime's epoch ended it: a trap in form alone
            return 128 + interrupt.number
        _report(settings.stdio.stderr, f"Error: failed to run main module `{WASM_NAME}`\n\n{trap}\n", waiter)
        return TRAP_EXIT_CODE
    except Interrupted as interrupted:
        return 128 + interrupted.signal
    finally:
        wasi.close_all()
        waiter.finish()


def _open_descriptors(wasi: Wasi, workload: Workload, settings: Settings, waiter: Waiter) -> Sequence[Listening]:
    """`files` from 0 on, then the package's data, then directories of the host."""
    opener = Opener(settings.stdio, settings.identity, settings.roots_pem, waiter)
    descriptors: list[Descriptor] = []
    for file in workload.config.files:
        descriptor = opener.open(file)
        wasi.place(len(descriptors), descriptor)
        descriptors.append(descriptor)
    if workload.files:
        wasi.place(len(descriptors), OpenDirectory(tree(workload.files), name=MOUNT))
    first = len(descriptors) + bool(workload.files)
    for index in range(len(settings.preopens)):
        wasi.table[first + index] = 1 + _NATIVE_PREOPENS + index
    return opener.listening


def _arguments(
    config: Config, settings: Settings
) -> tuple[list[str], list[tuple[str, str]], tuple[tuple[Path, str], ...]]:
    names = [file.name for file in config.files]
    told = [("FD_COUNT", str(len(names))), ("FD_NAMES", ":".join(names))] if settings.fd_env else []
    argv = [WASM_NAME, *config.args, *settings.extra_args]
    return argv, [*told, *config.env.items(), *settings.extra_env], settings.preopens


def _report(stderr: Output, text: str, waiter: Waiter) -> None:
    """Tell whoever reads standard error, whether or not the program had it."""
    with contextlib.suppress(OSError, Refused, Interrupted):
        output(stderr, waiter).write(memoryview(text.encode()))
