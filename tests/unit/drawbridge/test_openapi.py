"""The OpenAPI document is true: whatever one sends by it, the server answers as it says, and never with 500."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from enarx.drawbridge import openapi
from enarx.drawbridge.http import build
from enarx.drawbridge.routes import METHODS, PREFIX
from enarx.drawbridge.tag import ENTRY_TYPE, JOSE_TYPE
from enarx.drawbridge.tree import DIRECTORY_TYPE
from tests.unit.conftest import Authority
from tests.unit.drawbridge.bench import Bench, Shown

TYPES = (ENTRY_TYPE, JOSE_TYPE, DIRECTORY_TYPE)
SETTINGS = settings(
    max_examples=8, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FILES = {"main.wasm": b"\0asm", "data/words.txt": b"words"}


@schemathesis.serializer("application/x-pem-file", "application/toml", "*/*", *TYPES)
def as_it_is(_: Any, value: Any) -> bytes:  # Any: what schemathesis generates
    """Types that schemathesis does not know: bytes as they are, everything else as JSON."""
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


def world(authority: Authority) -> tuple[Bench, str]:
    """A server that has something of everything, and the token of who owns it."""
    bench = Bench(authority, at=datetime.now(UTC), requests=10**6)
    token = bench.claim("a", a=True, b=False)
    bench.publish("/a/a/_tag/0.0.0", FILES, token)
    bench.put("/a/a/_member/a", {"role": "reader", "subject": "s"}, token=token)
    bench.put("/a/a/_policy", {"technologies": ["snp"]}, token=token)
    bench.ask("POST", "/a/a/_token", b'{"tag":"0.0.0"}', token=token, Content_Type="application/json")
    return bench, token


def test_every_route_is_described(authority: Authority) -> None:
    """What the table of routes has, the document has, and nothing else."""
    bench, _ = world(authority)
    document = bench.client.get("/openapi.json").json()
    assert document == openapi.document("https://store.example.com")
    described = {
        (path.removeprefix(PREFIX), method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters" and path.startswith("/api")
    }
    paths = {kind: [path] for kind, path in openapi.PATHS.items()}
    for path, kind in openapi.MORE_PATHS.items():
        paths[kind].append(path)
    assert described == {(path, method) for kind, found in paths.items() for path in found for method in METHODS[kind]}


@pytest.mark.parametrize("named", ["owner", "stranger", "nobody"])
def test_the_server_answers_as_it_is_described(authority: Authority, named: str) -> None:
    """Every operation with many inputs, right and wrong: a described status, type and shape."""
    bench, owner = world(authority)
    tokens = {"owner": owner, "stranger": bench.token("stranger"), "nobody": None}
    app: Any = Shown(build(bench.service), bench)  # Any: what schemathesis calls an ASGI application
    headers = {} if tokens[named] is None else {"Authorization": f"Bearer {tokens[named]}"}
    tried = 0

    def attempt(case: Any) -> None:  # Any: a schemathesis case
        nonlocal tried
        tried += 1
        case.call_and_validate(headers=headers, checks=CHECKS)

    for operation in operations(app):
        SETTINGS(given(case=operation.as_strategy())(attempt))()
    assert tried > 150


def operations(app: Any) -> Iterator[Any]:  # Any: what schemathesis has
    """Every operation of the document that the application serves."""
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()
