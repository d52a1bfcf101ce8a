"""The whole flow in a confidential VM of Azure's: TPM and metadata service are played, everything else is as deployed."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from enarx.keep import measurement
from enarx.keep.backends.azure import TDX_QUOTE, VCEK
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.tsm import Tsm
from enarx.keep.backends.vtpm import Vtpm
from enarx.keep.refusal import RefusalError
from tests.emulators import paravisor
from tests.emulators.paravisor import Kind, Metadata
from tests.stories.test_deploy import World, real_steward, settled
from tests.stories.test_inside import deploy

BOOTED = sha256(bytes(32) + sha256(b"the kernel").digest()).hexdigest()  # a register that was extended once


def steward(config: Path, write_ca: Path) -> AbstractContextManager[str]:
    """A Steward whose policy knows the paravisor by its measurement, and what it booted by a register."""
    configure(config)
    return real_steward(config, write_ca)


def configure(config: Path) -> None:
    measured = measurement.of_agent("sha-384").hex()
    tables = (f'[az-{kind}]\nhash = ["{measured}"]\n[az-{kind}.pcrs]\n4 = ["{BOOTED}"]\n' for kind in ("snp", "tdx"))
    config.write_text(config.read_text() + "\n" + "\n".join(tables))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with settled(tmp_path_factory.mktemp("world"), steward) as made:
        yield made


def hardware(world: World, kind: Kind) -> Any:  # Any: one simulator's machine
    return world.machine.attester(kind, measurement.of_agent).machine


@contextmanager
def confidential_vm(world: World, folder: Path, kind: Kind, flaw: str = "") -> Iterator[tuple[Path, Metadata]]:
    """The TPM's device and the metadata service of a VM that has booted."""
    machine = hardware(world, kind)
    with (
        paravisor.swtpm(folder) as at,
        paravisor.device(folder, at) as tpm,
        paravisor.metadata(machine, kind, answers=flaw != "silent") as service,
    ):
        with Vtpm.briefly(tpm) as vtpm:
            paravisor.boot(vtpm, kind, getattr(machine, "report", None) or bytes, flaw)
        yield tpm, service


@pytest.mark.parametrize(("kind", "asked"), [("snp", VCEK), ("tdx", TDX_QUOTE)])
def test_a_vm_behind_the_paravisor_is_certified_and_runs(world: World, tmp_path: Path, kind: Kind, asked: str) -> None:
    """From tag to exit code: the certificate says Azure's technology, and what the hardware measured."""
    with confidential_vm(world, tmp_path, kind) as (tpm, service):
        place = partial(Inside, tpm=tpm, metadata=service.host)
        assert place(tsm=Tsm(root=tmp_path / "no tsm")).technology() == f"az-{kind}"
        code, output, (hello,), phases = deploy(world, tmp_path / "no tsm", place)
        assert service.asked == [asked]
    assert (code, output) == (42, b"from the Keep\n")
    assert hello.technology == f"az-{kind}"
    certified = next(phase.facts for phase in phases if phase.phase == "certified")
    assert certified["technology"] == f"az-{kind}"
    assert certified["measurement"] == measurement.of_agent("sha-384").hex()


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [("other-key", "TPM quote: the signature is wrong"), ("other-kernel", "policy.registers: .*register 4")],
)
def test_a_paravisor_that_lies_or_booted_something_else_gets_no_certificate(
    world: World, tmp_path: Path, flaw: str, reason: str
) -> None:
    """The key that signs has to be the one that the hardware vouches for, and the registers those of the policy."""
    with confidential_vm(world, tmp_path, "snp", flaw) as (tpm, service):
        if flaw == "other-kernel":
            with Vtpm.briefly(tpm) as vtpm:
                paravisor.extend(vtpm, 4, sha256(b"another").digest())
        place = partial(Inside, tpm=tpm, metadata=service.host)
        with pytest.raises(RefusalError, match=reason) as caught:
            deploy(world, tmp_path / "no tsm", place)
    assert caught.value.gate == "steward"


def test_a_metadata_service_that_gives_no_quote_is_told(world: World, tmp_path: Path) -> None:
    """Without a quote there is no evidence of TDX; the Keep says whom it asked and what came."""
    with confidential_vm(world, tmp_path, "tdx", "silent") as (tpm, service):
        place = partial(Inside, tpm=tpm, metadata=service.host)
        with pytest.raises(RefusalError, match=r"/acc/tdquote: answered 500") as caught:
            deploy(world, tmp_path / "no tsm", place)
    assert caught.value.gate == "backend"
