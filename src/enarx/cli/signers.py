"""`enarx repo signers`: keys of which one has to have signed each new version."""

from pathlib import Path

import click

from enarx.cli.managing import REPOSITORY, clean, done, managing, pairs, place_of
from enarx.cli.store import Store, complete_slug, read_file, show_json, store_options


@click.group()
def signers() -> None:
    """Keys of which one has to have signed each new version."""


@signers.command(name="show")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def show_signers(store: Store, *, spec: str) -> None:
    """List the keys by name and id (RFC 7638); with --json the keys, too."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to read the signers") as management:
        found = management.signers(place)
    if store.as_json:
        show_json([dict(item) for item in found])
        return
    for item in found:
        click.echo(clean(f"{item.get('name')}  {item.get('id')}"))
    if not found:
        click.echo("Nobody has to sign.")


@signers.command(name="set")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("keys", nargs=-1, metavar="[NAME=KEY]...")
@store_options
def set_signers(store: Store, *, spec: str, keys: tuple[str, ...]) -> None:
    """Replace the keys by these files (PEM or JWK), under a NAME each; without any, nobody has to sign.

    From then on `enarx package publish --sign` with one of them makes a version. What is published already stays.
    Of a private key only its public half is sent.
    """
    from enarx.drawbridge.signing import SigningKey

    host, place = place_of(spec, repository=True)
    named = [SigningKey.parse(name, read_file(Path(file))) for name, file in pairs(keys, "NAME=KEY").items()]
    with managing(store, host, "Failed to set the signers") as management:
        management.set_signers(place, named)
    done(store, {"signers": [key.name for key in named]})
