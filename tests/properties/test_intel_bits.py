"""One flipped bit anywhere in what Intel's technologies sign is refused, and nothing but a verdict comes of it."""

from collections.abc import Callable, Iterator

import pytest

from enarx.tee.appraise import judge
from enarx.tee.dcap.pck import write_chain
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.simulator import TeeName
from enarx.tee.model import Appraisal, Binding, Endorsements, Evidence, SignedJson, Verdict
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import AT, REPORT_DATA, Case, either, flip
from tests.values import replace

REFUSALS = {Verdict.MALFORMED, Verdict.UNTRUSTED}
Believe = Callable[[bytes, Endorsements], Appraisal]


@pytest.fixture(params=["SGX", "TDX"])
def case(request: pytest.FixtureRequest) -> Case:
    """Quotes of both technologies, for each has a layout of its own."""
    tee: TeeName = "SGX" if request.param == "SGX" else "TDX"
    return either(tee)


@pytest.fixture
def domain() -> Case:
    """What they share is looked at once; a TD's documents say the most."""
    return either("TDX")


def believing(case: Case) -> Believe:
    """The judge of the case, whose report data is compared as a key's would be."""
    judged = judge(support.TECHNOLOGIES[case.tee], case.policy(), case.anchors)
    bound = Binding.of_report_data(REPORT_DATA)

    def believe(quote: bytes, endorsements: Endorsements) -> Appraisal:
        return judged(Evidence(oid="", body=quote), bound, endorsements, AT)

    assert believe(case.quote, case.endorsements).accepted
    return believe


def flips(data: bytes) -> Iterator[bytes]:
    return (flip(data, bit) for bit in range(8 * len(data)))


def test_every_bit_of_a_quote_counts(case: Case) -> None:
    """All of them: header, body, both signatures, keys, authentication data, the PEM chain, lengths and the end."""
    believe = believing(case)
    wrong = [
        bit for bit, data in enumerate(flips(case.quote)) if believe(data, case.endorsements).verdict not in REFUSALS
    ]
    assert wrong == []


def test_every_bit_of_the_padding_counts(case: Case) -> None:
    """What follows a quote stays zero."""
    believe, padded = believing(case), case.quote + bytes(64)
    wrong = [
        bit
        for bit in range(8 * len(case.quote), 8 * len(padded))
        if believe(flip(padded, bit), case.endorsements).verdict is not Verdict.MALFORMED
    ]
    assert wrong == []


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_bit_of_the_chain_counts(domain: Case, position: int) -> None:
    """PCK certificate, PCK CA and root, below the armour of PEM: the root is the anchor's key, signed by it."""
    believe, quote = believing(domain), Quote.parse(domain.quote)
    chain = domain.machine.machine.chain

    def carrying(certificate: bytes) -> bytes:
        changed = [*chain[:position], certificate, *chain[position + 1 :]]
        return replace(quote, certification=write_chain((changed[0], changed[1], changed[2])) + b"\0").encode()

    assert carrying(chain[position]) == domain.quote
    wrong = [
        bit
        for bit, data in enumerate(flips(chain[position]))
        if believe(carrying(data), domain.endorsements).verdict not in REFUSALS
    ]
    assert wrong == []


@pytest.mark.parametrize("position", [0, 1])
def test_every_bit_of_the_crls_counts(domain: Case, position: int) -> None:
    """The root's list and that of the PCK CA."""
    believe, crls = believing(domain), domain.endorsements.crls

    def offering(crl: bytes) -> Endorsements:
        return replace(domain.endorsements, crls=(*crls[:position], crl, *crls[position + 1 :]))

    wrong = [
        bit
        for bit, data in enumerate(flips(crls[position]))
        if believe(domain.quote, offering(data)).verdict not in REFUSALS
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["tcb_infos", "qe_identities"])
def test_every_bit_of_the_documents_counts(domain: Case, name: str) -> None:
    """The whole text, frame and signature included: Intel writes it in one way."""
    believe = believing(domain)
    document: SignedJson = getattr(domain.endorsements, name)[0]

    def offering(body: bytes) -> Endorsements:
        changed = (SignedJson(body=body, chain=document.chain),)
        if name == "tcb_infos":
            return replace(domain.endorsements, tcb_infos=changed)
        return replace(domain.endorsements, qe_identities=changed)

    wrong = [
        bit
        for bit, data in enumerate(flips(document.body))
        if believe(domain.quote, offering(data)).verdict not in REFUSALS
    ]
    assert wrong == []


def test_every_bit_of_the_tcb_signers_certificate_counts(domain: Case) -> None:
    """The chain beside a document: its signer bit by bit."""
    believe, document = believing(domain), domain.endorsements.tcb_infos[0]
    signer, root = document.chain

    def offering(certificate: bytes) -> Endorsements:
        return replace(domain.endorsements, tcb_infos=(SignedJson(body=document.body, chain=(certificate, root)),))

    wrong = [
        bit for bit, data in enumerate(flips(signer)) if believe(domain.quote, offering(data)).verdict not in REFUSALS
    ]
    assert wrong == []
