"""`enarx platform`: honest about this machine, and machines in software for everybody else."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enarx import __version__
from enarx.cli.main import main
from enarx.errors import MalformedError


def enarx(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["platform", *arguments])


def test_info_lists_every_backend_and_from_whom_it_protects() -> None:
    """A plain process protects from nobody, in as many words."""
    result = enarx("info")
    assert result.exit_code == 0
    assert result.output.startswith(f"enarx {__version__}\nLinux ")
    assert (
        "✔ Backend: process (a plain process, no TEE, also called nil)\n   protects from: nobody: this machine sees everything"
        in (result.output)
    )


def test_info_for_programs_has_the_originals_members() -> None:
    """version, system_info, and for each backend its data: name, pass, info, mesg, data, with `null` for absent texts."""
    found = json.loads(enarx("info", "--json").output)
    assert found["version"] == __version__
    assert [entry["backend"] for entry in found["backends"]][:3] == ["sgx", "sev", "kvm"]
    for entry in found["backends"]:
        for node in entry["data"] + entry["configuration"]:
            assert set(node) == {"name", "pass", "info", "mesg", "data"}
            assert all(isinstance(node[name], str) for name in ("name", "info", "mesg"))


def test_the_first_generations_names_stand_as_what_launches_for_them() -> None:
    """`kvm` is another name for `qemu`, and is as ready as that."""
    found = {entry["backend"]: entry for entry in json.loads(enarx("info", "--json").output)["backends"]}
    for name, successor in (("sgx", "gramine"), ("sev", "qemu-snp"), ("kvm", "qemu")):
        launcher = next(node for node in found[name]["data"] if node["name"] == "launcher")
        assert launcher["pass"] == (found[successor]["have"] and found[successor]["configured"])
        assert successor in launcher["info"]


def test_simulate_makes_publishes_revokes_and_breaks(tmp_path: Path) -> None:
    """One command and its options are a newcomer's whole laboratory."""
    directory = str(tmp_path / "sim")
    made = json.loads(enarx("simulate", directory, "--json").output)
    assert made["created"]
    assert set(made["technologies"]) == {"snp", "sgx", "tdx"}
    assert "snp.ask" in made["revocable"]
    again = enarx("simulate", directory, "--revoke", "snp.ask", "--fault", "flipped-bit")
    assert again.exit_code == 0, again.output
    assert "Published anew" in again.output
    assert "FAULT: flipped-bit" in again.output
    assert json.loads(enarx("simulate", directory, "--fault", "none", "--json").output)["fault"] == "none"
    refused = enarx("simulate", directory, "--revoke", "snp.everything")
    assert isinstance(refused.exception, SystemExit | MalformedError)
    assert refused.exit_code != 0


def test_simulate_leaves_other_directories_alone(tmp_path: Path) -> None:
    """A directory with anything else in it is not touched."""
    (tmp_path / "thesis.txt").write_text("")
    result = enarx("simulate", str(tmp_path))
    assert result.exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("technology", ["snp", "sgx", "tdx"])
def test_the_configuration_lists_this_installation(tmp_path: Path, technology: str) -> None:
    """steward.toml names the measurement that the command prints."""
    made = json.loads(enarx("simulate", str(tmp_path / "sim"), "--json").output)
    text = (tmp_path / "sim" / "steward.toml").read_text()
    assert f'[{technology}]\nhash = ["{made["measurements"][technology]}"]' in text
