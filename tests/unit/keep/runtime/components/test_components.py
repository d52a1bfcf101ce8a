"""Components run as modules do: commands, and handlers of HTTP behind listeners."""

import contextlib
import gc
import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wasmtime

from enarx.errors import MalformedError
from enarx.keep.runtime import Interrupt, TlsIdentity
from tests.unit.keep.runtime.conftest import Runner, Running, Starter

ROOT = Path(__file__).resolve().parents[5]
STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'


def _component(name: str, behaviour: str = "", status: int = 200, extra: str = "") -> bytes:
    text = (ROOT / "tests" / "guests" / f"{name}.wat").read_text()
    return bytes(
        wasmtime.wat2wasm(text.replace("BEHAVIOUR", behaviour).replace("STATUS", str(status)).replace("EXTRA", extra))
    )


def _listen(prot: str) -> str:
    return f'{STDIO}[[files]]\nkind="listen"\nname="web"\nprot="{prot}"\naddr="127.0.0.1"\nport=0\n'


@pytest.mark.parametrize(("behaviour", "code"), [("(i32.const 0)", 0), ("(i32.const 1)", 1), ("(unreachable)", 134)])
def test_a_command_prints_and_ends(run_guest: Runner, behaviour: str, code: int) -> None:
    """ok is 0, an error is 1, a trap prints the backtrace and is 134."""
    outcome = run_guest(_component("command", behaviour))
    assert (outcome.code, outcome.stdout) == (code, b"hello\n")
    assert (b"wasm `unreachable` instruction executed" in outcome.stderr) == (code == 134)


def test_a_command_is_held_to_its_limits(run_guest: Runner) -> None:
    """Time, fuel and output stop a component as they stop a module."""
    spin = "(loop $l (br $l)) (i32.const 0)"
    assert run_guest(_component("command", spin), toml=STDIO + "[limits]\nseconds = 1").code == 152
    assert run_guest(_component("command", spin), toml=STDIO + "[limits]\nfuel = 10000000").code == 152
    outcome = run_guest(_component("command", "(i32.const 0)"), toml=STDIO + "[limits]\noutput = 3")
    assert (outcome.code, outcome.stdout) == (153, b"hel")


def test_a_command_without_standard_output_prints_nothing(run_guest: Runner) -> None:
    """What `files` does not name is empty and swallows."""
    assert run_guest(_component("command", "(i32.const 0)"), toml="").stdout == b""


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            '(import "wasi:cli/environment@0.3.0" (instance))',
            "imports wasi:cli/environment@0.3.0: this Keep speaks WASI 0.2 and preview 1",
        ),
        ('(import "my:own/thing@1.0.0" (instance))', "imports my:own/thing@1.0.0, which a Keep does not have"),
        ('(import "thing" (func))', "imports thing, which a Keep does not have"),
    ],
)
def test_what_a_keep_does_not_have_is_refused_by_name(run_guest: Runner, extra: str, message: str) -> None:
    """WASI 0.3, an interface of somebody's own, a bare function."""
    with pytest.raises(MalformedError, match=message):
        run_guest(_component("command", "(i32.const 0)", extra=extra))


def test_a_component_that_is_no_program_is_refused(run_guest: Runner) -> None:
    """Without a command and without a handler there is nothing to run."""
    with pytest.raises(MalformedError, match=r"expected a component that exports wasi:cli/run or wasi:http"):
        run_guest(b"\0asm\x0d\0\x01\0")
    with pytest.raises(MalformedError, match="--invoke is for modules"):
        run_guest(_component("command", "(i32.const 0)"), invoke="run")
    with pytest.raises(MalformedError, match=r"serves HTTP, and Enarx.toml names no listener"):
        run_guest(_component("handler"))


@contextmanager
def _connection(guest: Running, prot: str) -> Iterator[http.client.HTTPConnection]:
    port = guest.ports[0]
    if prot == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        made: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    else:
        made = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(made):
        yield made


def _ask(connection: http.client.HTTPConnection, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection.request(method, "/path?query", body=body)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_a_handler_answers_over_http_and_https(start_guest: Starter, identity: TlsIdentity, prot: str) -> None:
    """Several requests on one connection, bodies that the handler does not read, HEAD without a body."""
    guest = start_guest(_component("handler", status=201), toml=_listen(prot), identity=identity)
    with _connection(guest, prot) as connection:
        for _ in range(3):
            assert _ask(connection) == (201, b"hello\n")
        assert _ask(connection, "POST", b"x" * 100_000) == (201, b"hello\n")
        assert _ask(connection, "HEAD") == (201, b"")
        assert _ask(connection) == (201, b"hello\n")
    guest.interrupt.terminate()
    assert guest.join().code == 143


def test_a_handler_that_traps_answers_500_and_the_next_request_is_served(start_guest: Starter) -> None:
    """Every request has an instance of its own; the backtrace is on standard error."""
    guest = start_guest(_component("handler", "(unreachable)"), toml=_listen("tcp"))
    for _ in range(2):
        with _connection(guest, "tcp") as connection:
            assert _ask(connection) == (500, b"")
    guest.interrupt.send(15)
    assert b"Error: a request ended by a trap" in guest.join().stderr


def test_a_handler_that_says_nothing_answers_500(start_guest: Starter) -> None:
    """A client is never left without an answer."""
    guest = start_guest(_component("handler", "(return)"), toml=_listen("tcp"))
    with _connection(guest, "tcp") as connection:
        assert _ask(connection) == (500, b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_http_is_refused(start_guest: Starter, request_bytes: bytes, status: bytes) -> None:
    """Heads beyond their bound, and what could be read in two ways."""
    guest = start_guest(_component("handler"), toml=_listen("tcp"))
    with socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30) as sock:
        sock.sendall(request_bytes)
        assert sock.recv(100).startswith(b"HTTP/1.1 " + status)


def test_silent_clients_hold_up_nobody(start_guest: Starter, identity: TlsIdentity) -> None:
    """Connections that say nothing, or half a head, leave the workers to others."""
    toml = _listen("tls") + "[limits]\ninstances = 8\n"
    guest = start_guest(_component("handler"), toml=toml, identity=identity)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30))
        connection = stack.enter_context(_connection(guest, "tls"))
        assert _ask(connection) == (200, b"hello\n")


@pytest.mark.parametrize("behaviour", ["(loop $l (br $l))", "(call $hoard (local.get $request))"])
def test_a_request_that_takes_too_long_is_stopped(start_guest: Starter, behaviour: str) -> None:
    """Whether it computes or waits for its client; the client gets 504, the log a line, the next request an instance."""
    guest = start_guest(
        _component("handler", behaviour),
        toml=_listen("tcp") + "[limits]\nrequest_seconds = 1\ninstances = 1\n",
        interruptible=False,
    )
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
            assert _all(sock).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    guest.interrupt.send(15)
    assert b"enarx: warn: web: limits.request_seconds: stopped after 1 seconds\n" in guest.join().stderr


def _all(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(1000):
        found += piece
    return found


def test_slow_heads_hold_no_instance(start_guest: Starter) -> None:
    """Clients in the middle of a head, with one instance for all: whoever has said everything is served."""
    guest = start_guest(_component("handler"), toml=_listen("tcp") + "[limits]\ninstances = 1\n")
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)) for _ in range(9)
        ]
        for sock in slow:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        connection = stack.enter_context(_connection(guest, "tcp"))
        assert _ask(connection) == (200, b"hello\n")
        for sock in slow:
            sock.sendall(b"x\r\nConnection: close\r\n\r\n")
            assert _all(sock).endswith(b"6\r\nhello\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "answers"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", [b"hello\n"]),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [b"hello", b""]),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
            [b"", b"hello"],
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", [b"hello"]),
    ],
    ids=["1.0", "pipelined", "expect", "upgrade"],
)
def test_what_http_clients_do(start_guest: Starter, request_bytes: bytes, answers: list[bytes]) -> None:
    """HTTP/1.0, several requests at once, a body held back until it is asked for, an upgrade that is not taken."""
    guest = start_guest(_component("handler", "(call $hoard (local.get $request))"), toml=_listen("tcp"))
    with socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30) as sock:
        sock.sendall(request_bytes)
        heads = _all(sock).split(b"HTTP/1.1 ")[1:]
    assert len(heads) == len(answers)
    for head, answer in zip(heads, answers, strict=True):
        assert answer in head.partition(b"\r\n\r\n")[2]
    assert heads[-1].startswith(b"200 OK\r\n")
    assert heads[0].startswith(b"100 Continue") == (b"Expect" in request_bytes)
    assert b"connection: close\r\n" in heads[-1]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("", (200, b"hello\n")),
        ("(call $hoard (local.get $request))", (200, b"hello\n")),
        ("(call $hoard (local.get $request)) (unreachable)", (500, b"")),
        ("(call $hoard (local.get $request)) (call $nothing)", (500, b"")),
    ],
    ids=["unread", "hoarded", "trapped", "refused"],
)
def test_large_bodies_leave_nothing_behind(start_guest: Starter, behaviour: str, expected: tuple[int, bytes]) -> None:
    """What a handler never read, or kept with every handle, is gone with its instance, however that ended."""
    guest = start_guest(_component("handler", behaviour), toml=_listen("tcp"))
    gc.disable()  # whatever Python's collector has to find has been left behind
    try:
        for _ in range(3):
            _post(guest, bytes(1 << 19), expected)
        before = _resident()
        for _ in range(12):
            _post(guest, bytes(1 << 19), expected)
        assert _resident() - before < 20 << 20
    finally:
        gc.enable()


def _post(guest: Running, body: bytes, expected: tuple[int, bytes]) -> None:
    with _connection(guest, "tcp") as connection:
        assert _ask(connection, "POST", body) == expected


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_a_server_that_is_woken_to_end_sees_that_it_has_to() -> None:
    """What is called at SIGTERM finds the flag set: whoever it wakes would else sleep again."""
    with Interrupt() as interrupt:
        seen: list[bool] = []

        def drain() -> bool:
            seen.append(interrupt.draining)
            return True

        interrupt.on_terminate(drain)
        interrupt.terminate()
        assert seen == [True]
        assert interrupt.number is None
        interrupt.terminate()
        assert interrupt.number == 15
