"""`enarx sign` and `enarx key`: the first generation's vectors, byte for byte, and nothing that was not signed."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enarx import __version__
from enarx.cli.main import main
from enarx.image.build import INITRAMFS_NAME, KERNEL_NAME
from enarx.keep.backends.qemu import FIRMWARE_NAME, ID_AUTH_NAME, ID_BLOCK_NAME
from enarx.tee.snp import idblock
from tests.unit.cli import vectors
from tests.unit.image.test_firmware import image


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the vectors' keys, and the author's word for the ID key."""
    vectors.write_keys(tmp_path)
    done = run("key", "sev", "sign", *vouching(tmp_path, "author", "id"), "--out", tmp_path / "word")
    assert done.exit_code == 0, done.output
    return tmp_path


@pytest.fixture
def folder(keys: Path) -> Path:
    """An image with a firmware that compares hashes, in the same folder."""
    for name, data in ((FIRMWARE_NAME, image()), (KERNEL_NAME, b"kernel"), (INITRAMFS_NAME, b"initramfs")):
        (keys / name).write_bytes(data)
    return keys


def vouching(folder: Path, author: str, known: str) -> list[object]:
    return ["--author-key", folder / author, "--id-key", folder / known]


def test_digests_of_the_first_generations_keys(keys: Path) -> None:
    """As its commands printed them: hexadecimal, without a newline."""
    assert run("key", "sev", "digest", keys / "author").output == vectors.AUTHOR_DIGEST
    assert run("key", "sev", "digest", keys / "id").output == vectors.ID_DIGEST
    assert run("key", "sgx", "digest", keys / "sgx").output == vectors.SGX_DIGEST


def test_an_author_vouches_with_the_first_generations_bytes(keys: Path) -> None:
    """1540 of them."""
    data = (keys / "word").read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (1540, vectors.KEY_SIGNATURE)
    assert data.startswith(vectors.KEY_SIGNATURE_BEGIN)


def test_both_signatures_of_the_first_generations_vectors_are_in_one_file(keys: Path) -> None:
    """96, 4096 and 1808 octets, and the same again the next time."""
    (keys / "block").write_bytes(vectors.ID_BLOCK)
    (keys / "body").write_bytes(vectors.SGX_BODY)
    sev = ["--sev-id-block", keys / "block", "--sev-id-key", keys / "id", "--sev-id-key-signature", keys / "word"]
    sgx = ["--sgx-key", keys / "sgx", "--sgx-body", keys / "body"]
    done = run("sign", *sev, *sgx, "--out", keys / "enarx.sig")
    assert done.exit_code == 0, done.output
    text = (keys / "enarx.sig").read_text()
    found = json.loads(text)
    assert found["version"] == __version__
    block, auth, sigstruct = (bytes(part) for part in (*found["sev"].values(), found["sgx"]))
    assert block == vectors.ID_BLOCK
    assert (len(auth), sha256(auth).hexdigest()) == (4096, vectors.ID_AUTH)
    assert auth[173:184] == vectors.ID_AUTH_S_END
    assert (len(sigstruct), sha256(sigstruct).hexdigest()) == (1808, vectors.SIGSTRUCT)
    assert sigstruct[516:528] == vectors.SIGSTRUCT_SIGNATURE
    assert run("sign", *sev, *sgx).stdout.strip() == text
    assert set(json.loads(run("sign", *sgx).stdout)) == {"version", "sgx"}
    assert set(json.loads(run("sign", *sev).stdout)) == {"version", "sev"}


def test_an_image_is_signed_by_what_it_measures(folder: Path) -> None:
    """Two commands, one ID block: the digest that `measure` prints, the image's version, and a policy without debugging."""
    measured = run("image", "measure", folder, "--tee", "snp").stdout
    sev = ["--sev-id-key", folder / "id", "--guest-svn", 7]
    found = json.loads(run("sign", folder, *sev).stdout)["sev"]
    block = idblock.IdBlock.parse(bytes(found["id_block"]))
    assert f'hash = ["{block.launch_digest.hex()}"]' in measured
    assert (block.guest_svn, block.policy) == (7, 0x30000)
    done = run("image", "sign", folder, "--id-key", folder / "id", "--guest-svn", 7)
    assert done.exit_code == 0, done.output
    assert (folder / ID_BLOCK_NAME).read_bytes() == bytes(found["id_block"])
    assert (folder / ID_AUTH_NAME).read_bytes() == bytes(found["id_auth"])
    assert vectors.ID_DIGEST in done.stdout
    assert "author key" not in done.stdout


def test_with_an_author_reports_will_carry_both_digests(folder: Path) -> None:
    """They are printed, for a policy that asks for them."""
    done = run("image", "sign", folder, "--id-key", folder / "id", "--id-key-signature", folder / "word")
    assert done.exit_code == 0, done.output
    assert f"ID key        {vectors.ID_DIGEST}\nauthor key    {vectors.AUTHOR_DIGEST}\n" in done.stdout


def test_an_authors_word_for_another_key_is_refused(folder: Path) -> None:
    """The firmware would refuse the launch; nothing is written."""
    assert run("key", "sev", "sign", *vouching(folder, "id", "author"), "--out", folder / "other").exit_code == 0
    done = run("image", "sign", folder, "--id-key", folder / "id", "--id-key-signature", folder / "other")
    assert done.exit_code == 65
    assert "does not vouch for this ID key" in done.stderr
    assert not (folder / ID_BLOCK_NAME).exists()


@pytest.mark.parametrize("size", [0, 95, 97])
def test_an_id_block_of_another_size_is_malformed(keys: Path, size: int) -> None:
    """96 bytes, and nothing is signed of what is none."""
    (keys / "block").write_bytes(bytes(size))
    done = run("sign", "--sev-id-block", keys / "block", "--sev-id-key", keys / "id")
    assert (done.exit_code, done.stdout) == (65, "")


def test_a_body_of_another_size_and_a_key_of_another_kind_are_malformed(keys: Path) -> None:
    """128 bytes, RSA of 3072 bits with the exponent 3; P-384."""
    (keys / "body").write_bytes(bytes(127))
    assert run("sign", "--sgx-key", keys / "sgx", "--sgx-body", keys / "body").exit_code == 65
    (keys / "body").write_bytes(bytes(128))
    assert run("sign", "--sgx-key", keys / "id", "--sgx-body", keys / "body").exit_code == 65
    assert run("key", "sev", "digest", keys / "sgx").exit_code == 65
    assert run("key", "sgx", "digest", keys / "id").exit_code == 65


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to sign"),
        (["--sgx-key", "k"], "--sgx-body and --sgx-key belong together"),
        (["--sgx-body", "b"], "--sgx-body and --sgx-key belong together"),
        (["--sev-id-key", "k"], "belong together"),
        (["directory"], "belong together"),
        (["--sev-id-block", "b"], "belong together"),
        (["--sev-id-key-signature", "s"], "--sev-id-key-signature needs --sev-id-key"),
        (["directory", "--sev-id-block", "b", "--sev-id-key", "k"], "not both"),
        (["--sev-id-block", "b", "--sev-id-key", "k", "--guest-svn", "1"], "--guest-svn is for"),
    ],
)
def test_what_is_missing_is_said(options: list[str], said: str) -> None:
    """Nothing is signed for want of an input."""
    done = run("sign", *options)
    assert done.exit_code == 64
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_key_is_not_written_over(keys: Path) -> None:
    """It may be the only copy of what everything was signed with."""
    before = (keys / "id").read_bytes()
    done = run("key", "sev", "create", "--out", keys / "id")
    assert (done.exit_code, done.stdout) == (73, "")
    assert done.stderr == f"Error: {keys / 'id'}: is there already, and is not written over\n"
    assert (keys / "id").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--size", "1G"), "--size is for --no-edmm"),
        (("--no-edmm", "--size", "huge"), "expected a power of two"),
        (("--no-edmm", "--size", "3G"), "expected a power of two"),
        (("--no-edmm", "--size", "0M"), "expected a power of two"),
    ],
)
def test_the_size_of_an_enclave_is_one_that_it_can_have(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    """And means something; else nothing is written."""
    done = run("image", "gramine", tmp_path / "there", *options)
    assert (done.exit_code, why in done.stderr, (tmp_path / "there").exists()) == (64, True, False)
    assert run("image", "gramine", tmp_path / "there", "--no-edmm", "--size", "512M").exit_code == 0
    assert 'sgx.enclave_size = "512M"' in (tmp_path / "there" / "enarx.manifest.template").read_text()


def test_what_is_no_firmware_is_told_by_its_name(folder: Path) -> None:
    """Whoever measures it, and for whichever TEE."""
    (folder / "other.fd").write_bytes(bytes(8192))
    for command in (
        ["lint", folder / "other.fd"],
        ["measure", folder, "--tee", "snp", "--firmware", folder / "other.fd"],
        ["measure", folder, "--tee", "tdx", "--firmware", folder / "other.fd"],
    ):
        done = run("image", *command)
        assert done.exit_code == 65
        assert done.stderr.startswith(f"Error: {folder / 'other.fd'}: firmware: has no table")
        assert "Caused by" not in done.stderr
    assert run("image", "measure", folder, "--tee", "snp", "--cpu", "bogus").exit_code == 65


def test_processors_are_no_matter_of_a_firmwares_measurement(folder: Path) -> None:
    """So they are not named with TDX, nor taken."""
    assert run("image", "measure", folder, "--tee", "snp").stdout.startswith("# 1 processor(s) EPYC-v4, command line")
    refused = run("image", "measure", folder, "--tee", "tdx", "--cpus", "2")
    assert (refused.exit_code, "are for --tee snp" in refused.stderr) == (64, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["key", "sev", "create", "--out", "nowhere/key"],
        ["key", "sev", "digest", "id", "--out", "nowhere/digest"],
        ["key", "sev", "sign", "--author-key", "author", "--id-key", "id", "--out", "nowhere/word"],
        ["sign", "--sgx-key", "sgx", "--sgx-body", "body", "--out", "nowhere/signatures"],
        ["image", "gramine", "author/folder"],
        ["image", "build", "author/folder"],
        ["image", "container", "author/folder"],
        ["update-cache", "--vendor", "amd", "-d", "author/folder"],
        ["update-cache", "--vendor", "amd", "-d", "cache", "--ca", "nothing.pem"],
        ["platform", "sgx", "register", "--efivars", "nowhere"],
    ],
)
def test_places_that_are_not_there_are_said(keys: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """One sentence with the place, before anything is fetched or built; it is no bug of ours."""
    monkeypatch.chdir(keys)
    (keys / "body").write_bytes(vectors.SGX_BODY)
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (66, "")
    assert done.stderr.startswith("Error: ")
    assert "Errno" not in done.stderr
