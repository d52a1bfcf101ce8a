"""A registry and an issuer that the commands under test speak to, and a home of their own."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from starlette.routing import Route

from enarx.cli.main import main
from enarx.web.app import build
from tests.unit.drawbridge.client_support import Double, Provider

Fixture = Any  # Any: fixtures of the conftest beside the rooms, whose module has no name to import from


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """What a command holds back until it ends, it holds back from no other test."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own; returns the file of logins."""
    for name in [name for name in os.environ if name.startswith("ENARX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("time.sleep", lambda _: None)
    return tmp_path / "state" / "enarx" / "logins.json"


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def provider(start: Callable[..., int]) -> Provider:
    made = Provider()
    made.url = f"http://127.0.0.1:{start(build(made.routes, name='issuer', body_limit=10_000))}"
    return made


@pytest.fixture
def host(start: Callable[..., int], double: Double, localhost: Fixture, authority: Fixture, tmp_path: Path) -> str:
    """The double behind TLS, as it is named in slugs."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    app = build([Route("/{path:path}", double.answer, methods=["GET", "PUT"])], name="double", body_limit=10_000)
    return f"localhost:{start(app, localhost.server_tls())}"


@pytest.fixture
def enarx(state: Path, host: str, provider: Provider, tmp_path: Path) -> Callable[..., Result]:
    """`enarx(…)` runs a command with registry and issuer in its environment."""
    environment = {
        "ENARX_STORE_HOST": host,
        "ENARX_OIDC_DOMAIN": provider.url,
        "ENARX_CA_BUNDLE": str(tmp_path / "ca.pem"),
    }

    def run(*arguments: str, env: Mapping[str, str | None] | None = None) -> Result:
        given = {**environment, **(env or {})}
        return CliRunner().invoke(main, arguments, env=given, standalone_mode=False)

    return run
