"""What is shipped beside the program is read by what it is for."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.exits import CODES, USAGE
from enarx.cli.main import main
from enarx.errors import MalformedError, RejectedError

SYSTEMD = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
UNITS = sorted(SYSTEMD.iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_accepted_by_systemd(unit: Path, tmp_path: Path) -> None:
    """Without a word of complaint."""
    for each in UNITS:
        shutil.copy(each, tmp_path / each.name.replace("@.", "@web."))
    name = unit.name.replace("@.", "@web.")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "enarx" in line]) == (0, [])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda path: path.name)
def test_what_units_start_exists(unit: Path) -> None:
    """Every option is one of the program's."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of directives keep their case
    parser.read(unit)
    words = parser["Service"]["ExecStart"].split()
    assert words[:2] == ["/usr/bin/env", "enarx"]
    command = [word for word in words[2:] if not word.startswith("$")]
    done = CliRunner().invoke(main, [*command, "--help"])
    assert done.exit_code == 0, done.output


def test_a_keep_that_was_refused_is_not_started_again_and_again() -> None:
    """Exit codes of usage, malformed input and refusals end the service; an outage does not."""
    line = next(line for line in (SYSTEMD / "enarx-keep@.service").read_text().splitlines() if "PreventExit" in line)
    codes = {int(word) for word in line.partition("=")[2].split()}
    assert codes == {USAGE, CODES[MalformedError], CODES[RejectedError]}
