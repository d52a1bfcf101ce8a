"""Steward on the wire: media types and status, nothing more (protocol.md, 1; flow.md, 4; RFC 7030).

    POST /                              attest: application/pkcs10 or application/vnd.steward.pkcs10-bundle.v1
    GET /                               health: 200, empty
    GET /crl                            the revocation list, DER
    GET|POST /.well-known/est/nonce     a nonce, as JSON (draft-ietf-lamps-attestation-freshness)
    GET /.well-known/est/cacerts        the CA's chain, PKCS#7 in base64
    POST /.well-known/est/simpleenroll  as POST /, base64 in and PKCS#7 out; simplereenroll alike
    GET /ca.pem                         the CA's chain, PEM

Status codes are the originals': 400 for evidence refused at whatever gate, 401 for none at all, 404, 405, 413. The
bodies, empty there, say here which gate refused and why, with every check.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enarx import der
from enarx.errors import MalformedError, NotFoundError
from enarx.pki.certificate import Certificate
from enarx.steward.audit import AuditLog, record
from enarx.steward.authority import Authority, Decision, Issuance
from enarx.steward.ledger import Ledger
from enarx.steward.request import parse_bundle
from enarx.steward.revocation import Issued
from enarx.web import app as web
from enarx.web.problems import MEDIA_TYPE, TITLES, Problem

PKCS10: Final = "application/pkcs10"
BUNDLE: Final = "application/vnd.steward.pkcs10-bundle.v1"
BODY_LIMIT: Final = 2 * 1024 * 1024  # bytes, as the originals' framework
INLINE: Final = 1  # requests that are judged on the event loop, a millisecond each; more go to a thread
_FRESHNESS: Final = "application/est-attestation-freshness+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the routes need. `authority` is called for each request, for its origin may only be known once we listen."""

    authority: Callable[[], Authority]
    ledger: Ledger
    audit: AuditLog
    crl_lifetime: timedelta
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def issue(self, requests: Sequence[bytes], request_id: str) -> Issuance:
        if len(requests) <= INLINE:
            return self._issue(requests, request_id)
        return await run_in_threadpool(self._issue, requests, request_id)

    def _issue(self, requests: Sequence[bytes], request_id: str) -> Issuance:
        """Judge, remember, tell; only then may the certificates leave."""
        at = self.now()
        authority = self.authority()
        issuance = authority.issue(requests, at)
        results = [decision.result for decision in issuance.decisions]
        self.ledger.record(
            Issued.of(certificate.serial, result, certificate.not_after)
            for certificate, result in zip(issuance.issued, results, strict=False)
            if result is not None
        )
        record(self.audit, authority, issuance, at, request_id)
        return issuance


def build(service: Service) -> Starlette:
    """The application."""
    routes = _Routes(service)
    est = "/.well-known/est"
    return web.build(
        [
            Route("/", routes.health, methods=["GET"]),
            Route("/", routes.attest, methods=["POST"]),
            Route("/crl", routes.crl, methods=["GET"]),
            Route("/ca.pem", routes.ca_pem, methods=["GET"]),
            Route(f"{est}/nonce", routes.nonce, methods=["GET", "POST"]),
            Route(f"{est}/cacerts", routes.cacerts, methods=["GET"]),
            Route(f"{est}/simpleenroll", routes.enroll, methods=["POST"]),
            Route(f"{est}/simplereenroll", routes.enroll, methods=["POST"]),
        ],
        name="steward",
        body_limit=BODY_LIMIT,
    )


class _Routes:
    """One handler a route: parse the request, ask the service, shape the answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        return Response()

    async def attest(self, request: Request) -> Response:
        kind = _media_type(request)
        if isinstance(kind, Response):
            return kind
        body = await request.body()
        requests = (body,) if kind == PKCS10 else parse_bundle(body)
        issuance = await self._service.issue(requests, web.request_id(request))
        if issuance.refused is not None:
            return _refusal(issuance.refused, web.request_id(request))
        encode = _pki_path if kind == PKCS10 else _output
        issuer = self._service.authority().issuer.certificate
        return Response(encode(issuer, issuance.issued), media_type="application/octet-stream")

    async def enroll(self, request: Request) -> Response:
        body = _unbase64(await request.body())
        issuance = await self._service.issue((body,), web.request_id(request))
        if issuance.refused is not None:
            return _refusal(issuance.refused, web.request_id(request))
        return _pkcs7(issuance.issued, extra="; smime-type=certs-only")

    async def crl(self, _: Request) -> Response:
        issuer = self._service.authority().issuer
        if not issuer.may_sign_crls:
            raise NotFoundError("the CA's key usage does not allow signing a revocation list")
        data = self._service.ledger.crl(issuer, self._service.now(), self._service.crl_lifetime)
        return Response(data, media_type="application/pkix-crl", headers={"Cache-Control": "no-cache"})

    async def nonce(self, request: Request) -> Response:
        if request.method == "POST":
            _require_length(await request.body())
        authority = self._service.authority()
        value = base64.urlsafe_b64encode(authority.nonce(self._service.now())).rstrip(b"=").decode()
        content = {"nonce": value, "expiry": int(authority.nonces.lifetime.total_seconds())}
        return JSONResponse(content, media_type=_FRESHNESS, headers={"Cache-Control": "no-store"})

    async def cacerts(self, _: Request) -> Response:
        return _pkcs7(self._service.authority().issuer.chain)

    async def ca_pem(self, _: Request) -> Response:
        pem = b"".join(certificate.to_pem() for certificate in self._service.authority().issuer.chain)
        return Response(pem, media_type="application/pem-certificate-chain")


def _media_type(request: Request) -> str | Response:
    """One of the two media types, without any parameter, or the answer that refuses another."""
    value = request.headers.get("content-type")
    if value is None:
        return PlainTextResponse("Header of type `content-type` was missing", 400)
    kind = value.strip().lower()
    if kind not in {PKCS10, BUNDLE}:
        raise MalformedError(f"Content-Type: expected {PKCS10} or {BUNDLE} without parameters, found {value[:100]!r}")
    return kind


def _refusal(decision: Decision, request_id: str) -> Response:
    problem = Problem(
        status=400 if decision.attested else 401,
        title=TITLES[decision.verdict.value],
        detail="; ".join(decision.reasons),
        family=decision.verdict.value,
        reasons=decision.reasons,
        instance=request_id,
    )
    checks = [check.to_json() for check in decision.checks]
    members = {**problem.to_json(), "technology": decision.technology, "checks": checks, "notes": list(decision.notes)}
    return Response(json.dumps(members, ensure_ascii=False).encode(), problem.status, media_type=MEDIA_TYPE)


def _pki_path(issuer: Certificate, issued: Sequence[Certificate]) -> bytes:
    """X.509 PkiPath: issuer first, leaf second, nothing above."""
    return der.wrap(0x30, issuer.der + b"".join(certificate.der for certificate in issued))


def _output(issuer: Certificate, issued: Sequence[Certificate]) -> bytes:
    """`SEQUENCE { chain SEQUENCE OF Certificate, issued SEQUENCE OF Certificate }`."""
    leaves = b"".join(certificate.der for certificate in issued)
    return der.wrap(0x30, der.wrap(0x30, issuer.der) + der.wrap(0x30, leaves))


def _pkcs7(certificates: Sequence[Certificate], extra: str = "") -> Response:
    """Certs-only PKCS#7 in base64 (RFC 7030, 4.1.3; RFC 8951)."""
    loaded = [x509.load_der_x509_certificate(certificate.der) for certificate in certificates]
    body = base64.encodebytes(pkcs7.serialize_certificates(loaded, Encoding.DER))
    headers = {"Content-Transfer-Encoding": "base64"}
    return Response(body, media_type=f"application/pkcs7-mime{extra}", headers=headers)


def _unbase64(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise MalformedError("simpleenroll: expected a certification request in base64") from error


def _require_length(body: bytes) -> None:
    """The length a client wishes for; ours is fixed, so only what is outside the draft's bounds is refused."""
    try:
        wished = json.loads(body or b"{}").get("len", 32)
    except (ValueError, AttributeError, RecursionError) as error:
        raise MalformedError("nonce: expected a JSON object") from error
    if not isinstance(wished, int) or not 8 <= wished <= 64:
        raise MalformedError(f"nonce: len: expected 8 to 64, found {str(wished)[:20]}")
