"""A group that imports only the command that is called.

    @click.group(cls=LazyGroup, lazy={"run": Lazy("enarx.cli.run:run", "Run a local module.")})

Help, completion and "did you mean" need a name and a line; those stand in the table. So listing imports nothing, and
starting one command pays for no other (dependencies.md, 7).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, `module:attribute`, and what `--help` says of it."""

    target: str
    help: str

    def load(self) -> click.Command:
        """Import it. Raises TypeError when what is there is no command, which is a bug of ours."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self.target}: expected a click command, found {type(found).__name__}")
        return found


class LazyGroup(click.Group):
    """Who lists gets a stand-in with name and help; who calls (or completes further) gets the command itself."""

    def __init__(
        self, name: str | None = None, *, lazy: Mapping[str, Lazy] | None = None, **attrs: Any
    ) -> None:  # Any: click's own
        super().__init__(name, **attrs)
        self.lazy = dict(lazy or {})
        for known, command in self.lazy.items():
            self.add_command(click.Command(known, short_help=command.help))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the table's order, which is the order of a user's work."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.lazy[name].load() if name in self.lazy else command, rest
