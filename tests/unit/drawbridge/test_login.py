"""Logging in, against an issuer on loopback that answers as RFC 8628 and RFC 6749 say."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from enarx.drawbridge.login import (
    SCOPES,
    Application,
    DeviceCode,
    Grant,
    Issuer,
    UserinfoError,
    client_login,
    device_login,
    refresh,
    revoke,
)
from enarx.errors import DeniedError, EnarxError, MalformedError, UnavailableError, UntrustedError
from enarx.web.app import build
from tests.unit.drawbridge.client_support import Provider

APPLICATION = Application(client_id="enarx", audience="https://registry.example/")


def log_in(provider: Provider) -> tuple[Grant, list[float]]:
    """With a clock that only `sleep` moves; also how long each wait was."""
    slept: list[float] = []
    shown: list[DeviceCode] = []
    try:
        grant = device_login(
            Issuer.discover(provider.url),
            APPLICATION,
            show=shown.append,
            clock=lambda: sum(slept),
            sleep=slept.append,
        )
    finally:
        provider.slept = slept
    assert shown[0].user_code == "WDJB-MJHT"
    assert "secret-device-code" not in repr(shown[0])
    return grant, slept


@pytest.fixture
def provider(start: Callable[..., int]) -> Provider:
    made = Provider()
    made.url = f"http://127.0.0.1:{start(build(made.routes, name='issuer', body_limit=10_000))}"
    return made


def test_the_device_flow_waits_as_the_server_says(provider: Provider) -> None:
    """The interval is the server's, `slow_down` adds five seconds for good, and the grant comes whole."""
    provider.answers = [
        (400, {"error": "authorization_pending"}),
        (400, {"error": "slow_down"}),
        (400, {"error": "authorization_pending"}),
        (200, {"access_token": "good", "token_type": "Bearer", "expires_in": 600, "refresh_token": "again"}),
    ]
    grant, slept = log_in(provider)
    assert (grant.access_token, grant.refresh_token, grant.expires_in) == ("good", "again", 600)
    assert slept == [3, 3, 8, 8]
    assert set(SCOPES) < set(provider.asked[0]["scope"].split())
    assert provider.asked[0]["audience"] == "https://registry.example/"
    assert provider.asked[1]["device_code"] == "secret-device-code"
    assert "good" not in repr(grant)


@pytest.mark.parametrize(
    ("answer", "family", "said"),
    [
        ((400, {"error": "access_denied", "error_description": "the user said no"}), DeniedError, "the user said no"),
        ((400, {"error": "expired_token"}), DeniedError, "expired_token"),
        ((401, {"error": "invalid_client"}), UntrustedError, "invalid_client"),
        ((400, {"error": "invalid_scope\x1b[2J"}), MalformedError, "invalid_scope[2J"),
        ((200, {"access_token": "t", "token_type": "mac"}), MalformedError, "bearer"),
        ((200, {"token_type": "Bearer"}), MalformedError, "access_token"),
    ],
)
def test_what_the_issuer_refuses_is_told(
    provider: Provider, answer: tuple[int, dict[str, Any]], family: type[EnarxError], said: str
) -> None:
    """Every refusal ends the flow at once, in its family, with the issuer's words made safe for a terminal."""
    provider.answers = [answer]
    with pytest.raises(family) as caught:
        log_in(provider)
    assert said in str(caught.value)
    assert len(provider.slept) == 1


def test_a_code_that_nobody_approves_ends(provider: Provider) -> None:
    """The flow gives up when the code does, and names it."""
    provider.answers = [(400, {"error": "authorization_pending"})] * 100
    with pytest.raises(DeniedError, match="nobody approved code WDJB-MJHT in 60 seconds"):
        log_in(provider)
    assert sum(provider.slept) <= 60


def test_an_issuer_that_stumbles_is_asked_less_often(provider: Provider) -> None:
    """A failure of the server doubles the interval (RFC 8628, 3.5) and is no end."""
    provider.answers = [(503, {}), (503, {}), (200, {"access_token": "good"})]
    assert log_in(provider)[0].access_token == "good"
    assert provider.slept == [3, 6, 12]


def test_machines_log_in_by_their_secret(provider: Provider) -> None:
    """Client credentials: the secret is in the form, as the originals send it, and no identity is asked for."""
    application = Application(client_id="ci", audience="a", secret="hush")
    assert "hush" not in repr(application)
    provider.answers = [(200, {"access_token": "good"})]
    assert client_login(Issuer.discover(provider.url), application).access_token == "good"
    asked = provider.asked[0]
    assert (asked["grant_type"], asked["client_secret"], asked["scope"]) == (
        "client_credentials",
        "hush",
        " ".join(SCOPES),
    )


def test_an_issuer_that_wants_basic_authentication_gets_it(provider: Provider) -> None:
    """Where the document lists client_secret_basic and no form, the secret goes into the header alone."""
    provider.document = {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}
    provider.answers = [(200, {"access_token": "good"})]
    client_login(Issuer.discover(provider.url), Application(client_id="c:i", audience="a", secret="hush"))
    assert "client_secret" not in provider.asked[0]
    basic = provider.headers[0]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(basic) == b"c%3Ai:hush"


def test_a_secret_that_is_looked_for_elsewhere_is_sent_there(provider: Provider) -> None:
    """What an issuer wants of one client its document does not say: `invalid_client` means the other place."""
    provider.document = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]}
    provider.answers = [(401, {"error": "invalid_client"}), (200, {"access_token": "good"})]
    application = Application(client_id="ci", audience="a", secret="hush")
    assert client_login(Issuer.discover(provider.url), application).access_token == "good"
    assert "client_secret" in provider.asked[0]
    assert "client_secret" not in provider.asked[1]
    provider.answers = [(401, {"error": "invalid_client"})] * 2
    with pytest.raises(UntrustedError, match="invalid_client"):
        client_login(Issuer.discover(provider.url), application)


def test_a_token_for_the_registry_alone_says_its_subject(provider: Provider) -> None:
    """Userinfo refuses it; as a JWT of this issuer it tells whose it is, of another issuer it does not."""
    issuer = Issuer.discover(provider.url)

    def token(iss: str) -> str:
        claims = base64.urlsafe_b64encode(f'{{"iss":"{iss}","sub":"me"}}'.encode()).rstrip(b"=").decode()
        return f"e30.{claims}.c2ln"

    assert issuer.subject(token(provider.url)) == "me"
    for other in (token("https://other.example"), "a.b.c", "a.%.c"):
        with pytest.raises(UserinfoError):
            issuer.subject(other)


def test_a_refresh_token_that_is_not_rotated_stays(provider: Provider) -> None:
    """The issuer may give a new refresh token or none; none means that the old one goes on."""
    issuer = Issuer.discover(provider.url)
    provider.answers = [(200, {"access_token": "b"}), (200, {"access_token": "c", "refresh_token": "r2"})]
    assert refresh(issuer, APPLICATION, "r1").refresh_token == "r1"
    assert refresh(issuer, APPLICATION, "r1").refresh_token == "r2"
    provider.answers = [(400, {"error": "invalid_grant"})]
    with pytest.raises(UntrustedError, match="invalid_grant"):
        refresh(issuer, APPLICATION, "r1")


def test_tokens_can_be_taken_back(provider: Provider) -> None:
    """RFC 7009, where the issuer has it."""
    provider.answers = [(200, {})]
    assert revoke(Issuer.discover(provider.url), APPLICATION, "r1")
    assert provider.asked[0]["token"] == "r1"
    provider.document = {"revocation_endpoint": None}
    assert not revoke(Issuer.discover(provider.url), APPLICATION, "r1")


def test_userinfo_says_who_the_bearer_is(provider: Provider) -> None:
    """The subject for a good token; for another the endpoint and its status, as the originals say it."""
    issuer = Issuer.discover(provider.url)
    assert issuer.subject("good") == "test|subject"
    with pytest.raises(UserinfoError) as caught:
        issuer.subject("bad")
    assert str(caught.value) == f"{provider.url}/x/userinfo_endpoint: status code 401"


def test_the_document_of_another_issuer_is_refused(provider: Provider) -> None:
    """Discovery (4.3): `issuer` must be the one that was asked; a trailing slash is no difference."""
    provider.document = {"issuer": "https://evil.example"}
    with pytest.raises(UntrustedError, match=r"expected issuer http://127\.0\.0\.1:\d+, found 'https://evil\.example'"):
        Issuer.discover(provider.url)
    provider.document = {"issuer": f"{provider.url}/"}
    assert Issuer.discover(f"{provider.url}/").issuer == f"{provider.url}/"


def test_an_endpoint_over_plain_http_is_refused(provider: Provider) -> None:
    """A document can not send a secret over an open line."""
    provider.document = {"token_endpoint": "http://login.example/token"}
    with pytest.raises(MalformedError, match="expected https"):
        client_login(Issuer.discover(provider.url), APPLICATION)


def test_an_issuer_that_is_not_there_or_lacks_an_endpoint(provider: Provider) -> None:
    """Nobody answers: unavailable. No device endpoint in the document: said by name."""
    with pytest.raises(UnavailableError):
        Issuer.discover("http://127.0.0.1:1")
    provider.document = {"device_authorization_endpoint": None}
    with pytest.raises(MalformedError, match="names no device_authorization_endpoint"):
        log_in(provider)
