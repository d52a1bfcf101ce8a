"""Documents: what may change, each with its versions. Yanking, signers, and whatever others keep here.

A new version is appended with the next number, and the highest number counts; none is ever overwritten. What a
document says is the business of who keeps it: nothing is parsed here.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from enarx.drawbridge import layout
from enarx.drawbridge.names import RepositoryName, UserName
from enarx.drawbridge.records import Journal, until_it_is_ours
from enarx.drawbridge.registry.bodies import bounded, require_there, text_of
from enarx.drawbridge.registry.stored import Document, said, stored_document
from enarx.drawbridge.store.api import Store
from enarx.errors import ConflictError

MAX_DOCUMENT: Final = 1_000_000  # bytes of a document


class Documents:
    """The documents of repositories, and (with no repository) of users' name spaces."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def find(self, user: UserName, repository: RepositoryName | None, kind: str, name: str) -> Document | None:
        """The current version; None when there never was one, or when it was withdrawn."""
        journal = self._journal(user, repository, kind, name)
        last = journal.last()
        found = stored_document(journal.read(last), last) if last else None
        return None if found is None or found.withdrawn else found

    def put(
        self,
        user: UserName,
        repository: RepositoryName | None,
        kind: str,
        name: str,
        body: bytes | None,
        *,
        by: str,
        replaces: int | None = None,
    ) -> int:
        """Write a new version, None to withdraw; its number is the answer.

        With `replaces`, only if that number is still the last one (0: if there never was one), else ConflictError:
        so a counter can be taken down by many without losing a step.
        """
        if repository is None:
            require_there(self._store, layout.user(user), f"user {user}")
        else:
            require_there(self._store, layout.repository(user, repository), f"repository {user}/{repository}")
        text = None if body is None else text_of(bounded(body, MAX_DOCUMENT))
        journal = self._journal(user, repository, kind, name)
        for _ in until_it_is_ours(f"{kind} {name}"):
            last = journal.last()
            if replaces is not None and last != replaces:
                raise ConflictError(f"{kind} {name}: expected version {replaces} to be the last, found {last}")
            try:
                journal.create(last + 1, {**said(self._now(), by), "body": text})
            except ConflictError:
                continue
            return last + 1
        raise AssertionError  # the attempts end with an error of their own

    def all(self, user: UserName, repository: RepositoryName | None, kind: str) -> Iterator[tuple[str, Document]]:
        """All current ones of a kind, by name."""
        names = {item.key.segments[-2]: None for item in self._store.list(layout.documents(user, repository, kind))}
        for name in names:
            found = self.find(user, repository, kind, name)
            if found is not None:
                yield name, found

    def _journal(self, user: UserName, repository: RepositoryName | None, kind: str, name: str) -> Journal:
        return Journal(self._store, layout.documents(user, repository, kind) / name)
