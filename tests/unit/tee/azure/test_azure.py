"""Azure's confidential VMs: hardware, paravisor, TPM and registers, each link refused by itself."""

import base64
import json
import struct
import tomllib
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from enarx import toml
from enarx.errors import MalformedError
from enarx.tee import azure
from enarx.tee.appraise import failed, judge
from enarx.tee.azure.hcl import HclReport
from enarx.tee.azure.policy import Policy, read_policy_as
from enarx.tee.azure.report import encode
from enarx.tee.azure.tpm import Quote
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, Leniency, Verdict
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as Amd
from tests.values import replace

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DATA = bytes(range(64))
MEASUREMENT = bytes(range(48))
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
REGISTERS = [sha256(bytes([index])).digest() for index in range(24)]
VENDOR = Amd.create(AT)
MACHINE = SnpMachine.create(VENDOR, AT, measurement=MEASUREMENT)


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def runtime(key: rsa.RSAPrivateKey = KEY) -> bytes:
    public = key.public_key().public_numbers()
    entry = {"kid": "HCLAkPub", "kty": "RSA", "e": number(public.e), "n": number(public.n)}
    return json.dumps({"keys": [entry], "vm-configuration": {}, "user-data": "00"}).encode()


def hcl(hardware: bytes, data: bytes, kind: int = 2) -> bytes:
    head = b"HCLA" + struct.pack("<IIII", 1, 32 + 1184 + 20 + len(data), 2, 0) + bytes(12)
    return (
        head
        + hardware.ljust(1184, b"\0")
        + struct.pack("<IIIII", 20 + len(data), 1, kind, 1, len(data))
        + data
        + bytes(99)
    )


def message(extra: bytes = DATA, registers: list[bytes] | None = None, mask: int = 0xFFFFFF) -> bytes:
    values = REGISTERS if registers is None else registers
    digest = sha256(b"".join(values[index] for index in range(24) if mask >> index & 1)).digest()
    head = bytes.fromhex("ff5443478018") + b"\0\x02ak" + len(extra).to_bytes(2, "big") + extra + bytes(25)
    return head + struct.pack(">IHB", 1, 0x000B, 3) + mask.to_bytes(3, "little") + b"\0\x20" + digest


def sign(data: bytes, key: rsa.RSAPrivateKey = KEY) -> bytes:
    return key.sign(data, padding.PKCS1v15(), SHA256())


def evidence(
    *,
    data: bytes | None = None,
    report_data: bytes | None = None,
    quoted: bytes | None = None,
    signature: bytes | None = None,
    registers: list[bytes] | None = None,
) -> Evidence:
    """A VM whose parts agree, but for what is given."""
    inside = runtime() if data is None else data
    bound = sha256(inside).digest() + bytes(32) if report_data is None else report_data
    hardware = MACHINE.evidence(bound)
    body = message() if quoted is None else quoted
    raw = MACHINE.report(bound)
    values = REGISTERS if registers is None else registers
    return encode("snp", hcl(raw, inside), body, sign(body) if signature is None else signature, values, hardware.body)


def appraise(found: Evidence, policy: Policy | None = None, expected: bytes = DATA) -> Appraisal:
    chosen = policy or Policy(hardware=azure.SNP.default_policy.hardware)
    judged = judge(azure.SNP, chosen, (VENDOR.anchor(),))
    return judged(found, Binding.of_report_data(expected), Endorsements(), AT)


def test_a_vm_whose_links_hold_is_accepted() -> None:
    """The quote's extra data is what is bound, and the measurement is the hardware's."""
    appraisal = appraise(evidence())
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.measurement == MEASUREMENT
    assert appraisal.claims.report_data == DATA
    short = DATA[:48] + bytes(16)
    for quoted in (
        message(short),
        message(short[:48]),
    ):  # the zeros may be left out, for there are TPMs that want it so
        assert appraise(evidence(quoted=quoted), expected=short).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"report_data": bytes(64)}, "azure.runtime_data"),
        ({"report_data": sha256(runtime()).digest() + b"\1" * 32}, "azure.runtime_data"),
        ({"data": runtime(OTHER)}, "azure.quote"),
        ({"signature": sign(b"another message")}, "azure.quote"),
        ({"registers": [bytes(32), *REGISTERS[1:]]}, "azure.registers"),
        ({"quoted": message(DATA[:63])}, "binding"),
        ({"quoted": message(DATA + b"\0")}, "binding"),
        ({"quoted": message(bytes(64))}, "binding"),
    ],
)
def test_each_link_is_refused_by_itself(change: dict[str, Any], check: str) -> None:
    """A paravisor that the hardware does not know, a TPM that it does not name, other registers, another key."""
    appraisal = appraise(evidence(**change))
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, (check,))


def test_hardware_that_nobody_vouches_for_ends_it() -> None:
    """Everything that is asked of SEV-SNP is asked here first."""
    judged = judge(azure.SNP, Policy(hardware=azure.SNP.default_policy.hardware), azure.SNP.anchors())
    appraisal = judged(evidence(), Binding.of_report_data(DATA), Endorsements(), AT)
    assert appraisal.verdict is Verdict.UNTRUSTED
    assert not failed(appraisal)[0].startswith("azure.")


def test_the_policy_of_the_hardware_and_of_the_registers_is_asked() -> None:
    """Both tables' failures are told together, and a register that was not quoted satisfies nobody."""
    text = f'["az-snp"]\nhash = ["{"11" * 48}"]\n["az-snp".pcrs]\n4 = ["{REGISTERS[4].hex()}"]\n7 = ["{"22" * 32}"]\n'
    document = toml.parse(text, source="steward.toml")
    policy = read_policy_as("snp", document.table("az-snp"))
    document.end()
    assert failed(appraise(evidence(), policy)) == ("policy.hash", "policy.registers")
    quoted = message(mask=0x00000F)
    allowed = replace(policy, hardware=azure.SNP.default_policy.hardware, registers={4: frozenset({REGISTERS[4]})})
    assert failed(appraise(evidence(quoted=quoted), allowed)) == ("policy.registers",)
    assert appraise(evidence(), allowed).accepted
    assert failed(appraise(evidence(registers=[]), allowed)) == ("policy.registers",)


def test_a_register_has_a_number() -> None:
    """Errors name the dotted path."""
    for key in ("24", "04", "9" * 5000):
        document = toml.parse(f'["az-snp".pcrs]\n{key} = []\n', source="steward.toml")
        with pytest.raises(MalformedError, match="expected the number of a register, 0 to 23"):
            read_policy_as("snp", document.table("az-snp"))


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (b"HCLB" + hcl(b"", runtime())[4:], "expected HCLA"),
        (hcl(b"", runtime(), kind=3), "expected SNP or TDX"),
        (hcl(b"", runtime()) + b"\1", "must be zero"),
        (hcl(b"", b"{}"), "expected one RSA key HCLAkPub"),
        (hcl(b"", runtime().replace(b'"keys"', b'"keys": [], "keys"')), "expected one RSA key"),
        (hcl(b"", runtime())[:1300], "needs"),
    ],
)
def test_a_paravisors_report_has_one_form(broken: bytes, text: str) -> None:
    """Anything else is malformed, with its place."""
    with pytest.raises(MalformedError, match=text):
        HclReport.parse(broken)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (b"\xff" * 6 + message()[6:], "made by a TPM"),
        (message() + b"\0", "follow the end"),
        (message()[:-1], "needs"),
        (message().replace(b"\0\0\0\1\0\x0b", b"\0\0\0\2\0\x0b"), "one selection"),
        (message(bytes(200)), "extraData: expected at most 128"),
    ],
)
def test_a_quote_has_one_form(broken: bytes, text: str) -> None:
    """As much of TPMS_ATTEST as is read, and nothing more."""
    with pytest.raises(MalformedError, match=text):
        Quote.parse(broken, bytes(256))


@given(st.binary(max_size=300))
def test_any_bytes_are_evidence_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parsers, they answer with a value or with MalformedError."""
    for attempt in (
        lambda: azure.SNP.parse(Evidence(oid="", body=data)),
        lambda: azure.TDX.parse(Evidence(oid="", body=b'{"hcl_report":' + data)),
        lambda: azure.SNP.parse(Evidence(oid=next(iter(azure.SNP.oids)), body=data)),
        lambda: HclReport.parse(b"HCLA" + data),
        lambda: Quote.parse(data, bytes(256)),
    ):
        try:
            attempt()
        except MalformedError:
            continue


def test_recorded_evidence_is_judged_as_its_manifest_says(evidence: Path) -> None:
    """Real VMs of Azure's: two of SNP accepted, one whose quote another TPM made untrusted, one of TDX out of date."""
    manifest = tomllib.loads((evidence / "MANIFEST.toml").read_text())
    verdicts = {}
    for sample in manifest["sample"]:
        kind = sample["tee"].removeprefix("az-")
        if sample["tee"] not in {"az-snp", "az-tdx"}:
            continue
        folder, at = evidence / sample["id"], datetime.fromisoformat(sample["verify_at"])
        technology = azure.SNP if kind == "snp" else azure.TDX
        leniency = Leniency(without_crl=kind == "snp")
        policy = Policy(hardware=technology.default_policy.hardware)
        judged = judge(technology, policy, technology.anchors(), leniency)
        appraisal = judged(_recorded(folder, kind), Binding.none(), _beside(folder), at)
        verdicts[sample["id"]] = (appraisal.verdict, failed(appraisal))
    assert verdicts["az-snp/trustee-evidence-v1-milan"][0] is Verdict.ACCEPTED, verdicts
    assert verdicts["az-snp/trustee-hcl-milan-v2-tpmquote-v1"][0] is Verdict.ACCEPTED, verdicts
    assert verdicts["az-snp/neg-trustee-tpm-quote-of-another-boot"] == (Verdict.UNTRUSTED, ("azure.quote",))
    assert verdicts["az-tdx/trustee-evidence-v1"][0] is Verdict.REJECTED, verdicts
    assert "policy.tcb_status" in verdicts["az-tdx/trustee-evidence-v1"][1]


def _recorded(folder: Path, kind: str) -> Evidence:
    if (folder / "evidence.json").exists():
        return Evidence(oid="", body=(folder / "evidence.json").read_bytes())
    pcrs = json.loads((folder / "pcrs.json").read_text()) if (folder / "pcrs.json").exists() else []
    quote = {
        name: (folder / f"tpm_quote.{end}").read_bytes().hex()
        for name, end in (("message", "msg"), ("signature", "sig"))
    }
    found = {
        "version": 1,
        "hcl_report": base64.b64encode((folder / "hcl_report.bin").read_bytes()).decode(),
        "tpm_quote": {**quote, "pcrs": pcrs},
        "vcek": base64.b64encode((folder / "vcek.der").read_bytes()).decode(),
    }
    assert kind == "snp"
    return Evidence(oid="", body=json.dumps(found).encode())


def _beside(folder: Path) -> Endorsements:
    from enarx.steward.collateral import read

    return read([folder]).endorsements
