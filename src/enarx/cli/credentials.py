"""Where a login is kept: a credential helper, the system's keyring, or a file that only its owner can read.

A credential is named as the originals name it, `<issuer's host>-<registry as typed>`. A helper is any program that
answers `HELPER show ID` with the token on standard output and takes `HELPER insert ID` with the token on standard
input; it keeps the access token alone. The keyring (service `enarx`) is used where the `keyring` package is installed
and has a real one behind it. Else there is one file, 0600 in a folder of 0700, replaced as a whole. Which registry
belongs to which issuer is remembered beside it, so that a login has to be typed once.
"""

import json
import os
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

from enarx.errors import MalformedError, NotFoundError, UnavailableError, UntrustedError

SERVICE: Final = "enarx"
FILE_NAME: Final = "logins.json"
HELPER_SECONDS: Final = 120.0  # a helper may ask the user for a passphrase
MAX_TOKEN: Final = 64 * 1024  # characters; tokens that carry groups have a few thousand


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One login. `expires` is in seconds since 1970, where the issuer said."""

    access_token: str
    refresh_token: str | None = None
    expires: int | None = None

    def __repr__(self) -> str:
        return f"Credential(expires={self.expires})"


class Login(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a registry. `credential` is there only where the file keeps it."""

    issuer: str
    client_id: str
    helper: str | None = None
    keyring: bool = False
    credential: Credential | None = None

    def load(self, host: str) -> Credential | None:
        """The credential, from wherever it is. Raises UnavailableError, MalformedError."""
        if self.helper is not None:
            return Helper(command=self.helper).load(account_of(self.issuer, host))
        return Keyring().load(account_of(self.issuer, host)) if self.keyring else self.credential

    def kept(self, host: str, credential: Credential) -> "Login":
        """Give `credential` to the helper or the keyring, if there is one; what is left for the file to keep."""
        if self.helper is not None:
            Helper(command=self.helper).save(account_of(self.issuer, host), credential)
        elif self.keyring:
            Keyring().save(account_of(self.issuer, host), credential)
        else:
            return msgspec.structs.replace(self, credential=credential)
        return msgspec.structs.replace(self, credential=None)


def account_of(issuer: str, host: str) -> str:
    """The name of a credential: the issuer's host without port, and the registry as the user typed it."""
    url = issuer if "://" in issuer else f"https://{issuer}"
    try:
        name = urlsplit(url).hostname
    except ValueError:
        name = None
    if not name:
        raise MalformedError(f"issuer {issuer[:200]!r}: expected a URL such as https://login.example.com")
    return f"{name}-{host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """A program that keeps the access token."""

    command: str

    def load(self, account: str) -> Credential | None:
        """Raises UnavailableError when the helper fails, for then the user should know and not be anonymous."""
        try:
            token = self._call("show", account, b"").decode().strip()
        except UnicodeDecodeError:
            raise MalformedError(f"credential helper {self.command}: `show {account}` did not print text") from None
        return Credential(access_token=token) if token else None

    def save(self, account: str, credential: Credential) -> None:
        self._call("insert", account, credential.access_token.encode())

    def _call(self, verb: str, account: str, data: bytes) -> bytes:
        program = [self.command] if Path(self.command).is_file() else shlex.split(self.command)
        arguments = [*program, verb, account]
        try:
            done = subprocess.run(arguments, input=data, stdout=subprocess.PIPE, check=False, timeout=HELPER_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UnavailableError(f"credential helper {self.command}: {reason}") from None
        if done.returncode != 0:
            raise UnavailableError(
                f"credential helper {self.command}: `{verb} {account}` exited with {done.returncode}"
            )
        return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The system's keyring. What the originals put there is a bare token; what we put there is JSON."""

    @staticmethod
    def available() -> bool:
        """Whether the package is installed and has something behind it."""
        if find_spec("keyring") is None:
            return False
        import keyring  # type: ignore[import-not-found,unused-ignore]  # an optional extra
        from keyring.backends import fail, null  # type: ignore[import-not-found,unused-ignore]  # as above

        return not isinstance(keyring.get_keyring(), fail.Keyring | null.Keyring)

    def load(self, account: str) -> Credential | None:
        text = self._call("get_password", SERVICE, account)
        if not isinstance(text, str) or not text:
            return None
        return _credential(text) if text.startswith("{") else Credential(access_token=text.strip())

    def save(self, account: str, credential: Credential) -> None:
        self._call("set_password", SERVICE, account, msgspec.json.encode(credential).decode())

    def delete(self, account: str) -> None:
        self._call("delete_password", SERVICE, account)

    @staticmethod
    def _call(name: str, *arguments: str) -> object:
        try:
            import keyring
            from keyring.errors import (  # type: ignore[import-not-found,unused-ignore]  # an optional extra
                KeyringError,
            )
        except ImportError:
            raise UnavailableError(
                "system keyring: the login is kept there, and the `keyring` package is not installed any more"
            ) from None
        try:
            return getattr(keyring, name)(*arguments)
        except KeyringError as error:
            raise UnavailableError(f"system keyring: {type(error).__name__}; --credential-helper avoids it") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """The file of logins, as it was read. Changes are written at once."""

    path: Path
    known: Mapping[str, Login] = field(default_factory=dict, repr=False)

    @classmethod
    def default_path(cls) -> Path:
        from platformdirs import user_state_path

        return user_state_path("enarx") / FILE_NAME

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UntrustedError when others than the owner can read the file, MalformedError when it is damaged."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read()
        except FileNotFoundError:
            return cls(path=path)
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}") from error
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise UntrustedError(f"{path}: expected a file of yours with mode 0600, for it holds tokens; chmod 600 it")
        try:
            return cls(path=path, known=msgspec.json.decode(data, type=dict[str, Login]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedError(f"{path}: not a file of logins; remove it and log in again") from None

    def find(self, host: str) -> Login | None:
        return self.known.get(host)

    def with_login(self, host: str, login: Login) -> Self:
        """Remember it, on disk, too."""
        return self._written({**self.known, host: login})

    def without(self, host: str) -> Self:
        return self._written({name: login for name, login in self.known.items() if name != host})

    def _written(self, known: Mapping[str, Login]) -> Self:
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=folder)  # 0600 from the start
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(json.dumps(msgspec.to_builtins(known), indent=2, sort_keys=True).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)  # noqa: PTH105 - what mkstemp gave is a string
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)  # noqa: PTH108 - as above
                raise
        except OSError as error:
            raise UnavailableError(f"{self.path}: {error.strerror}") from error
        return type(self)(path=self.path, known=known)


def _credential(text: str) -> Credential:
    try:
        return msgspec.json.decode(text, type=Credential)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedError("system keyring: the entry is damaged; log in again") from None
