"""What every command that speaks to a registry has: its options, which registry is meant, and as whom we come.

    @click.command()
    @store_options
    def info(store: Store, …) -> None:
        with asking("Failed to look"), store.connect(store.host(slug.host)) as client: …

The order of tokens is: the one given (`ENARX_INSECURE_AUTH_TOKEN`, `--auth-token-file`), the credential helper, the
keyring, the file of logins; without any we come as nobody, which is enough for what is public. A token that ends is
renewed with its refresh token. No registry and no issuer is built in: the command line, the environment or
`config.toml` in the user's configuration folder names them.
"""

import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

import click
from click.core import ParameterSource

from enarx.cli.exits import CODES
from enarx.errors import DeniedError, EnarxError, MalformedError, NotFoundError, RejectedError, UntrustedError

if TYPE_CHECKING:
    from enarx.cli.credentials import Login, Logins
    from enarx.drawbridge.login import Grant
    from enarx.web.client import Client

P = ParamSpec("P")
R = TypeVar("R")

CLIENT_ID: Final = "enarx"  # what issuers know this program by, unless they are told otherwise
EARLY: Final = 60  # seconds before its end that a token is renewed: a clock may be off, a transfer takes time

HOST_VARIABLE: Final = "ENARX_STORE_HOST"
DOMAIN_VARIABLE: Final = "ENARX_OIDC_DOMAIN"
TOKEN_VARIABLE: Final = "ENARX_INSECURE_AUTH_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The user's config.toml: what need not be typed each time."""

    store_host: str | None = None
    oidc_domain: str | None = None
    oidc_client_id: str | None = None
    ca_bundle: Path | None = None
    credential_helper: str | None = None

    @classmethod
    def path(cls) -> Path:
        from platformdirs import user_config_path

        return user_config_path("enarx") / "config.toml"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises MalformedError for what is not understood. No file is no settings."""
        from enarx import toml

        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}") from error
        table = toml.parse(data, source=str(path))
        bundle = table.string("ca-bundle", None)
        made = cls(
            store_host=table.string("store-host", None),
            oidc_domain=table.string("oidc-domain", None),
            oidc_client_id=table.string("oidc-client-id", None),
            ca_bundle=None if bundle is None else path.parent / Path(bundle).expanduser(),
            credential_helper=table.string("credential-helper", None),
        )
        table.end()
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What options, environment and settings say, before anybody is spoken to."""

    settings: Settings = field(default_factory=Settings)
    ca_bundle: Path | None = None
    domain: str | None = None
    token: str | None = field(default=None, repr=False)
    helper: str | None = None
    as_json: bool = False

    def host(self, named: str | None) -> str:
        """The registry: what the slug names, else the environment or the settings. Raises MalformedError."""
        if named:
            return named
        configured = f"store-host in {Settings.path()}"
        for where, value in ((HOST_VARIABLE, os.environ.get(HOST_VARIABLE)), (configured, self.settings.store_host)):
            if value:
                return _host(value, where)
        raise MalformedError(
            f"no registry is named: write it before the name (HOST/…), or set {HOST_VARIABLE}, or {configured}"
        )

    def ca_pem(self) -> bytes | None:
        """The CAs to trust instead of the system's, if any are named."""
        path = self.ca_bundle or self.settings.ca_bundle
        return None if path is None else read_file(path)

    def connect(self, host: str) -> "Client":
        """Speak to the registry `host`, as whoever is logged in there, else as nobody."""
        return self.client(host, self.token_for(host))

    def client(self, host: str, token: str | None) -> "Client":
        """Speak to the registry `host` with this token."""
        from enarx import __version__
        from enarx.web.client import Client

        return Client(f"https://{host}", ca_pem=self.ca_pem(), token=token, user_agent=f"enarx/{__version__}")

    def login_at(self, host: str, client_id: str | None = None) -> "Login | None":
        """The login for `host`: the issuer that is named now, else the one of the last login, else the settings'.

        None when nobody names an issuer. A credential of another issuer than this one is left out.
        """
        from enarx.cli.credentials import Keyring, Login

        known = self.logins().find(host)
        issuer = self.domain or (known.issuer if known else None) or self.settings.oidc_domain
        if issuer is None:
            return None
        if known is not None and known.issuer.rstrip("/") != issuer.rstrip("/"):
            known = None
        return Login(
            issuer=issuer,
            client_id=client_id or (known.client_id if known else None) or self.settings.oidc_client_id or CLIENT_ID,
            helper=self.helper or (known.helper if known else None) or self.settings.credential_helper,
            keyring=known.keyring if known else Keyring.available(),
            credential=known.credential if known else None,
        )

    def require_login(self, host: str, client_id: str | None = None) -> "Login":
        """The same. Raises MalformedError, saying what to set, when nobody names an issuer."""
        found = self.login_at(host, client_id)
        if found is None:
            raise MalformedError(
                f"no identity issuer is named for {host}: set {DOMAIN_VARIABLE} or --oidc-domain to its URL, "
                f"or oidc-domain in {Settings.path()}"
            )
        return found

    def logins(self) -> "Logins":
        from enarx.cli.credentials import Logins

        return Logins.read(Logins.default_path())

    def token_for(self, host: str) -> str | None:
        """The token to come with, renewed when it is about to end. None when nobody is logged in."""
        if self.token is not None:
            return self.token
        login = self.login_at(host)
        credential = None if login is None else login.load(host)
        if login is None or credential is None:
            return None
        if credential.expires is None or credential.expires - EARLY > time.time():
            return credential.access_token
        if credential.refresh_token is None:
            click.echo(f"enarx: the login at {host} has ended; `enarx user login {host}` makes a new one", err=True)
            return None
        return self._renewed(host, login, credential.refresh_token)

    def keep(self, host: str, login: "Login", grant: "Grant") -> None:
        """Remember a login, on this machine."""
        from enarx.cli.credentials import Credential

        expires = None if grant.expires_in is None else int(time.time()) + grant.expires_in
        credential = Credential(access_token=grant.access_token, refresh_token=grant.refresh_token, expires=expires)
        self.logins().with_login(host, login.kept(host, credential))

    def _renewed(self, host: str, login: "Login", refresh_token: str) -> str:
        from enarx.drawbridge.login import Application, Issuer, refresh

        try:
            issuer = Issuer.discover(login.issuer, ca_pem=self.ca_pem())
            application = Application(client_id=login.client_id, audience=audience(host))
            grant = refresh(issuer, application, refresh_token)
        except (UntrustedError, DeniedError, MalformedError) as error:
            raise UntrustedError(f"the login at {host} has ended; `enarx user login {host}` makes a new one") from error
        self.keep(host, login, grant)
        return grant.access_token


def audience(host: str) -> str:
    """What a token for the registry `host` is meant for, as the originals say it."""
    return f"https://{host}/"


def store_options(command: Callable[Concatenate[Store, P], R]) -> Callable[P, R]:
    """Give a command the options of everything that speaks to a registry; it gets them as its first argument."""

    @click.option(
        "--ca-bundle",
        type=click.Path(path_type=Path),
        envvar="ENARX_CA_BUNDLE",
        show_envvar=True,
        help="Certificates (PEM) to trust instead of the system's.",
    )
    @click.option(
        "--oidc-domain",
        envvar=DOMAIN_VARIABLE,
        show_envvar=True,
        metavar="URL",
        help="The identity issuer. Default: the one of the last login at this registry.",
    )
    @click.option(
        "--insecure-auth-token",
        envvar=TOKEN_VARIABLE,
        show_envvar=True,
        metavar="TOKEN",
        help="Come with this token. Everybody on this machine sees it: use the variable, or the next option.",
    )
    @click.option(
        "--auth-token-file",
        type=click.Path(path_type=Path, allow_dash=True),
        envvar="ENARX_AUTH_TOKEN_FILE",
        show_envvar=True,
        help="Come with the token in this file (- is standard input).",
    )
    @click.option(
        "--credential-helper",
        envvar="ENARX_CREDENTIAL_HELPER",
        show_envvar=True,
        metavar="PROGRAM",
        help="What keeps tokens: called as `PROGRAM show ID` and `PROGRAM insert ID`.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print for programs, errors included.")
    @wraps(command)
    def with_options(*args: P.args, **named: P.kwargs) -> R:
        return command(_store(named), *args, **named)

    return with_options


def _store(named: dict[str, Any]) -> Store:  # Any: click's parameters; those of `store_options` are taken out
    token, file = named.pop("insecure_auth_token"), named.pop("auth_token_file")
    if token is not None:
        source = click.get_current_context().get_parameter_source("insecure_auth_token")
        if source is ParameterSource.COMMANDLINE:
            click.echo(
                "enarx: --insecure-auth-token shows the token to everybody on this machine; "
                f"set {TOKEN_VARIABLE} or use --auth-token-file",
                err=True,
            )
    elif file is not None:
        token = _token(read_file(file))
    return Store(
        settings=Settings.read(Settings.path()),
        ca_bundle=named.pop("ca_bundle"),
        domain=named.pop("oidc_domain"),
        token=None if token is None else token.strip(),
        helper=named.pop("credential_helper"),
        as_json=named.pop("as_json"),
    )


def _host(text: str, where: str) -> str:
    """A host that stands somewhere else than in a slug, where people write a URL, too."""
    from enarx.drawbridge.names import require_host

    try:
        return require_host(text.removeprefix("https://").rstrip("/"))
    except MalformedError as error:
        raise MalformedError(f"{where}: {error}") from None


def _token(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedError("--auth-token-file: expected a token, found what is no ASCII text") from None


def read_file(path: Path) -> bytes:
    """The file, or standard input for `-`. Raises NotFoundError."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from None  # which would say the same


def complete_host(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """For shells: the registries where we are logged in, and the one of the environment. Nobody is asked."""
    from enarx.cli.credentials import Logins

    try:
        known = set(Logins.read(Logins.default_path()).known)
    except EnarxError:
        known = set()
    known |= {os.environ[HOST_VARIABLE]} if HOST_VARIABLE in os.environ else set()
    return sorted(host for host in known if host.startswith(incomplete))


def complete_slug(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For shells: what a slug may begin with."""
    return [f"{host}/" for host in complete_host(context, parameter, incomplete)] if "/" not in incomplete else []


def show_json(value: object) -> None:
    """Print a value as the originals print theirs: JSON, two spaces deep."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Tell what goes wrong inside as the originals do: what was wanted, what was sent, what came back."""
    from enarx.drawbridge.client import AnsweredError

    try:
        yield
    except EnarxError as error:
        answered = error.__cause__
        if not isinstance(answered, AnsweredError):
            raise _same_family(error, what) from _with_hint(error)
        sentence = _same_family(error, answered.sentence)
        if answered.anonymous and answered.status in {401, 403}:
            sentence.__cause__ = _same_family(
                error, f"nobody is logged in here: `enarx user login` or {TOKEN_VARIABLE}"
            )
        status = _same_family(error, f"request failed with status code `{answered.status}`")
        status.__cause__ = sentence
        sent = status
        if answered.method == "GET":
            sent = _same_family(error, "GET request failed")
            sent.__cause__ = status
        raise _same_family(error, what) from sent


def _with_hint(error: EnarxError) -> EnarxError:
    """The error, and beneath it what to do about a TLS connection that did not come about."""
    beneath: BaseException | None = error
    while beneath is not None and not isinstance(beneath, ssl.SSLError):
        beneath = beneath.__cause__ or beneath.__context__
    if isinstance(beneath, ssl.SSLCertVerificationError):
        hint = "if that registry is yours, name its CA: --ca-bundle, ENARX_CA_BUNDLE or ca-bundle in config.toml"
    elif isinstance(beneath, ssl.SSLError) and beneath.reason == "WRONG_VERSION_NUMBER":
        hint = "that does not speak TLS; registries are spoken to over HTTPS alone"
    else:
        return error
    told = _same_family(error, str(error))
    told.__cause__ = _same_family(error, hint)
    return told


def _same_family(error: EnarxError, text: str) -> EnarxError:
    if isinstance(error, RejectedError):
        return RejectedError(text, reasons=error.reasons)
    return next(family for family in CODES if isinstance(error, family))(text)
