"""The memory of the highest numbers: shared by processes, per authority, and refused when damaged."""

from pathlib import Path

import pytest

from enarx.errors import UnavailableError
from enarx.steward.highest import Highest, series_of
from enarx.tee.dcap.collateral import split
from enarx.tee.dcap.simulator import Vendor
from enarx.tee.model import Endorsements, SignedJson
from tests.unit.steward.support import AT


def documents(vendor: Vendor) -> tuple[bytes | SignedJson, ...]:
    found = vendor.endorsements(AT)
    return (*found.crls, *found.tcb_infos, *found.qe_identities)


def test_a_memory_outlives_its_process(tmp_path: Path) -> None:
    """What one process learned another refuses, and what is as new as known stays."""
    vendor = Vendor.create(AT)
    Highest(tmp_path / ".highest.json").learn(documents(vendor))
    endorsements = vendor.endorsements(AT)
    assert Highest(tmp_path / ".highest.json").admit(endorsements) == (endorsements, ())
    assert not [file for file in tmp_path.iterdir() if file.suffix not in {".json", ".lock"}]


def test_numbers_belong_to_who_signs(tmp_path: Path) -> None:
    """Two vendors of one name, such as a simulator and the real one, do not outbid each other."""
    high, low = (Vendor.create(AT) for _ in range(2))
    memory = Highest()
    memory.learn((SignedJson(body=b"{}"), b"nonsense", *documents(high)))
    assert memory.admit(low.endorsements(AT))[1] == ()
    bare = Endorsements(tcb_infos=tuple(SignedJson(body=one.body) for one in low.endorsements(AT).tcb_infos))
    assert memory.admit(bare)[1] == ()
    assert series_of(b"nonsense") is None


def test_a_damaged_memory_is_no_memory(tmp_path: Path) -> None:
    """Whoever can destroy the file does not thereby make old documents good."""
    path = tmp_path / ".highest.json"
    for text in ("", "[]", '{"a": 1}', '{"a": {"b": "x"}}'):
        path.write_text(text)
        with pytest.raises(UnavailableError, match="was damaged"):
            Highest(path).admit(Endorsements())


def test_a_memory_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    """Nothing is certified on a number that would be forgotten."""
    with pytest.raises(UnavailableError, match="No such file or directory"):
        Highest(tmp_path / "absent" / ".highest.json").learn(documents(Vendor.create(AT)))


def test_the_unsigned_frame_of_a_document_hides_no_rollback() -> None:
    """Spaces around what is signed, or the two members in the other order, make no other document of it."""
    old = Vendor.create(AT)
    memory = Highest()
    memory.learn(documents(old.recover()))
    info = old.tcb_info(AT)
    inner, signature = split(info.body, "tcbInfo")
    for body in (
        info.body.replace(b'{"tcbInfo":', b' { "tcbInfo" : '),
        b'{"signature":"%s","tcbInfo":%s}' % (signature.hex().encode(), inner),
    ):
        admitted, said = memory.admit(Endorsements(tcb_infos=(SignedJson(body=body, chain=info.chain),)))
        assert admitted.tcb_infos == ()
        assert "is a rollback" in said[0]
