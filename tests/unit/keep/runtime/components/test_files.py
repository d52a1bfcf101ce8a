"""wasi:filesystem over the directories of a Keep."""

from typing import Any

from enarx.keep.runtime import Interrupt
from enarx.keep.runtime.components import files
from enarx.keep.runtime.components.io import Allowance
from enarx.keep.runtime.components.values import Err
from enarx.keep.runtime.volume import Volume
from enarx.keep.runtime.waiting import Waiter


def test_open_files_are_counted() -> None:
    """Beyond limits.descriptors nothing is opened; what was refused or closed does not count."""
    allowance = Allowance(1)
    with Interrupt() as interrupt:
        table = files.implementations([Volume(1 << 20).open("/tmp")], Waiter(interrupt), allowance)  # noqa: S108 - the program's

        def call(name: str, *arguments: Any) -> Any:  # Any: as the functions of wasi:filesystem answer
            return table[f"wasi:filesystem/{name}"](*arguments)

        directory = call("preopens#get-directories")[0][0].thing
        both = frozenset({"read", "write"})

        def open_one(path: str, *how: str) -> Any:  # Any: as above
            return call("types#[method]descriptor.open-at", directory, None, path, frozenset(how), both)

        assert open_one("missing") == Err("no-entry")
        first = open_one("a", "create").thing
        assert open_one("b", "create") == Err("quota")
        first.drop()
        assert open_one("a", "create", "exclusive") == Err("exist")
        open_one("b", "create").thing.drop()
        directory.drop()
        assert allowance.used == 0
