"""Recorded evidence, judged by `steward verify` as its manifest says, wherever it lies beside the checkout."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enarx.cli.steward import main
from enarx.tee import TECHNOLOGIES

KNOWN = {technology.name for technology in TECHNOLOGIES}
FILES = ("csr.der", "csr.hex", "quote.bin", "report.bin")
GATES = {0: "accepted", 65: "malformed", 77: ""}


def samples(folder: Path) -> list[Mapping[str, Any]]:  # Any: the manifest's own
    manifest = tomllib.loads((folder / "MANIFEST.toml").read_text())
    return [sample for sample in manifest["sample"] if sample["tee"] in KNOWN]


def verify(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:  # Any: JSON
    with pytest.raises(SystemExit) as end:
        main.main(["verify", *(str(arg) for arg in args), "--json"], prog_name="steward")
    return int(end.value.code or 0), json.loads(capsys.readouterr().out)


def wanted(sample: Mapping[str, Any]) -> set[str]:  # Any: the manifest's own
    """The verdicts that the manifest's `expect` allows."""
    expect = sample["expect"]
    if sample.get("checks", {}).get("trailing") == "non-zero":  # the manifest judges what stands before them
        return {"malformed"}
    if expect == "accept":
        return {"accepted"}
    if expect.startswith("reject: malformed"):
        return {"malformed"}
    if expect.startswith(("accept only if policy allows", "reject (default policy")):
        return {"rejected", "untrusted"} if sample["tee"] != "snp" else {"rejected"}
    return {"untrusted"}


def test_every_sample_is_judged_as_its_manifest_says(evidence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All samples of the technologies that are built in; those without a CRL are judged without one."""
    wrong = []
    for sample in samples(evidence):
        folder = evidence / sample["id"]
        file = next(folder / name for name in FILES if (folder / name).exists())
        args: list[object] = [file, "--endorsements", folder]
        args += ["--at", sample["verify_at"]] if sample["verify_at"] else []
        args += [] if any(folder.glob("*.crl")) else ["--without-crl"]
        code, verdict = verify(capsys, *args)
        if verdict["verdict"] not in wanted(sample):
            wrong.append((sample["id"], sample["expect"], verdict["verdict"], verdict["reasons"]))
        assert GATES[code] in {verdict["verdict"], ""}
    assert wrong == []


@pytest.mark.parametrize("name", ["enarx-icelake-i5-csr-tcb", "enarx-icelake-xeon-csr-tcb"])
def test_the_originals_sgx_requests(
    name: str, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Untrusted alone, rejected with their endorsements, accepted by a policy that allows them, untrusted today."""
    folder = evidence / "sgx" / name
    request = folder / "csr.der"
    when = "2023-02-06T06:38:58Z"
    code, verdict = verify(capsys, request, "--at", when)
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert verdict["reasons"][0].startswith("qe_identity.kind")
    code, verdict = verify(capsys, request, "--at", when, "--endorsements", folder)
    assert (code, verdict["verdict"]) == (77, "rejected")
    assert "OutOfDate" in verdict["reasons"][0]
    assert any("INTEL-SA-" in reason for reason in verdict["reasons"])
    advisories = verdict["claims"]["advisories"]
    config = tmp_path / "steward.toml"
    config.write_text(
        f"[sgx]\nhash = ['{verdict['claims']['measurement']}']\n"
        f"allowed_tcb_statuses = ['UpToDate', 'OutOfDate']\nallowed_advisories = {json.dumps(advisories)}\n"
    )
    code, verdict = verify(capsys, request, "--at", when, "--endorsements", folder, "--config", config)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    code, verdict = verify(capsys, request, "--endorsements", folder, "--config", config)
    assert (code, verdict["verdict"]) == (77, "untrusted")


@pytest.mark.skipif("snp" not in KNOWN, reason="snp is not among the technologies that are built in")
def test_the_originals_snp_request(evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted at its time, also by a policy with the originals' digests and version 2; untrusted today."""
    folder = evidence / "snp" / "enarx-milan-csr-crl"
    request = folder / "csr.der"
    when = "2022-11-01T13:34:46Z"
    code, verdict = verify(capsys, request, "--at", when)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    config = tmp_path / "steward.toml"
    measurement = verdict["claims"]["measurement"]
    config.write_text(f"[snp]\nhash = ['{measurement}']\nminimum_report_version = 2\n")
    code, verdict = verify(capsys, request, "--at", when, "--config", config)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    config.write_text(f"[snp]\nhash = ['{measurement}']\n")
    code, verdict = verify(capsys, request, "--at", when, "--config", config)
    assert (code, verdict["verdict"]) == (77, "rejected")
    code, verdict = verify(capsys, request)
    assert (code, verdict["verdict"]) == (77, "untrusted")
