"""A hostile host, attack by attack: each ends at its gate with a sentence that says what, none in a hang or a leak.

The host here is a real one with a real Keep, Steward and registry, and something between host and Keep that changes
what they say to each other, or something at the clock of the Keep. What else a host may try is tested where it is
refused: another workload or report, a lying machine and a revoked one in `test_deploy`, a foreign answer for the TSM in
`test_inside`, an altered image in `test_qemu`, a request that is sent again in `steward/test_authority`.
"""

import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import pytest

from enarx.attested.relying import Expectation
from enarx.errors import RejectedError, UntrustedError
from enarx.keep import launch
from enarx.keep.backends import Keep
from enarx.keep.backends.process import KeepProcess, spawn
from enarx.keep.channel import MAX_BODY, Hello, Kind, Phase, encode
from enarx.keep.deployment import Order
from enarx.keep.launch import Terminal, Watcher
from enarx.keep.refusal import RefusalError
from tests.stories.test_deploy import World, get, real_steward, refusal, settled
from tests.stories.test_renewal import hasty_steward, lets_in

PATIENCE: Final = 60.0  # seconds for what takes one or two; that it passed means a hang
ANYTHING: Final = Expectation(accept_simulated=True, accept_nil=True)
DAY: Final = 86400.0
SKEWED: Final = Path(__file__).with_name("skewed_keep.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with settled(tmp_path_factory.mktemp("world")) as made:
        assert made.deploy(PROGRAM, "nil").returncode == 42  # what servers make at their first visit is made now
        yield made


# -- nothing is left behind


@dataclass(frozen=True, slots=True)
class Traces:
    """What a process can leave behind: threads, descriptors, children."""

    threads: int
    descriptors: int
    children: int

    @classmethod
    def now(cls) -> "Traces":
        threads = [thread for thread in threading.enumerate() if "worker" not in thread.name.lower()]  # the registry's
        return cls(len(threads), len(list(Path("/proc/self/fd").iterdir())), len(list(children())))

    def within(self, other: "Traces") -> bool:
        return (
            self.threads <= other.threads and self.descriptors <= other.descriptors and self.children <= other.children
        )


def children() -> Iterator[int]:
    """Of every thread of this process."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            yield from map(int, (task / "children").read_text().split())


@pytest.fixture
def nothing_left(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test there is what there was before it, and no file where temporary ones are made."""
    del world  # its Steward and registry stay
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = Traces.now()
    yield
    until(lambda: Traces.now().within(before))
    assert list(scratch.iterdir()) == []


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, but not for ever."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


# -- between host and Keep

Meddle = Callable[[Kind, bytes], list[bytes]]  # what passes in place of a frame; END ends it
END: Final = b""


@dataclass
class Between:
    """A Keep whose channel leads through the hands of somebody else."""

    keep: KeepProcess
    to_keep: Meddle
    to_host: Meddle
    stream: socket.socket = field(init=False)
    pumps: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stream, self.inner = socket.socketpair()
        ways = ((self.inner, self.keep.stream, self.to_keep), (self.keep.stream, self.inner, self.to_host))
        for source, target, meddle in ways:
            thread = threading.Thread(target=pass_on, args=(source, target, meddle), name="between", daemon=True)
            thread.start()
            self.pumps.append(thread)

    def wait(self, seconds: float) -> str | None:
        return self.keep.wait(seconds)

    def expose(self, port: int) -> None:
        """Its sockets are the host's own."""

    def kill(self) -> None:
        for end in (self.stream, self.inner, self.keep.stream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes whoever reads there
        self.keep.kill()
        for pump in self.pumps:
            pump.join(PATIENCE)
        self.inner.close()
        self.stream.close()


def pass_on(source: socket.socket, target: socket.socket, meddle: Meddle) -> None:
    """Frame by frame, until either end is gone."""
    with suppress(OSError, EOFError):
        while True:
            length, kind = struct.unpack(">IB", exactly(source, 5))
            for data in meddle(Kind(kind), exactly(source, length)):
                if data is END:
                    raise EOFError
                target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def exactly(source: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = source.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def honest(kind: Kind, body: bytes) -> list[bytes]:
    return [encode(kind, body)]


def drop(wanted: Kind) -> Meddle:
    """Such frames never arrive."""
    return lambda kind, body: [] if kind is wanted else honest(kind, body)


def twice(wanted: Kind) -> Meddle:
    """Such frames arrive again."""
    return lambda kind, body: honest(kind, body) * (2 if kind is wanted else 1)


def instead(wanted: Kind, data: bytes) -> Meddle:
    """Something else arrives."""
    return lambda kind, body: [data] if kind is wanted else honest(kind, body)


def changed(wanted: Kind, **members: object) -> Meddle:
    """Members of such frames say something else."""
    return lambda kind, body: honest(kind, json.dumps(json.loads(body) | members).encode() if kind is wanted else body)


def later(wanted: Kind) -> Meddle:
    """Such a frame arrives after the next one."""
    held: list[bytes] = []

    def meddle(kind: Kind, body: bytes) -> list[bytes]:
        if kind is wanted and not held:
            held.append(encode(kind, body))
            return []
        passed = [*honest(kind, body), *filter(None, held)]
        held[:] = [b""] * len(held)
        return passed

    return meddle


def slowly(kind: Kind, body: bytes) -> list[bytes]:
    """Everything arrives late."""
    time.sleep(0.05)
    return honest(kind, body)


def cut(wanted: Kind) -> Meddle:
    """Half a frame, and the end."""

    return lambda kind, body: [encode(kind, body)[:7], END] if kind is wanted else honest(kind, body)


TOO_LONG: Final = struct.pack(">IB", MAX_BODY + 1, Kind.STDIN)
TOO_LONG_OUT: Final = struct.pack(">IB", MAX_BODY + 1, Kind.STDOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What is done to the frames of either way; at which gate that ends, and what is said there."""

    name: str
    gate: str
    why: str
    to_keep: Meddle = honest
    to_host: Meddle = honest
    stdin: bytes = b""


PROGRAM, ECHO = "user/program:1.0.0", "user/echo:1.0.0"
B = "sha-256:" + "0b" * 32

ATTACKS: Final = (
    # the host, or whoever is between, tells the Keep something else
    Attack(name="start again", to_keep=twice(Kind.START), gate="channel", why="start: not now"),
    Attack(name="start of another workload", to_keep=changed(Kind.START, digest=B), gate="digest", why="expected"),
    Attack(
        name="start with another Steward", to_keep=changed(Kind.START, steward="https://localhost:1"), gate="steward",
        why="localhost:1",
    ),
    Attack(
        name="start with another registry", to_keep=changed(Kind.START, drawbridge="https://localhost:1"),
        gate="drawbridge", why="localhost:1",
    ),
    Attack(
        name="start with a configuration that the package forbids", gate="package", why="does not let it be set",
        to_keep=changed(Kind.START, config='{"env":{"LD_PRELOAD":"x"}}'),
    ),
    Attack(name="start of another version", to_keep=changed(Kind.START, version=2), gate="channel", why="expected 1"),
    Attack(name="start after input", to_keep=later(Kind.START), gate="channel", why="expected start, found stdin"),
    Attack(name="half a start", to_keep=cut(Kind.START), gate="channel", why="ended inside a frame"),
    Attack(name="input too long", to_keep=instead(Kind.STDIN, TOO_LONG), gate="channel", why="at most 1048576"),
    Attack(name="half of input", to_keep=cut(Kind.STDIN), gate="channel", why="ended inside a frame"),
    Attack(
        name="a time of the host's", to_keep=instead(Kind.STDIN, encode(Kind.TIME, b"{}")), gate="channel",
        why="time: not now",
    ),
    Attack(
        name="documents for nobody", to_keep=instead(Kind.STDIN, encode(Kind.COLLATERAL, b"{}")), gate="channel",
        why="no room for documents",
    ),
    Attack(
        name="input past what was asked for", to_keep=instead(Kind.STDIN, encode(Kind.STDIN, bytes(MAX_BODY))),
        gate="channel", why="more than was asked for",
    ),
    # the Keep, or whoever is between, tells the host something else
    Attack(name="no hello", to_host=drop(Kind.HELLO), gate="backend", why="expected hello, found phase"),
    Attack(name="hello late", to_host=later(Kind.HELLO), gate="backend", why="expected hello, found phase"),
    Attack(name="hello again", to_host=twice(Kind.HELLO), gate="channel", why="hello: not now"),
    Attack(name="half a hello", to_host=cut(Kind.HELLO), gate="backend", why="ended inside a frame"),
    Attack(name="half a phase", to_host=cut(Kind.PHASE), gate="channel", why="ended inside a frame"),
    Attack(
        name="a port that is none", to_host=changed(Kind.PHASE, phase="running", facts={"web": "tls :: 0"}),
        gate="channel", why="expected a port, found '0'",
    ),
    Attack(name="no want", to_host=instead(Kind.WANT, encode(Kind.WANT, b"{}")), gate="channel", why="want"),
    Attack(name="output too long", to_host=instead(Kind.STDOUT, TOO_LONG_OUT), gate="channel", why="at most 1048576"),
    Attack(name="half of output", to_host=cut(Kind.STDOUT), gate="channel", why="ended inside a frame"),
    Attack(name="no exit", to_host=drop(Kind.EXIT), gate="backend", why="ended without a word"),
    Attack(name="half an exit", to_host=cut(Kind.EXIT), gate="channel", why="ended inside a frame"),
    Attack(
        name="an exit that is none", to_host=changed(Kind.EXIT, code=256), gate="channel", why="from 0 to 255",
    ),
)  # fmt: skip


def order(world: World, package: str) -> Order:
    """What an honest host says."""
    user, repository, version = package.replace(":", "/").split("/")
    workload = world.registry.promised[f"{user}/{repository}/_tag/{version}"].workload
    trusted = (world.folder / "ca.pem").read_bytes()
    return Order(
        slug=f"localhost:{world.port}/{package}",
        digest=workload,
        steward=world.steward,
        drawbridge=f"https://localhost:{world.port}",
        steward_roots=trusted,
        drawbridge_roots=trusted,
        steward_ca=trusted,
    )


@dataclass
class Attended:
    """A host that attends a Keep in a thread of its own, so that a hang can be told from an end."""

    phases: SimpleQueue[Phase] = field(default_factory=SimpleQueue)
    hellos: list[Hello] = field(default_factory=list)
    code: int | None = None
    error: BaseException | None = None
    out: bytes = b""

    def run(self, ordered: Order, keep: Keep, stdin: bytes) -> None:
        read, write = os.pipe()
        source, feed = os.pipe()
        os.write(feed, stdin)
        os.close(feed)
        try:
            watcher = Watcher(hello=self.hellos.append, phase=self.phases.put)
            self.code = launch.attend(ordered, keep, Terminal(stdin=source, stdout=write, stderr=write), watcher)
        except RefusalError as error:
            self.error = error
        finally:
            keep.kill()
            os.close(write)
            os.close(source)
            with os.fdopen(read, "rb") as output:
                self.out = output.read()

    def phase(self, name: str) -> Phase:
        """The next phase of that name."""
        while True:
            try:
                if (found := self.phases.get(timeout=PATIENCE)).phase == name:
                    return found
            except Empty:
                pytest.fail(f"no {name}: {self.error or self.code}")


@contextmanager
def attending(ordered: Order, keep: Keep, stdin: bytes = b"") -> Iterator[Attended]:
    host = Attended()
    thread = threading.Thread(target=host.run, args=(ordered, keep, stdin), name="host", daemon=True)
    thread.start()
    try:
        yield host
    finally:
        thread.join(PATIENCE)
        if thread.is_alive():
            keep.kill()
            pytest.fail("it hangs")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_is_done_to_the_channel_ends_at_a_gate(world: World, nothing_left: None, attack: Attack) -> None:
    """Whatever arrives changed, twice, late, too long, in part or not at all: one refusal, and the Keep is gone."""
    keep = Between(keep=spawn(["nil"]), to_keep=attack.to_keep, to_host=attack.to_host)
    package = ECHO if Kind.WANT.name.lower() in attack.name or "output" in attack.name else PROGRAM
    with attending(order(world, package), keep, b"some input") as host:
        pass
    assert isinstance(host.error, RefusalError), (host.code, host.out)
    assert host.error.gate == attack.gate, host.error
    assert attack.why in str(host.error)
    assert keep.wait(0) is not None


def test_what_comes_late_still_comes(world: World, nothing_left: None) -> None:
    """A host that delays every frame of both ways gains nothing and breaks nothing."""
    keep = Between(keep=spawn(["nil"]), to_keep=slowly, to_host=slowly)
    with attending(order(world, PROGRAM), keep) as host:
        pass
    assert (host.code, host.out) == (42, b"from the Keep\n"), host.error


def test_a_configuration_that_the_host_adds_stands_in_the_certificate(world: World, nothing_left: None) -> None:
    """Where the package allows it, it runs so; whoever expects another configuration, or none, goes away."""
    keep = Between(
        keep=spawn(["simulated", "snp", str(world.machine.path)]),
        to_keep=changed(Kind.START, config='{"args":["--spy"]}'),
        to_host=honest,
    )
    with attending(order(world, "user/server:1.0.0"), keep) as host:
        port = int(host.phase("running").facts["web"].split()[2])
        wanted = replace(ANYTHING, config_digests=frozenset({bytes(32)}))
        with pytest.raises(RejectedError, match="config"):
            get(world, port, wanted)
        keep.keep.process.kill()


# -- a side that stops


@contextmanager
def deployed(world: World, package: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A deployment by the command itself, from the moment that its program runs; and the Keep's process."""
    command = world.command(package, "nil", "--json")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as host:  # type: ignore[call-overload]  # three pipes
        try:
            while json.loads(host.stderr.readline()).get("phase") != "running":
                pass
            (keep,) = map(int, Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split())
            yield host, keep
        finally:
            host.kill()
    until(lambda: gone(keep))


def gone(pid: int) -> bool:
    """Whether a process has ended, even if nobody has asked for its code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_keep_that_stops_answering_can_be_left(world: World, nothing_left: None) -> None:
    """It neither reads nor writes, and what is on its way fills every buffer: a second Ctrl-C ends it and its host."""
    with deployed(world, ECHO) as (host, keep):
        os.kill(keep, signal.SIGSTOP)
        flood = threading.Thread(target=pour, args=(host,), daemon=True)
        flood.start()
        until(lambda: not flood.is_alive() or sleeping(host.pid))
        host.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert host.poll() is None, "one is for the program"
        host.send_signal(signal.SIGINT)
        assert host.wait(PATIENCE) == 128 + signal.SIGINT
        flood.join(PATIENCE)


def pour(host: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        os.write(host.stdin.fileno(), bytes(4 << 20))  # type: ignore[union-attr]  # a pipe


def sleeping(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_a_keep_whose_host_is_killed_ends(world: World, nothing_left: None) -> None:
    """However suddenly: nobody is left who could read what it would say."""
    with deployed(world, ECHO) as (host, keep):
        host.kill()
        until(lambda: gone(keep))


# -- the clock


@dataclass
class Hands:
    """The hands of a Keep's clock, in the host's."""

    descriptor: int
    memory: mmap.mmap

    @classmethod
    def make(cls) -> "Hands":
        descriptor = os.memfd_create("hands")
        os.truncate(descriptor, 8)
        return cls(descriptor, mmap.mmap(descriptor, 8))

    def turn(self, seconds: float) -> None:
        self.memory[:8] = struct.pack("d", seconds)

    def spawn(self, *attester: str) -> KeepProcess:
        """As `enarx.keep.backends.process` does it."""
        host, keep = socket.socketpair()
        with keep:
            process = subprocess.Popen(
                [sys.executable, "-I", str(SKEWED), str(self.descriptor), str(keep.fileno()), *attester],
                env={"LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[keep.fileno(), self.descriptor],
                start_new_session=True,
            )
        return KeepProcess(process=process, stream=host)


@pytest.fixture
def hands() -> Iterator[Hands]:
    made = Hands.make()
    yield made
    made.memory.close()
    os.close(made.descriptor)


@pytest.mark.parametrize("seconds", [-DAY, -600.0, 600.0, DAY])
def test_a_keep_with_a_wrong_clock_gets_no_certificate(
    world: World, hands: Hands, nothing_left: None, seconds: float
) -> None:
    """Before the certificate begins or after it ended, by this machine's clock: the Steward's says otherwise."""
    hands.turn(seconds)
    with attending(order(world, PROGRAM), hands.spawn("nil")) as host:
        pass
    assert isinstance(host.error, RefusalError), host.code
    assert host.error.gate == "steward"
    assert "this machine's clock says" in str(host.error)
    assert isinstance(host.error.cause, UntrustedError)


def test_a_clock_that_is_right_enough_is_no_obstacle(world: World, hands: Hands, nothing_left: None) -> None:
    """Honest clocks differ by minutes."""
    hands.turn(-120)
    with attending(order(world, PROGRAM), hands.spawn("nil")) as host:
        pass
    assert (host.code, host.out) == (42, b"from the Keep\n"), host.error


@pytest.mark.parametrize("seconds", [-DAY, -600.0, DAY])
def test_a_clock_that_is_turned_while_it_runs_locks_the_door(tmp_path: Path, hands: Hands, seconds: float) -> None:
    """Nobody is let in, with which certificate ever; renewal is refused with the reason. When it is right, all is well."""
    with settled(tmp_path, hasty_steward_alone) as made, running(made, hands) as (host, port):
        until(lambda: lets_in(made, port))
        hands.turn(seconds)
        assert not lets_in(made, port)
        warning = host.phase("warning").facts["renewal"]
        assert "refused at steward: this machine's clock says" in warning
        assert not lets_in(made, port)
        hands.turn(0)
        host.phase("renewed")
        until(lambda: lets_in(made, port))


@contextmanager
def hasty_steward_alone(config: Path, write_ca: Path) -> Iterator[str]:
    with hasty_steward(config, write_ca) as (origin, _):
        yield origin


@contextmanager
def running(world: World, hands: Hands) -> Iterator[tuple[Attended, int]]:
    """A server in a Keep whose clock the host holds."""
    keep = hands.spawn("simulated", "snp", str(world.machine.path))
    with attending(order(world, "user/server:1.0.0"), keep) as host:
        try:
            yield host, int(host.phase("running").facts["web"].split()[2])
        finally:
            keep.process.kill()


# -- the vendor's documents


def test_older_documents_of_the_vendor_are_not_preferred(tmp_path: Path) -> None:
    """The host sends the revocation list of before its machine was revoked; the Steward has seen the later one."""

    @contextmanager
    def steward(config: Path, write_ca: Path) -> Iterator[str]:
        machines, kept = config.parent / "machines", tmp_path / "kept"
        shutil.copytree(machines, kept)
        revoke = [sys.executable, "-m", "enarx", "platform", "simulate", str(config.parent), "--revoke", "snp.ask"]
        subprocess.run(revoke, check=True, capture_output=True, timeout=PATIENCE)
        shutil.rmtree(machines)
        shutil.copytree(kept, machines)  # the machine and its documents as they were; the Steward's are new
        with real_steward(config, write_ca) as origin:
            yield origin

    with settled(tmp_path, steward) as made:
        done = made.deploy(PROGRAM, "snp")
    assert refusal(done) == ("steward", 77)
    assert "revoked" in done.stderr
