"""Recorded evidence, judged by `steward verify` as its manifest says, wherever it lies beside the checkout."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enarx.cli.steward import main
from enarx.tee import TECHNOLOGIES
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.quoted import Quoted
from tests.values import replace

KNOWN = {technology.name for technology in TECHNOLOGIES}
FILES = ("evidence.json", "csr.der", "csr.hex", "quote.bin", "report.bin", "attestation.cbor", "token.cbor")
GATES = {0: "accepted", 65: "malformed", 77: ""}


def samples(folder: Path) -> list[Mapping[str, Any]]:  # Any: the manifest's own
    manifest = tomllib.loads((folder / "MANIFEST.toml").read_text())
    known = [sample for sample in manifest["sample"] if sample["tee"] in KNOWN]
    return [  # Azure's come in parts or whole; the parts are put together in a test of their own
        sample for sample in known if not sample["tee"].startswith("az-") or (folder / sample["id"] / FILES[0]).exists()
    ]


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
    if expect.startswith("crypto ok, TCB OutOfDate"):
        return {"rejected"}
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
        for key in folder.glob("cpak_pub.pem"):  # Arm has no root: the platform's key has to be named
            args += ["--anchor", key]
        code, verdict = verify(capsys, *args)
        if verdict["verdict"] not in wanted(sample):
            wrong.append((sample["id"], sample["expect"], verdict["verdict"], verdict["reasons"]))
        assert GATES[code] in {verdict["verdict"], ""}
    assert wrong == []


def rewritten(data: bytes, change: str) -> bytes:
    """A recorded quote that names its PCK certificate, carries it alone, or has its chain in CRLF: none of it is signed."""
    quote, pck = Quote.parse(data), Quoted.parse(data).pck
    kind, certification = {
        "encrypted": (3, bytes(384) + pck.cpu_svn + pck.pce_svn.to_bytes(2, "little") + pck.pce_id),
        "clear": (1, pck.ppid + pck.cpu_svn + pck.pce_svn.to_bytes(2, "little") + pck.pce_id),
        "leaf": (4, quote.certification.partition(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----"),
        "crlf": (5, quote.certification.rstrip(b"\0").replace(b"\n", b"\r\n") + b"\r\n\0\0\0"),
    }[change]
    return replace(quote, certification_type=kind, certification=certification).encode()


@pytest.mark.parametrize("change", ["encrypted", "clear", "leaf", "crlf"])
def test_recorded_quotes_with_their_chain_beside_them(
    change: str, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judged as they are with their chain inside; without the chain they are untrusted, and never malformed."""
    seen = set()
    for sample in samples(evidence):
        folder, verdicts = evidence / sample["id"], list[tuple[str, list[str]]]()
        if not sample["verify_at"] or sample["tee"] not in {"sgx", "tdx"} or not (folder / "quote.bin").exists():
            continue
        if wanted(sample) == {"malformed"}:
            continue
        data = (folder / "quote.bin").read_bytes()
        (tmp_path / "chain.pem").write_bytes(Quote.parse(data).certification)
        (tmp_path / "quote.bin").write_bytes(rewritten(data, change))
        (tmp_path / "docs").mkdir(exist_ok=True)
        for file in (tmp_path / "docs").iterdir():
            file.unlink()
        for name in ("tcb_info.json", "qe_identity.json", "root_ca.crl", "pck_ca.crl", "tcb_info_issuer_chain.pem"):
            if (folder / name).exists():
                (tmp_path / "docs" / name).write_bytes((folder / name).read_bytes())
        at = ["--at", sample["verify_at"], "--endorsements", tmp_path / "docs"]
        for file, *beside in (
            (folder / "quote.bin",),
            (tmp_path / "quote.bin", "--endorsements", tmp_path / "chain.pem"),
        ):
            _, verdict = verify(capsys, file, *at, *beside)
            verdicts.append((verdict["verdict"], verdict["reasons"]))
        assert verdicts[0] == verdicts[1], sample["id"]
        if change != "crlf":
            _, verdict = verify(capsys, tmp_path / "quote.bin", *at)
            assert (verdict["verdict"], "among the endorsements" in "".join(verdict["reasons"])) == (
                "untrusted",
                True,
            )
        seen.add((sample["tee"], verdicts[0][0]))
    assert seen >= {("sgx", "rejected"), ("tdx", "accepted")}


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


def test_the_originals_snp_request(evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted at its time, also by the originals' own policy with version 2; untrusted today."""
    folder = evidence / "snp" / "enarx-milan-csr-crl"
    request = folder / "csr.der"
    when = "2022-11-01T13:34:46Z"
    code, verdict = verify(capsys, request, "--at", when)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    report = verdict["claims"]["report"]
    config = tmp_path / "steward.toml"
    policy = (
        f"[snp]\nsigner = ['{report['author_key_digest']}']\nid_key_digest = ['{report['id_key_digest']}']\n"
        f"hash = ['{report['measurement']}']\nabi = '>=1.51'\npolicy_flags = ['SMT']\nplatform_info_flags = 'SME'\n"
    )
    config.write_text(policy + "minimum_report_version = 2\n")
    code, verdict = verify(capsys, request, "--at", when, "--config", config)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    config.write_text(policy)
    code, verdict = verify(capsys, request, "--at", when, "--config", config)
    assert (code, verdict["verdict"]) == (77, "rejected")
    code, verdict = verify(capsys, request)
    assert (code, verdict["verdict"]) == (77, "untrusted")


def test_the_oldest_snp_requests_say_what_they_are(evidence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From before CRLs: explained, and untrusted unless the missing list is allowed by name."""
    request = evidence / "snp" / "enarx-milan-csr-signed" / "csr.der"
    when = ("--at", "2022-09-30T12:48:56Z")
    code, verdict = verify(capsys, request, *when)
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert verdict["reasons"][0].startswith("crl.ark")
    code, verdict = verify(capsys, request, *when, "--without-crl")
    assert (code, verdict["verdict"]) == (0, "accepted")
    assert "an older form of SNP evidence: without CRLs" in verdict["notes"]


def test_the_revoked_intermediate_of_genoa(evidence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not count, with or without a list that names it; the one that replaced it does."""
    folder = evidence / "snp" / "neg-genoa-vcek-under-revoked-2022-01-ask"
    given = ("--at", "2026-02-06T00:00:00Z", "--without-crl")
    code, verdict = verify(capsys, folder / "report.bin", *given, "--endorsements", folder)
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert "serial 0x20001" in verdict["reasons"][0]
    code, verdict = verify(capsys, folder / "report.bin", *given, "--endorsements", folder / "vcek.der")
    assert (code, verdict["verdict"]) == (0, "accepted")


def test_turin_needs_its_root_from_outside(evidence: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pinned by digest: the reason says which certificate is missing; any other does not do."""
    folder = evidence / "snp" / "oak-turin-v5"
    given = [folder / "report.bin", "--at", "2025-07-21T00:00:00Z", "--without-crl"]
    parts = {name: ("--endorsements", folder / f"{name}.der") for name in ("vcek", "ask", "ark")}
    assert verify(capsys, *given, *parts["vcek"], *parts["ask"], *parts["ark"])[0] == 0
    code, verdict = verify(capsys, *given, *parts["vcek"], *parts["ask"])
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert "ARK-Turin, pinned by SHA-256" in verdict["reasons"][0]
    assert verify(capsys, *given, *parts["vcek"], *parts["ark"])[1]["reasons"] == [
        "VCEK: its issuer 'SEV-Turin' is not among the certificates"
    ]


@pytest.mark.parametrize("tee", ["az-snp", "az-tdx", "nitro", "cca"])
def test_what_is_cut_off_or_added_is_refused_in_one_sentence(
    tee: str, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing, a part, a byte less, a byte more, zeros, twice: a verdict each, and never a bug of ours."""
    for sample in samples(evidence):
        if sample["tee"] != tee:
            continue
        folder = evidence / sample["id"]
        whole = next(folder / name for name in FILES if (folder / name).exists())
        data = whole.read_bytes()
        damaged = (b"", data[:1], data[: len(data) // 2], data[:-9], data + b"\0", bytes(len(data)), data * 2)
        for bytes_ in damaged:
            file = tmp_path / whole.name
            file.write_bytes(bytes_)
            code, verdict = verify(capsys, file, "--at", sample["verify_at"] or "2026-01-01T00:00:00Z")
            assert code in {65, 77}, (sample["id"], len(bytes_), verdict)
