"""The instance of an enclave, with a Steward and a registry on it: `unshare -n python -m tests.stories.linked_world FOLDER`.

It prints the command that deploys a program, as JSON; then, for each port on standard input, what the enclave says there.
"""

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from enarx.keep.backends.link import End, Tun, parse_address, serve
from tests.stories.test_deploy import settled

HERE, ENCLAVE = "10.118.0.1", "10.118.0.2"
PATIENCE: Final = 30.0


def forward(port: int) -> None:
    """Servers of the stage listen on the loopback alone."""
    listener = socket.create_server((HERE, port))

    def carry(source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port), PATIENCE)
            for pair in ((client, server), (server, client)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def tell(text: str) -> None:
    click.echo(text, err=True)


def main(folder: Path) -> None:
    device = Tun.open(parse_address(f"{HERE}/30"))
    end = End(path=folder / "link")
    with end.listen() as listener, settled(folder) as world:
        for port in (world.port, urlsplit(world.steward).port):
            forward(port or 443)
        arguments = (listener, end, device.descriptor, ENCLAVE, tell)
        threading.Thread(target=serve, args=arguments, daemon=True).start()
        click.echo(json.dumps(world.command("user/program:1.0.0", "nil")))
        for line in sys.stdin:
            with socket.create_connection((ENCLAVE, int(line)), PATIENCE) as connection:
                click.echo(connection.recv(100).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
