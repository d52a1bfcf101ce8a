"""`drawbridge fsck` and `drawbridge gc`: what an operator sees."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enarx.cli.drawbridge import main
from enarx.digest import Digest
from enarx.drawbridge import layout
from enarx.drawbridge.registry import Registry
from enarx.drawbridge.store import FilesystemStore
from enarx.drawbridge.tree import Tree
from tests.unit.drawbridge.support import damage, flip, publish, put_repository, put_user


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(FilesystemStore(tmp_path / "store"))
    put_user(made)
    put_repository(made)
    publish(made, Tree.from_files({"f": b"data"}))
    return made


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_fsck_of_a_whole_registry(registry: Registry, tmp_path: Path) -> None:
    """It says that nothing is wrong, and exits with success."""
    result = run("fsck", "--store", tmp_path / "store")
    assert (result.exit_code, result.output) == (0, "nothing is damaged or missing\n")
    assert run("fsck", "--store", tmp_path / "store", "--json").output == ""


def test_fsck_names_what_is_damaged(registry: Registry, tmp_path: Path) -> None:
    """The object, what is wrong, and a failure that a timer's mail will not overlook."""
    key = layout.blob(Digest.of(b"data"))
    damage(registry.store, key, flip(0))
    registry.contents.put(b"orphan")
    result = run("fsck", "--store", tmp_path / "store", "--json")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert {(line["kind"], line["key"]) for line in said} == {
        ("damaged", key.text), ("orphan", layout.blob(Digest.of(b"orphan")).text)}  # fmt: skip
    assert result.exit_code == 65
    assert "1 findings need your attention" in result.stderr
    assert run("fsck", "--store", tmp_path / "store", "--quick").exit_code == 0


def test_gc_removes_orphans(registry: Registry, tmp_path: Path) -> None:
    """First as a plan, then for real; what is new is left."""
    registry.contents.put(b"orphan")
    key = layout.blob(Digest.of(b"orphan"))
    assert "0 objects" in run("gc", "--store", tmp_path / "store").output
    assert run("gc", "--store", tmp_path / "store", "--grace-hours", "0", "--dry-run").output.startswith(f"{key}\n")
    assert registry.store.stat(key) is not None
    result = json.loads(run("gc", "--store", tmp_path / "store", "--grace-hours", "0", "--json").output)
    assert (result["removed"], result["bytes"]) == ([key.text], 6)
    assert registry.store.stat(key) is None


def test_looking_makes_no_registry(tmp_path: Path) -> None:
    """A store that is not there is not made by looking at it; none at all is a question of usage."""
    result = run("fsck", "--store", tmp_path / "absent")
    assert (result.exit_code, "no such directory" in result.stderr) == (66, True)
    assert not (tmp_path / "absent").exists()
    assert run("gc").exit_code == 64
