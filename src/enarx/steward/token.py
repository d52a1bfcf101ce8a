"""The CA key in a security module, named by a PKCS#11 URI (RFC 7512) and used through the module's own library.

    pkcs11:token=steward;object=ca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/secrets/pin

`token` and `object` (labels) or `id` (percent-encoded bytes) say which key. The PIN is in the file `pin-source`, which
not everybody may read, or in STEWARD_PKCS11_PIN; never in the URI, which stands in configurations and process lists.
The key signs and does nothing else: it cannot be exported, so a nonce key cannot be derived from it and has to be
configured. A process that was forked opens the library anew. Needs the extra `pkcs11` (python-pkcs11).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import parse_qs, unquote, unquote_to_bytes

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from enarx.errors import MalformedError, NotFoundError, UnavailableError
from enarx.pki import keys
from enarx.web.files import read_private

SCHEME: Final = "pkcs11:"
PIN: Final = "STEWARD_PKCS11_PIN"

_PATH: Final = frozenset({"token", "object", "id", "type", "manufacturer", "model", "serial"})
_QUERY: Final = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUri:
    """Which key of which token, and whose library reaches it."""

    module: str
    token: str
    label: str | None
    key_id: bytes | None
    pin_source: Path | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises MalformedError. The text is never quoted whole: somebody may have put a PIN into it."""
        what = "PKCS#11 URI"
        path, _, query = text.removeprefix(SCHEME).partition("?")
        parts = dict(part.partition("=")[::2] for part in path.split(";") if part)
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        if "pin-value" in options or "pin-value" in parts:
            raise MalformedError(f"{what}: pin-value would show the PIN to everybody; use pin-source or {PIN}")
        unknown = (set(parts) - _PATH) | (set(options) - _QUERY)
        if unknown:
            raise MalformedError(f"{what}: {min(unknown)[:40]!r} is not understood")
        if "module-path" not in options or "token" not in parts or not {"object", "id"} & set(parts):
            raise MalformedError(f"{what}: expected token=, object= or id=, and ?module-path=")
        source = options.get("pin-source")
        return cls(
            module=options["module-path"],
            token=unquote(parts["token"]),
            label=unquote(parts["object"]) if "object" in parts else None,
            key_id=unquote_to_bytes(parts["id"]) if "id" in parts else None,
            pin_source=None if source is None else Path(source.removeprefix("file://").removeprefix("file:")),
        )

    def describe(self) -> str:
        name = self.label or (self.key_id or b"").hex()
        return f"key {name} of token {self.token}"


@dataclass(slots=True)
class _Session:
    """One login of one process."""

    process: int
    private: Any  # python-pkcs11 types its keys by mixing classes at run time
    public: Any = field(default=None)


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key that `cryptography` can sign with, and that never leaves its module."""

    def __init__(self, uri: TokenUri, pin: str, public: ec.EllipticCurvePublicKey | None = None) -> None:
        """Raises NotFoundError, UnavailableError, MalformedError. Without `public`, the token has to hold it."""
        self._uri = uri
        self._pin = pin
        self._session: _Session | None = None
        self._public = public or self._read_public()

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # Any: as the base
        """ECDSA over the hash, which is computed here; the module signs it."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.SHA256 | hashes.SHA384):
            raise TypeError(f"expected SHA-256 or SHA-384, found {type(algorithm).__name__}")
        hasher = hashes.Hash(algorithm)
        hasher.update(data)
        digest = hasher.finalize()
        raw = self._reach(lambda pkcs11: self._open().private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        r, s = (int.from_bytes(half, "big") for half in (raw[: len(raw) // 2], raw[len(raw) // 2 :]))
        return utils.encode_dss_signature(r, s)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        del algorithm, peer_public_key
        raise MalformedError(f"{self._uri.describe()}: signs and does nothing else")

    def private_numbers(self) -> NoReturn:
        raise MalformedError(f"{self._uri.describe()}: cannot be exported")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - the base's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        del encoding, format, encryption_algorithm
        raise MalformedError(f"{self._uri.describe()}: cannot be exported")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: object) -> "TokenKey":
        return self

    def _read_public(self) -> ec.EllipticCurvePublicKey:
        from pkcs11.util.ec import encode_ec_public_key  # noqa: PLC0415 - an optional dependency

        public = self._open().public
        if public is None:
            raise NotFoundError(f"{self._uri.describe()}: the token does not hold the public key")
        return keys.public_from_spki(self._reach(lambda _: encode_ec_public_key(public)), self._uri.describe())

    def _open(self) -> _Session:
        if self._session is None or self._session.process != os.getpid():
            self._session = self._reach(self._login)
        return self._session

    def _login(self, pkcs11: Any) -> _Session:  # Any: the module, which may not be installed
        library = pkcs11.lib(self._uri.module)
        if self._session is not None:
            library.reinitialize()  # what a fork leaves behind is not defined
        token = library.get_token(token_label=self._uri.token)
        try:
            session = token.open(user_pin=self._pin)
        except pkcs11.UserAlreadyLoggedIn:  # a login is the whole process's, and another key of the token has made it
            session = token.open()
        which = {"label": self._uri.label, "id": self._uri.key_id}
        wanted = {name: value for name, value in which.items() if value is not None}
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **wanted)
        try:
            public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **wanted)
        except pkcs11.NoSuchKey:
            public = None
        return _Session(process=os.getpid(), private=private, public=public)

    def _reach(self, work: Callable[[Any], Any]) -> Any:  # Any: whatever the library gives
        """Do something with the library, its errors translated. No error of it carries the PIN."""
        try:
            import pkcs11  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise NotFoundError("a PKCS#11 key needs python-pkcs11: install enarx[pkcs11]") from error
        where = self._uri.describe()
        try:
            return work(pkcs11)
        except (pkcs11.NoSuchKey, pkcs11.NoSuchToken, pkcs11.MultipleObjectsReturned) as error:
            raise NotFoundError(f"{where}: {type(error).__name__}") from error
        except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
            raise UnavailableError(f"{where}: {self._uri.module}: {type(error).__name__}") from error


def open_key(text: str, public: ec.EllipticCurvePublicKey | None = None) -> TokenKey:
    """The key that a URI names. Raises MalformedError, NotFoundError, UnavailableError."""
    uri = TokenUri.parse(text)
    if uri.pin_source is not None:
        pin = read_private(uri.pin_source).decode(errors="replace").rstrip("\r\n")
    else:
        pin = os.environ.get(PIN, "")
    if not pin:
        raise NotFoundError(f"{uri.describe()}: no PIN: name a file with pin-source, or set {PIN}")
    return TokenKey(uri, pin, public)
