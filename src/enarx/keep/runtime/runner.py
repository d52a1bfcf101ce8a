"""Run one workload to its end: open its descriptors, start it in a thread, own the signals, say how it ended.

The program computes in a thread of its own, for Python delivers signals to the main thread between two bytecodes and
there are none while WebAssembly runs. SIGINT interrupts it wherever it is; the code is then 128 plus the number, as a
shell has it. SIGTERM stops accepting clients and lets the program finish with those it has, for a grace time; a program
that serves nobody ends at once. Limits end it in the same way: 152 for time and fuel, 153 for output.
Descriptors are open, listeners bound and connections made before the first instruction.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import wasmtime

from enarx.errors import MalformedError
from enarx.keep.config import Config, Standard, Translator
from enarx.keep.runtime.abi import Refused
from enarx.keep.runtime.descriptors import Descriptor, Listening, Null
from enarx.keep.runtime.engine import (
    Compiler,
    Exit,
    Program,
    Shared,
    TrapError,
    configuration,
    new_engine,
)
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.memory import GuestMemory
from enarx.keep.runtime.stdio import Input, Meter, Output, Stdio, output
from enarx.keep.runtime.surroundings import probe
from enarx.keep.runtime.waiting import Interrupt, Interrupted, Waiter
from enarx.keep.runtime.wasi import Descriptors, Wasi
from enarx.keep.workload import WASM_NAME, Workload

if TYPE_CHECKING:
    from enarx.keep.runtime.cache import Cache
    from enarx.keep.runtime.sockets import Opener
    from enarx.keep.runtime.streams import Listener
    from enarx.keep.runtime.tls import Contexts, LiveIdentity, TlsIdentity

MAX_EXIT_CODE: Final = 255
STACK_SIZE: Final = 16 * 1024 * 1024  # bytes of the program's thread: WebAssembly's 512 KiB and Python beside it
LEAVE_SECONDS: Final = 3.0  # how long an interrupted program may take to leave what cannot be interrupted
QUIT_SECONDS: Final = 0.3  # likewise, where computing cannot be interrupted: time enough to say goodbye to peers
GRACE_SECONDS: Final = 10.0
HINTS: Final[Mapping[Translator, str]] = {
    "cranelift": "",
    "winch": '; Winch does not know every proposal, compiler = "cranelift" in Enarx.toml does',
}
_NATIVE_PREOPENS: Final = 3  # wasmtime gives its first directory this number


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a run that is not the workload."""

    identity: "LiveIdentity | None"
    stdio: Stdio
    extra_args: tuple[str, ...]
    extra_env: tuple[tuple[str, str], ...]
    preopens: tuple[tuple[Path, str], ...]
    fd_env: bool
    roots_pem: bytes | None
    on_ready: Callable[[Sequence[Listening]], None] | None
    invoke: str | None
    cache: "Cache | None"
    grace: float
    workload_digest: str | None
    sealing_root: bytes | None
    interruptible: bool
    log: Log


def run(
    workload: Workload,
    *,
    identity: "TlsIdentity | LiveIdentity | None",
    stdio: Stdio,
    extra_args: Sequence[str] = (),
    extra_env: Sequence[tuple[str, str]] = (),
    preopens: Sequence[tuple[Path, str]] = (),
    fd_env: bool = True,
    roots_pem: bytes | None = None,
    interrupt: Interrupt | None = None,
    on_ready: Callable[[Sequence[Listening]], None] | None = None,
    invoke: str | None = None,
    cache: "Cache | None" = None,
    grace: float = GRACE_SECONDS,
    workload_digest: str | None = None,
    sealing_root: bytes | None = None,
    interruptible: bool = True,
) -> int:
    """Run `workload` until it ends. Returns its exit code, 0 to 255; a trap gives 134, a signal 128 plus its number.

    `extra_args` and `extra_env` follow those of the configuration. `preopens` are directories of the host by the name
    that the program sees, for `enarx run` alone. `fd_env` is whether FD_COUNT and FD_NAMES are told. `roots_pem` are
    the roots of outgoing TLS, the system's when None. A `LiveIdentity` may be replaced while the program runs.
    `interrupt` ends the program from another thread; in the main thread SIGINT and SIGTERM do as well. `on_ready` is
    called with the open listeners, before the first instruction. `invoke` names a function to call instead of the
    entry point. `cache` keeps compiled code: only where nobody but this process's user can write there. After SIGTERM
    the program has `grace` seconds. `workload_digest` and `sealing_root`, 32 secret bytes from which sealing keys are
    derived, are for programs that ask who they are; without a root, keys live as long as this run. A program that is not
    `interruptible` computes at full speed; when it is interrupted while it does, it is left behind, and the caller has
    to end this process.

    Raises MalformedError (module, configuration, a `tls` file without identity), UnavailableError and ConflictError
    (sockets), UntrustedError and RejectedError (the peer of a `connect` file). What was written before is written.
    """
    if identity is None and workload.config.uses_tls:
        raise MalformedError('configuration: a file has prot = "tls", and this Keep has no certificate')
    settings = Settings(
        identity=None if identity is None else _live(identity),
        stdio=stdio,
        extra_args=tuple(extra_args),
        extra_env=tuple(extra_env),
        preopens=tuple(preopens),
        fd_env=fd_env,
        roots_pem=roots_pem,
        on_ready=on_ready,
        invoke=invoke,
        cache=cache,
        grace=grace,
        workload_digest=workload_digest,
        sealing_root=sealing_root,
        interruptible=interruptible,
        log=Log(workload.config.log, stdio.stderr),
    )
    if interrupt is not None:
        return _supervise(workload, settings, interrupt)
    with Interrupt() as own:
        return _supervise(workload, settings, own)


def _live(identity: "TlsIdentity | LiveIdentity") -> "LiveIdentity":
    from enarx.keep.runtime.tls import LiveIdentity  # noqa: PLC0415 - TLS costs the start of every program otherwise

    return identity if isinstance(identity, LiveIdentity) else LiveIdentity(identity)


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

    leaving: list[threading.Timer] = []

    def leave() -> None:
        """An interrupted program that sleeps where nobody can wake it is left behind, and goes with this process."""
        timer = threading.Timer(LEAVE_SECONDS if settings.interruptible else QUIT_SECONDS, done.set)
        timer.daemon = True
        leaving.append(timer)
        timer.start()

    with _signals_to(interrupt), _time_limit(workload.config.limits.seconds, interrupt):
        interrupt.attach(leave)
        start_thread(work)
        done.wait()
    for timer in leaving:
        timer.cancel()
    if not outcome:
        return _ended(settings, interrupt.number or 0, interrupt.why)
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return result


def start_thread(work: Callable[[], None]) -> threading.Thread:
    """Run `work` in a new thread with room for WebAssembly's stack."""
    with _STACKS:  # the size is the process's: two that start at once must not take each other's
        previous = threading.stack_size(STACK_SIZE)
        try:
            thread = threading.Thread(target=work, name="workload", daemon=True)
            thread.start()
        finally:
            threading.stack_size(previous)
    return thread


_STACKS: Final = threading.Lock()


@contextmanager
def _signals_to(interrupt: Interrupt) -> Iterator[None]:
    """SIGINT and SIGTERM are for the program; elsewhere than in the main thread they are not ours to take."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda got, _: interrupt.send(got)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: interrupt.terminate()),
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _time_limit(seconds: int | None, interrupt: Interrupt) -> Iterator[None]:
    if seconds is None:
        yield
        return
    why = f"limits.seconds: it has run for {seconds} seconds"
    timer = threading.Timer(seconds, interrupt.send, (signal.SIGXCPU, why))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _execute(workload: Workload, settings: Settings, interrupt: Interrupt) -> int:
    limits = workload.config.limits
    place, fuel = probe(), limits.fuel is not None
    epochs = (
        settings.interruptible or workload.may_serve
    )  # its requests end one by one, and this process with none of them
    translator = workload.config.compiler
    engine = new_engine(fuel=fuel, epochs=epochs, place=place, compiler=translator)
    about = configuration(fuel=fuel, epochs=epochs, place=place, compiler=translator)
    compiler = Compiler(engine, settings.cache, about, hint=HINTS[translator])
    try:
        interrupt.attach(engine.increment_epoch)
        if workload.is_component:
            from enarx.keep.runtime import components  # noqa: PLC0415 - most programs are modules

            return components.execute(workload, settings, compiler, interrupt)
        return _Run(workload, settings, compiler, interrupt).execute()
    except TrapError as trap:
        if interrupt.number is not None:  # wasmtime's epoch ended it: a trap in form alone
            return _ended(settings, interrupt.number, interrupt.why)
        if trap.fuel:
            return _ended(settings, signal.SIGXCPU, f"limits.fuel: it has used up {limits.fuel}")
        report(settings.stdio.stderr, f"Error: failed to run main module `{WASM_NAME}`\n\n{trap}\n")
        return trap.code
    except Interrupted as interrupted:
        return _ended(settings, interrupted.signal, interrupted.why)
    except Exit as leave:
        if leave.status > MAX_EXIT_CODE:
            raise MalformedError(
                f"{WASM_NAME}: expected an exit status from 0 to {MAX_EXIT_CODE}, found {leave.status}"
            ) from None
        return leave.status


def _ended(settings: Settings, number: int, why: str | None) -> int:
    if why is not None:
        settings.log.say("error", "stopped", f"the program was stopped by {why}")
    return 128 + number


class _Run:
    """One module, from its descriptors to its exit code."""

    def __init__(self, workload: Workload, settings: Settings, compiler: Compiler, interrupt: Interrupt) -> None:
        self._workload, self._settings, self._compiler, self._outer = workload, settings, compiler, interrupt
        self._config = workload.config
        self._argv, self._env = arguments(workload.config, settings)

    def execute(self) -> int:
        module = self._compiler.module(self._workload.wasm, WASM_NAME)
        wanted = Shared.wanted(module)
        if wanted is None:
            return self._execute(module, None, self._outer)
        shared = Shared(self._compiler.engine, *wanted)
        with Interrupt() as inner:  # ends every thread, whoever of them ends the program
            inner.attach(self._compiler.engine.increment_epoch)
            self._outer.attach(lambda: inner.send(self._outer.number or 0, self._outer.why))
            return self._execute(module, shared, inner)

    def _execute(self, module: wasmtime.Module, shared: Shared | None, interrupt: Interrupt) -> int:
        lock = threading.Lock() if shared is not None else None
        waiter = Waiter(interrupt, lock)
        descriptors = Descriptors(self._config.limits.descriptors)
        first = Wasi(GuestMemory(lambda: 0), waiter, descriptors)
        try:
            listening = self._open(first, waiter)
            interrupt.check()
            if self._settings.on_ready is not None:
                self._settings.on_ready(listening)
            if shared is None:
                return self._call(self._program(module, first))
            self._threads(module, shared, first, interrupt)
        finally:
            first.close_all()
            waiter.lock = None
            waiter.finish()

    def _call(self, program: Program) -> int:
        if self._settings.invoke is None:
            program.run()
            return 0
        for value in program.invoke(self._settings.invoke, self._settings.extra_args):
            report(self._settings.stdio.stdout, f"{value}\n")
        return 0

    def _threads(self, module: wasmtime.Module, shared: Shared, first: Wasi, interrupt: Interrupt) -> NoReturn:
        from enarx.keep.runtime.threads import Threads  # noqa: PLC0415 - most programs have one thread

        if self._settings.invoke is not None:
            raise MalformedError(f"{WASM_NAME}: a program with threads is started by its entry point alone")
        made: list[None] = []

        def make(spawn: Callable[[int], int]) -> Program:
            wasi = Wasi(GuestMemory(lambda: 0), first.waiter, first.descriptors)
            if not made:
                wasi.table = first.table
                made.append(None)
            return self._program(module, wasi, shared, spawn)

        stop, limit = self._compiler.engine.increment_epoch, self._config.limits.instances
        leave = LEAVE_SECONDS if self._settings.interruptible else QUIT_SECONDS
        Threads(make, limit, interrupt, start_thread, stop, leave).run()

    def _program(
        self,
        module: wasmtime.Module,
        wasi: Wasi,
        shared: Shared | None = None,
        spawn: Callable[[int], int] | None = None,
    ) -> Program:
        program = Program(self._compiler, module, WASM_NAME, self._config.limits, shared, spawn)
        program.set_arguments(self._argv, self._env, self._settings.preopens)
        wasi.waiter.check()  # an interrupt until here has not moved the epoch of this store
        program.link(wasi)
        return program

    def _open(self, wasi: Wasi, waiter: Waiter) -> Sequence[Listening]:
        """`files` from 0 on, then the package's data, a directory in memory, who we are, directories of the host."""
        settings, config = self._settings, self._config
        meter = None if config.limits.output is None else Meter(config.limits.output)
        opener: Opener | None = None
        for number, file in enumerate(config.files):
            if isinstance(file, Standard):
                wasi.place(number, standard(file, settings.stdio, waiter, meter))
                continue
            opener = opener or self._opener(waiter)
            wasi.place(number, opener.open(file))
        opened = list(directories(self._workload, settings))
        for number, directory in enumerate(opened, start=len(config.files)):
            wasi.place(number, directory)
        first = len(config.files) + len(opened)
        for index in range(len(settings.preopens)):
            wasi.table[first + index] = 1 + _NATIVE_PREOPENS + index
        if opener is None:
            return ()
        self._outer.on_terminate(drainer(opener.listeners, settings.grace, self._outer))
        return opener.listening

    def _opener(self, waiter: Waiter) -> "Opener":
        from enarx.keep.runtime.sockets import Opener, allow_many  # noqa: PLC0415 - sockets are slow to import

        allow_many()
        return Opener(contexts(self._workload, self._settings), waiter, self._settings.log)


def directories(workload: Workload, settings: Settings) -> Iterator[Descriptor]:
    """What is preopened beside directories of the host: the package, a private directory, who we are."""
    config = workload.config
    if workload.files and config.storage.package:
        from enarx.keep.runtime.package import MOUNT, OpenDirectory, tree  # noqa: PLC0415 - few programs have it

        yield OpenDirectory(tree(workload.files), name=MOUNT)
    if config.storage.memory is not None:
        from enarx.keep.runtime.volume import Volume  # noqa: PLC0415 - as above

        yield Volume(config.storage.memory).open(config.storage.path)
    if config.identity is not None and settings.identity is not None:
        from enarx.keep.runtime.whoami import directory  # noqa: PLC0415 - as above

        yield directory(config.identity, settings)


def drainer(listeners: "Sequence[Listener]", grace: float, interrupt: Interrupt) -> Callable[[], bool]:
    """What happens at SIGTERM: nobody is accepted any more, and whoever is served has `grace` seconds."""

    def drain() -> bool:
        if not listeners or grace <= 0:
            return False
        for listener in listeners:
            listener.silence()
        timer = threading.Timer(grace, interrupt.send, (signal.SIGTERM,))
        timer.daemon = True
        timer.start()
        return True

    return drain


def contexts(workload: Workload, settings: Settings, *, clients: bool = False) -> "Contexts | None":
    """The TLS contexts of a program, where it has an identity; `clients` for one that needs none to make connections."""
    if settings.identity is None and not clients:
        return None
    from enarx.keep.runtime.tls import Contexts  # noqa: PLC0415 - as above

    def read(root: str) -> bytes:
        if "-----BEGIN" in root:
            return root.encode()
        if root not in workload.files:
            raise MalformedError(f"roots: {root} is not in the package")
        return workload.files[root]

    return Contexts(settings.identity, settings.roots_pem, read)


def standard(file: Standard, stdio: Stdio, waiter: Waiter, meter: Meter | None) -> Descriptor:
    """The descriptor of a standard stream, or of nothing."""
    if file.kind == "stdin" and stdio.stdin is not None:
        return Input(stdio.stdin, waiter)
    if file.kind == "stdout":
        return output(stdio.stdout, waiter, meter)
    if file.kind == "stderr":
        return output(stdio.stderr, waiter, meter)
    return Null()


def arguments(config: Config, settings: Settings) -> tuple[list[str], list[tuple[str, str]]]:
    """The program's argv and environment."""
    names = [file.name for file in config.files]
    told = [("FD_COUNT", str(len(names))), ("FD_NAMES", ":".join(names))] if settings.fd_env else []
    if config.identity is not None and settings.identity is not None:
        from enarx.keep.runtime.whoami import environment  # noqa: PLC0415 - as above

        told += environment(config.identity, settings).items()
    extra = () if settings.invoke else settings.extra_args
    return [WASM_NAME, *config.args, *extra], [*told, *config.env.items(), *settings.extra_env]


def report(target: Output, text: str) -> None:
    """Tell whoever reads this stream, whether or not the program had it."""
    with Interrupt() as never, contextlib.suppress(OSError, Refused, Interrupted):
        output(target, Waiter(never)).write(memoryview(text.encode()))
