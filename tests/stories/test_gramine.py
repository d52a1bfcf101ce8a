"""The whole flow where Gramine starts the Keep: its program and the processor are played, everything else is as deployed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from enarx.keep import measurement
from enarx.keep.backends import Wishes
from tests.emulators import gramine
from tests.stories.test_deploy import World, settled
from tests.stories.test_inside import deploy_on


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with settled(tmp_path_factory.mktemp("world")) as made:
        yield made


def test_an_enclave_is_certified_and_runs(world: World, tmp_path: Path) -> None:
    """From tag to exit code: over a channel that it made itself, in as little address space as an enclave has."""
    backend, image = gramine.backend(tmp_path, world.machine.path)
    code, output, (hello,), phases = deploy_on(world, backend, Wishes(image=str(image)))
    assert (code, output) == (42, b"from the Keep\n")
    assert (hello.technology, hello.measurement) == ("sgx", measurement.of_agent("sha-256").hex())
    facts = {phase.phase: phase.facts for phase in phases}
    assert facts["certified"]["technology"] == "sgx"
    assert facts["sandboxed"]["keys"] == "lasting"
