"""An OpenID provider in memory: its keys, its documents, and tokens that are right or wrong in one way."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from enarx.drawbridge.auth.fetch import MAX_ANSWER
from enarx.errors import UnavailableError
from enarx.web.client import Response

AT: Final = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
URL: Final = "https://login.example.com/"
AUDIENCE: Final = "testserver"
SUBJECT: Final = "test|subject"
MANAGE: Final = "openid manage:drawbridge_users manage:drawbridge_repositories manage:drawbridge_tags"

Key = ECKey | OKPKey | RSAKey


class Provider:
    """Serves its discovery document and its keys; counts how often it is asked."""

    def __init__(self, url: str = URL, *keys: Key) -> None:
        self.url = url
        self.keys = list(keys) or [RSAKey.generate_key(2048, {"kid": "signkey"})]
        self.asked: list[str] = []
        self.reachable = True
        self.issuer = url
        self.known: dict[str, dict[str, object]] = {}

    def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = {},
        form: bytes | None = None,
        allow: Collection[int] = (),
        limit: int = MAX_ANSWER,
    ) -> Response:
        path = "/" + url.removeprefix(self.url.rstrip("/")).lstrip("/")
        self.asked.append(path)
        if not self.reachable:
            raise UnavailableError("login.example.com: no answer")
        if path == "/userinfo":
            claims = self.known.get(headers["Authorization"].removeprefix("Bearer "))
            return Response(status=401 if claims is None else 200, headers={}, body=json.dumps(claims).encode())
        if path == "/introspect":
            assert form is not None
            (token,) = parse_qs(form.decode())["token"]
            found = self.known.get(token)
            body = {"active": False} if found is None else {"active": True, **found}
            return Response(status=200, headers={}, body=json.dumps(body).encode())
        documents: dict[str, object] = {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "jwks_uri": self.url.rstrip("/") + "/jwks",
                "userinfo_endpoint": self.url.rstrip("/") + "/userinfo",
                "introspection_endpoint": self.url.rstrip("/") + "/introspect",
            },
            "/jwks": {"keys": [key.as_dict(private=False) for key in self.keys]},
        }
        return Response(status=200, headers={}, body=json.dumps(documents[path]).encode())

    def claims(self, at: datetime = AT, **changes: Any) -> dict[str, Any]:
        claims = {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": ["other", AUDIENCE],
            "scope": MANAGE,
            "exp": int(at.timestamp()) + 3600,
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(
        self,
        algorithm: str = "RS256",
        *,
        key: Key | None = None,
        kid: str | None = "",
        at: datetime = AT,
        **changes: Any,
    ) -> str:
        """A token with all three manage scopes; `changes` are claims, None leaves one out."""
        signer = key or self.keys[0]
        header: dict[str, Any] = {"alg": algorithm, "typ": "JWT"}
        if kid is not None:
            header["kid"] = kid or signer.kid
        return jwt.encode(header, self.claims(at, **changes), signer, algorithms=[algorithm])
