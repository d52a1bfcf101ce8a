"""A command: says hello, and what it can read. Built with componentize-py for wasi:cli/command."""

import sys
from pathlib import Path

from wit_world import exports  # type: ignore[import-not-found]  # made by componentize-py


class Run(exports.Run):  # type: ignore[misc]  # as above
    def run(self) -> None:
        print("hello", sys.argv)  # noqa: T201 - what it is for
        print("stdin", repr(sys.stdin.read()))  # noqa: T201 - as above
        package = Path("/package")
        names = sorted(path.name for path in package.iterdir())
        print("package", names, (package / "a.txt").read_text())  # noqa: T201 - as above
