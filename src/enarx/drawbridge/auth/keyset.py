"""The keys of an issuer: fetched when needed, kept for minutes, fetched again when a token names one we do not know.

Rotation works without a restart: an unknown key id asks the issuer anew, at once, but at most `BURST` times in
`RETRY` seconds whoever sends what. A key that was taken back is forgotten after `FRESH` seconds. When the issuer does not answer, what is
known still counts for `STALE` seconds, and then nothing does. Symmetric keys, keys for encryption, RSA keys that
are too short and types we do not know are passed over: a set may hold others' keys.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from enarx.errors import UnavailableError

Key = ECKey | OKPKey | RSAKey

FRESH: Final = 300.0  # seconds
STALE: Final = 3600.0  # seconds
RETRY: Final = 30.0  # seconds
BURST: Final = 3  # the first fetch, a rotation right after it, and one more for whoever sends rubbish in between
MAX_KEYS: Final = 64
MIN_MODULUS: Final = 342  # characters of base64url: an RSA modulus of 2048 bits

_KINDS: Final[Mapping[str, type[Key]]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}


class KeySource:
    """`load` fetches the members of `keys`; it may raise UnavailableError."""

    def __init__(self, load: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._clock = clock
        self._lock = Lock()
        self._keys: tuple[Key, ...] = ()
        self._loaded: float | None = None
        self._tries: deque[float] = deque(maxlen=BURST)

    def find(self, kid: str | None) -> Sequence[Key]:
        """The keys a token may mean: those of that id, or the only key of the set when it names none."""
        with self._lock:
            now = self._clock()
            if self._loaded is None or now - self._loaded > FRESH:
                self._refresh(now)
            found = self._matching(kid)
            if not found and kid is not None and self._may_try(now):
                self._refresh(now)
                found = self._matching(kid)
            return found

    def holds(self, key: Key) -> bool:
        """Whether this very key still counts, told at once: nothing is fetched, and nobody waited for."""
        loaded = self._loaded  # looked at first: keys are put down before the time that goes with them
        return loaded is not None and self._clock() - loaded <= FRESH and any(key is known for known in self._keys)

    def _matching(self, kid: str | None) -> Sequence[Key]:
        if kid is None:
            return self._keys if len(self._keys) == 1 else ()
        return tuple(key for key in self._keys if key.kid == kid)

    def _may_try(self, now: float) -> bool:
        return len(self._tries) < BURST or now - self._tries[0] > RETRY

    def _refresh(self, now: float) -> None:
        known = self._loaded is not None and now - self._loaded <= STALE
        if known and not self._may_try(now):
            return
        self._tries.append(now)
        try:
            keys = read_keys(self._load())
        except UnavailableError:
            if not known:
                self._keys, self._loaded = (), None
                raise
            return
        self._keys, self._loaded = keys, now


def read_keys(listed: object) -> tuple[Key, ...]:
    """The keys of a JWKS that can verify. Raises UnavailableError when it is no list, or none is left."""
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise UnavailableError(f"key set: expected a list of at most {MAX_KEYS} keys")
    keys = tuple(key for item in listed if (key := _read(item)) is not None)
    if not keys:
        raise UnavailableError("key set: no key in it can verify a token")
    return keys


def _read(item: object) -> Key | None:
    if not isinstance(item, dict) or item.get("use", "sig") != "sig":
        return None
    kind = _KINDS.get(str(item.get("kty")))
    public = {name: value for name, value in item.items() if name not in {"d", "p", "q", "dp", "dq", "qi", "oth"}}
    if kind is None or (kind is RSAKey and len(str(item.get("n"))) < MIN_MODULUS):
        return None
    try:
        return kind.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
