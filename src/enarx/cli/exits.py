"""How programs end: the one table from error families to exit codes, and how errors are told (architecture.md, 5).

An error of ours is printed as `Error: …`, a blank line, and under `Caused by:` the chain of its causes, as the
originals do (protocol.md, 3); a command that was asked for `--json` gets one JSON object there instead. Usage exits
with 64, Ctrl-C with 130. What is no error of ours is a bug and exits with 70: its place is told, its text is not, for
that may hold a secret; ENARX_LOG=debug shows all of it. Everything here goes to standard error.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import click

from enarx.errors import (
    ConflictError,
    DeniedError,
    EnarxError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UnavailableError,
    UntrustedError,
)

_NUMBER: Final = re.compile(r"^\[Errno -?[0-9]+\] ")

USAGE: Final = 64
BUG: Final = 70
INTERRUPTED: Final = 130
LOG_VARIABLE: Final = "ENARX_LOG"

CODES: Final[Mapping[type[EnarxError], int]] = {
    MalformedError: 65,
    UntrustedError: 77,
    RejectedError: 77,
    DeniedError: 77,
    NotFoundError: 66,
    ConflictError: 73,
    UnavailableError: 69,
}
NAMES: Final[Mapping[type[EnarxError], str]] = {
    MalformedError: "malformed",
    UntrustedError: "untrusted",
    RejectedError: "rejected",
    DeniedError: "denied",
    NotFoundError: "not-found",
    ConflictError: "conflict",
    UnavailableError: "unavailable",
}


def exit_code(error: EnarxError) -> int:
    """The code of the error's family."""
    return next((code for family, code in CODES.items() if isinstance(error, family)), BUG)


def family_name(error: EnarxError) -> str:
    """The word that programs know the error's family by."""
    return next((name for family, name in NAMES.items() if isinstance(error, family)), "error")


def tell(error: BaseException) -> str:
    """The error, every reason it carries, and what caused it, a line each."""
    lines = [f"Error: {error}"]
    if isinstance(error, RejectedError) and len(error.reasons) > 1:
        lines += [f"  - {reason}" for reason in error.reasons]
    causes = list(_causes(error))
    if causes:
        lines += ["", "Caused by:"]
    if len(causes) == 1:
        lines.append(f"    {causes[0]}")
    else:
        lines += [f"{number:>5}: {cause}" for number, cause in enumerate(causes)]
    return "\n".join(lines)


def describe(error: EnarxError) -> dict[str, object]:
    """The same for programs."""
    reasons = list(error.reasons) if isinstance(error, RejectedError) else []
    return _object(family_name(error), str(error), exit_code(error), reasons=reasons, causes=list(_causes(error)))


class _ReaderGoneError(Exception):
    """Whoever read standard output ended first. No OSError, of which click would make an exit with 1."""


class Program(click.Group):
    """A group of commands that ends as this module says. With `standalone_mode=False` it ends as click does."""

    def invoke(self, ctx: click.Context) -> Any:  # Any: whatever a command returns
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ReaderGoneError from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # Any: click's own
    ) -> Any:  # Any: whatever a command returns
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in given[: given.index("--") if "--" in given else None]
        try:
            code = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except (_ReaderGoneError, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has gone; that is no error
            sys.exit(0)
        except click.Abort:
            _say("Aborted.", _object("interrupted", "Aborted.", INTERRUPTED), as_json=as_json)
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            if as_json:
                _say("", _object("usage", error.format_message(), USAGE), as_json=True)
            else:
                error.show()
            sys.exit(USAGE)
        except EnarxError as error:
            sys.exit(report(error, as_json=as_json))
        except Exception as error:  # noqa: BLE001 - the edge of the house: what is no error of ours is a bug
            sys.exit(bug(error, as_json=as_json))
        sys.exit(code if isinstance(code, int) else 0)


def report(error: EnarxError, *, as_json: bool) -> int:
    """Tell an error of ours; the exit code that goes with it."""
    _say(tell(error), describe(error), as_json=as_json)
    return exit_code(error)


def bug(error: Exception, *, as_json: bool = False) -> int:
    """Tell what is no error of ours; the exit code that goes with it."""
    import logging
    import traceback

    if logging.getLogger("enarx").isEnabledFor(logging.DEBUG) or "debug" in os.environ.get(LOG_VARIABLE, ""):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119 - a name in a message
    text = f"this is a bug in enarx: {type(error).__name__}{where}"
    hint = f"Please report it; {LOG_VARIABLE}=debug shows where it comes from."
    _say(f"Error: {text}\n{hint}", _object("bug", text, BUG), as_json=as_json)
    return BUG


def _say(text: str, members: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        import json

        text = json.dumps({"error": members}, ensure_ascii=False)
    click.echo(text, err=True)


def _object(family: str, message: str, code: int, **more: Sequence[str]) -> dict[str, object]:
    return {"family": family, "message": message, "code": code} | {name: value for name, value in more.items() if value}


def _causes(error: BaseException) -> Iterator[str]:
    """What caused the error, one line each; a cause that its effect already quotes is not told twice."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    for effect, cause in pairwise(chain):
        if isinstance(cause, OSError) and cause.strerror and cause.strerror in str(effect):
            continue  # which quotes it without its number
        text = _words(cause)
        if not isinstance(cause, EnarxError):
            text = text.strip().partition("\n")[0]  # some libraries write pages, for those who debug them
        if text not in str(effect):
            yield text


def _words(error: BaseException) -> str:
    """What an error says. The system's words are told without their number, whoever quotes them."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"
    return _NUMBER.sub("", str(error)) or type(error).__name__
