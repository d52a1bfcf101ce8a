"""Versions: tags bound to the entries of their trees' roots, who has to sign them, and which were taken back.

A tag never changes. That a version was taken back and which keys have to sign are documents, which do; each change of
them is in the repository's history, and so is every publication, if need be by the next one who comes along.
"""

from functools import lru_cache
from typing import Final

from enarx.drawbridge import canonical, layout
from enarx.drawbridge.canonical import Json
from enarx.drawbridge.history import Histories
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.records import damaged
from enarx.drawbridge.registry.bodies import Bodies, bounded, choose, require_digest, require_there
from enarx.drawbridge.registry.documents import Documents
from enarx.drawbridge.registry.stored import Outcome, StoredTag
from enarx.drawbridge.signing import SigningKey
from enarx.drawbridge.store.api import Store
from enarx.drawbridge.tag import MAX_TAG, Tag, subject_of
from enarx.drawbridge.tree import Entry, Meta
from enarx.errors import MalformedError

MAX_REASON: Final = 500  # characters of why a tag was yanked

_PUBLISHED: Final = "tag-published"
_YANK: Final = "yank"
_SIGNERS: Final = "signers"
_PARSED: Final = 4096  # tags; the same bytes are the same tag


class Versions:
    """The tags of every repository. May create tags, append to histories, and write two kinds of documents."""

    def __init__(self, store: Store, bodies: Bodies, documents: Documents, histories: Histories) -> None:
        self._store = store
        self._bodies = bodies
        self._documents = documents
        self._histories = histories

    def put(
        self, user: UserName, repository: RepositoryName, tag: TagName, body: bytes, meta: Meta, *, by: str
    ) -> Outcome:
        """Bind a version to a tree's root. Raises UntrustedError when the repository wants a signature that is not there."""
        require_there(self._store, layout.repository(user, repository), f"repository {user}/{repository}")
        require_digest(meta)
        parsed = Tag.parse(bounded(body, MAX_TAG))
        if meta.media_type != parsed.media_type:
            raise MalformedError(f"Invalid content type: expected {parsed.media_type}, found {meta.media_type}")
        stored, meta = choose(body, parsed.encode(), meta)
        signers = self.signers(user, repository)
        signed_by = parsed.verify(signers, subject_of(user, repository, tag)) if signers else ()
        outcome = self._bodies.create(layout.tag(user, repository, tag), stored, meta, by)
        if outcome is Outcome.CREATED:
            self._publish(user, repository, tag, parsed.entry, by=by, signed_by=signed_by)
        else:
            self.complete_history(user, repository, tag, by=by)
        return outcome

    def find(self, user: UserName, repository: RepositoryName, tag: TagName) -> StoredTag:
        """Raises NotFoundError when there is none."""
        key = layout.tag(user, repository, tag)
        stored = self._bodies.read(key, f"tag {subject_of(user, repository, tag)}")
        try:
            parsed = _parsed_tag(stored.body)
        except MalformedError as error:
            raise damaged(key, str(error)) from error
        return StoredTag(stored=stored, tag=parsed, yanked=self._yanked(user, repository, tag))

    def names(self, user: UserName, repository: RepositoryName) -> tuple[TagName, ...]:
        """In the order of their precedence. Raises NotFoundError when there is no such repository."""
        require_there(self._store, layout.repository(user, repository), f"repository {user}/{repository}")
        return tuple(sorted(TagName(item.key.name) for item in self._store.list(layout.tags(user, repository))))

    # -- taken back

    def yank(self, user: UserName, repository: RepositoryName, tag: TagName, reason: str, *, by: str) -> Outcome:
        """Advise against a tag; nothing of it is removed."""
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise MalformedError(f"reason: expected at most {MAX_REASON} printable characters")
        return self._set_yanked(user, repository, tag, reason, by=by)

    def unyank(self, user: UserName, repository: RepositoryName, tag: TagName, *, by: str) -> Outcome:
        return self._set_yanked(user, repository, tag, None, by=by)

    # -- signatures

    def signers(self, user: UserName, repository: RepositoryName) -> tuple[SigningKey, ...]:
        """The keys of which one must have signed each new tag; none when anybody who may publish may."""
        found = self._documents.find(user, repository, _SIGNERS, "keys")
        if found is None:
            return ()
        keys = canonical.members(canonical.parse(found.body, "signers"), "signers")
        return tuple(SigningKey.parse(name, str(pem).encode()) for name, pem in keys.items())

    def set_signers(self, user: UserName, repository: RepositoryName, keys: tuple[SigningKey, ...], *, by: str) -> None:
        """From now on every new tag must be signed by one of these. Tags that are there stay as they are."""
        if len({key.name for key in keys}) != len(keys):
            raise MalformedError("signers: expected every name once")
        body = canonical.encode({key.name: key.public_pem().decode() for key in sorted(keys, key=lambda key: key.name)})
        self._documents.put(user, repository, _SIGNERS, "keys", body if keys else None, by=by)
        named: dict[str, Json] = {key.name: key.key_id for key in keys}
        self._histories.append(
            user, repository, by=by, event="signers-set", detail={"keys": {name: named[name] for name in sorted(named)}}
        )

    # -- history

    def complete_history(self, user: UserName, repository: RepositoryName, tag: TagName, *, by: str) -> bool:
        """Record a publication that is not: whoever published died in between. Answers whether it was missing."""
        changes = self._histories.latest(user, repository)
        if any(change.event == _PUBLISHED and change.detail.get("tag") == tag.text for change in changes):
            return False
        self._publish(user, repository, tag, self.find(user, repository, tag).entry, by=by)
        return True

    def _publish(
        self,
        user: UserName,
        repository: RepositoryName,
        tag: TagName,
        entry: Entry,
        *,
        by: str,
        signed_by: tuple[str, ...] = (),
    ) -> None:
        signers: dict[str, Json] = {"signed-by": list(signed_by)} if signed_by else {}
        detail: dict[str, Json] = {"tag": tag.text, "digest": entry.meta.digests.to_json(), **signers}
        self._histories.append(user, repository, by=by, event=_PUBLISHED, detail=detail)

    def _yanked(self, user: UserName, repository: RepositoryName, tag: TagName) -> str | None:
        found = self._documents.find(user, repository, _YANK, tag.text)
        return None if found is None else str(canonical.parse(found.body, "yank"))

    def _set_yanked(
        self, user: UserName, repository: RepositoryName, tag: TagName, reason: str | None, *, by: str
    ) -> Outcome:
        event, outcome = ("tag-unyanked" if reason is None else "tag-yanked"), Outcome.EXISTS
        if self.find(user, repository, tag).yanked != reason:
            body = None if reason is None else canonical.encode(reason)
            self._documents.put(user, repository, _YANK, tag.text, body, by=by)
            outcome = Outcome.CREATED
        detail: dict[str, Json] = {"tag": tag.text} if reason is None else {"tag": tag.text, "reason": reason}
        if outcome is Outcome.CREATED or self._yanked_last(user, repository, tag) != event:
            self._histories.append(user, repository, by=by, event=event, detail=detail)
        return outcome

    def _yanked_last(self, user: UserName, repository: RepositoryName, tag: TagName) -> str:
        """What history says of a tag's yanking: who yanked it may have died before it was recorded."""
        changes = self._histories.latest(user, repository)
        said = (change for change in changes if change.detail.get("tag") == tag.text and "yanked" in change.event)
        return next((change.event for change in said), "tag-unyanked")


@lru_cache(maxsize=_PARSED)
def _parsed_tag(body: bytes) -> Tag:
    """The same bytes are the same tag."""
    return Tag.parse(body)
