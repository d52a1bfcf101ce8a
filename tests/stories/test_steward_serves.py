"""`steward serve` in a real process over real TLS: a Keep without a TEE gets its certificate, and loses it again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enarx.attested.claims import RuntimeClaims
from enarx.errors import RejectedError, UntrustedError
from enarx.pki import crl, csr, keys
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.pki.chain import verify_chain
from enarx.steward import client
from enarx.web.client import Client
from tests.unit.steward import support


@contextmanager
def serving(config: Path) -> Iterator[int]:
    """A Steward in a process of its own; gives the port it listens on."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", "from enarx.cli.steward import main; main()", "serve", "--config", str(config)]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing], stderr=log)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            yield int(ready.read())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def steward(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-c", "from enarx.cli.steward import main; main()", *arguments], check=True)


def server_certificate(folder: Path) -> bytes:
    """A certificate for `localhost` and its key, in files; returns the PEM to trust."""
    key = keys.generate("P-256")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, keys.hash_of(key))
        .public_bytes(Encoding.PEM)
    )
    (folder / "server.pem").write_bytes(made)
    (folder / "server.key").write_bytes(keys.to_pem(key))
    (folder / "server.key").chmod(0o600)
    return made


def test_a_keep_is_certified_refused_and_revoked(tmp_path: Path) -> None:
    """Nonce, certificate under the offline root, refusal in the Steward's words, revocation without a restart."""
    steward(["ca", "init", str(tmp_path / "ca")])
    trust = server_certificate(tmp_path)
    config = tmp_path / "steward.toml"
    config.write_text(
        "crt = 'ca/ca.pem'\nkey = 'ca/ca.key'\nlisten = '127.0.0.1:0'\nstate = 'state'\naudit = 'audit.jsonl'\n"
        "tls_cert = 'server.pem'\ntls_key = 'server.key'\n" + support.ACCEPT_NIL
    )
    key = keys.generate("P-256")
    with serving(config) as port, Client(f"https://localhost:{port}", ca_pem=trust) as connection:
        claims = RuntimeClaims(
            audience=f"https://localhost:{port}", nonce=client.nonce(connection), digests=(support.WORKLOAD,)
        )
        request = csr.build(key, [support.nil_evidence(), support.claims_extension(claims)])
        path = [Certificate.parse(data) for data in client.attest(connection, request)]
        (root,) = certificates_from_pem((tmp_path / "ca" / "root.pem").read_bytes())
        verify_chain([*path, root], datetime.now(UTC), understood=["2.5.29.17"])
        assert path[0].spki == keys.spki(key)
        with pytest.raises(UntrustedError, match="the request carries no attestation evidence"):
            client.attest(connection, csr.build(key))
        steward(["revoke", "--config", str(config), "--workload", str(support.WORKLOAD)])
        assert crl.Crl.parse(connection.get("/crl").body).revoked == {path[0].serial}
        with pytest.raises(RejectedError, match="was revoked by the operator"):
            client.attest(connection, request)
    assert (tmp_path / "audit.jsonl").read_text().count("\n") == 3
