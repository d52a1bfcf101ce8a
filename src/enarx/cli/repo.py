"""`enarx repo`: repositories, where packages are published, and who and which Keeps may have them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from enarx.cli.lazy import Lazy, LazyGroup
from enarx.cli.managing import PLACE, REPOSITORY, clean, done, managing, place_of
from enarx.cli.store import Store, asking, complete_slug, show_json, store_options
from enarx.errors import UntrustedError

if TYPE_CHECKING:
    from enarx.drawbridge.canonical import Json
    from enarx.drawbridge.management import Found


@click.group(
    cls=LazyGroup,
    lazy={
        "policy": Lazy("enarx.cli.policy:policy", "Which Keeps the packages of a repository are released to."),
        "token": Lazy("enarx.cli.token:token", "Deploy tokens: a second factor for Keeps."),
        "member": Lazy("enarx.cli.member:member", "Who may read, publish or own."),
        "signers": Lazy("enarx.cli.signers:signers", "Keys of which one has to have signed each new version."),
    },
)
def repo() -> None:
    """Repositories: register, look at, and say which Keeps may have them."""


@repo.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.option("--public", is_flag=True, help="Let everybody read it. Without this, only whom you let.")
@store_options
def register(store: Store, *, spec: str, public: bool) -> None:
    """Register REPOSITORY in the name space of USER. It is private unless you say --public."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import RepositorySlug

    slug = RepositorySlug.parse(spec)
    host = store.host(slug.host)
    with asking("Failed to register new repository"), store.connect(host) as http:
        new = Registry(http).put_repository(slug.user, slug.repository, public=public)
    if store.as_json:
        show_json({"repository": f"{host}/{slug.user}/{slug.repository}", "public": public, "new": new})


@repo.command()
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@store_options
def info(store: Store, *, spec: str) -> None:
    """Print whether REPOSITORY is public, and its versions, as JSON."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import RepositorySlug

    slug = RepositorySlug.parse(spec)
    with asking("Failed to retrieve repository information"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        try:
            public = registry.repository(slug.user, slug.repository)
            tags = registry.tags(slug.user, slug.repository)
        except UntrustedError:  # the record is its members' business; a stranger may see versions if everybody may
            tags = registry.tags(slug.user, slug.repository)
            public = True
    show_json({"config": {"public": public}, "tags": [str(tag) for tag in tags]})


@repo.command(name="list")
@click.argument("spec", metavar="[HOST/]USER", shell_complete=complete_slug)
@store_options
def list_(store: Store, *, spec: str) -> None:
    """List the repositories of USER that you may know of."""
    from enarx.drawbridge.names import UserSlug

    slug = UserSlug.parse(spec)
    with managing(store, slug.host, f"Failed to list the repositories of {slug.user}") as management:
        _show_repositories(store, management.repositories(slug.user))


@repo.command()
@click.argument("words", nargs=-1)
@click.option("--store-host", metavar="HOST", help="Where to search. Default: ENARX_STORE_HOST.")
@store_options
def search(store: Store, *, words: tuple[str, ...], store_host: str | None) -> None:
    """List the repositories whose name has all WORDS: public ones, and those that you may read."""
    with managing(store, store_host, "Failed to search") as management:
        _show_repositories(store, management.search(" ".join(words)))


@repo.command()
@click.argument("spec", metavar=PLACE, shell_complete=complete_slug)
@store_options
def history(store: Store, *, spec: str) -> None:
    """Print who changed what and when, the oldest change first, after checking that none is missing.

    Of a repository it is everything; of a name space, who became a member of it and who is none any more.

    The last line is the head: who notes it can tell later whether anything before it was altered.
    """
    host, place = place_of(spec)
    with managing(store, host, "Failed to read the history") as management:
        changes = management.history(place)
    head = changes[-1].digest if changes else ""
    if store.as_json:
        show_json({"changes": [change.to_json() for change in changes], "head": head})
        return
    for change in changes:
        detail = " ".join(f"{name}={_told(value)}" for name, value in change.detail.items() if value is not None)
        at = change.at.strftime("%Y-%m-%d %H:%M:%SZ")
        click.echo(clean(f"{change.number:>5}  {at}  {change.event:<18}  {change.by}  {detail}".rstrip()))
    click.echo(f"head   {head}" if head else "Nothing has changed yet.")


def _told(value: "Json") -> str:
    """A value of a change for people: a digest as it is written elsewhere, what is no text as JSON."""
    from enarx.digest import Digests

    if isinstance(value, dict) and "sha-256" in value:
        return str(Digests.from_json({"sha-256": str(value["sha-256"])}).digests()[0])
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@repo.command(name="yank")
@click.argument("spec", metavar=REPOSITORY, shell_complete=complete_slug)
@click.option("--reason", default="", help="Why, for whoever asks for a version.")
@store_options
def yank_all(store: Store, *, spec: str, reason: str) -> None:
    """Take every version back that is published so far. `enarx package unyank` lets one be used again."""
    from enarx.drawbridge.names import PackageSlug, RepositorySlug

    slug = RepositorySlug.parse(spec)
    with managing(store, slug.host, "Failed to yank the repository") as management:
        tags = management.registry.tags(slug.user, slug.repository)
        for tag in tags:
            management.yank(PackageSlug(user=slug.user, repository=slug.repository, tag=tag), reason)
    done(store, {"yanked": [str(tag) for tag in tags], "reason": reason})


def _show_repositories(store: Store, found: "Sequence[Found]") -> None:
    if store.as_json:
        show_json([item.to_json() for item in found])
        return
    for item in found:
        role = f"  ({item.role})" if item.role else ""
        click.echo(f"{item.user}/{item.name}  {'public' if item.public else 'private'}{role}")
