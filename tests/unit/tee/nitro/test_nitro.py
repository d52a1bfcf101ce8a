"""Nitro documents: authentic or not, acceptable or not, each refusal at its gate."""

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from enarx import cbor, toml
from enarx.errors import MalformedError
from enarx.pki import cose
from enarx.tee import nitro
from enarx.tee.appraise import failed, judge
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, TrustAnchor, Verdict
from enarx.tee.nitro.policy import Policy, read_policy
from enarx.tee.nitro.report import Document
from enarx.tee.nitro.simulator import NitroMachine
from tests.values import replace

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
IMAGE = bytes(range(48))
DATA = bytes(range(64))
MACHINE = NitroMachine.create(AT, image=IMAGE)


def appraise(
    document: bytes,
    *,
    at: datetime = AT,
    policy: Policy | None = None,
    anchors: tuple[TrustAnchor, ...] = (MACHINE.anchor,),
    expected: bytes = DATA,
) -> Appraisal:
    judged = judge(nitro.TECHNOLOGY, policy or Policy(), anchors)
    return judged(Evidence(oid="", body=document), Binding.of_report_data(expected), Endorsements(), at)


def test_a_document_of_a_trusted_machine_is_accepted() -> None:
    """Image, signer and life of the certificate follow into the claims; a simulated root is said to be one."""
    appraisal = appraise(MACHINE.document(DATA, AT))
    assert appraisal.verdict is Verdict.ACCEPTED, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.measurement == IMAGE
    assert appraisal.claims.simulated
    assert appraisal.claims.expires < AT + timedelta(hours=3)


def test_evidence_is_the_document_as_an_octet_string() -> None:
    """Under our OID the document stands in an OCTET STRING, and anything else is malformed."""
    evidence = MACHINE.evidence(DATA, AT)
    judged = judge(nitro.TECHNOLOGY, Policy(), (MACHINE.anchor,))
    assert judged(evidence, Binding.of_report_data(DATA), Endorsements(), AT).accepted
    bare = replace(evidence, body=MACHINE.document(DATA, AT))
    assert judged(bare, Binding.of_report_data(DATA), Endorsements(), AT).verdict is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"anchors": nitro.anchors()}, "nitro.anchor"),
        ({"anchors": ()}, "nitro.anchor"),
        ({"at": AT + timedelta(hours=4)}, "nitro.chain"),
        ({"at": AT - timedelta(hours=1)}, "nitro.chain"),
        ({"expected": bytes(64)}, "binding"),
    ],
)
def test_what_nobody_vouches_for_is_untrusted(change: dict[str, Any], check: str) -> None:
    """Another root, another time or another key: refused, and the check says which."""
    appraisal = appraise(MACHINE.document(DATA, AT), **change)
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, (check,))


@pytest.mark.parametrize("user_data", [None, b"", DATA[:48], DATA + b"\0"])
def test_user_data_must_be_exactly_the_64_bytes(user_data: bytes | None) -> None:
    """A missing, shorter or longer value binds nothing."""
    appraisal = appraise(MACHINE.document(user_data, AT))
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.UNTRUSTED, ("binding",))


def test_a_document_of_another_time_is_untrusted() -> None:
    """The time in the document lies within the life of the certificate that signed it."""
    appraisal = appraise(MACHINE.document(DATA, AT + timedelta(hours=1)))
    assert failed(appraisal) == ("nitro.timestamp",)


def test_a_document_signed_by_a_ca_is_untrusted() -> None:
    """The zone's certificate issues others; it may not sign documents."""
    appraisal = appraise(MACHINE.document(DATA, AT, certificate=MACHINE.zone.public_bytes(Encoding.DER)))
    assert failed(appraisal) == ("nitro.signer",)


def test_every_flipped_byte_is_refused() -> None:
    """No byte of a document can change without a refusal, and no refusal is anything but a verdict."""
    document = MACHINE.document(DATA, AT)
    for index in range(len(document)):
        broken = document[:index] + bytes((document[index] ^ 1,)) + document[index + 1 :]
        assert not appraise(broken).accepted, index


def test_debug_mode_is_rejected_whatever_the_policy_says() -> None:
    """An enclave whose image is reported as zero keeps no secret from its host."""
    document = MACHINE.document(DATA, AT, pcrs=dict.fromkeys(range(3), bytes(48)))
    appraisal = appraise(document, policy=Policy(hash=frozenset({bytes(48)})))
    assert (appraisal.verdict, failed(appraisal)) == (Verdict.REJECTED, ("policy.debug",))


def test_the_policy_reports_everything_that_fails() -> None:
    """Image, signer and registers are compared with the table, and all failures are told together."""
    text = f'[nitro]\nhash = ["{"11" * 48}"]\nsigner = ["{"22" * 48}"]\n[nitro.pcrs]\n1 = ["{"33" * 48}"]\n'
    document = toml.parse(text, source="steward.toml")
    policy = read_policy(document.table("nitro"))
    document.end()
    appraisal = appraise(MACHINE.document(DATA, AT), policy=policy)
    assert failed(appraisal) == ("policy.hash", "policy.signer", "policy.pcrs")
    denied = appraise(MACHINE.document(DATA, AT), policy=Policy(hash_blacklist=frozenset({IMAGE})))
    assert failed(denied) == ("policy.hash_blacklist",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'hash = ["{"11" * 48}"]\nhash_blacklist = ["{"11" * 48}"]', "nitro.hash_blacklist"),
        ('hash = ["1111"]', "48 bytes"),
        ('[nitro.pcrs]\n32 = ["00"]', "nitro.pcrs.32: expected the number of a register"),
        ('[nitro.pcrs]\n04 = ["00"]', "nitro.pcrs.04: expected the number of a register"),
        (f'[nitro.pcrs]\n{"9" * 5000} = ["00"]', "expected the number of a register"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    """Errors name the dotted path."""
    with pytest.raises(MalformedError, match=message):
        read_policy(toml.parse(f"[nitro]\n{text}", source="steward.toml").table("nitro"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"digest": "SHA256"}, "digest: expected SHA384"),
        ({"pcrs": {}}, "pcrs: expected a map"),
        ({"pcrs": {1: bytes(48)}}, "expected PCR0"),
        ({"pcrs": {0: bytes(32)}}, "PCR0: expected 48 bytes"),
        ({"pcrs": {32: bytes(48)}}, "an index of 0 to 31"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": 2**63}, "timestamp"),
        ({"module_id": ""}, "module_id"),
        ({"cabundle": ()}, "cabundle"),
        ({"nonce": bytes(513)}, "nonce: expected at most 512"),
        ({"surprise": 1}, "with 'surprise'"),
    ],
)
def test_a_member_out_of_bounds_is_malformed(members: dict[str, Any], message: str) -> None:
    """Every member has a form, and what has another is named."""
    with pytest.raises(MalformedError, match=message):
        Document.parse(MACHINE.document(DATA, AT, **members))


def test_the_algorithm_is_pinned() -> None:
    """A second header, an unprotected algorithm, and ES256 are no form of a document."""
    token = cbor.decode(MACHINE.document(DATA, AT), "token")
    assert isinstance(token, tuple)
    protected, _, payload, signature = token
    assert isinstance(signature, bytes)
    forms: tuple[cbor.Value, ...] = (
        (protected, {1: -35}, payload, signature),
        (cbor.encode({1: -35, 2: (1,)}), {}, payload, signature),
        (cbor.encode({1: -7}), {}, payload, signature[:64]),
        (cbor.encode({1: -36}), {}, payload, signature),
        (protected, {}, payload, signature[:95]),
    )
    for changed in forms:
        with pytest.raises(MalformedError):
            Document.parse(cbor.encode(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_malformed(data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        cose.Sign1.parse(data, "bytes")
        Document.parse(data)
    except MalformedError:
        return


def test_recorded_documents_are_judged_as_their_manifest_says(evidence: Path) -> None:
    """Real documents of AWS: authentic at their time, refused with a broken signature, rejected in debug mode."""
    manifest = tomllib.loads((evidence / "MANIFEST.toml").read_text())
    samples = [sample for sample in manifest["sample"] if sample["tee"] == "nitro"]
    for sample in samples:
        body = (evidence / sample["id"] / "attestation.cbor").read_bytes()
        at = datetime.fromisoformat(sample["verify_at"])
        judged = judge(nitro.TECHNOLOGY, Policy(), nitro.anchors())
        appraisal = judged(Evidence(oid="", body=body), Binding.none(), Endorsements(), at)
        wanted = {
            "accept": Verdict.ACCEPTED,
            "reject: signature": Verdict.UNTRUSTED,
            "reject (default policy: debug mode, PCR0 all zero); crypto ok": Verdict.REJECTED,
        }[sample["expect"]]
        assert appraisal.verdict is wanted, (sample["id"], appraisal.reasons)
    assert len(samples) == 4
