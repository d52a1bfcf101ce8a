"""Every key that a technology's table can have is told in words."""

import pytest

from enarx import toml
from enarx.steward.explain import BY_PRODUCT, FLAGS, SENTENCES
from enarx.tee import TECHNOLOGIES
from enarx.toml import Table

KINDS_OF_TABLES = {"minimum_tcb", "pcrs", "extensible"}  # told by what stands in them


def keys_of(name: str) -> set[str]:
    """What the technology asks its table for, at whatever depth."""
    technology = next(each for each in TECHNOLOGIES if each.name == name)
    table = toml.parse("", source="steward.toml").table(name)
    technology.read_policy(table)

    def below(asked: Table) -> set[str]:
        return set(asked._asked).union(*(below(child) for child in asked._children))

    return below(table)


@pytest.mark.parametrize("name", [technology.name for technology in TECHNOLOGIES])
def test_every_key_has_its_sentence(name: str) -> None:
    """`steward check-config` leaves no key to its name alone."""
    known = {*SENTENCES, *FLAGS, *BY_PRODUCT, *KINDS_OF_TABLES}
    assert {key for key in keys_of(name) if not key.isdigit()} <= known
