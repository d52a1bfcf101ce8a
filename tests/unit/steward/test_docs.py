"""docs/steward.md and docs/clouds.md say what is: their configurations are read, their commands and options are there."""

import re
from pathlib import Path

import click
import pytest

from enarx.cli.steward import main
from enarx.steward.config import Config, Flags
from enarx.steward.explain import explain
from enarx.steward.issuer import development
from tests.unit.steward.support import AT

PAGE = "".join((Path(__file__).parents[3] / "docs" / name).read_text() for name in ("steward.md", "clouds.md"))
CONFIGURATIONS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ steward ([^#\n]*)", PAGE, re.MULTILINE)


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configurations_are_read(text: str, tmp_path: Path) -> None:
    """Each is a whole steward.toml and can be explained."""
    for name in ("amd-root.pem", "intel-root.pem", "platform.pem"):
        (tmp_path / name).write_bytes(development(name, AT).certificate.to_pem())
    config = Config.parse(text, source="steward.toml", base=tmp_path, flags=Flags())
    assert len(explain(config)) > 5


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_are_there(line: str) -> None:
    """Each command of the page exists and takes the options that the page gives it."""
    command: click.Command = main
    words = line.split()
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not isinstance(command, click.Group), line
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known, line
