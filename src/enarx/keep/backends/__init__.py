"""Where a Keep runs, and who vouches for it there.

api         Backend (outside), Attester (inside), Datum: one finding about this machine
sandbox     what a Keep's process gives up before it reads a workload
hosts       the originals' backends on this host: explained, not launched
inside      the confidential VM that this program runs in; tsm and sevguest: how its TEE is asked
gramine     an SGX enclave from a signed manifest; enclave: how its processor is asked
qemu        a micro-VM from a measured image, with a TEE beside it or without
process     a plain process, without a TEE or beside a simulated one: development
attesters   inside a Keep, who vouches: nil, guest (of a confidential VM), simulated; simulators lists its technologies

BACKENDS is the whole list, the strongest first; `attesters.attester` chooses inside what `Backend.launch` asked for.
"""

from typing import Final

from enarx.keep.backends.api import Attester, Backend, Datum, Keep, Measure, Standing, Wishes
from enarx.keep.backends.gramine import Gramine
from enarx.keep.backends.hosts import HOSTS
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.process import Process, Simulated
from enarx.keep.backends.qemu import Qemu

BACKENDS: Final[tuple[Backend, ...]] = (
    *HOSTS,
    Inside(),
    Gramine(),
    *(Qemu(tee=tee) for tee in ("snp", "tdx", "none")),
    Simulated(),
    Process(),
)

__all__ = ["BACKENDS", "Attester", "Backend", "Datum", "Keep", "Measure", "Standing", "Wishes"]
