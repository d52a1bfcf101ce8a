"""Every parser has seeds in the tree that it reads, and what is made of them is a value or MalformedError."""

from random import Random

import pytest

from enarx.errors import MalformedError
from tests.properties.parsers import CORPUS, PARSERS, kept


@pytest.mark.parametrize("name", PARSERS)
def test_every_seed_is_a_value(name: str) -> None:
    """A fuzzer that starts from these starts behind every length and every tag."""
    assert kept(name)
    for seed in kept(name):
        PARSERS[name](seed.read_bytes())


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_becomes_of_a_seed_is_a_value_or_malformed(name: str) -> None:
    """Cut off, a bit flipped, a piece repeated or exchanged for another's: the same two answers."""
    chance, parse = Random(name), PARSERS[name]  # noqa: S311 - the same pieces in every run
    seeds = [path.read_bytes() for path in kept(name)]
    for _ in range(60):
        data, other = bytearray(chance.choice(seeds)), chance.choice(seeds)
        start = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                del data[start:]
            case 1 if data:
                data[start % len(data)] ^= 1 << chance.randrange(8)
            case 2:
                data[start:start] = data[start : start + chance.randrange(64)]
            case _:
                data[start : start + 16] = other[start : start + 16]
        try:
            parse(bytes(data))
        except MalformedError:
            continue


def test_no_folder_of_seeds_is_left_over() -> None:
    """A parser that was renamed takes its seeds along."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(PARSERS)
