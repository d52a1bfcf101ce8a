"""Our client and our server, over real TLS on loopback."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from enarx.errors import (
    ConflictError,
    DeniedError,
    EnarxError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UnavailableError,
    UntrustedError,
)
from enarx.web.app import build
from enarx.web.client import Client

Fixture = Any  # Any: fixtures of the conftest beside the rooms, whose module has no name to import from

RAISED: dict[str, EnarxError] = {
    "malformed": MalformedError("the bytes"),
    "untrusted": UntrustedError("the chain"),
    "rejected": RejectedError("two rules", reasons=["one", "two"]),
    "denied": DeniedError("not you"),
    "missing": NotFoundError("no such thing"),
    "conflict": ConflictError("taken"),
    "unavailable": UnavailableError("no collateral"),
}


async def who(request: Request) -> Response:
    chain = [item.hex() for item in request.state.peer_chain]
    certificate = request.state.peer_cert
    return JSONResponse({"peer": certificate.hex() if certificate else None, "chain": chain})


async def fail(request: Request) -> Response:
    raise RAISED[request.path_params["family"]]


async def bug(_: Request) -> Response:
    raise ZeroDivisionError("Bearer secret-token")


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def count(request: Request) -> Response:
    return JSONResponse(sum([len(chunk) async for chunk in request.stream()]))


async def big(_: Request) -> Response:
    return StreamingResponse(iter([b"x" * 100_000] * 30))


async def cut(_: Request) -> Response:
    def body() -> Iterator[bytes]:
        yield b"x" * 1000
        raise ValueError("half way")

    return StreamingResponse(body(), headers={"Content-Length": "5000"})


ROUTES = [
    Route("/who", who),
    Route("/fail/{family}", fail),
    Route("/bug", bug),
    Route("/echo", echo, methods=["POST"]),
    Route("/count", count, methods=["PUT"]),
    Route("/big", big),
    Route("/cut", cut),
    Route("/redirect", lambda _: Response(status_code=307, headers={"Location": "/who"})),
]
APP = build(ROUTES, name="test", body_limit=4_000_000)


@pytest.fixture
def port(start: Callable[..., int], localhost: Fixture, authority: Fixture) -> int:
    return start(APP, localhost.server_tls(client_ca=authority.pem))


@pytest.fixture
def client(port: int, authority: Fixture) -> Iterator[Client]:
    with Client(f"https://localhost:{port}", ca_pem=authority.pem, timeout=10) as made:
        yield made


def test_a_client_without_a_certificate_is_nobody(client: Client) -> None:
    """No certificate is shown: the request says None, and an empty chain."""
    assert client.get("/who").body == b'{"peer":null,"chain":[]}'


def test_the_certificate_of_the_peer_reaches_the_request(port: int, authority: Fixture) -> None:
    """The chain arrives with its intermediates, leaf first."""
    issued = authority.intermediate().issue(names=(x509.DNSName("keep"),))
    with Client(f"https://localhost:{port}", ca_pem=authority.pem, identity=issued.identity) as client:
        for _ in range(2):  # the second time on the same connection
            body = client.get("/who").body.decode()
            assert f'"peer":"{issued.der.hex()}"' in body
            assert issued.chain[1].hex() in body


def test_a_ca_that_is_no_root_is_an_anchor(start: Callable[..., int], localhost: Fixture, authority: Fixture) -> None:
    """Whoever names an intermediate trusts what it issued, without the root above it."""
    between = authority.intermediate()
    port = start(APP, localhost.server_tls(client_ca=between.pem))
    with Client(f"https://localhost:{port}", ca_pem=authority.pem, identity=between.issue().identity) as client:
        assert client.get("/who").status == 200


@pytest.mark.parametrize("kind", ["foreign", "expired", "early", "server only"])
def test_a_certificate_that_is_not_good_is_refused_by_name(
    port: int, authority: Fixture, foreign: Fixture, kind: str
) -> None:
    """A client certificate that does not verify ends the connection, and the client is told so."""
    issued = {
        "foreign": foreign.issue,
        "expired": lambda: authority.issue(ends=timedelta(minutes=-1)),
        "early": lambda: authority.issue(begins=timedelta(minutes=30)),
        "server only": lambda: authority.issue(usages=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    }[kind]()
    with (
        Client(f"https://localhost:{port}", ca_pem=authority.pem, identity=issued.identity) as client,
        pytest.raises(UntrustedError, match="refused our certificate"),
    ):
        client.get("/who")


def test_a_server_that_is_not_the_one_we_trust_is_untrusted(port: int, foreign: Fixture) -> None:
    """The client names what is wrong with the server's certificate."""
    with (
        Client(f"https://localhost:{port}", ca_pem=foreign.pem) as client,
        pytest.raises(UntrustedError, match="the server's certificate: "),
    ):
        client.get("/who")


def test_a_server_of_another_name_is_untrusted(port: int, authority: Fixture) -> None:
    """A good certificate for another name is not good here."""
    with (
        Client(f"https://127.0.0.1:{port}", ca_pem=authority.pem) as client,
        pytest.raises(UntrustedError, match="the server's certificate: IP address mismatch"),
    ):
        client.get("/who")


@pytest.mark.parametrize(
    ("dates", "why"),
    [
        ({"begins": timedelta(minutes=30)}, "certificate is not yet valid"),
        ({"ends": timedelta(minutes=-1)}, "certificate has expired"),
    ],
)
def test_a_server_outside_its_dates_is_untrusted_by_this_machines_clock(
    start: Callable[..., int], authority: Fixture, dates: dict[str, timedelta], why: str
) -> None:
    """It may be that clock which is wrong: what it says is told."""
    port = start(APP, authority.issue(names=(x509.DNSName("localhost"),), **dates).server_tls())
    with (
        Client(f"https://localhost:{port}", ca_pem=authority.pem) as client,
        pytest.raises(UntrustedError, match=rf"{why}, as this machine's clock says \d{{4}}-.*Z"),
    ):
        client.get("/who")


def test_nobody_listening_is_unavailable(authority: Fixture) -> None:
    """A refused connect is no bug of anyone."""
    with Client("https://localhost:9", ca_pem=authority.pem) as client, pytest.raises(UnavailableError):
        client.get("/")


@pytest.mark.parametrize("family", RAISED)
def test_an_error_keeps_its_family_and_its_sentence_across_the_wire(client: Client, family: str) -> None:
    """What a handler raises is what the client's caller catches."""
    raised = RAISED[family]
    with pytest.raises(type(raised), match=str(raised)) as caught:
        client.get(f"/fail/{family}")
    assert type(caught.value) is type(raised)
    if isinstance(raised, RejectedError):
        assert isinstance(caught.value, RejectedError)
        assert caught.value.reasons == ("one", "two")


def test_a_status_that_is_allowed_is_an_answer(client: Client) -> None:
    """A caller that expects a refusal gets the answer itself."""
    answer = client.get("/fail/missing", allow=(404,))
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.headers["x-request-id"]) == 16


def test_a_bug_says_nothing_but_its_request_id(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A 500 has no detail, and the log has the place but not the text, which may hold a secret."""
    with caplog.at_level(logging.INFO, "enarx"):
        answer = client.get("/bug", allow=(500,))
    assert b"secret-token" not in answer.body
    assert answer.headers["x-request-id"].encode() in answer.body
    bugs = [record.__dict__["fields"] for record in caplog.records if record.message == "bug"]
    assert [found["error"] for found in bugs] == ["ZeroDivisionError"]
    assert "bug (test_client_and_server.py:" in bugs[0]["where"]
    assert not any("secret-token" in str(record.__dict__) for record in caplog.records)


def test_a_body_comes_back(client: Client) -> None:
    """A POST is sent and answered byte for byte."""
    assert client.post("/echo", b"hello" * 1000).body == b"hello" * 1000


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_body_streams_up(client: Client, size: int) -> None:
    """A PUT of a known length is sent as it is produced."""
    chunks = (b"x" * min(65_536, size - start) for start in range(0, size, 65_536))
    assert client.put_stream("/count", chunks, length=size).body == str(size).encode()


def test_a_body_streams_down(client: Client) -> None:
    """A GET can be read as it comes."""
    with client.stream_get("/big") as answer:
        assert sum(map(len, answer.chunks())) == 3_000_000


def test_a_body_that_is_cut_off_is_unavailable(client: Client) -> None:
    """Half an answer is never taken for a whole one."""
    with pytest.raises(UnavailableError):
        client.get("/cut")


def test_an_answer_longer_than_the_limit_is_malformed(client: Client) -> None:
    """The client reads no more than it said it would."""
    with pytest.raises(MalformedError, match="at most 1000 bytes"):
        client.get("/big", limit=1000)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_longer_than_the_limit_is_refused(client: Client, declared: bool) -> None:
    """The server takes no more than it said it would, and the answer arrives although the body was under way."""
    if declared:
        with pytest.raises(MalformedError, match="at most 4000000 bytes, found 4000001"):
            client.post("/echo", b"x" * 4_000_001)
    else:
        with pytest.raises(MalformedError, match="at most 4000000 bytes"):
            client.request("POST", "/echo", iter([b"x" * 1_000_000] * 5))  # type: ignore[arg-type]  # sent in chunks


def test_a_redirect_is_not_followed(client: Client) -> None:
    """A token must not travel where the caller did not send it."""
    with pytest.raises(MalformedError, match="redirect"):
        client.get("/redirect")


def test_health(client: Client) -> None:
    """Every service says whether it can do its work."""
    assert client.get("/health").body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "ftp://localhost", "https://user:pw@host", "https://", "https://h/?token=x", "nonsense"],
)
def test_only_https_or_loopback(url: str) -> None:
    """A URL that would show a token to the network, or carries one, is refused."""
    with pytest.raises(MalformedError):
        Client(url)


def test_plain_http_to_loopback(start: Callable[..., int]) -> None:
    """Development without TLS works on loopback, and there is no peer."""
    with Client(f"http://127.0.0.1:{start(APP)}") as client:
        assert client.get("/who").body == b'{"peer":null,"chain":[]}'
