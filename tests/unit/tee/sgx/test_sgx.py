"""SGX: what an enclave's report has to be, which enclaves policy accepts, and the forms of evidence."""

import pytest
from msgspec.structs import fields

from enarx.errors import MalformedError
from enarx.tee.appraise import judge
from enarx.tee.dcap import enclave as bits
from enarx.tee.dcap.enclave import EnclaveReport
from enarx.tee.dcap.quoted import MAX_EVIDENCE
from enarx.tee.model import Binding, Checks, Claims, Endorsements, Evidence
from enarx.tee.sgx import TECHNOLOGY
from enarx.tee.sgx.report import OID, OID_WITH_QE, Report, encode, parse
from enarx.tee.sgx.simulator import SgxMachine
from enarx.toml import ConfigError
from tests.unit.tee.dcap import support
from tests.unit.tee.dcap.support import AT, MR_ENCLAVE, MR_SIGNER, REPORT_DATA, Case, case
from tests.values import replace


def with_report(**fields: object) -> Case:
    """A case whose enclave report has other fields."""

    def alter(report: EnclaveReport) -> EnclaveReport:
        return replace(report, **fields)

    return replace(case(), quote=support.enclave().quote(REPORT_DATA, alter=alter))


def test_a_quote_of_version_5_with_an_enclave_report_is_judged_alike() -> None:
    """X1: the body type tells; the rest is the same."""
    quote = support.enclave().quote(REPORT_DATA, version=5)
    appraisal = replace(case(), quote=quote).judge()
    assert appraisal.accepted, appraisal.reasons
    assert appraisal.claims is not None
    assert appraisal.claims.measurement == MR_ENCLAVE


def test_an_enclave_that_was_never_initialised_is_untrusted() -> None:
    """X18: without INIT the report speaks of nothing that ever ran."""
    assert with_report(flags=bits.MODE64BIT).refused() == ("untrusted", "enclave.initialised")


def test_x18_a_debug_enclave_is_rejected_whatever_policy_says() -> None:
    """X18: DEBUG is refused without a policy, and also where `features` lists it."""
    debug = with_report(flags=bits.INIT | bits.MODE64BIT | bits.DEBUG)
    assert debug.refused() == ("rejected", "policy.debug")
    assert debug.refused("features = ['Debug']") == ("rejected", "policy.debug")


def test_x19_measurement_signer_product_and_version_are_compared() -> None:
    """X19: each by itself, the deny list against the allow list, the version as a minimum."""
    good = case()
    mine, other = MR_ENCLAVE.hex(), "55" * 32
    assert good.judge(f"hash = ['{other}', '{mine}']\nsigner = ['{MR_SIGNER.hex()}']").accepted
    assert good.refused(f"hash = ['{other}']") == ("rejected", "policy.hash")
    assert good.refused(f"signer = ['{other}']") == ("rejected", "policy.signer")
    assert good.refused(f"hash_blacklist = ['{mine}']") == ("rejected", "policy.hash_blacklist")
    assert good.judge(f"hash_blacklist = ['{other}']").accepted
    with pytest.raises(ConfigError, match="stands in hash too"):
        good.policy(f"hash = ['{mine}']\nhash_blacklist = ['{mine}']")
    versioned = with_report(product_id=3, security_version=7)
    assert versioned.judge("enclave_product_id = 3\nenclave_security_version = 7").accepted
    assert versioned.judge("enclave_security_version = 6").accepted
    assert versioned.refused("enclave_product_id = 2") == ("rejected", "policy.enclave_product_id")
    assert versioned.refused("enclave_product_id = 4") == ("rejected", "policy.enclave_product_id")
    assert versioned.refused("enclave_security_version = 8") == ("rejected", "policy.enclave_security_version")


@pytest.mark.parametrize(
    "fields", [{"config_id": b"\1" * 64}, {"config_svn": 1}, {"family_id": b"\1" * 16}, {"ext_product_id": b"\1" * 16}]
)
def test_x20_without_kss_its_fields_are_zero(fields: dict[str, object]) -> None:
    """X20: they mean something only with KSS; a value there without it is untrusted."""
    assert with_report(**fields).refused() == ("untrusted", "enclave.key_separation")
    assert with_report(flags=bits.INIT | bits.MODE64BIT | bits.KSS, **fields).judge().accepted


def test_x20_the_fields_of_kss_are_compared() -> None:
    """X20: CONFIGID, CONFIGSVN, ISVFAMILYID and ISVEXTPRODID have their own lists."""
    kss = with_report(
        flags=bits.INIT | bits.MODE64BIT | bits.KSS,
        config_id=b"\1" * 64,
        config_svn=4,
        family_id=b"\2" * 16,
        ext_product_id=b"\3" * 16,
    )
    listed = (
        f"config_id = ['{'01' * 64}']\nconfig_svn = 4\nfamily_id = ['{'02' * 16}']\next_product_id = ['{'03' * 16}']"
    )
    assert kss.judge(listed).accepted
    assert kss.refused(f"config_id = ['{'00' * 64}']") == ("rejected", "policy.config_id")
    assert kss.refused("config_svn = 5") == ("rejected", "policy.config_svn")
    assert kss.refused(f"family_id = ['{'00' * 16}']") == ("rejected", "policy.family_id")
    assert kss.refused(f"ext_product_id = ['{'00' * 16}']") == ("rejected", "policy.ext_product_id")


def test_x21_attributes_have_ceilings() -> None:
    """X21: FLAGS by name, MISCSELECT by name and XFRM by value; what is outside is named in the reason."""
    base = bits.INIT | bits.MODE64BIT
    special = with_report(flags=base | bits.PROVISION_KEY | bits.CET, misc_select=bits.EXINFO, xfrm=0xE7)
    assert special.judge().accepted
    assert special.judge("features = ['ProvisioningKey', 'CET']\nmisc_select = ['EXINFO']").accepted
    assert special.refused("features = ['CET']") == ("rejected", "policy.features")
    assert "ProvisioningKey not allowed" in special.reasons("features = ['CET']")
    assert special.refused("misc_select = []") == ("rejected", "policy.misc_select")
    assert special.judge("xfrm = 'e700000000000000'").accepted
    assert special.refused("xfrm = '0700000000000000'") == ("rejected", "policy.xfrm")
    assert with_report(flags=base | 1 << 40).refused("features = []") == ("rejected", "policy.features")


def test_evidence_comes_in_the_originals_form_and_in_ours() -> None:
    """With the QE identity under our identifier; without it the judge's collateral has to bring one."""
    machine = support.enclave()
    believe = judge(TECHNOLOGY, TECHNOLOGY.default_policy, (support.vendor().anchor(),))
    bound = Binding.of_report_data(REPORT_DATA)
    ours = machine.evidence(REPORT_DATA)
    assert ours.oid == OID_WITH_QE
    assert believe(ours, bound, Endorsements(), AT).accepted
    identity = machine.endorsements.qe_identities
    theirs = encode(machine.quote(REPORT_DATA), replace(machine.endorsements, qe_identities=()))
    assert theirs.oid == OID
    assert believe(theirs, bound, Endorsements(), AT).reasons[0].startswith("qe_identity.kind")
    assert believe(theirs, bound, Endorsements(qe_identities=identity), AT).accepted


def test_the_older_forms_are_read_and_marked() -> None:
    """A bare quote, and one with CRLs alone, are explained offline; a server can refuse them."""
    quote = support.enclave().quote(REPORT_DATA)
    bare = parse(Evidence(oid=OID, body=quote))
    crls = parse(Evidence(oid=OID, body=encode(quote, Endorsements(crls=support.vendor().crls(AT))).body))
    assert (bare.legacy, crls.legacy) == (True, True)
    assert "bare quote" in bare.notes[0]
    assert "without TCB information" in crls.notes[0]


def test_a_server_refuses_the_older_forms_and_others_explain_them() -> None:
    """By default they are judged with what the collateral brings."""
    machine = support.enclave()
    bound, evidence = Binding.of_report_data(REPORT_DATA), Evidence(oid=OID, body=machine.quote(REPORT_DATA))
    anchors = (support.vendor().anchor(),)
    offline = judge(TECHNOLOGY, TECHNOLOGY.default_policy, anchors)(evidence, bound, machine.endorsements, AT)
    assert offline.accepted
    assert "bare quote" in offline.notes[0]
    served = judge(TECHNOLOGY, TECHNOLOGY.default_policy, anchors, refuse_legacy=True)
    refused = served(evidence, bound, machine.endorsements, AT)
    assert (refused.verdict.value, "bare quote" in refused.reasons[0]) == ("malformed", True)


def test_a_quote_without_documents_is_judged_by_those_of_the_steward() -> None:
    """A Keep whose host offers none sends our form, which is no older one of the originals'."""
    machine = support.enclave()
    evidence = encode(machine.quote(REPORT_DATA), Endorsements())
    parsed = parse(evidence)
    assert (evidence.oid, parsed.legacy, parsed.endorsements) == (OID_WITH_QE, False, Endorsements())


def test_a_form_under_the_wrong_identifier_is_malformed() -> None:
    """Each identifier has its own number of parts, and a TD's quote is no enclave's."""
    machine = support.enclave()
    ours = machine.evidence(REPORT_DATA)
    with pytest.raises(MalformedError, match="expected 3 parts"):
        parse(Evidence(oid=OID, body=ours.body))
    theirs = encode(machine.quote(REPORT_DATA), replace(machine.endorsements, qe_identities=()))
    with pytest.raises(MalformedError, match="expected 2 or 4 parts"):
        parse(Evidence(oid=OID_WITH_QE, body=theirs.body))
    with pytest.raises(MalformedError, match="of a TD"):
        Report.parse(support.domain().quote(REPORT_DATA))


def test_a_machine_is_the_same_after_it_was_saved() -> None:
    """Files by name hold everything; a quote of the loaded machine is accepted."""
    loaded = SgxMachine.load(support.enclave().save())
    assert loaded.measurement == MR_ENCLAVE
    assert replace(case(), machine=loaded, quote=loaded.quote(REPORT_DATA)).judge().accepted
    with pytest.raises(MalformedError):
        SgxMachine.load({})


def test_a_bare_quote_is_recognised_by_its_header() -> None:
    """Versions 3 and 5 of an enclave; a TD's is not an enclave's."""
    for head in ("0300020000000000ff", "0500020000000000ff"):
        assert TECHNOLOGY.recognise(bytes.fromhex(head))
    for head in ("0400020000000000", "0300030000000000", "0300020081000000", "0300020000000001", ""):
        assert not TECHNOLOGY.recognise(bytes.fromhex(head))


def test_the_claims_tell_of_every_field() -> None:
    """What the verdict shows of an enclave, under Intel's names, and debug by its own bit."""
    claims = (
        with_report(flags=bits.INIT | bits.MODE64BIT | bits.DEBUG, misc_select=1, security_version=7).judge().claims
    )
    assert claims is not None
    assert claims.debug
    assert claims.signer == MR_SIGNER
    report = claims.fields["report"]
    assert isinstance(report, dict)
    assert (report["attributes"], report["miscselect"], report["isvsvn"]) == (
        "0700000000000000e700000000000000",
        "00000001",
        7,
    )


def test_without_a_table_the_defaults_are_those_of_an_empty_one() -> None:
    """`steward verify` without a configuration asks what a table asks that says nothing."""
    assert case().policy() == TECHNOLOGY.default_policy


def test_policy_is_asked_of_verified_claims_alone() -> None:
    """Claims that `verify` did not make are a mistake of the caller, not evidence."""
    claims = case().judge().claims
    assert claims is not None
    made = {field.name: getattr(claims, field.name) for field in fields(Claims)}
    with pytest.raises(TypeError):
        TECHNOLOGY.accept(Claims(**made), TECHNOLOGY.default_policy, Checks())


@pytest.mark.parametrize("key", ["enclave_product_id", "enclave_security_version", "config_svn"])
def test_numbers_have_sixteen_bits(key: str) -> None:
    """A number that no report can have is a mistake in the configuration."""
    assert case().policy(f"{key} = 65535")
    with pytest.raises(ConfigError, match="65535"):
        case().policy(f"{key} = 65536")


@pytest.mark.parametrize("document", ["tcb_infos", "qe_identities"])
def test_a_certificate_beside_a_document_is_one(document: str) -> None:
    """Rubbish in a chain is refused when evidence is read, not when somebody happens to need it."""
    case = support.case()
    (first,) = getattr(case.endorsements, document)[:1]
    rubbish = replace(first, chain=(*first.chain, b"\x30\x03\x02\x01\x01"))
    wrong = replace(case.endorsements, **{document: (rubbish,)})
    with pytest.raises(MalformedError):
        TECHNOLOGY.parse(encode(case.quote, wrong))
    assert getattr(TECHNOLOGY.parse(encode(case.quote, case.endorsements)).endorsements, document)


def test_a_quote_of_a_domain_is_no_enclaves() -> None:
    """Version 5 is of both; the type of TEE in its header tells them apart, in all of its four bytes."""
    assert not TECHNOLOGY.recognise(support.domain().quote(REPORT_DATA, version=5))
    head = bytearray(support.case().quote[:64])
    for offset in range(4, 8):
        head[offset] = 0x81
        assert not TECHNOLOGY.recognise(bytes(head))
        head[offset] = 0
    assert TECHNOLOGY.recognise(bytes(head))


@pytest.mark.parametrize(("more", "why"), [(0, "element of"), (1, "expected at most")])
def test_evidence_has_a_size_that_is_read(more: int, why: str) -> None:
    """Beyond it nothing is looked at."""
    body = b"\x30\x83\x10\x00\x00".ljust(MAX_EVIDENCE + more, b"\x00")
    with pytest.raises(MalformedError, match=why):
        parse(Evidence(oid=OID, body=body))


@pytest.mark.parametrize("size", [0, 383, 385])
def test_an_enclaves_report_has_one_size(size: int) -> None:
    """One byte less or more is malformed, and nothing else."""
    data = support.enclave().report(REPORT_DATA).encode().ljust(385, b"\0")[:size]
    with pytest.raises(MalformedError, match=f"expected 384 bytes, found {size}"):
        EnclaveReport.parse(data)
