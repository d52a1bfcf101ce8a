"""Documents of the issuers and Stewards we trust, over strict HTTP: one client an origin, one error for all failures.

What an issuer or a Steward can not say now makes us unavailable to whoever needs it, and nothing else: no answer of
theirs is ever taken for a refusal of the user, except the status codes that a caller names.
"""

import json
from collections.abc import Collection, Mapping
from threading import Lock
from typing import Final, Protocol
from urllib.parse import urlsplit

from enarx.errors import EnarxError, UnavailableError
from enarx.web.client import Client, Response

TIMEOUT: Final = 10.0  # seconds for a connect, and for every wait
DEADLINE: Final = 20.0  # seconds for a whole answer
MAX_ANSWER: Final = 1024 * 1024  # bytes; key sets and discovery documents have a few thousand


class Fetch(Protocol):
    """How `auth` reaches the world; tests pass their own."""

    def __call__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = ...,
        form: bytes | None = ...,
        allow: Collection[int] = ...,
        limit: int = ...,
    ) -> Response: ...


class Fetcher:
    """GET, or POST where a form is given. Raises UnavailableError for everything that is no answer."""

    def __init__(self, ca_pem: bytes | None = None) -> None:
        self._ca_pem = ca_pem
        self._clients: dict[str, Client] = {}
        self._lock = Lock()

    def __call__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = {},
        form: bytes | None = None,
        allow: Collection[int] = (),
        limit: int = MAX_ANSWER,
    ) -> Response:
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kind = {} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            return self._client(f"{parts.scheme}://{parts.netloc}").request(
                "GET" if form is None else "POST",
                path,
                form,
                headers={"Accept": "application/json", **kind, **headers},
                allow=allow,
                limit=limit,
                deadline=DEADLINE,
            )
        except EnarxError as error:
            raise UnavailableError(f"{parts.netloc} did not answer as it should: {error}") from error

    def _client(self, origin: str) -> Client:
        with self._lock:
            if origin not in self._clients:
                self._clients[origin] = Client(origin, ca_pem=self._ca_pem, timeout=TIMEOUT, user_agent="drawbridge")
            return self._clients[origin]


def members(answer: Response, what: str) -> dict[str, object]:
    """The JSON object in an answer. Raises UnavailableError: an issuer that talks nonsense is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise UnavailableError(f"{what}: expected a JSON object") from error
    if not isinstance(found, dict):
        raise UnavailableError(f"{what}: expected a JSON object")
    return found
