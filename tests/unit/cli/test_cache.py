"""`enarx platform snp|sgx|tdx …` and `update-cache`: vendors' documents, kept where Keeps run."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from enarx.cli import cache
from enarx.cli.main import main
from enarx.errors import UnavailableError
from enarx.keep import measurement
from enarx.keep.backends import hosts, sevhost
from enarx.keep.backends.sevhost import HostChip
from enarx.keep.backends.simulated import Directory
from enarx.pki.certificate import Certificate, pem
from enarx.steward.collateral import read
from enarx.tee.dcap.simulator import FMSPC, Vendor
from enarx.tee.sgx import registration
from enarx.tee.snp.report import Report
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as AmdVendor
from enarx.tee.snp.tcb import Tcb
from tests.unit.steward.test_stock import AT, Amd, World
from tests.values import replace


@pytest.fixture(scope="module")
def vendors() -> tuple[Vendor, Amd]:
    return Vendor.create(AT), Amd.create()


@pytest.fixture
def world(vendors: tuple[Vendor, Amd]) -> World:
    return World(intel=vendors[0], amd=replace(vendors[1]))


@pytest.fixture
def run(world: World, start: Callable[..., int], tmp_path: Path) -> Callable[..., Result]:
    """`enarx …` with both vendors on loopback, and their roots known."""
    service = f"http://127.0.0.1:{start(world.app())}"
    anchors = []
    for name, certificate in (("amd", world.amd.issuer.certificate.der), ("intel", world.intel.root.certificate)):
        (tmp_path / name).write_bytes(certificate)
        anchors += ["--anchor", str(tmp_path / name)]

    def invoke(*arguments: str) -> Result:
        options = ["-d", str(tmp_path / "cache"), "--kds", service, "--pcs", service, *anchors]
        return CliRunner().invoke(main, [*arguments, *options])

    return invoke


def kinds(tmp_path: Path) -> set[str]:
    """What the cache holds."""
    return {document.kind for document in read([tmp_path / "cache"]).documents}


def test_amds_lists_are_fetched(run: Callable[..., Result], world: World, tmp_path: Path) -> None:
    """Chain and CRL of a product; what AMD does not have is told."""
    done = run("platform", "snp", "cache-crl", "--product", "milan")
    assert done.exit_code == 0, done.output
    assert kinds(tmp_path) == {"certificate", "CRL"}
    assert "/vcek/v1/Milan/crl" in world.asked
    assert "passed over" in done.output  # the VLEK's chain


def test_intels_documents_are_fetched(run: Callable[..., Result], world: World, tmp_path: Path) -> None:
    """CRLs and identity first; TCB info of the families that are named, and of those held the next time."""
    assert run("platform", "sgx", "cache-crl").exit_code == 0
    assert run("platform", "sgx", "cache-tcb", "--fmspc", FMSPC.hex()).exit_code == 0
    world.asked.clear()
    done = run("platform", "sgx", "cache-tcb", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["documents"]
    assert any(path.startswith("/sgx/certification/v4/tcb") for path in world.asked)


def test_a_family_has_to_be_known(run: Callable[..., Result]) -> None:
    """Nothing is guessed about the platform."""
    assert run("platform", "tdx", "cache-tcb").exit_code == 64
    assert run("platform", "tdx", "cache-tcb", "--fmspc", "12").exit_code == 64


@pytest.mark.parametrize(
    ("vendor", "path"), [("amd", "/vcek/v1/Milan/crl"), ("intel", "/sgx/certification/v4/qe/identity")]
)
def test_update_cache_knows_what_a_vendors_machines_need(
    run: Callable[..., Result], world: World, vendor: str, path: str
) -> None:
    """One command for timers; a document that is missing at the vendor's does not keep the others away."""
    run("update-cache", "--vendor", vendor)
    assert path in world.asked


def test_the_vcek_is_printed_or_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the originals: without one `--file` says so and succeeds."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    empty = CliRunner().invoke(main, ["platform", "snp", "vcek", "--file"])
    assert (empty.exit_code, empty.stderr) == (0, "No cache file found.\n")
    assert CliRunner().invoke(main, ["platform", "snp", "vcek"]).exit_code != 0
    machines = Directory.create(tmp_path / "sim", datetime.now(UTC), measurement.of_agent)
    machine = machines.attester("snp", measurement.of_agent).machine
    (tmp_path / "a.der").write_bytes(machine.certificate)  # type: ignore[attr-defined]  # of the SNP simulator
    assert CliRunner().invoke(main, ["platform", "snp", "vcek"]).output.startswith("-----BEGIN CERTIFICATE-----")
    assert CliRunner().invoke(main, ["platform", "snp", "vcek", "--file"]).output == f"{tmp_path / 'a.der'}\n"


def test_doctor_says_what_is_missing_and_exits_by_it() -> None:
    """On a machine without a TEE nothing that protects is ready, and scripts can tell."""
    done = CliRunner().invoke(main, ["platform", "doctor", "--json"])
    found = json.loads(done.output)
    assert done.exit_code == (69 if found["chosen"] is None else 0)
    assert found["missing"]["process"] == []
    assert found["missing"]["inside"] or found["chosen"]


def test_setup_says_what_it_does(run: Callable[..., Result], tmp_path: Path) -> None:
    """Without a request nothing is registered, and the documents are fetched all the same."""
    done = run("platform", "setup", "--vendor", "intel", "--efivars", str(tmp_path / "none"))
    assert done.exit_code == 0, done.output
    assert "not registered" in done.stderr
    assert kinds(tmp_path)


def test_setup_registers_a_platform_whose_firmware_asks_for_it(
    run: Callable[..., Result], tmp_path: Path, start: Callable[..., int]
) -> None:
    """Then documents are fetched as ever."""
    sent: list[bytes] = []

    async def intel(request: Request) -> Response:
        sent.append(await request.body())
        return Response("ab" * 16, status_code=201)

    service = f"http://127.0.0.1:{start(Starlette(routes=[Route('/{path:path}', intel, methods=['POST'])]))}"
    body = next(iter(registration.KINDS)) + b"manifest"
    request = registration.Request(kind="platform", body=body)
    (tmp_path / registration.REQUEST_NAME).write_bytes(request.encode())
    options = ["--vendor", "intel", "--efivars", str(tmp_path), "--registration", service]
    done = run("platform", "setup", *options)
    assert (done.exit_code, sent) == (0, [body]), done.output
    assert f"PPID {'ab' * 16}" in done.stderr
    assert kinds(tmp_path)


VENDOR = AmdVendor.create(AT)


def chip_at(world: World, monkeypatch: pytest.MonkeyPatch, tcb: Tcb, chip_id: bytes | None = None) -> SnpMachine:
    """This machine is a host of SNP guests with firmware of that level, and AMD has the certificate of its chip."""
    found = SnpMachine.create(VENDOR, AT, measurement=bytes(48), tcb=tcb, chip_id=chip_id)
    report = Report.parse(found.report(bytes(64)))
    chip = HostChip(cpuid=(25, 1, 1), chip_id=report.chip_id, reported_tcb=report.reported_tcb)
    monkeypatch.setattr(sevhost, "present", lambda _: True)
    monkeypatch.setattr(sevhost, "chip", lambda _: chip)
    levels = f"blSPL={tcb.bootloader:02d}&teeSPL={tcb.tee:02d}&snpSPL={tcb.snp:02d}&ucodeSPL={tcb.microcode:02d}"
    world.beside[f"/vcek/v1/Milan/{report.chip_id.hex()}?{levels}"] = found.certificate
    return found


FIRMWARE = Tcb(bootloader=9, tee=0, snp=27, microcode=80)
NEWER = replace(FIRMWARE, snp=28)


@pytest.fixture
def host(world: World, monkeypatch: pytest.MonkeyPatch) -> SnpMachine:
    return chip_at(world, monkeypatch, FIRMWARE)


def test_setup_fetches_the_certificate_of_the_chip_and_amds_documents(
    run: Callable[..., Result], world: World, host: SnpMachine, tmp_path: Path
) -> None:
    """Once: the second time it is in the cache, where `vcek` prints it and `deploy` finds it."""
    done = run("platform", "setup", "--vendor", "amd")
    assert done.exit_code == 0, done.output
    assert kinds(tmp_path) == {"certificate", "CRL"}
    (asked,) = (path for path in world.asked if "?blSPL" in path)
    printed = run("platform", "snp", "vcek")
    assert printed.stdout == Certificate.parse(host.certificate).to_pem().decode()
    again = run("platform", "snp", "update", "--json")
    assert again.exit_code == 0, again.output
    assert Path(json.loads(again.stdout)["file"]).read_bytes() == host.certificate
    assert world.asked.count(asked) == 1


def test_setup_goes_on_without_a_chip_of_amds(run: Callable[..., Result], world: World, tmp_path: Path) -> None:
    """A machine that only deploys to others has documents to keep, and no chip."""
    done = run("platform", "setup", "--vendor", "amd")
    assert done.exit_code == 0, done.output
    assert "no certificate of a chip: no SEV-SNP here" in done.stderr
    assert kinds(tmp_path)
    alone = run("platform", "snp", "update")
    assert (alone.exit_code, alone.stdout) == (69, "")


def test_update_cache_has_little_to_do_for_other_processors(
    run: Callable[..., Result], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a realm of Arm's the timer renews what the cache holds, and nothing failed; `setup` wants to know for whom."""
    monkeypatch.setattr(hosts, "cpu_vendor", lambda _: "unknown")
    done = run("update-cache")
    assert (done.exit_code, world.asked) == (0, []), done.output
    assert "is neither AMD's nor Intel's: only what the cache holds" in done.stderr
    assert run("platform", "snp", "cache-crl", "--product", "milan").exit_code == 0
    world.asked.clear()
    assert run("update-cache").exit_code == 0
    assert "/vcek/v1/Milan/crl" in world.asked
    assert run("platform", "setup").exit_code == 65


def test_update_cache_fetches_the_chips_certificate_after_an_update_of_the_firmware(
    run: Callable[..., Result], world: World, monkeypatch: pytest.MonkeyPatch, host: SnpMachine
) -> None:
    """The key is derived from the level of the firmware: a timer finds the new one, and asks AMD once for each."""
    for _ in range(2):
        assert run("update-cache", "--vendor", "amd").exit_code == 0
    assert run("platform", "snp", "vcek").stdout == Certificate.parse(host.certificate).to_pem().decode()
    updated = chip_at(world, monkeypatch, NEWER, chip_id=host.chip_id)
    done = run("update-cache", "--vendor", "amd", "--json")
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout)["documents"][0]
    assert (first["source"], Path(first["file"]).read_bytes()) == ("certificate of this chip", updated.certificate)
    assert run("platform", "snp", "vcek").stdout == Certificate.parse(updated.certificate).to_pem().decode()
    assert len([path for path in world.asked if "?blSPL" in path]) == 2


def test_update_cache_goes_on_where_amd_has_no_certificate_and_fails(
    run: Callable[..., Result], world: World, host: SnpMachine, tmp_path: Path
) -> None:
    """The lists are fetched all the same; a service that watches its units sees that something is missing."""
    world.beside.clear()
    done = run("update-cache", "--vendor", "amd")
    assert done.exit_code != 0
    assert host.chip_id.hex() in done.stderr
    assert "CRL" in kinds(tmp_path)


def test_update_cache_goes_on_without_a_chip_of_amds(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is no host of SNP guests, or whose /dev/sev is of SEV alone: nothing failed."""

    def refuse(_: object) -> HostChip:
        raise UnavailableError("/dev/sev: Input/output error (firmware 0x19)")

    plain = run("update-cache", "--vendor", "amd")
    assert (plain.exit_code, "no certificate of a chip: no SEV-SNP here" in plain.stderr) == (0, True), plain.output
    monkeypatch.setattr(sevhost, "present", lambda _: True)
    monkeypatch.setattr(sevhost, "chip", refuse)
    refused = run("update-cache", "--vendor", "amd")
    assert (refused.exit_code, "firmware 0x19" in refused.stderr) == (0, True), refused.output
    assert "chip" not in run("update-cache", "--vendor", "intel").stderr


def test_vendors_that_do_not_answer_are_an_outage(tmp_path: Path) -> None:
    """One sentence for each server, and the code that a timer tries again after."""
    options = ["-d", str(tmp_path), "--kds", "http://127.0.0.1:9", "--pcs", "http://127.0.0.1:9"]
    done = CliRunner().invoke(main, ["update-cache", "--vendor", "intel", *options])
    assert done.exit_code == 69
    assert "documents were not taken" in done.stderr
    assert done.stderr.count("127.0.0.1:9") == 1


def pck_ids() -> tuple[str, str]:
    """What the tool writes for a platform, and what the service is asked for it."""
    ppid, pce_id, cpu_svn, pce_svn = b"\x5a" * 384, b"\0\0", bytes(16), b"\x0d\0"
    line = ",".join(value.hex() for value in (ppid, pce_id, cpu_svn, pce_svn, b"\1" * 16))
    query = f"encrypted_ppid={ppid.hex().upper()}&cpusvn={cpu_svn.hex()}&pcesvn=0D00&pceid=0000"
    return line + "\n", f"/sgx/certification/v4/pckcert?{query}"


def test_the_platforms_certificate_tells_its_family(run: Callable[..., Result], world: World, tmp_path: Path) -> None:
    """What the retrieval tool wrote is asked for; the family is printed, and `cache-tcb` knows it from then on."""
    machine = world.intel.machine(AT)
    line, path = pck_ids()
    (tmp_path / "ids.csv").write_text(line)
    issuer = world.intel.platform.certificate
    world.beside[path] = pem("CERTIFICATE", machine.chain[0])
    world.headers[path] = {"SGX-PCK-Certificate-Issuer-Chain": quote(pem("CERTIFICATE", issuer).decode())}
    done = run("platform", "sgx", "cache-pck", "--ids", str(tmp_path / "ids.csv"))
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"FMSPC {FMSPC.hex().upper()}\n")
    assert "5a5a" not in done.output.lower()
    assert {machine.chain[0], issuer} <= set(read([tmp_path / "cache"]).endorsements.certificates)
    assert run("platform", "sgx", "cache-tcb").exit_code == 0
    assert any("tcb?fmspc=" in asked for asked in world.asked)


def test_a_platform_that_intel_does_not_know(run: Callable[..., Result], world: World, tmp_path: Path) -> None:
    """What to do is said, and not what the platform is known by; nor is a broken file sent."""
    ids, key = tmp_path / "ids.csv", tmp_path / "key"
    ids.write_text(pck_ids()[0])
    unknown = run("platform", "sgx", "cache-pck", "--ids", str(ids))
    assert unknown.exit_code == 66
    assert "`enarx platform sgx register`" in unknown.stderr
    assert "5A5A" not in unknown.output
    key.write_text("0123abcd")
    key.chmod(0o600)
    world.refusals.append((401, {}))
    assert "--subscription-key" in run("platform", "sgx", "cache-pck", "--ids", str(ids)).stderr
    world.asked.clear()
    ids.write_text("00,11\n")
    broken = run("platform", "sgx", "cache-pck", "--ids", str(ids), "--subscription-key", str(key))
    assert broken.exit_code == 65
    assert f"{ids}: encrypted PPID: expected 384 bytes in hexadecimal" in broken.stderr
    assert world.asked == []


def test_the_retrieval_tool_is_called(
    run: Callable[..., Result], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is installed; where not, or where it fails, that is said."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "not installed here" in run("platform", "sgx", "cache-pck").stderr
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "PCKIDRetrievalTool"
    tool.write_text("#!/bin/sh\necho no enclave >&2\nexit 3\n")
    tool.chmod(0o755)
    failed = run("platform", "sgx", "cache-pck")
    assert (failed.exit_code, "exit code 3: no enclave" in failed.stderr) == (69, True)
    line = pck_ids()[0]
    tool.write_text(f"#!/bin/sh\necho '{line.strip()}' > $2\n")
    run("platform", "sgx", "cache-pck")
    assert any("pckcert" in asked for asked in world.asked)


def test_initialize_does_what_the_vendor_needs(run: Callable[..., Result], host: SnpMachine, tmp_path: Path) -> None:
    """AMD's certificate of the chip; of Intel, registration, which a firmware that asks for nothing makes an error."""
    done = run("initialize", "--vendor", "amd")
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.strip()).read_bytes() == host.certificate
    assert run("initialize", "--vendor", "intel", "--efivars", str(tmp_path / "none")).exit_code == 66
