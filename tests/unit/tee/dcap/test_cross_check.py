"""The same evidence, judged by us and by dcap-qvl: they agree, or docs/cross-check.md says why not.

Each side says the TCB status with its advisories, or that it refuses. A line of the document that is no difference any
more fails too, so that it always tells how things are.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from enarx.pki.certificate import Certificate, pem
from enarx.steward import collateral
from enarx.tee import sgx
from enarx.tee.appraise import failed, judge
from enarx.tee.dcap.enclave import DEBUG, EnclaveReport
from enarx.tee.dcap.pck import Pck, write_chain
from enarx.tee.dcap.quote import Quote
from enarx.tee.dcap.simulator import OLDER, OLDER_PCE, TDX_COMPONENTS, enclave_level, tcb_level
from enarx.tee.model import Appraisal, Binding, Evidence
from enarx.tee.tdx.report import SEPT_VE_DISABLE, TdReport
from tests.unit.tee.dcap import peer, support
from tests.unit.tee.dcap.support import AT, DAY, REPORT_DATA, Case, case, td_case
from tests.values import replace

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "cross-check.md"
OF_THE_TCB = {"policy.tcb_status", "policy.advisories"}
LINE = re.compile(
    r"^\| (?P<case>[^|`]*`[^`]+`) \| (?P<ours>[^|]+) \| (?P<theirs>[^|]+) \| (?P<why>[^|]+) \|$", re.MULTILINE
)


def explained() -> Mapping[str, tuple[str, str]]:
    """Case → what we say, what it says."""
    found = LINE.finditer(DOCUMENT.read_text())
    return {line["case"].strip("`"): (line["ours"].strip(), line["theirs"].strip()) for line in found}


def ours(appraisal: Appraisal) -> str:
    """Status and advisories, where only these may be between the evidence and its acceptance; else a refusal."""
    if appraisal.claims is None or set(failed(appraisal)) - OF_THE_TCB:
        return peer.REFUSED
    return peer.described(appraisal.claims.tcb_status, appraisal.claims.advisories)


def agree(name: str, mine: str, theirs: str) -> str | None:
    """What is wrong, if anything: a difference that is not explained, or an explanation without a difference."""
    known = explained().get(name)
    if mine == theirs:
        return None if known is None else f"{name}: both say {mine!r}, but the document tells of a difference"
    return None if known == (mine, theirs) else f"{name}: ours {mine!r}, theirs {theirs!r}, explained {known!r}"


def test_every_recorded_quote_is_judged_as_dcap_qvl_does(evidence: Path) -> None:
    """All SGX and TDX samples, those inside Azure's and the originals' evidence too, at their moment."""
    samples = tomllib.loads((evidence / "MANIFEST.toml").read_text())["sample"]
    wrong = []
    for sample in samples:
        quote, documents = (evidence / sample["id"] / name for name in ("quote.bin", "collateral_v3.json"))
        if not quote.exists() or not documents.exists():
            continue
        at, data = datetime.fromisoformat(sample["verify_at"]), quote.read_bytes()
        technology = support.TECHNOLOGIES["SGX" if sgx.TECHNOLOGY.recognise(data) else "TDX"]
        believe = judge(technology, technology.default_policy, technology.anchors())
        endorsements = collateral.read([documents]).endorsements
        appraisal = believe(Evidence(oid="", body=data), Binding.none(), endorsements, at)
        theirs = peer.verdict(data, documents.read_text(), at)
        wrong.append(agree(sample["id"], ours(appraisal), theirs))
    assert len(wrong) > 10
    assert [each for each in wrong if each] == []


def qe(**fields: object) -> Callable[[EnclaveReport], EnclaveReport]:
    return lambda report: replace(report, **fields)


def td(**fields: object) -> Case:
    def alter(report: TdReport) -> TdReport:
        return replace(report, **fields)

    return replace(td_case(), quote=support.domain().quote(REPORT_DATA, alter=alter))


def enclave(**fields: object) -> Case:
    def alter(report: EnclaveReport) -> EnclaveReport:
        return replace(report, **fields)

    return replace(case(), quote=support.enclave().quote(REPORT_DATA, alter=alter))


def svn(*values: int) -> bytes:
    return bytes((*values, *[0] * (16 - len(values))))


def aged(base: Case) -> Case:
    made = support.vendor().machine(AT, tee=base.tee, components=OLDER, pce_svn=OLDER_PCE)
    machine = replace(base.machine, machine=made)
    return replace(base, machine=machine, quote=machine.quote(REPORT_DATA))


def changed(base: Case, **fields: object) -> Case:
    quote = base.machine.quote(REPORT_DATA, alter_quote=lambda q: replace(q, **fields))
    return replace(base, quote=quote)


def certified(base: Case, kind: int, certification: bytes, *certificates: bytes) -> Case:
    """The quote with other certification data, which nobody signed, and what it does not carry beside it."""
    quote = replace(Quote.parse(base.quote), certification_type=kind, certification=certification).encode()
    return replace(base, quote=quote).with_endorsements(certificates=certificates)


def simulated() -> dict[str, Case]:
    """One case a question that a verifier of Intel's quotes has to answer."""
    base, domain, vendor = case(), td_case(), support.vendor()
    newer = vendor.recover()
    level = tcb_level(AT, tdx=(9, 9, 6, *[0] * 13))
    revoked = vendor.revoke(base.machine.machine.chain[0])
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    retired = [{"id": "TDX_01", **module, "tcbLevels": [enclave_level(5, AT, "Revoked")]}]
    chain, pck = base.machine.machine.chain, Pck.of(Certificate.parse(base.machine.machine.chain[0]))
    named = pck.cpu_svn + pck.pce_svn.to_bytes(2, "little") + pck.pce_id
    forged = replace(Quote.parse(base.quote), signature=bytes(64)).encode()
    return {
        "SGX, in order": base,
        "SGX in version 5": replace(base, quote=support.enclave().quote(REPORT_DATA, version=5)),
        "TDX, in order": domain,
        "TDX 1.0 in version 4": replace(domain, quote=support.domain().quote(REPORT_DATA, version=4)),
        "TDX 1.5 extended": replace(domain, quote=support.domain().quote(REPORT_DATA, body_type=4)),
        "PPID in place of the chain": certified(base, 3, bytes(384) + named, *chain[:2]),
        "TDX, PPID in place of the chain": certified(domain, 2, bytes(256) + named, *domain.machine.machine.chain[:2]),
        "PCK certificate alone": certified(base, 4, pem("CERTIFICATE", chain[0]), *chain[:2]),
        "PPID without a chain anywhere": certified(base, 3, bytes(384) + named),
        "chain in CRLF": certified(base, 5, write_chain(chain).replace(b"\n", b"\r\n") + b"\r\n\0\0"),
        "zero padding": replace(base, quote=base.quote + bytes(70)),
        "garbage after the quote": replace(base, quote=base.quote + b"garbage"),
        "another QE vendor": changed(base, qe_vendor_id=bytes(16)),
        "forged signature": replace(base, quote=forged),
        "another QE signer": base.with_machine(lambda m: m.with_qe(qe(mr_signer=bytes(32)))),
        "QE in debug mode": base.with_machine(lambda m: m.with_qe(qe(flags=5 | DEBUG | 16))),
        "QE report data with a tail": base.with_machine(
            lambda m: m.with_qe(lambda r: replace(r, report_data=r.report_data[:63] + b"\1"))
        ),
        "QE of an older version": base.with_machine(lambda m: m.with_qe(qe(security_version=6))),
        "PCEID of another platform": base.with_tcb_info(pceId="0001"),
        "FMSPC of another platform": base.with_tcb_info(fmspc="00906ED50000"),
        "TCB info of the other technology": base.with_endorsements(tcb_infos=(vendor.tcb_info(AT, "TDX"),)),
        "QE identity of the other technology": base.with_endorsements(qe_identities=(vendor.qe_identity(AT, "TDX"),)),
        "evaluation numbers that differ": base.with_endorsements(tcb_infos=(newer.tcb_info(AT),)),
        "TCB info that has ended": base.with_endorsements(tcb_infos=(vendor.tcb_info(AT - 31 * DAY),)),
        "TCB info of tomorrow": base.with_endorsements(tcb_infos=(vendor.tcb_info(AT + DAY),)),
        "PCK that is revoked": base.published(revoked),
        "CRL that has ended": base.with_endorsements(crls=tuple(vendor.crls(AT - 31 * DAY))),
        "SGX out of date": aged(base),
        "TDX out of date": aged(domain),
        "SGX level revoked": base.with_levels(tcb_level(AT, status="Revoked")),
        "enclave in debug mode": enclave(flags=5 | DEBUG),
        "enclave that never ran": enclave(flags=4),
        "KSS fields without KSS": enclave(config_id=b"\1" * 64),
        "TDX components 1 and 2 above a module of version 1": domain.with_levels(level),
        "TDX module out of date": td(tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn2=svn(3, 1, 6)),
        "TDX module out of date, newest loaded": td(tee_tcb_svn=svn(3, 1, 6)),
        "TDX module without identity": td(tee_tcb_svn=svn(5, 3, 6)),
        "TDX module revoked": domain.with_tcb_info(tdxModuleIdentities=retired),
        "TDX platform out of date, module current": domain.with_levels(
            tcb_level(AT, status="OutOfDate", tdx=TDX_COMPONENTS)
        ),
        "TDX module of another signer": td(mr_signer_seam=b"\1" * 48),
        "SEAM attributes": td(seam_attributes=b"\1" + bytes(7)),
        "TD in debug mode": td(attributes=SEPT_VE_DISABLE | 1),
        "reserved TD attribute": td(attributes=SEPT_VE_DISABLE | 1 << 40),
        "SEPT_VE_DISABLE unset": td(attributes=0),
        "XFAM without SSE": td(xfam=0xE5),
        "XFAM with an unknown bit": td(xfam=0xE7 | 1 << 62),
        "service TD": td(mr_service_td=b"\1" * 48),
    }


@pytest.mark.parametrize("name", simulated())
def test_simulated_evidence_is_judged_as_dcap_qvl_does(name: str) -> None:
    """The peer believes our simulator too, so it can be asked what no recorded evidence shows."""
    one = simulated()[name]
    theirs = peer.verdict(one.quote, peer.collateral_of(one), AT, support.vendor().root.certificate)
    assert agree(name, ours(one.judge()), theirs) is None


def test_the_document_explains_nothing_that_is_not_asked(evidence: Path) -> None:
    """Each of its lines names a case that exists."""
    samples = {sample["id"] for sample in tomllib.loads((evidence / "MANIFEST.toml").read_text())["sample"]}
    assert set(explained()) <= samples | set(simulated())
