"""`drawbridge`: serve a registry, check its configuration, look after what it keeps.

Options are the originals' (protocol.md, 2): without a command they mean `serve`, and `@file.toml` stands for a table
of option names. Commands parse, call one function, print and exit; what is heavy is imported inside.
"""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from enarx.cli.options import ServesByDefault
from enarx.cli.serving import Serving

if TYPE_CHECKING:
    from enarx.drawbridge.registry import Registry
    from enarx.web.workers import Worker

FILE: Final = click.Path(path_type=Path)
DEV_DIR: Final = "DRAWBRIDGE_DEV_DIR"


@click.group(cls=ServesByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enarx", prog_name="drawbridge")
def main() -> None:
    """A registry whose answers can be checked, and that releases private packages to attested Keeps alone.

    \b
    On a laptop:    drawbridge serve --dev
    For others:     drawbridge serve --config drawbridge.toml

    Without a command, options mean `serve`, as they did in the original.
    """  # noqa: D301 - \b is for click


@main.command()
@click.option("--config", type=FILE, help="drawbridge.toml: whom to believe, and what to keep where.")
@click.option("--store", help="Directory, or URL of a bucket, that holds everything.")
@click.option("--addr", help="Address to listen on, perhaps with :PORT.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--cert", type=FILE, help="TLS certificate chain, PEM.")
@click.option("--key", type=FILE, help="Its key, PEM, not readable by everybody.")
@click.option("--ca", type=FILE, help="CA (PEM) of the Steward whose certificates open private packages.")
@click.option("--steward", metavar="URL", help="That Steward: tags name it, and its revocations are fetched.")
@click.option("--oidc-issuer", metavar="URL", help="Who says who people are.")
@click.option("--oidc-audience", help="What its tokens must be for; default: the origin and a slash.")
@click.option("--origin", help="https://HOST[:PORT] as clients know it.")
@click.option("--dev", is_flag=True, help="Be an identity issuer, too, and make certificates; on loopback alone.")
@click.option("--dev-dir", type=FILE, envvar=DEV_DIR, show_envvar=True, help="As --dev, and where all of it is kept.")
@click.option("--dev-user", default="developer", show_default=True, help="Whom --dev takes your programs for.")
@click.option("--write-ca", type=FILE, help="With --dev: write the CA to trust (PEM) here before listening.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Processes that serve.  [default: workers of --config, or 1]"
)
@click.option("--behind-proxy", is_flag=True, help="Plain HTTP is fine: a proxy in front ends TLS.")
@click.option("--ready-fd", type=click.IntRange(0), metavar="FD", help="Write the port here once listening.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--grace-seconds", type=click.FloatRange(min=0.1), default=30.0, show_default=True)
def serve(
    config: Path | None,
    addr: str | None,
    port: int | None,
    dev: bool,
    dev_dir: Path | None,
    dev_user: str,
    write_ca: Path | None,
    ready_fd: int | None,
    log_format: Literal["text", "json"],
    grace_seconds: float,
    **flags: Any,  # Any: the other options that are `Flags`
) -> None:
    """Serve a registry over HTTPS."""
    from enarx.drawbridge.config import Config, Flags
    from enarx.drawbridge.runner import Prepared, Shared, prepare
    from enarx.drawbridge.store import MemoryStore, Store
    from enarx.web.log import configure

    configure(log_format)
    host, given_port = _host_and_port(addr)
    directory = (dev_dir or _default_dev_dir()) if dev or dev_dir is not None else None
    read = Config.read(
        config, Flags(addr=host, port=port if given_port is None else given_port, dev=directory is not None, **flags)
    )
    listen = read.listen()
    shared = Shared.by(read)

    def prepared_now(store: Store | None = None) -> Prepared:
        return prepare(read, directory, dev_user, datetime.now(UTC), shared, store)

    prepared = prepared_now(None if read.workers == 1 else MemoryStore())
    if write_ca is not None:
        if directory is None:
            raise click.UsageError("--write-ca is for the CA that --dev makes")
        from enarx.web.files import write_file

        write_file(write_ca, (directory / "ca.pem").read_bytes())
    serving = Serving(
        host=listen,
        port=read.port,
        ready_fd=ready_fd,
        log_format=log_format,
        grace_seconds=grace_seconds,
        behind_proxy=read.behind_proxy,
    )
    if read.workers == 1:
        serving.run(prepared.app, prepared.tls, on_ready=prepared.ready)
        return

    def make(number: int) -> "Worker":
        from enarx.web.workers import Worker

        shared.metrics.worker = number
        made = prepared_now()  # after the fork: nothing that is open is shared
        return Worker(app=made.app, on_ready=made.ready, tls=prepared.tls)

    serving.run_workers(make, read.workers, tls=prepared.tls is not None)


@main.command("check-config")
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of sentences.")
def check_config(file: Path, as_json: bool) -> None:
    """Read FILE as `serve` would, and say in sentences what it means."""
    from enarx.drawbridge.config import Config, Flags
    from enarx.drawbridge.explain import explain

    said = explain(Config.read(file, Flags()))
    click.echo(json.dumps(said, indent=2) if as_json else "\n".join(said))


@main.command()
@click.option("--config", type=FILE, help="drawbridge.toml of the server.")
@click.option("--store", help="Directory, or URL of a bucket, that holds everything.")
@click.option("--quick", is_flag=True, help="Do not read contents: look at names, records and sizes alone.")
@click.option("--repair", is_flag=True, help="Make anew what can be made from what is whole.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each finding.")
def fsck(config: Path | None, store: str | None, quick: bool, repair: bool, as_json: bool) -> None:
    """Read everything that a registry keeps, and say what is damaged, missing, orphaned or unfinished.

    Servers may go on serving. Exits with 65 when something that was published can not be read or trusted.
    """
    from enarx.drawbridge import upkeep
    from enarx.errors import MalformedError
    from enarx.web.log import configure

    configure(level=logging.ERROR)  # every finding is printed; the log would only repeat it
    serious = 0
    for finding in upkeep.fsck(_registry(config, store), contents=not quick, repair=repair):
        serious += finding.is_serious
        said = {"kind": finding.kind, "key": str(finding.key), "detail": finding.detail}
        click.echo(json.dumps(said) if as_json else "{kind:<10} {key}: {detail}".format(**said))
    if serious:
        raise MalformedError(f"storage: {serious} findings need your attention")
    if not as_json:
        click.echo("nothing is damaged or missing")


@main.command()
@click.option("--config", type=FILE, help="drawbridge.toml of the server.")
@click.option("--store", help="Directory, or URL of a bucket, that holds everything.")
@click.option(
    "--grace-hours", type=click.FloatRange(0, 87_600), default=24.0, show_default=True, help="Leave what is newer."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def gc(config: Path | None, store: str | None, grace_hours: float, dry_run: bool, as_json: bool) -> None:
    """Remove content that no tree has, and what uploads that broke off left behind. Servers may go on serving."""
    from enarx.drawbridge import upkeep

    collected = upkeep.gc(_registry(config, store), grace=timedelta(hours=grace_hours), dry_run=dry_run)
    removed = [str(item.key) for item in collected.removed]
    if as_json:
        said = {"removed": removed, "bytes": collected.size, "leftovers": collected.leftovers, "dry-run": dry_run}
        click.echo(json.dumps(said, indent=2))
        return
    for key in removed:
        click.echo(key)
    what = "would be" if dry_run else "were"
    click.echo(f"{len(removed)} objects of {collected.size} bytes {what} removed, {collected.leftovers} leftovers")


@main.group()
def dev() -> None:
    """Be somebody at a `serve --dev` on this machine."""


@dev.command()
@click.argument("code")
@click.option("--user", default="developer", show_default=True, help="As whom.")
@click.option("--dev-dir", type=FILE, envvar=DEV_DIR, show_envvar=True, help="That of the server.")
def approve(code: str, user: str, dev_dir: Path | None) -> None:
    """Approve the CODE that a waiting device shows."""
    from enarx.drawbridge.auth import development

    development.approve(_existing(dev_dir), code, user)
    click.echo(f"{code.upper()} is approved as {user}")


@dev.command()
@click.option("--user", default="developer", show_default=True, help="For whom.")
@click.option("--dev-dir", type=FILE, envvar=DEV_DIR, show_envvar=True, help="That of the server.")
@click.option("--json", "as_json", is_flag=True)
def token(user: str, dev_dir: Path | None, as_json: bool) -> None:
    """Print an access token for the server that uses the directory, as ENARX_INSECURE_AUTH_TOKEN takes it."""
    from enarx.drawbridge.auth.development import DevelopmentIssuer, load_key
    from enarx.drawbridge.runner import ORIGIN_FILE
    from enarx.web.files import read_file

    directory = _existing(dev_dir)
    origin = read_file(directory / ORIGIN_FILE).decode()
    issuer = DevelopmentIssuer(origin=origin, audience=f"{origin}/", key=load_key(directory), directory=directory)
    made = issuer.mint(user, datetime.now(UTC))
    click.echo(json.dumps({"access_token": made, "issuer": issuer.url}) if as_json else made)


def _registry(config: Path | None, store: str | None) -> "Registry":
    """What `serve` with the same options keeps things in. It must be there: looking makes no new one."""
    from enarx.drawbridge.config import Config, Flags
    from enarx.drawbridge.registry import Registry
    from enarx.drawbridge.store import open_store
    from enarx.errors import NotFoundError

    location = store or (Config.read(config, Flags()).store if config is not None else None)
    if location is None:
        raise click.UsageError("say where everything is kept: --store, or --config with `store`")
    if "://" not in location and not Path(location).is_dir():
        raise NotFoundError(f"{location}: no such directory")
    return Registry(open_store(location))


def _host_and_port(addr: str | None) -> tuple[str | None, int | None]:
    """`HOST`, `HOST:PORT` or `[HOST]:PORT`."""
    if addr is None or (":" in addr and not addr.startswith("[") and addr.count(":") > 1):
        return addr, None
    host, colon, port = addr.rpartition(":") if "]" in addr or ":" in addr else (addr, "", "")
    if addr.endswith("]") or not colon:
        return addr.strip("[]"), None
    if not (port.isascii() and port.isdigit() and int(port[:6]) < 65536):
        raise click.BadParameter(f"expected HOST or HOST:PORT, found {addr!r}", param_hint="--addr")
    return host.strip("[]"), int(port)


def _default_dev_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("enarx")) / "drawbridge"


def _existing(directory: Path | None) -> Path:
    from enarx.errors import NotFoundError

    found = directory or _default_dev_dir()
    if not (found / "issuer.key").exists():
        raise NotFoundError(f"{found}: no `drawbridge serve --dev` has been here; name its directory with --dev-dir")
    return found
