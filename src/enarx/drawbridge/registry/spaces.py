"""Spaces: users' names and the repositories under them, and the history that each repository has from its beginning."""

from collections.abc import Iterator

from enarx.drawbridge import layout
from enarx.drawbridge.history import Change, Histories
from enarx.drawbridge.names import RepositoryName, UserName
from enarx.drawbridge.records import Records
from enarx.drawbridge.registry.bodies import MAX_RECORD_BODY, Bodies, bounded, choose, require_there
from enarx.drawbridge.registry.catalogue import Catalogue
from enarx.drawbridge.registry.stored import Outcome, RepositoryRecord, Stored, UserRecord
from enarx.drawbridge.store.api import Key, Store
from enarx.drawbridge.tree import Meta
from enarx.errors import ConflictError


class Spaces:
    """Who has which name, and what is under it. May create records of users and repositories, and list them."""

    def __init__(self, store: Store, bodies: Bodies, histories: Histories, catalogue: Catalogue) -> None:
        self._store = store
        self._records = Records(store)
        self._bodies = bodies
        self._histories = histories
        self._catalogue = catalogue

    # -- users

    def put_user(self, user: UserName, body: bytes, meta: Meta, *, by: str, only_one: bool = False) -> Outcome:
        """Register a name space. With `only_one`, a subject may have no other (as the older generation)."""
        record = UserRecord.parse(bounded(body, MAX_RECORD_BODY))
        stored, meta = choose(body, record.encode(), meta)
        subject = layout.subject(record.subject)
        if only_one:
            self._claim(subject, user)
        try:
            outcome = self._bodies.create(layout.user(user), stored, meta, by)
        except ConflictError:
            if only_one:
                self._store.delete(subject / "_")  # the name is somebody else's: the subject has none yet
            raise
        self._catalogue.list_name(record.subject, user)
        return outcome

    def user(self, user: UserName) -> UserRecord:
        """Raises NotFoundError when there is none."""
        return UserRecord.parse(self.user_body(user).body)

    def user_body(self, user: UserName) -> Stored:
        return self._bodies.read(layout.user(user), f"user {user}")

    def users(self, after: UserName | None = None) -> Iterator[UserName]:
        """All, in the order of their names."""
        for item in self._store.list(layout.USERS, None if after is None else layout.user(after)):
            yield UserName(item.key.name)

    def users_of(self, subject: str) -> tuple[UserName, ...]:
        """The name spaces of a subject."""
        return tuple(name for name in self._catalogue.names(subject) if self._store.stat(layout.user(name)) is not None)

    # -- repositories

    def put_repository(
        self, user: UserName, repository: RepositoryName, body: bytes, meta: Meta, *, by: str
    ) -> Outcome:
        require_there(self._store, layout.user(user), f"user {user}")
        record = RepositoryRecord.parse(bounded(body, MAX_RECORD_BODY))
        stored, meta = choose(body, record.encode(), meta)
        key = layout.repository(user, repository)
        if record.public and (self._store.stat(key) is None or self.repository(user, repository).public):
            self._catalogue.list_public(user, repository)
        outcome = self._bodies.create(key, stored, meta, by)
        if outcome is Outcome.CREATED or not self._has_history(user, repository):
            self._histories.append(
                user, repository, by=by, event="repository-created", detail={"public": record.public}
            )
        return outcome

    def repository(self, user: UserName, repository: RepositoryName) -> RepositoryRecord:
        """Raises NotFoundError when there is none."""
        return RepositoryRecord.parse(self.repository_body(user, repository).body)

    def repository_body(self, user: UserName, repository: RepositoryName) -> Stored:
        return self._bodies.read(layout.repository(user, repository), f"repository {user}/{repository}")

    def repositories(self, user: UserName, after: RepositoryName | None = None) -> Iterator[RepositoryName]:
        """Those of a user, in the order of their names."""
        begin = None if after is None else layout.repository(user, after)
        for item in self._store.list(layout.repositories(user), begin):
            yield RepositoryName(item.key.name)

    def history(self, user: UserName, repository: RepositoryName | None) -> Iterator[Change]:
        """Every change, oldest first, its chain checked; of the name space itself where no repository is named.

        Raises NotFoundError when there is no such thing.
        """
        if repository is None:
            require_there(self._store, layout.user(user), f"user {user}")
            return self._histories.read(user, None)
        require_there(self._store, layout.repository(user, repository), f"repository {user}/{repository}")
        return self._histories.read(user, repository)

    # -- inside

    def _has_history(self, user: UserName, repository: RepositoryName) -> bool:
        return self._store.stat(layout.number(layout.history(user, repository), 1)) is not None

    def _claim(self, subject: Key, user: UserName) -> None:
        """Let one name space be the only one of its subject. A claim for a name that was never registered is void."""
        try:
            self._records.create(subject / "_", {"user": user.text})
        except ConflictError:
            claimed = UserName(str(self._records.read(subject / "_").get("user")))
            if claimed != user and self._store.stat(layout.user(claimed)) is not None:
                raise ConflictError("User already associated with OpenID Connect subject") from None
