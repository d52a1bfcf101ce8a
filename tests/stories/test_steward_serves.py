"""`steward serve` in a real process over real TLS: a Keep without a TEE gets its certificate, and loses it again."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from enarx.attested.claims import RuntimeClaims, report_data
from enarx.errors import RejectedError, UntrustedError
from enarx.pki import crl, csr, keys
from enarx.pki.certificate import Certificate, Extension, certificates_from_pem, pem
from enarx.pki.chain import verify_chain
from enarx.steward import client
from enarx.tee.sgx.simulator import SgxMachine, Vendor
from enarx.web.client import Client
from enarx.web.tls import ClientIdentity
from tests.unit.steward import support
from tests.values import replace


@contextmanager
def serving(config: Path, *options: str) -> Iterator[int]:
    """A Steward in a process of its own; gives the port it listens on."""
    with running(config, *options) as (_, port):
        yield port


@contextmanager
def running(config: Path, *options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The same, with the process."""
    reading, writing = os.pipe()
    program = "from enarx.cli.steward import main; main()"
    command = [sys.executable, "-c", program, "serve", "--config", str(config), *options]
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing], stderr=log)
    os.close(writing)
    try:
        with os.fdopen(reading) as ready:
            yield process, int(ready.read())
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


def test_a_development_steward_needs_a_policy_and_nothing_else(tmp_path: Path) -> None:
    """`--dev-dir` makes the CA that also vouches for its TLS; simulated vendors and DNS names are policy; the CA stays."""
    now = datetime.now(UTC)
    vendor = Vendor.create(now)
    machine = SgxMachine.create(vendor, now, mr_enclave=bytes(32))
    (tmp_path / "intel.der").write_bytes(vendor.root.certificate)
    (tmp_path / "collateral").mkdir()
    (tmp_path / "collateral" / "qe.json").write_bytes(machine.endorsements.qe_identities[0].body)
    config = tmp_path / "steward.toml"
    config.write_text(
        f"listen = '127.0.0.1:0'\ncollateral = 'collateral'\n[sgx]\nhash = ['{bytes(32).hex()}']\n"
        "[certificate]\ndns_names = ['localhost']\n"
        "[unsafe]\naccept_simulated = true\n[unsafe.simulated]\nintel = ['intel.der']\n"
    )
    options = ("--dev-dir", str(tmp_path / "dev"), "--write-ca", str(tmp_path / "ca.pem"))
    key = keys.generate("P-256")
    with serving(config, *options) as port:
        trust = (tmp_path / "ca.pem").read_bytes()
        with Client(f"https://localhost:{port}", ca_pem=trust) as connection:
            assert connection.get("/ca.pem").body == trust
            claims = RuntimeClaims(
                audience=f"https://localhost:{port}", nonce=client.nonce(connection), digests=(support.WORKLOAD,)
            )
            evidence = machine.evidence(report_data("sha-256", keys.spki(key), claims.encode()))
            carried = Extension(oid=evidence.oid, critical=False, value=evidence.body)
            path = client.attest(connection, csr.build(key, [carried, support.claims_extension(claims)]))
            identity = ClientIdentity(chain_pem=b"".join(pem("CERTIFICATE", each) for each in path), key=key)
            with Client(f"https://localhost:{port}", ca_pem=trust, identity=identity) as keep:
                claims = replace(claims, nonce=client.nonce(keep))
                evidence = machine.evidence(report_data("sha-256", keys.spki(key), claims.encode()))
                carried = Extension(oid=evidence.oid, critical=False, value=evidence.body)
                body = base64.b64encode(csr.build(key, [carried, support.claims_extension(claims)]))
                renewed = keep.post("/.well-known/est/simplereenroll", body)
                with pytest.raises(UntrustedError, match="expected a TLS client certificate that this Steward issued"):
                    connection.post("/.well-known/est/simplereenroll", body)
    (again,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(renewed.body))
    leaf = x509.load_der_x509_certificate(path[0])
    assert again.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ) == leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert leaf.subject.rfc4514_string() == "O=SIMULATED"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    with serving(config, *options) as port, Client(f"https://localhost:{port}", ca_pem=trust) as connection:
        assert connection.get("/ca.pem").body == trust


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
    events = [json.loads(line)["event"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert events == ["decision", "decision", "revoke", "decision"]


def test_what_is_under_way_is_finished(tmp_path: Path) -> None:
    """SIGTERM comes in the middle of a request: it is answered, nobody else is taken, and the process ends with 0."""
    config = tmp_path / "steward.toml"
    config.write_text("listen = '127.0.0.1:0'\n" + support.ACCEPT_NIL)
    request = csr.build(keys.generate("P-256"), [support.nil_evidence()])
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkcs10\r\nContent-Length: {len(request)}\r\n\r\n"
    with running(config, "--host", "Steward") as (process, port):
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(head.encode() + request[:100])
            with Client(f"http://127.0.0.1:{port}") as other:  # by the time it is answered, the first is being read
                assert other.get("/health").status == 200
            process.send_signal(signal.SIGTERM)
            wait_until_refused(port)
            connection.sendall(request[100:])
            answer = b""
            while data := connection.recv(65536):
                answer += data
        assert process.wait(timeout=30) == 0
    assert answer.startswith(b"HTTP/1.1 200")


def wait_until_refused(port: int) -> None:
    """Until nobody accepts connections there."""
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 30).close()
        except ConnectionError:
            return
        time.sleep(0.05)
    raise AssertionError("connections are still accepted")
