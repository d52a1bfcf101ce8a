"""Drawbridge over TLS on loopback, beside nginx receiving and serving the same bytes, and beside bare hashing.

    python -m benchmarks.drawbridge [--mib 1024] [--rounds 5] [--files 10000] [--reads 20000] [--crowd 40] [--repositories 100000]

The client is curl for the large file and one keep-alive connection for each of four threads for the small ones; both
servers have one worker process. The large file is sent and fetched in several rounds, by both servers in turn and in
the other order each time, and the medians are told. CPU seconds are of the server's process alone and repeat better than
wall-clock on a shared machine, so a rate "per core" is requests by CPU seconds. nginx is Debian's; without it, its
column is empty. Drawbridge makes every acknowledged PUT durable and verifies what it sends; nginx does neither.
"""

import argparse
import hashlib
import http.client
import os
import resource
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.digest import Digests
from enarx.drawbridge.access import Identity, Person
from enarx.drawbridge.client import Registry as Remote
from enarx.drawbridge.governance import Governance
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, UserName
from enarx.drawbridge.registry import JSON_TYPE, Registry, RepositoryRecord
from enarx.drawbridge.store import FilesystemStore
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Entry, Meta, Tree
from enarx.pki import keys
from enarx.web.client import Client

USER, REPO = UserName("bench"), RepositoryName("bench")
THREADS = 4
TICKS = os.sysconf("SC_CLK_TCK")
API = "/api/v0.1.0"
Requests = list[tuple[str, str, bytes | None, dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where it listens, and the process whose time and memory count."""

    name: str
    port: int
    pid: int
    ca: Path

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def peak(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca))
        return http.client.HTTPSConnection("localhost", self.port, context=context, timeout=60)


@dataclass(slots=True)
class Timing:
    """Seconds of wall-clock and of the server's CPU, and of every single request."""

    wall: float = 0
    cpu: float = 0
    each: tuple[float, ...] = ()

    def percentile(self, part: float) -> float:
        return sorted(self.each)[min(len(self.each) - 1, int(len(self.each) * part))] * 1000

    def __str__(self) -> str:
        rate = f"{len(self.each) / self.wall:7.0f}/s   {len(self.each) / max(self.cpu, 0.01):7.0f}/s and core"
        return f"{rate}   p50 {self.percentile(0.5):6.2f} ms   p99 {self.percentile(0.99):6.2f} ms"


def timed(server: Server, act: Callable[[], tuple[float, ...]]) -> Timing:
    begin, before = time.perf_counter(), server.cpu()
    each = act()
    return Timing(wall=time.perf_counter() - begin, cpu=server.cpu() - before, each=each)


def curl(server: Server, *arguments: str) -> tuple[float, ...]:
    command = ["curl", "--silent", "--show-error", "--fail", "--cacert", str(server.ca), "--http1.1", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return ()


def many(server: Server, requests: Requests) -> tuple[float, ...]:
    """Send them over THREADS connections; how long each took."""

    def work(part: int) -> list[float]:
        connection, took = server.connect(), []
        for method, path, body, headers in requests[part::THREADS]:
            begin = time.perf_counter()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - begin)
            if answer.status >= 300:
                raise RuntimeError(f"{server.name}: {method} {path}: {answer.status}")
        connection.close()
        return took

    with ThreadPoolExecutor(THREADS) as pool:
        return tuple(item for part in pool.map(work, range(THREADS)) for item in part)


@contextmanager
def drawbridge(folder: Path) -> Iterator[tuple[Server, str]]:
    config = folder / "drawbridge.toml"
    config.write_text("[limits]\nrequests_per_minute = 1000000000\nupload_bytes_per_day = 1000000000000\n")
    dev, ca = folder / "dev", folder / "ca.pem"
    program = [sys.executable, "-c", "from enarx.cli.drawbridge import main; main()"]
    options = ["--config", config, "--dev-dir", dev, "--write-ca", ca, "--store", folder / "store"]
    reading, writing = os.pipe()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*program, "serve", "--port", "0", "--ready-fd", str(writing), *map(str, options)],
            pass_fds=[writing],
            stderr=log,
        )
    os.close(writing)
    with os.fdopen(reading) as ready:
        port = int(ready.read())
    token = subprocess.run(
        [*program, "dev", "token", "--dev-dir", str(dev)], check=True, capture_output=True, text=True
    )
    try:
        yield Server(name="drawbridge", port=port, pid=process.pid, ca=ca), token.stdout.strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def nginx(folder: Path, certificates: Path, port: int) -> Iterator[Server | None]:
    """With the certificate of the other, one worker, and WebDAV to receive."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    (folder / "www").mkdir(parents=True)
    chain, key = certify(folder, certificates / "dev")
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        user root; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
        events {{}}
        http {{
          access_log off; client_max_body_size 0; sendfile on; keepalive_requests 1000000;
          client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
          uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          server {{
            listen 127.0.0.1:{port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};
            root {folder}/www; location / {{ dav_methods PUT; create_full_put_path on; }}
          }}
        }}
        """
    )
    process = subprocess.Popen([program, "-c", str(configuration), "-p", str(folder)])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text().split():
        time.sleep(0.05)
    try:
        yield Server(name="nginx", port=port, pid=int(children.read_text().split()[0]), ca=certificates / "ca.pem")
    finally:
        process.terminate()
        process.wait()


def certify(folder: Path, authority: Path) -> tuple[Path, Path]:
    """A certificate for localhost by the CA of the other."""
    issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
    signer = keys.from_pem((authority / "ca.key").read_bytes(), "ca.key")
    key = keys.generate("P-256")
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, keys.hash_of(signer))
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(keys.to_pem(key))
    return chain, private


def show(what: str, server: Server, timing: Timing) -> None:
    print(f"{what:<34} {server.name:<11} {timing}   peak {server.peak():4.0f} MiB", flush=True)


@dataclass(slots=True)
class Rounds:
    """The same thing done several times: seconds for a GiB of wall-clock, of the server's CPU, and of the client's."""

    mib: int
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)

    def run(self, server: Server, *arguments: str) -> None:
        before = _children()
        timing = timed(server, lambda: curl(server, *arguments))
        for values, value in ((self.walls, timing.wall), (self.cpus, timing.cpu), (self.clients, _children() - before)):
            values.append(value * 1024 / self.mib)

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    def __str__(self) -> str:
        cpu, client = statistics.median(self.cpus), statistics.median(self.clients)
        return f"{self.wall:6.2f} s/GiB ({min(self.walls):.2f} to {max(self.walls):.2f})   cpu {cpu:5.2f}   client {client:5.2f}"


def _touch_memory(folder: Path, mib: int) -> None:
    """A hypervisor hands out memory when it is first touched, and whoever does pays: here, nobody whose time counts."""
    with (folder / "touched").open("wb") as output:
        for _ in range(mib):
            output.write(bytes(1 << 20))
    (folder / "touched").unlink()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def large(server: Server, other: Server | None, token: str, folder: Path, mib: int, rounds: int) -> None:
    """One file, there and back."""
    file = folder / "large"
    with file.open("wb") as output:
        for _ in range(mib):
            output.write(os.urandom(1 << 20))
    _touch_memory(folder, 5 * mib)
    hashing = Rounds(mib)
    servers = [server, *([other] if other else [])]
    puts, gets = {one.name: Rounds(mib) for one in servers}, {one.name: Rounds(mib) for one in servers}
    for number in range(rounds):
        begin = time.perf_counter()
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").digest()
        hashing.walls.append((time.perf_counter() - begin) * 1024 / mib)
        put, get = {"nginx": ["--header", "Expect:", "{}/large"]}, {"nginx": ["{}/large"]}
        put["drawbridge"], get["drawbridge"] = _publish_large(server, token, digest, mib, number)
        order = servers if number % 2 == 0 else servers[::-1]
        for arguments, results in ((put, puts), (get, gets)):
            for one in order:
                os.sync()
                upload = ["--upload-file", str(file)] if arguments is put else []
                base = f"https://localhost:{one.port}"
                results[one.name].run(one, *upload, *(part.replace("{}", base) for part in arguments[one.name]))
    print(f"{'SHA-256 of ' + str(mib) + ' MiB':<46} {hashing.wall:6.2f} s/GiB")
    for what, results in (("PUT one file", puts), ("GET one file", gets)):
        for one in servers:
            print(f"{what:<34} {one.name:<11} {results[one.name]}   peak {one.peak():4.0f} MiB", flush=True)
    if other is not None:
        slower = max(puts["nginx"].wall, hashing.wall)
        print(f"GET {gets['nginx'].wall / gets['drawbridge'].wall:.2f} of nginx", end="; ")
        print(f"PUT {slower / puts['drawbridge'].wall:.2f} of the slower of hashing and nginx", flush=True)


def _publish_large(server: Server, token: str, digest: bytes, mib: int, number: int) -> tuple[list[str], list[str]]:
    """A version that waits for the file; what curl is told to send and to fetch it, but for where the server is."""
    meta = Meta(
        digests=Digests.from_json({"sha-256": _base64(digest)}), length=mib << 20, media_type="application/wasm"
    )
    tag = TagName(f"1.0.{number}")
    with Client(f"https://localhost:{server.port}", ca_pem=server.ca.read_bytes(), token=token) as http_client:
        slug = PackageSlug(user=USER, repository=REPO, tag=tag)
        Remote(http_client).up.publish(slug, Tag(entry=Entry(meta=meta)), Tree(nodes=()))
    bearer = ["--header", f"Authorization: Bearer {token}"]
    declared = [f"Content-Digest: {meta.digests.header()}", "Content-Type: application/wasm", "Expect:"]
    url = f"{{}}{API}/{USER}/{REPO}/_tag/{tag}/tree"
    return [*bearer, *(part for header in declared for part in ("--header", header)), url], [*bearer, url]


def crowd(server: Server, token: str, folder: Path, mib: int, people: int) -> None:
    """Many slow readers and many who send, of large files, at the same time: what counts is the server's memory."""
    file = folder / "large"
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").digest()
    base = f"https://localhost:{server.port}"
    puts, gets = zip(
        *(_publish_large(server, token, digest, mib, 100 + number) for number in range(people)), strict=True
    )
    curl(server, "--upload-file", str(file), *(part.replace("{}", base) for part in puts[0]))
    for what, readers, writers, rate in (("slow", people, 0, 1), ("slow", 0, people, 1), ("slow", people, people, 1), ("fast", people, people, 0)):  # fmt: skip
        limit = ["--max-time", "10", *(["--limit-rate", f"{rate}M"] if rate else [])]
        command = ["curl", "--silent", "--cacert", str(server.ca), "--http1.1", "--output", "/dev/null", *limit]
        ways = [[*gets[0]]] * readers + [["--upload-file", str(file), *put] for put in puts[:writers]]
        clients = [subprocess.Popen([*command, *(part.replace("{}", base) for part in way)]) for way in ways]
        for client in clients:
            client.wait()
        name = f"{readers} {what} readers, {writers} {what} publishers"
        print(f"{name:<46} peak {server.peak():4.0f} MiB so far", flush=True)


def small(server: Server, other: Server | None, token: str, count: int) -> None:
    """Many files of a kilobyte in directories of a hundred."""
    files = {f"d{number // 100:04d}/f{number:06d}": b"%d" % number * 100 for number in range(count)}
    tree = Tree.from_files(files, algorithms=["sha-256"])
    bearer = {"Authorization": f"Bearer {token}"}
    base = f"{API}/{USER}/{REPO}/_tag/2.0.0/tree"
    with Client(f"https://localhost:{server.port}", ca_pem=server.ca.read_bytes(), token=token) as http_client:
        slug = PackageSlug(user=USER, repository=REPO, tag=TagName("2.0.0"))
        directories = Tree(nodes=tuple(node for node in tree.nodes if node.entry.is_directory))
        Remote(http_client).up.publish(slug, Tag(entry=tree.root), directories)
    puts: Requests = []
    for node in tree.nodes:
        if not node.entry.is_directory:
            meta = node.entry.meta
            declared = {"Content-Type": meta.media_type, "Content-Digest": meta.digests.header(), **bearer}
            puts.append(("PUT", f"{base}/{node.path.url}", node.open().read(), declared))
    gets: Requests = [("GET", path, None, bearer) for _, path, _, _ in puts]
    there: Requests = [("PUT", "/" + path.rpartition("/tree/")[2], data, {}) for _, path, data, _ in puts]
    back: Requests = [("GET", path, None, {}) for _, path, _, _ in there]
    show(f"PUT {count} files", server, timed(server, lambda: many(server, puts)))
    if other is not None:
        show(f"PUT {count} files", other, timed(other, lambda: many(other, there)))
    show(f"GET {count} files", server, timed(server, lambda: many(server, gets)))
    if other is not None:
        show(f"GET {count} files", other, timed(other, lambda: many(other, back)))


def reads(server: Server, token: str, count: int) -> None:
    """Tags and directories, by somebody who is logged in."""
    bearer = {"Authorization": f"Bearer {token}"}
    tag = f"{API}/{USER}/{REPO}/_tag/2.0.0"
    for what, path in (("a tag", tag), ("a directory", f"{tag}/tree/d0000")):
        requests: Requests = [("GET", path, None, bearer)] * count
        show(f"GET {what}, {THREADS} connections", server, timed(server, partial(many, server, requests)))


def growing(folder: Path, most: int) -> None:
    """What listing and publishing cost when there are many other repositories. In this process, without a network."""
    registry = Registry(FilesystemStore(folder))
    body = b'{"subject":"x"}'
    registry.spaces.put_user(USER, body, Meta.of(body, JSON_TYPE), by="x x")
    theirs, made = b'{"subject":"y"}', 0
    for step in sorted({min(count, most) for count in (10, 1000, 100_000)}):
        with patch("enarx.drawbridge.store.filesystem.os.fsync"):  # of those that are only there to be many
            for number in range(made, step):
                owner = UserName(f"u{number // 1000}")
                if number % 1000 == 0:
                    registry.spaces.put_user(owner, theirs, Meta.of(theirs, JSON_TYPE), by="x y")
                _repository(registry, owner, RepositoryName(f"r{number}"), public=number % 2 == 0)
        made = step
        os.sync()
        costs(registry, made)


def costs(registry: Registry, others: int) -> None:
    name = RepositoryName(f"own{others}")
    _repository(registry, USER, name)
    publishing = _median(lambda at: _publish(registry, name, TagName(f"1.{at}.0")))
    listing = _median(lambda _: len(registry.versions.names(USER, name)))
    mine = _median(lambda _: len(list(registry.spaces.repositories(USER))))
    anybody, governance = Person(identity=Identity(issuer="x", subject="x"), scopes=None), Governance(registry)
    searching = _median(lambda _: len(governance.search(anybody, "own", after="", limit=100)[0]))
    print(
        f"with {others:>7} other repositories       publish {publishing * 1000:6.2f} ms   "
        f"list tags {listing * 1e6:6.0f} us   list own repositories {mine * 1e6:6.0f} us   search {searching * 1e6:6.0f} us",
        flush=True,
    )


def _repository(registry: Registry, owner: UserName, name: RepositoryName, *, public: bool = False) -> None:
    body = RepositoryRecord(public=public).encode()
    registry.spaces.put_repository(owner, name, body, Meta.of(body, JSON_TYPE), by="x x")


def _publish(registry: Registry, name: RepositoryName, tag: TagName) -> None:
    tree = Tree.from_files({"main.wasm": b"\0asm"}, algorithms=["sha-256"])
    body = Tag(entry=tree.root).encode()
    registry.versions.put(USER, name, tag, body, Meta.of(body, Tag(entry=tree.root).media_type), by="x x")
    for node in tree.nodes:
        with registry.trees.put(USER, name, tag, node.path, node.entry.meta, by="x x") as upload:
            upload.write(node.open().read())
            upload.finish()


def _median(act: Callable[[int], object], times: int = 15) -> float:
    took = []
    for at in range(times):
        begin = time.perf_counter()
        act(at)
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """All of it, one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("mib", 1024),
        ("rounds", 5),
        ("files", 10_000),
        ("reads", 20_000),
        ("crowd", 40),
        ("repositories", 100_000),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dir", type=Path, help="where to put everything; default: the directory for temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as name:
        folder = Path(name)
        with drawbridge(folder) as (server, token), nginx(folder / "nginx", folder, _free_port()) as other:
            with Client(f"https://localhost:{server.port}", ca_pem=server.ca.read_bytes(), token=token) as http_client:
                remote = Remote(http_client)
                remote.put_user(USER, "development|developer")
                remote.put_repository(USER, REPO, public=False)
            large(server, other, token, folder, given.mib, given.rounds)
            crowd(server, token, folder, given.mib, given.crowd)
            small(server, other, token, given.files)
            reads(server, token, given.reads)
        growing(folder / "many", given.repositories)


if __name__ == "__main__":
    main()
