"""One flipped bit anywhere is refused, whatever it means: all bits of a report, and every byte of its certificates."""

from collections.abc import Iterator

import pytest

from enarx.tee.model import Verdict
from tests.unit.tee.snp import support
from tests.unit.tee.snp.support import Case, case
from tests.values import replace

REFUSED = {Verdict.MALFORMED, Verdict.UNTRUSTED}


def flipped(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """`data` with one bit changed: every bit, or with a step of 9 one of every byte or two, at each place in it."""
    for bit in range(0, len(data) * 8, step):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)


def passed(found: Case, data: bytes) -> bool:
    return replace(found, report=data).judge("minimum_report_version = 2").verdict not in REFUSED


@pytest.mark.parametrize(("product", "version"), [("Milan", 2), ("Turin", 5)])
def test_every_bit_of_a_report(product: str, version: int) -> None:
    """Malformed where the bit is reserved, untrusted elsewhere; never as far as the policy."""
    found = case(product, version=version)
    assert passed(found, found.report)
    assert [hex(bit // 8) for bit, data in flipped(found.report) if passed(found, data)] == []


@pytest.mark.parametrize("place", [0, 1, 3])
def test_every_byte_of_a_certificate(place: int) -> None:
    """The key's certificate, the intermediate and the root: which of them is changed does not matter."""
    found = case()
    certificates = found.endorsements.certificates
    anchor = replace(support.vendor().anchor(), certificate=None)  # the root too comes with the endorsements
    accepted = []
    for bit, data in flipped(certificates[place], 9):
        pool = (*certificates[:place], data, *certificates[place + 1 :])
        changed = replace(found.with_endorsements(certificates=pool), anchors=(anchor,))
        if changed.judge().verdict not in REFUSED:
            accepted.append(bit)
    assert accepted == []


def test_every_byte_of_a_crl() -> None:
    """A list that was changed is no list."""
    found = case()
    accepted = []
    for bit, data in flipped(found.endorsements.crls[0], 9):
        if found.with_endorsements(crls=(data,)).judge().verdict not in REFUSED:
            accepted.append(bit)
    assert accepted == []
