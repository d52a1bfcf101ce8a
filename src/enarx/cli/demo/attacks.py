"""Step 6: what a dishonest host, registry, vendor or stranger tries, and how each try ends.

Every attack is made on the real parts over the network, a few at a time, and told in a fixed order. An attack that
succeeds, or that is refused at another gate than it should be, makes the demonstration fail.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx.attested.relying import Expectation
from enarx.cli.demo import Narrator
from enarx.cli.demo.stage import parse_event
from enarx.cli.demo.story import Running, look, start, wait
from enarx.cli.demo.world import GREETINGS, USER, VERSION, World
from enarx.digest import Digest
from enarx.errors import EnarxError, MalformedError, RejectedError, UnavailableError
from enarx.pki import keys
from enarx.web.client import Client
from enarx.web.problems import family_of
from enarx.web.tls import ClientIdentity

AT_ONCE: Final = 3  # attacks that are under way at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a try ended: the step that refused, where there are steps; the gate of judgement; the words for the user."""

    gate: str
    message: str
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One try: what is tried, who has to refuse it, at which gate and step, and how to try it."""

    what: str
    by: str
    gate: str
    attempt: Callable[[], Refusal | None]
    step: str = ""


def attack(world: World, keeps: Mapping[str, Running], narrator: Narrator) -> None:
    """Try everything; tell how it ended."""
    made = [*_by_the_host(world), *_with_evidence(world), *_on_the_registry(world)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(_try, reversed(made)))[::-1]  # the last one waits longest, so it begins first
    for one, (refusal, trouble) in zip(made, outcomes, strict=True):
        _tell(one, refusal, trouble, narrator)
    for tee, keep in keeps.items():
        if keep.process.poll() is not None:
            narrator.failed(f"the Keep on {tee} ended while others were attacked")


def _try(one: Attack) -> tuple[Refusal | None, str]:
    try:
        return one.attempt(), ""
    except (EnarxError, OSError, ValueError) as error:
        return None, str(error)


def _tell(one: Attack, refusal: Refusal | None, trouble: str, narrator: Narrator) -> None:
    if refusal is None:
        narrator.failed(f"{one.what}: {trouble or 'it was not refused'}")
    elif (refusal.step, refusal.gate) != (one.step, one.gate):
        found, wanted = (
            f"{gate} {step}".strip() for gate, step in ((refusal.gate, refusal.step), (one.gate, one.step))
        )
        narrator.failed(f"{one.what}: refused at {found}, expected {wanted}: {refusal.message}")
    else:
        narrator.refused(one.what, refusal.gate, refusal.message, by=one.by)


# -- a dishonest host


def _by_the_host(world: World) -> Sequence[Attack]:
    return (
        Attack(
            what="the host points the Keep at its own registry, which serves other bytes under the same name",
            by="the Keep's hash check",
            gate="untrusted",
            step="digest",
            attempt=lambda: _own_registry(world),
        ),
        Attack(
            what="the host deploys workload B although the user wanted A, and a third party asks for A",
            by="the third party",
            gate="rejected",
            attempt=lambda: _other_workload(world),
        ),
        Attack(
            what="the host deploys workload B, which its owner releases to real hardware alone",
            by="Drawbridge's release policy",
            gate="rejected",
            step="drawbridge",
            attempt=lambda: _deployed(world, "vault", "snp"),
        ),
        Attack(
            what="the host has workload A certified, and asks for workload B with that certificate",
            by="Drawbridge",
            gate="denied",
            step="drawbridge",
            attempt=lambda: _certified_for_another(world),
        ),
    )


def _own_registry(world: World) -> Refusal | None:
    """The order that an honest host would give, with another registry in it."""
    home = world.stage.home
    _, certificate = _authority("The host's own registry", home / "liar.key", home / "liar.pem")
    packages = home / "packages"
    false = home / "packages-false"
    false.mkdir()
    for file in (packages / "hello").iterdir():
        (false / file.name).write_bytes(file.read_bytes())
    true = (false / "greeting.txt").read_bytes()
    (false / "greeting.txt").write_bytes(
        GREETINGS["other"].encode().ljust(len(true))
    )  # not even the length gives it away
    words = [str(home / "liar.pem"), str(home / "liar.key"), str(world.steward_ca), world.steward_url]
    liar = world.stage.serve("liar", *words, str(packages / "hello"), str(false), name="liar")
    return _ordered(
        world,
        slug=f"localhost:{liar.port}/{USER}/hello:{VERSION}",
        drawbridge=f"https://localhost:{liar.port}",
        roots=certificate,
        digest=world.digests["hello"],
    )


def _certified_for_another(world: World) -> Refusal | None:
    """The slug of B and the digest of A."""
    return _ordered(
        world,
        slug=world.slug("other"),
        drawbridge=f"https://{world.registry}",
        roots=world.bundle.read_bytes(),
        digest=world.digests["hello"],
    )


def _ordered(world: World, *, slug: str, drawbridge: str, roots: bytes, digest: Digest) -> Refusal | None:
    """Launch a Keep as a host that is not `enarx deploy` might, and give it an order of one's own making."""
    from enarx.keep import launch
    from enarx.keep.backends import Wishes
    from enarx.keep.deployment import Order
    from enarx.keep.refusal import RefusalError

    order = Order(
        slug=slug,
        digest=digest,
        steward=world.steward_url,
        drawbridge=drawbridge,
        steward_roots=world.bundle.read_bytes(),
        drawbridge_roots=roots,
    )
    backend = launch.choose("simulated", insecure=True)
    silent = launch.Watcher(hello=lambda _: None, phase=lambda _: None)
    nowhere = launch.Terminal(stdin=None, stdout=2, stderr=2)
    try:
        launch.deploy(lambda: order, backend, Wishes(technology="snp", machine=str(world.machine)), nowhere, silent)
    except RefusalError as error:
        return Refusal(step=error.gate, gate=family_of(error.cause) or "", message=str(error.cause))
    return None


def _other_workload(world: World) -> Refusal | None:
    """B runs, for its owner allows it; the third party pins A's digest."""
    process, log = start(world, "other", "snp")
    running = wait(world, "snp", process, log)
    wanted = Expectation(workloads=frozenset({world.digests["hello"]}), accept_simulated=True)
    try:
        with look(world, running.port, wanted):
            return None
    except RejectedError as error:
        return Refusal(gate="rejected", message=str(error))
    finally:
        world.stage.end(process)


# -- evidence that does not hold


def _with_evidence(world: World) -> Sequence[Attack]:
    faulty = {fault: world.stage.home / f"sim-{fault}" for fault in ("flipped-bit", "other-key")}
    for fault, folder in faulty.items():
        shutil.copytree(world.machine, folder)
        world.stage.must("enarx", "platform", "simulate", str(folder), "--fault", fault)
    return (
        Attack(
            what="one bit of the SEV-SNP report is flipped",
            by="Steward",
            gate="untrusted",
            step="steward",
            attempt=lambda: _deployed(world, "hello", "snp", faulty["flipped-bit"]),
        ),
        Attack(
            what="one bit of the SGX quote is flipped",
            by="Steward",
            gate="untrusted",
            step="steward",
            attempt=lambda: _deployed(world, "hello", "sgx", faulty["flipped-bit"]),
        ),
        Attack(
            what="the report belongs to another key",
            by="Steward",
            gate="untrusted",
            step="steward",
            attempt=lambda: _deployed(world, "hello", "snp", faulty["other-key"]),
        ),
        Attack(
            what="AMD has revoked the ASK, which issued the processor's certificate",
            by="Steward",
            gate="untrusted",
            step="steward",
            attempt=lambda: _deployed(world, "hello", "snp", world.revoked),
        ),
        Attack(
            what="Intel has revoked the processor's PCK certificate",
            by="Steward",
            gate="untrusted",
            step="steward",
            attempt=lambda: _deployed(world, "hello", "sgx", world.revoked),
        ),
    )


def _deployed(world: World, package: str, tee: str, machine: Path | None = None) -> Refusal | None:
    """`enarx deploy`, as a user would, to its end; gives what it was refused with."""
    done = world.stage.run("enarx", *world.deploy(package, tee, machine))
    for line in done.err.splitlines():
        event = parse_event(line)
        if event.get("event") == "refused":
            return Refusal(step=str(event["gate"]), gate=str(event["family"]), message=str(event["message"]))
    return None


# -- at the registry


def _on_the_registry(world: World) -> Sequence[Attack]:
    return (
        Attack(
            what="a certificate of another CA asks Drawbridge for the workload",
            by="Drawbridge, with a TLS alert",
            gate="untrusted",
            attempt=lambda: _asked(world, _foreign(world)),
        ),
        Attack(
            what="an anonymous client asks for the private workload",
            by="Drawbridge",
            gate="untrusted",
            attempt=lambda: _asked(world, None),
        ),
        Attack(
            what="a certificate of Steward's CA without an attestation result asks for the private workload",
            by="Drawbridge",
            gate="untrusted",
            attempt=lambda: _asked(world, _unattested(world)),
        ),
        Attack(
            what="somebody altered the registry's stored bytes",
            by="Drawbridge, which reads nothing without hashing it",
            gate="unavailable",
            step="drawbridge",
            attempt=lambda: _alter_and_deploy(world),
        ),
    )


def _asked(world: World, identity: ClientIdentity | None) -> Refusal | None:
    """Ask for the program itself."""
    path = f"/api/v0.1.0/{USER}/hello/_tag/{VERSION}/tree/main.wasm"
    roots = world.bundle.read_bytes()
    with Client(f"https://{world.registry}", ca_pem=roots, identity=identity) as client:
        try:
            client.get(path, limit=1 << 20)
        except UnavailableError:
            raise
        except EnarxError as error:
            return Refusal(gate=family_of(error) or "", message=str(error))
    return None


def _foreign(world: World) -> ClientIdentity:
    """A certificate that a CA of one's own making issued."""
    key, certificate = _authority(
        "Somebody's own CA", world.stage.home / "foreign.key", world.stage.home / "foreign.pem"
    )
    return ClientIdentity(chain_pem=certificate, key=key)


def _unattested(world: World) -> ClientIdentity:
    """A certificate that Steward's own CA signed, by whoever got hold of its key, and that says nothing of a TEE."""
    ca = x509.load_pem_x509_certificate(world.steward_ca.read_bytes())
    ca_key = keys.from_pem(world.steward_key.read_bytes(), "Steward's key")
    key = keys.generate("P-256")
    chain = _certificate("nobody", key, ca.subject, ca_key).public_bytes(Encoding.PEM) + world.steward_ca.read_bytes()
    return ClientIdentity(chain_pem=chain, key=key)


def _authority(name: str, key_file: Path, file: Path) -> tuple[keys.PrivateKey, bytes]:
    """A self-signed certificate for localhost, in files and as PEM, and its key."""
    key = keys.generate("P-256")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = _certificate(name, key, subject, key).public_bytes(Encoding.PEM)
    key_file.touch(mode=0o600)
    key_file.write_bytes(keys.to_pem(key))
    file.write_bytes(certificate)
    return key, certificate


def _certificate(name: str, key: keys.PrivateKey, issuer: x509.Name, ca_key: keys.PrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(ca_key, keys.hash_of(ca_key))
    )


def _alter_and_deploy(world: World) -> Refusal | None:
    """Of a package of its own, for nothing can be deployed from such bytes any more."""
    wanted = (world.stage.home / "packages" / "spoiled" / "greeting.txt").read_bytes()
    found = [path for path in world.store.rglob("*") if path.is_file() and path.read_bytes() == wanted]
    if not found:
        raise MalformedError("the greeting is not in the store")
    for path in found:
        path.chmod(0o600)
        path.write_bytes(bytes((wanted[0] ^ 1,)) + wanted[1:])
    return _deployed(world, "spoiled", "snp")
