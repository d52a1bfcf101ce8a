"""A small certificate authority for tests of TLS and of chains, and a log that every test finds as it was."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from starlette.types import ASGIApp

from enarx.attested.claims import RuntimeClaims, SealingKey
from enarx.attested.result import ATTESTATION_RESULT_OID, AttestationResult
from enarx.digest import Digest
from enarx.pki import keys
from enarx.web.server import DEFAULT_LIMITS, Limits, serve
from enarx.web.tls import ClientIdentity, ServerTls

BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command that runs in the tests' process routes the log for itself; the next test wants to hear it again."""
    logger = logging.getLogger("enarx")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate, its key, and those above it up to and without the root."""

    certificate: x509.Certificate
    key: keys.PrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        return self.pem + b"".join(item.public_bytes(Encoding.PEM) for item in self.above)

    @property
    def chain(self) -> tuple[bytes, ...]:
        return (self.der, *(item.public_bytes(Encoding.DER) for item in self.above))

    @property
    def identity(self) -> ClientIdentity:
        return ClientIdentity(chain_pem=self.chain_pem, key=self.key)

    def server_tls(self, client_ca: bytes | None = None) -> ServerTls:
        return ServerTls(cert_chain_pem=self.chain_pem, key_pem=keys.to_pem(self.key), client_ca_pem=client_ca)


@dataclass(slots=True, kw_only=True)
class Authority:
    """Issues what a test asks for, wrong things included."""

    issued: Issued
    is_root: bool = True
    at: datetime | None = None  # when it issues; None is when it is asked, for a session may be long

    @classmethod
    def root(cls, name: str = "Test Root") -> "Authority":
        key = keys.generate("P-256")
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = _ca(subject, subject, key.public_key(), key)
        return cls(issued=Issued(certificate=certificate, key=key))

    @property
    def now(self) -> datetime:
        return self.at or datetime.now(UTC).replace(microsecond=0)

    @property
    def pem(self) -> bytes:
        return self.issued.pem

    def intermediate(self, name: str = "Test Intermediate") -> "Authority":
        key = keys.generate("P-256")
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = _ca(subject, self.issued.certificate.subject, key.public_key(), self.issued.key)
        return Authority(
            issued=Issued(certificate=certificate, key=key, above=self._above()), is_root=False, at=self.at
        )

    def issue(
        self,
        subject: x509.Name | None = None,
        *,
        names: tuple[x509.GeneralName, ...] = (),
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        usages: tuple[x509.ObjectIdentifier, ...] = BOTH,
        begins: timedelta = timedelta(minutes=-5),
        ends: timedelta = timedelta(hours=1),
        ca: bool = False,
    ) -> Issued:
        key = keys.generate("P-256")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([]))
            .issuer_name(self.issued.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + begins)
            .not_valid_after(self.now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=subject is None)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self.issued.key, SHA256())
        return Issued(certificate=certificate, key=key, above=self._above())

    def attest(
        self,
        result: AttestationResult | None,
        *,
        uris: Sequence[str] | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        **named: Any,  # Any: the other options of `issue`
    ) -> Issued:
        """A certificate as a Steward issues it, for `localhost`; `uris` and `subject` replace what the result says."""
        if result is not None:
            oid = x509.ObjectIdentifier(ATTESTATION_RESULT_OID)
            extensions = (*extensions, (x509.UnrecognizedExtension(oid, result.encode()), False))
            named.setdefault("subject", _subject(result))
            uris = [_spiffe_id(result)] if uris is None else uris
        names = (*(x509.UniformResourceIdentifier(uri) for uri in uris or ()), x509.DNSName("localhost"))
        return self.issue(names=names, extensions=tuple(extensions), **named)

    def _above(self) -> tuple[x509.Certificate, ...]:
        return () if self.is_root else (self.issued.certificate, *self.issued.above)


def organization(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)])


def _subject(result: AttestationResult) -> x509.Name | None:
    if result.technology == "nil":
        return organization("UNATTESTED")
    return organization("SIMULATED") if result.simulated else None


def _spiffe_id(result: AttestationResult) -> str:
    workload = result.claims.workload if result.claims else None
    measured = f"/{result.measurement.hex()}" if result.measurement else ""
    path = f"workload/sha-256/{workload.hex}" if workload else f"keep/{result.technology}{measured}"
    return f"spiffe://example.org/{path}"


def _ca(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, signer: keys.PrivateKey
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .sign(signer, SHA256())
    )


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A root that the test trusts."""
    return Authority.root()


@pytest.fixture(scope="session")
def foreign() -> Authority:
    """A root of the same name that nobody trusts."""
    return Authority.root()


@pytest.fixture(scope="session")
def localhost(authority: Authority) -> Issued:
    """A certificate for a server on loopback."""
    return authority.issue(names=(x509.DNSName("localhost"),))


Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers in threads; each is stopped at the end. Answers the port."""
    running: list[tuple[Thread, Event]] = []

    def begin(app: ASGIApp, tls: ServerTls | None = None, limits: Limits = DEFAULT_LIMITS, grace: float = 1) -> int:
        ready, stop, ports = Event(), Event(), list[int]()

        def on_ready(port: int) -> None:
            ports.append(port)
            ready.set()

        def run() -> None:
            serve(
                app, host="127.0.0.1", port=0, tls=tls, on_ready=on_ready, grace_seconds=grace, limits=limits, stop=stop
            )

        thread = Thread(target=run, daemon=True)
        thread.start()
        running.append((thread, stop))
        assert ready.wait(20)
        return ports[0]

    yield begin
    for _, stop in running:
        stop.set()
    for thread, _ in running:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def result() -> AttestationResult:
    """What a Steward found out about a Keep on real hardware."""
    return AttestationResult(
        technology="snp",
        simulated=False,
        debug=False,
        measurement=b"\x11" * 48,
        signer=b"\x22" * 48,
        tcb_status="UpToDate",
        tcb_date=datetime(2026, 1, 1, tzinfo=UTC),
        advisories=("AMD-SB-3019",),
        appraised_at=datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10),
        policy=bytes(32),
        claims=RuntimeClaims(
            audience="https://steward.example",
            digests=(Digest.of(b"workload"),),
            slug="localhost/user/repo:1.0.0",
            sealing=SealingKey(kem=0x20, key=b"k"),
            config=bytes(32),
        ),
    )
