"""`enarx platform link`: a network for an AWS Nitro enclave, both ends of it (`enarx.keep.backends.link`)."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enarx.errors import MalformedError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from enarx.keep.backends.link import End

RESOLVER: Final = Path("/etc/resolv.conf")


def _end(_: click.Context, __: click.Parameter, value: str | None) -> "End | None":
    from enarx.keep.backends.link import End

    try:
        return None if value is None else End.parse(value)
    except MalformedError as error:
        raise click.BadParameter(str(error)) from error


def _interface(_: click.Context, __: click.Parameter, value: str) -> IPv4Interface:
    from enarx.keep.backends.link import parse_address

    try:
        return parse_address(value)
    except MalformedError as error:
        raise click.BadParameter(str(error)) from error


def _ip(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else str(IPv4Address(value))
    except ValueError as error:
        raise click.BadParameter(f"expected an IPv4 address, found {value!r}") from error


@click.command()
@click.option("--listen", callback=_end, metavar="END", help="On the instance: vsock:PORT or unix:PATH.")
@click.option("--connect", callback=_end, metavar="END", help="In the enclave: vsock:3:PORT or unix:PATH.")
@click.option("--address", callback=_interface, required=True, metavar="IP/BITS", help="Of this side.")
@click.option("--peer", callback=_ip, required=True, metavar="IP", help="Of the other side.")
@click.option("--mtu", type=click.IntRange(576, 65535), default=1500, show_default=True, help="Largest packet.")
@click.option("--dns", callback=_ip, metavar="IP", help=f"In the enclave: write {RESOLVER} for this server.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def link(
    listen: "End | None",
    connect: "End | None",
    *,
    address: IPv4Interface,
    peer: str,
    mtu: int,
    dns: str | None,
    command: tuple[str, ...],
) -> None:
    """Give an AWS Nitro enclave a network through its instance: IP packets over vsock, a device at either end.

    On the instance it carries for one enclave after the other, until it is ended; the kernel there translates addresses.
    In the enclave it runs COMMAND once the network is there, and ends with it and its exit code. Who carries is trusted
    with nothing: TLS ends in the Keep.

    \b
      enarx platform link --listen vsock:7000 --address 10.118.0.1/30 --peer 10.118.0.2
      enarx platform link --connect vsock:3:7000 --address 10.118.0.2/30 --peer 10.118.0.1 --dns 169.254.169.253 \\
        -- enarx deploy --backend inside registry.example/alice/web:1.0.0
    """  # noqa: D301 - \b is for click
    from enarx.keep.backends.link import Tun, serve

    if (listen is None) == (connect is None):
        raise click.UsageError("--listen on the instance, or --connect in the enclave")
    if listen is not None and (command or dns):
        raise click.UsageError("a COMMAND and --dns are for --connect")
    if IPv4Address(peer) not in address.network or IPv4Address(peer) == address.ip:
        raise click.UsageError(f"--peer: expected another address of {address.network}, found {peer}")
    if listen is not None:
        device = Tun.open(address, mtu=mtu)
        with listen.listen() as listener:
            serve(listener, listen, device.descriptor, peer, _tell)
    if connect is not None:
        if not command:
            raise click.UsageError("which COMMAND is to have this network? Name it after --")
        device = Tun.open(address, mtu=mtu, gateway=peer)
        if dns is not None:
            _resolve(dns)
        sys.exit(_run(connect, device.descriptor, command))


def _resolve(server: str) -> None:
    try:
        RESOLVER.write_text(f"nameserver {server}\n")
    except OSError as error:
        raise UnavailableError(f"{RESOLVER}: {error.strerror}") from error


def _run(end: "End", device: int, command: Sequence[str]) -> int:
    """Run the command once the network is there; its exit code, or 128 and the number of the signal that ended it."""
    from enarx.keep.backends.link import PATIENCE, keep_connected

    up, over = threading.Event(), threading.Event()
    threading.Thread(target=keep_connected, args=(end, device, up, over, _tell), daemon=True).start()
    if not up.wait(1):
        _tell(f"waits for the network at {end}")
    if not up.wait(PATIENCE):
        raise UnavailableError(f"{end}: no answer within {PATIENCE:g} seconds; `enarx platform link --listen` answers")
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise NotFoundError(f"{command[0]}: {error.strerror}") from error
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal the command has it, too
    code = process.wait()
    over.set()
    return code if code >= 0 else 128 - code


def _tell(text: str) -> None:
    click.echo(f"enarx: {text}", err=True)
