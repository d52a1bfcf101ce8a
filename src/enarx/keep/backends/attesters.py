"""Who vouches inside a Keep, chosen by the words that its launcher gave it. Only what was chosen is imported."""

from collections.abc import Sequence
from pathlib import Path

from enarx.errors import MalformedError
from enarx.keep.backends.api import Attester, Measure


def attester(words: Sequence[str], measure: Measure) -> Attester:
    """Raises MalformedError, NotFoundError, and UnavailableError where nobody vouches.

    nil                            nobody
    simulated TECHNOLOGY MACHINE   a machine in software
    enclave                        the processor, from inside an SGX enclave
    inside [TSM [DOCUMENTS]]       the TEE of this confidential VM
    """
    match list(words):
        case ["nil"]:
            from enarx.keep.backends.nil import NilAttester  # noqa: PLC0415 - see above

            return NilAttester()
        case ["simulated", technology, path]:
            from enarx.keep.backends.simulated import Directory  # noqa: PLC0415 - see above

            return Directory.open(Path(path)).attester(technology, measure)
        case ["enclave"]:
            from enarx.keep.backends import enclave  # noqa: PLC0415 - see above

            return enclave.attester()
        case ["inside", *places]:
            return _inside(places)
    raise MalformedError(f"attester: unknown: {' '.join(words)[:100]!r}")


def _inside(places: Sequence[str]) -> Attester:
    from enarx.keep.backends import guest  # noqa: PLC0415 - see above
    from enarx.keep.backends.tsm import Tsm  # noqa: PLC0415 - see above

    root, documents = [*map(Path, places), None, None][:2]
    return guest.attester(documents, interface=None if root is None else Tsm(root=root))
