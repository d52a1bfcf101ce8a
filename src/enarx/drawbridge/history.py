"""History: what changed in a repository, or in a name space, as an append-only chain that anybody can check.

Each change says its number, when, who and what, and carries the SHA-256 of the change before it. So the head (the
SHA-256 of the last one) stands for the whole history: who noted it once can tell later whether anything before it was
altered, reordered or left out. `check` does so without trusting who served the lines.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, Self

from enarx.drawbridge import canonical, layout
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.names import RepositoryName, UserName
from enarx.drawbridge.records import Journal, damaged, until_it_is_ours
from enarx.drawbridge.store.api import Key, Store
from enarx.errors import ConflictError, MalformedError, NotFoundError

_SEEN: Final = 10_000  # histories whose length is remembered
BEGINNING: Final = ""  # what the first change has as the one before it
_MEMBERS: Final = ("number", "at", "by", "event", "detail", "previous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a history."""

    number: int
    at: datetime
    by: str
    event: str
    detail: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))
    previous: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:  # Any: parsed JSON, checked here
        canonical.only(values, _MEMBERS, "change")
        try:
            at = datetime.fromisoformat(canonical.member(values, "at", str, "change"))
        except ValueError as error:
            raise MalformedError("change: at: expected a moment as RFC 3339 writes it") from error
        return cls(
            number=canonical.member(values, "number", int, "change"),
            at=at,
            by=canonical.member(values, "by", str, "change"),
            event=canonical.member(values, "event", str, "change"),
            detail=MappingProxyType(canonical.member(values, "detail", dict, "change")),
            previous=canonical.member(values, "previous", str, "change"),
        )

    @classmethod
    def parse(cls, line: bytes) -> Self:
        return cls.from_json(canonical.members(canonical.parse(line, "change"), "change"))

    def to_json(self) -> dict[str, Json]:
        detail = {name: self.detail[name] for name in sorted(self.detail)}
        at = self.at.astimezone(UTC).isoformat(timespec="microseconds")
        values: tuple[Json, ...] = (self.number, at, self.by, self.event, detail, self.previous)
        return dict(zip(_MEMBERS, values, strict=True))

    def encode(self) -> bytes:
        """The line, without its end: what the next one's `previous` is the SHA-256 of."""
        return canonical.encode(self.to_json())

    @property
    def digest(self) -> str:
        return sha256(self.encode()).hexdigest()


def check(changes: Iterable[Change]) -> Iterator[Change]:
    """Pass on an unbroken chain from its beginning. Raises MalformedError at the first link that does not hold."""
    previous = BEGINNING
    for number, change in enumerate(changes, start=1):
        if change.number != number:
            raise MalformedError(f"history: expected change {number}, found {change.number}")
        if change.previous != previous:
            raise MalformedError(f"history: change {number} does not follow the one before it")
        previous = change.digest
        yield change


class Histories:
    """The histories in a store."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._seen: dict[Key, int] = {}  # how long a history was when it was last looked at

    def append(
        self, user: UserName, repository: RepositoryName | None, *, by: str, event: str, detail: Mapping[str, Json]
    ) -> Change:
        """Say what was done. Several processes may; each change gets its own number."""
        journal = self._journal(user, repository)
        for _ in until_it_is_ours(f"{layout.history(user, repository)}"):
            last = self._last(journal, user, repository)
            previous = self._read(journal, user, repository, last).digest if last else BEGINNING
            change = Change(number=last + 1, at=self._now(), by=by, event=event, detail=detail, previous=previous)
            try:
                journal.create(change.number, change.to_json())
            except ConflictError:
                continue
            return change
        raise AssertionError  # the attempts end with an error of their own

    def read(self, user: UserName, repository: RepositoryName | None) -> Iterator[Change]:
        """From the beginning. Raises DamagedError where the chain is broken."""
        journal = self._journal(user, repository)
        numbers = range(1, self._last(journal, user, repository) + 1)
        try:
            yield from check(self._read(journal, user, repository, number) for number in numbers)
        except MalformedError as error:
            raise damaged(layout.history(user, repository), str(error)) from error

    def latest(self, user: UserName, repository: RepositoryName | None) -> Iterator[Change]:
        """From the end, unchecked: to look for what happened lately."""
        journal = self._journal(user, repository)
        for number in range(self._last(journal, user, repository), 0, -1):
            yield self._read(journal, user, repository, number)

    def _last(self, journal: Journal, user: UserName, repository: RepositoryName | None) -> int:
        key = layout.history(user, repository)
        last = journal.last(self._seen.get(key, 0))
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen[key] = last
        return last

    def _journal(self, user: UserName, repository: RepositoryName | None) -> Journal:
        return Journal(self._store, layout.history(user, repository))

    def _read(self, journal: Journal, user: UserName, repository: RepositoryName | None, number: int) -> Change:
        try:
            return Change.from_json(journal.read(number))
        except (MalformedError, NotFoundError) as error:
            raise damaged(layout.number(layout.history(user, repository), number), str(error)) from error
