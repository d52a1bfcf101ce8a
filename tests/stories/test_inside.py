"""The whole flow in an emulated confidential VM: the kernel's interface is played, everything else is as deployed."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enarx.keep import launch, measurement
from enarx.keep.backends.api import Backend, Keep, Wishes
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.process import spawn
from enarx.keep.backends.tsm import Tsm
from enarx.keep.channel import Hello, Phase
from enarx.keep.deployment import Order
from enarx.keep.launch import Terminal, Watcher
from enarx.keep.refusal import RefusalError
from enarx.pki.certificate import pem
from tests.emulators import configfs_tsm
from tests.stories.test_deploy import World, real_steward, settled


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with settled(tmp_path_factory.mktemp("world"), steward) as made:
        yield made


def steward(config: Path, write_ca: Path) -> AbstractContextManager[str]:
    """One that knows what vouches here."""
    configure(config)
    return real_steward(config, write_ca)


def configure(config: Path) -> None:
    """The key of an Arm platform, too, for the last table names the simulated anchors; and a measured SVSM."""
    machine = configfs_tsm.realm(config.parent)
    (config.parent / "arm.pem").write_bytes(pem("PUBLIC KEY", machine.spki))
    measured = measurement.of_agent("sha-384").hex()
    beneath = f'\n[snp-svsm]\nhash = ["{measured}"]\nrequired_services = ["vtpm"]\n'
    config.write_text(f'{config.read_text()}arm = ["arm.pem"]\n\n[cca]\nhash = ["{machine.initial.hex()}"]\n{beneath}')


@dataclass(frozen=True, kw_only=True)
class Apart(Inside):
    """As a virtual machine has it: the Keep sees no directory of the host's."""

    def launch(self, wishes: Wishes) -> Keep:
        return spawn(["inside", f"tsm={self.tsm.root}"])


def deploy(
    world: World,
    root: Path,
    backend: Callable[..., Inside] = Inside,
    documents: Path | None = None,
    svsm: str | None = None,
) -> tuple[int, bytes, list[Hello], list[Phase]]:
    """Run the program; returns its exit code, its output, and what was told."""
    wishes = Wishes(documents=None if documents is None else str(documents), svsm=svsm)
    return deploy_on(world, backend(tsm=Tsm(root=root)), wishes)


def deploy_on(world: World, backend: Backend, wishes: Wishes) -> tuple[int, bytes, list[Hello], list[Phase]]:
    """The same on any backend."""
    order = Order(
        slug=f"localhost:{world.port}/user/program:1.0.0",
        digest=world.registry.promised["user/program/_tag/1.0.0"].workload,
        steward=world.steward,
        drawbridge=f"https://localhost:{world.port}",
        steward_roots=(world.folder / "ca.pem").read_bytes(),
        drawbridge_roots=(world.folder / "ca.pem").read_bytes(),
    )
    hellos, phases = list[Hello](), list[Phase]()
    out, into = os.pipe()
    watcher = Watcher(hello=hellos.append, phase=phases.append)
    terminal = Terminal(stdin=None, stdout=into, stderr=into)
    with os.fdopen(out, "rb") as reading:
        try:
            code = launch.deploy(lambda: order, backend, wishes, terminal, watcher)
        finally:
            os.close(into)
        return code, reading.read(), hellos, phases


@pytest.mark.parametrize(
    ("provider", "technology"), [("sev_guest", "snp"), ("tdx_guest", "tdx"), ("arm_cca_guest", "cca")]
)
def test_a_guest_is_certified_and_runs(world: World, tmp_path: Path, provider: str, technology: str) -> None:
    """The agent is shut in, asks the kernel from there, and is certified as what the provider is."""
    with configfs_tsm.mounted(tmp_path, provider, world.machine.path) as root:
        code, output, (hello,), phases = deploy(world, root)
    assert (code, output) == (42, b"from the Keep\n")
    assert hello.technology == technology
    certified = next(phase.facts for phase in phases if phase.phase == "certified")
    assert (certified["technology"], certified["measurement"]) == (technology, hello.measurement)


@pytest.mark.parametrize("services", ["all", "vtpm"])
def test_a_guest_beneath_an_svsm_is_certified_by_it_and_runs(world: World, tmp_path: Path, services: str) -> None:
    """From tag to exit code, where its user asked for that; the guest's own report, of level 2, is refused."""
    with configfs_tsm.mounted(tmp_path, "sev_guest+svsm", world.machine.path) as root:
        code, output, (hello,), phases = deploy(world, root, svsm=services)
        with pytest.raises(RefusalError, match=r"policy\.vmpl"):
            deploy(world, root)
    assert (code, output, hello.technology) == (42, b"from the Keep\n", "snp-svsm")
    certified = next(phase.facts for phase in phases if phase.phase == "certified")
    assert certified["technology"] == "snp-svsm"


def test_a_manifest_that_was_not_signed_gets_no_certificate(world: World, tmp_path: Path) -> None:
    """And without an SVSM nobody stands in for one."""
    with (
        configfs_tsm.mounted(tmp_path, "sev_guest+svsm", world.machine.path, "other-manifest") as root,
        pytest.raises(RefusalError, match=r"svsm\.manifest") as caught,
    ):
        deploy(world, root, svsm="all")
    assert caught.value.gate == "steward"
    with (
        configfs_tsm.mounted(tmp_path, "sev_guest", world.machine.path) as root,
        pytest.raises(RefusalError, match="no SVSM is beneath this guest") as caught,
    ):
        deploy(world, root, svsm="all")
    assert caught.value.gate == "backend"


def test_a_guest_uses_the_documents_that_its_host_offers(world: World, tmp_path: Path) -> None:
    """The host gave the kernel no table, but has the certificate of the chip in its cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    machine: Any = world.machine.attester("snp", measurement.of_agent).machine  # Any: each simulator's own type
    with configfs_tsm.mounted(tmp_path, "sev_guest", world.machine.path, "no-table") as root:
        with pytest.raises(RefusalError, match="VCEK"):
            deploy(world, root, Apart, cache)
        (cache / "vcek.der").write_bytes(machine.certificate)
        code, output, *_ = deploy(world, root, Apart, cache)
    assert (code, output) == (42, b"from the Keep\n")


def test_a_host_that_answers_for_the_tsm_is_refused(world: World, tmp_path: Path) -> None:
    """A report of the same machine over other data: no certificate, and the program never starts."""
    with (
        configfs_tsm.mounted(tmp_path, "sev_guest", world.machine.path, "other") as root,
        pytest.raises(RefusalError, match="binding") as caught,
    ):
        deploy(world, root)
    assert caught.value.gate == "steward"


def test_a_tee_that_stops_answering_is_refused_as_evidence(world: World, tmp_path: Path) -> None:
    """The Keep says what its kernel said, and does not go on without."""
    with (
        configfs_tsm.mounted(tmp_path, "sev_guest", world.machine.path, "busy") as root,
        pytest.raises(RefusalError, match="EBUSY") as caught,
    ):
        deploy(world, root)
    assert caught.value.gate == "backend"
