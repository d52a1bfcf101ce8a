"""Many connections later, memory, descriptors and threads are where they were.

ENARX_TEST_CONNECTIONS says how many are made; ten thousand take half a minute.
"""

import gc
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from enarx.keep.runtime import TlsIdentity

from .conftest import Starter

LISTEN = (
    '[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n[[files]]\nkind="null"\n[[files]]\nkind="listen"\nname="web"\n'
)
GOING = 4  # connections that are just being closed when it is looked at
CONNECTIONS = int(os.environ.get("ENARX_TEST_CONNECTIONS", "1000"))


def _measure(most: int = 32) -> tuple[int, int, int]:
    for _ in range(1200):  # the server closes what clients have left, later on a busy machine
        open_now = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
        if open_now <= most:
            break
        time.sleep(0.05)
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096, open_now, threading.active_count()


def _once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(200).endswith(b"hello\n")


def test_connections_leave_nothing_behind(compile_guest: object, start_guest: Starter) -> None:
    """Plain TCP, one after the other, in one Keep."""
    assert callable(compile_guest)
    toml = LISTEN + 'prot="tcp"\naddr="127.0.0.1"\nport=0\n'
    guest = start_guest(compile_guest("http"), toml=toml)
    for _ in range(100):
        _once(guest.ports[0])
    memory, descriptors, threads = _measure()
    for _ in range(CONNECTIONS):
        _once(guest.ports[0])
    after = _measure(descriptors + GOING)
    assert after[0] - memory < 4 << 20
    assert after[1] - descriptors <= GOING
    assert after[2] == threads


@pytest.mark.parametrize("rude", [False, True])
def test_tls_connections_leave_nothing_behind(
    compile_guest: object, start_guest: Starter, identity: TlsIdentity, rude: bool
) -> None:
    """Handshakes, those included that are broken off in the middle."""
    assert callable(compile_guest)
    toml = LISTEN + 'prot="tls"\naddr="127.0.0.1"\nport=0\n'
    guest = start_guest(compile_guest("http"), toml=toml, identity=identity)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def once(rude: bool) -> None:
        raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=60)
        if rude:
            with raw:
                raw.sendall(b"\x16\x03\x01\x00\x05half")
            return
        with context.wrap_socket(raw) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(200).endswith(b"hello\n")

    def many(count: int) -> None:
        for _ in range(count):
            once(rude)
        once(rude=False)  # is answered when all before it were accepted: none is left in the backlog

    many(100)
    memory, descriptors, threads = _measure()
    many(CONNECTIONS // 4)
    after = _measure(descriptors + GOING)
    assert after[0] - memory < 24 << 20
    assert after[1] - descriptors <= GOING
    assert after[2] == threads
