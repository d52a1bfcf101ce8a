"""A Keep whose host moves the hands of its clock: `python -I skewed_keep.py HANDS CHANNEL ATTESTER…`.

HANDS is the descriptor of eight bytes of shared memory: by how many seconds the machine's clock is wrong now. All else
is the agent as it is. OpenSSL, which asks the kernel, does not see it.
"""

import mmap
import struct
import sys
from datetime import UTC, datetime, timedelta

from enarx.keep import clock

HANDS = mmap.mmap(int(sys.argv[1]), 8)


def skewed() -> datetime:
    """What this machine's clock says."""
    (seconds,) = struct.unpack("d", HANDS[:8])
    return datetime.now(UTC) + timedelta(seconds=seconds)


if __name__ == "__main__":
    clock.machine = skewed
    from enarx.keep import agent

    agent.main(sys.argv[2:])
