"""`enarx repo`: repositories, where packages are published."""

import click

from enarx.cli.store import Store, asking, show_json, store_options


@click.group()
def repo() -> None:
    """Repositories: register, look at, and say which Keeps may have them."""


@repo.command()
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY")
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
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY")
@store_options
def info(store: Store, *, spec: str) -> None:
    """Print whether REPOSITORY is public, and its versions, as JSON."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import RepositorySlug

    slug = RepositorySlug.parse(spec)
    with asking("Failed to retrieve repository information"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        public = registry.repository(slug.user, slug.repository)
        tags = registry.tags(slug.user, slug.repository)
    show_json({"config": {"public": public}, "tags": [str(tag) for tag in tags]})
