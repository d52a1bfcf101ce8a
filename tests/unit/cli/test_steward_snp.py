"""`steward verify` on SNP reports, with endorsements in whatever files they come."""

import json
from pathlib import Path
from typing import Any

import pytest

from enarx.cli.steward import main
from enarx.pki.certificate import pem
from enarx.tee.snp.simulator import SnpMachine, Vendor
from enarx.tee.snp.tcb import Tcb
from tests.unit.steward import support

AT = support.AT
WHEN = "2026-06-01T12:00:00Z"
DATA = bytes(range(64))
GUIDS = {
    "vcek": "63da758de6644564adc5f4b93be8accd",
    "vlek": "a8074bc2a25a483eaae639c045a0b8a1",
    "ask": "4ab7b379bbac4fe4a02f05aef327c782",
    "ark": "c0b406a4a803495297433fb6014cd0ae",
    "crl": "92f81bc358114d3d97ffd19f88dc67ea",
}


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    return Vendor.create(AT, product="Genoa")


@pytest.fixture(scope="module")
def machine(vendor: Vendor) -> SnpMachine:
    return SnpMachine.create(vendor, AT, measurement=bytes(48))


class Folder:
    """A report, the root beside it, and a directory of endorsements."""

    def __init__(self, path: Path, vendor: Vendor, report: bytes) -> None:
        self.path, self.docs = path, path / "docs"
        self.docs.mkdir()
        (path / "report.bin").write_bytes(report)
        (path / "root.der").write_bytes(vendor.ark.certificate)

    def put(self, **files: bytes) -> None:
        for name, data in files.items():
            (self.docs / name.replace("_", ".")).write_bytes(data)

    def verify(
        self, capsys: pytest.CaptureFixture[str], *args: object, file: str = "report.bin"
    ) -> tuple[int, dict[str, Any]]:  # Any: JSON
        given = [self.path / file, "--endorsements", self.docs, "--anchor", self.path / "root.der", "--at", WHEN, *args]
        with pytest.raises(SystemExit) as end:
            main.main(["verify", *(str(arg) for arg in given), "--json"], prog_name="steward")
        return int(end.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path: Path, vendor: Vendor, machine: SnpMachine) -> Folder:
    return Folder(tmp_path, vendor, machine.report(DATA))


def table(swapped: bool, **parts: bytes) -> bytes:
    """AMD's certificate table, with the GUIDs in one order of bytes or the other."""
    head, body = b"", b""
    for name, data in parts.items():
        guid = bytes.fromhex(GUIDS[name])
        guid = guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:] if swapped else guid
        offset = 24 * (len(parts) + 1) + len(body)
        head += guid + offset.to_bytes(4, "little") + len(data).to_bytes(4, "little")
        body += data
    return head + bytes(24) + body + bytes(100)  # hosts pad the table to whole pages


@pytest.mark.parametrize("form", ["der", "pem", "chain", "hex", "table", "swapped", "concatenated"])
def test_endorsements_in_every_form(
    form: str, folder: Folder, vendor: Vendor, machine: SnpMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loose files, a chain of intermediate and root in one PEM, hexadecimal, and what a host hands to its guest."""
    vcek, ask, ark, crl = machine.certificate, vendor.ask.certificate, vendor.ark.certificate, vendor.crl(AT)
    files = {
        "der": {"vcek_der": vcek, "ask_der": ask, "ark_crl": crl},
        "pem": {"vcek_pem": pem("CERTIFICATE", vcek), "ask_pem": pem("CERTIFICATE", ask), "c": pem("X509 CRL", crl)},
        "chain": {
            "vcek_pem": pem("CERTIFICATE", vcek),
            "cert_chain": b"subject=SEV-Genoa\n" + pem("CERTIFICATE", ask) + pem("CERTIFICATE", ark),
            "crl": crl,
        },
        "hex": {"vcek_hex": vcek.hex().encode(), "ask_hex": ask.hex().encode() + b"\n", "crl_hex": crl.hex().encode()},
        "table": {"certs_bin": table(swapped=False, vcek=vcek, ask=ask, ark=ark, crl=crl)},
        "swapped": {"certs_bin": table(swapped=True, ark=ark, ask=ask, vcek=vcek, crl=crl)},
        "concatenated": {"all_der": vcek + ask + ark + crl},
    }
    folder.put(README_txt=b"nothing of the kind", **files[form])
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"], verdict["reasons"]) == (0, "accepted", [])
    assert [Path(item["source"]).name for item in verdict["endorsements"]["passed_over"]] == ["README.txt"]
    assert verdict["claims"]["product"] == "Genoa"
    assert verdict["claims"]["report"]["report_data"] == verdict["claims"]["report_data"] == DATA.hex()
    assert verdict["claims"]["tcb"]["reported"] == {"bootloader": 9, "tee": 0, "snp": 27, "microcode": 80}


def test_a_report_with_the_table_that_its_host_handed_out(
    folder: Folder, vendor: Vendor, machine: SnpMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """AMD's extended request gives both at once; the root in the table is no more an anchor than elsewhere."""
    given = table(swapped=False, vcek=machine.certificate, ask=vendor.ask.certificate, ark=vendor.ark.certificate)
    (folder.path / "extended.bin").write_bytes(machine.report(DATA) + given)
    code, verdict = folder.verify(capsys, "--without-crl", file="extended.bin")
    assert (code, verdict["verdict"], verdict["reasons"]) == (0, "accepted", [])
    (folder.path / "extended.bin").write_bytes(machine.report(DATA) + given[:-101])
    assert folder.verify(capsys, "--without-crl", file="extended.bin")[0] == 65


def test_a_vlek_and_its_intermediate(tmp_path: Path, vendor: Vendor, capsys: pytest.CaptureFixture[str]) -> None:
    """A cloud's key, from the table that its host hands out."""
    cloud = SnpMachine.create(vendor, AT, measurement=bytes(48), kind="VLEK", version=3)
    folder = Folder(tmp_path, vendor, cloud.report(DATA))
    folder.put(certs_bin=table(swapped=False, vlek=cloud.certificate, ask=vendor.asvk.certificate, crl=vendor.crl(AT)))
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    assert verdict["claims"]["vek"]["kind"] == "VLEK"


@pytest.mark.parametrize("snp", [22, 23])
def test_an_old_firmware_is_accepted_with_a_note(
    snp: int, tmp_path: Path, vendor: Vendor, capsys: pytest.CaptureFixture[str]
) -> None:
    """No status is required where none is published; what `OutOfDate` is compared with is said beneath the verdict."""
    tcb = Tcb(bootloader=9, tee=0, snp=snp, microcode=80)
    machine = SnpMachine.create(vendor, AT, measurement=bytes(48), tcb=tcb)
    folder = Folder(tmp_path, vendor, machine.report(DATA))
    folder.put(a=machine.certificate, b=vendor.ask.certificate, c=vendor.crl(AT))
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"]) == (0, "accepted"), verdict["reasons"]
    old = snp == 22
    assert verdict["claims"]["tcb_status"] == ("OutOfDate" if old else "UpToDate")
    notes = [note for note in verdict["notes"] if note.startswith("TCB status")]
    assert ["asked for by AMD-SB-3019" in note for note in notes] == [True] * old


@pytest.mark.parametrize("writing", ["binary", "hex", "HEX with lines"])
def test_a_report_in_every_writing(
    writing: str, folder: Folder, vendor: Vendor, machine: SnpMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told by its content, and bound to the report data that was given."""
    folder.put(a=machine.certificate, b=vendor.ask.certificate, c=vendor.crl(AT))
    report = (folder.path / "report.bin").read_bytes()
    text = report.hex().upper()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    data = {"binary": report, "hex": f"{report.hex()}\n".encode(), "HEX with lines": lines.encode()}[writing]
    (folder.path / "other").write_bytes(data)
    code, verdict = folder.verify(capsys, "--report-data", DATA.hex(), file="other")
    assert (code, verdict["verdict"], verdict["format"]) == (0, "accepted", "snp"), verdict["reasons"]
    code, verdict = folder.verify(capsys, "--report-data", "00" * 64, file="other")
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert verdict["reasons"][0].startswith("binding")


def test_what_is_missing_is_named(
    folder: Folder, vendor: Vendor, machine: SnpMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key's certificate, the intermediate, the list; the last can be done without, by name."""
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert verdict["reasons"] == ["no certificate of a VCEK came with the evidence or lies in the collateral"]
    folder.put(vcek_der=machine.certificate)
    _, verdict = folder.verify(capsys)
    assert verdict["reasons"] == ["VCEK: its issuer 'SEV-Genoa' is not among the certificates"]
    folder.put(ask_der=vendor.ask.certificate)
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"]) == (77, "untrusted")
    assert verdict["reasons"][0].startswith("crl.ark")
    code, verdict = folder.verify(capsys, "--without-crl")
    assert (code, verdict["verdict"], verdict["without_crl"]) == (0, "accepted", True)


@pytest.mark.parametrize("size", [700, 1183, 1185, 4096])
def test_a_report_of_another_length_is_malformed(size: int, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut off or followed by something: SNP all the same, and the reason says by how much."""
    data = (folder.path / "report.bin").read_bytes().ljust(size, b"\0")[:size]
    (folder.path / "report.bin").write_bytes(data)
    code, verdict = folder.verify(capsys)
    assert (code, verdict["verdict"], verdict["technology"]) == (65, "malformed", "snp")
    assert verdict["reasons"] == [f"SNP report: expected 1184 bytes, found {size}"]
