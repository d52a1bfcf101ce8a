"""Access tokens to persons: who an issuer says is asking (OpenID Connect; RFC 9068, 7662, 8414; protocol.md, 2.9, 2.12).

An issuer's tokens are of one of three kinds, named in the configuration:

    jwt            verified here, by keys of the issuer: as Drawbridge 0.4.3, with what it left out
    introspection  opaque; the issuer is asked whether they are good (RFC 7662)
    userinfo       opaque; the issuer's userinfo says whose they are: as Drawbridge 0.2.2, without scopes

A JWT counts when, in this order: its algorithm is one that was configured and its key's own; a key of the issuer
verifies it; issuer, audience, expiry, not-before are right at the moment; it has a subject; its type, where the
configuration asks for `at+jwt`. The issuer is picked by what the token says and believed only after all of that.
A token goes to nobody but its own issuer. It is in no log and no error; the error says what was wrong with it.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from threading import Lock
from typing import Final, Literal, Protocol
from urllib.parse import quote, urlencode

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import JWSRegistry

from enarx.drawbridge.access import Identity, Member, Person
from enarx.drawbridge.auth.fetch import Fetch, members
from enarx.drawbridge.auth.keyset import Key, KeySource
from enarx.errors import MalformedError, UnavailableError, UntrustedError

Kind = Literal["jwt", "introspection", "userinfo"]

ALGORITHMS: Final = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
KINDS: Final[tuple[Kind, ...]] = ("jwt", "introspection", "userinfo")
LEEWAY: Final = 30  # seconds that clocks may differ
MAX_TOKEN: Final = 16 * 1024  # bytes
MAX_SUBJECT: Final = 1000  # characters
INVALID: Final = "Invalid token provided"

VERIFIED_KEPT: Final = 1000  # tokens whose signature was verified, by digest

OPAQUE_FRESH: Final = 10.0  # seconds for which an issuer's word on an opaque token is remembered
OPAQUE_KEPT: Final = 1000  # tokens, by digest

DISCOVERY: Final = "/.well-known/openid-configuration"


class TokenError(UntrustedError):
    """A token that does not count. The sentence is the originals'; `why` is for the challenge of the answer."""

    def __init__(self, why: str) -> None:
        super().__init__(INVALID)
        self.why = why


class Authenticator(Protocol):
    """What one issuer does: a token and a moment to a person, TokenError, or UnavailableError."""

    name: str
    url: str
    machine: bool

    def authenticate(self, token: str, at: datetime) -> Person: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an issuer's tokens must be. `audience` None is for opaque tokens of issuers that name none.

    `scoped` False: the issuer can not grant our scopes, and its tokens are not limited by them. `machine`: its
    subjects are programs, known by their claims. `typ` is the type a JWT must have, None for any.
    """

    name: str
    url: str
    audience: str | None
    algorithms: tuple[str, ...] = ALGORITHMS
    scoped: bool = True
    machine: bool = False
    typ: str | None = None

    def person(self, claims: Mapping[str, object]) -> Person:
        """The person in checked claims. Raises TokenError without a subject."""
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
            raise TokenError("it has no subject")
        scope = claims.get("scope")
        granted = frozenset(scope.split()) if isinstance(scope, str) else frozenset[str]()
        return Person(
            identity=Identity(issuer=self.name, subject=subject),
            scopes=granted if self.scoped else None,
            claims={name: value for name, value in claims.items() if isinstance(value, str)},
            machine=self.machine,
        )

    def require(self, claims: Mapping[str, object], at: datetime, *, strict: bool) -> None:
        """Issuer, audience and times. `strict`: each of them has to be there. Raises TokenError."""
        issuer = claims.get("iss")
        if (strict or issuer is not None) and not same_issuer(issuer, self.url):
            raise TokenError("another issuer made it")
        if self.audience is not None:
            audience = claims.get("aud")
            named = audience if isinstance(audience, list) else [audience]
            if self.audience not in named:
                raise TokenError("it is for another audience")
        now = at.timestamp()
        expires = _moment(claims, "exp")
        if expires is None and strict:
            raise TokenError("it never expires")
        if expires is not None and now >= expires + LEEWAY:
            raise TokenError("it has expired")
        for name in ("nbf", "iat"):
            begins = _moment(claims, name)
            if begins is not None and now + LEEWAY < begins:
                raise TokenError("it is not valid yet")


class Discovered:
    """An issuer's discovery document, fetched once it is needed and again after a failure."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        self._url = url
        self._fetch = fetch
        self._lock = Lock()
        self._found: dict[str, object] | None = None

    def endpoint(self, name: str) -> str:
        """Raises UnavailableError when the issuer does not answer, is another, or has no such endpoint."""
        with self._lock:
            if self._found is None:
                where = self._url.rstrip("/") + DISCOVERY
                found = members(self._fetch(where), where)
                if not same_issuer(found.get("issuer"), self._url):
                    raise UnavailableError(
                        f"{where}: issuer: expected {self._url}, found {str(found.get('issuer'))[:200]!r}"
                    )
                self._found = found
            url = self._found.get(name)
        if not isinstance(url, str):
            raise UnavailableError(f"{self._url}: its discovery document names no {name}")
        return url


class JwtIssuer:
    """Tokens that are verified here.

    That a signature is right is remembered, by the token's digest, for as long as the very key that verified it counts:
    keys that were fetched anew are others. Issuer, audience and times are looked at every time.
    """

    def __init__(self, rules: Rules, keys: KeySource) -> None:
        self.name = rules.name
        self.url = rules.url
        self.machine = rules.machine
        self._rules = rules
        self._keys = keys
        self._registry = _Registry(algorithms=rules.algorithms, strict_check_header=False)
        self._kept: dict[bytes, tuple[Key, Mapping[str, object]]] = {}
        self._guard = Lock()

    @classmethod
    def discovered(cls, rules: Rules, fetch: Fetch) -> "JwtIssuer":
        """With the keys that the issuer publishes."""
        document = Discovered(rules.url, fetch)

        def load() -> object:
            url = document.endpoint("jwks_uri")
            return members(fetch(url), url).get("keys")

        return cls(rules, KeySource(load))

    def authenticate(self, token: str, at: datetime) -> Person:
        claims = self._remembered(token)
        if claims is None:
            claims = self._verified(token)
        self._rules.require(claims, at, strict=True)
        return self._rules.person(claims)

    def recall(self, token: str, at: datetime) -> Person | None:
        """Who it speaks for if that can be told at once, without asking anybody. Raises TokenError."""
        claims = self._remembered(token)
        if claims is None:
            return None
        self._rules.require(claims, at, strict=True)
        return self._rules.person(claims)

    def _remembered(self, token: str) -> Mapping[str, object] | None:
        with self._guard:
            found = self._kept.get(sha256(token.encode()).digest())
        return found[1] if found is not None and self._keys.holds(found[0]) else None

    def _remember(self, token: str, key: Key, claims: Mapping[str, object]) -> None:
        with self._guard:
            if len(self._kept) >= VERIFIED_KEPT:
                self._kept.clear()
            self._kept[sha256(token.encode()).digest()] = key, claims

    def _verified(self, token: str) -> Mapping[str, object]:
        header, _ = unverified(token)
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
        if algorithm not in self._rules.algorithms:
            raise TokenError("its algorithm is not accepted")
        if kid is not None and not isinstance(kid, str):
            raise TokenError("its key id is no text")
        if self._rules.typ is not None and str(typ).lower().removeprefix("application/") != self._rules.typ:
            raise TokenError(f"its type is not {self._rules.typ}")
        keys = self._keys.find(kid)
        for key in keys:
            if key.alg is not None and key.alg != algorithm:
                continue  # the issuer says what this key is for
            try:
                decoded = jwt.decode(token, key, algorithms=self._rules.algorithms, registry=self._registry)
            except (JoseError, ValueError, RecursionError):
                continue
            self._remember(token, key, decoded.claims)
            return decoded.claims
        raise TokenError("its signature is wrong" if keys else "its key is not one of the issuer's")


class _Opaque:
    """What introspection and userinfo share: the issuer's word is remembered for a moment, by the token's digest."""

    def __init__(self, rules: Rules, clock: Callable[[], float]) -> None:
        self.name = rules.name
        self.url = rules.url
        self.machine = rules.machine
        self._rules = rules
        self._clock = clock
        self._kept: dict[bytes, tuple[float, Mapping[str, object]]] = {}
        self._guard = Lock()

    def remembered(self, token: str, ask: Callable[[str], Mapping[str, object]]) -> Mapping[str, object]:
        name, now = sha256(token.encode()).digest(), self._clock()
        with self._guard:
            found = self._kept.get(name)
        if found is not None and now - found[0] < OPAQUE_FRESH:
            return found[1]
        claims = ask(token)  # outside of the lock: it waits for the network
        with self._guard:
            if len(self._kept) >= OPAQUE_KEPT:
                self._kept.clear()
            self._kept[name] = (now, claims)
        return claims


class IntrospectedIssuer(_Opaque):
    """Opaque tokens, asked about at the issuer's introspection endpoint (RFC 7662)."""

    def __init__(
        self, rules: Rules, fetch: Fetch, clock: Callable[[], float], *, client_id: str, client_secret: str
    ) -> None:
        super().__init__(rules, clock)
        self._fetch = fetch
        self._document = Discovered(rules.url, fetch)
        pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}".encode()
        self._authorization = f"Basic {base64.b64encode(pair).decode()}"

    def authenticate(self, token: str, at: datetime) -> Person:
        claims = self.remembered(token, self._ask)
        self._rules.require(claims, at, strict=False)
        return self._rules.person(claims)

    def _ask(self, token: str) -> Mapping[str, object]:
        url = self._document.endpoint("introspection_endpoint")
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        answer = members(self._fetch(url, form=form, headers={"Authorization": self._authorization}), url)
        if answer.get("active") is not True:
            raise TokenError("its issuer says that it is not active")
        return answer


class UserinfoIssuer(_Opaque):
    """Opaque tokens, shown to the issuer's userinfo endpoint (Drawbridge 0.2.2)."""

    def __init__(self, rules: Rules, fetch: Fetch, clock: Callable[[], float]) -> None:
        super().__init__(rules, clock)
        self._fetch = fetch
        self._document = Discovered(rules.url, fetch)

    def authenticate(self, token: str, at: datetime) -> Person:  # noqa: ARG002 - the issuer's clock decides
        found = self._rules.person(self.remembered(token, self._ask))
        return Person(identity=found.identity, scopes=None, one_name=True)

    def _ask(self, token: str) -> Mapping[str, object]:
        url = self._document.endpoint("userinfo_endpoint")
        answer = self._fetch(url, headers={"Authorization": f"Bearer {token}"}, allow={400, 401, 403})
        if answer.status != 200:
            raise TokenError("its issuer does not know it")
        return members(answer, url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuers:
    """All issuers that are trusted. `opaque` is the one whose tokens can not be told by their looks, if any."""

    jwt: Sequence[Authenticator] = ()
    opaque: Authenticator | None = None
    by_url: Mapping[str, Authenticator] = field(default_factory=dict)

    @classmethod
    def of(cls, jwt_issuers: Sequence[Authenticator], opaque: Authenticator | None) -> "Issuers":
        return cls(jwt=jwt_issuers, opaque=opaque, by_url={issuer.url.rstrip("/"): issuer for issuer in jwt_issuers})

    def authenticate(self, token: str, at: datetime) -> Person:
        """Raises TokenError, or UnavailableError when the issuer can not be asked."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise TokenError("it is not a token")
        if (issuer := self._issuer_of(token)) is not None:
            return issuer.authenticate(token, at)
        if self.opaque is not None:
            return self.opaque.authenticate(token, at)
        raise TokenError("none of the trusted issuers made it")

    def recall(self, token: str, at: datetime) -> Person | None:
        """As `authenticate` of a token that was verified before; None when that would take more than memory."""
        if len(token) > MAX_TOKEN or not token.isascii():
            return None
        issuer = self._issuer_of(token)
        return issuer.recall(token, at) if isinstance(issuer, JwtIssuer) else None

    def require_known(self, member: Member) -> None:
        """Raises MalformedError for a member that no token of ours could ever show: a slip would let nobody in."""
        known = {issuer.name: issuer for issuer in (*self.jwt, *((self.opaque,) if self.opaque else ()))}
        issuer = known.get(member.issuer)
        if issuer is None:
            raise MalformedError(
                f"member: issuer: expected one of {', '.join(sorted(known))}, found {member.issuer[:80]!r}"
            )
        if issuer.machine and not member.claims:
            raise MalformedError(
                f"member: {issuer.name} vouches for machines, which are known by claims, not by subject"
            )
        if member.claims and not issuer.machine:
            raise MalformedError(f"member: {issuer.name} vouches for people, who are known by subject, not by claims")

    def _issuer_of(self, token: str) -> Authenticator | None:
        """By the token's own word, which picks who judges it and proves nothing."""
        try:
            _, claims = unverified(token)
        except TokenError:
            return None
        named = claims.get("iss")
        return self.by_url.get(named.rstrip("/")) if isinstance(named, str) else None


class _Registry(JWSRegistry):
    """Exactly the algorithms that were configured; the library would warn of EdDSA's older name."""

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in (self.allowed or ()):
            raise JoseError(f"algorithm {name!r} is not accepted")
        return self.algorithms[name]


def unverified(token: str) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Header and claims of a JWT, as they say. Raises TokenError for what is none."""
    try:
        found = jws.extract_compact(token.encode(), registry=_READER)
        claims = members_of(found.payload)
    except (JoseError, ValueError, RecursionError) as error:
        raise TokenError("it is no JWT") from error
    return found.headers(), claims


def members_of(payload: bytes) -> Mapping[str, object]:
    """Raises ValueError when it is no JSON object."""
    found = json.loads(payload)
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004 - callers catch one type
    return found


_READER: Final = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def same_issuer(found: object, expected: str) -> bool:
    """Equal but for one trailing slash, which the originals add to an issuer that is only a host."""
    return isinstance(found, str) and found.removesuffix("/") == expected.removesuffix("/")


def _moment(claims: Mapping[str, object], name: str) -> float | None:
    """A NumericDate (RFC 7519, 2). Raises TokenError for anything else."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenError(f"its {name} is no time")
    return float(value)
