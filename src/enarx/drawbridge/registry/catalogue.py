"""Catalogue: in which places a search has to look, so that it costs nothing that there are others.

Three lists of names beside what they name: the public repositories, the name spaces of a subject, and where a subject
is a member. A name is listed before what it names is there, so nothing is ever missing from them; that it is listed
proves nothing, and whoever reads a list asks `access` of each name. Private names are in no list but their people's:
neither an answer nor the place where a search goes on can tell one to somebody else.
"""

from collections.abc import Iterator

from enarx.drawbridge import layout
from enarx.drawbridge.names import RepositoryName, UserName
from enarx.drawbridge.records import Records
from enarx.drawbridge.store.api import Key, Store
from enarx.errors import ConflictError

Place = tuple[UserName, RepositoryName]


def member_name(issuer: str, subject: str) -> str:
    """Somebody, as memberships are listed under; an issuer's name has no space."""
    return f"{issuer} {subject}"


class Catalogue:
    """Lists of names. May create marks that say nothing but their own key."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = Records(store)

    def list_public(self, user: UserName, repository: RepositoryName) -> None:
        self._mark(layout.public(user, repository))

    def lists_public(self, user: UserName, repository: RepositoryName) -> bool:
        return self._store.stat(layout.public(user, repository)) is not None

    def public(self, after: Place | None = None) -> Iterator[Place]:
        """In the order of their names."""
        for item in self._store.list(layout.PUBLIC, None if after is None else layout.public(*after)):
            yield UserName(item.key.segments[-2]), RepositoryName(item.key.name)

    def list_name(self, subject: str, user: UserName) -> None:
        self._mark(layout.subject(subject) / user.text)

    def names(self, subject: str) -> Iterator[UserName]:
        """The name spaces of a subject."""
        for item in self._store.list(layout.subject(subject)):
            if item.key.name != "_":
                yield UserName(item.key.name)

    def lists_name(self, subject: str, user: UserName) -> bool:
        return self._store.stat(layout.subject(subject) / user.text) is not None

    def list_member(self, member: str, user: UserName, repository: RepositoryName | None) -> None:
        """`member` is what `member_name` makes of somebody."""
        self._mark(layout.membership(member, user, repository))

    def lists_member(self, member: str, user: UserName, repository: RepositoryName | None) -> bool:
        return self._store.stat(layout.membership(member, user, repository)) is not None

    def memberships(self, member: str) -> Iterator[tuple[UserName, RepositoryName | None]]:
        """Repositories, and (None) whole name spaces."""
        for item in self._store.list(layout.memberships(member)):
            name = item.key.name
            yield UserName(item.key.segments[-2]), None if name == "_" else RepositoryName(name)

    def _mark(self, key: Key) -> None:
        if self._store.stat(key) is None:
            try:
                self._records.create(key, {})
            except ConflictError:
                return
