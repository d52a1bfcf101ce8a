"""CCA tokens: authentic or not, acceptable or not, each refusal at its gate."""

import tomllib
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import toml
from enarx.errors import MalformedError
from enarx.pki.certificate import pem_blocks
from enarx.tee import cca
from enarx.tee.appraise import failed, judge
from enarx.tee.cca.policy import Policy, read_policy
from enarx.tee.cca.report import CHALLENGE, INITIAL, INSTANCE, LIFECYCLE, REALM_KEY, Token
from enarx.tee.cca.simulator import FIRMWARE, IMPLEMENTATION, CcaMachine
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, TrustAnchor, Verdict

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
DATA = bytes(range(64))
MACHINE = CcaMachine.create(initial=bytes(range(32)))
OTHER = CcaMachine.create(initial=bytes(32))


def appraise(
    token: bytes,
    *,
    policy: Policy | None = None,
    anchors: tuple[TrustAnchor, ...] = (OTHER.anchor, MACHINE.anchor),
    expected: bytes = DATA,
) -> Appraisal:
    judged = judge(cca.TECHNOLOGY, policy or Policy(), anchors)
    return judged(Evidence(oid="", body=token), Binding.of_report_data(expected), Endorsements(), AT)


@pytest.mark.parametrize("tag", [399, 907])
@pytest.mark.parametrize("raw_key", [True, False])
def test_a_token_of_a_trusted_platform_is_accepted(*, tag: int, raw_key: bool) -> None:
    """Both collections and both forms of the realm's key are read; the platform's key is what vouches."""
    appraisal = appraise(MACHINE.token(DATA, tag=tag, raw_key=raw_key))
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.measurement == MACHINE.initial
    assert appraisal.claims.anchor == MACHINE.anchor


def test_evidence_is_the_token_as_an_octet_string() -> None:
    """What a Keep sends is judged as the bare token is."""
    judged = judge(cca.TECHNOLOGY, Policy(), (MACHINE.anchor,))
    assert judged(MACHINE.evidence(DATA), Binding.of_report_data(DATA), Endorsements(), AT).accepted


@pytest.mark.parametrize("anchors", [(), (OTHER.anchor,)])
def test_without_the_platforms_key_nothing_is_trusted(anchors: tuple[TrustAnchor, ...]) -> None:
    """No platform key ships, and another platform's key vouches for nothing."""
    appraisal = appraise(MACHINE.token(DATA), anchors=anchors)
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, ("cca.platform_signature",))


def test_another_realms_key_is_untrusted() -> None:
    """The platform's challenge is the hash of the realm's key: a platform token does not vouch for another realm."""
    appraisal = appraise(MACHINE.token(DATA, platform={CHALLENGE: sha256(b"another key").digest()}))
    assert failed(appraisal) == ("cca.realm_key",)


def test_a_realm_token_signed_by_another_key_is_untrusted() -> None:
    """The realm's token is signed by the key that the platform vouches for."""
    foreign = OTHER.token(DATA, raw_key=True)
    key = Token.parse(foreign).realm.key
    ours = MACHINE.token(DATA, realm={REALM_KEY: key}, platform={CHALLENGE: sha256(key).digest()})
    assert failed(appraise(ours)) == ("cca.realm_signature",)


@pytest.mark.parametrize("lifecycle", [0x0000, 0x2FFF, 0x3100, 0x4003, 0x5003])
def test_a_platform_that_is_not_secured_is_untrusted(lifecycle: int) -> None:
    """In any other state of its life somebody may debug the platform."""
    appraisal = appraise(MACHINE.token(DATA, platform={LIFECYCLE: lifecycle}))
    assert failed(appraisal) == ("cca.lifecycle",)


def test_all_64_bytes_of_the_challenge_are_bound() -> None:
    """A token for another key is untrusted, whichever byte differs."""
    for index in (0, 47, 48, 63):
        other = DATA[:index] + bytes((DATA[index] ^ 1,)) + DATA[index + 1 :]
        assert failed(appraise(MACHINE.token(other))) == ("binding",)


def test_every_flipped_byte_is_refused() -> None:
    """No byte of a token can change without a refusal."""
    token = MACHINE.token(DATA)
    for index in range(len(token)):
        broken = token[:index] + bytes((token[index] ^ 1,)) + token[index + 1 :]
        assert not appraise(broken).accepted, index


def test_the_policy_reports_everything_that_fails() -> None:
    """Measurements, platform and firmware are compared, and all failures are told together."""
    wrong, instance = "11" * 32, "01" + sha256(MACHINE.spki).hexdigest()
    text = f"""
    hash = ["{wrong}"]
    implementation = ["{wrong}"]
    personalization = ["{"22" * 64}"]
    chip_deny = ["{instance}"]
    components = ["{wrong}"]
    [cca.extensible]
    2 = ["{wrong}"]
    """
    document = toml.parse(f"[cca]\n{text}", source="steward.toml")
    policy = read_policy(document.table("cca"))
    document.end()
    names = ("hash", "extensible", "personalization", "implementation", "chip_deny", "components")
    assert failed(appraise(MACHINE.token(DATA), policy=policy)) == tuple(f"policy.{name}" for name in names)


def test_a_policy_that_lists_what_is_there_accepts_it() -> None:
    """Every list names what the machine has."""
    instance = b"\x01" + sha256(MACHINE.spki).digest()
    policy = Policy(
        hash=frozenset({MACHINE.initial}),
        extensible=(frozenset({bytes(32)}), frozenset(), frozenset(), frozenset()),
        personalization=frozenset({bytes(64)}),
        implementation=frozenset({IMPLEMENTATION}),
        chip_allow=frozenset({instance}),
        components=frozenset({FIRMWARE}),
    )
    assert appraise(MACHINE.token(DATA), policy=policy).accepted
    denied = appraise(MACHINE.token(DATA), policy=Policy(hash_blacklist=frozenset({MACHINE.initial})))
    assert failed(denied) == ("policy.hash_blacklist",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'hash = ["{"11" * 32}"]\nhash_blacklist = ["{"11" * 32}"]', "cca.hash_blacklist"),
        (f'chip_allow = ["{"11" * 33}"]\nchip_deny = ["{"11" * 33}"]', "cca.chip_deny"),
        ("hash_size = 20", "cca.hash_size: expected 32, 48 or 64"),
        (f'hash_size = 48\nhash = ["{"11" * 32}"]', "48 bytes"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    """Errors name the dotted path."""
    with pytest.raises(MalformedError, match=message):
        read_policy(toml.parse(f"[cca]\n{text}", source="steward.toml").table("cca"))


@pytest.mark.parametrize(
    ("part", "claims", "message"),
    [
        ("realm", {CHALLENGE: bytes(32)}, "claim 10: expected 64 bytes, found 32 bytes"),
        ("realm", {INITIAL: bytes(20)}, "claim 44238: expected 32 or 48 or 64 bytes"),
        ("realm", {REALM_KEY: b"\x04" + bytes(10)}, "claim 44237"),
        ("realm", {44239: (bytes(32),)}, "expected four"),
        ("realm", {44240: "md5"}, "unknown algorithm"),
        ("platform", {INSTANCE: bytes(32)}, "claim 256: expected 33 bytes"),
        ("platform", {LIFECYCLE: "secured"}, "lifecycle of 16 bits"),
        ("platform", {2399: ()}, "software components"),
        ("platform", {2399: ({1: "RMM"},)}, "software component: claim 2"),
    ],
)
def test_a_claim_out_of_bounds_is_malformed(part: str, claims: dict[Any, Any], message: str) -> None:
    """Every claim has a size, and what has another is named."""
    with pytest.raises(MalformedError, match=message):
        Token.parse(MACHINE.token(DATA, realm=claims) if part == "realm" else MACHINE.token(DATA, platform=claims))


def test_a_point_off_the_curve_is_untrusted() -> None:
    """A realm key that is no key signs nothing."""
    key = b"\x04" + bytes(96)
    token = MACHINE.token(DATA, realm={REALM_KEY: key}, platform={CHALLENGE: sha256(key).digest()})
    assert failed(appraise(token)) == ("cca.realm_signature",)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_token_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    for attempt in (data, b"\xd9\x01\x8f" + data):
        try:
            Token.parse(attempt)
        except MalformedError:
            continue


def test_recorded_tokens_are_judged_as_their_manifest_says(evidence: Path) -> None:
    """Tokens of Arm's model are authentic under the platform key beside them, and under no other."""
    manifest = tomllib.loads((evidence / "MANIFEST.toml").read_text())
    samples = [sample for sample in manifest["sample"] if sample["tee"] == "cca"]
    for sample in samples:
        folder = evidence / sample["id"]
        key = pem_blocks((folder / "cpak_pub.pem").read_bytes(), "PUBLIC KEY", "cpak_pub.pem", limit=1)[0]
        anchor = TrustAnchor(family="arm", sha256=sha256(key).digest(), certificate=key, origin="operator")
        body = (folder / "token.cbor").read_bytes()
        for anchors, wanted in (((anchor,), Verdict.ACCEPTED), ((MACHINE.anchor,), Verdict.UNTRUSTED)):
            judged = judge(cca.TECHNOLOGY, Policy(), anchors)
            appraisal = judged(Evidence(oid="", body=body), Binding.none(), Endorsements(), AT)
            assert appraisal.verdict is wanted, (sample["id"], appraisal.reasons)
            if wanted is Verdict.ACCEPTED:
                assert appraisal.claims is not None
                assert appraisal.claims.measurement.hex() == sample["fields"]["realm_initial_measurement"]
    assert len(samples) == 3
