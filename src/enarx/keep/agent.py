"""The program inside every Keep: empty at first, then one workload, then over (flow.md, 6).

    python -I -m enarx.keep.start CHANNEL ATTESTER…

CHANNEL is the descriptor of the channel, ATTESTER the words of `enarx.keep.backends.attesters`. In this order:

  1  know who vouches for us, then give up every right that is not needed (`backends.sandbox`)
  2  `hello`, and wait for `start`
  3  provision, or say at which gate that was refused
  4  run, with the program's streams over the channel, and attest again before the certificate ends
  5  `exit`, with the program's code

The reader of the channel is a thread of its own. It ends the whole process at once when the host is gone or says what
it may not say: nothing that runs here may outlive its channel. Nothing is written to standard error, which leads
nowhere; a bug is told as its place in the code, without its text, for that may hold a secret.
"""

import gc
import hmac
import os
import queue
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

from enarx.errors import EnarxError, MalformedError, RejectedError, UnavailableError
from enarx.keep import measurement
from enarx.keep.backends import sandbox
from enarx.keep.backends.api import Attester, Learning
from enarx.keep.backends.attesters import attester as choose
from enarx.keep.channel import (
    CHUNK,
    TO_KEEP,
    VERSION,
    WINDOW,
    Channel,
    Collateral,
    Exit,
    Frame,
    Hello,
    Kind,
    Phase,
    Refused,
    Signal,
    Start,
    Want,
)
from enarx.keep.clock import Clock, machine
from enarx.keep.config import Config, Connect, Listen
from enarx.keep.deployment import Order, offered
from enarx.keep.identity import Identity
from enarx.keep.provision import Provisioned, provision
from enarx.keep.refusal import RefusalError, gate
from enarx.keep.renewal import Renewal, in_background
from enarx.keep.runtime import Interrupt, Stdio
from enarx.web.problems import family_of

if TYPE_CHECKING:
    from enarx.keep.runtime import Listening, LiveIdentity, TlsIdentity

SIGNALS: Final = {"INT": SIGINT, "TERM": SIGTERM}
START_SECONDS: Final = 600.0  # an empty Keep waits for: the host asks a registry meanwhile, and perhaps a person
DNS_PORT: Final = 53
IMPATIENT: Final = 0.0005  # seconds after which a thread that imports lets one go on that had waited for the network
ABANDONED: Final = 70  # exit code of a Keep whose host went away or broke the channel's rules
BUG: Final = "bug"
KEYS_END: Final = (
    "no TEE here gives this program a secret for lasting keys: "
    "what it seals with a key of keys/ cannot be opened again when this Keep has ended"
)


class Inbox:
    """What the host sends after `start`: input for the program, and signals. Ends the process when it has to."""

    def __init__(self, channel: Channel, attester: Attester) -> None:
        self._attester = attester
        self.interrupt = Interrupt()
        self.stdin, self._writer = os.pipe2(os.O_CLOEXEC)
        self._channel = channel
        self._running = threading.Event()
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # bounded by the credit that was given
        self._allowed = WINDOW
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._receive, name="channel", daemon=True).start()
        threading.Thread(target=self._feed, name="stdin", daemon=True).start()

    def program_starts(self) -> None:
        """From now on a signal is the program's; before, it ends the Keep."""
        self._running.set()

    def _receive(self) -> None:
        try:
            while (frame := self._channel.receive()) is not None:
                self._take(frame)
        except MalformedError as error:
            refuse(self._channel, RefusalError("channel", error))
        except UnavailableError:
            pass  # the host is gone, and the end is the same
        os._exit(ABANDONED)

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.SIGNAL:
            name = frame.read(Signal).name
            if name not in SIGNALS:
                raise MalformedError(f"channel: signal: expected {' or '.join(SIGNALS)}, found {name[:20]!r}")
            if not self._running.is_set():
                finish(self._channel, 128 + SIGNALS[name])
            if SIGNALS[name] == SIGTERM:
                self.interrupt.terminate()  # a server may finish with its clients
            else:
                self.interrupt.send(SIGNALS[name])
        elif frame.kind is Kind.STDIN:
            with self._lock:
                self._allowed -= len(frame.body)
                if self._allowed < 0:
                    raise MalformedError("channel: stdin: more than was asked for")
            self._pieces.put(frame.body)
        elif frame.kind is Kind.COLLATERAL:
            learn(self._attester, frame.read(Collateral))
        else:
            raise MalformedError(f"channel: {frame.kind.name.lower()}: not now")

    def _feed(self) -> None:
        """Into the pipe that the program reads; what it took may be sent again."""
        with os.fdopen(self._writer, "wb", buffering=0) as pipe:
            while piece := self._pieces.get():
                try:
                    view = memoryview(piece)
                    while view:
                        view = view[pipe.write(view) or 0 :]
                except OSError:
                    return  # the program closed its input
                with self._lock:
                    self._allowed += len(piece)
                try:
                    self._channel.send(Kind.WANT, Want(count=len(piece)))
                except UnavailableError:
                    return  # noticed by the reader


class Ahead:
    """Imports the engine and TLS for the program while provisioning waits for the network.

    Only after the sandbox was applied: what is imported here belongs to the workload's side.
    """

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._interval = sys.getswitchinterval()

    def start(self) -> None:
        sys.setswitchinterval(IMPATIENT)
        self._thread.start()

    @staticmethod
    def _run() -> None:
        from enarx.keep.runtime import runner, sockets  # noqa: F401, PLC0415 - see above

    def finish(self) -> None:
        """From now on the process is the program's: with the usual turns, and nothing of the start to collect."""
        self._thread.join()
        sys.setswitchinterval(self._interval)
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str]) -> NoReturn:
    """The life of a Keep."""
    channel = Channel(socket.socket(fileno=int(arguments[0])), receives=TO_KEEP)
    try:
        live(channel, arguments[1:])
    except RefusalError as error:
        refuse(channel, error)
    except UnavailableError:
        os._exit(ABANDONED)  # the channel itself: there is nobody to tell
    except Exception as error:  # noqa: BLE001 - the edge: what is no error of ours is a bug
        tell_bug(channel, error)
    os._exit(ABANDONED)


def live(channel: Channel, words: Sequence[str]) -> NoReturn:
    """Steps 1 to 5. Raises RefusalError at the gate that refused."""
    # 1
    with gate("backend"):
        attester = choose(words, measurement.of_agent)
    done = sandbox.apply(attester.writable)
    # 2
    technology = attester.technology.name
    channel.send(Kind.HELLO, Hello(version=VERSION, technology=technology, measurement=attester.measurement().hex()))
    keys = "temporary" if attester.sealing_secret is None else "lasting"
    channel.send(Kind.PHASE, Phase(phase="sandboxed", facts={**done, "keys": keys}))
    with gate("channel"):
        start = channel.expect(Kind.START, Start, within=START_SECONDS)
        order = Order.parse(start)
        if start.collateral:
            learn(attester, channel.expect(Kind.COLLATERAL, Collateral, within=START_SECONDS))
    inbox = Inbox(channel, attester)
    inbox.start()
    engine = Ahead()
    engine.start()

    clock = Clock(machine)

    # 3
    def tell(phase: str, facts: Mapping[str, str]) -> None:
        channel.send(Kind.PHASE, Phase(phase=phase, facts=dict(facts)))

    provisioned = provision(order, attester, clock=clock, tell=tell)
    # 4
    engine.finish()
    code = execute(channel, order, provisioned, inbox, clock, attester.sealing_secret)
    # 5
    finish(channel, code)


def learn(attester: Attester, collateral: Collateral) -> None:
    """Take vendors' documents for the evidence to come. Raises MalformedError where it has no room for any."""
    if not isinstance(attester, Learning):
        raise MalformedError(f"channel: collateral: evidence of {attester.technology.name} has no room for documents")
    attester.learn(offered(collateral))


def execute(
    channel: Channel, order: Order, provisioned: Provisioned, inbox: Inbox, clock: Clock, sealing: bytes | None
) -> int:
    """Run the workload; returns its exit code."""
    from enarx.keep.runtime import LiveIdentity, run  # noqa: PLC0415 - imported `Ahead` of this

    workload = provisioned.workload
    ports = sandbox.restrict_ports(*_ports(workload.config, order))
    channel.send(Kind.PHASE, Phase(phase="ports", facts={"tcp": ports}))
    with gate("runtime"):
        live = LiveIdentity(_tls(provisioned.identity), clock.agreed)
    if workload.config.identity is not None and sealing is None:
        channel.send(Kind.PHASE, Phase(phase="warning", facts={"keys": KEYS_END}))
    if workload.config.uses_tls:
        in_background(_renewal(channel, provisioned, live, clock), provisioned.identity)

    def ready(listening: "Sequence[Listening]") -> None:
        facts = {at.name: f"{at.prot} {at.addr} {at.port}" for at in listening}
        channel.send(Kind.PHASE, Phase(phase="running", facts=facts))

    stdio = Stdio(
        stdin=inbox.stdin,
        stdout=lambda data: _send(channel, Kind.STDOUT, data),
        stderr=lambda data: _send(channel, Kind.STDERR, data),
    )
    inbox.program_starts()
    with gate("runtime"):
        return run(
            workload,
            identity=live,
            stdio=stdio,
            interrupt=inbox.interrupt,
            on_ready=ready,
            workload_digest=str(order.digest),
            interruptible=False,  # this process ends with it
            sealing_root=None if sealing is None else sealing_root(sealing, order),
        )


def sealing_root(secret: bytes, order: Order) -> bytes:
    """What the program's sealing keys are derived from: the TEE's secret, and which workload this is.

    The TEE's is the same for every Keep of this measurement on this machine; another workload must not get it.
    """
    return hmac.digest(secret, b"enarx-sealing-v1\0" + order.digest.value, "sha256")


def _tls(identity: Identity) -> "TlsIdentity":
    from enarx.keep.runtime import TlsIdentity  # noqa: PLC0415 - as above

    return TlsIdentity(chain_pem=identity.chain_pem, key=identity.secrets.tls)


def _renewal(channel: Channel, provisioned: Provisioned, live: "LiveIdentity", clock: Clock) -> Renewal:
    """Attest again before the certificate ends; tell the host of it."""
    over = threading.Event()

    def use(identity: Identity) -> None:
        live.replace(_tls(identity))
        channel.send(Kind.PHASE, Phase(phase="renewed", facts=identity.facts()))

    def failed(error: RefusalError, ends: datetime) -> None:
        text = f"renewal {error}; the certificate ends at {ends:%Y-%m-%dT%H:%M:%SZ}"
        channel.send(Kind.PHASE, Phase(phase="warning", facts={"renewal": text}))

    return Renewal(
        renew=provisioned.renew,
        use=use,
        failed=failed,
        now=clock.now,
        sleep=over.wait,
        random=secrets.SystemRandom().random,
    )


def refuse(channel: Channel, error: RefusalError) -> NoReturn:
    """Tell the host at which gate this Keep ended, and end."""
    cause = error.cause
    _last(channel, Kind.REFUSED, _refused(error.gate, cause))
    os._exit(ABANDONED)


def finish(channel: Channel, code: int) -> NoReturn:
    """Tell the host the program's exit code, and end."""
    _last(channel, Kind.EXIT, Exit(code=code))
    os._exit(0)


def tell_bug(channel: Channel, error: Exception) -> NoReturn:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119 - a name in a message
    title = f"this is a bug in enarx: {type(error).__name__}{where}"
    _last(channel, Kind.REFUSED, Refused(gate=BUG, title=title, family=BUG))
    os._exit(ABANDONED)


def _refused(where: str, cause: EnarxError) -> Refused:
    reasons = list(cause.reasons) if isinstance(cause, RejectedError) else []
    return Refused(gate=where, title=str(cause), family=family_of(cause) or BUG, reasons=reasons)


def _last(channel: Channel, kind: Kind, body: Refused | Exit) -> None:
    try:
        channel.send(kind, body)
        channel.finish()
    except UnavailableError:
        pass  # nobody listens any more


def _send(channel: Channel, kind: Kind, data: bytes) -> None:
    for start in range(0, len(data), CHUNK):
        channel.send(kind, data[start : start + CHUNK])


def _ports(config: Config, order: Order) -> tuple[list[int] | None, list[int] | None]:
    """The TCP ports to bind, and those to connect to: the workload's, the Steward's for renewal, and DNS.

    None where the package has rules of its own, which may be ranges: then the runtime alone compares.
    """
    parts = urlsplit(order.steward)
    steward = parts.port or (443 if parts.scheme == "https" else 80)
    bind = [file.port for file in config.files if isinstance(file, Listen)]
    connect = [file.port for file in config.files if isinstance(file, Connect)]
    return (
        bind if config.network.incoming is None else None,
        [*connect, steward, DNS_PORT] if config.network.outgoing is None else None,
    )
