"""What `drawbridge serve --dev` makes for itself in its state directory, once: a CA, the issuer's key, a store.

    DIR/ca.pem      the certificate that clients of this server trust (`ENARX_CA_BUNDLE`)
    DIR/ca.key      its key
    DIR/issuer.key  the key of the embedded issuer
    DIR/store/      users, repositories and packages
    DIR/approvals/  codes that were approved

The directory and everything in it belongs to the user who runs the server and to nobody else (0700, 0600): who may
read it may be anybody here. The server's own certificate is made anew at every start, for loopback names alone.
"""

import os
import stat
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enarx.errors import DeniedError, NotFoundError
from enarx.pki import keys
from enarx.web.files import read_file, read_private, write_private
from enarx.web.tls import ServerTls

NAMES: Final = ("localhost", "127.0.0.1", "::1")
CA_LIFETIME: Final = timedelta(days=365)
SERVER_LIFETIME: Final = timedelta(days=30)
BACKDATE: Final = timedelta(minutes=5)


def state_directory(path: Path) -> Path:
    """Make it, or take it as it is if it is ours alone. Raises DeniedError, NotFoundError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}") from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise DeniedError(f"{path}: expected a directory that is yours alone; chmod 700 {path}")
    return path


def server_tls(directory: Path, at: datetime) -> ServerTls:
    """A fresh server certificate under the directory's CA, which is made when it is missing."""
    ca_key, ca = _ca(directory, at)
    key = keys.generate("P-256")
    certificate = (
        _builder("Drawbridge (development)", ca.subject, key, at, SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in NAMES]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, keys.hash_of(ca_key))
    )
    return ServerTls(
        cert_chain_pem=certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM),
        key_pem=keys.to_pem(key),
    )


def _ca(directory: Path, at: datetime) -> tuple[keys.PrivateKey, x509.Certificate]:
    crt, private = directory / "ca.pem", directory / "ca.key"
    if crt.exists() and private.exists():
        certificate = x509.load_pem_x509_certificate(read_file(crt))
        if certificate.not_valid_after_utc > at + SERVER_LIFETIME:
            return keys.from_pem(read_private(private), str(private)), certificate
    key = keys.generate("P-256")
    certificate = (
        _builder("Drawbridge (development CA)", None, key, at, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_ca_usage(), critical=True)
        .sign(key, keys.hash_of(key))
    )
    private.unlink(missing_ok=True)
    write_private(private, keys.to_pem(key))
    crt.write_bytes(certificate.public_bytes(Encoding.PEM))
    return key, certificate


def _builder(
    name: str, issuer: x509.Name | None, key: keys.PrivateKey, at: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATE)
        .not_valid_after(at + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
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


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
