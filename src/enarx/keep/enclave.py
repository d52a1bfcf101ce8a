"""The agent's door in an enclave: no descriptor can be inherited there, so it connects to its host and says a cookie.

    ENARX_CHANNEL=PORT:COOKIE  python -I -m enarx.keep.enclave

The manifest fixes these arguments and lets this one variable through. What the host put there is believed in nothing:
whoever answers at that port gets an empty Keep and nothing else.
"""

import os
import re
import socket
import sys

from enarx.keep import start
from enarx.keep.backends.gramine import VARIABLE

ABANDONED = 70


def main() -> None:
    """Connect, and live as every Keep does."""
    found = re.fullmatch(r"([0-9]{1,5}):([0-9a-f]{64})", os.environ.pop(VARIABLE, ""))
    if found is None:
        sys.exit(ABANDONED)
    try:
        stream = socket.create_connection(("127.0.0.1", int(found[1])), 30)
        stream.sendall(bytes.fromhex(found[2]))
    except (OSError, OverflowError):
        sys.exit(ABANDONED)
    stream.settimeout(None)
    start.main([str(stream.detach()), "enclave"])


if __name__ == "__main__":
    main()
