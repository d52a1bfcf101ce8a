"""Making and renewing a CA on disk: an offline root and a short-lived online intermediate (flow.md, 4).

    DIR/root.pem  root.key     the root; its key belongs on a medium that is not plugged in
    DIR/ca.pem    ca.key       the intermediate and the root above it: what `crt` and `key` of steward.toml name
    DIR/ca.former-*.pem  .key  each intermediate before: it signs the list of what it issued, until its certificate ends

Keys are PKCS#8 with mode 0600, encrypted where a passphrase is given. Nothing is overwritten by `init`; `rotate`
replaces the intermediate; a running Steward takes it up, and everybody who trusts the root goes on.
"""

import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from enarx.errors import ConflictError, EnarxError, MalformedError, NotFoundError
from enarx.pki import keys
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.steward.config import private_key
from enarx.steward.issuer import MAX_NAME, ROOT_LIFETIME, Issuer, intermediate, self_signed
from enarx.steward.reload import FORMER, beside_former, former_of, formers_of
from enarx.steward.token import SCHEME
from enarx.web.files import read_file, read_private, write_private

_DISTINCT: Final = " 2026-01-31 0a1b2c"  # what the name of an intermediate ends with
FILES: Final = ("root.pem", "root.key", "ca.pem", "ca.key")


def require_name(name: str) -> None:
    """Raises MalformedError for what cannot begin the names of a CA's certificates."""
    longest = MAX_NAME - len(_DISTINCT)
    if not name.strip() or len(name) > longest or not name.isprintable():
        raise MalformedError(f"name: expected 1 to {longest} printable characters, found {len(name)}")


def init(
    directory: Path, name: str, at: datetime, *, curve: keys.Curve, lifetime: timedelta, passphrase: bytes | None
) -> tuple[Certificate, Certificate]:
    """Make both; returns root and intermediate. Raises ConflictError when one of the files is there already."""
    require_name(name)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NotFoundError(f"{directory}: {error.strerror}") from error
    there = [file for file in FILES if (directory / file).exists()]
    if there:
        raise ConflictError(f"{directory}: {', '.join(there)} is there already, and nothing is overwritten")
    root_key = keys.generate(curve)
    root = self_signed(f"{name} Root", root_key, at, lifetime=ROOT_LIFETIME, path_length=1)
    write_private(directory / "root.key", keys.to_pem(root_key, passphrase))
    (directory / "root.pem").write_bytes(root.to_pem())
    made = _intermediate(directory, name, Issuer.of(root_key, [root]), at, curve, lifetime, passphrase)
    return root, made


def rotate(
    directory: Path,
    name: str,
    at: datetime,
    *,
    curve: keys.Curve,
    lifetime: timedelta,
    passphrase: bytes | None,
    root_key: str | None = None,
) -> Certificate:
    """Replace the intermediate by a fresh one under the same root. Raises NotFoundError without the root's key.

    `root_key` is where the root's key is when not beside its certificate: a file, or a PKCS#11 URI.
    """
    require_name(name)
    chain = certificates_from_pem(read_file(directory / "root.pem"), str(directory / "root.pem"))
    if root_key is not None and root_key.startswith(SCHEME):
        key = private_key(root_key, chain[0])
    else:
        path = Path(root_key or directory / "root.key")
        key = keys.from_pem(read_private(path), str(path), passphrase)
    root = Issuer.of(key, chain)
    return _intermediate(directory, name, root, at, curve, lifetime, passphrase)


def _intermediate(
    directory: Path,
    name: str,
    root: Issuer,
    at: datetime,
    curve: keys.Curve,
    lifetime: timedelta,
    passphrase: bytes | None,
) -> Certificate:
    """Each intermediate has a name of its own, so that no list or chain of one is taken for another's."""
    key = keys.generate(curve)
    made = intermediate(_distinct(name, at), key, at, root=root, lifetime=lifetime)
    suffix = f".{os.getpid()}"
    _put_aside(directory, suffix)
    write_private(directory / f"ca.key{suffix}", keys.to_pem(key, passphrase))
    (directory / f"ca.pem{suffix}").write_bytes(made.to_pem() + root.certificate.to_pem())
    for file in ("ca.key", "ca.pem"):
        (directory / f"{file}{suffix}").replace(directory / file)
    _forget(directory, at)
    return made


def _distinct(name: str, at: datetime) -> str:
    return f"{name} {at.year:04}-{at.month:02}-{at.day:02} {secrets.token_hex(3)}"


def _put_aside(directory: Path, suffix: str) -> None:
    """Leave the former one beside what will replace it. It is copied, for at no moment may it be missing.

    The certificate comes last, for by it the key is looked for. What is there already was put aside by a rotation that
    broke off, and may have replaced the key since.
    """
    crt, key = directory / "ca.pem", directory / "ca.key"
    if not crt.exists() or not key.exists():
        return
    try:
        certificate = certificates_from_pem(read_file(crt), str(crt))[0]
    except MalformedError:
        return  # a certificate that cannot be read issued nothing whose list could be signed
    for file in (key, crt):
        kept = former_of(file, certificate)
        if not kept.exists():
            copy = file.with_name(f"{file.name}{FORMER}{suffix}")
            write_private(copy, read_private(file) if file is key else read_file(file))
            copy.replace(kept)


def _forget(directory: Path, at: datetime) -> None:
    """Remove the intermediates that have ended, and their keys: nothing that they issued counts any more."""
    crt, key = directory / "ca.pem", directory / "ca.key"
    for former in formers_of(crt):
        with suppress(EnarxError, OSError):  # what cannot be read is somebody's own
            if certificates_from_pem(read_file(former), str(former))[0].not_after <= at:
                beside_former(key, crt, former).unlink(missing_ok=True)
                former.unlink(missing_ok=True)
