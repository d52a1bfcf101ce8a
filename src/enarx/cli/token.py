"""`enarx repo token`: deploy tokens, a second factor for Keeps, and the right to know of one version."""

import re
from collections.abc import Mapping
from copy import copy
from typing import Final

import click

from enarx.cli.managing import REPOSITORY, clean, done, managing, place_of
from enarx.cli.store import Store, complete_slug, show_json, store_options
from enarx.errors import MalformedError

UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def token() -> None:
    """Deploy tokens: a second factor for Keeps, and the right to know of one version."""


@token.command(name="generate")
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY:TAG|@DIGEST", shell_complete=complete_slug)
@click.option("--lifetime", metavar="TIME", default="10m", show_default=True, help="Such as 90s, 10m, 8h, 30d.")
@click.option("--uses", type=click.IntRange(1), help="How many Keeps may use it. Default: as many as come.")
@click.option("--label", default="", help="What it is for, for whoever reads the list.")
@store_options
def generate_token(store: Store, *, spec: str, lifetime: str, uses: int | None, label: str) -> None:
    """Make a token for one version, or for one workload whatever it is called, and print it: once, and never again.

    `enarx deploy` takes it in ENARX_DEPLOY_TOKEN or --token-file.
    """
    from enarx.drawbridge.management import Place
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    if slug.tag is not None and slug.digest is not None:
        raise MalformedError(f"token for {spec}: expected :TAG or @DIGEST, found both: a token is for one of them")
    place = Place(user=slug.user, repository=slug.repository)
    with managing(store, slug.host, "Failed to make a deploy token") as management:
        made = management.make_token(
            place, tag=slug.tag, digest=slug.digest, lifetime=seconds(lifetime), uses=uses, label=label
        )
    if store.as_json:
        show_json({**made.facts, "token": made.text})
        return
    click.echo(made.text)
    click.echo(
        f"enarx: token {made.facts.get('id')}, until {made.facts.get('expires')}; it is not shown again", err=True
    )


_create = copy(generate_token)  # the word that the other groups have for it
_create.hidden = True
token.add_command(_create, "create")


@token.command(name="info")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("name", metavar="ID")
@store_options
def token_info(store: Store, *, spec: str, name: str) -> None:
    """Print what the token ID is for, as JSON; never the token itself."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to read the deploy token") as management:
        show_json(dict(management.token(place, name)))


@token.command(name="list")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def list_tokens(store: Store, *, spec: str) -> None:
    """List the tokens: what for, until when, how many uses are left. The tokens themselves nobody can list."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to list the deploy tokens") as management:
        found = management.tokens(place)
    if store.as_json:
        show_json([dict(item) for item in found])
        return
    for item in found:
        what = item.get("tag") or item.get("digest")
        left = "any number of uses" if item.get("left") is None else f"{item['left']} uses left"
        click.echo(
            clean(f"{item.get('id')}  for {what}  until {item.get('expires')}  {left}  {item.get('label')}".rstrip())
        )


@token.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.argument("name", metavar="ID")
@store_options
def revoke(store: Store, *, spec: str, name: str) -> None:
    """Take the token ID back; the list tells the ids."""
    host, place = place_of(spec, repository=True)
    with managing(store, host, "Failed to revoke the deploy token") as management:
        management.revoke_token(place, name)
    done(store, {"revoked": name})


def seconds(text: str) -> int:
    """`90s`, `10m`, `8h`, `30d`, or a number of seconds. Raises MalformedError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None:
        raise MalformedError(f"--lifetime: expected a time such as 90s, 10m, 8h or 30d, found {text[:40]!r}")
    return int(found[1]) * UNITS[found[2] or "s"]
