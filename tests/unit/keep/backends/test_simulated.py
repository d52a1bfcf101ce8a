"""Machines in software: whole directories, honest measurements, and faults that a judge has to notice."""

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enarx.attested.claims import report_data
from enarx.errors import ConflictError, MalformedError, NotFoundError
from enarx.keep import measurement
from enarx.keep.backends.simulated import Directory
from enarx.keep.backends.simulators import MAKERS
from enarx.steward.collateral import Directory as Collateral
from enarx.steward.config import Config, Flags
from enarx.tee.model import Appraisal, Binding, Verdict

NOW = datetime(2026, 7, 1, tzinfo=UTC)
SPKI = b"a public key, as far as the binding is concerned"
REVOCABLE = [f"{name}.{what}" for name, maker in MAKERS.items() for what in maker.revocable]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Directory.create(tmp_path_factory.mktemp("machines") / "sim", NOW, measurement.of_agent).path


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Directory:
    """One that a test may change; making the vendors' keys takes longer than the test."""
    return Directory(path=shutil.copytree(template, tmp_path / "sim"))


def judge(directory: Directory, name: str, at: datetime = NOW) -> Appraisal:
    """What a Steward configured as the directory says makes of the machine's evidence."""
    policy = Config.read(directory.path / "steward.toml", Flags(dev=True)).policy
    data = report_data(MAKERS[name].technology.binding_hash, SPKI, None)
    evidence = directory.attester(name, measurement.of_agent).evidence(data)
    binding = Binding.of_key(SPKI)
    return policy.judges[evidence.oid](evidence, binding, Collateral(directory.path / "collateral").current(), at)


@pytest.mark.parametrize("name", MAKERS)
def test_the_configuration_beside_a_machine_accepts_it(directory: Directory, name: str) -> None:
    """A Steward with steward.toml accepts the machine, as simulated and with this agent's measurement."""
    appraisal = judge(directory, name)
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.simulated
    assert appraisal.claims.measurement == measurement.of_agent(MAKERS[name].measures)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("fault", ["flipped-bit", "other-key"])
def test_a_lying_machine_is_untrusted(directory: Directory, name: str, fault: str) -> None:
    """A flipped bit breaks the signature, another key the binding; and an honest machine is believed again."""
    directory.set_fault("flipped-bit" if fault == "flipped-bit" else "other-key")
    assert judge(directory, name).verdict is Verdict.UNTRUSTED
    directory.set_fault("none")
    assert judge(directory, name).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("what", REVOCABLE)
def test_what_is_revoked_is_untrusted(directory: Directory, what: str) -> None:
    """The vendor's next list names it, and nobody accepts the machine any more."""
    directory.revoke(what, NOW + timedelta(minutes=1))
    appraisal = judge(directory, what.partition(".")[0], NOW + timedelta(minutes=2))
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert any("revoked" in reason for reason in appraisal.reasons), appraisal.reasons


def test_old_documents_are_published_anew(directory: Directory) -> None:
    """A machine that slept for a year has stale endorsements, until everything is published again."""
    later = NOW + timedelta(days=365)
    assert judge(directory, "sgx", later).verdict is Verdict.UNTRUSTED
    directory.publish(later)
    assert judge(directory, "sgx", later + timedelta(minutes=1)).verdict is Verdict.ACCEPTED


def test_keys_are_for_their_owner_alone(directory: Directory) -> None:
    """Vendors' and machines' files have mode 0600."""
    private = [*directory.path.glob("vendors/*/*"), *directory.path.glob("machines/*/*")]
    assert private
    assert {stat.S_IMODE(file.stat().st_mode) for file in private} == {0o600}


def test_a_directory_is_made_once_and_nothing_else_is_taken_for_one(directory: Directory, tmp_path: Path) -> None:
    """Neither is a machine overwritten, nor are files beside something else."""
    with pytest.raises(ConflictError, match="not empty"):
        Directory.create(directory.path, NOW, measurement.of_agent)
    with pytest.raises(NotFoundError, match="not a directory of simulated machines"):
        Directory.open(tmp_path)
    assert Directory.open(directory.path) == directory


def test_unknown_names_are_refused_with_those_that_are_known(directory: Directory) -> None:
    """The error lists what there is."""
    with pytest.raises(MalformedError, match=r"expected one of .*sgx\.pck.*, found 'sgx\.nothing'"):
        directory.revoke("sgx.nothing", NOW)
    with pytest.raises(MalformedError, match=r"--tee: expected one of .*, found 'nothing'"):
        directory.attester("nothing", measurement.of_agent)
