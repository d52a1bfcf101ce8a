"""The embedded issuer for laptops: Drawbridge as its own OpenID provider, on loopback, for whoever may read its key.

It says who a person is by the only thing that a laptop knows: the operating system's user. So

  * a request that comes from a process of the user who runs the server is approved at once (`same_user` asks the
    kernel whose the other end of the connection is; what the kernel does not know is not approved);
  * any other waits until the code it shows is approved with `drawbridge dev approve CODE`, which writes into the
    state directory, where nobody else may write.

Tokens are JWT with an Ed25519 key (mode 0600) and take the same way through `enarx.drawbridge.auth.oidc` as those of
any issuer. Names are whatever is asked for: this proves nothing to anybody but the person at the keyboard, and the
server refuses to run it where others could reach it.
"""

import re
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from enarx.drawbridge.auth.keyset import KeySource
from enarx.drawbridge.auth.oidc import JwtIssuer, Rules
from enarx.errors import MalformedError, NotFoundError
from enarx.web.files import read_private, write_private

NAME: Final = "development"  # what records call this issuer, whatever port it is on
PATH: Final = "/_issuer"  # beneath the origin of the server
DEFAULT_USER: Final = "developer"
SCOPES: Final = (
    "manage:drawbridge_users",
    "manage:drawbridge_repositories",
    "manage:drawbridge_tags",
    "read:drawbridge_users",
    "read:drawbridge_repositories",
    "read:drawbridge_tags",
    "write:drawbridge_users",
    "write:drawbridge_repositories",
    "write:drawbridge_tags",
)
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

TOKEN_LIFETIME: Final = timedelta(hours=8)
CODE_LIFETIME: Final = timedelta(minutes=10)
INTERVAL: Final = 1  # seconds between two questions of a waiting client
MAX_WAITING: Final = 100  # codes
ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628, 6.1: no vowels, nothing that looks like another

_USER: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@-]{0,99}")
_ESTABLISHED: Final = "01"


class OAuthError(MalformedError):
    """A refusal in the words of RFC 6749, 5.2 and RFC 8628, 3.5."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(description or code)
        self.code = code


@dataclass(slots=True)
class _Waiting:
    """A device that shows a code."""

    user_code: str
    scopes: tuple[str, ...]
    expires: datetime
    user: str | None


@dataclass(slots=True)
class DevelopmentIssuer:
    """`origin` is that of the server, `audience` what its tokens are for, `directory` where approvals are left."""

    origin: str
    audience: str
    key: OKPKey
    directory: Path
    default_user: str = DEFAULT_USER
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def url(self) -> str:
        return self.origin + PATH

    def authenticator(self) -> JwtIssuer:
        """What verifies the tokens: the rules of any issuer, with the key at hand."""
        rules = Rules(name=NAME, url=self.url, audience=self.audience, algorithms=("Ed25519",), typ="at+jwt")
        return JwtIssuer(rules, KeySource(lambda: self.keys()["keys"]))

    def discovery(self) -> Mapping[str, object]:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "authorization_endpoint": f"{self.url}/approve",
            "grant_types_supported": [DEVICE_GRANT, "client_credentials"],
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["Ed25519"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "scopes_supported": ["openid", "profile", *SCOPES],
        }

    def keys(self) -> Mapping[str, object]:
        public = {**self.key.as_dict(private=False), "kid": self.key.thumbprint(), "use": "sig", "alg": "Ed25519"}
        return {"keys": [public]}

    def device(self, form: Mapping[str, str], at: datetime, *, same_user: bool) -> Mapping[str, object]:
        """A device asks (RFC 8628, 3.1). `same_user`: it runs as the user who runs the server."""
        scopes = _scopes(form)
        code = "".join(secrets.choice(ALPHABET) for _ in range(8))
        user_code, device_code = f"{code[:4]}-{code[4:]}", secrets.token_urlsafe(32)
        with self._lock:
            self._forget(at)
            if len(self._waiting) >= MAX_WAITING:
                raise OAuthError("slow_down", "too many codes are waiting")
            user = self.default_user if same_user else None
            self._waiting[device_code] = _Waiting(user_code, scopes, at + CODE_LIFETIME, user)
        return {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": f"{self.url}/approve",
            "expires_in": int(CODE_LIFETIME.total_seconds()),
            "interval": INTERVAL,
        }

    def token(self, form: Mapping[str, str], at: datetime, *, same_user: bool) -> Mapping[str, object]:
        """The token endpoint: device codes, and client credentials of the user who runs the server."""
        grant = form.get("grant_type")
        if grant == DEVICE_GRANT:
            user, scopes = self._redeem(form.get("device_code", ""), at)
        elif grant == "client_credentials":
            if not same_user:
                raise OAuthError("unauthorized_client", "only processes of the user who runs this server")
            user, scopes = require_user(form.get("client_id", "")), _scopes(form)
        else:
            raise OAuthError("unsupported_grant_type")
        return {
            "access_token": self.mint(user, at, scopes),
            "token_type": "Bearer",
            "expires_in": int(TOKEN_LIFETIME.total_seconds()),
            "scope": " ".join(scopes),
        }

    def mint(self, user: str, at: datetime, scopes: tuple[str, ...] = SCOPES) -> str:
        """A token for `user`: whoever holds the key may."""
        claims = {
            "iss": self.url,
            "sub": f"{NAME}|{require_user(user)}",
            "aud": self.audience,
            "scope": " ".join(scopes),
            "client_id": "enarx",
            "iat": int(at.timestamp()),
            "exp": int((at + TOKEN_LIFETIME).timestamp()),
            "jti": secrets.token_urlsafe(12),
        }
        header = {"alg": "Ed25519", "typ": "at+jwt", "kid": self.key.thumbprint()}
        return jwt.encode(header, claims, self.key, algorithms=["Ed25519"])

    def _redeem(self, device_code: str, at: datetime) -> tuple[str, tuple[str, ...]]:
        with self._lock:
            self._forget(at)
            found = self._waiting.get(device_code)
            if found is None:
                raise OAuthError("expired_token", "the code is not known, or not any more")
            user = found.user or _approved(self.directory, found.user_code)
            if user is None:
                raise OAuthError("authorization_pending")
            del self._waiting[device_code]
            return user, found.scopes

    def _forget(self, at: datetime) -> None:
        for code in [code for code, waiting in self._waiting.items() if waiting.expires <= at]:
            del self._waiting[code]


def load_key(directory: Path) -> OKPKey:
    """The signing key of a state directory, made there once. Raises MalformedError, NotFoundError."""
    path = directory / "issuer.key"
    if not path.exists():
        private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, private)
    try:
        return OKPKey.import_key(read_private(path))
    except (JoseError, ValueError, TypeError) as error:
        raise MalformedError(f"{path}: not an Ed25519 key in PEM") from error


def approve(directory: Path, user_code: str, user: str) -> None:
    """Approve a waiting code as `user`, by leaving a file that only the owner of the directory can leave."""
    code = user_code.strip().upper()
    if not re.fullmatch(rf"[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}", code):
        raise MalformedError(f"code: expected four letters, a hyphen and four letters, found {user_code[:20]!r}")
    folder = directory / "approvals"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / code).unlink(missing_ok=True)
    except OSError as error:
        raise NotFoundError(f"{folder}: {error.strerror}") from error
    write_private(folder / code, require_user(user).encode())


def require_user(user: str) -> str:
    """Raises MalformedError for what is no plain name."""
    if not _USER.fullmatch(user):
        raise MalformedError(f"user: expected letters, digits and . _ @ -, found {user[:80]!r}")
    return user


def same_user(client: tuple[str, int] | None, server_port: int | None, uid: int) -> bool:
    """Whether the process at the other end of a loopback connection runs as `uid`, by the kernel's word.

    False when the kernel does not know of it, as for one that comes from another network name space.
    """
    if client is None or server_port is None:
        return False
    wanted = {f"{address}:{client[1]:04X}" for address in _kernel_forms(client[0])}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            local, remote, state, owner = (line.split()[index] for index in (1, 2, 3, 7))
            if local in wanted and remote.endswith(f":{server_port:04X}") and state == _ESTABLISHED:
                return owner == str(uid)
    return False


def _kernel_forms(address: str) -> list[str]:
    """An address as the kernel's tables write it: words of four bytes in the byte order of the machine."""
    try:
        if ":" in address:
            packed = socket.inet_pton(socket.AF_INET6, address)
            return ["".join(f"{word:08X}" for word in struct.unpack("=4I", packed))]
        packed = socket.inet_pton(socket.AF_INET, address)
    except OSError:
        return []
    (word,) = struct.unpack("=I", packed)
    mapped = struct.unpack("=4I", bytes(10) + b"\xff\xff" + packed)
    return [f"{word:08X}", "".join(f"{each:08X}" for each in mapped)]


def _approved(directory: Path, user_code: str) -> str | None:
    path = directory / "approvals" / user_code
    try:
        user = read_private(path).decode()
    except (NotFoundError, UnicodeDecodeError):
        return None
    path.unlink(missing_ok=True)
    return require_user(user)


def _scopes(form: Mapping[str, str]) -> tuple[str, ...]:
    """What was asked for and we know; all of it when nothing was."""
    asked = form.get("scope", "").split()
    return tuple(scope for scope in SCOPES if scope in asked) if asked else SCOPES
