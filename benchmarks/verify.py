"""How much a judgement costs beside the signatures in it: verifications and whole requests per second and core.

    python benchmarks/verify.py [--rounds N] [--json]

Everything is counted in processor time, as the lower quartile of many short windows, so that other work on the machine
matters little, and the bare signature operations are measured in turns with what they are compared with. Three things
are measured for each technology:

report    a bare report or quote, with the vendor's documents at hand: `steward verify` without the server
request   a certification request with its evidence: possession of the key, then the same
https     the same sent to a Steward in a process of its own over TLS connections, and the certificate back

warm: other requests of the same machine came before, so chains, documents and the Quoting Enclave are remembered.
cold: nothing is. `bare` is the sum of the signature operations that are made then, over as many bytes as they really
cover, with keys already loaded wherever they could be known before: warm, that of the report, the request's own (whose
key nobody has seen before, so it is read and its point put to the test), and signing; cold, also every certificate's,
CRL's and document's. `cold sum` is what the last of these would be for the row: all signatures that the evidence
carries, with nothing remembered, whether the row remembers something or not.

https has a second yardstick, for the sum above is measured in a loop, and a server that waits for its client has
nothing in its caches: `bare server` is a process that does nothing but this. It takes the same bytes over TLS on
loopback, with blocking reads of a length that it was told, makes the same two verifications and one signature, and
sends back as many bytes. No HTTP, no event loop, no parsing, no judgement, no certificate, nothing written down.
"""

import argparse
import functools
import gc
import importlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from enarx.attested.claims import report_data  # noqa: E402 - the path has to be set before
from enarx.pki import chain, csr, keys  # noqa: E402
from enarx.pki.certificate import Extension  # noqa: E402
from enarx.tee import sgx, snp, tdx  # noqa: E402
from enarx.tee.appraise import judge  # noqa: E402
from enarx.tee.dcap.simulator import Vendor as Intel  # noqa: E402
from enarx.tee.model import Binding, Endorsements, Evidence, Technology, TrustAnchor  # noqa: E402
from enarx.tee.remember import Remembered  # noqa: E402
from enarx.tee.sgx.simulator import SgxMachine  # noqa: E402
from enarx.tee.snp.simulator import SnpMachine  # noqa: E402
from enarx.tee.snp.simulator import Vendor as Amd  # noqa: E402
from enarx.tee.tdx.simulator import TdxMachine  # noqa: E402

Work = Callable[[int], object]
Batch = Callable[[int], int]  # from how many requests were made before to how many are made at once
Row = tuple[str, str, float, float, float]  # technology, what, seconds; of the bare operations; of all there could be

WINDOWS: Final = 24
SIGNING: Final = ec.ECDSA(hashes.SHA256())  # of a development CA
CONNECTIONS: Final = (1, 4, 16)
KEYS: Final = 24  # different requests of one machine, so that nothing about a request could be remembered


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One technology with a machine, ready-made requests, and what has to be verified for it, by kind of key."""

    technology: Technology[Any, Any]  # Any: as in TECHNOLOGIES
    anchor: TrustAnchor
    endorsements: Endorsements
    reports: Sequence[tuple[bytes, bytes]]  # report, SubjectPublicKeyInfo
    requests: Sequence[bytes]
    warm: str  # the key of the report's signature, and of the request's own
    beneath: str  # the kind of key that signed what the report rests on
    times: int  # how many signatures that are
    signed: int  # bytes that the report's signature covers


def subjects(now: datetime) -> dict[str, Subject]:
    intel, amd = Intel.create(now), Amd.create(now)
    found = {}
    technologies: dict[str, Technology[Any, Any]] = {
        "snp": snp.TECHNOLOGY,
        "sgx": sgx.TECHNOLOGY,
        "tdx": tdx.TECHNOLOGY,
    }
    machines: dict[str, SnpMachine | SgxMachine | TdxMachine] = {
        "snp": SnpMachine.create(amd, now, measurement=bytes(48)),
        "sgx": SgxMachine.create(intel, now, mr_enclave=bytes(32)),
        "tdx": TdxMachine.create(intel, now, mr_td=bytes(48)),
    }
    # ARK by itself, ASK, its CRL, VCEK; and: PCK chain of three, TCB signer, two documents, two CRLs, QE report
    beneath = {"snp": ("rsa-4096", 4), "sgx": ("p-256", 9), "tdx": ("p-256", 9)}
    for name, machine in machines.items():
        technology = technologies[name]
        reports, requests = [], []
        for _ in range(KEYS):
            key = keys.generate(technology.key_curve)
            data = report_data(technology.binding_hash, keys.spki(key), None)
            evidence = machine.evidence(data)
            bare = machine.report(data) if isinstance(machine, SnpMachine) else machine.quote(data)
            reports.append((bare, keys.spki(key)))
            requests.append(csr.build(key, [Extension(oid=evidence.oid, critical=False, value=evidence.body)]))
        found[name] = Subject(
            technology=technology,
            anchor=amd.anchor() if name == "snp" else intel.anchor(),
            endorsements=machine.with_chain() if isinstance(machine, SnpMachine) else machine.endorsements,
            reports=reports,
            requests=requests,
            warm=technology.key_curve.lower(),
            beneath=beneath[name][0],
            times=beneath[name][1],
            signed=len(machine.report(bytes(64))) - 512 if isinstance(machine, SnpMachine) else 702,
        )
    return found


def forget() -> None:
    """Empty every memory that our code has."""
    for thing in gc.get_objects():
        if isinstance(thing, functools._lru_cache_wrapper) and thing.__module__.startswith("enarx"):
            thing.cache_clear()
        elif isinstance(thing, Remembered):
            thing.clear()
    chain._PROVEN.clear()


def by_turns(work: Work, bare: Work, rounds: int, before: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Seconds of processor time for one of each, measured in turns, so that both have the same neighbours."""
    windows: tuple[list[float], list[float]] = ([], [])
    for _ in range(WINDOWS):
        for each, spent in zip((work, bare), windows, strict=True):
            total = 0.0
            for index in range(rounds):
                before()
                begun = time.process_time()
                each(index)
                total += time.process_time() - begun
            spent.append(total / rounds)
    return undisturbed(windows[0]), undisturbed(windows[1])


def undisturbed(windows: Sequence[float]) -> float:
    """The lower quartile: most windows suffer from other work, and in a few a virtual machine counts too little."""
    return sorted(windows)[len(windows) // 4]


@dataclass(frozen=True, kw_only=True)
class Bare:
    """The signature operations of one request, and nothing else."""

    spki: bytes  # of the request's key, as it comes
    request: bytes
    request_signature: bytes
    machine: ec.EllipticCurvePublicKey
    report: bytes
    report_signature: bytes
    how: ec.ECDSA
    issuer: ec.EllipticCurvePrivateKey
    beneath: Callable[[], object]  # one verification of what the report rests on
    times: int

    @classmethod
    def of(cls, subject: Subject) -> "Bare":
        curve, algorithm = (
            (ec.SECP256R1(), hashes.SHA256()) if subject.warm == "p-256" else (ec.SECP384R1(), hashes.SHA384())
        )
        how = ec.ECDSA(algorithm)
        requester, machine = ec.generate_private_key(curve), ec.generate_private_key(curve)
        request, report = bytes(len(subject.requests[0])), bytes(subject.signed)
        return cls(
            spki=keys.spki(requester),
            request=request,
            request_signature=requester.sign(request, how),
            machine=machine.public_key(),
            report=report,
            report_signature=machine.sign(report, how),
            how=how,
            issuer=ec.generate_private_key(ec.SECP256R1()),
            beneath=_verification(subject.beneath),
            times=subject.times,
        )

    def report_warm(self, _: int = 0) -> None:
        self.machine.verify(self.report_signature, self.report, self.how)

    def report_cold(self, _: int = 0) -> None:
        self.report_warm()
        for _ in range(self.times):
            self.beneath()

    def request_warm(self, _: int = 0) -> None:
        self.verify_request()
        self.report_warm()

    def request_cold(self, _: int = 0) -> None:
        self.verify_request()
        self.report_cold()

    def verify_request(self) -> None:
        key = load_der_public_key(self.spki)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(self.request_signature, self.request, self.how)

    def https(self, _: int = 0) -> None:
        self.request_warm()
        self.issuer.sign(bytes(700), SIGNING)

    def https_cold(self, _: int = 0) -> None:
        self.request_cold()
        self.issuer.sign(bytes(700), SIGNING)


def _verification(kind: str) -> Callable[[], object]:
    """One verification with a loaded key, over as many bytes as vendors' documents have."""
    message = bytes(1500)
    if kind == "p-256":
        key, how = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
        return functools.partial(key.public_key().verify, key.sign(message, how), message, how)
    big, pss = rsa.generate_private_key(65537, 4096), padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
    signature = big.sign(message, pss, hashes.SHA384())
    return functools.partial(big.public_key().verify, signature, message, pss, hashes.SHA384())


def bare_server(folder: Path, subject: Subject, size: int, answer: int) -> tuple[int, int]:
    """A process that serves one TLS connection with the bare operations alone; its id and its port."""
    work = Bare.of(subject)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child:
        port: int = listener.getsockname()[1]
        listener.close()
        return child, port
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with context.wrap_socket(connection, server_side=True) as wire:
        buffer, reply = bytearray(size), bytes(answer)
        while True:
            view = memoryview(buffer)
            while view:
                taken = wire.recv_into(view)
                if not taken:
                    os._exit(0)
                view = view[taken:]
            work.https()
            wire.sendall(reply)


def verifications(name: str, subject: Subject, now: datetime, rounds: int) -> Iterator[Row]:
    """One report and one request, warm and cold, and the same quote by the peer."""
    believe = judge(subject.technology, subject.technology.default_policy, [subject.anchor])
    known = frozenset(subject.technology.oids)

    def report(index: int) -> None:
        data, spki = subject.reports[index % KEYS]
        evidence = Evidence(oid="", body=data)
        assert believe(evidence, Binding.of_key(spki), subject.endorsements, now).accepted

    def request(index: int) -> None:
        from enarx.steward.request import Request

        parsed = Request.parse(subject.requests[index % KEYS], known)
        (evidence,) = parsed.evidence
        assert believe(evidence, parsed.binding, Endorsements(), now).accepted

    bare = Bare.of(subject)
    for what, work, warm, cold in (
        ("report", report, bare.report_warm, bare.report_cold),
        ("request", request, bare.request_warm, bare.request_cold),
    ):
        work(0)
        remembering = by_turns(work, warm, rounds)
        forgetting = by_turns(work, cold, 2, forget)
        yield name, f"{what} warm", *remembering, forgetting[1]
        yield name, f"{what} cold", *forgetting, forgetting[1]
        work(0)
    theirs = peer(subject, now) if name != "snp" else None
    if theirs is not None:
        spent, everything = by_turns(theirs, bare.report_cold, rounds // 4 + 1)
        yield name, "dcap-qvl, quote", spent, everything, everything


@contextmanager
def steward(folder: Path, anchors: dict[str, TrustAnchor]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A Steward over TLS that believes the simulators; its process and its port."""
    key, name = keys.generate("P-256"), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + 1))
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    (folder / "server.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(keys.to_pem(key))
    (folder / "server.key").chmod(0o600)
    for family, anchor in anchors.items():
        (folder / f"{family}.der").write_bytes(anchor.certificate or b"")
    (folder / "steward.toml").write_text(
        'origin = "https://localhost"\ntls_cert = "server.pem"\ntls_key = "server.key"\naudit = "audit.log"\n'
        'listen = "127.0.0.1:0"\n'
        "[unsafe]\naccept_simulated = true\nallow_any_measurement = true\n"
        '[unsafe.simulated]\namd = ["amd.der"]\nintel = ["intel.der"]\n'
    )
    reading, writing = os.pipe()
    program = "from enarx.cli.steward import main; main()"
    command = [sys.executable, "-c", program, "serve", "--config", str(folder / "steward.toml"), "--dev"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing], stderr=log, stdout=log)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            line = ready.read().strip()
        if not line:
            raise SystemExit((folder / "log").read_text())
        yield process, int(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def processor_time(pid: int) -> float:
    """Seconds that a process of one thread has run, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Wire:
    """A client's TLS connection that sends a whole request in one piece and reads a whole answer."""

    def __init__(self, port: int, certificate: Path) -> None:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire = context.wrap_socket(connection, server_hostname="localhost")

    def ask(self, request: bytes, size: int | None = None) -> bytes:
        """The answer, of so many bytes or as long as its Content-Length says."""
        self.send(request)
        return self.receive(size)

    def send(self, request: bytes) -> None:
        self._wire.sendall(request)

    def receive(self, size: int | None = None) -> bytes:
        """One whole answer. Raises ConnectionError when the server ends the connection before its end."""
        answer = b""
        while size is None or len(answer) < size:
            piece = self._wire.recv(65536)
            if not piece:
                raise ConnectionError(f"the server ended the connection after {len(answer)} bytes of an answer")
            answer += piece
            head, end, _ = answer.partition(b"\r\n\r\n")
            if size is None and end:
                (length,) = (line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                size = len(head) + len(end) + int(length)
        return answer

    def close(self) -> None:
        self._wire.close()


def https(found: dict[str, Subject], rounds: int) -> Iterator[Row]:
    """Requests on one connection and on several, warm: the Steward's, and the bare server's on one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        anchors = {"amd": found["snp"].anchor, "intel": found["sgx"].anchor}
        with steward(folder, anchors) as (process, port):
            for technology, subject in found.items():
                requests = [_post(body) for body in subject.requests]
                wires = [Wire(port, folder / "server.pem") for _ in range(max(CONNECTIONS))]
                for request in requests:
                    answer = wires[0].ask(request)
                    assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
                size = min(map(len, requests))
                bare_pid, bare_port = bare_server(folder, subject, size, len(answer))
                bare_wire = Wire(bare_port, folder / "server.pem")
                works: dict[str, tuple[int, Batch]] = {
                    f"https warm, {count} conn.": (process.pid, functools.partial(_at_once, wires[:count], requests))
                    for count in CONNECTIONS
                }
                cut = [request[:size] for request in requests]
                works["bare server"] = bare_pid, functools.partial(_at_once, [bare_wire], cut, size=len(answer))
                spent: dict[str, list[float]] = {what: [] for what in works}
                for _ in range(WINDOWS):  # by turns, so that all have the same neighbours
                    for what, (pid, work) in works.items():
                        begun, done = processor_time(pid), 0
                        while done < rounds:
                            done += work(done)
                        spent[what].append((processor_time(pid) - begun) / done)
                for wire in (*wires, bare_wire):
                    wire.close()
                os.waitpid(bare_pid, 0)
                bare = Bare.of(subject)
                warm, cold = by_turns(bare.https, bare.https_cold, rounds)
                for what, windows in spent.items():
                    yield technology, what, undisturbed(windows), warm, cold


def _at_once(wires: Sequence[Wire], requests: Sequence[bytes], done: int, *, size: int | None = None) -> int:
    """A request on each connection, all of them sent before an answer is read; how many that are."""
    for position, wire in enumerate(wires):
        wire.send(requests[(done + position) % KEYS])
    for wire in wires:
        wire.receive(size)
    return len(wires)


def _post(body: bytes) -> bytes:
    head = (
        f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def peer(subject: Subject, now: datetime) -> Work | None:
    """dcap-qvl's verification of the same quote with the same documents, if it is installed."""
    try:
        dcap_qvl = importlib.import_module("dcap_qvl")
    except ImportError:
        return None
    from enarx.tee.dcap.collateral import split
    from enarx.tee.dcap.pck import write_chain
    from enarx.tee.dcap.quoted import Quoted

    quote = subject.reports[0][0]
    endorsements, root = subject.endorsements, subject.anchor.certificate
    parts = {"root_ca_crl": endorsements.crls[0].hex(), "pck_crl": endorsements.crls[1].hex()}
    ca = Quoted.parse(quote).machine.chain[1:]
    parts["pck_crl_issuer_chain"] = write_chain(tuple(each.der for each in ca)).decode()
    for key, name, document in (
        ("tcb_info", "tcbInfo", endorsements.tcb_infos[0]),
        ("qe_identity", "enclaveIdentity", endorsements.qe_identities[0]),
    ):
        text, signature = split(document.body, name)
        parts |= {key: text.decode(), f"{key}_signature": signature.hex()}
        parts[f"{key}_issuer_chain"] = write_chain(document.chain).decode()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(parts))
    moment = int(now.timestamp())
    return lambda _: dcap_qvl.verify_with_root_ca(quote, collateral, root, moment)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure verification beside bare cryptography.")
    parser.add_argument("--rounds", type=int, default=60, help="how many in each window")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    now = datetime.now(UTC)
    found = subjects(now)
    measured = [row for name, subject in found.items() for row in verifications(name, subject, now, options.rounds)]
    measured += https(found, options.rounds)
    rows = [
        {
            "technology": name,
            "what": what,
            "per_second": 1 / spent,
            "microseconds": spent * 1e6,
            "bare_microseconds": bare * 1e6,
            "times_bare": spent / bare,
            "cold_sum_microseconds": everything * 1e6,
            "times_cold_sum": spent / everything,
        }
        for name, what, spent, bare, everything in measured
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(
        f"{'':<5}{'':<21}{'per s and core':>15}{'µs':>8}{'bare µs':>9}{'times bare':>12}"
        f"{'cold sum µs':>13}{'times cold sum':>16}"
    )
    for row in rows:
        print(
            f"{row['technology']:<5}{row['what']:<21}{row['per_second']:>15.0f}{row['microseconds']:>8.0f}"
            f"{row['bare_microseconds']:>9.0f}{row['times_bare']:>12.2f}"
            f"{row['cold_sum_microseconds']:>13.0f}{row['times_cold_sum']:>16.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
