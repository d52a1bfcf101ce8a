"""wasi:http/incoming-handler: a component behind the listeners of Enarx.toml, a fresh instance for every request.

One thread, the program's, accepts and holds connections that say nothing; a connection on which something has come is
given to a worker, which reads a request, runs an instance, sends what it answers, and gives the connection back. There
are at most `limits.instances` workers, started as they are needed. A component that traps answers 500 and is reported;
the next request has another instance. Heads, waits and silence are bounded, so that a slow client holds up itself.
"""

import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import wasmtime
from wasmtime import component as wasm

from enarx.errors import MalformedError
from enarx.keep.config import Listen
from enarx.keep.runtime.abi import FD_READ, NONBLOCK, Refused
from enarx.keep.runtime.components.host import Host, UnsupportedError
from enarx.keep.runtime.components.http import Body, Outparam, Request, Response
from enarx.keep.runtime.components.messages import (
    HOP_BY_HOP,
    Conversation,
    GoneError,
    Incoming,
    MessageError,
    Wire,
    chunk,
    encode_head,
    last_chunk,
)
from enarx.keep.runtime.components.values import Err, Own, Table
from enarx.keep.runtime.engine import TrapError
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.streams import Listener, Stream
from enarx.keep.runtime.waiting import Interrupt, Interrupted, Waiter
from enarx.keep.runtime.wasi import Exit
from enarx.keep.workload import WASM_NAME

HANDLER: Final = "wasi:http/incoming-handler"
MAX_WORKERS: Final = 64  # threads: more would only wait for each other
HEAD_SECONDS: Final = 30.0  # for a request's head, once it has begun
BODY_SECONDS: Final = 300.0  # for everything after it
IDLE_SECONDS: Final = 120.0  # between requests
LEAVE_SECONDS: Final = 2.0  # for workers at the end
MAX_IDLE: Final = 8192  # connections that say nothing

_REASONS: Final = {
    200: "OK", 201: "Created", 204: "No Content", 301: "Moved Permanently", 302: "Found", 304: "Not Modified",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip


class Worker:
    """A host with its linker, for one thread; a store and an instance for every request."""

    def __init__(
        self, engine: wasmtime.Engine, component: wasm.Component, make: Callable[[Waiter], Host], interrupt: Interrupt,
        new_store: Callable[[], wasmtime.Store],
    ) -> None:  # fmt: skip
        self.waiter = Waiter(interrupt)
        self._host = make(self.waiter)
        self._engine, self._component, self._new_store = engine, component, new_store

    def handle(self, request: Request, outparam: Outparam) -> None:
        """Run the component for one request. Raises TrapError, Exit, Interrupted or UnsupportedError."""
        store, table = self._new_store(), Table()
        host = self._host
        try:
            instance = host.run(table, lambda: host.linker.instantiate(store, self._component))
            if not isinstance(instance, wasm.Instance):
                raise TypeError("wasmtime: expected an instance")
            function = _handler(store, instance, self._component)
            kinds = [kind for _, kind in function.type(store).params]
            values = [Own(request, "incoming-request"), Own(outparam, "response-outparam")]
            arguments = host.lower(store, kinds, values)
            host.run(table, lambda: _call(function, store, arguments))
        except wasmtime.Trap as trap:
            raise TrapError(str(trap)) from None
        except wasmtime.WasmtimeError as error:
            raise TrapError(str(error)) from None
        finally:
            table.close()
            store.close()  # now, with all that the instance had grown to, and not when the last frame has forgotten it


def _handler(store: wasmtime.Store, instance: wasm.Instance, component: wasm.Component) -> wasm.Func:
    name = next(name for name in component.type.exports(store.engine) if name.startswith(HANDLER))
    outer = component.get_export_index(name)
    inner = component.get_export_index("handle", outer)
    function = None if inner is None else instance.get_func(store, inner)
    if function is None:
        raise MalformedError(f"{WASM_NAME}: exports {HANDLER} without `handle`")
    return function


def _call(function: wasm.Func, store: wasmtime.Store, arguments: Any) -> None:  # Any: an array of C values
    """As wasmtime-py's own call, without its conversion of the arguments."""
    from ctypes import byref  # noqa: PLC0415 - only here

    from wasmtime import _ffi as ffi  # noqa: PLC0415 - only here

    raw, context = byref(function._func), store._context()  # noqa: SLF001 - as everywhere here
    error = ffi.wasmtime_component_func_call(raw, context, arguments, len(arguments), None, 0)
    if error:  # type: ignore[truthy-bool]  # a null pointer is false
        raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001 - as above


class Server:
    """Accepts, waits, and gives work away."""

    def __init__(
        self,
        listeners: Sequence[tuple[Listen, Listener]],
        make_worker: Callable[[], Worker],
        limit: int,
        interrupt: Interrupt,
        log: Log,
        trap: Callable[[str], None],
    ) -> None:
        self._listeners, self._make, self._log, self._trap = listeners, make_worker, log, trap
        for _, listener in listeners:
            listener.flags |= NONBLOCK
        self._limit = min(limit, MAX_WORKERS)
        self._waiter, self._interrupt = Waiter(interrupt), interrupt
        self._work: queue.SimpleQueue[tuple[Stream, str] | None] = queue.SimpleQueue()
        self._back: queue.SimpleQueue[tuple[Stream, str] | None] = queue.SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._threads: list[threading.Thread] = []
        self._idle: dict[int, tuple[Stream, str, float]] = {}  # by descriptor: stream, scheme, since when
        self._busy = 0

    def serve(self, first: Worker) -> None:
        """Until it is interrupted, or has finished after it was told to terminate. Raises Interrupted."""
        self._start(first)
        try:
            while True:
                self._step()
        finally:
            self._close()

    def _close(self) -> None:
        """Let the workers end, who were interrupted like this thread, and close what is left."""
        for _ in self._threads:
            self._work.put(None)
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for stream, _, _ in self._idle.values():
            stream.close()
        for stream, _ in self._returned():
            stream.close()
        if not any(thread.is_alive() for thread in self._threads):  # else one may still want to say something
            self._wake.close()
            self._waker.close()

    def _step(self) -> None:
        for stream, scheme in self._returned():
            self._idle[stream.fileno()] = (stream, scheme, time.monotonic())
        if self._interrupt.draining:
            self._let_go(lambda _: True)
            if not self._busy:
                raise Interrupted(15)
        else:
            now = time.monotonic()
            self._let_go(lambda since: now - since > IDLE_SECONDS)
        wanted = {listener.fileno(): select.POLLIN for _, listener in self._listeners}
        wanted |= {number: stream.wants(FD_READ) for number, (stream, _, _) in self._idle.items()}
        wanted[self._wake.fileno()] = select.POLLIN
        happened = self._waiter.poll(wanted, time.monotonic() + (0.2 if self._interrupt.draining else 5.0))
        for file, listener in self._listeners:
            if listener.fileno() in happened:
                self._accept(file, listener)
        for number in [number for number in happened if number in self._idle]:
            stream, scheme, _ = self._idle[number]
            if stream.confirm(FD_READ) is not None:
                del self._idle[number]
                self._give((stream, scheme))

    def _returned(self) -> list[tuple[Stream, str]]:
        try:
            self._wake.recv(4096)
        except BlockingIOError:
            return []
        found = []
        while not self._back.empty():
            self._busy -= 1
            item = self._back.get()
            if item is not None:
                item[0].waiter = self._waiter
                found.append(item)
        return found

    def _let_go(self, when: Callable[[float], bool]) -> None:
        for number, (stream, _, since) in list(self._idle.items()):
            if when(since):
                del self._idle[number]
                stream.close()

    def _accept(self, file: Listen, listener: Listener) -> None:
        for _ in range(64):
            try:
                stream = listener.accept(NONBLOCK)
            except (Refused, OSError):
                return
            if not isinstance(stream, Stream):
                raise TypeError("a listener gives connections")
            if len(self._idle) >= MAX_IDLE:
                oldest = next(iter(self._idle))
                self._idle.pop(oldest)[0].close()
            self._idle[stream.fileno()] = (stream, "HTTPS" if file.prot == "tls" else "HTTP", time.monotonic())

    def _give(self, item: tuple[Stream, str]) -> None:
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._limit:
            self._start(None)
        self._work.put(item)

    def _start(self, worker: Worker | None) -> None:
        from enarx.keep.runtime.runner import start_thread  # noqa: PLC0415 - which imports this package

        self._threads.append(start_thread(lambda: self._run(worker)))

    def _run(self, given: Worker | None) -> None:
        worker = given or self._make()
        while (item := self._work.get()) is not None:
            stream, scheme = item
            try:
                alive = self._requests(worker, stream, scheme)
            except Interrupted:
                alive = False
            except Exception as error:  # noqa: BLE001 - one connection must not end the others; it is said
                self._log.say("error", "bug", f"a connection ended by {type(error).__name__}")
                alive = False
            if not alive:
                stream.close()
            self._back.put((stream, scheme) if alive else None)
            self._waker.send(b".")

    def _requests(self, worker: Worker, stream: Stream, scheme: str) -> bool:
        """Serve what has come; whether the connection may be used again."""
        wire = Wire(stream, worker.waiter)
        conversation = Conversation(wire, request=True)
        while True:
            wire.deadline = time.monotonic() + HEAD_SECONDS
            try:
                incoming = conversation.next()
                if incoming is None:
                    return False
                wire.deadline = time.monotonic() + BODY_SECONDS
                alive = self._one(worker, wire, incoming, scheme)
            except MessageError as error:
                _refuse(wire, error)
                return False
            except GoneError:
                return False
            if not alive or not conversation.waiting:
                return alive

    def _one(self, worker: Worker, wire: Wire, incoming: Incoming, scheme: str) -> bool:
        reply = Reply(wire, incoming)
        request = Request(incoming, incoming.message.method, scheme, Body(incoming, reply.encourage))
        try:
            worker.handle(request, Outparam(reply.answer))
        except Exit:
            pass  # a component that exits has said all it has to say
        except (TrapError, UnsupportedError) as error:
            self._trap(str(error))
        return reply.end()


class Reply:
    """What goes back for one request."""

    def __init__(self, wire: Wire, incoming: Incoming) -> None:
        self._wire, self._incoming, self._method = wire, incoming, incoming.message.method
        self._response: Response | None = None
        self._chunked = self._bare = self._closing = False
        self._expects = (incoming.message.get("expect") or b"").lower() == b"100-continue"
        self._old = incoming.message.version == "1.0"

    def encourage(self) -> None:
        """Somebody wants the body that the client is still holding back."""
        if self._expects and self._response is None:
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects = False

    def answer(self, answer: Response | Err) -> None:
        if self._response is not None:
            return
        if isinstance(answer, Err):
            answer = Response(_no_fields())
            answer.status, answer.finished = 502, True
        self._response = answer
        self._send_head(answer)
        answer.attach(self._send)

    def _send_head(self, response: Response) -> None:
        pairs = [(name, value) for name, value in response.headers.pairs if name.lower() not in HOP_BY_HOP]
        self._bare = self._method == "HEAD" or response.status in {204, 304} or response.status < 200
        if not self._bare and not response.headers.get("content-length"):
            if response.taken and not self._old:
                self._chunked = True
                pairs.append(("transfer-encoding", b"chunked"))
            elif response.taken:
                self._closing = True
            else:
                pairs.append(("content-length", b"0"))
        if self._old or self._expects:
            self._closing = True
            pairs.append(("connection", b"close"))
        reason = _REASONS.get(response.status, "")
        self._wire.write(encode_head(f"HTTP/1.1 {response.status} {reason}", pairs))

    def _send(self, data: bytes) -> None:
        if not self._bare:
            self._wire.write(chunk(data) if self._chunked else data)

    def end(self) -> bool:
        """Finish; whether the connection may be used again. Without an answer the client gets 500."""
        response = self._response
        if response is None:
            self._wire.write(
                encode_head("HTTP/1.1 500 Internal Server Error", [("content-length", b"0"), ("connection", b"close")])
            )
            return False
        if response.taken and not response.finished and not self._bare:
            return False  # it broke off in the middle of its body, and the client has to see that
        if self._chunked:
            self._wire.write(last_chunk(response.trailers))
        while not self._closing and not self._incoming.message.complete:
            if not self._incoming.read() and not self._incoming.message.complete:
                return False
        self._wire.settle()
        return not self._closing and self._incoming.message.keeps_alive


def _no_fields() -> Any:  # Any: Fields, imported where it is needed
    from enarx.keep.runtime.components.http import Fields  # noqa: PLC0415 - only here

    return Fields()


def _refuse(wire: Wire, error: MessageError) -> None:
    head = encode_head(
        f"HTTP/1.1 {error.status} {_REASONS.get(error.status, '')}",
        [("content-length", b"0"), ("connection", b"close")],
    )
    try:
        wire.write(head)
    except GoneError:
        return
