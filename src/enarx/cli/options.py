"""Programs that had no commands in the originals: options alone mean `serve`, and `@file.toml` is options in a file."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click

from enarx.cli.exits import Program


class ServesByDefault(Program):
    """`starts` are variables of the environment that alone are reason enough to serve."""

    starts: tuple[str, ...] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        expanded = expand(args)
        asked = {"--help", "-h", "--version"}
        if expanded[:1] and expanded[0].startswith("-") and expanded[0] not in asked:
            expanded = ["serve", *expanded]
        elif not expanded and any(name in os.environ for name in self.starts):
            expanded = ["serve"]
        return super().parse_args(ctx, expanded)


def expand(args: Sequence[str]) -> list[str]:
    """Replace each `@file.toml` by the options it holds (protocol.md, 1.6)."""
    found: list[str] = []
    for arg in args:
        if not arg.startswith("@"):
            found.append(arg)
            continue
        try:
            table = tomllib.loads(Path(arg[1:]).read_text())
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{arg}: cannot be read as TOML") from error
        for name, value in table.items():
            option = f"--{name.replace('_', '-')}"
            found += [option] if value is True else [] if value is False else [option, str(value)]
    return found
