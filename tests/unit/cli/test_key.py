"""`enarx key`: keys are made private, digests come without a newline, an author vouches for an ID key."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.key import key


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(key, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("tee", "digits"), [("sev", 96), ("sgx", 64)])
def test_a_key_is_made_private_and_has_a_digest(tmp_path: Path, tee: str, digits: int) -> None:
    """The file is for its owner alone, and the digest is hexadecimal without a newline."""
    file = tmp_path / "key.pem"
    invoke(tee, "create", "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    digest = invoke(tee, "digest", str(file))
    assert len(digest) == digits
    assert bytes.fromhex(digest)
    assert "PRIVATE KEY" in invoke(tee, "create")


def test_an_author_vouches_for_an_id_key(tmp_path: Path) -> None:
    """1540 bytes, as the originals wrote them."""
    for name in ("author", "id"):
        invoke("sev", "create", "--out", str(tmp_path / name))
    blob = tmp_path / "signature"
    invoke(
        "sev", "sign", "--author-key", str(tmp_path / "author"), "--id-key", str(tmp_path / "id"), "--out", str(blob)
    )
    assert len(blob.read_bytes()) == 1540
