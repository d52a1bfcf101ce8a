"""`enarx config`: a template that is valid, a file that is never overwritten, a check that explains."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.config import config
from enarx.errors import ConflictError, MalformedError, NotFoundError


def test_init_writes_a_template_that_check_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What init writes is what check calls three standard streams."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(config, ["init"]).exit_code == 0
    result = CliRunner().invoke(config, ["check"])
    assert result.exit_code == 0
    assert "fd 0   kind=stdin name=stdin" in result.output
    described = json.loads(CliRunner().invoke(config, ["check", "--json"]).output)
    assert [file["kind"] for file in described["files"]] == ["stdin", "stdout", "stderr"]


def test_init_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second init fails with the originals' text and leaves the file alone."""
    monkeypatch.chdir(tmp_path)
    Path("Enarx.toml").write_text("args = []\n")
    result = CliRunner().invoke(config, ["init"])
    assert isinstance(result.exception, ConflictError)
    assert str(result.exception) == '"Enarx.toml" does already exist.'
    assert Path("Enarx.toml").read_text() == "args = []\n"


def test_check_names_the_line(tmp_path: Path) -> None:
    """A mistake is reported with the file, the line and a suggestion."""
    file = tmp_path / "Enarx.toml"
    file.write_text("\nargz = []\n")
    result = CliRunner().invoke(config, ["check", str(file)])
    assert isinstance(result.exception, MalformedError)
    assert str(result.exception) == f"{file}:2: argz: unknown key; did you mean 'args'?"
    missing = CliRunner().invoke(config, ["check", str(tmp_path / "none.toml")])
    assert isinstance(missing.exception, NotFoundError)


def test_check_describes_sockets(tmp_path: Path) -> None:
    """Listeners and connections are printed with their defaults filled in."""
    file = tmp_path / "Enarx.toml"
    file.write_text('args=["-v"]\nenv={A="1"}\n[[files]]\nkind="listen"\nname="web"\nprot="tls"\n')
    result = CliRunner().invoke(config, ["check", str(file)])
    assert result.output.splitlines() == [
        "argv   main.wasm -v",
        "env    A=1",
        "fd 0   name=web prot=tls addr=:: port=443 kind=listen",
    ]


def test_check_shows_what_was_set(tmp_path: Path) -> None:
    """Settings that differ from what holds without them are printed by their dotted path."""
    file = tmp_path / "Enarx.toml"
    file.write_text('[limits]\nmemory = "1 MiB"\n[network]\noutgoing = ["a.example:443"]\n[identity]\n')
    lines = CliRunner().invoke(config, ["check", str(file)]).output.splitlines()
    assert lines[2:] == ['network.outgoing = ["a.example:443"]', "limits.memory = 1048576", 'identity = "/enarx"']


def test_explain_says_it_in_words(tmp_path: Path) -> None:
    """A sentence on every descriptor, list and limit."""
    file = tmp_path / "Enarx.toml"
    file.write_text(
        '[[files]]\nkind="connect"\nprot="tls"\nhost="a.example"\npins=["' + "00" * 32 + '"]\n[limits]\nseconds=5\n'
    )
    lines = CliRunner().invoke(config, ["explain", str(file)]).output.splitlines()
    assert (
        "Descriptor 0, 'a.example', is connected to a.example port 443, TLS done by the Keep, the peer has one of 1 keys."
        in lines
    )
    assert "It is stopped after 5 seconds." in lines
    assert "Whoever deploys it may narrow the network lists." in lines


def test_explain_knows_every_key() -> None:
    """A key, a table, or a near miss with a suggestion."""
    told = CliRunner().invoke(config, ["explain", "--key", "limits.memory"]).output
    assert told.startswith("limits.memory  (size; default none)\n")
    assert len(CliRunner().invoke(config, ["explain", "--key", "limits"]).output.splitlines()) == 14
    missed = CliRunner().invoke(config, ["explain", "--key", "limit"])
    assert str(missed.exception) == "no key 'limit' in Enarx.toml; did you mean 'limits'?"
