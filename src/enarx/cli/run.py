"""`enarx run`: run a local program in this process, as a Keep would. Nothing is protected, and it says so.

The process becomes the Keep: no second interpreter is started. A program gets Enarx.toml as a deployed one does.
Where a file speaks TLS the certificate comes from the configured Steward (evidence: none), or is signed by its own
key for `localhost`, as with the originals. `enarx.cli.door` reads plain command lines of this command by itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from enarx.cli.running import Plan, perform


def environment(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(value.partition("=")[::2]) for value in values]
    for name, _value in pairs:
        if not name:
            raise click.BadParameter("expected NAME=VALUE")
    return [(name, value) for name, value in pairs]


def _directories(_: click.Context, __: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for value in values:
        host, _separator, guest = value.partition("::")
        if not Path(host).is_dir():
            raise click.BadParameter(f"{host}: not a directory")
        found.append((host, guest or host))
    return found


@click.command()
@click.argument("module", type=click.Path())
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--wasmcfgfile",
    type=click.Path(),
    envvar="ENARX_WASMCFGFILE",
    help="The Enarx.toml to use. Without one the program has standard input, output and error.",
)
@click.option(
    "--env", multiple=True, callback=environment, metavar="NAME=VALUE", help="Add to the environment (repeatable)."
)
@click.option(
    "--dir",
    "directories",
    multiple=True,
    callback=_directories,
    metavar="HOST[::GUEST]",
    help="Let the program use a directory of this machine (repeatable).",
)
@click.option(
    "--backend",
    type=click.Choice(["process", "nil"]),
    default="process",
    envvar="ENARX_BACKEND",
    show_default=True,
    help="Where to run. A local module runs in this process; `enarx deploy` knows the other backends.",
)
@click.option(
    "--ca-bundle",
    type=click.Path(),
    envvar="ENARX_CA_BUNDLE",
    help="Certificates (PEM) to trust instead of the system's: for the Steward, and for outgoing TLS.",
)
@click.option(
    "--invoke", metavar="NAME", help="Call this exported function with ARGS, which are numbers, and print its result."
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that a server may take to finish with its clients after SIGTERM.",
)
@click.option("--no-cache", is_flag=True, help="Compile anew, and keep no compiled code.")
@click.option("--no-fd-env", is_flag=True, help="Leave FD_COUNT and FD_NAMES out of the environment.")
@click.option("--json", "as_json", is_flag=True, help="Say what happens as JSON lines on standard error.")
def run(
    module: str,
    args: tuple[str, ...],
    *,
    wasmcfgfile: str | None,
    env: list[tuple[str, str]],
    directories: list[tuple[str, str]],
    backend: str,
    ca_bundle: str | None,
    invoke: str | None,
    grace: float,
    no_cache: bool,
    no_fd_env: bool,
    as_json: bool,
) -> None:
    """Run MODULE, a .wasm or .wat file or a package directory, with ARGS; those that begin with '-' after `--`.

    The program's exit code is this command's. A directory is taken for a package: its main.wasm runs, its Enarx.toml
    configures, everything else is data under /package. Compiled code is kept for the next time.

    \b
      enarx run hello.wasm -- --verbose
      enarx run --wasmcfgfile Enarx.toml --dir .::/data server.wasm
      enarx run --invoke add sums.wat 2 3
      enarx run examples/hello-keep
    """  # noqa: D301 - \b is for click
    plan = Plan(
        module=module,
        args=args,
        wasmcfgfile=wasmcfgfile,
        env=tuple(env),
        directories=tuple(directories),
        backend=backend,
        ca_bundle=ca_bundle,
        invoke=invoke,
        grace=grace,
        cached=not no_cache,
        fd_env=not no_fd_env,
        as_json=as_json,
    )
    sys.exit(perform(plan))
