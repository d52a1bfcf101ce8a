"""A configuration that may change while it serves: policy, CA, TLS and vendors' directory are taken up without a restart.

What was read is a value, `Loaded`. It is read again when somebody asks (SIGHUP), when one of its files changed and was
left alone for a second, and, from when the issuing certificate is near its end, every minute; a TLS certificate of the
CA's own is made anew when it is near its. Whatever is wrong with what was read, the old stays in force, and the log says
why; the same files are not tried twice. What a running server cannot change, where it listens and where it remembers,
is refused with the word "restart".

A certificate that replaced another does not make the other's issued ones bad. So the former issuers are kept until they
end: to sign the revocation lists of what they issued, to recognise their nonces, and to believe who renews. After a
restart they are found where `steward ca rotate` put them, beside the CA's files.
"""

import glob
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from enarx.errors import EnarxError, UntrustedError
from enarx.pki.certificate import Certificate, certificates_from_pem
from enarx.steward.config import Config, Flags, load_issuer, load_tls, private_key
from enarx.steward.issuer import Issuer
from enarx.steward.token import SCHEME
from enarx.toml import ConfigError
from enarx.web.files import MAX_PEM, read_file
from enarx.web.log import Log
from enarx.web.tls import ServerTls

LOOK_SECONDS: Final = 1.0  # between two looks at the files
NEAR: Final = timedelta(days=7)  # the end of a certificate, or a quarter of its life if that is shorter
AGAIN: Final = timedelta(minutes=1)  # when near it, how often files are read that seem unchanged
REMIND: Final = timedelta(hours=1)
FORMER: Final = ".former"  # in the names of the files of the intermediates before
MAX_FORMER: Final = 64  # a month of them for who rotates twice a day

_FIXED: Final = ("addr", "port", "behind_proxy", "workers", "state", "durable")  # of what others hold while we run
_log = Log("steward")

Stamps = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration with the files that it names: all that a Steward needs to be put to work."""

    config: Config
    issuer: Issuer
    tls: ServerTls | None
    former: tuple[Issuer, ...] = ()


def load(path: Path | None, flags: Flags, at: datetime, before: Loaded | None = None) -> Loaded:
    """Read everything. `before` is what is in force. Raises EnarxErrors for whatever is wrong with it."""
    config = Config.read(path, flags)
    if before is not None:
        _require_changeable(before.config, config)
    issuer = _issuer(config, at, before)
    known = () if before is None else (before.issuer, *before.former)
    former = _former(issuer, (*known, *_kept_former(config, known, at)), at)
    same = before is not None and (issuer, former, config.origin) == (
        before.issuer,
        before.former,
        before.config.origin,
    )
    if before is not None and same and config.tls_from_ca and not _to_renew(before, at):
        tls = before.tls
    else:
        tls = load_tls(config, issuer, at, former)
    return Loaded(config=config, issuer=issuer, tls=tls, former=former)


class Reloading:
    """What is in force, and the one who takes up what is new. `apply` puts it to work, or raises and changes nothing."""

    def __init__(
        self,
        path: Path | None,
        flags: Flags,
        loaded: Loaded,
        apply: Callable[[Loaded], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.loaded = loaded
        self._path = path
        self._flags = flags
        self._apply = apply
        self._now = now
        self._wake = threading.Event()
        self._tried = self._seen = self._stamps()
        self._at = self._reminded = now()

    def start(self) -> None:
        """Look after it for the rest of the process's life, beside those who serve."""
        threading.Thread(target=self._run, daemon=True, name="reload").start()

    def ask(self) -> None:
        """Have it read again soon, whatever the files look like: for a signal's hand."""
        self._wake.set()

    def tick(self) -> None:
        """Take up what changed and has been left alone since the last look."""
        stamps, at = self._stamps(), self._now()
        near = _near(self.loaded.issuer.certificate, at)
        if near and at - self._reminded >= REMIND:
            self._reminded = at
            _log.warning("issuer ends soon", at=self.loaded.issuer.certificate.not_after.isoformat())
        if stamps != self._seen:
            self._seen = stamps  # somebody may still be writing: a key and its certificate are two files
        elif stamps != self._tried or ((near or _to_renew(self.loaded, at)) and at - self._at >= AGAIN):
            self.reload(quiet=stamps == self._tried)

    def reload(self, *, quiet: bool = False) -> None:
        """Read and put to work now. `quiet`: say nothing when nothing is new."""
        self._tried = self._seen = self._stamps()
        self._at = at = self._now()
        try:
            loaded = load(self._path, self._flags, at, self.loaded)
            if quiet and (loaded.issuer, loaded.tls) == (self.loaded.issuer, self.loaded.tls):
                return
            self._apply(loaded)
        except EnarxError as error:
            if not quiet:
                _log.warning("not reloaded, the old configuration stays in force", why=str(error))
            return
        except Exception as error:  # noqa: BLE001 - a bug of ours in what is new must not end what is in force
            _log.bug("not reloaded, the old configuration stays in force", error)
            return
        self.loaded = loaded
        _log.info(
            "reloaded",
            policy=loaded.config.policy.digest.hex(),
            issuer=loaded.issuer.certificate.common_name,
            until=loaded.issuer.certificate.not_after.isoformat(),
        )

    def _run(self) -> None:
        while True:
            if self._wake.wait(LOOK_SECONDS):
                self._wake.clear()
                self.reload()
            else:
                self.tick()

    def _stamps(self) -> Stamps:
        config = self.loaded.config
        key = None if config.key is None or config.key.startswith(SCHEME) else Path(config.key)
        files = (self._path, config.crt, key, config.tls_cert, config.tls_key, config.nonce_key)
        return tuple(None if file is None else _stamp(file) for file in files)


def _near(certificate: Certificate, at: datetime) -> bool:
    return certificate.not_after - at < min(NEAR, (certificate.not_after - certificate.not_before) / 4)


def _to_renew(loaded: Loaded, at: datetime) -> bool:
    """Whether the CA's own TLS certificate ends soon, and another would not."""
    if not loaded.config.tls_from_ca or loaded.tls is None:
        return False
    shown = certificates_from_pem(loaded.tls.cert_chain_pem, "TLS")[0]
    return _near(shown, at) and shown.not_after < loaded.issuer.certificate.not_after


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _require_changeable(before: Config, config: Config) -> None:
    wrong = [name for name in _FIXED if getattr(before, name) != getattr(config, name)]
    if before.tls != config.tls:
        wrong.append("TLS")
    if wrong:
        raise ConfigError(f"{config.source}: a change of {', '.join(wrong)} needs a restart")


def _issuer(config: Config, at: datetime, before: Loaded | None) -> Issuer:
    """The CA; one that was generated stays, and one that is the same stays the same value."""
    if before is not None and config.generate is not None:
        return before.issuer
    issuer = load_issuer(config, at)
    if before is None:
        return issuer
    own = issuer.certificate
    if not own.not_before <= at < own.not_after:
        raise UntrustedError(
            f"{config.crt}: the certificate counts from {own.not_before.isoformat()} to {own.not_after.isoformat()}"
        )
    return before.issuer if issuer.chain == before.issuer.chain else issuer


def _former(issuer: Issuer, others: Iterable[Issuer], at: datetime) -> tuple[Issuer, ...]:
    """Each once, without the one in force, until it ends; the latest first."""
    found = {other.key_id: other for other in others if other.certificate.not_after > at}
    found.pop(issuer.key_id, None)
    return tuple(sorted(found.values(), key=lambda each: each.certificate.not_after, reverse=True)[:MAX_FORMER])


def _kept_former(config: Config, known: Iterable[Issuer], at: datetime) -> Iterator[Issuer]:
    """The intermediates that `rotate` put aside. Nothing depends on one but lists of certificates that end in hours."""
    if config.generate is not None or config.crt is None or config.key is None or config.key.startswith(SCHEME):
        return
    there = {issuer.certificate.der for issuer in known}
    for crt in formers_of(config.crt):
        try:
            chain = certificates_from_pem(read_file(crt, MAX_PEM), str(crt))
            if chain[0].der not in there and chain[0].not_after > at:
                key = beside_former(Path(config.key), config.crt, crt)
                yield Issuer.of(private_key(str(key), chain[0], config.key_passphrase), chain)
        except EnarxError as error:
            _log.warning(
                "a former intermediate cannot be read, and no list is signed for what it issued", why=str(error)
            )


def former_of(file: Path, certificate: Certificate) -> Path:
    """Where a file of a former intermediate lies, by its certificate: `ca.pem`, `ca.former-0a1b2c3d4e5f6071.pem`."""
    return file.with_name(f"{file.stem}{FORMER}-{certificate.sha256.hex()[:16]}{file.suffix}")


def formers_of(crt: Path) -> list[Path]:
    """The certificates of former intermediates beside the one in force."""
    return sorted(crt.parent.glob(f"{glob.escape(crt.stem + FORMER)}*{glob.escape(crt.suffix)}"))


def beside_former(key: Path, crt: Path, former: Path) -> Path:
    """The key that belongs to `former`, as `key` belongs to `crt`."""
    return key.with_name(key.stem + former.name[len(crt.stem) : len(former.name) - len(crt.suffix)] + key.suffix)
