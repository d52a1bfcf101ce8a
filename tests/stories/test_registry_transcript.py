"""The originals' transcript of a publisher, as real processes: issuer, `drawbridge serve`, and `enarx` for each line.

The server is told that its issuer's tokens are of the older generation (`tokens = "userinfo"`). What differs from the
originals is decided: repositories are private unless --public is said, and failures have the exit codes of their family.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enarx.drawbridge.tree import Tree
from enarx.pki import keys
from enarx.web.app import build
from enarx.web.server import serve
from tests.stories.registry_process import Done, Enarx, drawbridge, enarx_in, worked

SUBJECT = "test|subject"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """An identity issuer that knows one token."""

    async def discovery(request: Request) -> Response:
        url = f"http://{request.headers['host']}"
        return JSONResponse({"issuer": url, "userinfo_endpoint": f"{url}/userinfo", "jwks_uri": f"{url}/jwks"})

    async def userinfo(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer test-token":
            return PlainTextResponse("unknown token", status_code=401)
        return JSONResponse({"sub": SUBJECT})

    routes = [
        Route("/.well-known/openid-configuration", discovery),
        Route("/userinfo", userinfo),
        Route("/jwks", lambda _: JSONResponse({"keys": []})),
    ]
    app = build(routes, name="issuer", body_limit=10_000)
    ready, stop, ports = Event(), Event(), list[int]()

    def listening(port: int) -> None:
        ports.append(port)
        ready.set()

    def run() -> None:
        serve(app, host="127.0.0.1", port=0, tls=None, on_ready=listening, grace_seconds=1, stop=stop)

    thread = Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{ports[0]}"
    stop.set()
    thread.join(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's certificate and store are, and the packages."""
    made = tmp_path_factory.mktemp("registry")
    key = keys.generate("P-256")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    (made / "server.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (made / "server.key").write_bytes(keys.to_pem(key))
    (made / "server.key").chmod(0o600)
    (made / "store").mkdir()
    (made / "good").mkdir()
    (made / "good" / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    (made / "good" / "Enarx.toml").write_bytes(b'[[files]]\nkind = "stdout"\n')
    (made / "bad").mkdir()
    (made / "bad" / "bad_file").write_bytes(b"")
    return made


@pytest.fixture(scope="module")
def host(folder: Path, issuer: str) -> Iterator[str]:
    """`drawbridge serve`, as it is named in slugs."""
    (folder / "drawbridge.toml").write_text(
        f"""
origin = "https://localhost"
store = "store"
tls_cert = "server.pem"
tls_key = "server.key"
[[issuer]]
name = "test"
url = "{issuer}"
tokens = "userinfo"
"""
    )
    with drawbridge(folder / "log", "--config", str(folder / "drawbridge.toml")) as found:
        yield found


@pytest.fixture(scope="module")
def enarx(folder: Path, issuer: str) -> Enarx:
    """`enarx(…)` in a process of its own, in a home of its own, with the token of the transcript."""
    return enarx_in(
        folder / "home",
        {
            "ENARX_OIDC_DOMAIN": issuer,
            "ENARX_INSECURE_AUTH_TOKEN": "test-token",
            "ENARX_CA_BUNDLE": str(folder / "server.pem"),
        },
    )


def failed(result: Done, code: int, top: str, *causes: str) -> None:
    """It ended with this code, said this, and nothing else."""
    lines = [f"Error: {top}"]
    if len(causes) == 1:
        lines += ["", "Caused by:", f"    {causes[0]}"]
    elif causes:
        lines += ["", "Caused by:", *(f"{number:>5}: {cause}" for number, cause in enumerate(causes))]
    assert result.stdout + result.stderr == "\n".join(lines) + "\n"
    assert result.returncode == code


def test_a_publisher_from_nothing_to_two_versions(enarx: Enarx, host: str, folder: Path, issuer: str) -> None:
    """All fifteen lines, in their order: text for text where the originals print text, value for value where JSON."""
    user, repository = f"{host}/testuser", f"{host}/testuser/pubrepo"
    got, unknown = "GET request failed", f"User with OpenID Connect subject `{SUBJECT}` not found"
    missing = (got, "request failed with status code `404`", "Repository does not exist")

    failed(
        enarx("user", "info", user),
        77,
        "Failed to get record for user: testuser",
        got,
        "request failed with status code `401`",
        unknown,
    )
    failed(
        enarx("user", "register", user, ENARX_INSECURE_AUTH_TOKEN="bad-token"),
        77,
        "Failed to make user info request",
        "Request failed",
        "ureq request failed",
        f"{issuer}/userinfo: status code 401",
    )
    warned = enarx("user", "register", "--insecure-auth-token", "bad-token", user)
    assert "ENARX_INSECURE_AUTH_TOKEN" in warned.stderr
    assert "Failed to make user info request" in warned.stderr
    result = enarx("user", "register", user)
    assert worked(result) + result.stderr == ""
    failed(
        enarx("user", "register", f"{host}/testuser2"),
        73,
        "Failed to register new user",
        "request failed with status code `409`",
        f"User already associated with OpenID Connect subject `{SUBJECT}`",
    )
    assert json.loads(worked(enarx("user", "info", user))) == {"subject": SUBJECT}

    failed(enarx("repo", "info", repository), 66, "Failed to retrieve repository information", *missing)
    assert worked(enarx("repo", "register", "--public", repository)) == ""
    assert json.loads(worked(enarx("repo", "info", repository))) == {"config": {"public": True}, "tags": []}
    failed(enarx("package", "info", f"{repository}:0.1.0"), 66, "Failed to retrieve package information", *missing)

    bad = folder / "bad" / "bad_file"
    failed(enarx("package", "publish", f"{repository}:0.0.0", str(bad)), 65, f"Invalid file name: {bad}")
    failed(enarx("package", "publish", f"{repository}:0.0.0", str(bad.parent)), 65, f"Invalid file name: {bad}")
    assert json.loads(worked(enarx("repo", "info", repository)))["tags"] == []

    good = folder / "good"
    worked(enarx("package", "publish", f"{repository}:1.0.0", str(good / "main.wasm")))
    assert json.loads(worked(enarx("repo", "info", repository)))["tags"] == ["1.0.0"]
    worked(enarx("package", "publish", f"{repository}:2.0.0", str(good)))
    entry = json.loads(worked(enarx("package", "info", f"{repository}:2.0.0")))
    assert entry == Tree.from_path(good).root.to_json()

    one, two = folder / "one", folder / "two"
    worked(enarx("package", "fetch", f"{repository}:1.0.0", str(one)))
    assert [path.name for path in one.iterdir()] == ["main.wasm"]
    pinned = worked(enarx("tree", "digest", str(good))).strip()
    worked(enarx("package", "fetch", f"{repository}@{pinned}", str(two), ENARX_INSECURE_AUTH_TOKEN=""))
    assert Tree.from_path(two).workload == Tree.from_path(good).workload
