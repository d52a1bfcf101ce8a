"""`enarx config`: write an Enarx.toml to start from, and say what one means."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from enarx.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from enarx.keep.config import Config


class Description(TypedDict):
    """What `config check --json` prints."""

    steward: str | None
    args: list[str]
    env: dict[str, str]
    files: list[dict[str, str | int]]


@click.group()
def config() -> None:
    """Write and check Enarx.toml, the file that says what a program is given."""


@config.command()
def init() -> None:
    """Write ./Enarx.toml with every setting explained.

    An existing file is left alone, and the command fails.
    """
    from enarx.keep.config import TEMPLATE

    try:
        with Path("Enarx.toml").open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise ConflictError('"Enarx.toml" does already exist.') from error


@config.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("Enarx.toml"))
@click.option("--json", "as_json", is_flag=True, help="Print the checked settings as JSON.")
def check(file: Path, *, as_json: bool) -> None:
    """Check FILE (default Enarx.toml) and print what the program will be given."""
    from enarx.keep.config import Config

    try:
        text = file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}") from error
    checked = Config.parse(text, source=str(file))
    if as_json:
        click.echo(json.dumps(describe(checked), indent=2))
        return
    click.echo("argv   " + " ".join(["main.wasm", *checked.args]))
    click.echo("env    " + " ".join([f"{name}={value}" for name, value in checked.env.items()] or ["-"]))
    for number, entry in enumerate(describe(checked)["files"]):
        details = " ".join(f"{key}={value}" for key, value in entry.items())
        click.echo(f"fd {number:<3} {details}")


def describe(checked: "Config") -> Description:
    """The settings as JSON values, defaults filled in."""
    from dataclasses import asdict

    from enarx.keep.config import Standard

    files = [
        asdict(file) | ({} if isinstance(file, Standard) else {"kind": type(file).__name__.lower()})
        for file in checked.files
    ]
    return {"steward": checked.steward, "args": list(checked.args), "env": dict(checked.env), "files": files}
