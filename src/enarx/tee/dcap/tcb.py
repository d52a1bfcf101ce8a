"""How patched a platform is: the TCB level that applies, and why not a newer one.

The rules are those of Intel's quote verification library (Intel SGX/TDX DCAP, "TCB level selection"
and "converged TCB status"):
 1  levels are ordered by their 16 SGX SVNs, then PCESVN, then 16 TDX SVNs, highest first, whatever
    their order in the document
 2  the level is the first whose every SVN the platform reaches; for TDX from component 2 on when the
    TDX module has a version of its own (TEE_TCB_SVN[1] > 0), for its first two are judged by rule 3
 3  a TDX module is judged by the levels of its identity, the Quoting Enclave by those of the QE identity
 4  the three statuses are merged: what one part needs, the whole needs; Revoked wins
 5  a TD whose module is out of date, on a platform that is not and that has since loaded the newest
    module, need only be relaunched (TDRelaunchAdvised)
`Standing.lag` says per component what is missing for the newest level.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from enarx.errors import UntrustedError
from enarx.tee.dcap.collateral import (
    Component,
    EnclaveLevel,
    QeIdentity,
    Status,
    TcbInfo,
    TcbLevel,
    TdxModule,
)
from enarx.tee.dcap.pck import Pck

OUT_OF_DATE: Final = "out of date"
RELAUNCH: Final = "relaunch"
CONFIGURATION: Final = "configuration"
HARDENING: Final = "hardening"

# What each status says is needed. "Out of date" and "relaunch" leave software hardening unsaid, as Intel's names do.
_NEEDS: Final[dict[Status, frozenset[str]]] = {
    "UpToDate": frozenset(),
    "SWHardeningNeeded": frozenset({HARDENING}),
    "ConfigurationNeeded": frozenset({CONFIGURATION}),
    "ConfigurationAndSWHardeningNeeded": frozenset({CONFIGURATION, HARDENING}),
    "TDRelaunchAdvised": frozenset({RELAUNCH}),
    "TDRelaunchAdvisedConfigurationNeeded": frozenset({RELAUNCH, CONFIGURATION}),
    "OutOfDate": frozenset({OUT_OF_DATE}),
    "OutOfDateConfigurationNeeded": frozenset({OUT_OF_DATE, CONFIGURATION}),
}
_NAMES: Final = {needs: status for status, needs in _NEEDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # compared by identity: one is remembered for many quotes
class Standing:
    """The converged status of platform, TDX module and Quoting Enclave, and what made it so."""

    status: Status
    date: datetime  # tcbDate of the platform's level
    advisories: tuple[str, ...]
    platform_status: Status
    qe_status: Status
    module_status: Status | None
    lag: tuple[str, ...]  # sentences: what is below the newest level, and by how much

    def describe(self) -> str:
        """One line for people: status, date, what lags, which advisories apply."""
        parts = [f"{self.status} (level of {self.date:%Y-%m-%d})", *self.lag]
        if self.advisories:
            parts.append(f"advisories {', '.join(self.advisories)}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStanding:
    """A TDX module's level, the newest SVN of its major version, and that of the version that is loaded now."""

    level: EnclaveLevel
    newest: int
    loaded_newest: int | None = None  # None when the TD does not tell what is loaded, or Intel does not list it


def newest(levels: Iterable[EnclaveLevel]) -> int:
    """The highest ISVSVN that Intel lists."""
    return max((level.security_version for level in levels), default=0)


def ordered(levels: Iterable[TcbLevel]) -> tuple[TcbLevel, ...]:
    """Rule 1."""
    return tuple(sorted(levels, key=_rank, reverse=True))


def select_level(info: TcbInfo, pck: Pck, tee_tcb_svn: bytes | None = None) -> TcbLevel:
    """Rule 2; `tee_tcb_svn` (16 bytes) is the TD's, None for SGX. Raises UntrustedError when no level is reached."""
    levels = ordered(info.levels)
    for level in levels:
        if _reaches(pck.components, level.sgx) and pck.pce_svn >= level.pce_svn and _tdx_reaches(tee_tcb_svn, level):
            return level
    missing = "; ".join(_level_lag(levels[-1], pck, tee_tcb_svn)) if levels else "the document has no levels"
    raise UntrustedError(f"TCB: Intel lists no level that this platform reaches; below the lowest: {missing}")


def select_enclave_level(levels: Sequence[EnclaveLevel], security_version: int, what: str) -> EnclaveLevel:
    """Rule 3: the highest level whose ISVSVN is reached. Raises UntrustedError when there is none."""
    for level in sorted(levels, key=lambda level: level.security_version, reverse=True):
        if security_version >= level.security_version:
            return level
    raise UntrustedError(f"{what}: SVN {security_version} is below every level that Intel lists")


def select_module(info: TcbInfo, tee_tcb_svn: bytes) -> TdxModule:
    """The TDX module that TEE_TCB_SVN[1] names: the base entry for 0, `TDX_xx` otherwise. Raises UntrustedError."""
    version = tee_tcb_svn[1]
    if version == 0:
        if info.module is None:
            raise UntrustedError("TDX module: the TCB info names no module")
        return info.module
    name = f"TDX_{version:02X}"
    found = [module for module in info.modules if module.id.upper() == name]
    if len(found) != 1:
        known = ", ".join(module.id for module in info.modules) or "none"
        raise UntrustedError(f"TDX module: expected one identity {name} in the TCB info, found {known}")
    return found[0]


def converge(
    info: TcbInfo,
    level: TcbLevel,
    qe: tuple[QeIdentity, EnclaveLevel, int],
    pck: Pck,
    *,
    module: ModuleStanding | None = None,
    tee_tcb_svn: bytes | None = None,
    tee_tcb_svn2: bytes | None = None,
) -> Standing:
    """Rules 4 and 5. `qe` is the identity, its level and the Quoting Enclave's ISVSVN."""
    identity, qe_level, qe_svn = qe
    status = merge(level.status, qe_level.status)
    if module is not None:
        merged = merge(status, module.level.status)
        status = _relaunch(status, module, merged, info, tee_tcb_svn2)
    advisories = (*level.advisories, *qe_level.advisories, *(module.level.advisories if module else ()))
    lag = [] if level.status == "UpToDate" else _lag(info, pck, tee_tcb_svn)
    if qe_level.status != "UpToDate":
        lag.append(f"Quoting Enclave SVN is {qe_svn}, needs {newest(identity.levels)}")
    if module is not None and tee_tcb_svn is not None and module.level.status != "UpToDate":
        lag.append(f"TDX module SVN is {tee_tcb_svn[0]}, needs {module.newest}")
    return Standing(
        status=status,
        date=level.date,
        advisories=tuple(dict.fromkeys(advisories)),
        platform_status=level.status,
        qe_status=qe_level.status,
        module_status=None if module is None else module.level.status,
        lag=tuple(lag),
    )


def merge(first: Status, second: Status) -> Status:
    """Rule 4: the union of what both need; OutOfDate absorbs relaunching and software hardening."""
    if "Revoked" in {first, second}:
        return "Revoked"
    needs = _NEEDS[first] | _NEEDS[second]
    if OUT_OF_DATE in needs:
        needs -= {RELAUNCH, HARDENING}
    elif RELAUNCH in needs:
        needs -= {HARDENING}
    return _NAMES[needs]


def _relaunch(
    platform: Status,
    module: ModuleStanding,
    merged: Status,
    info: TcbInfo,
    tee_tcb_svn2: bytes | None,
) -> Status:
    """Rule 5. TEE_TCB_SVN2 is what the platform has now; TEE_TCB_SVN is what it had when the TD was launched."""
    if tee_tcb_svn2 is None or module.loaded_newest is None or module.level.status != "OutOfDate":
        return merged
    if platform == "Revoked" or OUT_OF_DATE in _NEEDS[platform]:
        return merged
    top = ordered(info.levels)[0]
    current = tee_tcb_svn2[0] >= module.loaded_newest and _tdx_reaches(tee_tcb_svn2, top)
    return merge(platform, "TDRelaunchAdvised") if current else merged


def _rank(level: TcbLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return tuple(c.svn for c in level.sgx), level.pce_svn, tuple(c.svn for c in level.tdx or ())


def _reaches(svns: Sequence[int], components: Sequence[Component], start: int = 0) -> bool:
    pairs = zip(svns, components, strict=True)
    return all(svn >= component.svn for index, (svn, component) in enumerate(pairs) if index >= start)


def _tdx_reaches(tee_tcb_svn: bytes | None, level: TcbLevel) -> bool:
    if tee_tcb_svn is None:
        return True
    return level.tdx is not None and _reaches(tee_tcb_svn, level.tdx, _tdx_start(tee_tcb_svn))


def _tdx_start(tee_tcb_svn: bytes) -> int:
    return 2 if tee_tcb_svn[1] > 0 else 0


def _lag(info: TcbInfo, pck: Pck, tee_tcb_svn: bytes | None) -> list[str]:
    """What is below the newest level. Empty when nothing is: then the newest level itself asks for something."""
    return _level_lag(ordered(info.levels)[0], pck, tee_tcb_svn)


def _level_lag(level: TcbLevel, pck: Pck, tee_tcb_svn: bytes | None) -> list[str]:
    found = [
        _short("component", index, have, want)
        for index, (have, want) in enumerate(zip(pck.components, level.sgx, strict=True), start=1)
        if have < want.svn
    ]
    if pck.pce_svn < level.pce_svn:
        found.append(f"PCESVN is {pck.pce_svn}, needs {level.pce_svn}")
    if tee_tcb_svn is not None and level.tdx is not None:
        start = _tdx_start(tee_tcb_svn)
        found += [
            _short("TDX component", index, have, want)
            for index, (have, want) in enumerate(zip(tee_tcb_svn, level.tdx, strict=True), start=1)
            if index > start and have < want.svn
        ]
    return found


def _short(what: str, index: int, have: int, want: Component) -> str:
    label = want.kind or want.category
    return f"{what} {index}{f' ({label})' if label else ''} is {have}, needs {want.svn}"
