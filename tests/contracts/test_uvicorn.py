"""What `enarx.web.server` uses of uvicorn's insides is still there: its version is pinned, and this says what for."""

import inspect
import re
from importlib.metadata import version

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

OVERRIDDEN = (
    "connection_made",
    "connection_lost",
    "data_received",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
    "send_400_response",
    "timeout_keep_alive_handler",
    "pause_writing",
    "resume_writing",
    "shutdown",
)


def test_the_version_is_the_one_that_was_read() -> None:
    """Another minor version may be built otherwise: read it, then move the range in pyproject.toml and this."""
    assert version("uvicorn").split(".")[:2] == ["0", "54"]


def test_what_is_overridden_is_called() -> None:
    """The protocol has every method that ours replaces, and hands the parser to itself."""
    assert all(inspect.isfunction(getattr(HttpToolsProtocol, name)) for name in OVERRIDDEN)
    source = inspect.getsource(HttpToolsProtocol)
    for used in (
        "self.app_state",
        "self.pipeline",
        "self.cycle",
        "self.scope",
        "self.headers",
        "self.transport",
        "self.loop",
    ):
        assert used in source
    assert "self.send_400_response(" in inspect.getsource(HttpToolsProtocol.data_received)


def test_a_cycle_can_be_told_that_its_peer_is_gone() -> None:
    """The attributes of a request under way that ours reads and sets."""
    source = inspect.getsource(RequestResponseCycle)
    for used in (
        "self.response_started",
        "self.response_complete",
        "self.disconnected",
        "self.message_event",
        "self.scope",
    ):
        assert used in source
    assert STATUS_LINE[431].startswith(b"HTTP/1.1 431")


def test_the_server_can_be_started_and_ended_by_ours() -> None:
    """`startup` may be replaced, `on_tick` is asked, and what stands in `servers` is closed and waited for."""
    server = inspect.getsource(uvicorn.Server)
    assert "await self.startup(" in server
    assert "await self.on_tick(" in server
    assert "self.servers" in inspect.getsource(uvicorn.Server.shutdown)
    assert "force_exit" in server


def test_a_cycle_uses_of_its_transport_what_ours_has() -> None:
    """The head of a response is one write, made when the response has started, and a body of no bytes is a write too."""
    source = inspect.getsource(RequestResponseCycle)
    assert set(re.findall(r"self\.transport\.(\w+)", source)) == {"write", "close", "is_closing"}
    send = inspect.getsource(RequestResponseCycle.send)
    assert send.index("self.response_started = True") < send.index("self.transport.write(")
    assert send.count("self.transport.write(") == 3  # the head, a chunk, a piece of known length
    assert 'if self.scope["method"] == "HEAD":' in send


def test_a_cycle_asks_of_a_body_only_its_length_and_its_bytes() -> None:
    """So pieces may wait in another form; and each time a handler asks, what waited is replaced."""
    receive = inspect.getsource(RequestResponseCycle.receive)
    assert '"body": bytes(self.body)' in receive
    assert "self.body = bytearray()" in receive
    assert "self.flow.resume_reading()" in receive
    assert "self.body" not in inspect.getsource(RequestResponseCycle.send)
    others = inspect.getsource(HttpToolsProtocol).replace(inspect.getsource(HttpToolsProtocol.on_body), "")
    assert "cycle.body" not in others
