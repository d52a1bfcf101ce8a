"""`enarx user`: log in at a registry, and have a name space there."""

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

import click

from enarx.cli.store import Store, asking, audience, complete_host, complete_slug, show_json, store_options
from enarx.errors import EnarxError, MalformedError, UntrustedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enarx.cli.credentials import Login
    from enarx.drawbridge.login import DeviceCode, Grant

SECRET_VARIABLE: Final = "ENARX_OIDC_CLIENT_SECRET"  # noqa: S105 - the name of a variable


@click.group()
def user() -> None:
    """Log in to a registry, and be known there."""


def login_options(command: "Callable[..., Any]") -> "Callable[..., Any]":  # Any: click's decorators take any command
    """How to log in."""
    for option in (
        click.option(
            "--oidc-audience",
            "for_audience",
            envvar="ENARX_OIDC_AUDIENCE",
            show_envvar=True,
            metavar="AUDIENCE",
            help="What the token is meant for. Default: https://HOST/.",
        ),
        click.option(
            "--oidc-flow",
            "flow",
            type=click.Choice(["device", "client"]),
            default="device",
            show_default=True,
            help=f"device: approve in a browser, on any device. client: a machine, its secret in {SECRET_VARIABLE}.",
        ),
        click.option(
            "--oidc-client-id",
            "client_id",
            envvar="ENARX_OIDC_CLIENT_ID",
            show_envvar=True,
            metavar="ID",
            help="What the issuer knows this program by. Default: that of the last login, else enarx.",
        ),
    ):
        command = option(command)
    return command


@user.command()
@click.argument("host", required=False, shell_complete=complete_host)
@click.option("--store-host", metavar="HOST", help="The same as HOST, as the originals have it.")
@login_options
@store_options
def login(
    store: Store,
    *,
    host: str | None,
    store_host: str | None,
    client_id: str | None,
    flow: str,
    for_audience: str | None,
) -> None:
    """Log in to the registry HOST (default: ENARX_STORE_HOST) at its identity issuer.

    The issuer is found by ENARX_OIDC_DOMAIN or --oidc-domain and discovery. What it gives is kept by the credential
    helper, the system's keyring (where the `keyring` package is installed), or a file that only you can read.
    """
    from enarx.drawbridge.names import require_host

    where = require_host(store.host(host or store_host).removeprefix("https://").rstrip("/"))
    known, _ = log_in(store, where, client_id, flow, for_audience)
    if store.as_json:
        show_json({"host": where, "issuer": known.issuer, "kept": _kept(known)})
        return
    click.echo("Credentials saved locally.")
    click.echo("Login successful.")


@user.command()
@click.argument("host", required=False, shell_complete=complete_host)
@store_options
def logout(store: Store, *, host: str | None) -> None:
    """Forget the login at HOST on this machine, and take its tokens back where the issuer can do that."""
    from enarx.cli.credentials import Keyring, account_of

    where = store.host(host)
    logins = store.logins()
    known = logins.find(where)
    if known is None:
        _say(store, {"host": where, "logged_out": False}, f"Nobody is logged in at {where}.")
        return
    revoked = _revoke(store, where, known)
    if known.keyring and known.helper is None and known.load(where) is not None:
        Keyring().delete(account_of(known.issuer, where))
    logins.without(where)
    if known.helper is not None:
        click.echo(f"enarx: the token is with {known.helper}; remove {account_of(known.issuer, where)} there", err=True)
    _say(store, {"host": where, "logged_out": True, "revoked": revoked}, f"Logged out of {where}.")


@user.command()
@click.argument("spec", metavar="[HOST/]USER", shell_complete=complete_slug)
@login_options
@store_options
def register(store: Store, *, spec: str, client_id: str | None, flow: str, for_audience: str | None) -> None:
    """Claim the name USER for whoever is logged in; logs in first where nobody is."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.login import Issuer, UserinfoError
    from enarx.drawbridge.names import UserSlug

    slug = UserSlug.parse(spec)
    host = store.host(slug.host)
    issuer_url = store.require_login(host, client_id).issuer
    token = store.token_for(host)
    if token is None:
        _, grant = log_in(store, host, client_id, flow, for_audience)
        token = grant.access_token
        click.echo("Credentials saved locally.", err=store.as_json)
    issuer = Issuer.discover(issuer_url, ca_pem=store.ca_pem())
    try:
        subject = issuer.subject(token)
    except UserinfoError as error:
        raise UntrustedError("Failed to make user info request") from _as_the_originals(error)
    with asking("Failed to register new user"), store.client(host, token) as http:
        Registry(http).put_user(slug.user, subject)
    if store.as_json:
        show_json({"host": host, "user": str(slug.user), "subject": subject})


@user.command()
@click.argument("spec", metavar="[HOST/]USER", shell_complete=complete_slug)
@store_options
def info(store: Store, *, spec: str) -> None:
    """Print the record of USER. Only who may read it is told that there is one."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import UserSlug

    slug = UserSlug.parse(spec)
    with asking(f"Failed to get record for user: {slug.user}"), store.connect(store.host(slug.host)) as http:
        show_json({"subject": Registry(http).user(slug.user)})


@user.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print for programs, errors included.")
def list_logins(*, as_json: bool) -> None:
    """List the registries where this machine is logged in: issuer, where the token is kept, and until when."""
    from datetime import UTC, datetime

    from enarx.cli.credentials import Logins

    found = []
    for host, known in sorted(Logins.read(Logins.default_path()).known.items()):
        credential = known.load(host) if known.helper is None else None  # a helper may ask for a passphrase
        ends = credential.expires if credential else None
        until = None if ends is None else datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        renewed = credential is not None and credential.refresh_token is not None
        found.append({"host": host, "issuer": known.issuer, "kept": _kept(known), "until": until, "renewed": renewed})
    if as_json:
        show_json(found)
        return
    for item in found:
        end = "renewed by itself" if item["renewed"] else f"until {item['until'] or 'its issuer says so'}"
        click.echo(f"{item['host']}  at {item['issuer']}, kept in the {item['kept']}, {end}")


def log_in(
    store: Store, host: str, client_id: str | None, flow: str, for_audience: str | None
) -> "tuple[Login, Grant]":
    """Log in at the issuer and remember it. The user is told what to do on standard error."""
    from enarx.drawbridge.login import Application, Issuer, client_login, device_login

    known = store.require_login(host, client_id)
    issuer = Issuer.discover(known.issuer, ca_pem=store.ca_pem())
    application = Application(
        client_id=known.client_id,
        audience=for_audience or audience(host),
        secret=os.environ.get(SECRET_VARIABLE) or None,
    )
    if flow == "client":
        if application.secret is None:
            raise MalformedError(f"--oidc-flow client: expected the client's secret in {SECRET_VARIABLE}, found none")
        grant = client_login(issuer, application)
    else:
        grant = device_login(
            issuer,
            application,
            show=lambda code: _show(code, as_json=store.as_json),
            clock=time.monotonic,
            sleep=time.sleep,
        )
    store.keep(host, known, grant)
    return known, grant


def _show(code: "DeviceCode", *, as_json: bool) -> None:
    if as_json:
        event = {
            "event": "device-code",
            "verification_uri": code.uri,
            "verification_uri_complete": code.complete,
            "user_code": code.user_code,
            "expires_in": code.expires_in,
        }
        click.echo(json.dumps(event), err=True)
        return
    click.echo(f"To log in, open {code.uri} in a browser and type {code.user_code}", err=True)
    if code.complete is not None:
        click.echo(f"or open {code.complete}", err=True)
    click.echo(f"Waiting, for {code.expires_in // 60 or 1} minutes at most …", err=True)


def _revoke(store: Store, host: str, known: "Login") -> bool:
    """Whether the issuer took the tokens back. One that does not answer does not keep anybody logged in here."""
    from enarx.drawbridge.login import Application, Issuer, revoke

    try:
        credential = known.load(host)
        if credential is None:
            return False
        issuer = Issuer.discover(known.issuer, ca_pem=store.ca_pem())
        application = Application(client_id=known.client_id, audience=audience(host))
        return revoke(issuer, application, credential.refresh_token or credential.access_token)
    except EnarxError as error:
        click.echo(f"enarx: the issuer did not take the token back: {error}", err=True)
        return False


def _as_the_originals(error: EnarxError) -> EnarxError:
    """The chain of sentences that scripts of the originals look for."""
    request, sent = UntrustedError("ureq request failed"), UntrustedError("Request failed")
    request.__cause__, sent.__cause__ = error, request
    return sent


def _kept(login: "Login") -> str:
    if login.helper is not None:
        return "helper"
    return "keyring" if login.keyring else "file"


def _say(store: Store, value: dict[str, object], text: str) -> None:
    if store.as_json:
        show_json(value)
    else:
        click.echo(text)
