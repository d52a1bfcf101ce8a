"""`enarx image measure`: the digest covers everything that the host hands over, and nothing that it does not."""

from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from enarx.cli.main import main
from enarx.keep.backends.qemu import FIRMWARE_NAME, INITRAMFS_NAME, KERNEL_NAME
from tests.unit.image.test_firmware import HASH_TABLE, image

CACHED = Path(__file__).parents[3] / ".cache/firmware/OVMF.amdsev.fd"  # scripts/amdsev-firmware puts it there
DEBIAN = next((file for file in (CACHED, Path("/usr/share/ovmf/OVMF.amdsev.fd")) if file.exists()), CACHED)
DEBIANS = {
    "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f": (
        "9db2cb147c5a390744d26ff05052ec56dfdbc3585a3927cdb0ed6f9ee77f221a4310443933ba43955236df74f9b28f1c"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image with firmware, kernel and initramfs that are none, and are measured all the same."""
    for name, data in ((FIRMWARE_NAME, image()), (KERNEL_NAME, b"kernel"), (INITRAMFS_NAME, b"initramfs")):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def measured(folder: Path, *options: str) -> str:
    done = CliRunner().invoke(main, ["image", "measure", str(folder), "--tee", "snp", *options])
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("hash = "))
    return line.split('"')[1]


@pytest.mark.parametrize("name", [FIRMWARE_NAME, KERNEL_NAME, INITRAMFS_NAME])
def test_one_changed_byte_changes_the_digest(folder: Path, name: str) -> None:
    """Of the firmware, the kernel and the initramfs."""
    before = measured(folder)
    data = bytearray((folder / name).read_bytes())
    data[0] ^= 1
    (folder / name).write_bytes(data)
    assert measured(folder) != before


@pytest.mark.parametrize("options", [["--cpus", "2"], ["--cpu", "EPYC-Genoa"]])
def test_other_processors_change_the_digest(folder: Path, options: list[str]) -> None:
    """Their number and their model are part of the launch."""
    assert measured(folder, *options) != measured(folder)


def test_a_firmware_without_a_place_for_hashes_is_malformed(folder: Path) -> None:
    """It has the page, but does not say where in it the monitor puts them; nothing is printed that looks like a digest."""
    (folder / FIRMWARE_NAME).write_bytes(image().replace(HASH_TABLE.bytes_le, bytes(16)))
    done = CliRunner().invoke(main, ["image", "measure", str(folder), "--tee", "snp"])
    assert done.exit_code == 65
    assert "cannot be measured" in done.stderr
    assert done.stdout == ""


def test_a_real_firmware_is_measured(folder: Path) -> None:
    """Debian's AmdSev build of OVMF, which compares the hashes; releases that are known have a known digest.

    It is what a policy lists, so it may not change with a new release of what computes it.
    """
    if not DEBIAN.exists():
        pytest.skip("ovmf-amdsev is not there: scripts/amdsev-firmware .cache/firmware")
    found = measured(folder, "--firmware", str(DEBIAN))
    known = DEBIANS.get(sha256(DEBIAN.read_bytes()).hexdigest())
    assert known in {None, found}
    assert CliRunner().invoke(main, ["image", "lint", str(DEBIAN)]).exit_code == 0
    (folder / KERNEL_NAME).write_bytes(b"another")
    assert measured(folder, "--firmware", str(DEBIAN)) != found
