"""`enarx repo member`: who may read, publish or own: people, and machines by the claims of their tokens."""

from collections.abc import Mapping

import click

from enarx.cli.managing import PLACE, clean, done, managing, pairs, place_of
from enarx.cli.store import Store, complete_slug, show_json, store_options


@click.group()
def member() -> None:
    """Who may read, publish or own: people, and machines by the claims of their tokens."""


@member.command(name="list")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@store_options
def list_members(store: Store, *, spec: str) -> None:
    """List the members of a repository, or of a whole name space."""
    host, place = place_of(spec)
    with managing(store, host, "Failed to list the members") as management:
        owner, members = management.members(place)
    if store.as_json:
        show_json({"owner": owner, "members": [dict(item) for item in members]})
        return
    if isinstance(owner, Mapping):
        click.echo(clean(f"owner      {owner.get('subject')} at {owner.get('issuer')}"))
    for item in members:
        who = item.get("subject") or " ".join(f"{key}={text}" for key, text in _claims(item).items())
        click.echo(clean(f"{item.get('role'):<9}  {who} at {item.get('issuer')}  ({item.get('name')})"))


@member.command(name="add")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@click.argument("name")
@click.option("--role", type=click.Choice(["reader", "publisher", "owner"]), required=True, help="What they may do.")
@click.option("--user", "user_name", metavar="USER", help="Whoever has this user name here.")
@click.option("--subject", help="Whoever the issuer knows by this subject.")
@click.option("--issuer", metavar="NAME", help="What the server calls the issuer. Default: yours.")
@click.option(
    "--claim", "claims", multiple=True, metavar="CLAIM=PATTERN", help="A machine's claim; * is anything. Repeatable."
)
@store_options
def add_member(
    store: Store,
    *,
    spec: str,
    name: str,
    role: str,
    user_name: str | None,
    subject: str | None,
    issuer: str | None,
    claims: tuple[str, ...],
) -> None:
    """Make somebody a member under a NAME of your choice, or change what the member of that name may do.

    \b
      enarx repo member add alice/hello bob --role publisher --user bob
      enarx repo member add alice/hello ci --role publisher --issuer github \\
          --claim repository=alice/hello --claim ref=refs/heads/main
    """  # noqa: D301 - \b is for click
    if sum((user_name is not None, subject is not None, bool(claims))) != 1:
        raise click.UsageError("expected one of --user, --subject and --claim")
    if user_name is not None and issuer is not None:
        raise click.UsageError("--issuer is for --subject and --claim; a user name is known by itself")
    who = {"user": user_name, "subject": subject, "issuer": issuer, "claims": pairs(claims, "CLAIM=PATTERN") or None}
    host, place = place_of(spec)
    with managing(store, host, "Failed to set the member") as management:
        management.set_member(
            place, name, {"role": role, **{key: value for key, value in who.items() if value is not None}}
        )
    done(store, {"member": name, "role": role})


@member.command(name="remove")
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@click.argument("name")
@store_options
def remove_member(store: Store, *, spec: str, name: str) -> None:
    """Remove the member of that NAME; the list tells the names."""
    host, place = place_of(spec)
    with managing(store, host, "Failed to remove the member") as management:
        management.remove_member(place, name)
    done(store, {"removed": name})


def _claims(item: Mapping[str, object]) -> Mapping[str, object]:
    found = item.get("claims")
    return found if isinstance(found, Mapping) else {}
