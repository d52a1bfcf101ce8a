"""Between host and Keep: frames of u32 big-endian length ‖ u8 type ‖ body (flow.md, 6).

The length counts the body, at most 1 MiB. Control bodies are strict JSON: unknown members, wrong
types and trailing bytes are errors. Host → Keep: `start` (once, first), `stdin`, `signal`, `time`,
`collateral` (vendors' documents for the evidence, untrusted as everything here). Keep → host: `hello`, `phase`, `want`, `stdout`, `stderr`, `refused`, `exit` (last). There
is no reconnect; an unknown type, a type of the wrong direction, or the end of the stream ends the
Keep. Everything that arrives here from the other side is untrusted.

A program that does not read its input must not hold up the signals behind it, nor let the host fill
the Keep's memory. So the host may send `WINDOW` bytes of `stdin` and then as much as `want` asks for.
`time` is reserved for Keeps without a clock of their own; today's refuse it.
"""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

import msgspec

from enarx.errors import MalformedError, UnavailableError

VERSION: Final = 1
MAX_BODY: Final = 1 << 20  # bytes; flow.md, 6
CHUNK: Final = 64 * 1024  # bytes of stdio a frame carries: small enough to interleave, large enough to be cheap
WINDOW: Final = 4 * CHUNK  # bytes of stdin that may be on their way before the Keep asked for any

_HEADER: Final = struct.Struct(">IB")

B = TypeVar("B", bound="Body")


class Kind(IntEnum):
    """The type octet of a frame."""

    START = 1
    STDIN = 2
    SIGNAL = 3
    TIME = 4
    COLLATERAL = 5
    HELLO = 16
    PHASE = 17
    STDOUT = 18
    STDERR = 19
    REFUSED = 20
    EXIT = 21
    WANT = 22


TO_KEEP: Final = frozenset({Kind.START, Kind.STDIN, Kind.SIGNAL, Kind.TIME, Kind.COLLATERAL})
TO_HOST: Final = frozenset(Kind) - TO_KEEP


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control body: strict JSON."""


class Start(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the host tells an empty Keep. Nothing of it is trusted but by its consequences.

    `digest` is the workload's; `steward` and `drawbridge` are origins, each bundle the roots (PEM) to trust for it;
    `steward_ca` are the CAs (PEM) whose certificates the user accepts; `config` is the deploy configuration. With
    `collateral` such a frame follows at once, and no evidence is made before it.
    """

    version: int
    slug: str
    digest: str
    steward: str
    drawbridge: str
    steward_bundle: str | None = None
    drawbridge_bundle: str | None = None
    steward_ca: str | None = None
    token: str | None = None
    config: str | None = None
    collateral: bool = False


class Signed(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vendor's JSON as it came, and its issuer's chain (DER), all in base64."""

    body: bytes
    chain: list[bytes] = []


class Collateral(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the host has of vendors' documents now, in place of what it had: DER and JSON, all in base64."""

    certificates: list[bytes] = []
    crls: list[bytes] = []
    tcb_infos: list[Signed] = []
    qe_identities: list[Signed] = []


class Hello(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Keep is, before it knows anything. `measurement` is hexadecimal."""

    version: int
    technology: str
    measurement: str


class Phase(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step that the Keep has reached, with public facts about it."""

    phase: str
    facts: dict[str, str] = {}


class Refused(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the Keep ended without running: the gate, one sentence, every reason."""

    gate: str
    title: str
    family: str
    reasons: list[str] = []


class Want(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many bytes of stdin were taken, and may now be sent beyond the window."""

    count: int


class Exit(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The program's exit code."""

    code: int


class Signal(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signal by its POSIX name without SIG: INT or TERM."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame as it arrived."""

    kind: Kind
    body: bytes

    def read(self, form: type[B]) -> B:
        """The control body. Raises MalformedError when it is not exactly of that form."""
        try:
            return msgspec.json.decode(self.body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedError(f"channel: {self.kind.name.lower()}: {error}") from error


def encode(kind: Kind, body: bytes) -> bytes:
    """One frame. Raises ValueError when the body is larger than 1 MiB, which is our own mistake."""
    if len(body) > MAX_BODY:
        raise ValueError(f"frame of {len(body)} bytes, at most {MAX_BODY}")
    return _HEADER.pack(len(body), kind) + body


def parse_header(header: bytes, expected: frozenset[Kind]) -> tuple[int, Kind]:
    """Length and type from five bytes. Raises MalformedError before anything is read for them."""
    length, octet = _HEADER.unpack(header)
    if length > MAX_BODY:
        raise MalformedError(f"channel: frame of {length} bytes, at most {MAX_BODY} are allowed")
    try:
        kind = Kind(octet)
    except ValueError as error:
        raise MalformedError(f"channel: unknown frame type {octet}") from error
    if kind not in expected:
        raise MalformedError(f"channel: {kind.name.lower()} is not for this side")
    return length, kind


class Channel:
    """One side of the stream. Sending is safe from several threads; receiving belongs to one."""

    def __init__(self, stream: socket.socket, *, receives: frozenset[Kind]) -> None:
        self._stream = stream
        self._receives = receives
        self._lock = threading.Lock()

    def send(self, kind: Kind, body: bytes | Body = b"") -> None:
        """Send one frame. Raises UnavailableError when the other side is gone."""
        data = encode(kind, body if isinstance(body, bytes) else msgspec.json.encode(body))
        try:
            with self._lock:
                self._stream.sendall(data)
        except OSError as error:
            raise UnavailableError("channel: the other side is gone") from error

    def receive(self) -> Frame | None:
        """The next frame, or None when the stream ends between two frames. Raises MalformedError."""
        header = self._read(_HEADER.size, allow_end=True)
        if not header:
            return None
        length, kind = parse_header(header, self._receives)
        return Frame(kind=kind, body=self._read(length))

    def expect(self, kind: Kind, form: type[B], *, within: float | None = None) -> B:
        """The next frame, which must be of `kind`. Raises MalformedError, or UnavailableError at the end.

        `within` are the seconds of every single wait for it.
        """
        usual = self._stream.gettimeout()
        self._stream.settimeout(usual if within is None else within)
        try:
            frame = self.receive()
        finally:
            self._stream.settimeout(usual)
        if frame is None:
            raise UnavailableError(f"channel: ended, expected {kind.name.lower()}")
        if frame.kind is not kind:
            raise MalformedError(f"channel: expected {kind.name.lower()}, found {frame.kind.name.lower()}")
        return frame.read(form)

    def finish(self) -> None:
        """Nothing more will be sent."""
        try:
            self._stream.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise UnavailableError("channel: the other side is gone") from error

    def close(self) -> None:
        self._stream.close()

    def _read(self, count: int, *, allow_end: bool = False) -> bytes:
        buffer = bytearray(count)
        view, position = memoryview(buffer), 0
        while position < count:
            try:
                got = self._stream.recv_into(view[position:])
            except TimeoutError as error:
                raise UnavailableError("channel: the other side has gone silent") from error
            except OSError as error:
                raise UnavailableError("channel: the other side is gone") from error
            if not got:
                if allow_end and not position:
                    return b""
                raise MalformedError(f"channel: ended inside a frame, {count - position} bytes missing")
            position += got
        return bytes(buffer)


class Credit:
    """How much stdin the host may still send. `close` wakes whoever waits for more, for there will be none."""

    def __init__(self, amount: int = WINDOW) -> None:
        self._amount = amount
        self._closed = False
        self._changed = threading.Condition()

    def add(self, amount: int) -> None:
        with self._changed:
            self._amount += amount
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> int:
        """Wait until something may be sent; returns how much, 0 when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._amount > 0 or self._closed)
            return 0 if self._closed else self._amount

    def spend(self, amount: int) -> None:
        with self._changed:
            self._amount -= amount


def pump(read: Callable[[int], bytes], channel: Channel, credit: Credit) -> None:
    """Send what `read` gives as `stdin` within `credit`, and an empty frame at its end."""
    try:
        while allowed := credit.take():
            data = read(min(CHUNK, allowed))
            credit.spend(len(data))
            channel.send(Kind.STDIN, data)
            if not data:
                return
    except (UnavailableError, OSError):
        return  # whoever listens is gone; the receiving side reports it
