"""Who may speak with the program, who the Keep is to them, and how that changes while it runs."""

import contextlib
import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enarx.attested.result import AttestationResult
from enarx.errors import EnarxError, MalformedError, RejectedError, UntrustedError
from enarx.keep.config import Log as LogSettings
from enarx.keep.runtime import LiveIdentity, TlsIdentity, whoami
from enarx.keep.runtime.log import Log
from enarx.keep.runtime.tls import server_context
from enarx.keep.runtime.whoami import SIGN_PREFIX
from tests.unit.conftest import Authority, Issued
from tests.values import replace

from .conftest import Outcome, Runner, Running, Starter

STDIO = '[[files]]\nkind="stdin"\n[[files]]\nkind="stdout"\n[[files]]\nkind="stderr"\n'
LISTEN = STDIO + '[[files]]\nkind="listen"\nname="web"\nprot="tls"\naddr="127.0.0.1"\nport=0\n'


def _identity(issued: Issued) -> TlsIdentity:
    assert isinstance(issued.key, EllipticCurvePrivateKey)
    return TlsIdentity(chain_pem=issued.chain_pem, key=issued.key)


def _client(issued: Issued | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if issued is not None:
        from enarx.keep.runtime.tls import _load

        _load(context, _identity(issued))
    return context


def _say(port: int, line: bytes, issued: Issued | None = None) -> bytes:
    """What comes back; nothing when the other side hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        try:
            with _client(issued).wrap_socket(raw) as sock:
                sock.sendall(line)
                return sock.recv(100)
        except OSError:
            return b""


def _end(guest: Running, issued: Issued | None = None) -> Outcome:
    assert _say(guest.ports[0], b"end\n", issued) == b"end\n"
    return guest.join()


def test_a_client_has_to_show_a_certificate_of_the_roots(
    probe: bytes, start_guest: Starter, authority: Authority, foreign: Authority, identity: TlsIdentity
) -> None:
    """client = "any": who shows none, or one of somebody else, is not served."""
    toml = LISTEN + 'client = "any"\nroots = ["ca.pem"]\n'
    guest = start_guest(probe, "server", "3", "1", toml=toml, identity=identity, files={"ca.pem": authority.pem})
    assert _say(guest.ports[0], b"hello\n") == b""
    assert _say(guest.ports[0], b"hello\n", foreign.issue()) == b""
    assert _say(guest.ports[0], b"hello\n", authority.issue()) == b"hello\n"
    outcome = _end(guest, authority.issue())
    assert b"web: 127.0.0.1:" in outcome.stderr


def test_a_client_has_to_be_an_attested_keep(
    probe: bytes, start_guest: Starter, authority: Authority, identity: TlsIdentity, result: AttestationResult
) -> None:
    """client = "attested": the certificate carries an attestation result that the policy accepts, or nothing passes."""
    pem = authority.pem.decode()
    toml = LISTEN + f"client = 'attested'\nroots = ['''{pem}''']\nattestation = {{ technologies = ['snp'] }}\n"
    guest = start_guest(probe, "server", "3", "1", toml=toml, identity=identity)
    keep = authority.attest(result)
    other = authority.attest(replace(result, technology="tdx"))
    assert _say(guest.ports[0], b"hello\n", authority.issue()) == b""
    assert _say(guest.ports[0], b"hello\n", other) == b""
    assert _say(guest.ports[0], b"hello\n", keep) == b"hello\n"
    outcome = _end(guest, keep)
    assert b"refused: " in outcome.stderr
    assert b"it has no attestation result" in outcome.stderr


@contextmanager
def _server(issued: Issued) -> Iterator[int]:
    """Answers one connection with what it says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.settimeout(30)
            with server_context(_identity(issued)).wrap_socket(sock, server_side=True) as tls:
                file = tls.makefile("rwb")
                for _ in range(3):
                    file.write(b"line\n")
                    file.flush()
                    file.readline()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(30)


def _spki(issued: Issued) -> str:
    key = issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def test_a_connection_is_judged_before_the_program_starts(
    probe: bytes,
    run_guest: Runner,
    authority: Authority,
    foreign: Authority,
    identity: TlsIdentity,
    result: AttestationResult,
) -> None:
    """Pins alone ask for the key, roots for the chain, attestation for the result; each refusal is named."""

    def connect(issued: Issued, keys: str, expected: type[EnarxError] | None, message: str = "") -> None:
        with _server(issued) as port:
            toml = f'{STDIO}[[files]]\nkind="connect"\nname="up"\nprot="tls"\nhost="localhost"\nport={port}\n{keys}\n'
            files = {"ca.pem": authority.pem}
            if expected is None:
                assert run_guest(probe, "connected", "3", toml=toml, identity=identity, files=files).code == 0
                return
            with pytest.raises(expected, match=f"^up: TLS with localhost port {port}: {message}"):
                run_guest(probe, "connected", "3", toml=toml, identity=identity, files=files)

    stranger, known = foreign.attest(None), authority.attest(None)
    connect(stranger, f'pins = ["{_spki(stranger)}"]', None)
    connect(stranger, f'pins = ["{_spki(known)}"]', UntrustedError, "its key is not one of `pins`")
    connect(stranger, f'pins = ["{_spki(stranger)}"]\nroots = ["ca.pem"]', UntrustedError)
    connect(known, 'roots = ["ca.pem"]', None)
    keep = authority.attest(result)
    connect(keep, 'roots = ["ca.pem"]\nattestation = { technologies = ["snp"] }', None)
    connect(keep, 'roots = ["ca.pem"]\nattestation = { technologies = ["tdx"] }', RejectedError)
    connect(known, 'roots = ["ca.pem"]\nattestation = {}', UntrustedError)


def test_roots_that_are_not_there_are_named(probe: bytes, run_guest: Runner, identity: TlsIdentity) -> None:
    """A path that is not in the package, and a file that is no PEM."""
    toml = LISTEN + 'client = "any"\nroots = ["ca.pem"]\n'
    with pytest.raises(MalformedError, match=r"roots: ca\.pem is not in the package"):
        run_guest(probe, "server", "3", "1", toml=toml, identity=identity)
    with pytest.raises(MalformedError, match="roots: expected PEM certificates"):
        run_guest(probe, "server", "3", "1", toml=toml, identity=identity, files={"ca.pem": b"no"})


def test_protocols_are_negotiated(probe: bytes, start_guest: Starter, identity: TlsIdentity) -> None:
    """The first protocol of the list that the client offers is chosen."""
    guest = start_guest(probe, "server", "3", "1", toml=LISTEN + 'alpn = ["h2", "http/1.1"]\n', identity=identity)
    context = _client()
    context.set_alpn_protocols(["http/1.1", "h2"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)) as sock:
        assert sock.selected_alpn_protocol() == "h2"
    _end(guest)


def _served(port: int) -> bytes:
    with _client().wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30)) as sock:
        return sock.getpeercert(binary_form=True) or b""


def test_a_certificate_is_renewed_under_living_connections(
    probe: bytes, start_guest: Starter, authority: Authority
) -> None:
    """New handshakes show the new certificate; a client that was connected before notices nothing."""
    first, second = authority.attest(None), authority.attest(None)
    live = LiveIdentity(_identity(first))
    guest = start_guest(probe, "server", "3", "1", toml=LISTEN, identity=live)
    raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
    with _client().wrap_socket(raw) as old:
        old.sendall(b"one\n")
        assert old.recv(10) == b"one\n"
        assert _served(guest.ports[0]) == first.der
        live.replace(_identity(second))
        assert _served(guest.ports[0]) == second.der
        old.sendall(b"two\n")
        assert old.recv(10) == b"two\n"
        assert old.getpeercert(binary_form=True) == first.der
    _end(guest)
    with pytest.raises(MalformedError, match="key and certificate chain do not fit"):
        live.replace(TlsIdentity(chain_pem=first.chain_pem, key=_identity(second).key))


def test_after_the_end_of_the_certificate_nobody_new_is_served(
    probe: bytes, start_guest: Starter, authority: Authority
) -> None:
    """Who is connected stays, new connections are refused with a line that says why, until a new one comes."""
    live = LiveIdentity(_identity(authority.attest(None, ends=timedelta(minutes=5))))
    guest = start_guest(probe, "server", "3", "1", toml=LISTEN, identity=live)
    raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
    with _client().wrap_socket(raw) as old:
        old.sendall(b"one\n")
        assert old.recv(10) == b"one\n"
        live.replace(_identity(authority.attest(None, ends=timedelta(minutes=-1))))
        assert _say(guest.ports[0], b"hello\n") == b""
        old.sendall(b"two\n")
        assert old.recv(10) == b"two\n"
    live.replace(_identity(authority.attest(None)))
    outcome = _end(guest)
    assert b"enarx: error: web: refused 127.0.0.1:" in outcome.stderr
    assert b"the certificate ended at " in outcome.stderr


def test_terminate_lets_a_server_finish_with_its_clients(
    probe: bytes, start_guest: Starter, identity: TlsIdentity
) -> None:
    """Nobody new is accepted, who is served is served on, and when the last has gone the server ends with 143."""
    guest = start_guest(probe, "server", "3", "1", toml=LISTEN, identity=identity)
    raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
    with _client().wrap_socket(raw) as sock:
        sock.sendall(b"one\n")
        assert sock.recv(10) == b"one\n"
        guest.interrupt.terminate()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
        sock.sendall(b"two\n")
        assert sock.recv(10) == b"two\n"
    assert guest.join().code == 143


def test_terminate_ends_a_server_after_its_grace_and_another_program_at_once(
    probe: bytes, start_guest: Starter, identity: TlsIdentity
) -> None:
    """A client that stays is left after the grace time; a second SIGTERM does not wait for it."""
    for grace, again in ((0.2, False), (600.0, True)):
        guest = start_guest(probe, "server", "3", "1", toml=LISTEN, identity=identity, grace=grace)
        raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
        with _client().wrap_socket(raw) as sock:
            sock.sendall(b"one\n")
            assert sock.recv(10) == b"one\n"
            guest.interrupt.terminate()
            if again:
                guest.interrupt.terminate()
            assert guest.join().code == 143
    spinning = start_guest(probe, "spin")
    spinning.interrupt.terminate()
    assert spinning.join().code == 143


def test_a_server_that_ends_by_itself_in_its_grace_gives_its_own_code(
    probe: bytes, start_guest: Starter, identity: TlsIdentity
) -> None:
    """What the program exits with is what comes out."""
    guest = start_guest(probe, "server", "3", "1", toml=LISTEN, identity=identity)
    raw = socket.create_connection(("127.0.0.1", guest.ports[0]), timeout=30)
    with _client().wrap_socket(raw) as sock:
        sock.sendall(b"one\n")
        assert sock.recv(10) == b"one\n"
        guest.interrupt.terminate()
        sock.sendall(b"end\n")
        assert guest.join().code == 0


def test_a_program_learns_who_it_is(
    probe: bytes, run_guest: Runner, authority: Authority, result: AttestationResult
) -> None:
    """Certificate, attestation result and workload digest are files; the environment says where and what."""
    issued = authority.attest(result)
    toml = STDIO + "[identity]\n"
    shown = run_guest(probe, "environment", toml=toml, identity=_identity(issued)).stdout.decode().splitlines()
    workload = str(result.claims.workload) if result.claims else ""
    assert "env ENARX_CERTIFICATE=/enarx/certificate.pem" in shown
    assert f"env ENARX_WORKLOAD={workload}" in shown
    assert "env ENARX_TECHNOLOGY=snp" in shown
    assert "env ENARX_KEYS=temporary" in shown
    run = [run_guest(probe, "cat", f"/enarx/{name}", toml=toml, identity=_identity(issued)).stdout for name in (
        "certificate.pem", "workload", "attestation.json"
    )]  # fmt: skip
    assert run[0] == issued.chain_pem
    assert run[1].decode() == f"{workload}\n"
    assert json.loads(run[2])["measurement"] == result.measurement.hex()
    listed = run_guest(probe, "list", "/enarx", toml=toml, identity=_identity(issued)).stdout
    assert listed == b". 3\n.. 3\nattestation.json 4\ncertificate.pem 4\nkeys 3\nsign 4\nworkload 4\n"


def test_a_program_asks_for_signatures_and_keys(probe: bytes, run_guest: Runner, authority: Authority) -> None:
    """The signature verifies with the certificate's key over the prefixed message; a key belongs to its label."""
    issued = authority.attest(None)

    def ask(label: str, root: bytes | None) -> tuple[bytes, bytes]:
        outcome = run_guest(
            probe, "ask", "/enarx/sign", f"/enarx/keys/{label}",
            toml=STDIO + "[identity]\n", identity=_identity(issued), sealing_root=root,
        )  # fmt: skip
        first, second = outcome.stdout.split()
        return bytes.fromhex(first.decode()), bytes.fromhex(second.decode())

    signature, key = ask("database", b"r" * 32)
    public = issued.certificate.public_key()
    assert isinstance(public, EllipticCurvePublicKey)
    public.verify(signature, SIGN_PREFIX + b"message", ECDSA(SHA256()))
    assert len(key) == 32
    assert ask("database", b"r" * 32)[1] == key
    assert ask("other", b"r" * 32)[1] != key
    assert ask("database", None)[1] != key


def test_without_a_secret_keys_are_one_runs_and_that_is_told_once(authority: Authority) -> None:
    """Whoever asks, in whichever thread or for whichever request: the same keys in a run, others in the next."""
    live, said = LiveIdentity(_identity(authority.attest(None))), bytearray()

    def ask(log: Log) -> list[bytes]:
        settings = SimpleNamespace(identity=live, workload_digest=None, sealing_root=None, log=log)
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda _: whoami.Facts(settings).key("database"), range(8)))  # type: ignore[arg-type]  # as much of Settings as is read

    logs = [Log(LogSettings(), said.extend) for _ in range(2)]
    first, second = (set(ask(log)) for log in logs)
    assert (len(first), len(second), len(first | second)) == (1, 1, 2)
    assert said.count(b"enarx: warn: the program asked for a key") == 2


def test_the_end_of_an_identity_is_the_earliest_of_its_chain(authority: Authority) -> None:
    """An intermediate that ends first ends the identity."""
    ended = authority.attest(None, ends=timedelta(seconds=-10))
    live = LiveIdentity(_identity(ended))
    with pytest.raises(EnarxError, match="was not renewed"):
        live.require(datetime.now(UTC))
    assert live.require(ended.certificate.not_valid_before_utc)[1] == 0
    assert x509.load_pem_x509_certificates(live.current.chain_pem)[0] == ended.certificate
