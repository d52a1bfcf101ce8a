"""The door of the program `enarx`: a plain `enarx run` goes straight to work, everything else to `enarx.cli.main`.

Reading a command line with a library costs as much time as running a small program. So the commonest line, `enarx run`
with options that need no judgement before MODULE, is read here in a few steps. Whatever is not understood at once, help,
mistakes, completion, settings in the environment, is left to the library, which reads the same line from the start.
"""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from enarx.cli.running import Plan

OBJECTS: Final = 50_000  # new ones before a search for garbage: most commands import fewer, and they all live on
PLAIN: Final[Mapping[str, str]] = {"--wasmcfgfile": "wasmcfgfile", "--ca-bundle": "ca_bundle", "--invoke": "invoke"}


def main() -> NoReturn:
    """Run what the command line says, and exit with its code."""
    _occupy()
    plan = quick(sys.argv[1:], os.environ)
    if plan is None:
        gc.set_threshold(OBJECTS)
        from enarx.cli.main import main as whole

        whole()
        sys.exit(0)  # the library exits by itself; this is for the reader of types
    _leave(_perform(plan))


def _occupy() -> None:
    """Standard streams that are closed become empty ones: what we open must never be taken for them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")


def _perform(plan: "Plan") -> int:
    from enarx.cli.running import perform
    from enarx.errors import EnarxError

    try:
        return perform(plan)
    except Exception as error:  # noqa: BLE001 - told as everywhere, by the module that tells errors
        from enarx.cli import exits

        return exits.report(error, as_json=plan.as_json) if isinstance(error, EnarxError) else exits.bug(error)


def _leave(code: int) -> NoReturn:
    """End at once: what this process holds is given back by the operating system, faster than by us."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    finally:
        os._exit(code)


def quick(arguments: Sequence[str], environment: Mapping[str, str]) -> "Plan | None":
    """The plan of a plain `enarx run`; None where the library has to read the line."""
    if not arguments or arguments[0] != "run" or any(name.startswith(("ENARX_", "_ENARX_")) for name in environment):
        return None
    from enarx.cli.running import Plan

    named: dict[str, str] = {}
    env: list[tuple[str, str]] = []
    directories: list[tuple[str, str]] = []
    flags = {"--no-fd-env": False, "--no-cache": False, "--json": False}
    rest = list(arguments[1:])
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option in flags and not equals:
            flags[option] = True
            continue
        if not equals:
            if not rest:
                return None
            value = rest.pop(0)
        if option == "--env" and value.partition("=")[0]:
            env.append((value.partition("=")[0], value.partition("=")[2]))
        elif option == "--dir" and os.path.isdir(value.partition("::")[0]):  # noqa: PTH112 - without pathlib
            host, _, guest = value.partition("::")
            directories.append((host, guest or host))
        elif option in PLAIN and option not in named:
            named[option] = value
        else:
            return None
    args = _arguments(rest[1:])
    if not rest or args is None:
        return None
    return Plan(
        module=rest[0],
        args=args,
        env=tuple(env),
        directories=tuple(directories),
        wasmcfgfile=named.get("--wasmcfgfile"),
        ca_bundle=named.get("--ca-bundle"),
        invoke=named.get("--invoke"),
        cached=not flags["--no-cache"],
        fd_env=not flags["--no-fd-env"],
        as_json=flags["--json"],
    )


def _arguments(rest: Sequence[str]) -> tuple[str, ...] | None:
    """The program's arguments: what follows the module, less the first `--`; None where options stand among them."""
    before = list(rest[: rest.index("--")]) if "--" in rest else list(rest)
    if any(argument.startswith("-") for argument in before):
        return None
    return (*before, *rest[len(before) + 1 :])
