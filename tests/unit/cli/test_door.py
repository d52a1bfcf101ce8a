"""A plain `enarx run` is read at the door exactly as the library reads it."""

from pathlib import Path
from typing import Any

import click
import pytest

from enarx.cli import run as command
from enarx.cli.door import quick
from enarx.cli.running import Plan

LINES = [
    ["m.wasm"],
    ["m.wasm", "a", "b"],
    ["m.wasm", "--", "-a", "--json"],
    ["m.wasm", "a", "--", "--", "-b"],
    ["--env", "A=1", "--env", "B=x=y", "--dir", "/", "--dir", "/::/data", "--no-fd-env", "m.wasm", "a"],
    ["--env=A=", "--json", "--no-cache", "--invoke", "add", "m.wat", "1", "--", "-2"],
    ["--wasmcfgfile", "Enarx.toml", "--ca-bundle=ca.pem", "m.wasm"],
]
OTHERS = [
    [],
    ["--help"],
    ["--env", "=1", "m.wasm"],
    ["--env", "A=1"],
    ["--dir", "/none", "m.wasm"],
    ["m.wasm", "--json"],
    ["--jso", "m.wasm"],
    ["--backend", "nil", "m.wasm"],
    ["--", "m.wasm"],
    ["--invoke", "a", "--invoke", "b", "m.wasm"],
]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_the_door_reads_what_the_library_reads(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line gives the same plan on both ways."""
    plans: list[Plan] = []

    def perform(plan: Plan) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(command, "perform", perform)
    with pytest.raises(SystemExit):
        command.run.main(line, standalone_mode=False)
    assert quick(["run", *line], {}) == plans[0]


@pytest.mark.parametrize("line", OTHERS, ids=" ".join)
def test_what_needs_judgement_is_left_to_the_library(line: list[str]) -> None:
    """Help, mistakes and options that stand elsewhere are not read at the door."""
    assert quick(["run", *line], {}) is None


def test_other_commands_and_settings_in_the_environment_are_left_to_the_library() -> None:
    """Only `run`, and only where no variable of ours says something."""
    assert quick(["deploy", "x"], {}) is None
    assert quick([], {}) is None
    assert quick(["run", "m.wasm"], {"ENARX_WASMCFGFILE": "x"}) is None
    assert quick(["run", "m.wasm"], {"_ENARX_COMPLETE": "x"}) is None


def test_every_option_of_the_command_is_known_here_or_left(tmp_path: Path) -> None:
    """A new option of the command either gives the same plan here or none: never another."""
    options: list[Any] = [item for item in command.run.params if isinstance(item, click.Option)]
    named = {flag for option in options for flag in option.opts}
    known = {"--env", "--dir", "--wasmcfgfile", "--ca-bundle", "--invoke", "--no-fd-env", "--no-cache", "--json"}
    assert known <= named
    for flag in named - known:
        assert quick(["run", flag, str(tmp_path), "m.wasm"], {}) is None
