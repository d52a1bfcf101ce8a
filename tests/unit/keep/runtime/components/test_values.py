"""Values cross between a component and the host unchanged."""

from pathlib import Path
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from wasmtime import component as wasm

from enarx.keep.runtime.components.host import Host, UnsupportedError
from enarx.keep.runtime.components.values import Err, Table
from enarx.keep.runtime.engine import new_engine

ROOT = Path(__file__).resolve().parents[5]
NAMES = ("bytes", "names", "record", "variant", "option", "result", "tuple", "flags", "enum")


class Echo:
    """A component that hands every value to the host and back."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        engine = new_engine()
        component = wasm.Component(engine, (ROOT / "tests" / "guests" / "values.wat").read_text())
        self.seen: list[Any] = []
        echo = {f"test:values/echo#{name}": self._echo for name in names}
        self._host = Host(engine, component, echo)
        self._store, self._table = wasmtime.Store(engine), Table()
        self._store.set_epoch_deadline(1)
        made = self._host.run(self._table, lambda: self._host.linker.instantiate(self._store, component))
        assert isinstance(made, wasm.Instance)
        self._instance = made

    def _echo(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def call(self, name: str, value: Any) -> Any:
        function = self._instance.get_func(self._store, name)
        assert function is not None
        return self._host.run(self._table, lambda: function(self._store, value))


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@given(st.binary(max_size=5000))
@settings(max_examples=30)
def test_bytes_come_back(echo: Echo, value: bytes) -> None:
    """Lists of bytes are bytes, of any length."""
    assert bytes(echo.call("bytes", value)) == value
    assert echo.seen.pop() == value


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=10))
@settings(max_examples=30)
def test_lists_of_text_come_back(echo: Echo, value: list[str]) -> None:
    """Texts of any script, in lists of any length."""
    assert echo.call("names", value) == value
    assert echo.seen.pop() == value


def test_composed_values_come_back(echo: Echo) -> None:
    """Records, variants, options, results, tuples, flags and enums; what the host sees is Python's own."""
    record = wasm.Record()
    vars(record).update(x=7, name="seven")
    back = echo.call("record", record)
    assert (back.x, back.name) == (7, "seven")
    assert echo.seen.pop() == {"x": 7, "name": "seven"}
    for value, seen in ((None, ("none", None)), (2.5, ("circle", 2.5)), ("x", ("named", "x"))):
        assert echo.call("variant", value) == value
        assert echo.seen.pop() == seen
    for text in (None, "", "some"):
        assert echo.call("option", text) == text
        assert echo.seen.pop() == text
    assert echo.call("tuple", (-8, 2**64 - 1, "ß", True)) == (-8, 2**64 - 1, "ß", True)
    assert echo.seen.pop() == (-8, 2**64 - 1, "ß", True)
    assert echo.call("flags", {"read", "execute"}) == {"read", "execute"}
    assert echo.seen.pop() == frozenset({"read", "execute"})
    assert echo.call("enum", "green") == "green"
    assert echo.seen.pop() == "green"


def test_results_come_back_on_the_side_they_were(echo: Echo) -> None:
    """A value stands for itself, an error is an Err."""
    echo.call("result", wasm.Variant("ok", "fine"))
    assert echo.seen.pop() == "fine"
    echo.call("result", wasm.Variant("err", "red"))
    assert echo.seen.pop() == Err("red")


def test_what_nobody_implements_says_so() -> None:
    """The error names the function, and the store is the only victim."""
    with pytest.raises(UnsupportedError, match="test:values/echo#enum is not offered by a Keep"):
        Echo(names=("bytes",)).call("enum", "green")


def test_what_an_implementation_raises_comes_out(echo: Echo) -> None:
    """An exception of the host is the exception of the call."""

    class Broken(Echo):
        def _echo(self, value: Any) -> Any:
            raise KeyError(value)

    with pytest.raises(KeyError, match="green"):
        Broken().call("enum", "green")
