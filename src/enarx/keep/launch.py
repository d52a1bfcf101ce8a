"""Outside the Keep: start an empty one, tell it what to become, and be its terminal until it ends.

The host is trusted with nothing, so it does nothing that could be wrong: it passes the order on, standard input in and
the program's output out, forwards SIGINT and SIGTERM, and returns the program's exit code. The workload never comes this
way. A Keep that says what it may not say, or ends without a word, was refused at `backend`; a second signal kills it.
"""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from enarx.errors import EnarxError, MalformedError, RejectedError, UnavailableError
from enarx.keep.backends import BACKENDS, Backend, Keep, Standing, Wishes
from enarx.keep.backends.inside import Inside
from enarx.keep.channel import (
    TO_HOST,
    VERSION,
    Channel,
    Credit,
    Exit,
    Frame,
    Hello,
    Kind,
    Phase,
    Refused,
    Signal,
    Want,
    pump,
)
from enarx.keep.deployment import Order, collateral_frame
from enarx.keep.refusal import GATES, Gate, RefusalError, gate
from enarx.web.problems import FAMILIES

if TYPE_CHECKING:
    from enarx.steward.collateral import Directory

HELLO_SECONDS: Final = 60.0  # a Keep that says nothing for so long has not started
END_SECONDS: Final = 10.0  # between its last word and its end
REFRESH_SECONDS: Final = 3600.0  # between two looks at the vendors' documents; they are renewed once in some days
MAX_SENTENCE: Final = 2000  # characters of the Keep's that are repeated
MAX_CODE: Final = 255
RUNNING: Final = "running"  # the phase whose facts are the listeners: `prot addr port` by name
SIGNALS: Final[Mapping[int, str]] = {signal.SIGINT: "INT", signal.SIGTERM: "TERM"}

ALIASES: Final[Mapping[str, str]] = {"nil": "process", "kvm": "qemu", "sev": "qemu-snp", "sgx": "gramine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where the program's streams lead: descriptors of the host process. `stdin` None is one that is at its end."""

    stdin: int | None
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told what happens: what the Keep is, and each step that it reached."""

    hello: Callable[[Hello], None]
    phase: Callable[[Phase], None]


def choose(name: str | None, *, insecure: bool) -> Backend:
    """The backend of that name, else the strongest that protects and is ready. Raises RefusalError.

    One that protects nothing is taken only by name, and only with `insecure`.
    """
    with gate("backend"):
        backend = _named(name) if name is not None else _strongest()
        if backend.protects is None and not insecure:
            raise RejectedError(
                f"{backend.name} is {backend.title}: this machine sees the program, its data and its keys; "
                "say --insecure if that is what you want"
            )
        return backend


def _named(name: str) -> Backend:
    known = {backend.name: backend for backend in BACKENDS}
    found = known.get(ALIASES.get(name, name))
    if name == "sev" and (here := Inside()).technology() in {"snp", "az-snp"}:
        return here  # the originals' name for the technology, in a guest that has it
    if found is None:
        names = sorted([*known, *ALIASES], key=ALIASES.__contains__)  # the backends, and then what else they are called
        raise MalformedError(f"expected one of {', '.join(dict.fromkeys(names))}, found {name!r}")
    standing = Standing.of(found)
    for ready, what in ((standing.have, "cannot run here"), (standing.configured, "is not prepared here")):
        if not ready:
            missing = [datum for datum in standing.data if datum.required and not datum.ok]
            reasons = [f"{datum.name}: {datum.info or 'no'}" for datum in missing]
            raise UnavailableError(f"{name} {what}: {'; '.join(reasons)}")
    return found


def _strongest() -> Backend:
    for backend in BACKENDS:
        if backend.protects is not None:
            standing = Standing.of(backend)
            if standing.have and standing.configured:
                return backend
    weak = ", ".join(backend.name for backend in BACKENDS if backend.protects is None)
    raise UnavailableError(
        "no TEE is ready on this machine, as `enarx platform info` explains; "
        f"for development name one that protects nothing ({weak}) and say --insecure"
    )


def deploy(ask: Callable[[], Order], backend: Backend, wishes: Wishes, terminal: Terminal, watcher: Watcher) -> int:
    """Run what `ask` says was ordered in a new Keep. Returns the program's exit code. Raises RefusalError.

    The empty Keep is started first, for it needs nothing of the order to begin with: while it comes up, we ask.
    """
    with gate("backend"):
        documents = _directory(wishes.documents)
        keep = backend.launch(wishes)
    try:
        return attend(ask(), keep, terminal, watcher, documents)
    finally:
        keep.kill()


def _directory(path: str | None) -> "Directory | None":
    """The vendors' documents there; a cache that nobody has filled yet is none."""
    if path is None or not Path(path).is_dir():
        return None
    from enarx.steward.collateral import Directory  # noqa: PLC0415 - most have none, and it takes its time

    return Directory(Path(path))


def attend(order: Order, keep: Keep, terminal: Terminal, watcher: Watcher, documents: "Directory | None" = None) -> int:
    """Be the host of a Keep that was just launched, until its last word. `documents` are offered for its evidence."""
    channel = Channel(keep.stream, receives=TO_HOST)
    credit = Credit()
    with gate("backend"):
        watcher.hello(_hello(channel, keep))
        offer = None if documents is None else collateral_frame(documents.current())
        channel.send(Kind.START, order.start(collateral=offer is not None))
        if offer is not None:
            channel.send(Kind.COLLATERAL, offer)
    with _signals(channel, keep) as told, _refreshing(documents, offer, channel, watcher):
        threading.Thread(target=_feed, args=(terminal.stdin, channel, credit), name="stdin", daemon=True).start()
        try:
            with gate("channel"):
                code = _listen(channel, keep, terminal, watcher, credit)
        except RefusalError:
            if len(told) > 1:
                return 128 + told[0]
            raise
        finally:
            credit.close()
    if code is None:
        if len(told) > 1:
            return 128 + told[0]
        keep_end = keep.wait(END_SECONDS) or "it still runs"
        with gate("backend"):
            raise UnavailableError(f"the Keep ended without a word ({keep_end})")
    keep.wait(END_SECONDS)
    return code


def _hello(channel: Channel, keep: Keep) -> Hello:
    keep.stream.settimeout(HELLO_SECONDS)
    try:
        frame = channel.receive()
    except UnavailableError as error:
        raise UnavailableError(f"the Keep did not say what it is within {HELLO_SECONDS:g} seconds") from error
    keep.stream.settimeout(None)
    if frame is None:
        raise UnavailableError(
            f"the Keep ended before it said what it is ({keep.wait(END_SECONDS) or 'it still runs'})"
        )
    if frame.kind is Kind.REFUSED:
        raise refusal_of(frame)
    if frame.kind is not Kind.HELLO:
        raise MalformedError(f"channel: expected hello, found {frame.kind.name.lower()}")
    hello = frame.read(Hello)
    if hello.version != VERSION:
        raise MalformedError(f"channel: hello: expected version {VERSION}, found {hello.version}")
    return hello


def _listen(channel: Channel, keep: Keep, terminal: Terminal, watcher: Watcher, credit: Credit) -> int | None:
    """Everything that the Keep says, until `exit`. None when it ended without one."""
    while (frame := _next(channel)) is not None:
        if frame.kind is Kind.EXIT:
            return _code(frame)
        if frame.kind is Kind.STDOUT:
            _write(terminal.stdout, frame.body)
        elif frame.kind is Kind.STDERR:
            _write(terminal.stderr, frame.body)
        elif frame.kind is Kind.WANT:
            credit.add(max(0, frame.read(Want).count))
        elif frame.kind is Kind.PHASE:
            phase = frame.read(Phase)
            _expose(phase, keep)
            watcher.phase(phase)
        else:
            raise refusal_of(frame)
    return None


def _expose(phase: Phase, keep: Keep) -> None:
    """Have the backend lead others to the ports on which the program listens."""
    if phase.phase == RUNNING:
        for text in phase.facts.values():
            port = text.rpartition(" ")[2]
            if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
                raise MalformedError(f"channel: phase: expected a port, found {_printable(port)[:20]!r}")
            with gate("backend"):
                keep.expose(int(port))


def _next(channel: Channel) -> Frame | None:
    try:
        return channel.receive()
    except UnavailableError:
        return None


def _code(frame: Frame) -> int:
    code = frame.read(Exit).code
    if not 0 <= code <= MAX_CODE:
        raise MalformedError(f"channel: exit: expected a code from 0 to {MAX_CODE}, found {code}")
    return code


def refusal_of(frame: Frame) -> RefusalError:
    """What the Keep refused with, as the error it was there. Its words are a stranger's: bounded, and printable."""
    if frame.kind is not Kind.REFUSED:
        raise MalformedError(f"channel: {frame.kind.name.lower()}: not now")
    body = frame.read(Refused)
    title = _printable(body.title)
    family = FAMILIES.get(body.family, EnarxError)
    cause: EnarxError = family(title)
    if family is RejectedError:
        cause = RejectedError(title, reasons=[_printable(reason) for reason in body.reasons[:50]])
    where: Gate = next((name for name in GATES if name == body.gate), "backend")
    return RefusalError(where, cause)


@contextmanager
def _signals(channel: Channel, keep: Keep) -> Iterator[Sequence[int]]:
    """SIGINT and SIGTERM go to the Keep; the second one ends it. Gives the list of those that came."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def forward(number: int, _: FrameType | None) -> None:
        told.append(number)
        if len(told) > 1:
            keep.kill()
            return
        try:
            channel.send(Kind.SIGNAL, Signal(name=SIGNALS[number]))
        except UnavailableError:
            return  # it is ending anyway

    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield told
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _refreshing(
    documents: "Directory | None", offer: bytes | None, channel: Channel, watcher: Watcher
) -> Iterator[None]:
    """Documents that others renew are offered again when they changed, for the evidence of the next certificate."""
    over = threading.Event()
    if documents is not None:
        arguments = (documents, offer, channel, watcher, over)
        threading.Thread(target=_refresh, args=arguments, name="documents", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _refresh(
    documents: "Directory", offer: bytes | None, channel: Channel, watcher: Watcher, over: threading.Event
) -> None:
    while not over.wait(REFRESH_SECONDS):
        try:
            now = collateral_frame(documents.current())
        except (EnarxError, OSError) as error:
            watcher.phase(
                Phase(phase="warning", facts={"collateral": f"{error}; the Keep has what it was given before"})
            )
            continue
        if now != offer:
            try:
                channel.send(Kind.COLLATERAL, now)
            except UnavailableError:
                return  # the Keep is gone; the receiving side reports it
            offer = now


def _feed(stdin: int | None, channel: Channel, credit: Credit) -> None:
    pump((lambda _: b"") if stdin is None else (lambda count: os.read(stdin, count)), channel, credit)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:MAX_SENTENCE]).strip()
