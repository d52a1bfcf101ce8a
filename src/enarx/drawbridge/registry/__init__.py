"""Registry: create and read what Drawbridge has. Every child is checked against its parent, whatever the storage.

Rules, for all four kinds of resources (users, repositories, tags, tree nodes):
  1  a parent must be there first                                   else NotFoundError
  2  the bytes must have the declared digests and length            else MalformedError; nothing is stored
  3  a tree node must be what its parent's listing (for the root:   else MalformedError; nothing is stored
     the tag) says of that name: type, length, and the digests they have in common
  4  what is there by that name stays: the same again is fine,      else ConflictError
     anything else is not

Rooms, each with what it may touch:
  spaces      users and repositories
  versions    tags, signers, yanking; the histories of both
  trees       nodes, content, uploads in parts
  catalogue   where a search has to look
  documents   what may change: the highest number counts

Everything here is synchronous and may be called from several threads and processes. Who may do what is decided before
(`access`): nothing here asks. `by` is the name under which history knows who did it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from enarx.drawbridge.content import Contents
from enarx.drawbridge.history import Histories
from enarx.drawbridge.registry.bodies import Bodies
from enarx.drawbridge.registry.catalogue import Catalogue
from enarx.drawbridge.registry.documents import MAX_DOCUMENT, Documents
from enarx.drawbridge.registry.spaces import Spaces
from enarx.drawbridge.registry.stored import (
    Document,
    Outcome,
    RepositoryRecord,
    Stored,
    StoredNode,
    StoredTag,
    UserRecord,
)
from enarx.drawbridge.registry.trees import Trees
from enarx.drawbridge.registry.uploads import NodeUpload, ResumableUpload
from enarx.drawbridge.registry.versions import Versions
from enarx.drawbridge.store.api import Store

__all__ = [
    "JSON_TYPE",
    "MAX_DOCUMENT",
    "Document",
    "NodeUpload",
    "Outcome",
    "Registry",
    "RepositoryRecord",
    "ResumableUpload",
    "Stored",
    "StoredNode",
    "StoredTag",
    "UserRecord",
]

JSON_TYPE: Final = "application/json"


class Registry:
    """What Drawbridge has, in a store."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        bodies = Bodies(store, now)
        self.store: Final = store
        self.contents: Final = Contents(store)
        self.histories: Final = Histories(store, now)
        self.documents: Final = Documents(store, now)
        self.catalogue: Final = Catalogue(store)
        self.spaces: Final = Spaces(store, bodies, self.histories, self.catalogue)
        self.versions: Final = Versions(store, bodies, self.documents, self.histories)
        self.trees: Final = Trees(store, self.contents, self.versions, now)
