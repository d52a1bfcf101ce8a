"""One request to the registry: who makes it, and what it says. Nothing is answered here."""

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request

from enarx.attested.relying import Peer
from enarx.digest import Digests
from enarx.drawbridge import access, canonical, routes
from enarx.drawbridge.access import HiddenError, Leave, Person, Principal
from enarx.drawbridge.auth.development import DevelopmentIssuer
from enarx.drawbridge.auth.mtls import Keeps
from enarx.drawbridge.auth.oidc import Issuers
from enarx.drawbridge.governance import TOKEN_PREFIX, Governance
from enarx.drawbridge.limits import Buckets, address_identity
from enarx.drawbridge.metrics import Metrics, MetricsFor
from enarx.drawbridge.names import RepositoryName, TagName, UserName
from enarx.drawbridge.quotas import Quotas
from enarx.drawbridge.registry import JSON_TYPE, MAX_DOCUMENT, Registry
from enarx.drawbridge.routes import Target
from enarx.drawbridge.signing import SigningKey
from enarx.drawbridge.tree import Meta
from enarx.errors import ConflictError, EnarxError, MalformedError, NotFoundError
from enarx.web import app as web
from enarx.web.audit import AuditLog
from enarx.web.proxy import Network, client_address, forwarded_chain

_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")


class UnprocessableError(MalformedError):
    """JSON that is not the record it should be: 422."""


class OffsetError(ConflictError):
    """A part that does not begin where the last one ended."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"Upload: {offset} bytes have arrived, go on from there")
        self.offset = offset


class UnsupportedTypeError(MalformedError):
    """Not JSON by its media type: 415."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the routes need. `issuers`, `origin` and `development` are called, for they may only be known once we listen."""

    registry: Registry
    issuers: Callable[[], Issuers]
    origin: Callable[[], str]
    keeps: Keeps
    audit: AuditLog
    requests: Buckets
    uploads: Quotas
    upload_bytes: int
    proxies: Sequence[Network] = ()
    metrics: Metrics = field(default_factory=Metrics)
    metrics_for: MetricsFor = "loopback"
    steward: str | None = None
    leave: Leave = field(default_factory=Leave)
    development: Callable[[], DevelopmentIssuer] | None = None
    refusal_step: float = 0.0  # seconds, longer than it takes to find out that somebody may not
    near: bool = False  # what is stored is on a disk of this machine
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class Visit:
    """One request: what it names, and who makes it, found out when that is needed and not before."""

    def __init__(self, service: Service, request: Request, target: Target) -> None:
        self.service = service
        self.target = target
        self.method = request.method
        self.headers = request.headers
        self.query = request.query_params
        self.at = service.now()
        self.id = web.request_id(request)
        self.length = web.content_length(request.scope)
        client = client_of(request)
        self._address = address_of(request, client, service.proxies)
        shown: tuple[bytes, ...] = getattr(request.state, "peer_chain", ())
        self._chain = shown or forwarded_chain(request.scope["headers"], client, service.proxies)
        self._keep: Peer | None = None
        self._judged = False
        self._person: Person | None = None
        self._recalled: Person | None = None

    @property
    def keep(self) -> Peer | None:
        """The Keep whose certificate was shown. Raises what is wrong with it."""
        if not self._judged:
            self._keep = self.service.keeps.judge(self._chain, self.at)
            self._judged = True
        return self._keep

    @property
    def fingerprint(self) -> str | None:
        return None if self.keep is None else self.keep.certificate.sha256.hex()

    def person(self) -> Person | None:
        """Who an access token speaks for; None without one, or with a deploy token."""
        if self._person is None:
            token = self._bearer()
            if token is not None and not token.startswith(TOKEN_PREFIX):
                self._person = self._recalled or self.service.issuers().authenticate(token, self.at)
        return self._person

    def is_quick(self) -> bool:
        """Whether this is answered from a few small files on a disk of this machine, without asking anybody."""
        if (
            not self.service.near
            or self.target.kind not in {"tag", "tree"}
            or self.method not in {"GET", "HEAD"}
            or self._chain
        ):
            return False
        try:
            token = self._bearer()
            if token is None:
                return True
            self._recalled = self.service.issuers().recall(token, self.at)
        except EnarxError:
            return False  # told in its turn
        return self._recalled is not None

    def principal(self) -> Principal:
        """All that was proven. Raises TokenError, HiddenError, UntrustedError, UnavailableError."""
        token = self._bearer()
        if token is not None and token.startswith(TOKEN_PREFIX):
            user, repository = self.target.user, self.target.repository
            if user is None or repository is None:
                raise HiddenError
            grant = Governance(self.service.registry).grant(user, repository, token, self.at, self.fingerprint)
            return Principal(keep=self.keep, token=grant)
        return Principal(person=self.person(), keep=self.keep)

    def throttle(self) -> None:
        """Count the request for whoever makes it, as far as that is known. Raises TooManyError."""
        self.service.requests.take(self.identity)

    @property
    def identity(self) -> str:
        if self._person is not None:
            return f"person:{self.by}"
        if self._keep is not None:
            return f"keep:{self._keep.certificate.sha256.hex()}"
        return self._address

    @property
    def by(self) -> str:
        """As whom the registry and the audit log know the asker."""
        if self._person is not None:
            return f"{self._person.identity.issuer} {self._person.identity.subject}"
        if self._keep is not None:
            return f"keep {self._keep.certificate.sha256.hex()}"
        return "anonymous"

    def tell(self, event: str, **fields: object) -> None:
        """One line in the audit log. No token can be in it: none is known by its text beyond this object."""
        target = self.target
        named = {
            "user": target.user,
            "repository": target.repository,
            "tag": target.tag,
            "path": str(target.path) or None,
            "item": target.item or None,
        }
        self.service.audit.write(
            event,
            self.at,
            request=self.id,
            kind=target.kind,
            method=self.method,
            by=self.by,
            address=self._address.removeprefix("address:"),
            **{name: str(value) for name, value in named.items() if value is not None},
            **fields,
        )

    def _bearer(self) -> str | None:
        """The token of the Authorization header. Raises MalformedError for a header that is another thing."""
        value = self.headers.get("authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise MalformedError("Authorization: expected Bearer and a token")
        return token.strip()


def client_of(request: Request) -> str | None:
    return request.client.host if request.client else None


def address_of(request: Request, client: str | None, proxies: Sequence[Network]) -> str:
    """Whose address counts: the connection's, or what a trusted proxy says it is."""
    return address_identity(client_address(client, request.headers.get("x-forwarded-for", ""), proxies))


def user_of(visit: Visit) -> UserName:
    if visit.target.user is None:
        raise NotFoundError("Route not found")
    return visit.target.user


def repository_of(visit: Visit) -> tuple[UserName, RepositoryName]:
    if visit.target.repository is None:
        raise NotFoundError("Route not found")
    return user_of(visit), visit.target.repository


def tag_of(visit: Visit) -> TagName:
    if visit.target.tag is None:
        raise NotFoundError("Route not found")
    return visit.target.tag


def declared(visit: Visit) -> Meta:
    """What the headers of a PUT say about its body. Raises MalformedError for one that is missing."""
    if visit.length is None:
        raise MalformedError("Content-Length header missing")
    media_type = visit.headers.get("content-type")
    if media_type is None:
        raise MalformedError("Content-Type header missing")
    digests = Digests.parse_header(",".join(visit.headers.getlist("content-digest")))
    return Meta(digests=digests, length=visit.length, media_type=media_type)


def content_range(visit: Visit) -> tuple[int | None, int]:
    """Where a part begins, None for a question, and the length of the whole (RFC 9110, 14.4)."""
    text = visit.headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise MalformedError(
            f"Content-Range: expected `bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`, found {text[:80]!r}"
        )
    if found[1] is None:
        return None, int(found[3])
    start, last, total = (int(part) for part in found.groups())
    if not start <= last < total or visit.length != last - start + 1:
        raise MalformedError(f"Content-Range: expected a range of Content-Length in TOTAL, found {text[:80]!r}")
    return start, total


def read_record(meta: Meta, body: bytes, parse: Callable[[bytes], Any], what: str) -> Any:  # Any: what `parse` gives
    """A record of the originals: 415 for another type, 400 for what is no JSON, 422 for another shape."""
    essence = meta.essence
    if essence != JSON_TYPE and not (essence.startswith("application/") and essence.endswith("+json")):
        raise UnsupportedTypeError(f"Expected request with `Content-Type: {JSON_TYPE}`, found {essence[:100]}")
    canonical.parse(body, what)
    try:
        return parse(body)
    except MalformedError as error:
        raise UnprocessableError(str(error)) from error


def require_json(visit: Visit) -> None:
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise UnsupportedTypeError(f"Expected request with `Content-Type: {JSON_TYPE}`, found {kind[:100]!r}")


def policy_body(visit: Visit, body: bytes) -> dict[str, Any]:  # Any: parsed JSON or TOML; the policy reads it strictly
    """A policy in JSON or TOML."""
    if len(body) > MAX_DOCUMENT:
        raise MalformedError(f"policy: expected at most {MAX_DOCUMENT} bytes, found {len(body)}")
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        return canonical.members(canonical.parse(body, "policy"), "policy")
    if kind != "application/toml":
        raise UnsupportedTypeError(f"Expected {JSON_TYPE} or application/toml, found {kind[:100]!r}")
    try:
        values = tomllib.loads(body.decode())
        return canonical.members(canonical.parse(json.dumps(values).encode(), "policy"), "policy")
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(f"policy: not TOML of strings, numbers, lists and tables: {error}") from error


def signer(name: str, value: object) -> SigningKey:
    if not routes.LABEL.fullmatch(name) or not isinstance(value, str):
        raise MalformedError(
            f"signers: {name[:80]!r}: expected a name of letters, digits and . _ -, and a key as a string"
        )
    return SigningKey.parse(name, value.encode())


def whole(text: str | None, name: str, default: int, maximum: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= maximum):
        raise MalformedError(f"{name}: expected a number from 1 to {maximum}, found {text[:40]!r}")
    return int(text)


class nothing_there:  # noqa: N801 - reads as a clause: `with nothing_there():`
    """What is not there is told as the originals do: in one sentence, whatever is missing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotFoundError):
            raise NotFoundError(access.NOT_THERE) from error
