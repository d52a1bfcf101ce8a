"""`enarx`: the table of commands, in the order of a user's work, and the options that all of them have.

No command is imported before it is called: a new one is a line here and a module beside this one.
"""

import re
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import click

from enarx.cli.exits import LOG_VARIABLE, Program
from enarx.cli.lazy import Lazy, LazyGroup

COMMANDS: Final[Mapping[str, Lazy]] = {
    "run": Lazy("enarx.cli.run:run", "Run a local WebAssembly module or package, protected by nothing."),
    "deploy": Lazy("enarx.cli.deploy:deploy", "Run a published package in a Keep that proves what it runs."),
    "verify": Lazy("enarx.cli.verify:verify", "Say what is at the other end of a TLS connection."),
    "config": Lazy("enarx.cli.config:config", "Write and check Enarx.toml."),
    "user": Lazy("enarx.cli.user:user", "Log in to a registry, and be known there."),
    "repo": Lazy("enarx.cli.repo:repo", "Repositories: register, look at, and say which Keeps may have them."),
    "package": Lazy("enarx.cli.package:package", "Publish and fetch packages."),
    "tree": Lazy("enarx.cli.tree:tree", "The files of a package and their digest, local or published."),
    "key": Lazy("enarx.cli.key:key", "Keys that sign Keeps for SEV-SNP and SGX, and their digests."),
    "sign": Lazy("enarx.cli.sign:sign", "Sign an image for SEV-SNP, an enclave for SGX, into one file."),
    "image": Lazy("enarx.cli.image:image", "The measured image of a Keep's virtual machine."),
    "platform": Lazy("enarx.cli.platform:platform", "What this machine can do, and simulated machines."),
    "initialize": Lazy("enarx.cli.cache:initialize", "Have the vendor of this machine's processor know it."),
    "update-cache": Lazy("enarx.cli.cache:update_cache", "Fetch vendors' documents for this machine anew."),
    "demo": Lazy("enarx.cli.demo:demo", "The whole story on this machine, attacks included."),
    "completion": Lazy("enarx.cli.completion:completion", "Print what makes a shell complete commands."),
}
LEVELS: Final[Mapping[str, int]] = {  # numbers of `logging`, which is not imported before somebody logs
    "off": 60,
    "error": 40,
    "warn": 30,
    "info": 20,
    "debug": 10,
    "trace": 10,
}


class Enarx(LazyGroup, Program):
    """Lazy, and ends by the one table of exit codes."""


def _levels(_: click.Context, __: click.Parameter, text: str | None) -> dict[str, int]:
    """Read `level` and `target=level`, joined by commas, as the originals' filter; targets are `enarx` and below it."""
    found: dict[str, int] = {}
    for part in filter(None, re.split(r"\s*,\s*", (text or "").strip())):
        target, equals, level = part.rpartition("=")
        name = target.replace("::", ".") if equals else "enarx"
        if level.lower() not in LEVELS or not re.fullmatch(r"enarx(\.\w+)*", name):
            raise click.BadParameter(
                f"expected LEVEL or enarx.PART=LEVEL, with a level of {', '.join(LEVELS)}, found {part!r}"
            )
        found[name] = LEVELS[level.lower()]
    return found


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Looked up only when it is asked for: that takes longer than starting a small program."""
    if wanted and not context.resilient_parsing:
        from enarx import __version__

        click.echo(f"enarx, version {__version__}")
        context.exit()


@click.group(cls=Enarx, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--log-filter",
    "levels",
    envvar=LOG_VARIABLE,
    show_envvar=True,
    callback=_levels,
    metavar="FILTER",
    help="What to log: LEVEL, or enarx.PART=LEVEL, joined by commas.",
)
@click.option(
    "--log-target",
    type=click.Choice(["stdout", "stderr"], case_sensitive=False),
    default="stderr",
    show_default=True,
    help="Where the log goes.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version and exit."
)
def main(levels: dict[str, int], log_target: str) -> None:
    """Run WebAssembly in hardware-isolated Keeps, and publish it for them.

    \b
    On this machine, nothing protected:   enarx run program.wasm
    Publish, then deploy attested:        enarx package publish host/user/repo:1.0.0 DIRECTORY
                                          enarx deploy host/user/repo:1.0.0
    Everything at once, on a laptop:      enarx demo
    """  # noqa: D301 - \b is for click
    if levels:
        _configure(levels, sys.stdout if log_target == "stdout" else sys.stderr)


def _configure(levels: Mapping[str, int], stream: TextIO) -> None:
    import logging

    from enarx.web import log

    log.configure("text", stream=stream, level=levels.get("enarx", logging.WARNING))
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
