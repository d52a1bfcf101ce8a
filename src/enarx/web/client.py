"""Strict HTTP for programs: https only, limits on everything, errors translated once.

Plain http is allowed to loopback alone. Redirects are not followed, proxies and credentials of the
environment are not looked at, compressed answers are not asked for. What a server refuses comes back
as the family of error it meant, with its sentence; a server that can not be reached is unavailable, one
that is not the one we trust (or does not trust us) is untrusted. A token goes to this origin only, and
into no message of ours.
"""

import re
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import httpx2

from enarx.errors import EnarxError, MalformedError, UnavailableError, UntrustedError
from enarx.web.place import is_loopback
from enarx.web.problems import error_of
from enarx.web.tls import ClientIdentity, alert_text, client_context

MAX_BODY: Final = 8 * 1024 * 1024  # bytes of an answer that is read into memory
MAX_PROBLEM: Final = 64 * 1024  # bytes of a refusal
DEADLINE: Final = 120.0  # seconds for a whole answer that is read into memory, however it trickles
CHUNK: Final = 256 * 1024  # bytes; smaller pieces cost more in calls than they save in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer in memory. Header names are in lower case; several lines of one name are joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedResponse:
    """An answer whose body comes as it is read. `read` gives it once."""

    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes]] = field(repr=False)


class Client:
    """One origin and how we speak to it. Close it, or use it in a `with`.

    `ca_pem` are the CAs trusted for the server (None: the system's); `identity` is our certificate and key; `token`
    is sent as a bearer token; `timeout` in seconds bounds a connect and every single wait.
    """

    def __init__(
        self,
        base_url: str,
        *,
        ca_pem: bytes | None = None,
        identity: ClientIdentity | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        user_agent: str = "enarx",
    ) -> None:
        self.base_url = _require_origin(base_url)
        self._token = None if token is None else _require_token(token)
        secure = self.base_url.startswith("https:")
        context = client_context(ca_pem, identity) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http = httpx2.Client(
            base_url=self.base_url,
            verify=context,
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity", "User-Agent": user_agent},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return self._http.base_url.netloc.decode("ascii")

    @property
    def anonymous(self) -> bool:
        """Whether we come without a token."""
        return self._token is None

    def get(self, path: str, **options: object) -> Response:
        return self.request("GET", path, **options)  # type: ignore[arg-type]  # the options are those of `request`

    def head(self, path: str, **options: object) -> Response:
        return self.request("HEAD", path, **options)  # type: ignore[arg-type]  # as above

    def put(self, path: str, body: bytes, **options: object) -> Response:
        return self.request("PUT", path, body, **options)  # type: ignore[arg-type]  # as above

    def post(self, path: str, body: bytes, **options: object) -> Response:
        return self.request("POST", path, body, **options)  # type: ignore[arg-type]  # as above

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        allow: Collection[int] = (),
        limit: int = MAX_BODY,
        deadline: float = DEADLINE,
    ) -> Response:
        """Send, and read the whole answer. A status from 300 on raises its error unless it is in `allow`.

        Raises MalformedError when the answer is longer than `limit` bytes.
        """
        with self._exchange(method, path, body, headers, allow) as answer:
            data = _read(answer, limit, deadline, self.host)
            return Response(status=answer.status_code, headers=_headers(answer), body=data)

    @contextmanager
    def stream_get(
        self, path: str, *, headers: Mapping[str, str] | None = None, allow: Collection[int] = ()
    ) -> Iterator[StreamedResponse]:
        """GET, with the body as it comes. Errors while reading are translated, too."""
        with self._exchange("GET", path, None, headers, allow) as answer:
            yield StreamedResponse(
                status=answer.status_code, headers=_headers(answer), chunks=lambda: answer.iter_raw(CHUNK)
            )

    def put_stream(
        self,
        path: str,
        chunks: Iterable[bytes],
        *,
        length: int,
        headers: Mapping[str, str] | None = None,
        allow: Collection[int] = (),
    ) -> Response:
        """PUT a body of `length` bytes as it is produced."""
        declared = {**(headers or {}), "Content-Length": str(length)}
        with self._exchange("PUT", path, iter(chunks), declared, allow) as answer:
            data = _read(answer, MAX_PROBLEM, DEADLINE, self.host)
            return Response(status=answer.status_code, headers=_headers(answer), body=data)

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        content: bytes | Iterator[bytes] | None,
        headers: Mapping[str, str] | None,
        allow: Collection[int],
    ) -> Iterator[httpx2.Response]:
        named = dict(headers or {})
        if self._token is not None:
            named["Authorization"] = f"Bearer {self._token}"
        with (
            _translated(self.host),
            self._http.stream(method, _require_path(path), content=content, headers=named) as answer,
        ):
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise MalformedError(f"{self.host}: the answer is compressed, which was not asked for")
            if answer.status_code >= 300 and answer.status_code not in allow:
                raise self._refusal(answer)
            yield answer

    def _refusal(self, answer: httpx2.Response) -> EnarxError:
        if answer.is_redirect:
            return MalformedError(f"{self.host}: answered with a redirect, which is not followed")
        body = _read(answer, MAX_PROBLEM, DEADLINE, self.host)
        return error_of(answer.status_code, answer.headers.get("content-type", ""), body, who=self.host)


def _read(answer: httpx2.Response, limit: int, deadline: float, host: str) -> bytes:
    """The whole body. A declared length is checked before a byte is read; the time is bounded as a whole."""
    declared = answer.headers.get("content-length", "")
    if answer.request.method != "HEAD" and declared.isdigit() and int(declared) > limit:
        raise MalformedError(f"{host}: expected at most {limit} bytes, the answer has {declared}")
    end = time.monotonic() + deadline
    found = bytearray()
    for chunk in answer.iter_raw(CHUNK):
        found += chunk
        if len(found) > limit:
            raise MalformedError(f"{host}: expected at most {limit} bytes, the answer has more")
        if time.monotonic() > end:
            raise UnavailableError(f"{host}: the answer took more than {deadline:g} seconds")
    return bytes(found)


def _headers(answer: httpx2.Response) -> Mapping[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def _require_origin(url: str) -> str:
    """The URL without a trailing slash. Raises MalformedError unless it is https, or http to loopback."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise MalformedError(f"URL {url[:200]!r}: {error}") from error
    if parsed.userinfo:
        raise MalformedError("URL: expected no user name or password in it")
    if not parsed.host or parsed.query or parsed.fragment:
        raise MalformedError(f"URL {url[:200]!r}: expected a scheme, a host and perhaps a path")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed.host)):
        raise MalformedError(f"URL {url[:200]!r}: expected https (plain http is for loopback alone)")
    return url.rstrip("/")


def _require_path(path: str) -> str:
    if not path.startswith("/") or path.startswith("//"):
        raise MalformedError(f"path {path[:200]!r}: expected one that begins with a single slash")
    return path


def _require_token(token: str) -> str:
    """A token that a header can carry; one that can not would be quoted by the error of the transport."""
    if not token or not all("!" <= character <= "~" for character in token):
        raise MalformedError("token: expected visible ASCII characters without spaces")
    return token


_DATES: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """Errors of the transport as errors of ours. The one place where they are known."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise UnavailableError(f"{host}: no answer in time ({type(error).__name__})") from error
    except httpx2.TransportError as error:
        if (refused := _verification(error)) is not None:
            raise UntrustedError(f"{host}: the server's certificate: {refused}") from error
        if (alert := alert_text(error)) is not None:
            raise UntrustedError(f"{host}: the server refused our certificate: {alert}") from error
        said = re.sub(r"^\[Errno -?[0-9]+\] ", "", str(error))  # a number says nothing to who reads it
        raise UnavailableError(f"{host}: {said or type(error).__name__}") from error
    except (httpx2.InvalidURL, httpx2.DecodingError) as error:
        raise MalformedError(f"{host}: {error}") from error


def _verification(error: BaseException | None) -> str | None:
    """What was wrong with the server's certificate, if that is what is beneath `error`."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _DATES:  # or it is our clock that is wrong, as in a machine whose host holds it
                return f"{error.verify_message}, as this machine's clock says {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None
