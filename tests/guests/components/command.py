"""A command: says hello, and what it can read; or with a port, says hello to that. Built with componentize-py."""

import socket
import sys
from pathlib import Path

from wit_world import exports  # type: ignore[import-not-found]  # made by componentize-py


class Run(exports.Run):  # type: ignore[misc]  # as above
    def run(self) -> None:
        if sys.argv[1].isdigit():
            send(int(sys.argv[1]))
            return
        print("hello", sys.argv)  # noqa: T201 - what it is for
        print("stdin", repr(sys.stdin.read()))  # noqa: T201 - as above
        package = Path("/package")
        names = sorted(path.name for path in package.iterdir())
        print("package", names, (package / "a.txt").read_text())  # noqa: T201 - as above


def send(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"hello", ("127.0.0.1", port))
        except OSError as error:
            print(type(error).__name__)  # noqa: T201 - as above
            return
        print("sent")  # noqa: T201 - as above
