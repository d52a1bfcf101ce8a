"""The embedded issuer: whom it approves, whom it lets wait, and that its tokens are like anybody's."""

import os
import socket
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from enarx.drawbridge.auth.development import (
    CODE_LIFETIME,
    DEVICE_GRANT,
    MAX_WAITING,
    DevelopmentIssuer,
    OAuthError,
    approve,
    load_key,
    same_user,
)
from enarx.drawbridge.auth.oidc import TokenError
from enarx.errors import MalformedError
from tests.unit.drawbridge.issuers import AT

ORIGIN = "https://localhost:8080"


@pytest.fixture
def issuer(tmp_path: Path) -> DevelopmentIssuer:
    return DevelopmentIssuer(origin=ORIGIN, audience=ORIGIN + "/", key=load_key(tmp_path), directory=tmp_path)


def test_a_process_of_the_same_user_is_approved_at_once(issuer: DevelopmentIssuer) -> None:
    """The device flow without a question; the token counts by the rules of any issuer."""
    code = issuer.device({"client_id": "enarx", "scope": "openid manage:drawbridge_tags"}, AT, same_user=True)
    answer = issuer.token({"grant_type": DEVICE_GRANT, "device_code": str(code["device_code"])}, AT, same_user=True)
    person = issuer.authenticator().authenticate(str(answer["access_token"]), AT)
    assert (person.identity.issuer, person.identity.subject) == ("development", "development|developer")
    assert person.may("write", "tags")
    assert not person.may("write", "users")
    with pytest.raises(OAuthError, match="not known, or not any more"):  # a code is good once
        issuer.token({"grant_type": DEVICE_GRANT, "device_code": str(code["device_code"])}, AT, same_user=True)


def test_everybody_else_waits_for_who_owns_the_directory(issuer: DevelopmentIssuer, tmp_path: Path) -> None:
    """Pending until approved by a file in the state directory, under the name that the approver gives."""
    code = issuer.device({"client_id": "enarx"}, AT, same_user=False)
    form = {"grant_type": DEVICE_GRANT, "device_code": str(code["device_code"])}
    with pytest.raises(OAuthError) as waiting:
        issuer.token(form, AT, same_user=True)
    assert waiting.value.code == "authorization_pending"
    approve(tmp_path, str(code["user_code"]).lower(), "alice")
    assert stat.S_IMODE((tmp_path / "approvals").stat().st_mode) == 0o700
    answer = issuer.token(form, AT, same_user=False)
    person = issuer.authenticator().authenticate(str(answer["access_token"]), AT)
    assert person.identity.subject == "development|alice"
    assert not list((tmp_path / "approvals").iterdir())
    with pytest.raises(OAuthError) as refused:
        issuer.token({"grant_type": "client_credentials", "client_id": "mallory"}, AT, same_user=False)
    assert refused.value.code == "unauthorized_client"


def test_codes_end_and_do_not_pile_up(issuer: DevelopmentIssuer) -> None:
    """After ten minutes a code is nothing; more than a hundred do not wait at a time."""
    code = issuer.device({}, AT, same_user=True)
    late = AT + CODE_LIFETIME
    with pytest.raises(OAuthError) as refused:
        issuer.token({"grant_type": DEVICE_GRANT, "device_code": str(code["device_code"])}, late, same_user=True)
    assert refused.value.code == "expired_token"
    for _ in range(MAX_WAITING):
        issuer.device({}, late, same_user=False)
    with pytest.raises(OAuthError, match="too many codes"):
        issuer.device({}, late, same_user=False)


def test_its_tokens_are_bound_and_end(issuer: DevelopmentIssuer, tmp_path: Path) -> None:
    """Of this server, for this audience, by this key, for some hours."""
    token = issuer.mint("alice", AT)
    judge = issuer.authenticator()
    with pytest.raises(TokenError) as refused:
        judge.authenticate(token, AT + timedelta(hours=9))
    assert refused.value.why == "it has expired"
    (tmp_path / "b").mkdir()
    for origin, audience, directory in (
        ("https://localhost:9090", ORIGIN + "/", tmp_path),
        (ORIGIN, "https://localhost:9090/", tmp_path),
        (ORIGIN, ORIGIN + "/", tmp_path / "b"),
    ):
        other = DevelopmentIssuer(origin=origin, audience=audience, key=load_key(directory), directory=directory)
        with pytest.raises(TokenError):
            judge.authenticate(other.mint("alice", AT), AT)
    for name in ("", "a b", "../x", "x" * 101, "a|b"):
        with pytest.raises(MalformedError):
            issuer.mint(name, AT)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    """Mode 0600, made once, refused when everybody may read it."""
    made = load_key(tmp_path)
    path = tmp_path / "issuer.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(tmp_path).thumbprint() == made.thumbprint()
    path.chmod(0o604)
    with pytest.raises(MalformedError, match="everybody may read or change it"):
        load_key(tmp_path)


def test_the_kernel_says_whose_a_connection_is() -> None:
    """A live loopback connection is ours and nobody else's; one that the kernel does not know is nobody's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            peer = client.getsockname()
            assert same_user(peer, port, os.getuid())
            assert not same_user(peer, port, os.getuid() + 1)
            assert not same_user(peer, port + 1, os.getuid())
        assert not same_user(peer, port, os.getuid()), "the connection has ended"
    assert not same_user(None, port, os.getuid())
    assert not same_user(("testclient", 50000), port, os.getuid())


def test_discovery_names_what_is_there() -> None:
    """Every endpoint lies beneath the issuer; the key set has the public half alone."""
    key = OKPKey.generate_key("Ed25519")
    issuer = DevelopmentIssuer(origin=ORIGIN, audience="a", key=key, directory=Path())
    document = issuer.discovery()
    assert document["issuer"] == f"{ORIGIN}/_issuer"
    assert all(str(document[name]).startswith(issuer.url) for name in document if name.endswith(("_endpoint", "_uri")))
    assert "'d'" not in str(issuer.keys())
    assert "'x'" in str(issuer.keys())
