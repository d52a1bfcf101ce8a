"""`enarx sign`: one file, as the originals wrote it, and nothing in it that was not signed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx import __version__
from enarx.cli.main import main
from enarx.image import measure
from enarx.image.build import INITRAMFS_NAME, KERNEL_NAME
from enarx.tee.snp import idblock


def test_both_signatures_are_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """96, 4096 and 1808 octets; the block holds what the image will measure."""
    monkeypatch.setattr(measure, "snp", lambda _: bytes(range(48)))
    run = CliRunner().invoke
    for tee in ("sev", "sgx"):
        assert run(main, ["key", tee, "create", "--out", str(tmp_path / tee)]).exit_code == 0
    for name in ("firmware.fd", INITRAMFS_NAME, KERNEL_NAME):
        (tmp_path / name).write_bytes(b"part")
    body = tmp_path / "body"
    body.write_bytes(bytes(128))
    out = tmp_path / "enarx.sig"
    sgx = ["--sgx-key", str(tmp_path / "sgx"), "--sgx-body", str(body)]
    done = run(main, ["sign", str(tmp_path), "--sev-id-key", str(tmp_path / "sev"), *sgx, "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["version"] == __version__
    assert [len(found["sev"]["id_block"]), len(found["sev"]["id_auth"]), len(found["sgx"])] == [96, 4096, 1808]
    assert idblock.IdBlock.parse(bytes(found["sev"]["id_block"])).launch_digest == bytes(range(48))
    assert "sev" not in json.loads(run(main, ["sign", *sgx]).output)
    body.write_bytes(bytes(127))
    assert run(main, ["sign", *sgx]).exit_code != 0


@pytest.mark.parametrize("options", [[], ["--sgx-key", "k"], ["--sev-id-key", "k"], ["--sev-id-key-signature", "s"]])
def test_what_is_missing_is_said(options: list[str]) -> None:
    """Nothing is signed for want of an input."""
    done = CliRunner().invoke(main, ["sign", *options])
    assert done.exit_code == 64
    assert "belong together" in done.output or "needs" in done.output or "nothing to sign" in done.output
