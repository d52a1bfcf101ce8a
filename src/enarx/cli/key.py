"""`enarx key`: the keys that sign what a TEE launches, and the digests by which policies know them (protocol.md, 3.1)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from enarx.errors import MalformedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

FILE: Final = click.Path(path_type=Path)
OUT: Final = click.option("--out", type=FILE, help="Write to this file, instead of printing.")


@click.group()
def key() -> None:
    """Keys that sign Keeps for SEV-SNP and SGX, and their digests for policies."""


@key.group()
def sev() -> None:
    """ID and author keys of SEV-SNP guests: P-384."""


@key.group()
def sgx() -> None:
    """Signing keys of SGX enclaves: RSA of 3072 bits, exponent 3."""


@sev.command("create")
@OUT
def sev_create(out: Path | None) -> None:
    """Make a key (PKCS#8 in PEM)."""
    from enarx.pki import keys

    _put(out, keys.to_pem(keys.generate("P-384")), secret=True)


@sev.command("digest")
@click.argument("file", metavar="KEY", type=FILE)
@OUT
def sev_digest(file: Path, out: Path | None) -> None:
    """Print the digest of a key as reports have it: ID_KEY_DIGEST or AUTHOR_KEY_DIGEST, SHA-384."""
    from enarx.tee.snp import idblock

    _put(out, idblock.key_digest(_p384(file).public_key()).hex().encode())


@sev.command("sign")
@click.option("--author-key", type=FILE, required=True, help="The key that vouches.")
@click.option("--id-key", type=FILE, required=True, help="The key that is vouched for.")
@click.option("--out", type=FILE, required=True, help="Where to write the 1540 bytes.")
def sev_sign(author_key: Path, id_key: Path, out: Path) -> None:
    """Let an author key vouch for an ID key."""
    from enarx.tee.snp import idblock

    _put(out, idblock.sign_key(_p384(author_key), _p384(id_key).public_key()))


@sgx.command("create")
@OUT
def sgx_create(out: Path | None) -> None:
    """Make a key (PKCS#1 in PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from enarx.tee.sgx import sigstruct

    made = sigstruct.generate().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    _put(out, made, secret=True)


@sgx.command("digest")
@click.argument("file", metavar="KEY", type=FILE)
@OUT
def sgx_digest(file: Path, out: Path | None) -> None:
    """Print the digest of a key as quotes have it: MRSIGNER, SHA-256."""
    from enarx.tee.sgx import sigstruct

    _put(out, sigstruct.mr_signer(sigstruct.require_key(private_key(file)).public_key()).hex().encode())


def _p384(path: Path) -> "EllipticCurvePrivateKey":
    from enarx.pki import keys
    from enarx.web.files import read_private

    return keys.from_pem(read_private(path), str(path))


def private_key(path: Path) -> object:
    """Any PEM private key. Raises MalformedError, whose message carries nothing of it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from enarx.web.files import read_private

    try:
        return load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"{path}: not a PEM private key that can be read") from error


def _put(out: Path | None, data: bytes, *, secret: bool = False) -> None:
    """To a file, private when it holds a key, or to standard output, without a newline for programs."""
    from enarx.web.files import write_file, write_private

    if out is None:
        sys.stdout.buffer.write(data + (b"\n" if not secret and sys.stdout.isatty() else b""))
        sys.stdout.flush()
    elif secret:
        write_private(out, data)
    else:
        write_file(out, data)
