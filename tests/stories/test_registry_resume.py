"""A large file on its way to a registry whose connection breaks, and whose process ends, before it has arrived."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enarx.drawbridge.client import RESUMED_FROM, Registry
from enarx.drawbridge.names import PackageSlug
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Node, Tree
from enarx.web.client import Client
from tests.stories.registry_process import drawbridge, enarx_in, worked

SLUG = PackageSlug.parse("alice/big:1.0.0")
SIZE = RESUMED_FROM + 5_000_000
BROKEN_AT = 12_000_000


def test_an_upload_goes_on_where_it_broke(tmp_path: Path) -> None:
    """Half a file, a broken connection, another server process: the next `publish` sends the other half, and all is right."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "main.wasm").write_bytes(b"\0asm\1\0\0\0" + os.urandom(SIZE - 8))
    tree = Tree.from_path(package)
    options = [
        "--dev-dir",
        str(tmp_path / "dev"),
        "--write-ca",
        str(tmp_path / "ca.pem"),
        "--store",
        str(tmp_path / "s"),
    ]
    settings = {"ENARX_CA_BUNDLE": str(tmp_path / "ca.pem")}
    enarx = enarx_in(tmp_path / "home", settings)
    with drawbridge(tmp_path / "log", *options) as host:
        token = {
            "ENARX_INSECURE_AUTH_TOKEN": dev_token(tmp_path / "dev"),
            "ENARX_OIDC_DOMAIN": f"https://{host}/_issuer",
        }
        worked(enarx("user", "register", f"{host}/alice", **token))
        worked(enarx("repo", "register", f"{host}/alice/big", **token))
        half_way(host, token["ENARX_INSECURE_AUTH_TOKEN"], tmp_path / "ca.pem", tree)
    (tmp_path / "log").write_bytes(b"")
    with drawbridge(tmp_path / "log", *options) as host:
        token = {"ENARX_INSECURE_AUTH_TOKEN": dev_token(tmp_path / "dev")}
        answer = json.loads(worked(enarx("package", "publish", f"{host}/{SLUG}", str(package), "--json", **token)))
        assert answer["sent"] == ["main.wasm"]
        worked(enarx("package", "fetch", f"{host}/{SLUG}@{tree.workload}", str(tmp_path / "out"), **token))
    assert Tree.from_path(tmp_path / "out").workload == tree.workload
    received = re.findall(
        r"method=PUT path=\S+/tree/main.wasm status=(\d+) received=(\d+)", (tmp_path / "log").read_text()
    )
    assert [status for status, _ in received] == ["202", "201"]  # how much is there; the rest
    assert SIZE - BROKEN_AT <= int(received[1][1]) <= SIZE - 8_000_000


def dev_token(directory: Path) -> str:
    program = "from enarx.cli.drawbridge import main; main()"
    command = [sys.executable, "-c", program, "dev", "token", "--dev-dir", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def half_way(host: str, token: str, ca: Path, tree: Tree) -> None:
    """Publish, with a file that can not be read to its end: tag and root arrive, and a part of main.wasm."""
    with Client(f"https://{host}", ca_pem=ca.read_bytes(), token=token) as http:
        registry = Registry(http, sleep=lambda _: None)
        *above, file = tree.nodes
        registry.up.publish(SLUG, Tag(entry=tree.root), Tree(nodes=tuple(above)))
        headers = {
            "Content-Type": file.entry.meta.media_type,
            "Content-Digest": file.entry.meta.digests.header(),
            "Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}",
        }
        with pytest.raises(ZeroDivisionError):
            http.put_stream(url(file), beginning(file), length=SIZE, headers=headers)
        # what the broken connection brought is kept as soon as the server has noticed
        assert any(8_000_000 <= arrived(http, file, headers) <= BROKEN_AT for _ in range(200))


def arrived(http: Client, file: Node, headers: dict[str, str]) -> int:
    """Where a part that begins in a wrong place is told to begin."""
    time.sleep(0.05)
    answer = http.put(url(file), b"x", headers={**headers, "Content-Range": f"bytes 1-1/{SIZE}"}, allow=[409])
    return int(answer.headers["upload-offset"])


def url(node: Node) -> str:
    return f"/api/v0.1.0/alice/big/_tag/1.0.0/tree/{node.path.url}"


def beginning(node: Node) -> Iterator[bytes]:
    with node.open() as file:
        yield file.read(BROKEN_AT)
    raise ZeroDivisionError
