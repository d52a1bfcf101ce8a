"""Where a deployment was refused, and by what: the word that a user reads, and the gate that a program compares.

tag         the registry's answer about the slug, or a pin that it does not match
backend     the place to run is not there, protects nothing, or its Keep did not answer
channel     what came over the channel is not what may come
evidence    the TEE did not vouch
steward     the Steward refused, did not answer, or is not one that the user accepts
drawbridge  the registry did not release the workload to this Keep
digest      what the registry released is not what was asked for
package     it is, and it is no program that runs here
runtime     it would run, and what it needs is not there
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

from enarx.errors import EnarxError

Gate = Literal["tag", "backend", "channel", "evidence", "steward", "drawbridge", "digest", "package", "runtime"]
GATES: Final[tuple[Gate, ...]] = get_args(Gate)


class RefusalError(Exception):
    """A deployment ended at `gate`, because of `cause`, which is an error of one of our families."""

    def __init__(self, gate: Gate, cause: EnarxError) -> None:
        super().__init__(f"refused at {gate}: {cause}")
        self.gate = gate
        self.cause = cause


@contextmanager
def gate(name: Gate) -> Iterator[None]:
    """Errors of ours in here end the deployment at this gate; one that names its gate already keeps it."""
    try:
        yield
    except EnarxError as error:
        raise RefusalError(name, error) from error
