"""Steps 3 to 5: the same package on every machine, and a third party that looks at each of them.

A Keep is `enarx deploy` in a process of its own, which tells with `--json` what happens; it goes on serving until the
stage is left. The third party knows Steward's CA and nothing else: not the registry, not the machine, not the name.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from enarx.attested.relying import Expectation, Peer
from enarx.cli.demo import Narrator
from enarx.cli.demo.stage import PATIENCE, last_words
from enarx.cli.demo.world import World
from enarx.errors import UnavailableError
from enarx.pki.certificate import certificates_from_pem
from enarx.web.attested import connect

MACHINES: Final[Mapping[str, str]] = {
    "snp": "a simulated SEV-SNP machine (SHA-384, P-384)",
    "sgx": "a simulated SGX machine (SHA-256, P-256)",
    "nil": "no TEE at all (--backend nil)",
}
ANYTHING: Final = Expectation(accept_simulated=True, accept_nil=True)
PROVEN: Final = (
    "one package, unchanged, was served over TLS from three kinds of Keep, and everybody could see which was which",
    "no Keep got its workload before Steward had judged evidence over its key and the workload's digest",
    "what left Drawbridge was sealed to the Keep that asked; the host process never held a byte of it",
    "another workload, other bytes, altered or foreign evidence, and revoked machines were refused, each at its gate",
    "nothing about real hardware: these TEEs are programs, and their certificates say SIMULATED",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A Keep that serves."""

    tee: str
    process: subprocess.Popen[bytes]
    port: int


def tell(world: World, narrator: Narrator) -> Mapping[str, Running]:
    """Deploy everywhere, look at each; gives the Keeps that run."""
    started = {tee: start(world, "hello", tee) for tee in MACHINES}
    keeps: dict[str, Running] = {}
    for tee, (process, log) in started.items():
        running = keeps[tee] = wait(world, tee, process, log, narrator)
        narrator.step(
            3 if tee == "snp" else 4, "keep", f"runs on {MACHINES[tee]}, listens on localhost:{running.port}", tee=tee
        )
    for running in keeps.values():
        _look(world, running, narrator)
    return keeps


def start(world: World, package: str, tee: str) -> tuple[subprocess.Popen[bytes], Path]:
    """`enarx deploy` in a process of its own, and where its words go."""
    name = f"keep-{package}-{tee}"
    return world.stage.start("enarx", *world.deploy(package, tee), name=name), world.stage.home / f"{name}.log"


def wait(
    world: World, tee: str, process: subprocess.Popen[bytes], log: Path, narrator: Narrator | None = None
) -> Running:
    """Until the Keep listens. Raises UnavailableError with its last words when it ends instead."""
    for event in world.stage.events(process, log, PATIENCE):
        if narrator is not None and tee == "snp":
            _tell_phase(event, narrator)
        facts = event.get("facts", {})
        if event.get("phase") == "running" and "web" in facts:
            return Running(tee=tee, process=process, port=int(str(facts["web"]).rpartition(" ")[2]))
    raise UnavailableError(f"the Keep on {tee} did not start: {last_words(log)}")


def _tell_phase(event: Mapping[str, Any], narrator: Narrator) -> None:  # Any: JSON
    """The first Keep's way, a line a step."""
    facts = event.get("facts", {})
    match event.get("event"), event.get("phase"):
        case "ordered", _:
            narrator.step(3, "host", f"asked the registry: {event['slug']} is {str(event['workload'])[:24]}…")
        case "hello", _:
            narrator.step(3, "keep", f"was started empty; the CPU measures it as {str(event['measurement'])[:16]}…")
        case _, "certified":
            issuer = facts.get("issuer", "Steward")
            narrator.step(3, "keep", "made its keys, and had the CPU vouch for key and workload digest in one report")
            narrator.step(3, "steward", f"judged the report and certified the key: {issuer}")
        case _, "released":
            narrator.step(
                3, "drawbridge", f"released {facts.get('files')} files, {facts.get('bytes')} bytes, sealed to this Keep"
            )
            narrator.step(3, "keep", "opened them, and every hash is right up to the digest in its certificate")


def _look(world: World, running: Running, narrator: Narrator) -> None:
    """The third party connects, gets the page and says what it is talking to."""
    try:
        with look(world, running.port, ANYTHING) as (page, peer):
            status = page.split(b"\r\n", 1)[0].decode("ascii", "replace")
            at = datetime.now(UTC)
            body = page.partition(b"\r\n\r\n")[2].split(b"\n", 1)[0].decode("utf-8", "replace")
            narrator.step(
                5,
                "third party",
                f"knows Steward's CA alone, asks localhost:{running.port}, gets {status}: {body!r}",
                peer=peer.to_json(),
            )
            narrator.shown(*peer.describe(at))
    except OSError as error:
        narrator.failed(f"the third party got no page from the Keep on {running.tee}: {error}")
        return
    if peer.workload != world.digests["hello"] and running.tee != "nil":
        narrator.failed(f"the certificate of the Keep on {running.tee} names another workload")


@contextmanager
def look(world: World, port: int, expectation: Expectation) -> Iterator[tuple[bytes, Peer]]:
    """A page over TLS, and who served it. Raises what `judge_peer` raises, and UnavailableError."""
    anchors = certificates_from_pem(world.steward_ca.read_bytes(), str(world.steward_ca))
    with connect("localhost", port, anchors=anchors, expectation=expectation) as (connection, peer):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        page = b""
        while data := connection.recv(65536):
            page += data
        yield page, peer
