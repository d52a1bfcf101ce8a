"""Which of the documents at hand go along with evidence: this machine's, and no more than there is room for."""

from datetime import UTC, datetime, timedelta

import pytest

from enarx.keep.backends.documents import Shelf, of_chip, of_intel
from enarx.tee.dcap.simulator import Vendor as Intel
from enarx.tee.documents import MAX_CRLS
from enarx.tee.model import Endorsements, SignedJson
from enarx.tee.snp.report import MAX_CERTIFICATES, Report
from enarx.tee.snp.simulator import SnpMachine
from enarx.tee.snp.simulator import Vendor as Amd
from enarx.tee.tdx.report import Report as TdxReport
from enarx.tee.tdx.simulator import TdxMachine

AT = datetime(2026, 1, 1, tzinfo=UTC)
JUNK = Endorsements(certificates=(b"junk",), crls=(b"junk",), tcb_infos=(SignedJson(body=b"{", chain=(b"",)),))


@pytest.fixture(scope="module")
def amd() -> Amd:
    return Amd.create(AT)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel.create(AT)


def machine_of(amd: Amd) -> SnpMachine:
    return SnpMachine.create(amd, AT, measurement=bytes(48))


def report_of(machine: SnpMachine) -> Report:
    return Report.parse(machine.report(bytes(64)))


def test_a_chip_gets_its_own_chain_out_of_a_full_cache(amd: Amd) -> None:
    """Nine other chips and another product lie there too: its certificate, its ASK, its ARK and their list go along."""
    mine, other = machine_of(amd), Amd.create(AT, product="Genoa")
    crowd = tuple(machine_of(amd).certificate for _ in range(9))
    roots = (other.ark.certificate, amd.ark.certificate)
    full = Endorsements(certificates=(*crowd, *roots, mine.certificate)) | other.endorsements(AT)
    published = amd.endorsements(AT)
    chosen = of_chip(report_of(mine), JUNK | full | published)
    assert chosen.certificates == (mine.certificate, amd.ask.certificate, amd.ark.certificate)
    assert chosen.crls == published.crls


def test_a_list_goes_along_where_the_intermediate_is_the_stewards(amd: Amd) -> None:
    """Without an ASK nobody here knows which root's list is wanted."""
    mine = machine_of(amd)
    offered = Endorsements(certificates=(mine.certificate,), crls=amd.crls(AT))
    assert of_chip(report_of(mine), offered) == offered


def test_a_chip_without_its_certificate_sends_what_there_is_room_for(amd: Amd) -> None:
    """A judge can say what is wrong with another's; evidence with too many would be no evidence."""
    crowd = Endorsements(
        certificates=tuple(machine_of(amd).certificate for _ in range(MAX_CERTIFICATES + 1)),
        crls=tuple(amd.crl(AT, number=number) for number in range(1, MAX_CRLS + 3)),
    )
    chosen = of_chip(report_of(machine_of(amd)), crowd | amd.endorsements(AT))
    assert chosen.certificates == crowd.certificates[:MAX_CERTIFICATES]
    assert len(chosen.crls) == MAX_CRLS


def test_a_platform_gets_the_latest_pair_of_its_own(intel: Intel) -> None:
    """Not the enclaves' documents, not another platform's, not an older evaluation's, and none without its chain."""
    pck = TdxReport.parse(TdxMachine.create(intel, AT, mr_td=bytes(48)).quote(bytes(64))).quoted.pck
    later = intel.recover()
    bare = SignedJson(body=later.tcb_info(AT + timedelta(days=2), "TDX").body, chain=())
    right = later.endorsements(AT + timedelta(days=1), "TDX")
    alone = Endorsements(tcb_infos=(later.recover().tcb_info(AT, "TDX"),))
    strange = Endorsements(tcb_infos=(bare, later.tcb_info(AT + timedelta(days=3), "TDX", fmspc="00606A000000")))
    everything = JUNK | intel.endorsements(AT) | intel.endorsements(AT, "TDX") | strange | alone | right
    chosen = of_intel(pck, "TDX", "TD_QE", everything)
    assert (chosen.tcb_infos, chosen.qe_identities) == (right.tcb_infos, right.qe_identities)
    assert set(right.crls) <= set(chosen.crls)
    assert b"junk" not in chosen.crls


def test_one_document_without_the_other_stays_behind(intel: Intel) -> None:
    """Evidence has both or neither."""
    pck = TdxReport.parse(TdxMachine.create(intel, AT, mr_td=bytes(48)).quote(bytes(64))).quoted.pck
    half = Endorsements(tcb_infos=(intel.tcb_info(AT, "TDX"),), crls=intel.crls(AT))
    assert of_intel(pck, "TDX", "TD_QE", half) == Endorsements(crls=half.crls)


def test_what_the_host_offers_takes_the_place_of_its_last_offer() -> None:
    """What was found here stays."""
    shelf = Shelf(own=Endorsements(crls=(b"own",)))
    shelf.offer(Endorsements(crls=(b"first",)))
    shelf.offer(Endorsements(crls=(b"second",)))
    assert shelf.all().crls == (b"own", b"second")
