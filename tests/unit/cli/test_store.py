"""As whom we come to a registry: tokens, logins, helpers, keyrings, and what is said when none is there."""

import json
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from enarx.cli.credentials import Credential, Keyring, Login, Logins, account_of
from enarx.cli.main import main
from enarx.errors import MalformedError, UnavailableError, UntrustedError
from tests.unit.drawbridge.client_support import Double, Provider, chain

Fixture = Any  # Any: fixtures of the conftest beside the rooms, whose module has no name to import from

GRANT = {"access_token": "good", "token_type": "Bearer", "expires_in": 600, "refresh_token": "again"}


def test_login_keeps_the_grant_where_only_its_owner_reads(
    enarx: Callable[..., Result], provider: Provider, state: Path, host: str
) -> None:
    """The device flow through the command: what to do is told, the file is 0600, and no token is printed."""
    provider.answers = [(400, {"error": "authorization_pending"}), (200, GRANT)]
    result = enarx("user", "login")
    assert result.exception is None, result.output
    assert "type WDJB-MJHT" in result.stderr
    assert result.stdout == "Credentials saved locally.\nLogin successful.\n"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700
    kept = json.loads(state.read_text())[host]
    assert kept["credential"]["access_token"] == "good"
    assert kept["issuer"] == provider.url
    assert "again" not in result.output
    assert provider.asked[0]["client_id"] == "enarx"
    assert provider.asked[0]["audience"] == f"https://{host}/"


def test_a_login_is_used_and_renewed(
    enarx: Callable[..., Result], provider: Provider, double: Double, state: Path, host: str
) -> None:
    """Once logged in nobody names the issuer again; a token that ends is renewed before it does."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    provider.answers = [(200, GRANT)]
    enarx("user", "login")
    assert enarx("user", "info", "user", env={"ENARX_OIDC_DOMAIN": None}).exception is None
    assert double.tokens[-1] == "Bearer good"
    logins = Logins.read(state)
    ended = Credential(access_token="old", refresh_token="again", expires=int(time.time()) + 5)
    logins.with_login(host, Login(issuer=provider.url, client_id="enarx", credential=ended))
    provider.answers = [(200, {**GRANT, "access_token": "newer", "refresh_token": "again2"})]
    assert enarx("user", "info", "user").exception is None
    assert double.tokens[-1] == "Bearer newer"
    assert provider.asked[-1]["refresh_token"] == "again"
    assert json.loads(state.read_text())[host]["credential"]["refresh_token"] == "again2"


def test_a_login_that_ended_says_what_to_do(
    enarx: Callable[..., Result], provider: Provider, double: Double, state: Path, host: str
) -> None:
    """With a refresh token that is refused: untrusted, and the command to type. Without one: nobody, and said so."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    for refresh_token in ("again", None):
        ended = Credential(access_token="old", refresh_token=refresh_token, expires=1)
        Logins.read(state).with_login(host, Login(issuer=provider.url, client_id="enarx", credential=ended))
        provider.answers = [(400, {"error": "invalid_grant"})]
        result = enarx("user", "info", "user")
        if refresh_token:
            assert isinstance(result.exception, UntrustedError)
            assert f"`enarx user login {host}`" in chain(result.exception)
        else:
            assert result.exception is None
            assert f"`enarx user login {host}`" in result.stderr
            assert double.tokens[-1] == ""


def test_a_credential_goes_to_no_other_issuer(
    enarx: Callable[..., Result], provider: Provider, double: Double, state: Path, host: str
) -> None:
    """Whoever names another issuer than that of the login comes as nobody."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    kept = Login(issuer="https://other.example", client_id="enarx", credential=Credential(access_token="theirs"))
    Logins.read(state).with_login(host, kept)
    assert enarx("user", "info", "user").exception is None
    assert double.tokens == [""]


def test_a_registry_may_be_named_by_its_url(enarx: Callable[..., Result], double: Double, host: str) -> None:
    """Where a variable names it, `https://HOST/` means HOST."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    assert enarx("user", "info", "user", env={"ENARX_STORE_HOST": f"https://{host}/"}).exception is None


def test_a_token_on_the_command_line_is_warned_of(enarx: Callable[..., Result], double: Double, tmp_path: Path) -> None:
    """The option works and points to the variable and the file, which both work without a word."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    loud = enarx("user", "info", "--insecure-auth-token", "secret-1", "user")
    assert "ENARX_INSECURE_AUTH_TOKEN" in loud.stderr
    assert "--auth-token-file" in loud.stderr
    (tmp_path / "token").write_text("secret-3\n")
    quiet = enarx("user", "info", "user", env={"ENARX_INSECURE_AUTH_TOKEN": " secret-2\n"})
    filed = enarx("user", "info", "--auth-token-file", str(tmp_path / "token"), "user")
    assert quiet.stderr == filed.stderr == ""
    assert double.tokens == ["Bearer secret-1", "Bearer secret-2", "Bearer secret-3"]
    assert "secret" not in loud.output


def test_a_token_that_no_header_can_carry_is_not_repeated(enarx: Callable[..., Result]) -> None:
    """The error says what is wrong with it and nothing of what it is."""
    result = enarx("user", "info", "user", env={"ENARX_INSECURE_AUTH_TOKEN": "se\ncret"})
    assert isinstance(result.exception, MalformedError)
    assert "visible ASCII" in chain(result.exception)
    assert "cret" not in chain(result.exception).replace("secret", "")


def test_a_helper_keeps_and_shows_the_token(
    enarx: Callable[..., Result], provider: Provider, double: Double, state: Path, host: str, tmp_path: Path
) -> None:
    """`insert ID` gets the token on standard input, `show ID` gives it; nothing of it is in our file."""
    helper = tmp_path / "a helper"
    helper.write_text(f'#!/bin/sh\ncd "{tmp_path}"\ncase $1 in insert) cat > "kept-$2";; show) cat "kept-$2";; esac\n')
    helper.chmod(0o755)
    provider.answers = [(200, GRANT)]
    environment = {"ENARX_CREDENTIAL_HELPER": str(helper)}
    assert enarx("user", "login", env=environment).exception is None
    account = account_of(provider.url, host)
    assert account == f"127.0.0.1-{host}"
    assert (tmp_path / f"kept-{account}").read_bytes() == b"good"
    assert "good" not in state.read_text()
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    assert enarx("user", "info", "user").exception is None  # the helper is remembered
    assert double.tokens == ["Bearer good"]
    (tmp_path / f"kept-{account}").unlink()
    result = enarx("user", "info", "user")
    assert isinstance(result.exception, UnavailableError)
    assert f"`show {account}` exited with 1" in chain(result.exception)


def test_the_keyring_is_used_where_there_is_one(
    enarx: Callable[..., Result],
    provider: Provider,
    double: Double,
    state: Path,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the package and a real backend the token lies there, under the originals' names; a bare one is read, too."""
    held: dict[tuple[str, str], str] = {}

    class Nothing:
        """The backend of a machine without a keyring."""

    backend: object = object()
    module: Any = ModuleType("keyring")  # Any: a module made here
    module.get_keyring = lambda: backend
    module.get_password = lambda service, account: held.get((service, account))
    module.set_password = lambda service, account, value: held.update({(service, account): value})
    module.delete_password = lambda service, account: held.pop((service, account))
    fakes = {
        "keyring": module,
        "keyring.backends": SimpleNamespace(
            fail=SimpleNamespace(Keyring=Nothing), null=SimpleNamespace(Keyring=Nothing)
        ),
        "keyring.errors": SimpleNamespace(KeyringError=RuntimeError),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr("enarx.cli.credentials.find_spec", lambda _: object())
    provider.answers = [(200, GRANT), (200, {})]
    assert enarx("user", "login").exception is None
    place = ("enarx", account_of(provider.url, host))
    assert json.loads(held[place])["refresh_token"] == "again"
    assert "good" not in state.read_text()
    held[place] = "bare"
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    assert enarx("user", "info", "user").exception is None
    assert double.tokens == ["Bearer bare"]
    assert enarx("user", "logout").exception is None
    assert not held
    provider.answers = [(200, GRANT)]
    enarx("user", "login")
    assert "kept in the keyring, renewed by itself" in enarx("user", "list").output
    held.clear()  # somebody removed it there
    assert enarx("user", "logout").exception is None
    backend = Nothing()
    assert not Keyring.available()


def test_logout_forgets_and_takes_back(
    enarx: Callable[..., Result], provider: Provider, state: Path, host: str
) -> None:
    """The login is gone from this machine, and the issuer is told; twice is no error."""
    provider.answers = [(200, GRANT), (200, {})]
    enarx("user", "login")
    assert json.loads(enarx("user", "logout", "--json").stdout) == {"host": host, "logged_out": True, "revoked": True}
    assert provider.asked[-1]["token"] == "again"
    assert json.loads(state.read_text()) == {}
    assert enarx("user", "logout").stdout == f"Nobody is logged in at {host}.\n"


def test_list_says_where_we_are_logged_in(enarx: Callable[..., Result], provider: Provider, host: str) -> None:
    """A line for each registry; no token in it."""
    assert enarx("user", "list").output == ""
    provider.answers = [(200, GRANT)]
    enarx("user", "login")
    assert enarx("user", "list").output == f"{host}  at {provider.url}, kept in the file, renewed by itself\n"
    assert json.loads(enarx("user", "list", "--json").output)[0]["renewed"] is True


def test_a_file_of_logins_that_others_can_read_is_refused(enarx: Callable[..., Result], state: Path) -> None:
    """Tokens that others may have read are worth nothing; the error says what to do."""
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    state.chmod(0o644)
    result = enarx("user", "info", "user")
    assert isinstance(result.exception, UntrustedError)
    assert "chmod 600" in chain(result.exception)


def test_machines_log_in_with_their_secret(enarx: Callable[..., Result], provider: Provider) -> None:
    """--oidc-flow client; without the secret it says which variable to set."""
    provider.answers = [(200, GRANT)]
    result = enarx("user", "login", "--oidc-flow", "client", "--json", env={"ENARX_OIDC_CLIENT_SECRET": "hush"})
    assert json.loads(result.stdout)["kept"] == "file"
    assert provider.asked[0]["client_secret"] == "hush"
    result = enarx("user", "login", "--oidc-flow", "client")
    assert "ENARX_OIDC_CLIENT_SECRET" in str(result.exception)


def test_register_reads_the_subject_from_the_issuer(
    enarx: Callable[..., Result], provider: Provider, double: Double
) -> None:
    """Who is not logged in logs in; the record is what userinfo says; a bad token is told as the originals do."""
    provider.answers = [(200, GRANT)]
    assert enarx("user", "register", "alice").exception is None
    assert double.held["/api/v0.1.0/alice"][0] == b'{"subject":"test|subject"}'
    assert double.tokens[-1] == "Bearer good"
    result = enarx("user", "register", "bob", env={"ENARX_INSECURE_AUTH_TOKEN": "bad"})
    assert chain(result.exception) == (
        "Failed to make user info request | Request failed | ureq request failed | "
        f"{provider.url}/x/userinfo_endpoint: status code 401"
    )


def test_who_is_not_named_is_asked_for(enarx: Callable[..., Result]) -> None:
    """No registry and no issuer is built in: the error names the variable to set."""
    wrong = enarx("user", "info", "u", env={"ENARX_STORE_HOST": "a b"})
    assert "ENARX_STORE_HOST: host 'a b': expected a host name" in chain(wrong.exception)
    nothing = {"ENARX_STORE_HOST": None, "ENARX_OIDC_DOMAIN": None}
    assert "ENARX_STORE_HOST" in str(enarx("user", "login", env=nothing).exception)
    assert "ENARX_OIDC_DOMAIN" in str(enarx("user", "login", "localhost", env=nothing).exception)
    assert "ENARX_OIDC_DOMAIN" in str(enarx("user", "register", "localhost/u", env=nothing).exception)


def test_the_users_configuration_names_what_is_not_typed(
    enarx: Callable[..., Result], double: Double, host: str, tmp_path: Path
) -> None:
    """config.toml gives registry and CAs; what it does not know is an error with its line."""
    double.held["/api/v0.1.0/user"] = (b'{"subject":"s"}', {})
    folder = tmp_path / "config" / "enarx"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'store-host = "{host}"\nca-bundle = "../../ca.pem"\n')
    nothing = {"ENARX_STORE_HOST": None, "ENARX_OIDC_DOMAIN": None, "ENARX_CA_BUNDLE": None}
    assert json.loads(enarx("user", "info", "user", env=nothing).stdout) == {"subject": "s"}
    (folder / "config.toml").write_text('store = "x"\n')
    assert "config.toml:1: store: unknown key" in str(enarx("user", "info", "user").exception)


def test_a_registry_that_is_not_trusted_says_what_to_do(enarx: Callable[..., Result]) -> None:
    """A certificate of a CA that nobody named, and a server without TLS: what is wrong, and which option helps."""
    result = enarx("user", "info", "user", env={"ENARX_CA_BUNDLE": None})
    assert isinstance(result.exception, UntrustedError)
    assert "the server's certificate: " in chain(result.exception)
    assert chain(result.exception).endswith("name its CA: --ca-bundle, ENARX_CA_BUNDLE or ca-bundle in config.toml")


def test_a_server_without_tls_is_named_as_such(enarx: Callable[..., Result], provider: Provider) -> None:
    """Plain HTTP where HTTPS is spoken ends with a sentence, not with OpenSSL's."""
    result = enarx("user", "info", f"{provider.url.removeprefix('http://')}/user")
    assert chain(result.exception).endswith("that does not speak TLS; registries are spoken to over HTTPS alone")


def test_shells_complete_registries(enarx: Callable[..., Result], provider: Provider, host: str) -> None:
    """The registries where somebody is logged in, and nothing is asked of them."""
    provider.answers = [(200, GRANT)]
    enarx("user", "login")
    asked = {"COMP_WORDS": "enarx package info local", "COMP_CWORD": "3", "_ENARX_COMPLETE": "bash_complete"}
    done = CliRunner().invoke(main, [], prog_name="enarx", env={**asked, "ENARX_STORE_HOST": None})
    assert f"plain,{host}/\n" in done.stdout


def test_a_refusal_without_a_login_says_how_to_log_in(enarx: Callable[..., Result], double: Double) -> None:
    """The originals' chain, and beneath it what to do."""
    double.refuse = [401]
    result = enarx("repo", "register", "user/repo")
    assert chain(result.exception) == (
        "Failed to register new repository | request failed with status code `401` | not now | "
        "nobody is logged in here: `enarx user login` or ENARX_INSECURE_AUTH_TOKEN"
    )
