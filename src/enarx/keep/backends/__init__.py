"""Where a Keep runs, and who vouches for it there.

api         Backend (outside), Attester (inside), Datum: one finding about this machine
sandbox     what a Keep's process gives up before it reads a workload
hosts       the originals' backends on this host: explained, not launched
inside      the confidential VM that this program runs in; tsm and sevguest: how its TEE is asked
qemu        a micro-VM from a measured image, with a TEE beside it or without
process     a plain process, no TEE: development
simulated   the same, beside a TEE in software; simulators lists the technologies

BACKENDS is the whole list, the strongest first; `attester` chooses inside what `Backend.launch` asked for outside.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from enarx.errors import MalformedError
from enarx.keep.backends import inside, simulated
from enarx.keep.backends.api import Attester, Backend, Datum, Keep, Measure, Standing, Wishes
from enarx.keep.backends.hosts import HOSTS
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.process import NilAttester, Process
from enarx.keep.backends.qemu import Qemu
from enarx.keep.backends.simulated import Simulated
from enarx.keep.backends.tsm import Tsm

BACKENDS: Final[tuple[Backend, ...]] = (
    *HOSTS,
    Inside(),
    *(Qemu(tee=tee) for tee in ("snp", "tdx", "none")),
    Simulated(),
    Process(),
)


def attester(words: Sequence[str], measure: Measure) -> Attester:
    """Who vouches for this process, by the words that `Backend.launch` gave it. Raises MalformedError, NotFoundError."""
    match list(words):
        case ["nil"]:
            return NilAttester()
        case ["simulated", technology, path]:
            return simulated.Directory.open(Path(path)).attester(technology, measure)
        case ["inside"]:
            return inside.attester()
        case ["inside", root, *documents]:
            interface = Tsm(root=Path(root))
            return inside.attester(Path(documents[0]) if documents else None, interface=interface)
    raise MalformedError(f"attester: unknown: {' '.join(words)[:100]!r}")


__all__ = ["BACKENDS", "Attester", "Backend", "Datum", "Keep", "Measure", "Standing", "Wishes", "attester"]
