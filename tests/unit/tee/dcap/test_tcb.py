"""TCB levels: selection, merging and lag, as Intel's library does it."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import UntrustedError
from enarx.pki.certificate import Certificate
from enarx.tee.dcap.collateral import (
    Component,
    EnclaveLevel,
    QeIdentity,
    Status,
    TcbInfo,
    TcbLevel,
    read_qe_identity,
    read_tcb_info,
)
from enarx.tee.dcap.pck import Pck
from enarx.tee.dcap.tcb import (
    ModuleStanding,
    converge,
    merge,
    ordered,
    select_enclave_level,
    select_level,
    select_module,
)
from tests.unit.tee.dcap import support
from tests.values import replace

DATE = datetime(2025, 1, 1, tzinfo=UTC)
INFO: TcbInfo = read_tcb_info(support.vendor().tcb_info(support.AT).body)
TDX_INFO: TcbInfo = read_tcb_info(support.vendor().tcb_info(support.AT, "TDX").body)
IDENTITY: QeIdentity = read_qe_identity(support.vendor().qe_identity(support.AT).body)
PCK = Pck.of(Certificate.parse(support.enclave().machine.chain[0]))


def components(*svns: int) -> tuple[Component, ...]:
    return tuple(Component(svn=svn) for svn in (*svns, *[0] * (16 - len(svns))))


def level(
    *svns: int, pce: int = 0, tdx: tuple[int, ...] | None = None, status: Status = "UpToDate", advisory: str = ""
) -> TcbLevel:
    return TcbLevel(
        sgx=components(*svns),
        pce_svn=pce,
        tdx=None if tdx is None else components(*tdx),
        date=DATE,
        status=status,
        advisories=(advisory,) if advisory else (),
    )


def platform(*svns: int, pce: int = 0) -> Pck:
    return replace(PCK, components=(*svns, *[0] * (16 - len(svns))), pce_svn=pce)


def info(*levels: TcbLevel) -> TcbInfo:
    return replace(INFO, levels=levels)


def enclave(svn: int, status: Status = "UpToDate", advisory: str = "") -> EnclaveLevel:
    return EnclaveLevel(security_version=svn, date=DATE, status=status, advisories=(advisory,) if advisory else ())


def test_levels_are_ordered_by_svns_and_not_by_the_document() -> None:
    """SGX components first, then PCESVN, then TDX components; dates play no part."""
    a, b, c, d = level(2), level(1, pce=9), level(1, pce=3, tdx=(5,)), level(1, pce=3, tdx=(4,))
    for permutation in itertools.permutations((a, b, c, d)):
        assert ordered(permutation) == (a, b, c, d)


def test_the_first_level_whose_every_svn_is_reached_counts() -> None:
    """One component or the PCESVN below is enough to fall to the next level."""
    new, old = level(5, 5, pce=10), level(3, 3, pce=8, status="OutOfDate")
    document = info(old, new)
    assert select_level(document, platform(5, 5, pce=10)) == new
    assert select_level(document, platform(9, 9, pce=99)) == new
    assert select_level(document, platform(5, 4, pce=10)) == old
    assert select_level(document, platform(5, 5, pce=9)) == old


@pytest.mark.parametrize("index", range(16))
def test_every_component_is_compared(index: int) -> None:
    """Sixteen components, none left out."""
    svns = [5] * 16
    low = [*svns[:index], 4, *svns[index + 1 :]]
    with pytest.raises(UntrustedError, match=f"component {index + 1} is 4, needs 5"):
        select_level(info(level(*svns)), platform(*low))


def test_a_platform_below_every_level_is_not_vouched_for() -> None:
    """The error says what is missing for the lowest level; an empty document vouches for nobody."""
    with pytest.raises(UntrustedError, match="PCESVN is 7, needs 8"):
        select_level(info(level(3, pce=8), level(5, pce=10)), platform(3, pce=7))
    with pytest.raises(UntrustedError, match="no levels"):
        select_level(info(), platform(3))


def test_tdx_components_count_from_the_third_when_the_module_has_a_version() -> None:
    """TEE_TCB_SVN[1] above zero means that components 0 and 1 are judged by the module's identity."""
    new, old = level(1, tdx=(5, 1, 6)), level(1, tdx=(3, 0, 2), status="OutOfDate")
    document = info(new, old)
    assert select_level(document, platform(1), bytes((5, 1, 6)) + bytes(13)) == new
    assert select_level(document, platform(1), bytes((2, 1, 6)) + bytes(13)) == new
    assert select_level(document, platform(1), bytes((5, 1, 5)) + bytes(13)) == old
    assert select_level(document, platform(1), bytes((5, 0, 6)) + bytes(13)) == old
    with pytest.raises(UntrustedError):
        select_level(document, platform(1), bytes((2, 0, 6)) + bytes(13))


def test_an_sgx_level_never_serves_a_td() -> None:
    """A level without TDX components is not reached by a TD."""
    with pytest.raises(UntrustedError):
        select_level(info(level(1)), platform(1), bytes(16))


def test_the_highest_enclave_level_that_is_reached_counts() -> None:
    """Whatever the order in the document."""
    levels = (enclave(4, "OutOfDate"), enclave(8), enclave(6, "OutOfDate"))
    assert select_enclave_level(levels, 9, "QE").security_version == 8
    assert select_enclave_level(levels, 7, "QE").security_version == 6
    with pytest.raises(UntrustedError, match="SVN 3 is below every level"):
        select_enclave_level(levels, 3, "QE")


def test_the_module_is_named_by_the_second_svn() -> None:
    """Zero is the base entry; otherwise TDX_xx, exactly once."""
    assert select_module(TDX_INFO, bytes((5, 0)) + bytes(14)).id == ""
    assert select_module(TDX_INFO, bytes((5, 1)) + bytes(14)).id == "TDX_01"
    with pytest.raises(UntrustedError, match="expected one identity TDX_0A"):
        select_module(TDX_INFO, bytes((5, 10)) + bytes(14))
    with pytest.raises(UntrustedError, match="found TDX_01, TDX_01"):
        select_module(replace(TDX_INFO, modules=TDX_INFO.modules * 2), bytes((5, 1)) + bytes(14))
    with pytest.raises(UntrustedError, match="names no module"):
        select_module(INFO, bytes(16))


@pytest.mark.parametrize(
    ("platform_status", "other", "merged"),
    [
        ("UpToDate", "UpToDate", "UpToDate"),
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDate", "UpToDate", "OutOfDate"),
        ("OutOfDateConfigurationNeeded", "UpToDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
        ("ConfigurationNeeded", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"),
        ("TDRelaunchAdvised", "UpToDate", "TDRelaunchAdvised"),
        ("SWHardeningNeeded", "TDRelaunchAdvised", "TDRelaunchAdvised"),
        ("ConfigurationNeeded", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"),
        ("TDRelaunchAdvised", "OutOfDate", "OutOfDate"),
        ("Revoked", "UpToDate", "Revoked"),
        ("UpToDate", "Revoked", "Revoked"),
    ],
)
def test_statuses_merge_as_intel_merges_them(platform_status: Status, other: Status, merged: Status) -> None:
    """What one part needs the whole needs, in either order."""
    assert merge(platform_status, other) == merge(other, platform_status) == merged


STATUS = st.sampled_from(
    ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate", "TDRelaunchAdvised", "Revoked"]
)


@given(STATUS, STATUS, STATUS)
def test_merging_is_associative_and_never_forgets(a: Status, b: Status, c: Status) -> None:
    """The order of merging does not matter, and UpToDate comes only of UpToDate."""
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert (merge(a, b) == "UpToDate") == (a == b == "UpToDate")


def test_the_standing_carries_every_parts_advisories_and_lag() -> None:
    """Platform, Quoting Enclave and module each say what is missing, and no advisory stands twice."""
    old = level(4, pce=11, tdx=(5, 1, 6), status="OutOfDate", advisory="INTEL-SA-1")
    new = level(7, pce=13, tdx=(5, 1, 6))
    document = replace(TDX_INFO, levels=(new, old))
    svn = bytes((3, 1, 6)) + bytes(13)
    standing = converge(
        document,
        old,
        (IDENTITY, enclave(6, "OutOfDate", "INTEL-SA-2"), 6),
        platform(4, pce=11),
        module=ModuleStanding(level=enclave(3, "OutOfDate", "INTEL-SA-1"), newest=5),
        tee_tcb_svn=svn,
    )
    assert standing.status == "OutOfDate"
    assert standing.advisories == ("INTEL-SA-1", "INTEL-SA-2")
    assert standing.lag == (
        "component 1 is 4, needs 7",
        "PCESVN is 11, needs 13",
        "Quoting Enclave SVN is 6, needs 8",
        "TDX module SVN is 3, needs 5",
    )
    assert "OutOfDate (level of 2025-01-01)" in standing.describe()
    assert "advisories INTEL-SA-1, INTEL-SA-2" in standing.describe()


@pytest.mark.parametrize(
    ("status", "module", "svn2", "expected"),
    [
        ("UpToDate", "OutOfDate", (5, 1, 6), "TDRelaunchAdvised"),
        ("SWHardeningNeeded", "OutOfDate", (5, 1, 6), "TDRelaunchAdvised"),
        ("ConfigurationNeeded", "OutOfDate", (5, 1, 6), "TDRelaunchAdvisedConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", (5, 1, 6), "OutOfDate"),
        ("Revoked", "OutOfDate", (5, 1, 6), "Revoked"),
        ("UpToDate", "OutOfDate", (4, 1, 6), "OutOfDate"),
        ("UpToDate", "OutOfDate", (5, 1, 5), "OutOfDate"),
        ("UpToDate", "OutOfDate", None, "OutOfDate"),
        ("UpToDate", "Revoked", (5, 1, 6), "Revoked"),
        ("UpToDate", "UpToDate", (5, 1, 6), "UpToDate"),
    ],
)
def test_a_td_with_an_old_module_on_a_current_platform_is_to_be_relaunched(
    status: Status, module: Status, svn2: tuple[int, ...] | None, expected: Status
) -> None:
    """Only when the platform is fine and has the newest module loaded already."""
    only = level(1, tdx=(5, 1, 6), status=status)
    standing = converge(
        info(only),
        only,
        (IDENTITY, enclave(8), 8),
        platform(1),
        module=ModuleStanding(level=enclave(3, module), newest=5, loaded_newest=5),
        tee_tcb_svn=bytes((3, 1, 6)) + bytes(13),
        tee_tcb_svn2=None if svn2 is None else bytes(svn2) + bytes(13),
    )
    assert standing.status == expected


def test_only_what_is_below_is_told() -> None:
    """Equal SVNs are no lag; the TDX components of a module with a version of its own are not the platform's."""
    newest = level(7, 9, pce=13, tdx=(9, 9, 6, 2))
    old = level(4, pce=11, tdx=(0, 0, 0, 0), status="OutOfDate")
    document = replace(TDX_INFO, levels=(newest, old))
    qe = (IDENTITY, enclave(8), 8)
    for svn, lag in (
        ((5, 1, 6, 2), ("component 1 is 6, needs 7",)),
        ((5, 1, 5, 2), ("component 1 is 6, needs 7", "TDX component 3 is 5, needs 6")),
        ((5, 0, 6, 2), ("component 1 is 6, needs 7", "TDX component 1 is 5, needs 9", "TDX component 2 is 0, needs 9")),
    ):
        standing = converge(document, old, qe, platform(6, 9, pce=13), tee_tcb_svn=bytes(svn) + bytes(12))
        assert standing.lag == lag
    assert converge(document, old, qe, platform(6, 9, pce=13)).lag == ("component 1 is 6, needs 7",)
