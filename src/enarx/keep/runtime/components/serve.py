"""wasi:http/incoming-handler: a component behind the listeners of Enarx.toml, a fresh instance for every request.

One thread, the program's, accepts, shakes hands and reads heads. A request whose head is there is given to a worker,
which runs an instance, sends what it answers, and gives the connection back. There are at most `limits.instances`
workers, started as they are needed. So a client that says nothing, or says it slowly, holds up itself.
A component that traps answers 500 and is reported; the next request has another instance. One that has not finished
after `limits.request_seconds` is stopped, whether it computes or waits, and answers 504.
"""

import ctypes
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime import component as wasm

from enarx.errors import MalformedError
from enarx.keep.config import Limits, Listen
from enarx.keep.runtime.abi import FD_READ, NONBLOCK, Refused
from enarx.keep.runtime.components.host import Host, UnsupportedError
from enarx.keep.runtime.components.http import Body, Fields, Outparam, Request, Response
from enarx.keep.runtime.components.messages import (
    HOP_BY_HOP,
    Conversation,
    GoneError,
    Incoming,
    MessageError,
    Wire,
    encode_head,
)
from enarx.keep.runtime.components.values import Err, Own, Table
from enarx.keep.runtime.engine import TrapError
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.streams import Listener, Stream
from enarx.keep.runtime.tls import TlsStream
from enarx.keep.runtime.waiting import Interrupt, Interrupted, Overdue, Waiter
from enarx.keep.runtime.wasi import Exit
from enarx.keep.workload import HANDLER, WASM_NAME

HEAD_SECONDS: Final = 30.0  # for a request's head, once it has begun
SILENCE_SECONDS: Final = 60.0  # of a client, in the middle of a request or of its answer
IDLE_SECONDS: Final = 120.0  # between requests
AT_ONCE_SECONDS: Final = 0.002  # in which a client may follow up before its connection goes back to the others
LEAVE_SECONDS: Final = 2.0  # for workers at the end
MAX_UNREAD: Final = 16 * 1024 * 1024  # of a body that a handler did not want: beyond it the connection is closed

_REASONS: Final = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 410: "Gone", 413: "Content Too Large", 415: "Unsupported Media Type",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip

_CONTINUE: Final = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
_EPOCH: Final = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ffi.wasmtime_update_deadline_kind_t),
)
_NO_FINALIZER: Final = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


class Worker:
    """A host with its linker, for one thread; a store and an instance for every request."""

    def __init__(
        self, engine: wasmtime.Engine, component: wasm.Component, make: Callable[[Waiter], Host], interrupt: Interrupt,
        new_store: Callable[[], wasmtime.Store],
    ) -> None:  # fmt: skip
        self.waiter = Waiter(interrupt)
        self._host, self._interrupt = make(self.waiter), interrupt
        self._engine, self._component, self._new_store = engine, component, new_store
        self._on_epoch = _EPOCH(self._epoch)

    def _epoch(self, _: object, __: object, delta: Any, kind: Any) -> int:  # Any: pointers to numbers
        """The engine's epoch has moved: is it for the instance that runs here? Called by wasmtime."""
        if self._interrupt.number is not None or self.waiter.overdue:
            error = ffi.wasmtime_error_new(b"stopped by the Keep")
            return ctypes.cast(error, ctypes.c_void_p).value or 0
        delta[0], kind[0] = 1, _CONTINUE
        return 0

    def handle(self, request: Request, outparam: Outparam) -> None:
        """Run the component for one request. Raises TrapError, Exit, Interrupted, Overdue or UnsupportedError."""
        store, table = self._new_store(), Table()
        ffi.wasmtime_store_epoch_deadline_callback(store.ptr(), self._on_epoch, None, _NO_FINALIZER)
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
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            self._interrupt.check()
            if self.waiter.overdue:
                raise Overdue from None
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
    raw, context = ctypes.byref(function._func), store._context()  # noqa: SLF001 - as everywhere here
    error = ffi.wasmtime_component_func_call(raw, context, arguments, len(arguments), None, 0)
    if error:  # type: ignore[truthy-bool]  # a null pointer is false
        raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001 - as above


class Connection:
    """A client, between and during requests."""

    def __init__(self, stream: Stream, file: Listen, waiter: Waiter) -> None:
        self.stream, self.name = stream, file.name
        self.scheme = "HTTPS" if file.prot == "tls" else "HTTP"
        self.wire = Wire(stream, waiter)
        self.conversation = Conversation(self.wire, request=True)
        self.alive = True
        self.rest()

    def rest(self) -> None:
        """Nothing is going on."""
        self.since, self.hurry = time.monotonic(), False
        self.wire.begin(None)

    def ends(self) -> float:
        """Until when it may say nothing, or not enough."""
        return self.since + (HEAD_SECONDS if self.hurry else IDLE_SECONDS)

    def hear(self) -> Incoming | None:
        """A request whose head is there. Raises MessageError, and GoneError at the end."""
        while (incoming := self.conversation.arrived()) is None:
            more = self.conversation.glance()
            if more is False:
                raise GoneError("ended")
            if self.conversation.begun and not self.hurry:
                self.since, self.hurry = time.monotonic(), True
            if more is None:
                return None
        return incoming

    def wanted(self) -> dict[int, int]:
        """What to wait for before it may be heard."""
        return {self.stream.fileno(): self.stream.wants(FD_READ)}

    def refuse(self, error: MessageError) -> None:
        """Say why, if the client takes it at once."""
        with suppress(GoneError):
            self.wire.post(_empty(error.status))


def _empty(status: int) -> bytes:
    """An answer without a body, the last on its connection."""
    first = f"HTTP/1.1 {status} {_REASONS.get(status, '')}"
    return encode_head(first, [("content-length", b"0"), ("connection", b"close")])


class Server:
    """Accepts, listens to heads, and gives work away."""

    def __init__(
        self,
        listeners: Sequence[tuple[Listen, Listener]],
        make_worker: Callable[[], Worker],
        limits: Limits,
        engine: wasmtime.Engine,
        interrupt: Interrupt,
        log: Log,
        trap: Callable[[str], None],
    ) -> None:
        self._listeners = {listener.fileno(): (file, listener) for file, listener in listeners}
        self._make, self._limits, self._engine, self._log, self._trap = make_worker, limits, engine, log, trap
        self._waiter, self._interrupt = Waiter(interrupt), interrupt
        self._work: queue.SimpleQueue[tuple[Connection, Incoming] | None] = queue.SimpleQueue()
        self._back: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []
        self._resting: dict[int, Connection] = {}  # by descriptor, the longest rest first
        self._busy, self._looked = 0, 0.0
        self._epoll = select.epoll()
        self._epoll.register(self._wake.fileno(), select.EPOLLIN)
        for number, (_, listener) in self._listeners.items():
            listener.flags |= NONBLOCK
            self._epoll.register(number, select.EPOLLIN)

    def serve(self, first: Worker) -> None:
        """Until it is interrupted, or has finished after it was told to terminate. Raises Interrupted."""
        self._start(first)
        try:
            while True:
                self._step()
        finally:
            self._close()

    def wake(self) -> bool:
        """Look at what has changed, from any thread. False: nobody is granted anything by it."""
        with suppress(OSError):  # it is over
            self._waker.send(b".")
        return False

    def _close(self) -> None:
        """Let the workers end, who were interrupted like this thread, and close what is left."""
        for _ in self._threads:
            self._work.put(None)
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for connection in (*self._resting.values(), *self._returned()):
            connection.stream.close()
        self._epoll.close()
        if not any(thread.is_alive() for thread in self._threads):  # else one may still want to say something
            self._wake.close()
            self._waker.close()

    def _step(self) -> None:
        for connection in self._returned():
            if connection.alive:
                connection.rest()
                self._hear(connection)  # it may have said more meanwhile
            else:
                self._hang_up(connection)
        if self._interrupt.draining:
            self._let_go(list(self._resting.values()))
            if not self._busy:
                raise Interrupted(15)
        self._look_at_clocks()
        pause = 0.2 if self._interrupt.draining else 1.0 if self._busy else 5.0
        if not self._waiter.poll({self._epoll.fileno(): select.POLLIN}, time.monotonic() + pause):
            return
        for number, _ in self._epoll.poll(0):
            if (heard := self._resting.pop(number, None)) is not None:
                self._epoll.unregister(number)
                self._hear(heard)
            elif number in self._listeners:
                self._accept(*self._listeners[number])

    def _look_at_clocks(self) -> None:
        """Once a second: who rests too long, and which instances take too long."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        self._let_go([connection for connection in self._resting.values() if connection.ends() < now])
        if any(worker.waiter.overdue for worker in self._workers):
            self._engine.increment_epoch()  # every instance looks whether it is meant

    def _returned(self) -> Iterable[Connection]:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        found = []
        while not self._back.empty():
            self._busy -= 1
            found.append(self._back.get())
        return found

    def _let_go(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            number = connection.stream.fileno()
            del self._resting[number]
            self._epoll.unregister(number)
            self._hang_up(connection)

    def _hang_up(self, connection: Connection) -> None:
        """Close; what the client is still owed is handed over while this thread waits for others."""
        connection.wire.waiter = connection.stream.waiter = self._waiter
        connection.stream.close()

    def _accept(self, file: Listen, listener: Listener) -> None:
        for _ in range(64):
            if self._interrupt.draining:
                return
            try:
                stream = listener.accept(NONBLOCK)
            except (Refused, OSError):
                return
            if not isinstance(stream, Stream):
                raise TypeError("a listener gives connections")
            if self._busy + len(self._resting) >= self._limits.descriptors:
                if not self._resting:
                    self._log.say("warn", "limit", f"{file.name}: limits.descriptors: a client was turned away")
                    stream.close()
                    return
                self._let_go([next(iter(self._resting.values()))])
            self._hear(Connection(stream, file, self._waiter))

    def _hear(self, connection: Connection) -> None:
        """Give the next request away, or wait for it."""
        connection.wire.waiter = connection.stream.waiter = self._waiter
        try:
            incoming = connection.hear()
        except MessageError as error:
            connection.refuse(error)
            self._hang_up(connection)
        except (GoneError, OSError):
            self._hang_up(connection)
        else:
            if incoming is None:
                number = connection.stream.fileno()
                self._resting[number] = connection
                self._epoll.register(number, connection.stream.wants(FD_READ))
                return
            self._busy += 1
            if self._busy > len(self._threads) and len(self._threads) < self._limits.instances:
                self._start(None)
            self._work.put((connection, incoming))

    def _start(self, worker: Worker | None) -> None:
        from enarx.keep.runtime.runner import start_thread  # noqa: PLC0415 - which imports this package

        self._threads.append(start_thread(lambda: self._run(worker)))

    def _run(self, given: Worker | None) -> None:
        worker = given or self._make()
        self._workers.append(worker)
        while (item := self._work.get()) is not None:
            connection, incoming = item
            try:
                connection.alive = self._several(worker, connection, incoming)
            except (Interrupted, GoneError, MessageError):
                connection.alive = False
            except Exception as error:  # noqa: BLE001 - one connection must not end the others; it is said
                self._log.say("error", "bug", f"a connection ended by {type(error).__name__}")
                connection.alive = False
            if isinstance(connection.stream, TlsStream):
                worker.waiter.forgive(connection.stream)  # whatever it owes is the other thread's from now on
            self._back.put(connection)
            self._waker.send(b".")

    def _several(self, worker: Worker, connection: Connection, first: Incoming) -> bool:
        """Answer a request, and those that follow at once; whether the connection may be used again."""
        incoming: Incoming | None = first
        while incoming is not None:
            if not self._one(worker, connection, incoming):
                return False
            connection.rest()
            if not self._work.empty() or self._interrupt.draining:
                return True  # others wait
            try:
                incoming = connection.hear()
                if incoming is None and worker.waiter.poll(connection.wanted(), time.monotonic() + AT_ONCE_SECONDS):
                    incoming = connection.hear()
            except MessageError as error:
                connection.refuse(error)
                return False
        return True

    def _one(self, worker: Worker, connection: Connection, incoming: Incoming) -> bool:
        """Answer a request; whether the connection may be used again."""
        wire = connection.wire
        wire.waiter = connection.stream.waiter = worker.waiter
        wire.begin(SILENCE_SECONDS)
        reply = Reply(wire, incoming)
        request = Request(incoming, incoming.message.method, connection.scheme, Body(incoming, reply.encourage))
        worker.waiter.limit = time.monotonic() + self._limits.request_seconds
        late = False
        try:
            worker.handle(request, Outparam(reply.answer))
        except Exit:
            pass  # a component that exits has said all it has to say
        except (TrapError, UnsupportedError) as error:
            self._trap(str(error))
        except Overdue:
            late = True
            seconds = self._limits.request_seconds
            self._log.say(
                "warn", "stopped", f"{connection.name}: limits.request_seconds: stopped after {seconds} seconds"
            )
        finally:
            worker.waiter.limit = None
        return reply.end(504 if late else 500)


class Reply:
    """What goes back for one request."""

    def __init__(self, wire: Wire, incoming: Incoming) -> None:
        self._wire, self._incoming, self._method = wire, incoming, incoming.message.method
        self._response: Response | None = None
        self._closing = self._bare = False
        self._expects = (incoming.message.get("expect") or b"").lower() == b"100-continue"
        self._old = incoming.message.version == "1.0"

    def encourage(self) -> None:
        """Somebody wants the body that the client is still holding back."""
        if self._expects and self._response is None:
            with suppress(GoneError):  # which the next read says
                self._wire.post(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects = False

    def answer(self, answer: Response | Err) -> None:
        if self._response is not None:
            return
        if isinstance(answer, Err):
            answer = Response(Fields(), self._wire.waiter)
            answer.status = 500
        self._response = answer
        try:
            chunked = self._post_head(answer)
        except GoneError as error:
            answer.sink.fail(error)
            return
        answer.sink.attach(self._wire, chunked=chunked, bare=self._bare)

    def _post_head(self, response: Response) -> bool:
        """Send the head; whether the body goes in chunks."""
        chunked, length = False, response.length
        hidden = HOP_BY_HOP | {"content-length"}
        pairs = [(name, value) for name, value in response.headers.pairs if name.lower() not in hidden]
        self._bare = self._method == "HEAD" or response.status in {204, 304} or response.status < 200
        if length is not None and (response.taken or self._bare):
            pairs.append(("content-length", str(length).encode()))
        elif not self._bare and not response.taken:
            pairs.append(("content-length", b"0"))
        elif not self._bare and self._old:
            self._closing = True  # the end of the connection is the end of the body
        elif not self._bare:
            chunked = True
            pairs.append(("transfer-encoding", b"chunked"))
        if self._old or self._expects or (not self._incoming.message.keeps_alive and self._incoming.message.complete):
            self._closing = True
        if self._closing:
            pairs.append(("connection", b"close"))
        if not response.headers.get("date"):
            pairs.append(("date", formatdate(usegmt=True).encode()))
        self._wire.post(encode_head(f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}", pairs))
        return chunked

    def end(self, failure: int) -> bool:
        """Finish; whether the connection may be used again. Without an answer the client gets `failure`."""
        response = self._response
        if response is None:
            self._wire.write(_empty(failure))
            return False
        if response.taken and not response.sink.sound and not self._bare:
            self._wire.write()
            return False  # it broke off in the middle of its body, and the client has to see that
        self._wire.settle()
        return not self._closing and self._read_past() and self._incoming.message.keeps_alive

    def _read_past(self) -> bool:
        """Take what the handler left of the request; whether that was the end of it."""
        unread = 0
        while unread <= MAX_UNREAD and not self._incoming.message.complete:
            unread += len(self._incoming.read())
        return self._incoming.message.complete
