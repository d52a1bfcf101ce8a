"""The OpenAPI document is true: whatever one sends by it, the server answers as it says, and never with 500."""

import collections
import json
import random
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

from enarx.digest import Digests
from enarx.drawbridge import openapi
from enarx.drawbridge.http import build
from enarx.drawbridge.routes import METHODS, PREFIX
from enarx.drawbridge.tag import ENTRY_TYPE, JOSE_TYPE
from enarx.drawbridge.tree import DIRECTORY_TYPE
from tests.unit.conftest import Authority
from tests.unit.drawbridge.bench import Bench, Shown

DIGEST = "Content-Digest"
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
    made = bench.ask("GET", "/a/a/_token", token=owner).json()["tokens"][0]["id"]
    known = {
        "user": ["a"],
        "repository": ["a", "a", "b"],
        "tag": ["0.0.0", "0.0.1"],
        "path": ["main.wasm", "data", "data/words.txt"],
        "label": ["a", made],
    }
    tried = 0

    luck, found = random.Random(named), collections.Counter[int]()  # noqa: S311 - no secret

    def attempt(case: Any) -> None:  # Any: a schemathesis case
        nonlocal tried
        tried += 1
        meant(case, known, luck)
        found[case.call_and_validate(headers=headers, checks=CHECKS).status_code] += 1

    for operation in operations(app):
        SETTINGS(given(case=operation.as_strategy())(attempt))()
    assert tried > 150
    assert found[200] > tried / (5 if named == "owner" else 25)  # else it was a test of 404 and 401 alone


def meant(case: Any, known: dict[str, list[str]], luck: random.Random) -> None:  # Any: a schemathesis case
    """Mostly something that is there, and mostly with the digest of what is sent: the rest is refused at once."""
    for name in case.path_parameters or {}:
        if luck.random() < 0.9:
            case.path_parameters[name] = luck.choice(known[name])
    if case.method.upper() == "PUT" and luck.random() < 0.8:
        sent = case.as_transport_kwargs()
        body = json.dumps(sent["json"]).encode() if "json" in sent else sent.get("data") or sent.get("content") or b""
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != DIGEST.lower()}
        case.headers[DIGEST] = Digests.of(body if isinstance(body, bytes) else body.encode()).header()


def operations(app: Any) -> Iterator[Any]:  # Any: what schemathesis has
    """Every operation of the document that the application serves."""
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()
