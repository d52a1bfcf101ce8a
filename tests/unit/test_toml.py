"""Configuration errors say the file, the line, the dotted path, and what was expected."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx import toml
from enarx.toml import ConfigError

TEXT = """\
origin = "https://steward.example"

[snp]
hash = [
  "00",
]
minimum = 3

[[files]]
kind = "stdin"

[[files]]
kind = 7
"""


def table(text: str = TEXT) -> toml.Table:
    return toml.parse(text, source="steward.toml")


def test_values_come_typed() -> None:
    """Each accessor gives the value it names, or the default."""
    document = table()
    assert document.string("origin") == "https://steward.example"
    assert document.string("absent", None) is None
    assert document.table("snp").integer("minimum") == 3
    assert document.table("snp").hex_list("hash", length=1) == frozenset({b"\0"})


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda t: t.integer("origin"), r"^steward\.toml:1: origin: expected an integer, found a string$"),
        (lambda t: t.string("missing"), r"^steward\.toml: missing: missing, expected a string$"),
        (
            lambda t: t.table("snp").hex_list("hash", length=48),
            r"^steward\.toml:4: snp\.hash\[0\]: expected 48 bytes of hex, found 1$",
        ),
        (
            lambda t: t.table("snp").integer("minimum", maximum=2),
            r"^steward\.toml:7: snp\.minimum: expected an integer from 0 to 2, found 3$",
        ),
        (
            lambda t: t.tables("files")[1].string("kind"),
            r"^steward\.toml:13: files\[1\]\.kind: expected a string, found an integer$",
        ),
        (lambda t: t.boolean("origin"), r"^steward\.toml:1: origin: expected true or false, found a string$"),
        (lambda t: t.strings("origin"), r"^steward\.toml:1: origin: expected a list, found a string$"),
    ],
)
def test_errors_say_where(read: Callable[[toml.Table], object], message: str) -> None:
    """Source, line, dotted path, expected, found."""
    with pytest.raises(ConfigError, match=message):
        read(table())


def test_unknown_keys_are_refused_with_a_suggestion() -> None:
    """A key that nobody asked for is an error that names the nearest known one."""
    document = table('orign = "x"\n')
    document.string("origin", None)
    with pytest.raises(ConfigError, match=r"^steward\.toml:1: orign: unknown key; did you mean 'origin'\?$"):
        document.end()


def test_unknown_keys_are_refused_in_tables_below() -> None:
    """`end` at the top reaches every table that was opened."""
    document = table("[snp]\nhsh = []\n")
    document.table("snp").strings("hash")
    with pytest.raises(ConfigError, match=r"^steward\.toml:2: snp\.hsh: unknown key; did you mean 'hash'\?$"):
        document.end()


@pytest.mark.parametrize(
    "text", ["a = ", b"\xff", "a = 1\na = 2", "x" * (toml.MAX_DOCUMENT + 1)], ids=["cut", "utf8", "twice", "long"]
)
def test_what_is_not_toml_is_refused(text: str | bytes) -> None:
    """Bad syntax, bad UTF-8, a duplicate key and an oversized document are ConfigError."""
    with pytest.raises(ConfigError):
        toml.parse(text, source="x.toml")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, str(1 << 64), str(-(1 << 63) - 1)])
def test_a_number_has_64_bits(number: str) -> None:
    """As TOML has it: wherever a larger one stands, it is refused, and in words that can be printed."""
    for text in (f"a = {number}", f"[[a]]\nb = [1, {{c = {number}}}]"):
        with pytest.raises(ConfigError, match=r"^x\.toml: not TOML: a number of more than 64 bits$"):
            toml.parse(text, source="x.toml")
    assert toml.parse(f"a = {(1 << 64) - 1}", source="x.toml").values["a"] == (1 << 64) - 1


@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_an_error(data: bytes) -> None:
    """Whatever is read, it is a table or ConfigError."""
    try:
        document = toml.parse(data, source="x.toml")
    except ConfigError:
        return
    for key in document.keys():  # noqa: SIM118 - Table is no mapping
        assert str(document.error(key, "seen"))
