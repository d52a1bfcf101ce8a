"""The container image: the same digest twice, and programs in it that run as nobody in particular."""

import json
import os
import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

import enarx
from enarx.errors import UnavailableError
from enarx.image.container import PROGRAMS, USER, build
from enarx.image.lock import Lock, resolve_container

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt to fetch what the image is made of")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def layout(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lock, Path]:
    try:
        lock = resolve_container(cache)
    except UnavailableError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"the registries cannot be reached: {error}")
    folder = tmp_path_factory.mktemp("image")
    build(lock, cache).write(folder)
    return lock, folder


def test_every_blob_is_what_its_name_and_its_parent_say(layout: tuple[Lock, Path]) -> None:
    """Index → manifest → configuration and layer, each by digest and size."""
    _, folder = layout
    index = json.loads((folder / "index.json").read_text())
    (entry,) = index["manifests"]
    manifest = json.loads(_blob(folder, entry))
    config = json.loads(_blob(folder, manifest["config"]))
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["User"] == f"{USER}:{USER}"
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == f"enarx:{enarx.__version__}"


def test_the_same_lock_gives_the_same_image(layout: tuple[Lock, Path], cache: Path) -> None:
    """Its digest can be published, and anybody can build it again."""
    lock, folder = layout
    again = build(lock, cache)
    assert f"sha256:{again.manifest}" == json.loads((folder / "index.json").read_text())["manifests"][0]["digest"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root directory")
def test_the_programs_run_in_it(layout: tuple[Lock, Path], tmp_path: Path) -> None:
    """Unpacked and entered, without a host's Python in sight."""
    _, folder = layout
    manifest = json.loads(_blob(folder, json.loads((folder / "index.json").read_text())["manifests"][0]))
    with tarfile.open(folder / "blobs" / "sha256" / manifest["layers"][0]["digest"].removeprefix("sha256:")) as tar:
        tar.extractall(tmp_path / "root", filter="tar")
    for program in PROGRAMS:
        command = [
            "/usr/sbin/chroot",
            f"--userspec={USER}:{USER}",
            str(tmp_path / "root"),
            f"/usr/bin/{program}",
            "--version",
        ]
        done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
        assert (done.returncode, enarx.__version__ in done.stdout) == (0, True), done.stderr


def _blob(folder: Path, descriptor: dict[str, object]) -> bytes:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    data = (folder / "blobs" / algorithm / digest).read_bytes()
    assert sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data
