"""What `enarx sign` wrote, as a launch takes it, and every file that is none."""

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.main import main
from enarx.errors import MalformedError, NotFoundError
from enarx.keep.backends.gramine import ENCLAVE_HASH, MANIFEST, SUFFIXES, signed_elsewhere
from enarx.keep.backends.qemu import FIRMWARE_NAME, ID_AUTH_NAME, ID_BLOCK_NAME, Plan, arguments
from enarx.keep.backends.signatures import Signatures
from enarx.tee.sgx import sigstruct
from enarx.tee.snp.idblock import IdBlock
from tests.unit.cli import vectors

BLOCK = IdBlock(launch_digest=bytes(range(48)), policy=0x30000).encode()
AUTH = bytes((1, 0, 0, 0, 1, 0, 0, 0)) + bytes(4088)
ENCLAVE = bytes(60) + bytes(range(32)) + bytes(36)


def write(folder: Path, **parts: object) -> Path:
    file = folder / "enarx.sig.json"
    file.write_text(json.dumps({"version": "0.7.1", **parts}))
    return file


def sev(block: bytes = BLOCK, auth: bytes = AUTH) -> dict[str, list[int]]:
    return {"id_block": list(block), "id_auth": list(auth)}


def guest(image: Path, plan: Plan) -> dict[str, object]:
    command = arguments(image, plan, channel=7, monitor=8, console=Path("/console.log"))
    found = [json.loads(command[at + 1]) for at, word in enumerate(command) if word == "-object"][1]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Signed by somebody in the image, too."""
    (tmp_path / FIRMWARE_NAME).write_bytes(b"")
    (tmp_path / ID_BLOCK_NAME).write_bytes(IdBlock(launch_digest=bytes(48), policy=0x30000).encode())
    (tmp_path / ID_AUTH_NAME).write_bytes(bytes(4096))
    return tmp_path


def test_the_file_of_enarx_sign_is_taken_instead_of_the_images(image: Path) -> None:
    """By another signer, or by nobody: what lies in the image stays there."""
    plan = Plan(tee="snp", accelerator="kvm")
    assert guest(image, plan)["author-key-enabled"] is False
    file = write(image, sev=sev())
    taken = guest(image, Plan(tee="snp", accelerator="kvm", signatures=file))
    assert taken["id-block"] == base64.b64encode(BLOCK).decode()
    assert taken["id-auth"] == base64.b64encode(AUTH).decode()
    assert taken["author-key-enabled"] is True
    bare = guest(image, Plan(tee="snp", accelerator="kvm", unsigned=True))
    assert not {"id-block", "id-auth", "author-key-enabled"} & set(bare)


def test_a_block_of_another_policy_is_refused_by_its_file(image: Path) -> None:
    """As one in the image is."""
    file = write(image, sev=sev(IdBlock(launch_digest=bytes(48), policy=0xB0000).encode()))
    with pytest.raises(MalformedError, match=r"enarx.sig.json: POLICY: expected 0x30000, found 0xb0000"):
        guest(image, Plan(tee="snp", accelerator="kvm", signatures=file))


def test_an_enclave_is_started_from_a_directory_with_that_sigstruct(tmp_path: Path) -> None:
    """The manifest is the image's; the signature is that of the file, for the same enclave."""
    manifest, beside = (tmp_path / f"{MANIFEST}{suffix}" for suffix in SUFFIXES)
    manifest.write_bytes(b"manifest")
    vectors.write_keys(tmp_path)
    (tmp_path / "body").write_bytes(ENCLAVE)
    made = ["sign", "--sgx-key", str(tmp_path / "sgx"), "--sgx-body", str(tmp_path / "body")]
    assert CliRunner().invoke(main, [*made, "--out", str(tmp_path / "file")]).exit_code == 0
    for before in (None, bytes(960) + bytes(range(32)) + bytes(816)):
        if before is not None:
            beside.write_bytes(before)
        folder = signed_elsewhere(tmp_path, tmp_path / "file")
        assert (folder / manifest.name).read_bytes() == b"manifest"
        signed = (folder / beside.name).read_bytes()
        assert (len(signed), signed[ENCLAVE_HASH]) == (sigstruct.SIZE, bytes(range(32)))
    beside.write_bytes(bytes(sigstruct.SIZE))
    with pytest.raises(MalformedError, match=r"is of the enclave 000102.*, expected 0000"):
        signed_elsewhere(tmp_path, tmp_path / "file")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "holds no signature"),
        ({"sev": sev(BLOCK[:-1])}, "id_block: expected 96 octets, found 95"),
        ({"sev": sev(auth=AUTH + b"x")}, "id_auth: expected 4096 octets, found 4097"),
        ({"sgx": [0] * 1807}, "sgx: expected 1808 octets, found 1807"),
        ({"sgx": [256] * 1808}, "a number beyond 0 to 255"),
        ({"sgx": [-1] * 1808}, "a number beyond 0 to 255"),
        ({"sgx": "AAAA"}, "expected what `enarx sign` writes"),
        ({"sev": {"id_block": list(BLOCK)}}, "expected what `enarx sign` writes"),
        ({"sev": sev(), "tdx": []}, "expected what `enarx sign` writes"),
    ],
)
def test_any_other_file_is_refused(tmp_path: Path, parts: dict[str, object], text: str) -> None:
    """With its name and what is wrong in it."""
    with pytest.raises(MalformedError, match=f"enarx.sig.json: .*{text}"):
        Signatures.read(write(tmp_path, **parts))


def test_what_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    """And so is what is far too long."""
    for data in (b"", b"\xff", b"[" * 5000, b" " * 70_000):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(MalformedError, match="file"):
            Signatures.read(tmp_path / "file")
    with pytest.raises(NotFoundError, match="No such file"):
        Signatures.read(tmp_path / "nowhere")


def test_a_signature_is_for_what_it_signed(tmp_path: Path) -> None:
    """One of an enclave launches no virtual machine, nor the other way round."""
    with pytest.raises(MalformedError, match="is of an SGX enclave, expected `sev`"):
        Signatures.read(write(tmp_path, sgx=[0] * 1808)).require_sev()
    with pytest.raises(MalformedError, match="is of a launch with SEV-SNP, expected `sgx`"):
        Signatures.read(write(tmp_path, sev=sev())).require_sgx()
