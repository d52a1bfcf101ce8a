"""A container image with the three programs, in the OCI image layout, from the same pinned packages as a Keep's machine.

    DIR/oci-layout  index.json  blobs/sha256/…        docker, podman, skopeo, containerd and Kubernetes' tools read it

One layer, without times and owners, so the same lock gives the same image digest. It runs as user 65532, writes nothing
but what is mounted at /data, and starts whatever program it is told: `steward`, `drawbridge` or `enarx`. No registry of
images is asked for anything: there is no base image.
"""

import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import enarx
from enarx.image.cpio import Node
from enarx.image.lock import Lock, fetch
from enarx.image.tree import Tree, compiled, merged_usr, own_sources, unpack, with_directories

USER: Final = 65532  # nobody on any host; what Kubernetes calls runAsNonRoot
DATA: Final = "/data"
PROGRAMS: Final[Mapping[str, str]] = {
    "enarx": "enarx.cli.main",
    "steward": "enarx.cli.steward",
    "drawbridge": "enarx.cli.drawbridge",
}
ROOTS: Final = "etc/ssl/certs/ca-certificates.crt"

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What was built: blobs by their SHA-256, and which of them is the manifest."""

    blobs: Mapping[str, bytes]
    manifest: str

    def write(self, folder: Path) -> None:
        """The image layout (OCI Image Format, image-layout)."""
        place = folder / "blobs" / "sha256"
        place.mkdir(parents=True, exist_ok=True)
        for digest, data in self.blobs.items():
            (place / digest).write_bytes(data)
        annotations = {"org.opencontainers.image.ref.name": f"enarx:{enarx.__version__}"}
        entry = _descriptor(MANIFEST_TYPE, self.blobs[self.manifest]) | {"annotations": annotations}
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
        (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        (folder / "index.json").write_bytes(_json(index))


def build(lock: Lock, cache: Path) -> Container:
    """Raises what `enarx.image.build.build` raises."""
    tree, _ = unpack(lock, fetch(lock, cache))
    tree |= {node.path: node for node in (*own_sources(), *_programs(), *_system(tree))}
    tree |= {node.path: node for node in compiled(tree)}
    tree = {path: node for path, node in tree.items() if not path.startswith("usr/share/ca-certificates/")}
    layer = _tar(with_directories(tree))
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": f"{USER}:{USER}",
                "Env": ["PATH=/usr/bin", "LANG=C.UTF-8", f"HOME={DATA}", "PYTHONDONTWRITEBYTECODE=1"],
                "Cmd": ["enarx", "--help"],
                "WorkingDir": DATA,
                "Labels": {
                    "org.opencontainers.image.title": "enarx",
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer)],
        }
    )
    blobs = {sha256(data).hexdigest(): data for data in (layer, config, manifest)}
    return Container(blobs=blobs, manifest=sha256(manifest).hexdigest())


def _programs() -> Iterator[Node]:
    for name, module in PROGRAMS.items():
        text = f"#!/usr/bin/python3 -I\nfrom {module} import main\n\nmain()\n"
        yield Node.file(f"usr/bin/{name}", text.encode(), executable=True)


def _system(tree: Tree) -> Iterator[Node]:
    """What a program expects of a system: a user, roots of public TLS, a place for its data and for a while."""
    yield from merged_usr()
    yield Node.file("etc/passwd", f"enarx:x:{USER}:{USER}::{DATA}:/usr/sbin/nologin\n".encode())
    yield Node.file("etc/group", f"enarx:x:{USER}:\n".encode())
    yield Node.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    roots = sorted(path for path in tree if path.startswith("usr/share/ca-certificates/") and path.endswith(".crt"))
    yield Node.file(ROOTS, b"".join(tree[path].data.rstrip(b"\n") + b"\n" for path in roots))
    yield Node.link("usr/lib/ssl", "/etc/ssl")
    yield Node.link("etc/ssl/cert.pem", "certs/ca-certificates.crt")
    yield Node(path="tmp", mode=stat.S_IFDIR | 0o1777)
    yield Node(path=DATA.lstrip("/"), mode=stat.S_IFDIR | 0o1777)


def _tar(nodes: Sequence[Node]) -> bytes:
    """A layer without times and owners, its entries in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for node in nodes:
            entry = tarfile.TarInfo(node.path)
            entry.mode = stat.S_IMODE(node.mode)
            if stat.S_ISDIR(node.mode):
                entry.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(node.mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, node.data.decode()
            else:
                entry.size = len(node.data)
            tar.addfile(entry, io.BytesIO(node.data) if entry.isreg() else None)
    return out.getvalue()


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
