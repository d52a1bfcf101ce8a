"""A package becomes a workload, or is refused with the reason."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.errors import MalformedError
from enarx.keep import workload as module
from enarx.keep.config import STANDARD_STREAMS
from enarx.keep.workload import Workload

EMPTY = b"\0asm\x01\0\0\0"


def test_a_package_is_program_configuration_and_data() -> None:
    """main.wasm runs, Enarx.toml configures, everything else is data by its path."""
    work = Workload.from_package({"main.wasm": EMPTY, "Enarx.toml": b"args = ['x']", "a/b.txt": b"1"})
    assert work.config.args == ("x",)
    assert work.config.files == ()
    assert dict(work.files) == {"a/b.txt": b"1"}


def test_a_lone_module_gets_the_standard_streams() -> None:
    """Without Enarx.toml the default configuration holds."""
    assert Workload.from_package({"main.wasm": EMPTY}).config.files == STANDARD_STREAMS


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"app.wasm": EMPTY}, "package: main.wasm is missing; found app.wasm"),
        ({}, "package: main.wasm is missing; found no files"),
        ({"main.wasm": b"\x7fELF"}, "main.wasm: expected a WebAssembly module, found 7f454c46"),
        ({"main.wasm": EMPTY, "Enarx.toml": b"arg = 1"}, "Enarx.toml:1: arg: unknown key; did you mean 'args'?"),
        ({"main.wasm": EMPTY, "../x": b""}, "not a relative path: '../x'"),
        ({"main.wasm": EMPTY, "/x": b""}, "not a relative path"),
        ({"main.wasm": EMPTY, "a": b"", "a/b": b""}, "'a/b' lies under a file"),
    ],
)
def test_what_cannot_run_is_refused(files: Mapping[str, bytes], message: str) -> None:
    """Each defect of a package is refused before anything runs, and named."""
    with pytest.raises(MalformedError, match=re.escape(message)):
        Workload.from_package(files)


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Module, data and number of files have bounds that are checked."""
    monkeypatch.setattr(module, "MAX_WASM", 8)
    monkeypatch.setattr(module, "MAX_DATA", 3)
    monkeypatch.setattr(module, "MAX_DATA_FILES", 2)
    assert Workload.from_package({"main.wasm": EMPTY, "a": b"12", "b": b"3"}).files
    with pytest.raises(MalformedError, match="at most 8 bytes, found 9"):
        Workload.from_package({"main.wasm": EMPTY + b"\0"})
    with pytest.raises(MalformedError, match="at most 3 bytes of data, found 4"):
        Workload.from_package({"main.wasm": EMPTY, "a": b"1234"})
    with pytest.raises(MalformedError, match="at most 2 data files, found 3"):
        Workload.from_package({"main.wasm": EMPTY, "a": b"", "b": b"", "c": b""})


@given(st.dictionaries(st.sampled_from(["main.wasm", "Enarx.toml", "a", "a/b", "..", ""]), st.binary(max_size=12)))
def test_any_files_are_a_workload_or_malformed(files: dict[str, bytes]) -> None:
    """Whatever a package holds, it is a workload or MalformedError."""
    try:
        Workload.from_package(files)
    except MalformedError:
        return
