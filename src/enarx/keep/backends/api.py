"""What a backend is: a place where a Keep runs, and inside it somebody who vouches for it (flow.md, 6).

A `Backend` works outside: it explains itself on this machine, and launches an empty Keep that answers on a channel.
An `Attester` works inside: it knows what it measured, and makes evidence over 64 bytes of report data. The agent
between them is the same program everywhere. A backend that protects nothing says so in `protects`, and whoever
launches it has to be told.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from enarx.digest import HashName

if TYPE_CHECKING:
    from enarx.tee.model import Endorsements, Evidence, Technology


@dataclass(frozen=True, slots=True, kw_only=True)
class Datum:
    """One finding about this machine. `required` findings decide whether a Keep can be launched here."""

    name: str
    ok: bool
    info: str | None = None
    advice: str | None = None
    required: bool = True
    configuration: bool = False  # something that an administrator can change, not what the machine is
    below: "Sequence[Datum]" = ()


class Measure(Protocol):
    """The measurement of the agent by a hash: `enarx.keep.measurement`, which lies above this room."""

    def __call__(self, algorithm: HashName, /) -> bytes: ...


class Attester(Protocol):
    """Who vouches for this Keep."""

    @property
    def technology(self) -> "Technology[Any, Any]": ...  # Any: each technology keeps its own types inside

    @property
    def writable(self) -> Sequence[Path]:
        """Where evidence is asked for: the only places that the Keep's process goes on writing to."""
        ...

    @property
    def sealing_secret(self) -> bytes | None:
        """32 bytes that only this measurement on this machine can get again; None where nobody gives such."""
        ...

    def measurement(self) -> bytes:
        """What the report will say was measured; empty where nothing measures."""
        ...

    def evidence(self, report_data: bytes) -> "Evidence":
        """Evidence over 64 bytes. Raises UnavailableError when the hardware does not answer, MalformedError."""
        ...


@runtime_checkable
class Learning(Protocol):
    """An attester whose evidence has room for vendors' documents."""

    def learn(self, documents: "Endorsements") -> None:
        """What the host offers from now on, in place of what it offered before. Believed by nobody."""
        ...


class Keep(Protocol):
    """A Keep that was launched, seen from outside."""

    @property
    def stream(self) -> socket.socket:
        """The channel's stream."""
        ...

    def wait(self, seconds: float) -> str | None:
        """How it ended, for people; None when it has not within `seconds`."""
        ...

    def expose(self, port: int) -> None:
        """Let others reach a port on which the Keep listens. Raises UnavailableError when the host has none to give."""
        ...

    def kill(self) -> None:
        """End it at once, and everything in it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user chose about the place.

    The technology to simulate and the directory of the simulated machine; the image of a virtual machine and how it
    runs; a directory of vendors' documents; whether an SVSM is to vouch, for `all` its services or for its `vtpm`; who
    signed what is launched: a file of `enarx sign` instead of what lies in the image, or nobody.
    """

    technology: str | None = None
    machine: str | None = None
    documents: str | None = None
    image: str | None = None
    accel: str | None = None
    svsm: str | None = None
    signatures: str | None = None
    unsigned: bool = False


class Backend(Protocol):
    """A place to run."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        ...

    @property
    def protects(self) -> str | None:
        """From whom it protects; None when from nobody: then `insecure` has to be said."""
        ...

    def data(self) -> Sequence[Datum]:
        """What was found here that matters to this backend."""
        ...

    def launch(self, wishes: Wishes) -> Keep:
        """Start an empty Keep. Raises UnavailableError, NotFoundError, MalformedError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a backend stands on this machine."""

    backend: Backend
    data: Sequence[Datum] = field(default_factory=tuple)

    @classmethod
    def of(cls, backend: Backend) -> "Standing":
        return cls(backend=backend, data=tuple(backend.data()))

    @property
    def have(self) -> bool:
        """Whether the machine can do it."""
        return all(datum.ok for datum in self.data if datum.required and not datum.configuration)

    @property
    def configured(self) -> bool:
        """Whether the administrator prepared it."""
        return all(datum.ok for datum in self.data if datum.required and datum.configuration)
