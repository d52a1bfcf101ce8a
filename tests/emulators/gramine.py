"""`gramine-sgx` without an enclave: the agent as an enclave starts it, with as little address space, and a simulated vouch.

The program is a script that takes Gramine's place. What answers for /dev/attestation is the simulated SGX machine of a
directory, asked for a quote over what the agent binds; its sealing key is that machine's.
"""

import sys
from pathlib import Path
from typing import Final

from enarx.keep.backends import hosts
from enarx.keep.backends.gramine import MANIFEST, SUFFIXES, Gramine

ADDRESSES: Final = 3 << 30  # bytes: too few for what an engine likes to reserve
CPU: Final = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sgx sgx_lc\n"
SCRIPT: Final = """#!{python} -I
import pathlib, resource, sys
sys.path[:0] = {path!r}
resource.setrlimit(resource.RLIMIT_AS, ({addresses}, {addresses}))
from enarx.keep import measurement
from enarx.keep.backends import enclave
from enarx.keep.backends.simulated import Directory
vouching = Directory.open(pathlib.Path({machines!r})).attester("sgx", measurement.of_agent)
class Emulated(enclave.Attestation):
    def kind(self): return "dcap"
    def quote(self, data): return vouching.machine.quote(data)
    def sealing_secret(self): return vouching.sealing_secret
enclave.Attestation = Emulated
from enarx.keep.enclave import main
main()
"""


def backend(folder: Path, machines: Path) -> tuple[Gramine, Path]:
    """The backend on a host that has SGX, and an image whose manifest is signed."""
    program, image, roots = folder / "gramine-sgx", folder / "enclave", folder / "host"
    for place in (image, roots / "dev", roots / "proc"):
        place.mkdir(parents=True)
    program.write_text(SCRIPT.format(python=sys.executable, path=sys.path, addresses=ADDRESSES, machines=str(machines)))
    program.chmod(0o755)
    for suffix in SUFFIXES:
        (image / f"{MANIFEST}{suffix}").touch()
    for name in ("sgx_enclave", "sgx_provision"):
        (roots / "dev" / name).touch()
    (roots / "proc" / "cpuinfo").write_text(CPU)
    return Gramine(program=str(program), roots=hosts.Roots(dev=roots / "dev", proc=roots / "proc")), image
