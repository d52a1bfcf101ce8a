"""From `enarx deploy` to the first served request, phase by phase, on each backend that runs anywhere.

    python -m benchmarks.deploy [--rounds N] [--image DIRECTORY]

A Steward in a process of its own, a registry of a few lines, a host process and a cold Keep, all over TLS on loopback.
`inside` asks an emulated kernel, or a TPM in software for Azure; `gramine` is a script in the place of Gramine's program,
with an enclave's little address space; with `--image`, which `enarx image build` made, `qemu` boots it under emulation.
`large` is a module of 5 MB on a simulated machine, by each compiler, which prints a line and ends: what it took stands
under `served`.
The fastest of N counts: what is slower has waited for something else on the machine. CPU is of host and Keep.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import wasmtime

from enarx.attested.relying import Expectation
from enarx.keep.config import Translator
from tests.emulators import configfs_tsm, gramine
from tests.stories import test_azure, test_inside
from tests.stories.test_deploy import EXAMPLE, MARKER, PROGRAM, SERVER, World, get, real_steward, settled

ROUNDS = 5
ANYTHING = Expectation(accept_simulated=True, accept_nil=True)
PHASES = ("launching", "ordered", "hello", "certified", "released", "running")
LARGE = 5_000_000  # bytes
PRINTS = 'compiler = "{}"\n[[files]]\nkind = "null"\n[[files]]\nkind = "stdout"\n'
GATEWAY = "0.0.0.0"  # noqa: S104 - in the virtual machine, whose ports are forwarded from the host's loopback
PLAYED = """
import sys
from pathlib import Path
from enarx.keep import launch
from enarx.keep.backends.gramine import Gramine
from enarx.keep.backends.hosts import Roots
from enarx.keep.backends.inside import Inside
from enarx.keep.backends.tsm import Tsm
played = {expression}
launch.BACKENDS = tuple(played if each.name == played.name else each for each in launch.BACKENDS)
from enarx.cli.main import main
main()
"""
PROVIDERS = ("sev_guest", "sev_guest+svsm", "tdx_guest", "arm_cca_guest")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row: what is deployed, and by which command."""

    name: str
    command: Sequence[str]
    serves: bool = True
    rounds: int | None = None


@dataclass(kw_only=True)
class Round:
    """One deployment: milliseconds since the command was started, CPU seconds, and resident memory in KiB."""

    phases: dict[str, int] = field(default_factory=dict)
    served: int = 0
    cpu: float = 0.0
    keep: int = 0
    host: int = 0


def measure(world: World, place: Place) -> Round:
    made = Round()
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        place.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("no streams")
    for event in map(json.loads, process.stderr):
        name = event.get("phase") or event["event"]
        made.phases.setdefault(name, since(begin))
        if name == "refused":
            raise RuntimeError(f"{place.name}: {event}")
        if name == "running":
            made.served = first_answer(world, place, event, process.stdout.fileno(), begin)
            break
    made.host, made.keep = resident(process.pid), resident(child_of(process.pid))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    made.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return made


def first_answer(world: World, place: Place, event: Any, stdout: int, begin: float) -> int:  # Any: JSON
    if place.serves:
        get(world, int(event["facts"]["web"].split()[2]), ANYTHING)
    else:
        os.read(stdout, 100)
    return since(begin)


def since(begin: float) -> int:
    return round((time.monotonic() - begin) * 1000)


def resident(pid: int) -> int:
    """KiB; 0 of a process that is over already."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def places(world: World, image: Path | None, stack: ExitStack) -> Iterator[Place]:
    """The rows that can be measured here."""
    for tee in ("nil", "snp", "sgx", "tdx"):
        yield Place(name=tee, command=world.command("user/server:1.0.0", tee, "--json"))
    module = large()
    for number, compiler in enumerate(get_args(Translator)):
        name = f"user/large:{number}.0.0"
        world.registry.publish(name, {"main.wasm": module, "Enarx.toml": PRINTS.format(compiler).encode()})
        yield Place(name=f"large, {compiler}", command=world.command(name, "snp", "--json"), serves=False)
    for provider in PROVIDERS if Path("/dev/fuse").exists() else ():
        folder = world.folder / provider
        folder.mkdir()
        root = stack.enter_context(configfs_tsm.mounted(folder, provider, world.machine.path))
        options = with_backend(world, "user/server:1.0.0", "inside", *(("--svsm", "all") if "svsm" in provider else ()))
        yield played(provider, f"Inside(tsm=Tsm(root=Path({str(root)!r})))", options)
    if Path("/dev/fuse").exists() and shutil.which("swtpm") is not None:
        (world.folder / "azure").mkdir()
        tpm, service = stack.enter_context(test_azure.confidential_vm(world, world.folder / "azure", "snp"))
        here = f"Inside(tsm=Tsm(root=Path('/nowhere')), tpm=Path({str(tpm)!r}), metadata={service.host!r})"
        yield played("az-snp", here, with_backend(world, "user/server:1.0.0", "inside"))
    enclave, image_of_it = gramine.backend(world.folder / "gramine", world.machine.path)
    options = with_backend(world, "user/server:1.0.0", "gramine", "--image", str(image_of_it))
    roots = f"Roots(dev=Path({str(enclave.roots.dev)!r}), proc=Path({str(enclave.roots.proc)!r}))"
    yield played("gramine", f"Gramine(program={enclave.program!r}, roots={roots})", options)
    if image is not None:
        package = {"main.wasm": (EXAMPLE / "main.wasm").read_bytes(), "greeting.txt": MARKER}
        text = SERVER.replace("127.0.0.1", GATEWAY)
        world.registry.publish("user/machine:1.0.0", {**package, "Enarx.toml": text.encode()})
        options = with_backend(world, "user/machine:1.0.0", "qemu", "--image", str(image))
        yield Place(name="qemu", command=options, rounds=2)


def played(name: str, expression: str, command: Sequence[str]) -> Place:
    """`enarx deploy` of a backend whose surroundings are played."""
    program = PLAYED.format(expression=expression)
    return Place(name=name, command=[sys.executable, "-c", program, *command[3:]])  # behind its own interpreter


def steward(config: Path, write_ca: Path) -> AbstractContextManager[str]:
    """One whose policy knows everything that is measured here."""
    test_inside.configure(config)
    test_azure.configure(config)
    return real_steward(config, write_ca)


def with_backend(world: World, package: str, backend: str, *options: str) -> list[str]:
    command = world.command(package, "nil", "--json", *options)
    command[command.index("--backend") + 1] = backend
    return command


def large() -> bytes:
    """A program of LARGE bytes whose functions all have to be compiled."""
    body = "local.get 0 i32.const 77 i32.mul local.get 1 i32.xor i32.const 13 i32.rotl local.tee 1 local.set 0 " * 12
    functions = [
        f"(func $f{n} (param i32 i32) (result i32) {body} local.get 0 i32.const {n} i32.add)"
        for n in range(LARGE // 213)
    ]
    return bytes(wasmtime.wat2wasm(PROGRAM.rstrip().removesuffix(")") + "\n".join(functions) + ")"))


def main(rounds: int, image: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder, settled(Path(folder), steward) as world, ExitStack() as stack:
        print(f"{'backend':<17}", *(f"{name:>10}" for name in (*PHASES, "served")), "  CPU s  Keep MiB  host MiB")
        for place in places(world, image, stack):
            made = (measure(world, place) for _ in range(place.rounds or rounds))
            best = min(made, key=lambda found: found.served)
            times = [f"{best.phases.get(name, 0):>10}" for name in PHASES]
            memory = f"{best.cpu:>7.2f}{best.keep / 1024:>10.0f}{best.host / 1024:>10.0f}"
            print(f"{place.name:<17}", *times, f"{best.served:>10}", memory, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="From deploy to the first served request.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--image", type=Path)
    given = parser.parse_args()
    main(given.rounds, given.image)
