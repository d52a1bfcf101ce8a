"""How a path is followed in a directory that the operating system knows nothing of, and that no path leaves.

Raises Refused: NOENT for nothing, PERM for a path that is absolute or climbs above where it began, NOTDIR, NAMETOOLONG.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Generic, Self, TypeVar

from enarx.keep.runtime.abi import Errno, Refused

MAX_NAME: Final = 255  # bytes of one name, as Linux

FileT_co = TypeVar("FileT_co", covariant=True)


class Folder(Generic[FileT_co]):
    """What a directory has to have for a path to lead through it."""

    __slots__ = ()
    names: "Mapping[str, Self | FileT_co]"
    parent: "Self | None"

    def walk(self, names: Sequence[str]) -> "Self | FileT_co":
        """What the names lead to, one after the other."""
        here: Self | FileT_co = self
        depth = 0
        for name in names:
            if not isinstance(here, type(self)):
                raise Refused(Errno.NOTDIR)
            if name in {"", "."}:
                continue
            if name == "..":
                depth -= 1
                if depth < 0 or here.parent is None:
                    raise Refused(Errno.PERM)
                here = here.parent
                continue
            if len(name.encode()) > MAX_NAME:
                raise Refused(Errno.NAMETOOLONG)
            if name not in here.names:
                raise Refused(Errno.NOENT)
            here = here.names[name]
            depth += 1
        return here


def parts(path: str) -> list[str]:
    """The names in a path that is relative and not empty."""
    if not path:
        raise Refused(Errno.NOENT)
    if path.startswith("/"):
        raise Refused(Errno.PERM)
    return path.split("/")
