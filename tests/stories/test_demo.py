"""`enarx demo`, as a newcomer runs it: every step is told, every attack is refused at its gate, nothing is left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REFUSALS = {
    "the host points the Keep at its own registry": (
        "the Keep's hash check",
        "untrusted",
        "sealed root: digest: expected",
    ),
    "the host deploys workload B although the user wanted A": ("the third party", "rejected", "workload: expected"),
    "the host deploys workload B, which its owner releases to real hardware": (
        "Drawbridge's release policy",
        "rejected",
        "expected real hardware, found a simulated TEE",
    ),
    "the host has workload A certified, and asks for workload B": ("Drawbridge", "denied", "and opens no other"),
    "one bit of the SEV-SNP report is flipped": ("Steward", "untrusted", "report: the signature is wrong"),
    "one bit of the SGX quote is flipped": ("Steward", "untrusted", "quote: the signature is wrong"),
    "the report belongs to another key": ("Steward", "untrusted", "binding: expected"),
    "AMD has revoked the ASK": ("Steward", "untrusted", "SEV-Milan serial 0x990001 is revoked"),
    "Intel has revoked the processor's PCK certificate": ("Steward", "untrusted", "revocation.pck"),
    "a certificate of another CA": ("Drawbridge, with a TLS alert", "untrusted", "unknown ca"),
    "an anonymous client": ("Drawbridge", "untrusted", "Authentication is required"),
    "a certificate of Steward's CA without an attestation result": ("Drawbridge", "untrusted", "Authentication is"),
    "somebody altered the registry's stored bytes": ("Drawbridge, which reads", "unavailable", "is damaged"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the demonstration tells programs."""
    home = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "enarx", "demo", "--json"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(home), "HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    left = [path for path in home.iterdir() if path.name.startswith("enarx-demo")]
    assert left == []
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_is_other_than_it_should_be(told: list[dict[str, Any]]) -> None:
    """The last line says what was proven, and that nothing failed."""
    assert told[-1]["failures"] == []
    assert len(told[-1]["proven"]) == 5


def test_the_same_package_runs_on_every_machine(told: list[dict[str, Any]]) -> None:
    """The third party sees technology, measurement and digest, and is warned of what proves nothing."""
    peers = {step["peer"]["technology"]: step["peer"] for step in told if "peer" in step}
    assert set(peers) == {"snp", "sgx", "nil"}
    assert len({peer["workload"] for peer in peers.values()}) == 1
    assert peers["snp"]["simulated"]
    assert peers["sgx"]["simulated"]
    assert [len(peers[name]["measurement"]) // 2 for name in ("snp", "sgx", "nil")] == [48, 32, 0]
    assert peers["nil"]["unattested"]
    assert all(peer["warnings"] for peer in peers.values())


@pytest.mark.parametrize("attack", list(REFUSALS))
def test_an_attack_is_refused_at_its_gate_with_its_message(told: list[dict[str, Any]], attack: str) -> None:
    """Who refuses, at which gate, and the words that a user gets."""
    (found,) = (step for step in told if str(step.get("attack", "")).startswith(attack))
    by, gate, message = REFUSALS[attack]
    assert found["refused_by"].startswith(by)
    assert found["gate"] == gate
    assert message in found["message"]


def test_no_attack_is_told_that_is_not_tested(told: list[dict[str, Any]]) -> None:
    """The table above is whole."""
    assert sum("attack" in step for step in told) == len(REFUSALS)


def test_a_directory_that_was_named_is_left_for_inspection(tmp_path: Path) -> None:
    """A directory that holds something already is refused before anything starts."""
    (tmp_path / "something").write_text("precious")
    command = [sys.executable, "-m", "enarx", "demo", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 73
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["something"]
