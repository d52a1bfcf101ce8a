"""The common options of servers, in a real process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from enarx.cli.serving import Serving, serving_options
from enarx.web.client import Client

PROGRAM = """
import asyncio, click
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from enarx.cli.serving import Serving, serving_options
from enarx.web.app import build

async def slow(request):
    print("asked", flush=True)
    await asyncio.sleep(float(request.path_params["seconds"]))
    return PlainTextResponse("done")

@click.command()
@serving_options(port=0)
def serve(serving: Serving) -> None:
    serving.run(build([Route("/slow/{seconds}", slow)], name="test", body_limit=0), None)

serve()
"""


@contextmanager
def server(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server process, and the port it told on `--ready-fd`."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, str(program), "--ready-fd", str(writer), *options],
        pass_fds=[writer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            yield process, int(ready.readline())
            assert ready.read() == ""  # told once, then closed
    finally:
        process.kill()
        process.communicate()


def test_a_server_tells_its_port_and_ends_without_error(tmp_path: Path) -> None:
    """`--ready-fd` gets the port; SIGTERM is no failure; the log is JSON when asked for."""
    with server(tmp_path, "--log-format", "json") as (process, port):
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.get("/health").status == 200
            assert client.get("/slow/0?token=secret").body == b"done"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        lines = [json.loads(line) for line in errors.decode().splitlines()]
        assert [line["event"] for line in lines] == ["listening", "request", "ended"]
        assert (lines[1]["path"], lines[1]["status"]) == ("/slow/0", 200)
        assert "secret" not in errors.decode()


def test_a_request_under_way_is_finished(tmp_path: Path) -> None:
    """SIGTERM waits for the answer that somebody waits for."""
    with server(tmp_path) as (process, port):
        asking = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/slow/1').read())",
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"asked\n"
        process.send_signal(signal.SIGTERM)
        assert asking.communicate(timeout=20)[0] == b"b'done'\n"
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_a_request_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    """After the grace the server ends whatever is still running."""
    with server(tmp_path, "--grace-seconds", "0.2") as (process, port):
        asking = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/slow/1000')"],
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"asked\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert asking.wait(timeout=20) != 0


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--host", "0.0.0.0"], True),  # noqa: S104 - that is what is refused
        (["--host", "192.0.2.1"], True),
        (["--host", "localhost"], False),
        (["--host", "::1"], False),
        (["--host", "192.0.2.1", "--behind-proxy"], False),
    ],
)
def test_plain_http_stays_at_home(options: list[str], refused: bool) -> None:
    """Without TLS a server listens on loopback alone, unless a proxy stands before it."""

    @click.command()
    @serving_options(port=8080)
    def command(serving: Serving) -> None:
        serving.require_safe(tls=False)

    result = CliRunner().invoke(command, options)
    assert result.exit_code == (2 if refused else 0)
    assert ("would show everything to the network" in result.output) is refused
