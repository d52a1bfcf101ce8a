"""Sends "hello" to 127.0.0.1 by UDP, to the port of its argument. Built with componentize-py for wasi:cli/command."""

import socket
import sys

from wit_world import exports  # type: ignore[import-not-found]  # made by componentize-py


class Run(exports.Run):  # type: ignore[misc]  # as above
    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(b"hello", ("127.0.0.1", int(sys.argv[1])))
                print("sent")  # noqa: T201 - what it is for
            except OSError as error:
                print(type(error).__name__)  # noqa: T201 - as above
