"""`enarx` itself: its table of commands, and what all of them share."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from enarx.cli.completion import completion
from enarx.cli.lazy import Lazy, LazyGroup
from enarx.cli.main import COMMANDS, main

SOURCE = Path(__file__).resolve().parents[3] / "src"
HEAVY = ("cryptography", "httpx2", "starlette", "wasmtime", "rich", "msgspec", "joserfc", "ssl", "asyncio")


def python(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def quiet_logger() -> Iterator[None]:
    """Put the logger back as it was."""
    logger = logging.getLogger("enarx")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before
    logging.getLogger("enarx.web").setLevel(logging.NOTSET)


def test_help_imports_nothing_heavy() -> None:
    """`enarx --help` lists every command without importing any."""
    code = (
        "import sys, json\n"
        "from enarx.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(json.dumps(sorted(sys.modules)))"
    )
    told, _, modules = python("-c", code).stdout.rstrip("\n").rpartition("\n")
    imported = set(json.loads(modules))
    assert all(f"  {name} " in told for name in COMMANDS)
    assert not imported & set(HEAVY)
    assert not imported & {command.target.partition(":")[0] for command in COMMANDS.values()}


@pytest.mark.parametrize(
    "name", [name for name, command in COMMANDS.items() if find_spec(command.target.split(":")[0])]
)
def test_every_command_of_the_table_is_there(name: str) -> None:
    """What the table names can be loaded, and is called what the table calls it."""
    assert COMMANDS[name].load().name == name


def test_a_table_that_is_wrong_is_a_bug() -> None:
    """A target that is no command is not called."""
    with pytest.raises(TypeError, match=r"enarx\.cli\.main:COMMANDS: expected a click command, found dict"):
        Lazy("enarx.cli.main:COMMANDS", "").load()


def test_did_you_mean() -> None:
    """A mistyped command is answered with the one that was meant."""
    result = CliRunner().invoke(main, ["depoly"])
    assert result.exit_code == 64
    assert "Did you mean one of: 'demo', 'deploy', 'repo'?" in result.output


def test_only_the_command_that_is_called_is_loaded() -> None:
    """A group whose other commands can not even be imported still works."""
    table = {
        "completion": Lazy("enarx.cli.completion:completion", "here"),
        "gone": Lazy("enarx.nowhere:gone", "not here"),
    }
    group = LazyGroup("program", lazy=table)
    listing = CliRunner().invoke(group, ["--help"])
    assert "not here" in listing.output
    assert CliRunner().invoke(group, ["completion", "fish"]).exit_code == 0


def test_version() -> None:
    """The program says which version it is."""
    assert CliRunner().invoke(main, ["--version"]).output.startswith("enarx, version ")


def test_python_m_enarx_is_enarx() -> None:
    """`python -m enarx` is the same program under its name."""
    assert python("-m", "enarx", "--help").stdout.startswith("Usage: enarx ")


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_completion_scripts(shell: str, sign: str) -> None:
    """Every shell gets the script for all three programs, or for the one it asks for."""
    told = CliRunner().invoke(completion, [shell]).output
    assert told.count(sign) >= 3
    assert all(f"_{name}_COMPLETE" in told for name in ("ENARX", "STEWARD", "DRAWBRIDGE"))
    assert "_STEWARD_COMPLETE" not in CliRunner().invoke(completion, [shell, "--program", "enarx"]).output


@pytest.mark.parametrize(
    ("words", "expected"),
    [("enarx pac", {"plain,package"}), ("enarx config ", {"plain,init", "plain,check", "plain,explain"})],
)
def test_commands_are_completed(words: str, expected: set[str]) -> None:
    """What the script asks of the program is answered, at both levels."""
    count = str(len(words.split(" ")) - 1)
    told = python("-m", "enarx", _ENARX_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count).stdout
    assert set(told.split()) == expected


def test_log_levels(quiet_logger: None) -> None:
    """The filter sets the level of the house and of its parts."""
    assert CliRunner().invoke(main, ["--log-filter", "info,enarx.web=debug", "completion", "fish"]).exit_code == 0
    assert logging.getLogger("enarx").level == logging.INFO
    assert logging.getLogger("enarx.web").level == logging.DEBUG


@pytest.mark.parametrize("text", ["loud", "rustls=debug", "enarx.=info", "=info"])
def test_a_filter_that_says_nothing_is_refused(text: str) -> None:
    """A level or part that nobody knows is a usage error, not silence."""
    result = CliRunner().invoke(main, ["completion", "fish"], env={"ENARX_LOG": text})
    assert result.exit_code == 64
    assert "expected LEVEL" in result.output


def test_a_group_lists_in_the_order_of_its_table() -> None:
    """The order is a user's order, not the alphabet's."""
    assert main.list_commands(click.Context(main)) == list(COMMANDS)
