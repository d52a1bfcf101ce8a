"""What is fetched, as files: they grow beside the place where they appear when they are complete.

A fetch that was interrupted finds what it had under the same name, keeps it if it turns out to be the beginning, and
goes on from there. Nothing that is there already is overwritten, and no link is followed.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from enarx.digest import Digest, Hasher
from enarx.drawbridge.client.down import Down
from enarx.drawbridge.client.values import ROOT, Item, OnBytes, nothing
from enarx.drawbridge.names import PackageSlug, TreePath
from enarx.drawbridge.transfer import Crew
from enarx.drawbridge.tree import CHUNK
from enarx.errors import ConflictError, UnavailableError, UntrustedError


class Files:
    """Writes what `down` has proven."""

    def __init__(self, down: Down) -> None:
        self._down = down

    def fetch_into(
        self,
        slug: PackageSlug,
        items: Sequence[Item],
        directory: Path,
        *,
        workload: Digest,
        below: TreePath = ROOT,
        on_bytes: OnBytes = nothing,
    ) -> None:
        """Write what `tree` found (those of its nodes that are `below`) as `directory`, which appears when it is complete.

        Until then it grows beside it, under a name of its own; who calls again goes on from there. Raises
        ConflictError when `directory` is there and not empty.
        """
        directory = directory.absolute()
        if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
            raise ConflictError(f"{directory}: expected nothing or an empty directory there")
        growing = directory.with_name(f".{directory.name}.{items[0].digest.hex[:16]}.part")
        with _writing(directory):
            growing.mkdir(parents=True, exist_ok=True)
            with Crew[None](lambda _: None) as crew:
                for item in items:
                    target = growing.joinpath(*item.file_name.split("/")[len(below) :]) if item.file_name else growing
                    if item.entry.is_directory:
                        target.mkdir(exist_ok=True)
                    else:
                        crew.give(partial(self._fetch_file, slug, item, target, workload, on_bytes))
            growing.replace(directory)

    def fetch_file(
        self, slug: PackageSlug, item: Item, target: Path, *, workload: Digest, on_bytes: OnBytes = nothing
    ) -> None:
        """Write one node of `tree` as the file `target`, which must not be there."""
        if target.is_symlink() or target.exists():
            raise ConflictError(f"{target}: expected no file there")
        growing = target.with_name(f".{target.name}.{item.digest.hex[:16]}.part")
        with _writing(target):
            self._fetch_file(slug, item, growing, workload, on_bytes)
            growing.replace(target)

    def _fetch_file(self, slug: PackageSlug, item: Item, target: Path, workload: Digest, on_bytes: OnBytes) -> None:
        """Write one file. What is there already is kept if it turns out to be the beginning, else written again."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            begun = Hasher(item.entry.meta.digests)
            while chunk := file.read(CHUNK):
                begun.update(chunk)
            if 0 < begun.length <= item.entry.meta.length:
                on_bytes(begun.length)
                try:
                    self._write(file, self._down.read(slug, item, workload=workload, begun=begun), on_bytes)
                except UntrustedError:
                    on_bytes(-begun.length)  # somebody else's beginning, or a registry that lies: the next try tells
                else:
                    return
            file.seek(0)
            file.truncate()
            self._write(file, self._down.read(slug, item, workload=workload), on_bytes)

    @staticmethod
    def _write(file: BinaryIO, chunks: Iterable[bytes], on_bytes: OnBytes) -> None:
        for chunk in chunks:
            file.write(chunk)
            on_bytes(len(chunk))


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{error.filename or target}: {error.strerror}") from error
