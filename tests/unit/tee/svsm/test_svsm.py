"""Guests beneath an SVSM: hardware, level, manifest and key, each link refused by itself."""

import struct
from datetime import UTC, datetime
from hashlib import new, sha256, sha512
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import toml
from enarx.errors import MalformedError
from enarx.steward import offline
from enarx.steward.policy import Judging, default_policy
from enarx.tee import snp
from enarx.tee import svsm as judged_by
from enarx.tee.appraise import failed, judge
from enarx.tee.model import Appraisal, Binding, Checks, Endorsements, Evidence, Verdict
from enarx.tee.snp.report import MAX_EVIDENCE as MAX_HARDWARE
from enarx.tee.snp.report import OID_WITH_CHAIN
from enarx.tee.snp.report import encode as encode_snp
from enarx.tee.snp.simulator import SnpMachine, Vendor
from enarx.tee.snp.tcb import Tcb
from enarx.tee.svsm.endorsement import EndorsementKey
from enarx.tee.svsm.manifest import MAX_MANIFEST, Manifest
from enarx.tee.svsm.manifest import encode as write
from enarx.tee.svsm.policy import read_policy
from enarx.tee.svsm.report import MAX_EVIDENCE, OID, encode
from tests.emulators import svsm
from tests.values import replace

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
NONCE = bytes(range(64))
ALL, VTPM = svsm.manifest(UUID(int=0)), svsm.manifest(svsm.VTPM)
VENDOR = Vendor.create(AT)
MACHINE = SnpMachine.create(VENDOR, AT, measurement=bytes(range(48)))


def hardware(report: bytes) -> bytes:
    return encode_snp(report, MACHINE.with_chain()).body


def made(manifest: bytes = ALL, *, nonce: bytes = NONCE, level: int = 0) -> bytes:
    return hardware(svsm.report(MACHINE, nonce, manifest, level))


def appraise(evidence: Evidence, table: str = "") -> Appraisal:
    policy = judged_by.TECHNOLOGY.default_policy
    if table:
        document = toml.parse(f"[snp-svsm]\n{table}\n", source="steward.toml")
        policy = read_policy(document.table("snp-svsm"))
        document.end()
    asked = judge(judged_by.TECHNOLOGY, policy, (VENDOR.anchor(),))
    return asked(evidence, Binding.of_report_data(NONCE), Endorsements(), AT)


@pytest.mark.parametrize("manifest", [ALL, VTPM, svsm.table({svsm.VTPM: svsm.endorsement_key_p256()}), svsm.table({})])
def test_an_svsm_whose_links_hold_is_accepted(manifest: bytes) -> None:
    """For all services or for the virtual TPM; what is bound is the nonce, and the claims show the manifest."""
    appraisal = appraise(encode(NONCE, manifest, made(manifest)))
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.report_data == NONCE
    said = appraisal.claims.fields["manifest"]
    assert isinstance(said, dict)
    assert said["sha256"] == sha256(manifest).hexdigest()
    assert said["asked_for"] == ("vtpm" if manifest is VTPM else "all")


@pytest.mark.parametrize(
    ("evidence", "check"),
    [
        (encode(NONCE, svsm.manifest(UUID(int=0), svsm.OTHER), made()), "svsm.manifest"),  # another byte
        (encode(NONCE, VTPM, made(ALL)), "svsm.manifest"),  # swapped
        (encode(NONCE, ALL, made(nonce=bytes(64))), "svsm.manifest"),
        (encode(NONCE, ALL, hardware(MACHINE.report(sha512(NONCE + ALL).digest()[:32] + bytes(32)))), "svsm.manifest"),
        (encode(NONCE, ALL, hardware(MACHINE.report(NONCE))), "svsm.manifest"),  # a plain report with a manifest
        (encode(NONCE, ALL, made(level=2)), "svsm.vmpl"),
        (encode(bytes(64), ALL, made(nonce=bytes(64))), "binding"),  # another key
    ],
)
def test_each_link_is_refused_by_itself(evidence: Evidence, check: str) -> None:
    """Another manifest than was signed, another nonce, the guest's own level, a plain report, another key."""
    appraisal = appraise(evidence)
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, (check,))
    assert all(each.found and each.expected for each in appraisal.checks if each.name == check)


def test_what_is_said_of_the_hardware_is_what_was_verified_of_it() -> None:
    """Measurement, signer, chip, standing and end come through: policy, certificate and revocation rest on them."""
    claims = appraise(encode(NONCE, ALL, made())).claims
    asked = judge(snp.TECHNOLOGY, snp.TECHNOLOGY.default_policy, (VENDOR.anchor(),))
    plain = Evidence(oid=OID_WITH_CHAIN, body=hardware(MACHINE.report(NONCE)))
    beneath = asked(plain, Binding.of_report_data(NONCE), Endorsements(), AT).claims
    assert claims is not None
    assert beneath is not None
    for name in ("measurement", "signer", "tcb_status", "tcb_date", "advisories", "chip", "anchor", "expires"):
        assert getattr(claims, name) == getattr(beneath, name), name
    assert claims.measurement == MACHINE.measurement
    lagging = SnpMachine.create(VENDOR, AT, measurement=bytes(48), tcb=Tcb(bootloader=3, tee=0, snp=8, microcode=115))
    report = lagging.report(sha512(NONCE + ALL).digest(), lambda found: replace(found, author_key_en=True))
    old = appraise(encode(NONCE, ALL, encode_snp(report, lagging.with_chain()).body)).claims
    assert old is not None
    assert (old.tcb_status, old.signer) == ("OutOfDate", bytes(48))
    assert old.advisories


def test_a_guest_that_may_be_debugged_is_refused() -> None:
    """Whatever the SVSM says, and whatever the table allows."""
    report = MACHINE.report(sha512(NONCE + ALL).digest(), lambda found: replace(found, policy=found.policy | 1 << 19))
    refused = appraise(encode(NONCE, ALL, hardware(report)))
    assert (refused.verdict, "policy.debug" in failed(refused)) == (Verdict.REJECTED, True)
    assert refused.claims is None or refused.claims.debug


def test_an_svsms_report_is_no_plain_one() -> None:
    """Without its manifest it speaks for no key."""
    asked = judge(snp.TECHNOLOGY, snp.TECHNOLOGY.default_policy, (VENDOR.anchor(),))
    plain = encode_snp(svsm.report(MACHINE, NONCE, ALL), MACHINE.with_chain())
    assert failed(asked(plain, Binding.of_report_data(NONCE), Endorsements(), AT)) == ("binding",)


def test_the_policy_asks_for_services_and_the_key() -> None:
    """Of the measurement, the services and the endorsement key all failures are told together."""
    other = f'required_services = ["{UUID(int=1)}"]\nendorsement_keys = ["{"11" * 32}"]\nhash = ["{"22" * 48}"]'
    found = encode(NONCE, ALL, made())
    assert failed(appraise(found, other)) == ("policy.hash", "policy.services", "policy.endorsement_key")
    key = sha256(svsm.endorsement_key()).hexdigest()
    good = f'required_services = ["vtpm", "{svsm.VTPM}", "{svsm.REBOOT}"]\nendorsement_keys = ["{key}"]'
    assert appraise(found, good).accepted
    bare = svsm.table({svsm.REBOOT: b""})
    refused = appraise(encode(NONCE, bare, made(bare)), f'endorsement_keys = ["{key}"]')
    assert failed(refused) == ("policy.endorsement_key",)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("vmpl = [0]", "of VMPL 0 always"),
        ('required_services = ["tpm"]', "expected vtpm or a GUID"),
        (f'required_services = ["{str(svsm.VTPM).upper()}"]', "GUID in lower case"),
        ('endorsement_keys = ["11"]', "32 bytes"),
    ],
)
def test_a_table_says_what_it_may(table: str, text: str) -> None:
    """Errors name the key."""
    document = toml.parse(f"[snp-svsm]\n{table}\n", source="steward.toml")
    with pytest.raises(MalformedError, match=text):
        read_policy(document.table("snp-svsm"))


TWICE = svsm.table({svsm.VTPM: svsm.endorsement_key(), svsm.REBOOT: b""}).replace(
    svsm.REBOOT.bytes_le, svsm.VTPM.bytes_le
)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (bytes(MAX_MANIFEST + 1), "at most 32768 bytes"),
        (ALL[:-1], "size at 0x10"),
        (ALL + b"\0", "size at 0x10"),
        (ALL[:16] + (25).to_bytes(4, "little"), "needs 4 bytes"),
        (ALL[:20] + (65).to_bytes(4, "little") + ALL[24:], "at most 64"),
        (ALL[:40] + (73).to_bytes(4, "little") + ALL[44:], "offset of c476f1eb"),
        (ALL[:44] + (9999).to_bytes(4, "little") + ALL[48:], "needs 9999 bytes"),
        (svsm.table({svsm.REBOOT: b"x" * 9})[:44] + bytes(4) + b"x" * 9, "9 bytes follow"),
        (TWICE, "endorsement key: type"),
        (TWICE.replace(svsm.VTPM.bytes_le, svsm.REBOOT.bytes_le), "stands in it twice"),
        (svsm.table({svsm.VTPM: b""}), "endorsement key: type"),
        (VTPM[:-1], "modulus"),
        (b"", "endorsement key"),
    ],
)
def test_a_manifest_has_one_form(broken: bytes, text: str) -> None:
    """Anything else is malformed, with its place, and as evidence never reaches the hardware's report."""
    with pytest.raises(MalformedError, match=text):
        Manifest.parse(broken)
    assert appraise(encode(NONCE, broken, made())).verdict is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((0, 0x0008), "type"),
        ((2, 0x0004), "name algorithm"),
        ((6, 0x00A0), "attributes"),  # not made in its TPM
        ((4, 0x0007), "attributes"),  # it could sign, too
        ((42, 0x0026), "symmetric algorithm at 0x2a"),
        ((44, 0x0040), "symmetric bits"),
        ((46, 0x0044), "mode"),
        ((48, 0x0014), "scheme"),
        ((50, 0x0400), "bits"),
        ((54, 0x0003), "exponent"),
        ((58, 0x0001), "modulus: expected 2048 bits"),
    ],
)
def test_only_an_endorsement_key_is_one(change: tuple[int, int], text: str) -> None:
    """A restricted decryption key fixed to its TPM, of the sizes and algorithms that such have."""
    at, value = change
    whole = svsm.endorsement_key()
    with pytest.raises(MalformedError, match=text):
        EndorsementKey.parse(whole[:at] + value.to_bytes(2, "big") + whole[at + 2 :])
    long = whole[:56] + (257).to_bytes(2, "big") + b"\0" + whole[58:]
    with pytest.raises(MalformedError, match="found 257 bytes"):
        EndorsementKey.parse(long)
    curve = svsm.endorsement_key_p256()
    with pytest.raises(MalformedError, match="key derivation"):
        EndorsementKey.parse(curve[:52] + b"\0\x22" + curve[54:])
    with pytest.raises(MalformedError, match="x: expected 32 bytes, found 31"):
        EndorsementKey.parse(curve[:54] + b"\0\x1f" + curve[57:])
    with pytest.raises(MalformedError, match="1 bytes follow"):
        EndorsementKey.parse(whole + b"\0")
    assert EndorsementKey.parse(whole).name == b"\0\x0b" + sha256(whole).digest()
    assert EndorsementKey.parse(svsm.endorsement_key_p256()).kind == "ECC P-256"


@pytest.mark.parametrize("size", [256, 384, 512])
def test_rsa_keys_of_each_size_are_read(size: int) -> None:
    """With the exponent that TPMs leave out, or written."""
    key = svsm.endorsement_key(b"\xc1" + bytes(size - 1))
    assert EndorsementKey.parse(key).kind == f"RSA {8 * size}"
    at = len(key) - size - 6
    written = key[:at] + (65537).to_bytes(4, "big") + key[at + 4 :]
    assert EndorsementKey.parse(written).kind == f"RSA {8 * size}"


@pytest.mark.parametrize(("curve", "size", "name"), [(3, 32, "P-256"), (4, 48, "P-384"), (5, 66, "P-521")])
def test_ecc_keys_of_each_curve_are_read(curve: int, size: int, name: str) -> None:
    """Curves by their number in the TCG's registry, each with coordinates of its length and of no other."""
    head = svsm.endorsement_key_p256()[:-72]
    for length in (size - 1, size, size + 1):
        key = head + struct.pack(">HH", curve, 0x10) + 2 * (struct.pack(">H", length) + bytes(length))
        if length == size:
            assert EndorsementKey.parse(key).kind == f"ECC {name}"
        else:
            with pytest.raises(MalformedError, match=f"expected {size} bytes, found {length}"):
                EndorsementKey.parse(key)


@pytest.mark.parametrize(("algorithm", "name"), [(0x0B, "sha256"), (0x0C, "sha384"), (0x0D, "sha512")])
@pytest.mark.parametrize("bits", [128, 192, 256])
def test_names_and_keys_beneath_are_of_each_size(algorithm: int, name: str, bits: int) -> None:
    """The name is the hash that the key itself says, over all of it."""
    key = svsm.endorsement_key()
    key = key[:2] + struct.pack(">H", algorithm) + key[4:44] + struct.pack(">H", bits) + key[46:]
    assert EndorsementKey.parse(key).name == struct.pack(">H", algorithm) + new(name, key).digest()


def test_each_attribute_of_an_endorsement_key_is_needed_allowed_or_refused() -> None:
    """TPMA_OBJECT, part 2, 8.3: bit by bit."""
    key, needed, allowed = svsm.endorsement_key(), {1, 4, 5, 16, 17}, {2, 6, 7, 10}

    def parse(bits: set[int]) -> EndorsementKey:
        return EndorsementKey.parse(key[:4] + sum(1 << bit for bit in bits).to_bytes(4, "big") + key[8:])

    for bit in range(32):
        if bit in needed:
            refused = needed - {bit}
        elif bit in allowed:
            assert parse(needed | {bit}).kind == "RSA 2048"
            continue
        else:
            refused = needed | {bit}
        with pytest.raises(MalformedError, match="attributes at 0x4"):
            parse(refused)


def test_a_manifest_is_written_as_an_svsm_writes_it() -> None:
    """Byte for byte, for any number of services up to the bound, and up to its size."""
    services = {svsm.VTPM: svsm.endorsement_key(), svsm.REBOOT: b"", UUID(int=7): b"seven"}
    assert write(services) == svsm.table(services)
    assert [each.guid for each in Manifest.parse(write(services)).services] == list(services)
    many = {UUID(int=1 + index): b"" for index in range(64)}
    assert len(Manifest.parse(svsm.table(many)).services) == 64
    long = svsm.table({svsm.REBOOT: bytes(MAX_MANIFEST - 48)})
    assert len(long) == MAX_MANIFEST == 32 * 1024
    assert Manifest.parse(long).data == long


def test_claims_of_plain_snp_are_not_judged_by_this_policy() -> None:
    """A mistake of ours, and none that a requester could make."""
    asked = judge(snp.TECHNOLOGY, snp.TECHNOLOGY.default_policy, (VENDOR.anchor(),))
    plain = Evidence(oid=OID_WITH_CHAIN, body=hardware(MACHINE.report(NONCE)))
    claims = asked(plain, Binding.of_report_data(NONCE), Endorsements(), AT).claims
    assert claims is not None
    with pytest.raises(TypeError, match="made by"):
        judged_by.TECHNOLOGY.accept(claims, judged_by.TECHNOLOGY.default_policy, Checks())


def test_evidence_is_bounded_and_its_nonce_has_64_bytes() -> None:
    """Before anything in it is read."""
    assert MAX_EVIDENCE == MAX_HARDWARE + MAX_MANIFEST + 256
    fits = appraise(Evidence(oid=OID, body=bytes(MAX_EVIDENCE)))
    assert (fits.verdict, "at most" in fits.reasons[0]) == (Verdict.MALFORMED, False)
    huge = appraise(Evidence(oid=OID, body=bytes(MAX_EVIDENCE + 1)))
    assert (huge.verdict, f"at most {MAX_EVIDENCE} bytes" in huge.reasons[0]) == (Verdict.MALFORMED, True)
    named = {check.name for check in huge.checks}
    assert named >= {"svsm.vmpl", "svsm.manifest", "policy.services", "policy.endorsement_key"}, (
        "and each was not reached"
    )
    for nonce in (b"", NONCE[:63], NONCE + b"\0"):
        refused = appraise(encode(nonce, ALL, made(nonce=nonce)))
        assert (refused.verdict, "nonce: expected 64 bytes" in refused.reasons[0]) == (Verdict.MALFORMED, True)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_malformed(data: bytes) -> None:
    """And what was read is written again as it came."""
    for each in (data, ALL[:24] + data):
        try:
            found = Manifest.parse(each)
        except MalformedError:
            continue
        assert found.single or write({one.guid: one.data for one in found.services}) == each


def test_files_of_an_svsm_are_judged_together() -> None:
    """What configfs-tsm gave, as `steward verify --manifest` has it: report, manifest and nonce."""

    def verdict(manifest: bytes, nonce: bytes = NONCE) -> offline.Judgement:
        policy = default_policy(Judging(refuse_legacy=False, anchors=(VENDOR.anchor(),)))
        return offline.judge_file(
            svsm.report(MACHINE, NONCE, ALL),
            policy=policy,
            compared=False,
            binding=Binding.of_report_data(nonce),
            collateral=MACHINE.with_chain(),
            at=AT,
            manifest=manifest,
        )

    found = verdict(ALL)
    assert (found.verdict, found.form) == (Verdict.ACCEPTED, "snp-svsm"), found.reasons
    assert verdict(VTPM).verdict is Verdict.UNTRUSTED
    assert verdict(ALL, bytes(64)).verdict is Verdict.UNTRUSTED
    assert verdict(ALL[:-1]).verdict is Verdict.MALFORMED
