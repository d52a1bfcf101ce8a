"""Programs that are components (WASI 0.2).

    a command (wasi:cli/run) that needs neither sockets nor HTTP, with ordinary streams   wasmtime's own WASI
    any other command                                                                    everything hosted by us
    wasi:http/incoming-handler                                                           served by us, hosted by us

Whatever touches wasi:io has to be hosted as a whole or not at all: its resources are of one kind everywhere. WASI 0.3 is
not in the wheel; a component that asks for it is refused by name.

    values    between a component's values and Python's        files     wasi:filesystem
    host      the imports of a component, from its own types   sockets   wasi:sockets; options and udp beside it
    io        wasi:io                                          messages  HTTP/1.1 on a connection
    system    wasi:cli, wasi:clocks, wasi:random               http      wasi:http/types
    outgoing  wasi:http/outgoing-handler                       serve     wasi:http/incoming-handler
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import wasmtime
from wasmtime import component as wasm

from enarx.errors import MalformedError
from enarx.keep.config import Listen, Standard
from enarx.keep.runtime.descriptors import Descriptor, Listening
from enarx.keep.runtime.engine import Compiler, TrapError
from enarx.keep.runtime.stdio import Meter
from enarx.keep.runtime.waiting import Interrupt, Waiter
from enarx.keep.runtime.wasi import Exit
from enarx.keep.workload import HANDLER, WASM_NAME, Workload

if TYPE_CHECKING:
    from enarx.keep.runtime.components.host import Host
    from enarx.keep.runtime.runner import Settings

COMMAND: Final = "wasi:cli/run"
_HOSTED: Final = ("wasi:sockets/", "wasi:http/")


def execute(workload: Workload, settings: "Settings", compiler: Compiler, interrupt: Interrupt) -> int:
    """Run a component to its end. Returns its exit code; raises as `runner.run`."""
    component = compiler.component(workload.wasm, WASM_NAME)
    engine = compiler.engine
    imports, exports = list(component.type.imports(engine)), list(component.type.exports(engine))
    _require_known(imports)
    if settings.invoke is not None:
        raise MalformedError(f"{WASM_NAME}: --invoke is for modules; a component is started by {COMMAND}")
    run = _Run(workload, settings, engine, component, interrupt)
    if any(name.startswith(HANDLER) for name in exports):
        return run.serve()
    command = next((name for name in exports if name.partition("@")[0] == COMMAND), None)
    if command is None:
        raise MalformedError(f"{WASM_NAME}: expected a component that exports {COMMAND} or {HANDLER}")
    if run.suits_wasmtime(imports):
        return run.native(command)
    return run.hosted(command)


def _require_known(imports: Sequence[str]) -> None:
    """Refuse what cannot be given, by name."""
    for name in imports:
        version = re.fullmatch(r"wasi:[a-z0-9-]+/[a-z0-9-]+@(0\.[0-9]+)\..*", name)
        if version is None:
            raise MalformedError(f"{WASM_NAME}: imports {name}, which a Keep does not have")
        if version.group(1) != "0.2":
            raise MalformedError(f"{WASM_NAME}: imports {name}: this Keep speaks WASI 0.2 and preview 1")


class _Run:
    """One component, from its descriptors to its exit code."""

    def __init__(
        self,
        workload: Workload,
        settings: "Settings",
        engine: wasmtime.Engine,
        component: wasm.Component,
        interrupt: Interrupt,
    ) -> None:
        from enarx.keep.runtime import runner  # noqa: PLC0415 - which imports this package

        self._runner = runner
        self._workload, self._settings, self._config = workload, settings, workload.config
        self._engine, self._component, self._interrupt = engine, component, interrupt
        self._argv, self._env = runner.arguments(workload.config, settings)
        self._kinds = {file.kind for file in workload.config.files if isinstance(file, Standard)}
        self._waiter = Waiter(interrupt)

    def suits_wasmtime(self, imports: Sequence[str]) -> bool:
        """Whether wasmtime's own WASI has everything: streams of this process, and directories of the host at most."""
        stdio, config = self._settings.stdio, self._config
        ours = (self._workload.files and config.storage.package) or config.storage.memory or config.identity
        plain = (stdio.stdin, stdio.stdout, stdio.stderr) == (0, 1, 2) and config.limits.output is None
        return plain and not ours and not any(name.startswith(_HOSTED) for name in imports)

    def _store(self) -> wasmtime.Store:
        limits = self._config.limits
        store = wasmtime.Store(self._engine)
        store.set_epoch_deadline(1)
        if limits.memory is not None:
            store.set_limits(memory_size=limits.memory)
        if limits.fuel is not None:
            store.set_fuel(limits.fuel)
        self._interrupt.check()  # an interrupt until here has not moved the epoch of this store
        return store

    def _ready(self, listening: Sequence[Listening] = ()) -> None:
        self._interrupt.check()
        if self._settings.on_ready is not None:
            self._settings.on_ready(listening)

    # -- wasmtime's own

    def native(self, command: str) -> int:
        wasi = wasmtime.WasiConfig()
        wasi.argv, wasi.env = list(self._argv), list(self._env)
        for kind, inherit in (
            ("stdin", wasi.inherit_stdin),
            ("stdout", wasi.inherit_stdout),
            ("stderr", wasi.inherit_stderr),
        ):
            if kind in self._kinds:
                inherit()
        for host, guest in self._settings.preopens:
            _preopen(wasi, host, guest)
        store = self._store()
        store.set_wasi(wasi)
        linker = wasm.Linker(self._engine)
        linker.add_wasip2()
        self._ready()
        try:
            return _run_command(store, linker.instantiate(store, self._component), self._component, command)
        except wasmtime.ExitTrap as leave:
            return leave.code
        except wasmtime.Trap as trap:
            raise _trap(trap) from None
        except wasmtime.WasmtimeError as error:
            raise _link_error(error) from error

    # -- ours

    def hosted(self, command: str) -> int:
        from enarx.keep.runtime.components.host import UnsupportedError  # noqa: PLC0415 - as above
        from enarx.keep.runtime.components.values import Table  # noqa: PLC0415 - as above

        host, table = self._host(self._waiter), Table()
        store = self._store()
        self._ready()
        try:
            made = host.run(table, lambda: host.linker.instantiate(store, self._component))
            if not isinstance(made, wasm.Instance):
                raise TypeError("wasmtime: expected an instance")
            answer = host.run(table, lambda: _run_command(store, made, self._component, command))
        except Exit as leave:
            return leave.status & 0xFF
        except UnsupportedError as error:
            raise TrapError(str(error)) from None
        except wasmtime.Trap as trap:
            raise _trap(trap) from None
        except wasmtime.WasmtimeError as error:
            raise _link_error(error) from error
        finally:
            table.close()
            self._waiter.finish()
        return int(answer) if isinstance(answer, int) else 0

    def serve(self) -> int:
        from enarx.keep.runtime.components.serve import Server, Worker  # noqa: PLC0415 - as above
        from enarx.keep.runtime.sockets import Opener, allow_many  # noqa: PLC0415 - as above

        settings, runner = self._settings, self._runner
        files = [file for file in self._config.files if isinstance(file, Listen)]
        if not files:
            raise MalformedError(
                f'{WASM_NAME}: serves HTTP, and Enarx.toml names no listener: add [[files]] with kind = "listen"'
            )
        allow_many()
        opener = Opener(runner.contexts(self._workload, settings), self._waiter, settings.log)
        try:
            listeners = [(file, opener.listen(file)) for file in files]

            def worker() -> Worker:
                return Worker(self._engine, self._component, self._host, self._interrupt, self._store)

            first = worker()
            server = Server(
                listeners, worker, self._config.limits, self._engine, self._interrupt, settings.log, self._report_trap
            )
            self._interrupt.on_terminate(runner.drainer(opener.listeners, settings.grace, self._interrupt))
            self._interrupt.on_terminate(server.wake)
            self._ready(opener.listening)
            server.serve(first)
        finally:
            for listener in opener.listeners:
                listener.close()
        return 0

    def _report_trap(self, text: str) -> None:
        self._runner.report(self._settings.stdio.stderr, f"Error: a request ended by a trap\n\n{text}\n")

    def _host(self, waiter: Waiter) -> "Host":
        """A host with every implementation, for the thread of that waiter."""
        from enarx.keep.runtime.components import (  # noqa: PLC0415 - as above
            files,
            http,
            io,
            outgoing,
            sockets,
            system,
            udp,
        )
        from enarx.keep.runtime.components.host import Host  # noqa: PLC0415 - as above

        if self._settings.preopens:
            raise MalformedError("--dir: only for modules, and components without sockets and HTTP")
        settings, config, runner = self._settings, self._config, self._runner
        meter = None if config.limits.output is None else Meter(config.limits.output)
        streams: dict[str, Descriptor] = {
            file.kind: runner.standard(file, settings.stdio, waiter, meter)
            for file in config.files
            if isinstance(file, Standard)
        }
        contexts = runner.contexts(self._workload, settings, clients=True)
        allowance = io.Allowance(config.limits.descriptors)
        world = sockets.World(config, contexts, waiter, settings.log, allowance)
        directories = list(runner.directories(self._workload, settings))
        return Host(
            self._engine,
            self._component,
            {
                **io.implementations(waiter),
                **system.implementations(self._argv, self._env, streams, waiter),
                **files.implementations(directories, waiter, allowance),
                **sockets.implementations(world),
                **udp.implementations(world),
                **http.implementations(waiter),
                **outgoing.implementations(world),
            },
        )


def _run_command(store: wasmtime.Store, instance: wasm.Instance, component: wasm.Component, command: str) -> int:
    inner = component.get_export_index("run", component.get_export_index(command))
    function = None if inner is None else instance.get_func(store, inner)
    if function is None:
        raise MalformedError(f"{WASM_NAME}: exports {command} without `run`")
    answer: object = function(store)
    return 0 if getattr(answer, "tag", answer) in {"ok", None} else 1


def _preopen(wasi: wasmtime.WasiConfig, host: Path, guest: str) -> None:
    try:
        wasi.preopen_dir(str(host), guest)
    except wasmtime.WasmtimeError as error:
        raise MalformedError(f"directory {host}: {error}") from error


def _trap(trap: wasmtime.Trap) -> TrapError:
    return TrapError(str(trap), fuel=trap.trap_code is wasmtime.TrapCode.OUT_OF_FUEL)


def _link_error(error: wasmtime.WasmtimeError) -> Exception:
    """A trap as components tell it is an error with a backtrace; anything else means that it could not be linked."""
    text = str(error)
    if "wasm backtrace" in text or "wasm trap" in text:
        return TrapError(text, fuel="all fuel consumed" in text)
    return MalformedError(f"{WASM_NAME}: {text}".splitlines()[0])
