"""Log in at an OpenID Connect issuer: discovery, device flow, client credentials, refresh, userinfo.

    issuer = Issuer.discover("https://login.example.com", ca_pem=None)
    grant = device_login(issuer, application, show=…, clock=time.monotonic, sleep=time.sleep)

Every path and host comes from the issuer's own discovery document (OpenID Connect Discovery 1.0), whose `issuer`
must be the one that was asked; no provider is built in. The device flow is RFC 8628: the interval is the server's,
`slow_down` adds five seconds, a connection that fails doubles it, and the end of the code is the end. Tokens are given
back, never printed or logged, and sent to nobody but the endpoints of the document they belong to.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from enarx.errors import DeniedError, EnarxError, MalformedError, UnavailableError, UntrustedError
from enarx.web.client import Client, Response

SCOPES: Final = (
    "manage:drawbridge_repositories",
    "manage:drawbridge_tags",
    "manage:drawbridge_users",
)
IDENTITY_SCOPES: Final = ("openid", "profile")  # what userinfo needs; a machine has neither
OFFLINE_SCOPE: Final = "offline_access"  # asked for where the issuer says that it gives refresh tokens for it

DISCOVERY: Final = "/.well-known/openid-configuration"
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

MAX_ANSWER: Final = 256 * 1024  # bytes; discovery documents have a few thousand
DEFAULT_INTERVAL: Final = 5  # seconds (RFC 8628, 3.2)
SLOWER: Final = 5  # seconds that each `slow_down` adds (RFC 8628, 3.5)
MAX_INTERVAL: Final = 60
MAX_CODE_LIFETIME: Final = 3600  # seconds; nobody types a code an hour later

T = TypeVar("T")
SecretIn = Literal["form", "header"]


class _Document(msgspec.Struct, frozen=True):
    """What is used of a discovery document."""

    issuer: str
    token_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: list[str] = []
    token_endpoint_auth_methods_supported: list[str] = []


class _Device(msgspec.Struct, frozen=True):
    device_code: str
    user_code: str
    verification_uri: str
    expires_in: int
    verification_uri_complete: str | None = None
    interval: int = DEFAULT_INTERVAL


class _Tokens(msgspec.Struct, frozen=True):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a type, not a token
    expires_in: int | None = None
    refresh_token: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: str = ""
    error_description: str = ""


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    sub: str


class _Subject(msgspec.Struct, frozen=True):
    sub: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Who asks: the client id that the issuer knows this program by, and for which registry."""

    client_id: str
    audience: str
    secret: str | None = field(default=None, repr=False)
    secret_in: SecretIn = "form"  # noqa: S105 - a place, not a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a login gave. `expires_in` counts from now; None where the issuer did not say."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What the user has to do: open `uri` in any browser and type `user_code`; `complete` has the code in it."""

    uri: str
    user_code: str
    complete: str | None
    expires_in: int
    interval: int
    device_code: str = field(repr=False)


class UserinfoError(UntrustedError):
    """The issuer does not know this token; the command line tells it in the originals' words."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{url}: status code {status}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer as it describes itself."""

    issuer: str
    token_endpoint: str | None
    device_endpoint: str | None
    userinfo_endpoint: str | None
    revocation_endpoint: str | None
    scopes: frozenset[str]
    secret_in: tuple[SecretIn, ...]
    ca_pem: bytes | None = field(default=None, repr=False)

    @classmethod
    def discover(cls, domain: str, *, ca_pem: bytes | None = None) -> Self:
        """Read the issuer's document. `domain` is its URL, or a host name that means https.

        Raises UnavailableError, MalformedError; UntrustedError when the document is another issuer's.
        """
        url = domain if "://" in domain else f"https://{domain}"
        url = url.rstrip("/")
        document = _decode(_call(url + DISCOVERY, ca_pem=ca_pem, refuse=True), _Document, url + DISCOVERY)
        if document.issuer.rstrip("/") != url:
            raise UntrustedError(f"{url}{DISCOVERY}: expected issuer {url}, found {document.issuer[:200]!r}")
        return cls(
            issuer=document.issuer,
            token_endpoint=document.token_endpoint,
            device_endpoint=document.device_authorization_endpoint,
            userinfo_endpoint=document.userinfo_endpoint,
            revocation_endpoint=document.revocation_endpoint,
            scopes=frozenset(document.scopes_supported),
            secret_in=_secret_in(document.token_endpoint_auth_methods_supported),
            ca_pem=ca_pem,
        )

    def endpoint(self, url: str | None, name: str) -> str:
        """Raises MalformedError when the issuer does not have it."""
        if url is None:
            raise MalformedError(f"{self.issuer}: its discovery document names no {name}")
        return url

    def subject(self, token: str) -> str:
        """The `sub` that the issuer knows the bearer of `token` by. Raises UserinfoError when it knows nobody.

        Where userinfo is not for such tokens (they are for the registry alone), a JWT of this issuer says it itself.
        That is only what we will claim: it is the registry that verifies the token, and compares.
        """
        own = _own_subject(token, self.issuer)
        if self.userinfo_endpoint is None and own is not None:
            return own
        url = self.endpoint(self.userinfo_endpoint, "userinfo_endpoint")
        answer = _call(url, ca_pem=self.ca_pem, token=token)
        if answer.status == 200:
            return _decode(answer, _Subject, url).sub
        if own is not None:
            return own
        raise UserinfoError(url, answer.status)


def device_login(
    issuer: Issuer,
    application: Application,
    *,
    show: Callable[[DeviceCode], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Grant:
    """Let the user approve on another device. `show` is called once with what to tell the user.

    Raises DeniedError when the user said no or did not answer in time.
    """
    code = _device_code(issuer, application)
    show(code)
    interval, end = float(code.interval), clock() + code.expires_in
    form = {"grant_type": DEVICE_GRANT, "device_code": code.device_code}
    while clock() + interval < end:
        sleep(interval)
        try:
            answer = _token(issuer, application, form)
        except UnavailableError:
            interval = min(interval * 2, MAX_INTERVAL)
            continue
        if answer.status == 200:
            return _grant(answer, issuer)
        failure = _failure(answer)
        if failure.error == "slow_down":
            interval = min(interval + SLOWER, MAX_INTERVAL)
        elif failure.error != "authorization_pending":
            raise _refusal(issuer, answer, failure)
    raise DeniedError(
        f"{issuer.issuer}: nobody approved code {_printable(code.user_code)} in {code.expires_in} seconds"
    )


def client_login(issuer: Issuer, application: Application) -> Grant:
    """Log a machine in by its client secret (RFC 6749, 4.4)."""
    form = {"grant_type": "client_credentials", "scope": " ".join(SCOPES), "audience": application.audience}
    *others, last = issuer.secret_in
    for place in others:
        answer = _token(issuer, replace(application, secret_in=place), form)
        if _failure(answer).error != "invalid_client":
            return _grant(_accepted(issuer, answer), issuer)
    return _grant(_accepted(issuer, _token(issuer, replace(application, secret_in=last), form)), issuer)


def refresh(issuer: Issuer, application: Application, refresh_token: str) -> Grant:
    """A new access token (RFC 6749, 6). Where the issuer does not rotate it, the refresh token stays."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    made = _grant(_accepted(issuer, _token(issuer, application, form)), issuer)
    kept = made.refresh_token or refresh_token
    return Grant(access_token=made.access_token, refresh_token=kept, expires_in=made.expires_in)


def revoke(issuer: Issuer, application: Application, token: str) -> bool:
    """Take a token back (RFC 7009). Answers whether the issuer can do that."""
    if issuer.revocation_endpoint is None:
        return False
    form, headers = _authenticated(issuer, application, {"token": token})
    return _call(issuer.revocation_endpoint, ca_pem=issuer.ca_pem, form=form, headers=headers).status == 200


def _device_code(issuer: Issuer, application: Application) -> DeviceCode:
    url = issuer.endpoint(issuer.device_endpoint, "device_authorization_endpoint")
    scopes = [*SCOPES, *IDENTITY_SCOPES]
    if OFFLINE_SCOPE in issuer.scopes:
        scopes.append(OFFLINE_SCOPE)
    form, headers = _authenticated(issuer, application, {"scope": " ".join(scopes), "audience": application.audience})
    answer = _accepted(issuer, _call(url, ca_pem=issuer.ca_pem, form=form, headers=headers))
    found = _decode(answer, _Device, url)
    return DeviceCode(
        uri=_printable(found.verification_uri),
        user_code=_printable(found.user_code),
        complete=_printable(found.verification_uri_complete) if found.verification_uri_complete else None,
        expires_in=min(max(found.expires_in, 1), MAX_CODE_LIFETIME),
        interval=min(max(found.interval, 1), MAX_INTERVAL),
        device_code=found.device_code,
    )


def _secret_in(methods: list[str]) -> tuple[SecretIn, ...]:
    """Where the issuer may look for a secret, the originals' way first. What it wants of one client it does not say."""
    known: dict[str, SecretIn] = {"client_secret_post": "form", "client_secret_basic": "header"}
    return tuple(place for method, place in known.items() if method in methods) or ("form", "header")


def _token(issuer: Issuer, application: Application, form: Mapping[str, str]) -> Response:
    url = issuer.endpoint(issuer.token_endpoint, "token_endpoint")
    named, headers = _authenticated(issuer, application, form)
    return _call(url, ca_pem=issuer.ca_pem, form=named, headers=headers)


def _authenticated(
    issuer: Issuer, application: Application, form: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The form and the headers that say who asks."""
    named = {"client_id": application.client_id, **form}
    if application.secret is None:
        return named, {}
    if application.secret_in != "header" and "form" in issuer.secret_in:  # noqa: S105 - a place, not a secret
        return {**named, "client_secret": application.secret}, {}
    pair = f"{quote(application.client_id, safe='')}:{quote(application.secret, safe='')}"
    return named, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _accepted(issuer: Issuer, answer: Response) -> Response:
    if answer.status != 200:
        raise _refusal(issuer, answer, _failure(answer))
    return answer


def _grant(answer: Response, issuer: Issuer) -> Grant:
    found = _decode(answer, _Tokens, issuer.issuer)
    if found.token_type.lower() != "bearer":
        raise MalformedError(f"{issuer.issuer}: expected a bearer token, found one of type {found.token_type[:40]!r}")
    return Grant(access_token=found.access_token, refresh_token=found.refresh_token, expires_in=found.expires_in)


def _own_subject(token: str, issuer: str) -> str | None:
    """What a JWT access token says of its subject, unverified; None for any other token, or one of another issuer."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    return claims.sub if claims.iss == issuer else None


def _failure(answer: Response) -> _Failure:
    try:
        return msgspec.json.decode(answer.body, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Failure()


def _refusal(issuer: Issuer, answer: Response, failure: _Failure) -> EnarxError:
    """What the issuer's error (RFC 6749, 5.2; RFC 8628, 3.5) means to us."""
    code, said = _printable(failure.error), _printable(failure.error_description)
    text = f"{issuer.issuer}: {said or code or f'answered {answer.status}'}" + (f" ({code})" if said and code else "")
    if failure.error in {"access_denied", "expired_token", "unauthorized_client"}:
        return DeniedError(text)
    if failure.error in {"invalid_client", "invalid_grant"} or answer.status == 401:
        return UntrustedError(text)
    return UnavailableError(text) if answer.status >= 500 else MalformedError(text)


def _call(
    url: str,
    *,
    ca_pem: bytes | None,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    refuse: bool = False,
) -> Response:
    """GET, or POST of a form, at any origin that the issuer named. Answers come back whatever their status."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MalformedError(f"URL {url[:200]!r}: {error}") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    allow = () if refuse else range(400, 500)
    with Client(f"{parts.scheme}://{parts.netloc}", ca_pem=ca_pem, token=token) as client:
        if form is None:
            return client.get(path, headers={"Accept": "application/json"}, allow=allow, limit=MAX_ANSWER)
        named = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            **(headers or {}),
        }
        return client.post(path, urlencode(form).encode(), headers=named, allow=allow, limit=MAX_ANSWER)


def _decode(answer: Response, form: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(answer.body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{where}: {error}") from error


def _printable(text: str) -> str:
    """A stranger's words, made safe for a terminal."""
    return "".join(character for character in text[:300] if character.isprintable())
