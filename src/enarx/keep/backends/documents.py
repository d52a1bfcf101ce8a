"""Vendors' documents that go along with evidence, so that a Steward need not have them itself.

A shelf holds what was found here and what the host offered since; the host's next offer takes the place of its last.
Which of them concern this machine is chosen here, for evidence has room for a few. Nothing is believed: a document that
cannot be read is left out, and whoever judges the evidence verifies the others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from enarx.errors import EnarxError
from enarx.pki.certificate import Certificate
from enarx.pki.crl import Crl
from enarx.tee.dcap.collateral import read_qe_identity, read_tcb_info, readable
from enarx.tee.dcap.pck import Pck
from enarx.tee.documents import MAX_CRLS, readable_certificates
from enarx.tee.model import Endorsements
from enarx.tee.snp import vek
from enarx.tee.snp.report import MAX_CERTIFICATES, Report


@dataclass(slots=True)
class Shelf:
    """The documents at hand. Each change is one assignment: evidence may be made at the same time."""

    own: Endorsements
    offered: Endorsements = field(default_factory=Endorsements)

    def offer(self, documents: Endorsements) -> None:
        """What the host has now; forget what it had before."""
        self.offered = documents

    def all(self) -> Endorsements:
        return self.own | self.offered


def of_chip(report: Report, documents: Endorsements) -> Endorsements:
    """What concerns the chip that made this report: the certificate of its key, those above it, and their lists.

    Where none is the key's, everything of AMD's that there is room for: a judge can say what is wrong with it.
    """
    amds = [item for item in readable_certificates(documents.certificates) if _is_amds(item.common_name)]
    keys = [item for item in amds if fits(item.der, report)]
    above = _above(keys, amds)
    chosen = [*keys, *above] if keys else sorted(amds, key=lambda item: item.common_name not in vek.NAMES)
    roots = {item.issuer for item in above}  # without the intermediate nobody knows which root's lists are wanted
    lists = _lists(documents.crls, lambda name: name in roots if roots else b"ARK-" in name)
    return Endorsements(certificates=tuple(item.der for item in chosen[:MAX_CERTIFICATES]), crls=lists[:MAX_CRLS])


def of_intel(platform: Pck, tcb_info: str, qe_identity: str, documents: Endorsements) -> Endorsements:
    """What concerns this platform: Intel's lists, and the latest TCB info and QE identity of one evaluation.

    `tcb_info` and `qe_identity` are the ids that the technology's documents carry. One without the other is of no use,
    nor is one without its issuer's chain: evidence has no place for them.
    """
    infos = [
        (read, item)
        for read, item in readable(documents.tcb_infos, read_tcb_info)
        if item.chain and (read.id, read.fmspc, read.pce_id) == (tcb_info, platform.fmspc, platform.pce_id)
    ]
    identities = [
        (read, item)
        for read, item in readable(documents.qe_identities, read_qe_identity)
        if item.chain and read.id == qe_identity
    ]
    pairs = [
        (info.evaluation, info.issue_date, identity.issue_date, one, other)
        for info, one in infos
        for identity, other in identities
        if info.evaluation == identity.evaluation
    ]
    lists = _lists(documents.crls, lambda name: b"Intel SGX" in name)[:MAX_CRLS]
    if not pairs:
        return Endorsements(crls=lists)
    *_, one, other = max(pairs, key=lambda pair: pair[:3])
    return Endorsements(crls=lists, tcb_infos=(one,), qe_identities=(other,))


class Signs(Protocol):
    """What the key that signs a chip's reports is known by. A Report says it."""

    @property
    def chip_id(self) -> bytes: ...

    @property
    def reported_tcb(self) -> bytes: ...


def fits(certificate: bytes, report: Signs) -> bool:
    """Whether this is the certificate of the key that signs the chip's reports, as far as it says."""
    try:
        known = vek.read_vek(certificate)
    except EnarxError:
        return False
    if known.tcb.encode() != report.reported_tcb:
        return False  # from before the last firmware, or after one that was taken back
    return known.hwid is None or report.chip_id.startswith(known.hwid)


def _above(keys: Iterable[Certificate], pool: Iterable[Certificate]) -> list[Certificate]:
    """The issuers of `keys`, and theirs, by name."""
    found: list[Certificate] = []
    wanted = {key.issuer for key in keys}
    for _ in range(2):
        step = [item for item in pool if item.subject in wanted and item not in found]
        found += step
        wanted = {item.issuer for item in step}
    return found


def _lists(crls: Iterable[bytes], wanted: Callable[[bytes], bool]) -> tuple[bytes, ...]:
    found = []
    for data in crls:
        try:
            crl = Crl.parse(data)
        except EnarxError:
            continue
        if wanted(crl.issuer):
            found.append(data)
    return tuple(found)


def _is_amds(name: str) -> bool:
    return name in vek.NAMES or name.startswith(("ARK-", "SEV-"))
