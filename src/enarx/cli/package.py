"""`enarx package`: publish packages, look at them, fetch them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enarx.cli.progress import counted, progress, size
from enarx.cli.store import Store, asking, complete_slug, read_file, show_json, store_options
from enarx.errors import MalformedError, NotFoundError

if TYPE_CHECKING:
    from enarx.drawbridge.client import Published
    from enarx.drawbridge.tree import Node, Tree

SPEC: Final = "[HOST/]USER/REPOSITORY:TAG"
SHOWN: Final = 50  # files that are listed before a publication; more are counted
WASM_NAME: Final = "main.wasm"
CONFIG_NAME: Final = "Enarx.toml"


@click.group()
def package() -> None:
    """Publish and fetch packages."""


@package.command()
@click.argument("spec", metavar=SPEC, shell_complete=complete_slug)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--sign",
    "signers",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="KEY",
    help="Sign the version with this private key (PEM or JWK; P-256, P-384, Ed25519, RSA). Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be published, and ask nobody.")
@click.option("--quiet", "-q", is_flag=True, help="List nothing.")
@store_options
def publish(store: Store, *, spec: str, path: Path, signers: tuple[Path, ...], dry_run: bool, quiet: bool) -> None:
    """Publish PATH, a directory with main.wasm in it or a file of that name, as a version that can not change.

    Everything in the directory is part of the package: the program finds its files under /package. What is about to
    be published is listed on standard error; the slug with the digest, to copy, is printed. What the registry has
    already is not sent again, so who was interrupted calls again.
    """
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug
    from enarx.drawbridge.signing import SigningKey, sign
    from enarx.drawbridge.tag import Tag, subject_of

    slug = PackageSlug.parse(spec)
    keys = [SigningKey.parse(str(file), read_file(file)) for file in signers]
    if slug.tag is None or slug.digest is not None:
        raise MalformedError(f"package {spec}: expected :TAG and no digest, for that is what comes out")
    host, quiet = store.host(slug.host), quiet or store.as_json
    require_package(path)
    tree = read_tree(path, quiet=quiet)
    tag = sign(tree.root, subject_of(slug.user, slug.repository, slug.tag), keys) if keys else Tag(entry=tree.root)
    name = f"{host}/{slug.user}/{slug.repository}:{slug.tag}@{tree.workload}"
    if not quiet:
        _list(tree, path)
    if dry_run:
        _say(store, tree, name, new=None, sent=(), quiet=quiet)
        return
    sent: list[Node] = []
    with (
        asking("Failed to publish package"),
        store.connect(host) as http,
        progress("publishing", tree.size, quiet=quiet) as on_bytes,
    ):
        new = Registry(http).up.publish(
            slug,
            tag,
            tree,
            on_bytes=on_bytes,
            on_node=lambda node, was_sent: sent.append(node) if was_sent else None,
        )
    _say(store, tree, name, new=new, sent=sent, quiet=quiet)


@package.command()
@click.argument("spec", metavar=SPEC, shell_complete=complete_slug)
@store_options
def info(store: Store, *, spec: str) -> None:
    """Print what the version is bound to, as JSON: digests, length and type of its root."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    with asking("Failed to retrieve package information"), store.connect(store.host(slug.host)) as http:
        published = Registry(http).tag(slug)
    warn_yanked(spec, published)
    show_json(published.entry.to_json())


@package.command()
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY[:TAG][@DIGEST]", shell_complete=complete_slug)
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@store_options
def fetch(store: Store, *, spec: str, directory: Path | None) -> None:
    """Fetch the package into DIRECTORY (default: ./REPOSITORY), every file checked against its digest.

    With @DIGEST the package is the one you mean, whatever the registry says. The directory appears when it is complete;
    a fetch that was interrupted goes on when it is called again.
    """
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    target = directory or Path(str(slug.repository))
    with asking("Failed to fetch package"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        published = registry.tag(slug)
        slug = replace(slug, tag=published.name)
        workload = registry.down.workload(slug, published.entry)
        items = registry.down.tree(slug, published.entry, workload=workload)
        files = [item for item in items if not item.entry.is_directory]
        total = sum(item.entry.meta.length for item in files)
        with progress("fetching", total, quiet=store.as_json) as on_bytes:
            registry.files.fetch_into(slug, items, target, workload=workload, on_bytes=on_bytes)
    warn_yanked(spec, published)
    if store.as_json:
        show_json({"directory": str(target), "digest": str(workload), "files": len(files), "bytes": total})
    else:
        click.echo(f"{target}: {counted(len(files))}, {size(total)}, {workload}")


@package.command()
@click.argument("spec", metavar=SPEC, shell_complete=complete_slug)
@click.option("--reason", default="", help="Why, for whoever asks for it.")
@store_options
def yank(store: Store, *, spec: str, reason: str) -> None:
    """Take a version back: it stays for whoever has its digest, is shown as yanked, and `deploy` refuses it."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.management import Management
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    with asking("Failed to yank package"), store.connect(store.host(slug.host)) as http:
        Management(Registry(http)).yank(slug, reason)
    if store.as_json:
        show_json({"yanked": reason})


@package.command()
@click.argument("spec", metavar=SPEC, shell_complete=complete_slug)
@store_options
def unyank(store: Store, *, spec: str) -> None:
    """Let a version be used again."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.management import Management
    from enarx.drawbridge.names import PackageSlug

    slug = PackageSlug.parse(spec)
    with asking("Failed to unyank package"), store.connect(store.host(slug.host)) as http:
        Management(Registry(http)).unyank(slug)
    if store.as_json:
        show_json({"yanked": None})


@package.command(name="list")
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY", shell_complete=complete_slug)
@store_options
def list_(store: Store, *, spec: str) -> None:
    """List the versions with their digests, whether they are signed, and which were yanked and why."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug, RepositorySlug

    slug = RepositorySlug.parse(spec)
    with asking("Failed to list packages"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        found = [
            registry.tag(PackageSlug(user=slug.user, repository=slug.repository, tag=tag))
            for tag in registry.tags(slug.user, slug.repository)
        ]
    if store.as_json:
        show_json(
            [
                {
                    "tag": str(item.name),
                    "entry": item.entry.to_json(),
                    "signed": item.tag.is_signed,
                    "yanked": item.yanked,
                }
                for item in found
            ]
        )
        return
    width = max((len(str(item.name)) for item in found), default=0)
    for item in found:
        marks = ["signed"] * item.tag.is_signed + [f"yanked: {item.yanked}"] * (item.yanked is not None)
        digest = str(item.entry.sha256 or "no sha-256")
        click.echo(f"{item.name!s:<{width}}  {digest:<72}  {', '.join(marks)}".rstrip())


def require_package(path: Path) -> None:
    """Raises MalformedError, as the originals, for a file that is not main.wasm, and for a directory without one.

    So it does for an Enarx.toml that every Keep would refuse: a version can not be mended. A directory with nothing but
    Enarx.toml, or nothing at all, passes; whoever deploys it is told what is missing.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or directory")
    if not path.is_dir():
        if path.name != WASM_NAME:
            raise MalformedError(f"Invalid file name: {path}")
        return
    names = sorted(child.name for child in path.iterdir())
    strange = [name for name in names if name != CONFIG_NAME]
    if WASM_NAME not in names and strange:
        raise MalformedError(f"Invalid file name: {path / strange[0]}")
    if CONFIG_NAME in names:
        from enarx.keep.config import Config

        Config.parse(read_file(path / CONFIG_NAME), source=str(path / CONFIG_NAME))


def read_tree(path: Path, *, quiet: bool) -> "Tree":
    """The tree of what is at `path`, hashed. Raises NotFoundError, MalformedError."""
    from enarx.drawbridge.tree import Tree

    with progress("hashing", None, quiet=quiet) as on_bytes:
        return Tree.from_path(path, on_bytes=on_bytes)


def warn_yanked(spec: str, published: "Published") -> None:
    """Tell that a version was taken back, on standard error."""
    if published.yanked is not None:
        click.echo(f"enarx: {spec} was yanked: {published.yanked}", err=True)


def _list(tree: "Tree", path: Path) -> None:
    """What is about to be published, and what may be a mistake in it."""
    files = [node for node in tree.nodes if not node.entry.is_directory]
    for node in files[:SHOWN]:
        click.echo(f"  {size(node.entry.meta.length):>9}  {node.path or WASM_NAME}", err=True)
    if len(files) > SHOWN:
        click.echo(f"  and {len(files) - SHOWN} more", err=True)
    click.echo(f"{path}: {counted(len(files))}, {size(tree.size)}", err=True)
    names = {str(node.path) or WASM_NAME for node in files}
    if WASM_NAME not in names:
        click.echo(f"enarx: there is no {WASM_NAME}: this can be fetched, but not deployed", err=True)
    if hidden := [name for name in sorted(names) if any(part.startswith(".") for part in name.split("/"))]:
        click.echo(f"enarx: hidden files are part of it, such as {hidden[0]}", err=True)


def _say(store: Store, tree: "Tree", name: str, *, new: bool | None, sent: Sequence["Node"], quiet: bool) -> None:
    if not store.as_json:
        click.echo(name)
        if not quiet and new is not None and len(sent) < len(tree.nodes):
            click.echo(f"enarx: {len(tree.nodes) - len(sent)} of {len(tree.nodes)} nodes were there already", err=True)
        return
    nodes = [{"path": str(node.path), **node.entry.to_json()} for node in tree.nodes]
    members = {"package": name, "digest": str(tree.workload), "nodes": nodes}
    show_json(members if new is None else {**members, "new": new, "sent": [str(node.path) for node in sent]})
