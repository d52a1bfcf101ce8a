"""Certification data of types 1 to 4: a quote that only names its PCK certificate, which is found beside it."""

from collections.abc import Callable
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError, UntrustedError
from enarx.pki.certificate import Certificate, pem
from enarx.tee.dcap import certification as certification_data
from enarx.tee.dcap.certification import Named, read
from enarx.tee.dcap.pck import EXTENSION, Pck, write_chain
from enarx.tee.dcap.quote import PCK_CHAIN, PCK_LEAF, Quote
from enarx.tee.dcap.quoted import Quoted
from enarx.tee.dcap.simulator import TeeName, Vendor
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import AT, Case, either
from tests.values import replace

SIZES: Final = {1: 16, 2: 256, 3: 384}
KINDS: Final = (*SIZES, PCK_LEAF)
UNTRUSTED: Final = ("untrusted", "pck.chain")


def pck_of(case: Case) -> Pck:
    return Pck.of(Certificate.parse(case.machine.machine.chain[0]))


def certification(case: Case, kind: int, change: Callable[[Named], Named] = lambda named: named) -> bytes:
    """As a quoting library writes it that knows the certificate by name alone, or the certificate alone."""
    if kind == PCK_LEAF:
        return pem("CERTIFICATE", case.machine.machine.chain[0])
    pck = pck_of(case)
    ppid = pck.ppid if kind == 1 else b"\xaa" * SIZES[kind]
    return change(Named(kind=kind, ppid=ppid, cpu_svn=pck.cpu_svn, pce_svn=pck.pce_svn, pce_id=pck.pce_id)).encode()


def naming(case: Case, kind: int, change: Callable[[Named], Named] = lambda named: named) -> Case:
    """The quote with certification data of that type: no signature covers which it is."""
    quote = replace(Quote.parse(case.quote), certification_type=kind, certification=certification(case, kind, change))
    return replace(case, quote=quote.encode())


def beside(case: Case, *certificates: bytes) -> Case:
    return case.with_endorsements(certificates=certificates)


@pytest.fixture(params=["SGX", "TDX"])
def case(request: pytest.FixtureRequest) -> Case:
    tee: TeeName = "SGX" if request.param == "SGX" else "TDX"
    return either(tee)


@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_that_a_quote_names_is_found_among_the_endorsements(case: Case, kind: int) -> None:
    """With the chain beside it the quote is judged as one that carries its chain, and says the same."""
    named = beside(naming(case, kind), *case.machine.machine.chain[:2])
    appraisal, whole = named.judge(), case.judge()
    assert appraisal.accepted, appraisal.reasons
    assert appraisal.claims is not None
    assert whole.claims is not None
    assert appraisal.claims.chip == whole.claims.chip
    assert [check.name for check in appraisal.checks] == [check.name for check in whole.checks]


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_chain_the_verdict_says_what_is_missing(case: Case, kind: int) -> None:
    """Not malformed, for the quote is well formed: untrusted, naming the certificate that is not there."""
    leaf, issuer, _ = case.machine.machine.chain
    bare, without_issuer = naming(case, kind), beside(naming(case, kind), leaf)
    assert bare.refused() == UNTRUSTED
    if kind == PCK_LEAF:
        assert "does not carry who issued Intel SGX PCK Certificate" in bare.reasons()
    else:
        assert f"certification data of type {kind}: PPID" in bare.reasons()
        assert f"CPUSVN {pck_of(case).cpu_svn.hex()}, PCESVN {pck_of(case).pce_svn}" in bare.reasons()
        assert beside(bare, issuer).reasons() == bare.reasons()
    assert without_issuer.refused() == UNTRUSTED
    assert "CN=Intel SGX PCK Platform CA" in without_issuer.reasons()
    assert "is not among the endorsements" in without_issuer.reasons()


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("member", ["cpu_svn", "pce_svn", "pce_id"])
def test_a_certificate_of_another_tcb_is_not_the_one(case: Case, kind: int, member: str) -> None:
    """The name is compared in every part that can be read."""
    changes = {"cpu_svn": bytes(16), "pce_svn": 0xABCD, "pce_id": b"\xff\xff"}
    other = naming(case, kind, lambda named: replace(named, **{member: changes[member]}))
    assert beside(other, *case.machine.machine.chain[:2]).refused() == UNTRUSTED


def test_a_ppid_in_the_clear_is_compared(case: Case) -> None:
    """Another processor's certificate is not the one."""
    other = naming(case, 1, lambda named: replace(named, ppid=b"\x55" * 16))
    assert beside(other, *case.machine.machine.chain[:2]).refused() == UNTRUSTED
    assert f"PPID {'55' * 16}" in other.reasons()


def test_of_several_the_one_whose_key_signed_is_meant(case: Case) -> None:
    """An encrypted PPID does not tell machines of one TCB apart; the signature of the Quoting Enclave's report does."""
    leaf, issuer, _ = case.machine.machine.chain
    extension = Certificate.parse(leaf).extensions[EXTENSION].value
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    twin = support.vendor().platform.issue("Intel SGX PCK Certificate", stranger, AT, extension=extension)
    broken = support.vendor().platform.issue("Intel SGX PCK Certificate", stranger, AT, extension=extension[:-1])
    named = naming(case, 3)
    assert beside(named, b"rubbish", broken, twin, leaf, issuer).judge().accepted
    assert beside(named, twin, issuer).refused() == ("untrusted", "qe_report.signature")
    assert beside(named, broken, issuer).refused() == UNTRUSTED


def test_how_many_are_told_apart_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a signature, and whoever sends the quote chooses the name; other certificates do not count."""
    assert certification_data.MAX_FITTING == 256
    monkeypatch.setattr(certification_data, "MAX_FITTING", 2)
    leaf, issuer, root = case.machine.machine.chain
    extension = Certificate.parse(leaf).extensions[EXTENSION].value
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    twins = [
        support.vendor().platform.issue("Intel SGX PCK Certificate", key, AT, extension=extension) for _ in range(2)
    ]
    named = naming(case, 3)
    assert beside(named, twins[0], leaf, issuer, root).judge().accepted
    many = beside(named, *twins, leaf, issuer, root)
    assert many.refused() == UNTRUSTED
    assert "expected at most 2 certificates" in many.reasons()


@pytest.mark.parametrize("kind", KINDS)
def test_endorsements_are_no_anchors_for_a_quote_that_names_its_certificate(case: Case, kind: int) -> None:
    """A whole chain beside the quote is worth nothing without an anchor; nor is a stranger's CA of the same name."""
    named = beside(naming(case, kind), *case.machine.machine.chain)
    assert replace(named, anchors=()).refused() == UNTRUSTED
    assert "(Intel SGX Root CA) is not trusted here" in replace(named, anchors=()).reasons()
    assert replace(named, anchors=(Vendor.create(AT).anchor(),)).refused() == UNTRUSTED
    leaf, _, _ = case.machine.machine.chain
    assert beside(naming(case, kind), leaf, Vendor.create(AT).platform.certificate).refused() == UNTRUSTED


@pytest.mark.parametrize("kind", KINDS)
def test_a_quote_that_names_its_certificate_is_written_as_it_was_read(case: Case, kind: int) -> None:
    """And has no machine to tell of by itself."""
    data = naming(case, kind).quote
    quoted = Quoted.parse(data)
    assert quoted.quote.encode() == data
    with pytest.raises(UntrustedError, match=f"type {kind} has no PCK certificate chain, only type 5"):
        _ = quoted.pck


@pytest.mark.parametrize("kind", SIZES)
def test_a_name_has_the_length_of_its_type(kind: int) -> None:
    """A byte less or more is malformed, whatever is beside the quote."""
    data = certification(support.case(), kind)
    assert len(data) == SIZES[kind] + 20
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(MalformedError, match=f"certification data of type {kind}"):
            read(kind, wrong)


def test_what_is_certified_is_a_pck_certificate() -> None:
    """A chain or a leaf without Intel's extension says of no machine."""
    case = support.case()
    _, issuer, root = case.machine.machine.chain
    for kind, data in ((PCK_LEAF, (issuer,)), (PCK_CHAIN, (issuer, issuer, root))):
        with pytest.raises(MalformedError, match=r"extension 1\.2\.840\.113741\.1\.13\.1 is missing"):
            read(kind, write_chain(data))


@given(st.sampled_from(sorted(SIZES)), st.binary(max_size=410))
def test_any_bytes_are_a_name_or_malformed(kind: int, data: bytes) -> None:
    """Whatever is thrown at the parser, it answers with a value or with MalformedError."""
    try:
        named = Named.parse(kind, data)
    except MalformedError:
        return
    assert named.encode() == data
