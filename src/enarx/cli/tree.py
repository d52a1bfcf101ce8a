"""`enarx tree`: the files of a package and their digest, of a directory here or of a published version."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from enarx.cli.package import read_tree, warn_yanked
from enarx.cli.progress import progress, size
from enarx.cli.store import Store, asking, complete_slug, show_json, store_options
from enarx.errors import NotFoundError

if TYPE_CHECKING:
    from enarx.digest import Digest
    from enarx.drawbridge.client import Item

WHAT: Final = "PATH|[HOST/]USER/REPOSITORY:TAG"


class Seen(NamedTuple):
    """A tree, wherever it is."""

    workload: "Digest"
    items: "tuple[Item, ...]"


@click.group()
def tree() -> None:
    """The files of a package and their digest, local or published."""


@tree.command()
@click.argument("what", metavar=WHAT)
@store_options
def info(store: Store, *, what: str) -> None:
    """List the files of a directory, or of a published version, with their sizes and digests."""
    seen = look(store, what)
    if store.as_json:
        nodes = [{"path": str(item.path), **item.entry.to_json()} for item in seen.items]
        show_json({"digest": str(seen.workload), "nodes": nodes})
        return
    for item in seen.items:
        if not item.entry.is_directory:
            click.echo(
                f"{item.digest.algorithm}:{item.digest.hex[:16]} {size(item.entry.meta.length):>9}  {item.file_name}"
            )
    click.echo(f"{seen.workload}")


@tree.command()
@click.argument("what", metavar=WHAT)
@store_options
def digest(store: Store, *, what: str) -> None:
    """Print the workload digest: the SHA-256 of the root, which covers every name and every byte."""
    found = _digest(store, what)
    if store.as_json:
        show_json({"digest": str(found)})
    else:
        click.echo(str(found))


@tree.command()
@click.argument("spec", metavar="[HOST/]USER/REPOSITORY[:TAG][@DIGEST]", shell_complete=complete_slug)
@click.argument("path", required=False, default="")
@click.option("--out", type=click.Path(path_type=Path), help="Where to. Default: its own name, here.")
@store_options
def fetch(store: Store, *, spec: str, path: str, out: Path | None) -> None:
    """Fetch the file or directory PATH of a published version (default: all of it), checked against its digest."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug, TreePath

    slug, wanted = PackageSlug.parse(spec), TreePath.parse(path)
    with asking("Failed to fetch tree"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        published = registry.tag(slug)
        slug = replace(slug, tag=published.name)
        workload = registry.down.workload(slug, published.entry)
        items = [
            item
            for item in registry.down.tree(slug, published.entry, workload=workload)
            if item.path.names[: len(wanted)] == wanted.names
        ]
        if not items:
            raise NotFoundError(f"{spec}: nothing in it is called {wanted}")
        target = out or Path(str(slug.repository) if wanted.is_root else str(wanted.name))
        total = sum(item.entry.meta.length for item in items if not item.entry.is_directory)
        with progress("fetching", total, quiet=store.as_json) as on_bytes:
            if items[0].entry.is_directory or wanted.is_root:
                registry.files.fetch_into(slug, items, target, below=wanted, workload=workload, on_bytes=on_bytes)
            else:
                registry.files.fetch_file(slug, items[0], target, workload=workload, on_bytes=on_bytes)
    warn_yanked(spec, published)
    if store.as_json:
        show_json({"path": str(target), "digest": str(workload), "bytes": total})
    else:
        click.echo(f"{target}: {size(total)}, of {workload}")


@tree.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@store_options
def diff(store: Store, *, old: str, new: str) -> None:
    """Say which files differ between OLD and NEW: A added, D deleted, M modified, T of another media type.

    Directories are told when they are empty, with a slash behind them. OLD and NEW are a directory here or a published
    version, [HOST/]USER/REPOSITORY:TAG, in any combination. Ends with 1 when there are any differences, as diff does.
    """
    before, after = (_Files.of(look(store, what)) for what in (old, new))
    changes = sorted(before.changes(after), key=lambda change: change[1])
    if store.as_json:
        show_json([{"change": change, "path": name} for change, name in changes])
    else:
        for change, name in changes:
            click.echo(f"{change} {name}")
    sys.exit(1 if changes else 0)


class _Files(NamedTuple):
    """A tree by the names of its files and directories."""

    files: "dict[str, Item]"
    directories: set[str]

    @classmethod
    def of(cls, seen: Seen) -> "_Files":
        return cls(
            files={item.file_name: item for item in seen.items if not item.entry.is_directory},
            directories={item.file_name for item in seen.items if item.entry.is_directory and item.file_name},
        )

    def changes(self, after: "_Files") -> Iterator[tuple[str, str]]:
        """What happened to what. A directory is told where nothing in it tells that it came or went."""
        for name in self.files.keys() | after.files.keys():
            kind = _change(self.files.get(name), after.files.get(name))
            if kind is not None:
                yield kind, name
        for kind, there, elsewhere in (("D", self, after), ("A", after, self)):
            for name in there.directories - elsewhere.directories:
                if not any(other.startswith(f"{name}/") for other in there.files.keys() | there.directories):
                    yield kind, f"{name}/"


def _change(before: "Item | None", after: "Item | None") -> str | None:
    if before is None or after is None:
        return "A" if before is None else "D"
    one, two = before.entry.meta, after.entry.meta
    if one.length != two.length or not one.digests.agrees(two.digests):
        return "M"
    return None if one.media_type == two.media_type else "T"


def look(store: Store, what: str) -> Seen:
    """The tree at a path here, or behind a slug. Raises what either does."""
    from enarx.drawbridge.client import Item, Registry
    from enarx.drawbridge.names import PackageSlug

    if _is_local(what):
        local = read_tree(Path(what), quiet=store.as_json)
        return Seen(local.workload, tuple(Item(node.path, node.entry) for node in local.nodes))
    slug = PackageSlug.parse(what)
    with asking(f"Failed to look at {what}"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        published = registry.tag(slug)
        slug = replace(slug, tag=published.name)
        workload = registry.down.workload(slug, published.entry)
        items = registry.down.tree(slug, published.entry, workload=workload)
    warn_yanked(what, published)
    return Seen(workload, items)


def _digest(store: Store, what: str) -> "Digest":
    """The digest alone: a published one is in its tag, no listing has to be read for it."""
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.names import PackageSlug

    if _is_local(what):
        return read_tree(Path(what), quiet=store.as_json).workload
    slug = PackageSlug.parse(what)
    with asking(f"Failed to look at {what}"), store.connect(store.host(slug.host)) as http:
        registry = Registry(http)
        published = registry.tag(slug)
        return registry.down.workload(replace(slug, tag=published.name), published.entry)


def _is_local(what: str) -> bool:
    """Raises NotFoundError for what is spelled as a path and is not there."""
    path = Path(what)
    if path.exists():
        return True
    if what.startswith((".", "/", "~")) or (":" not in what and "@" not in what):
        raise NotFoundError(f"{what}: nothing is there; a published version is [HOST/]USER/REPOSITORY:TAG")
    return False
