"""`steward` as its users meet it: exit codes, JSON, and messages that say what to do."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enarx.cli.steward import main
from enarx.pki import keys
from enarx.pki.certificate import pem
from enarx.steward.issuer import development
from enarx.tee.sgx.simulator import SgxMachine, Vendor
from tests.unit.steward import support

AT = support.AT
WHEN = "2026-06-01T12:00:00Z"


class Run:
    """One run of the program."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: object) -> None:
        with pytest.raises(SystemExit) as end:
            main.main([str(arg) for arg in args], prog_name="steward")
        self.code = end.value.code or 0
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out)
        return found


@pytest.fixture
def quote(tmp_path: Path) -> Path:
    """A directory with a simulated quote, the vendor's documents in `docs`, and its root."""
    vendor = Vendor.create(AT)
    machine = SgxMachine.create(vendor, AT, mr_enclave=bytes(range(32)))
    (tmp_path / "quote.bin").write_bytes(machine.quote(bytes(range(64))))
    (tmp_path / "docs").mkdir()
    for name, data in vendor.publish(AT).items():
        (tmp_path / "docs" / name).write_bytes(data)
    anchor = vendor.anchor().certificate
    assert anchor is not None
    (tmp_path / "root.der").write_bytes(anchor)
    return tmp_path


def test_a_quote_is_judged_with_its_endorsements(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted under the anchor that was named, with every caveat said."""
    args = [
        "verify",
        quote / "quote.bin",
        "--endorsements",
        quote / "docs",
        "--anchor",
        quote / "root.der",
        "--at",
        WHEN,
    ]
    run = Run(capsys, *args, "--json")
    assert run.code == 0
    assert (run.json["verdict"], run.json["technology"], run.json["reasons"]) == ("accepted", "sgx", [])
    notes = " ".join(str(note) for note in run.json["notes"])  # type: ignore[attr-defined]  # a list, as JSON says
    assert "no measurement was compared" in notes
    assert "nothing was bound" in notes
    assert "the anchor was named on the command line" in notes
    claims = run.json["claims"]
    assert isinstance(claims, dict)
    assert claims["measurement"] == bytes(range(32)).hex()
    assert claims["report_data"] == bytes(range(64)).hex()
    text = Run(capsys, *args)
    assert text.out.splitlines()[-1] == "ACCEPTED (sgx)"


def test_an_endorsement_is_never_an_anchor(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The root among the endorsements does not make itself believed."""
    (quote / "docs" / "root.der").write_bytes((quote / "root.der").read_bytes())
    run = Run(capsys, "verify", quote / "quote.bin", "--endorsements", quote / "docs", "--at", WHEN, "--json")
    assert (run.code, run.json["verdict"]) == (77, "untrusted")
    assert "is not trusted here" in str(run.json["reasons"])


def test_report_data_and_key_are_compared(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given what to bind to, all 64 bytes have to agree."""
    args = [
        "verify",
        quote / "quote.bin",
        "--endorsements",
        quote / "docs",
        "--anchor",
        quote / "root.der",
        "--at",
        WHEN,
    ]
    assert Run(capsys, *args, "--report-data", bytes(range(64)).hex()).code == 0
    wrong = Run(capsys, *args, "--report-data", bytes(64).hex(), "--json")
    assert (wrong.code, wrong.json["verdict"]) == (77, "untrusted")
    (quote / "key.pem").write_bytes(pem("PUBLIC KEY", keys.spki(keys.generate("P-256"))))
    assert Run(capsys, *args, "--key", quote / "key.pem").code == 77
    (quote / "key.pem").write_bytes(b"read EC key\n" + (quote / "key.pem").read_bytes())  # as openssl says it
    assert Run(capsys, *args, "--key", quote / "key.pem").code == 77
    assert Run(capsys, *args, "--key", quote / "key.pem", "--report-data", "00").code == 64
    assert Run(capsys, *args, "--report-data", "xx").code == 64
    assert Run(capsys, *args, "--report-data", "00").code == 64
    (quote / "many").mkdir()
    for number in range(1001):
        (quote / "many" / str(number)).touch()
    assert Run(capsys, *args, "--endorsements", quote / "many").code == 64
    (quote / "junk").write_bytes(b"junk")
    for option in ("--key", "--anchor"):
        assert Run(capsys, *args, option, quote / "junk").code == 64
        assert Run(capsys, *args, option, quote / "absent").code == 66
    lenient = Run(capsys, *args, "--without-crl", "--json").json["notes"]
    assert "revocation was left out: --without-crl" in lenient  # type: ignore[operator]  # a list
    assert any("--anchor named a root to believe: SHA-256 " in note for note in lenient)  # type: ignore[attr-defined]


def test_a_missing_crl_needs_the_word(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without lists the quote is untrusted, unless `--without-crl`, and then the verdict says so."""
    for file in (quote / "docs").glob("*.crl"):
        file.unlink()
    args = [
        "verify",
        quote / "quote.bin",
        "--endorsements",
        quote / "docs",
        "--anchor",
        quote / "root.der",
        "--at",
        WHEN,
    ]
    assert Run(capsys, *args).code == 77
    run = Run(capsys, *args, "--without-crl")
    assert run.code == 0
    assert "note: revocation was left out: --without-crl" in run.out


def test_a_policy_is_applied(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a configuration, its measurements count; an error in it is an error of usage."""
    config = quote / "steward.toml"
    args = ["verify", quote / "quote.bin", "--config", config, "--endorsements", quote / "docs", "--at", WHEN]
    simulated = "[unsafe.simulated]\nintel = ['root.der']\n[unsafe]\naccept_simulated = true\n"
    config.write_text(f"[sgx]\nhash = ['{'ff' * 32}']\n{simulated}")
    run = Run(capsys, *args)
    assert run.code == 77
    assert run.out.splitlines()[-1].startswith("REJECTED (sgx): policy.hash: expected ffff")
    config.write_text(f"[sgx]\nhash = ['{bytes(range(32)).hex()}']\n{simulated}")
    run = Run(capsys, *args)
    assert run.code == 0
    assert "note: the anchor is a simulator's: this proves nothing about any hardware" in run.out
    config.write_text("[sgx]\nhash = ['ff']\n")
    run = Run(capsys, *args)
    assert run.code == 64
    assert "steward.toml:2: sgx.hash[0]: expected 32 bytes of hex, found 1" in run.err


def test_requests_are_found_in_every_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DER, PEM and hexadecimal are the same request: untrusted, for it has no TEE."""
    request = support.request(support.nil_evidence())
    writings = {"der": request, "pem": pem("CERTIFICATE REQUEST", request), "hex": request.hex().encode() + b"\n"}
    for name, data in writings.items():
        (tmp_path / name).write_bytes(data)
        run = Run(capsys, "verify", tmp_path / name, "--json")
        assert (run.code, run.json["verdict"], run.json["technology"]) == (77, "untrusted", "nil")
    assert Run(capsys, "verify", tmp_path / "der", "--report-data", "00" * 64).code == 64


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x30\x82", b"3082ff", b"30820", bytes(1184)])
def test_what_is_nothing_is_malformed(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that nobody understands exit with 65."""
    (tmp_path / "file").write_bytes(data)
    run = Run(capsys, "verify", tmp_path / "file", "--json")
    assert (run.code, run.json["verdict"]) == (65, "malformed")


def test_exit_codes_of_usage_and_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 for wrong usage, 66 for a file that is not there."""
    (tmp_path / "file").write_bytes(support.request())
    assert Run(capsys, "verify").code == 64
    assert Run(capsys, "verify", tmp_path / "absent").code == 66
    assert Run(capsys, "verify", tmp_path / "file", "--endorsements", tmp_path / "absent").code == 66
    assert Run(capsys, "verify", tmp_path / "file", "--at", "yesterday").code == 64
    for moment in ("2026-01-01T00:00:00", "20260101T000000Z", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00"):
        assert Run(capsys, "verify", tmp_path / "file", "--at", moment).code == 64
    assert Run(capsys, "verify", tmp_path / "file", "--at", "2026-01-01t01:00:00.5+01:00").code == 77
    assert Run(capsys, "verify", tmp_path / "file", "--format", "floppy").code == 64
    assert Run(capsys, "vrify").code == 64


def test_options_alone_mean_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The originals had no commands; half a CA is refused in words."""
    run = Run(capsys, "-k", tmp_path / "ca.key")
    assert run.code == 65
    assert "this policy accepts nothing" in run.err
    (tmp_path / "options.toml").write_text(f'host = "steward.test"\nconfig = "{tmp_path}/absent.toml"\n')
    assert Run(capsys, f"@{tmp_path}/options.toml").code == 66
    assert Run(capsys, "@absent.toml").code == 64


def test_a_ca_is_made_once_and_renewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ca init` overwrites nothing, keys are private, and `ca rotate` keeps the root."""
    assert Run(capsys, "ca", "init", tmp_path / "ca").code == 0
    root = (tmp_path / "ca" / "root.pem").read_bytes()
    first = (tmp_path / "ca" / "ca.pem").read_bytes()
    assert {(tmp_path / "ca" / name).stat().st_mode & 0o777 for name in ("root.key", "ca.key")} == {0o600}
    again = Run(capsys, "ca", "init", tmp_path / "ca")
    assert again.code == 73
    assert "is there already, and nothing is overwritten" in again.err
    assert Run(capsys, "ca", "rotate", tmp_path / "ca").code == 0
    assert (tmp_path / "ca" / "root.pem").read_bytes() == root
    assert (tmp_path / "ca" / "ca.pem").read_bytes() != first
    (former,) = (tmp_path / "ca").glob("ca.former-*.pem")
    assert former.read_bytes() == first
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ca").glob("*.key")} == dict.fromkeys(
        ("root.key", "ca.key", former.with_suffix(".key").name), 0o600
    )


@pytest.mark.parametrize("name", ["", " ", "x" * 47, "a\nb"])
def test_a_name_that_no_certificate_can_have(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is made; the longest that fits is not."""
    run = Run(capsys, "ca", "init", tmp_path / "ca", "--name", name)
    assert (run.code, "expected 1 to 46 printable characters" in run.err) == (65, True)
    assert not (tmp_path / "ca").exists()
    assert Run(capsys, "serve", "--host", "x" * 65, "--addr", "127.0.0.1").code == 65
    assert Run(capsys, "ca", "init", tmp_path / "ca", "--name", "x" * 46).code == 0


def test_a_passphrase_encrypts_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable set, no key is written in the clear."""
    monkeypatch.setitem(os.environ, "STEWARD_KEY_PASSPHRASE", "correct horse")
    assert Run(capsys, "ca", "init", tmp_path / "ca").code == 0
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "ca" / "ca.key").read_bytes()


def test_an_empty_passphrase_is_no_way_to_write_keys_in_the_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever names a file means keys that are encrypted."""
    (tmp_path / "passphrase").touch(mode=0o600)
    run = Run(capsys, "ca", "init", tmp_path / "ca", "--passphrase-file", tmp_path / "passphrase")
    assert (run.code, "expected a passphrase, found nothing" in run.err) == (65, True)
    assert not (tmp_path / "ca").exists()


def test_the_configuration_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check-config` exits with 65 and the line for what is wrong, and else speaks in sentences."""
    config = tmp_path / "steward.toml"
    config.write_text(support.ACCEPT_NIL)
    assert "UNSAFE: requests without any TEE" in Run(capsys, "check-config", config).out
    config.write_text("[unsafe]\naccept_nill = true\n")
    run = Run(capsys, "check-config", config)
    assert run.code == 65
    assert "steward.toml:2: unsafe.accept_nill: unknown key" in run.err


def test_revoking_needs_a_memory_and_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `state` nothing can be revoked; without a rule nothing is."""
    config = tmp_path / "steward.toml"
    config.write_text(support.ACCEPT_NIL)
    assert Run(capsys, "revoke", "--config", config, "--serial", "1").code == 73
    config.write_text("state = 'state'\n" + support.ACCEPT_NIL)
    assert Run(capsys, "revoke", "--config", config).code == 64
    assert Run(capsys, "revoke", "--config", config, "--serial", "zz").code == 65
    for kind in ("--measurement", "--chip"):  # of no length that one has: it would take back nothing, for ever
        assert Run(capsys, "revoke", "--config", config, kind, "00" * 47).code == 65
    run = Run(capsys, "revoke", "--config", config, "--workload", str(support.WORKLOAD), "--json")
    assert (run.code, run.json) == (0, {"revoked": []})
    config.write_text("state = 'state'\naudit = 'audit.jsonl'\n" + support.ACCEPT_NIL)
    assert Run(capsys, "revoke", "--config", config, "--serial", "0A").out == "0 certificates revoked\n"
    told = json.loads((tmp_path / "audit.jsonl").read_text())
    assert (told["event"], told["kind"], told["value"], told["revoked"]) == ("revoke", "serial", "a", [])


def test_a_collateral_directory_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is not there, or is a file, is named by every command that needs it; what `add` found none in, too."""
    (tmp_path / "file").write_text("nothing")
    (tmp_path / "empty").mkdir()
    document = tmp_path / "one.pem"
    document.write_bytes(development("One", datetime.now(UTC)).certificate.to_pem())
    for command in (("show",), ("export", tmp_path / "out.tar")):
        for where in ("missing", "file"):
            run = Run(capsys, "collateral", *command, "-d", tmp_path / where)
            assert (run.code, str(tmp_path / where) in run.err, "directory" in run.err) == (66, True, True)
    run = Run(capsys, "collateral", "add", "-d", tmp_path / "file", document)
    assert (run.code, "not a directory" in run.err) == (66, True)
    run = Run(capsys, "collateral", "add", "-d", tmp_path / "docs", tmp_path / "empty")
    assert (run.code, "expected vendors' documents, found none" in run.err) == (66, True)
    assert Run(capsys, "collateral", "show", "-d", tmp_path / "empty").out == "0 documents\n"
    assert Run(capsys, "collateral", "add", "-d", tmp_path / "docs", document).code == 0
    exported = Run(capsys, "collateral", "export", "-d", tmp_path / "docs", tmp_path / "out.tar")
    assert exported.out == f"1 file in {tmp_path / 'out.tar'}\n"
    assert Run(capsys, "collateral", "show", "-d", tmp_path / "docs").out.splitlines()[-1].startswith("1 document;")


def test_no_more_of_a_file_is_read_than_any_document_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A device has no size and no end, and neither has a link to one that calls itself an archive."""
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    (tmp_path / "empty").touch()
    for path in ("/dev/zero", tmp_path / "zero.tar"):
        run = Run(capsys, "collateral", "add", "-d", tmp_path / "docs", path)
        assert (run.code, f"{path}: larger than" in run.err) == (65, True)
    assert "passed over" in Run(capsys, "collateral", "show", "/dev/zero").out
    told = Run(capsys, "verify", tmp_path / "empty", "--endorsements", "/dev/zero", "--json").json
    assert told["reasons"] == ["expected a certification request, a report or a quote, found nothing"]
    assert Run(capsys, "verify", "/dev/zero").code == 65


def test_an_anchor_is_a_certificate_or_a_key(tmp_path: Path, quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what tools write above it, too; anything else is said to be none."""
    pem = development("One", datetime.now(UTC)).certificate.to_pem()
    (tmp_path / "text.pem").write_bytes(b"subject=CN = One\n" + pem)
    (tmp_path / "text").write_text("hello")
    run = Run(capsys, "verify", quote / "quote.bin", "--anchor", tmp_path / "text")
    assert (run.code, "expected a certificate in DER or PEM, or a public key in PEM" in run.err) == (64, True)
    assert Run(capsys, "verify", quote / "quote.bin", "--anchor", tmp_path / "text.pem").code == 77


def test_collateral_is_shown_and_added(quote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` says what is held and until when; `add` copies."""
    shown = Run(capsys, "collateral", "show", quote / "docs", quote / "quote.bin")
    assert "TCB info" in shown.out
    assert "passed over" in shown.out
    (quote / "extra.pem").write_bytes(development("One", datetime.now(UTC)).certificate.to_pem())
    assert Run(capsys, "collateral", "add", quote / "extra.pem").code == 64
    assert Run(capsys, "collateral", "add", "-d", quote / "docs", quote / "extra.pem").code == 0
    listing = Run(capsys, "collateral", "show", quote / "docs", "--json").json
    assert any(document["title"] == "One" for document in listing["documents"])  # type: ignore[attr-defined]  # a list
