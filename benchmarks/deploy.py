"""From `enarx deploy` to the first served request, phase by phase, on each backend that runs anywhere.

    python -m benchmarks.deploy [ROUNDS]

A Steward in a process of its own, a registry of a few lines, a host process and a cold Keep, all over TLS on loopback.
The fastest of ROUNDS counts: what is slower has waited for something else on the machine. CPU is of host and Keep.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from enarx.attested.relying import Expectation
from tests.stories.test_deploy import World, get, settled

ROUNDS = 5
ANYTHING = Expectation(accept_simulated=True, accept_nil=True)
PHASES = ("launching", "ordered", "hello", "certified", "released", "running")


@dataclass(kw_only=True)
class Round:
    """One deployment: milliseconds since the command was started, CPU seconds, and resident memory in KiB."""

    phases: dict[str, int] = field(default_factory=dict)
    served: int = 0
    cpu: float = 0.0
    keep: int = 0
    host: int = 0


def measure(world: World, tee: str) -> Round:
    made = Round()
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        world.command("user/server:1.0.0", tee, "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if process.stderr is None:
        raise RuntimeError("no standard error")
    for line in process.stderr:
        event = json.loads(line)
        name = event.get("phase") or event["event"]
        made.phases.setdefault(name, since(begin))
        if name == "running":
            get(world, int(event["facts"]["web"].split()[2]), ANYTHING)
            made.served = since(begin)
            break
    made.host = resident(process.pid)
    made.keep = resident(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    made.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return made


def since(begin: float) -> int:
    return round((time.monotonic() - begin) * 1000)


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, settled(Path(folder)) as world:
        print("backend", *(f"{name:>10}" for name in (*PHASES, "served")), "  CPU s  Keep MiB  host MiB")
        for tee in ("nil", "snp", "sgx", "tdx"):
            best = min((measure(world, tee) for _ in range(rounds)), key=lambda made: made.served)
            times = [f"{best.phases.get(name, 0):>10}" for name in PHASES]
            memory = f"{best.cpu:>7.2f}{best.keep / 1024:>10.0f}{best.host / 1024:>10.0f}"
            print(f"{tee:<7}", *times, f"{best.served:>10}", memory)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
