"""What the commands of `enarx repo` share: which place is meant, whom to ask, and what is said of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from enarx.cli.store import Store, asking, show_json

if TYPE_CHECKING:
    from enarx.drawbridge.management import Management, Place

REPOSITORY: Final = "[HOST/]USER/REPOSITORY"
PLACE: Final = "[HOST/]USER[/REPOSITORY]"


@contextmanager
def managing(store: Store, host: str | None, what: str) -> "Iterator[Management]":
    from enarx.drawbridge.client import Registry
    from enarx.drawbridge.management import Management

    with asking(what), store.connect(store.host(host)) as http:
        yield Management(Registry(http))


def place_of(spec: str, *, repository: bool = False) -> "tuple[str | None, Place]":
    """Host, if there is one, and the repository, or the name space where that is enough."""
    from enarx.drawbridge.management import Place
    from enarx.drawbridge.names import RepositorySlug, UserSlug

    if repository or not _is_user(spec):
        slug = RepositorySlug.parse(spec)
        return slug.host, Place(user=slug.user, repository=slug.repository)
    user = UserSlug.parse(spec)
    return user.host, Place(user=user.user)


def _is_user(spec: str) -> bool:
    """`a/b` is a repository unless `a` can only be a host; a lone word is a user."""
    first, slash, rest = spec.partition("/")
    return not slash or ("/" not in rest and (":" in first or "." in first or first == "localhost"))


def pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise click.UsageError(f"expected {form}, each name once, found {text!r}")
        found[name] = value
    return found


def done(store: Store, value: Mapping[str, object]) -> None:
    """Silent for people, as the originals are; an object for programs."""
    if store.as_json:
        show_json(value)


def clean(text: str) -> str:
    """A stranger's words, made safe for a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
