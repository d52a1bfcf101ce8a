"""The options that every server of ours has, and the one way to start one.

    @click.command()
    @serving_options(port=8080)
    def serve(serving: Serving, …) -> None:
        serving.run(app, tls)

A server listens on loopback unless told otherwise, and speaks plain HTTP elsewhere only when it is told that a
proxy stands before it.
"""

import gc
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Final, Literal, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from enarx.web.tls import Served, ServerTls
    from enarx.web.workers import Make, Upkeep

OBJECTS: Final = 20_000  # new ones before a search for garbage: those of some ten requests

P = ParamSpec("P")
R = TypeVar("R")

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where a server listens, whom it tells, how it logs, and how long it takes to end."""

    host: str
    port: int
    ready_fd: int | None
    log_format: Literal["text", "json"]
    grace_seconds: float
    behind_proxy: bool

    @staticmethod
    def hold_hangup() -> None:
        """Have SIGHUP wait until somebody has a hand for it; else it would end a program that has only begun."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def run(
        self,
        app: "ASGIApp",
        tls: "ServerTls | Served | None",
        *,
        on_ready: Callable[[int], None] | None = None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        """Serve until SIGTERM. `on_ready` is called with the port before the one at `ready_fd` is told.

        Raises a usage error for plain HTTP that would leave the machine, UnavailableError when the port is taken.
        """
        from enarx.web.server import serve

        told = self._prepare(tls=tls is not None)

        def ready(port: int) -> None:
            if on_ready is not None:
                on_ready(port)
            told(port)

        serve(
            app,
            host=self.host,
            port=self.port,
            tls=tls,
            on_ready=ready,
            on_hangup=on_hangup,
            grace_seconds=self.grace_seconds,
        )
        self._ended()

    def run_workers(self, make: "Make", workers: int, *, tls: bool, upkeep: "Upkeep | None" = None) -> None:
        """The same in several processes, each with what `make` gives for its number; `tls`: whether with TLS."""
        from enarx.web.workers import serve_workers

        serve_workers(
            make,
            workers=workers,
            host=self.host,
            port=self.port,
            upkeep=upkeep,
            on_ready=self._prepare(tls=tls),
            grace_seconds=self.grace_seconds,
            not_for_children=() if self.ready_fd is None else (self.ready_fd,),
        )
        self._ended()

    def _prepare(self, *, tls: bool) -> Callable[[int], None]:
        """Refuse what would be unsafe, start the log; gives what tells the port once there is one."""
        from enarx.web.log import Log, configure
        from enarx.web.server import write_ready

        self.require_safe(tls=tls)
        configure(self.log_format)
        gc.freeze()  # what was imported and made ready lives on: no search for garbage looks at it again
        gc.set_threshold(OBJECTS)

        def told(port: int) -> None:
            Log("web").info("listening", scheme="https" if tls else "http", host=self.host, port=port)
            if self.ready_fd is not None:
                write_ready(self.ready_fd, port)

        return told

    def _ended(self) -> None:
        from enarx.web.log import Log

        Log("web").info("ended")

    def require_safe(self, *, tls: bool) -> None:
        """Raises a usage error when tokens and evidence would cross a network in the clear."""
        from enarx.web.place import is_loopback

        if not tls and not self.behind_proxy and not is_loopback(self.host):
            raise click.UsageError(
                f"plain HTTP on {self.host} would show everything to the network: configure a TLS certificate, "
                f"listen on {LOOPBACK}, or say --behind-proxy if a proxy ends TLS before this server"
            )


def serving_options(*, port: int) -> Callable[[Callable[Concatenate[Serving, P], R]], Callable[P, R]]:
    """Give a command the options of a server; it gets a `Serving` as its first argument. `port` is the default."""

    def decorate(command: Callable[Concatenate[Serving, P], R]) -> Callable[P, R]:
        @click.option("--host", default=LOOPBACK, show_default=True, help="Address or name to listen on.")
        @click.option(
            "--port", type=click.IntRange(0, 65535), default=port, show_default=True, help="Port; 0 takes a free one."
        )
        @click.option(
            "--ready-fd",
            type=click.IntRange(0),
            metavar="FD",
            help="When listening, write the port and a newline to this inherited file descriptor.",
        )
        @click.option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of stderr."
        )
        @click.option(
            "--grace-seconds",
            type=click.FloatRange(min=0.1),
            default=30.0,
            show_default=True,
            help="How long requests may take to end after SIGTERM.",
        )
        @click.option("--behind-proxy", is_flag=True, help="Allow plain HTTP on an address that is not loopback.")
        @wraps(command)
        def wrapper(*args: P.args, **options: P.kwargs) -> R:
            names = Serving.__dataclass_fields__
            serving = Serving(**{name: options.pop(name) for name in names})  # type: ignore[arg-type]  # click's own
            return command(serving, *args, **options)

        return wrapper

    return decorate
