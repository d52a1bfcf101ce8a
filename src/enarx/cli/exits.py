"""How programs end: the one table from error families to exit codes, and how errors are told (architecture.md, 5).

An error of ours is printed as `Error: …` with the errors that caused it beneath; usage exits with 64; what is no error
of ours is a bug, exits with 70 and shows where it came from. Nothing is printed twice, and nothing else decides codes.
"""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
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

USAGE: Final = 64
BUG: Final = 70
INTERRUPTED: Final = 130

CODES: Final[Mapping[type[EnarxError], int]] = {
    MalformedError: 65,
    UntrustedError: 77,
    RejectedError: 77,
    DeniedError: 77,
    NotFoundError: 66,
    ConflictError: 73,
    UnavailableError: 69,
}


def exit_code(error: EnarxError) -> int:
    """The code of the error's family."""
    return next((code for family, code in CODES.items() if isinstance(error, family)), BUG)


def tell(error: BaseException) -> str:
    """The error, every reason it carries, and what caused it, a line each."""
    lines = [f"Error: {error}"]
    if isinstance(error, RejectedError) and len(error.reasons) > 1:
        lines += [f"  - {reason}" for reason in error.reasons]
    causes = [str(cause) or type(cause).__name__ for cause in _causes(error)]
    if causes:
        lines += ["Caused by:", *(f"  {cause}" for cause in causes)]
    return "\n".join(lines)


class Program(click.Group):
    """A group of commands that ends as this module says. With `standalone_mode=False` it ends as click does."""

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
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has gone; that is no error
            sys.exit(0)
        except click.Abort:
            click.echo("Aborted.", err=True)
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            error.show()
            sys.exit(USAGE)
        except EnarxError as error:
            click.echo(tell(error), err=True)
            sys.exit(exit_code(error))
        except Exception as error:  # noqa: BLE001 - the edge of the house: what is no error of ours is a bug
            traceback.print_exception(error)
            click.echo("Error: this is a bug in enarx; please report it with the lines above", err=True)
            sys.exit(BUG)
        sys.exit(code if isinstance(code, int) else 0)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__
