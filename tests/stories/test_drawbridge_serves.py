"""`drawbridge serve` in a real process over real TLS: the scenario of the originals' server test, and a laptop's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Final

import pytest
from cryptography import x509
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from enarx.attested import sealing
from enarx.attested.claims import RuntimeClaims
from enarx.attested.result import AttestationResult
from enarx.attested.sealing import SealingPrivateKey
from enarx.digest import Digest, Digests
from enarx.drawbridge.tree import Tree
from enarx.errors import DeniedError, EnarxError, NotFoundError, RejectedError, UntrustedError
from enarx.pki import keys
from enarx.web.client import Client
from enarx.web.server import serve
from tests import seaweed
from tests.unit.conftest import Authority, Issued
from tests.unit.drawbridge.issuers import AUDIENCE, MANAGE, SUBJECT, Provider
from tests.values import replace

API: Final = "/api/v0.1.0"
ENTRY: Final = "application/vnd.drawbridge.entry.v1+json"
PROBLEM: Final = {"Accept": "application/problem+json"}
FILES: Final = {
    "test-file": b"no extension",
    "test-file.txt": b"text",
    "test-file.json": b"not valid json",
    "tEst-file..__.foo.42.": b"invalidext",
    "test-dir-1/test-file": b"test",
    "test-dir-1/test-file.txt": b"text",
    "test-dir-1/test-subdir-2/test-file": b"test",
}
ORDER: Final = [
    "",
    "tEst-file..__.foo.42.",
    "test-dir-1",
    "test-dir-1/test-file",
    "test-dir-1/test-file.txt",
    "test-dir-1/test-subdir-1",
    "test-dir-1/test-subdir-2",
    "test-dir-1/test-subdir-2/test-file",
    "test-file",
    "test-file.json",
    "test-file.txt",
]


@contextmanager
def issuer(provider_key: RSAKey) -> Iterator[Provider]:
    """The fake issuer of the originals: discovery and one key, over plain HTTP on loopback."""
    provider = Provider("http://127.0.0.1:0", provider_key)
    ready, stop = Event(), Event()

    async def discovery(_: Request) -> Response:
        return JSONResponse({"issuer": provider.url, "jwks_uri": f"{provider.url}/jwks"})

    async def jwks(_: Request) -> Response:
        return JSONResponse({"keys": [key.as_dict(private=False) for key in provider.keys]})

    app = Starlette(routes=[Route("/.well-known/openid-configuration", discovery), Route("/jwks", jwks)])

    def on_ready(port: int) -> None:
        provider.url = f"http://127.0.0.1:{port}"
        ready.set()

    thread = Thread(
        target=lambda: serve(app, host="127.0.0.1", port=0, tls=None, on_ready=on_ready, grace_seconds=1, stop=stop)
    )
    thread.start()
    try:
        assert ready.wait(20)
        yield provider
    finally:
        stop.set()
        thread.join(20)


@contextmanager
def drawbridge(folder: Path, arguments: Sequence[str]) -> Iterator[int]:
    """A server in a process of its own; gives the port it listens on."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", "from enarx.cli.drawbridge import main; main()", *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing], stderr=log)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            text = ready.read()
            assert text, (folder / "log").read_text()
            yield int(text)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def write_identity(folder: Path, localhost: Issued) -> None:
    (folder / "server.pem").write_bytes(localhost.chain_pem)
    (folder / "server.key").write_bytes(keys.to_pem(localhost.key))
    (folder / "server.key").chmod(0o600)


def put(client: Client, path: str, body: bytes, kind: str = "application/json") -> int:
    headers = {"Content-Type": kind, "Content-Digest": Digests.of(body).header()}
    return client.put(API + path, body, headers=headers).status


def refused(client: Client, method: str, path: str, body: bytes = b"") -> None:
    with pytest.raises(EnarxError):
        put(client, path, body) if method == "PUT" else client.request(method, API + path)


@pytest.fixture
def attested() -> AttestationResult:
    """What a Steward found out about a Keep on real hardware."""
    return AttestationResult(
        technology="snp",
        simulated=False,
        debug=False,
        measurement=b"\x11" * 48,
        tcb_status="UpToDate",
        appraised_at=datetime.now(UTC).replace(microsecond=0),
        policy=bytes(32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Who asks in the scenario of the originals."""

    anonymous: Client
    cert: Client
    oidc: Client
    wrong: Sequence[Client]


def users(who: Asking) -> None:
    record = b'{"subject":"test|subject"}'
    for client in (who.anonymous, who.cert, who.oidc, *who.wrong):
        refused(client, "GET", "/testuser")
    for client in (who.anonymous, who.cert, *who.wrong):
        refused(client, "PUT", "/testuser", record)
    refused(who.oidc, "PUT", "/testuser", b'{"subject":"other"}')
    assert put(who.oidc, "/testuser", record) == 201
    assert put(who.oidc, "/othername", record) == 201
    assert who.oidc.get(API + "/testuser").body == record
    for client in (who.anonymous, who.cert):
        refused(client, "GET", "/testuser")


def repositories(who: Asking, path: str, *, public: bool) -> None:
    body = b'{"public":%s}' % str(public).lower().encode()
    for client in (who.anonymous, who.cert, who.oidc):
        refused(client, "GET", path)
        refused(client, "GET", f"{path}/_tag")
    for client in (who.anonymous, who.cert):
        refused(client, "PUT", path, body)
    assert put(who.oidc, path, body) == 201
    assert who.oidc.get(API + path).body == body
    for client in (who.anonymous, who.cert):
        refused(client, "GET", path)
        if public:
            assert client.get(f"{API}{path}/_tag").body == b"[]"
        else:
            refused(client, "GET", f"{path}/_tag")


def upload(who: Asking, path: str, tree: Tree) -> None:
    for client in (who.anonymous, who.cert):
        refused(client, "PUT", path, tree.root.encode())
    assert put(who.oidc, path, tree.root.encode(), ENTRY) == 201
    for node in tree.nodes:
        with node.open() as file:
            url = f"{path}/tree/{node.path.url}".rstrip("/")
            assert put(who.oidc, url, file.read(), node.entry.meta.media_type) == 201


def download(who: Asking, path: str, *, public: bool) -> None:
    assert who.oidc.get(f"{API}{path}/_tag").body == b'["0.1.0"]'
    url = f"{API}{path}/_tag/0.1.0/tree/test-file.txt"
    for client in (who.oidc, who.anonymous, who.cert):
        if client is not who.oidc and not public:
            with pytest.raises(UntrustedError):
                client.get(url)
            continue
        answer = client.get(url)
        assert answer.body == b"text"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-digest"] == Digests.of(b"text").header()


def their_package(folder: Path) -> Tree:
    """With an empty directory, so it is made on a disk; in the order in which their client reports it."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "test-dir-1" / "test-subdir-1").mkdir()
    tree = Tree.from_path(folder)
    assert [str(node.path) for node in tree.nodes] == ORDER
    return tree


def test_the_originals_server_scenario(tmp_path: Path) -> None:
    """`app` of Drawbridge 0.4.3, with its flags: users, repositories, a package, and who may read what.

    What differs is what was decided: a certificate without an attestation result opens nothing private.
    """
    web_ca, steward = Authority.root("Web"), Authority.root("Steward")
    write_identity(tmp_path, web_ca.issue(names=(x509.DNSName("localhost"),)))
    (tmp_path / "ca.pem").write_bytes(steward.pem)
    tree = their_package(tmp_path / "package")
    arguments = ["--store", str(tmp_path / "store"), "--cert", str(tmp_path / "server.pem"), "--addr", "127.0.0.1"]
    arguments += ["--key", str(tmp_path / "server.key"), "--ca", str(tmp_path / "ca.pem"), "--port", "0"]
    with ExitStack() as stack:
        provider = stack.enter_context(issuer(RSAKey.generate_key(2048, {"kid": "signkey"})))
        arguments += ["--oidc-issuer", provider.url, "--oidc-audience", AUDIENCE]
        port, now = stack.enter_context(drawbridge(tmp_path, arguments)), datetime.now(UTC)

        def client(token: str | None = None, identity: Issued | None = None) -> Client:
            shown = None if identity is None else identity.identity
            return stack.enter_context(
                Client(f"https://localhost:{port}", ca_pem=web_ca.pem, token=token, identity=shown)
            )

        good = provider.token(at=now)
        wrong = [
            provider.token(at=now, exp=int(now.timestamp()) - 3600),
            provider.token(at=now, scope="openid"),
            provider.token(at=now, scope=MANAGE.replace("manage:drawbridge_users", "read:drawbridge_users")),
            provider.token(at=now, aud="elsewhere"),
            provider.token(at=now, iss="http://127.0.0.1:1"),
            good[:-5],
        ]
        who = Asking(
            anonymous=client(),
            cert=client(identity=steward.attest(None)),
            oidc=client(good),
            wrong=[client(token) for token in wrong],
        )
        users(who)
        for path, public in (("/testuser/test-repo-private", False), ("/testuser/test-repo-public", True)):
            repositories(who, path, public=public)
            upload(who, f"{path}/_tag/0.1.0", tree)
            download(who, path, public=public)


def test_a_keep_gets_what_its_certificate_names_and_a_foreign_one_no_connection(
    tmp_path: Path, attested: AttestationResult
) -> None:
    """Over TLS: sealed for the Keep of a trusted Steward, 403 for another workload, an alert for another CA."""
    web_ca, steward, stranger = Authority.root("Web"), Authority.root("Steward"), Authority.root("Steward")
    write_identity(tmp_path, web_ca.issue(names=(x509.DNSName("localhost"),)))
    (tmp_path / "steward.pem").write_bytes(steward.pem)
    tree = Tree.from_files({"main.wasm": b"\0asm secret"})
    private = SealingPrivateKey.generate()

    def certify(ca: Authority, workload: Digest, *, simulated: bool = False) -> Issued:
        claims = RuntimeClaims(audience="https://steward.example", digests=(workload,), sealing=private.public)
        return ca.attest(replace(attested, claims=claims, simulated=simulated))

    with issuer(RSAKey.generate_key(2048, {"kid": "signkey"})) as provider:
        (tmp_path / "drawbridge.toml").write_text(
            "listen = '127.0.0.1:0'\nstore = 'store'\ntls_cert = 'server.pem'\ntls_key = 'server.key'\n"
            f"audit = 'audit.jsonl'\n[[issuer]]\nname = 'test'\nurl = '{provider.url}'\naudience = '{AUDIENCE}'\n"
            "[[steward]]\nurl = 'https://steward.example'\nca = 'steward.pem'\ncrl = ''\n"
        )
        with drawbridge(tmp_path, ["serve", "--config", str(tmp_path / "drawbridge.toml")]) as port:
            base = f"https://localhost:{port}"

            def keep(identity: Issued) -> Client:
                return Client(base, ca_pem=web_ca.pem, identity=identity.identity)

            with Client(base, ca_pem=web_ca.pem, token=provider.token(at=datetime.now(UTC))) as owner:
                put(owner, "/testuser", b'{"subject":"%s"}' % SUBJECT.encode())
                put(owner, "/testuser/app", b'{"public":false}')
                path = "/testuser/app/_tag/1.0.0"
                put(owner, path, tree.root.encode(), ENTRY)
                for node in tree.nodes:
                    with node.open() as file:
                        put(owner, f"{path}/tree/{node.path.url}".rstrip("/"), file.read(), node.entry.meta.media_type)
            issued = certify(steward, tree.workload)
            with keep(issued) as mine:
                answer = mine.get(f"{API}{path}/tree/main.wasm")
                assert answer.headers["content-type"] == sealing.MEDIA_TYPE
                assert b"secret" not in answer.body
                opener = sealing.Opener(private, leaf=issued.der, workload=tree.workload, path="main.wasm")
                assert b"".join(opener.feed(answer.body)) == b"\0asm secret"
                assert mine.get(f"{API}{path}").headers["link"] == '<https://steward.example>; rel="steward"'
            with (
                keep(certify(steward, Digest.of(b"another"))) as other,
                pytest.raises(DeniedError, match="opens no other"),
            ):
                other.get(f"{API}{path}/tree")
            with (
                keep(certify(steward, tree.workload, simulated=True)) as toy,
                pytest.raises(RejectedError, match="simulated"),
            ):
                toy.get(f"{API}{path}/tree", headers=PROBLEM)
            with keep(certify(stranger, tree.workload)) as foreign, pytest.raises(UntrustedError, match="refused our"):
                foreign.get(f"{API}{path}/tree")
            with Client(base, ca_pem=web_ca.pem) as nobody, pytest.raises(UntrustedError):
                nobody.get(f"{API}{path}/tree")
    log = (tmp_path / "audit.jsonl").read_text()
    assert '"event":"refused"' in log
    assert "Bearer" not in log
    assert "eyJ" not in log + (tmp_path / "log").read_text()


def test_a_laptop_needs_one_flag(tmp_path: Path) -> None:
    """`--dev-dir`: own CA, own issuer; a program of the same user logs in, publishes and reads; elsewhere it refuses."""
    state = tmp_path / "state"
    command = [sys.executable, "-c", "from enarx.cli.main import main; main()"]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    environment |= {"XDG_DATA_HOME": str(tmp_path), "ENARX_CA_BUNDLE": str(tmp_path / "ca.pem")}
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    arguments = ["serve", "--dev-dir", str(state), "--port", "0", "--write-ca", str(tmp_path / "ca.pem")]
    with drawbridge(tmp_path, arguments) as port:

        def enarx(*words: str) -> str:
            done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        host = f"localhost:{port}"
        enarx("user", "login", host, "--oidc-domain", f"https://{host}/_issuer")
        enarx("user", "register", f"{host}/alice")
        enarx("repo", "register", f"{host}/alice/app")
        enarx("package", "publish", f"{host}/alice/app:1.0.0", str(tmp_path / "package"))
        assert "1.0.0" in enarx("repo", "info", f"{host}/alice/app")
        ca = (tmp_path / "ca.pem").read_bytes()
        with Client(f"https://{host}", ca_pem=ca) as nobody, pytest.raises(UntrustedError):
            nobody.get(f"{API}/alice/app/_tag")
        with Client(f"https://{host}", ca_pem=ca) as nobody, pytest.raises(NotFoundError):
            nobody.get("/nothing")
    assert state.stat().st_mode & 0o077 == 0
    refused_start = subprocess.run(
        [sys.executable, "-c", "from enarx.cli.drawbridge import main; main()", *arguments, "--addr", "0.0.0.0"],  # noqa: S104 - to see it refused
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused_start.returncode == 65
    assert "--dev believes whoever is at this machine" in refused_start.stderr


@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_several_processes_serve_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Two workers on one port and one store: what one takes the other gives; their counters are one; they end together."""
    web_ca = Authority.root("Web")
    write_identity(tmp_path, web_ca.issue(names=(x509.DNSName("localhost"),)))
    with ExitStack() as stack:
        store = str(tmp_path / "store")
        if kind == "bucket":
            for name, value in seaweed.CREDENTIALS.items():
                monkeypatch.setenv(name, value)
            running = seaweed.start(tmp_path)
            stack.callback(running.stop)
            store = running.location("several")
        provider = stack.enter_context(issuer(RSAKey.generate_key(2048, {"kid": "signkey"})))
        arguments = ["--store", store, "--cert", str(tmp_path / "server.pem"), "--workers", "2"]
        arguments += ["--key", str(tmp_path / "server.key"), "--addr", "127.0.0.1:0"]
        arguments += ["--oidc-issuer", provider.url, "--oidc-audience", AUDIENCE]
        base = f"https://localhost:{stack.enter_context(drawbridge(tmp_path, arguments))}"
        token = provider.token(at=datetime.now(UTC))
        for number in range(8):
            with Client(base, ca_pem=web_ca.pem, token=token) as client:
                record = b'{"subject":"test|subject"}'
                assert put(client, "/testuser", record) == (201 if number == 0 else 200)
                assert client.get(API + "/testuser").body == record
        with Client(base, ca_pem=web_ca.pem) as client:
            assert b'drawbridge_http_responses_total{code="201"} 1' in client.get("/metrics").body
            assert b"drawbridge_workers 2" in client.get("/metrics").body
            assert client.get("/ready").status == 200
