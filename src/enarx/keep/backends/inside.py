"""Inside a confidential VM that somebody launched: SNP and TDX guests (Azure's too), CCA realms, Nitro enclaves.

The whole VM is the TEE, this program and its host process in it: what was measured is the VM's image, and whoever
trusts a measurement has to know what that image runs. Whether there is a TEE is asked here; evidence of it is made in
the Keep, by `enarx.keep.backends.guest`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from enarx.errors import UnavailableError
from enarx.keep.backends.api import Datum, Keep, Wishes
from enarx.keep.backends.nsm import DEVICE as NSM
from enarx.keep.backends.process import spawn
from enarx.keep.backends.sevguest import DEVICE
from enarx.keep.backends.tsm import Tsm

TPM: Final = Path("/dev/tpmrm0")
PROVIDERS: Final = {"sev_guest": "snp", "tdx_guest": "tdx", "arm_cca_guest": "cca"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The backend."""

    name: str = "inside"
    title: str = "the confidential VM that this program runs in"
    protects: str | None = "the host of this VM and whoever administers it"
    tsm: Tsm = field(default_factory=Tsm)
    device: Path = DEVICE
    nsm: Path = NSM
    tpm: Path = TPM
    metadata: str | None = None  # who answers as Azure's metadata service, if it is not where Azure has it

    def data(self) -> Sequence[Datum]:
        try:
            provider = self.tsm.provider()
            found = Datum(name="configfs-tsm", ok=provider in PROVIDERS, info=provider, below=self._beneath(provider))
        except UnavailableError as error:
            found = Datum(name="configfs-tsm", ok=False, info=str(error), required=False)
        devices = [
            Datum(name=str(path), ok=path.exists(), info=None if path.exists() else "not there", required=False)
            for path in (self.device, self.nsm)
        ]
        there = found_paravisor(self.tpm)
        info = f"no report in {self.tpm}" if there is None else f"on {there.upper()}"
        beneath = Datum(name="Azure's paravisor", ok=there is not None, info=info, required=False)
        some = any(each.ok for each in (found, *devices, beneath))
        return (found, *devices, beneath, Datum(name="a TEE that vouches", ok=some, info=None if some else "none"))

    def _beneath(self, provider: str) -> Sequence[Datum]:
        """The SVSM, where there can be one; Arm's provider shows its files too, and has none."""
        if PROVIDERS.get(provider) != "snp":
            return ()
        there = self.tsm.has_services()
        info = "it vouches for its services with `enarx deploy --svsm`" if there else "none beneath this guest"
        return (Datum(name="SVSM", ok=there, info=info, required=False),)

    def technology(self) -> str | None:
        """Who vouches here; None when nobody does."""
        try:
            return PROVIDERS.get(self.tsm.provider())
        except UnavailableError:
            if self.device.exists() or self.nsm.exists():
                return "snp" if self.device.exists() else "nitro"
            there = found_paravisor(self.tpm)
            return None if there is None else f"az-{there}"

    def launch(self, wishes: Wishes) -> Keep:
        documents = Path(wishes.documents).absolute() if wishes.documents else None
        places = {
            "tsm": self.tsm.root,
            "tpm": self.tpm,
            "metadata": self.metadata,
            "documents": documents,
            "svsm": wishes.svsm,
        }
        return spawn(["inside", *(f"{name}={place}" for name, place in places.items() if place is not None)])


def found_paravisor(tpm: Path) -> str | None:
    """On what the paravisor runs whose report Azure left in this TPM: `snp` or `tdx`. None without one."""
    if not tpm.exists():
        return None
    from enarx.keep.backends.vtpm import HCL_INDEX, Vtpm  # noqa: PLC0415 - knows evidence, which takes its time
    from enarx.tee.azure.hcl import kind_of  # noqa: PLC0415 - as above

    try:
        with Vtpm.briefly(tpm) as vtpm:
            report = vtpm.nv_read(HCL_INDEX)
    except UnavailableError:
        return None
    return kind_of(report)
