"""The archive of an initramfs: read back by another reader, and the same bytes whatever the order."""

import shutil
import subprocess
from pathlib import Path

import pytest

from enarx.image.cpio import BLOCK, Node, archive

NODES = (
    Node.directory("etc"),
    Node.file("etc/hosts", b"127.0.0.1 keep\n"),
    Node.file("init", b"#!/bin/true\n", executable=True),
    Node.link("bin", "usr/bin"),
    Node.file("empty", b""),
)


def test_the_order_of_nodes_does_not_matter() -> None:
    """The same tree is the same archive, padded so that another may follow."""
    data = archive(NODES)
    assert data == archive(reversed(NODES))
    assert len(data) % BLOCK == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not on this machine")
def test_cpio_reads_what_was_written(tmp_path: Path) -> None:
    """The classic program unpacks it: names, contents, modes and links."""
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive(NODES), cwd=tmp_path, check=True)
    assert (tmp_path / "etc" / "hosts").read_bytes() == b"127.0.0.1 keep\n"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_device_has_its_numbers() -> None:
    """The console is needed before anything can make it."""
    data = archive([Node.character_device("dev/console", 5, 1, 0o600)])
    fields = [int(data[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
    assert fields[1] == 0o020600
    assert fields[9:11] == [5, 1]


@pytest.mark.parametrize("path", ["/etc", "../etc", "a/../b", ""])
def test_a_path_that_leaves_the_tree_is_our_mistake(path: str) -> None:
    """Such a node is never written."""
    with pytest.raises(ValueError, match="no relative path"):
        archive([Node.file(path, b"")])


def test_a_path_stands_once() -> None:
    """Two nodes of one name would depend on the order."""
    with pytest.raises(ValueError, match="stands twice"):
        archive([Node.file("a", b"1"), Node.file("a", b"2")])
