"""Steward on the wire: media types and status, nothing more (protocol.md, 1; flow.md, 4; RFC 7030).

    POST /                              attest: application/pkcs10 or application/vnd.steward.pkcs10-bundle.v1
    GET /                               health: 200, empty
    GET /crl                            the revocation list, DER; in PEM, if asked for, that of each former issuer too
    GET /crl/ID                         that of the issuer with this key identifier, as its certificates say
    GET|POST /.well-known/est/nonce     a nonce, as JSON (draft-ietf-lamps-attestation-freshness)
    GET /.well-known/est/cacerts        the CA's chain, PKCS#7 in base64
    POST /.well-known/est/simpleenroll  as POST /, base64 in and PKCS#7 out
    POST /.well-known/est/simplereenroll    the same for whoever shows the certificate to renew, with fresh evidence
    GET /.well-known/est/csrattrs       what a request should carry, DER in base64
    GET /health  GET /ready             that the process lives, and that it can certify
    GET /metrics                        for Prometheus, to loopback unless configuration says otherwise
    GET /ca.pem                         the CA's chain, PEM

Status codes are the originals': 400 for evidence refused at whatever gate, 401 for none at all, 404, 405, 413. The
bodies, empty there, say here which gate refused and why, with every check.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from enarx import der
from enarx.attested.relying import Expectation, Peer, judge_peer
from enarx.errors import EnarxError, MalformedError, NotFoundError, UnavailableError, UntrustedError
from enarx.pki.certificate import Certificate, pem
from enarx.steward import est
from enarx.steward.audit import record
from enarx.steward.authority import Authority, Decision, Issuance
from enarx.steward.collateral import Document
from enarx.steward.durable import Flushing
from enarx.steward.issuer import Issuer
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import Metrics, MetricsFor
from enarx.steward.profile import validity
from enarx.steward.request import parse_bundle
from enarx.steward.revocation import Issued
from enarx.web import app as web
from enarx.web.audit import AuditLog
from enarx.web.counters import MEDIA_TYPE as METRICS
from enarx.web.log import Log
from enarx.web.place import is_loopback
from enarx.web.problems import MEDIA_TYPE, TITLES, Problem
from enarx.web.proxy import Network, client_address, forwarded_chain, is_proxy

PKCS10: Final = "application/pkcs10"
BUNDLE: Final = "application/vnd.steward.pkcs10-bundle.v1"
BODY_LIMIT: Final = 2 * 1024 * 1024  # bytes, as the originals' framework
INLINE: Final = 1  # requests that are judged on the event loop, a millisecond each; more go to a thread
_log = Log("steward")
CRL: Final = "application/pkix-crl"
PEM_LISTS: Final = "application/x-pem-file"
FRESHNESS: Final = "application/est-attestation-freshness+json"
RENEWABLE: Final = Expectation(accept_simulated=True, accept_nil=True, accept_debug=True)  # policy judges the evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the routes need. `authority` is called for each request, for its origin may only be known once we listen."""

    authority: Callable[[], Authority]
    ledger: Ledger
    audit: AuditLog
    crl_lifetime: timedelta
    metrics: Metrics
    metrics_for: MetricsFor = "loopback"
    collateral: Callable[[], Sequence[Document]] = tuple
    proxies: Sequence[Network] = ()
    durable: Flushing | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def require_ready(self) -> None:
        """Raises UnavailableError when no certificate could be issued now, whatever the evidence."""
        authority = self.authority()
        try:
            self.ledger.require_writable()
            self.ledger.revocations()
            self.collateral()
        except EnarxError as error:
            raise UnavailableError(str(error)) from error
        certificate = authority.issuer.certificate
        validity(self.now(), lifetime=timedelta(), issuer=certificate, expires=certificate.not_after)

    def crl(self, issuer: Issuer) -> bytes:
        """The revocation list of one issuer, DER. Raises NotFoundError when it may sign none."""
        if not issuer.may_sign_crls:
            raise NotFoundError("the CA's key usage does not allow signing a revocation list")
        return self.ledger.crl(issuer, self.now(), self.crl_lifetime)

    async def issue(self, requests: Sequence[bytes], request_id: str, renewed: Peer | None = None) -> Issuance:
        if len(requests) <= INLINE:
            issuance = self._issue(requests, request_id, renewed)
        else:
            issuance = await run_in_threadpool(self._issue, requests, request_id, renewed)
        if self.durable is not None and issuance.issued:
            await self.durable.flushed()  # what cannot be revoked after a power failure does not leave
        return issuance

    def renewing(self, chain: Sequence[bytes]) -> Peer:
        """Who shows a certificate of ours that still counts. Raises UntrustedError, MalformedError, RejectedError."""
        if not chain:
            raise UntrustedError(
                "simplereenroll: expected a TLS client certificate that this Steward issued, found none"
            )
        peer = judge_peer(chain, self.authority().anchors, RENEWABLE, self.now(), side="client")
        revoked = self.ledger.revocations().withdrawn(peer.certificate.serial, peer.result)
        if revoked:
            raise UntrustedError(f"simplereenroll: the certificate was revoked: {'; '.join(revoked)}")
        return peer

    def _issue(self, requests: Sequence[bytes], request_id: str, renewed: Peer | None) -> Issuance:
        """Judge, remember, tell; only then may the certificates leave."""
        at = self.now()
        begun = time.perf_counter()
        authority = self.authority()
        try:
            issuance = authority.issue(requests, at, renewed)
        except UnavailableError as error:
            _log.warning("unavailable", why=str(error.__cause__ or error))
            raise
        results = [decision.result for decision in issuance.decisions]
        self.ledger.record(
            Issued.of(certificate.serial, result, certificate.not_after)
            for certificate, result in zip(issuance.issued, results, strict=False)
            if result is not None
        )
        record(self.audit, authority, issuance, at, request_id)
        self.metrics.decided(issuance.decisions, len(issuance.issued), time.perf_counter() - begun)
        return issuance


def build(service: Callable[[], Service]) -> Starlette:
    """The application. `service` is asked at each request, for it may be exchanged between two."""
    routes = _Routes(service)
    well_known = "/.well-known/est"
    return web.build(
        [
            Route("/", routes.root, methods=["GET", "POST"]),
            Route("/crl", routes.crl, methods=["GET"]),
            Route("/crl/{issuer}", routes.crl_of, methods=["GET"]),
            Route("/ca.pem", routes.ca_pem, methods=["GET"]),
            Route("/ready", routes.ready, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
            Route(f"{well_known}/nonce", routes.nonce, methods=["GET", "POST"]),
            Route(f"{well_known}/cacerts", routes.cacerts, methods=["GET"]),
            Route(f"{well_known}/csrattrs", routes.csrattrs, methods=["GET"]),
            Route(f"{well_known}/simpleenroll", routes.enroll, methods=["POST"]),
            Route(f"{well_known}/simplereenroll", routes.reenroll, methods=["POST"]),
        ],
        name="steward",
        body_limit=BODY_LIMIT,
    )


class _Routes:
    """One handler a route: parse the request, ask the service, shape the answer."""

    def __init__(self, service: Callable[[], Service]) -> None:
        self._current = service

    @property
    def _service(self) -> Service:
        return self._current()

    async def root(self, request: Request) -> Response:
        """One route, so that whoever asks by another method is told of both."""
        return await self.attest(request) if request.method == "POST" else Response()

    async def ready(self, _: Request) -> Response:
        self._service.require_ready()
        return JSONResponse({"status": "ready"}, headers={"Cache-Control": "no-store"})

    async def metrics(self, request: Request) -> Response:
        service = self._service
        if service.metrics_for == "nobody" or (service.metrics_for == "loopback" and not _is_local(request, service)):
            raise NotFoundError("metrics are not for everybody")
        ends = [document.end for document in service.collateral()]
        return PlainTextResponse(service.metrics.text(service.authority(), ends, service.now()), media_type=METRICS)

    async def attest(self, request: Request) -> Response:
        kind = _media_type(request)
        if isinstance(kind, Response):
            return kind
        body = await web.body(request)
        requests = (body,) if kind == PKCS10 else parse_bundle(body)
        service = self._service  # one for all of it: the chain is the one of who issued
        issuance = await service.issue(requests, web.request_id(request))
        if issuance.refused is not None:
            return _refusal(issuance.refused, web.request_id(request))
        encode = _pki_path if kind == PKCS10 else _output
        return Response(
            encode(service.authority().issuer.certificate, issuance.issued), media_type="application/octet-stream"
        )

    async def enroll(self, request: Request, renewed: Peer | None = None) -> Response:
        _require_type(request, PKCS10)
        body = est.unarmour(await web.body(request), request.url.path.rpartition("/")[2])
        issuance = await self._service.issue((body,), web.request_id(request), renewed)
        if issuance.refused is not None:
            return _refusal(issuance.refused, web.request_id(request))
        return _base64(est.certs_only(issuance.issued), "application/pkcs7-mime; smime-type=certs-only")

    async def reenroll(self, request: Request) -> Response:
        service = self._service
        client = request.client.host if request.client else None
        shown = getattr(request.state, "peer_chain", ()) or forwarded_chain(
            request.scope["headers"], client, service.proxies
        )
        return await self.enroll(request, service.renewing(shown))

    async def crl(self, request: Request) -> Response:
        service = self._service
        authority = service.authority()
        headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
        if PEM_LISTS not in request.headers.get("accept", "").lower():
            return Response(service.crl(authority.issuer), media_type=CRL, headers=headers)
        lists = [service.crl(issuer) for issuer in (authority.issuer, *authority.former) if issuer.may_sign_crls]
        return Response(b"".join(pem("X509 CRL", each) for each in lists), media_type=PEM_LISTS, headers=headers)

    async def crl_of(self, request: Request) -> Response:
        service = self._service
        data = service.crl(service.authority().issuer_of(request.path_params["issuer"].lower()))
        return Response(data, media_type=CRL, headers={"Cache-Control": "no-cache"})

    async def nonce(self, request: Request) -> Response:
        authority = self._service.authority()
        wished = est.NonceRequest()
        if request.method == "POST":
            _require_type(request, FRESHNESS, "application/json")
            wished = est.NonceRequest.parse(await web.body(request), authority.policy.oids)
        value = authority.nonce(self._service.now(), wished.length)
        self._service.metrics.add("steward_nonces_total")
        content = est.nonce_answer(value, int(authority.nonces.lifetime.total_seconds()), wished)
        return JSONResponse(content, media_type=FRESHNESS, headers={"Cache-Control": "no-store"})

    async def cacerts(self, _: Request) -> Response:
        return _base64(est.certs_only(self._service.authority().issuer.chain), "application/pkcs7-mime")

    async def csrattrs(self, _: Request) -> Response:
        policy = self._service.authority().policy
        accepted = [(oid, each) for oid, each in policy.technologies.items() if each.name in policy.configured]
        curves = sorted({technology.key_curve for _, technology in accepted})
        body = est.attributes([oid for oid, _ in accepted], curves)
        return _base64(est.armour(body), "application/csrattrs")

    async def ca_pem(self, _: Request) -> Response:
        pem = b"".join(certificate.to_pem() for certificate in self._service.authority().issuer.chain)
        return Response(pem, media_type="application/pem-certificate-chain")


def _is_local(request: Request, service: Service) -> bool:
    """Whether somebody on this machine asks, and not a proxy on it for somebody elsewhere."""
    client = request.client.host if request.client else ""
    forwarded_for = request.headers.get("x-forwarded-for", "")
    if forwarded_for and not is_proxy(client, service.proxies):
        return False  # of a proxy that we know nothing about
    return is_loopback(client_address(client, forwarded_for, service.proxies) or "")


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
    said = decision.to_json()
    members = {
        **problem.to_json(),
        **{name: said[name] for name in ("verdict", "technology", "checks", "notes", "claims")},
    }
    return Response(json.dumps(members, ensure_ascii=False).encode(), problem.status, media_type=MEDIA_TYPE)


def _pki_path(issuer: Certificate, issued: Sequence[Certificate]) -> bytes:
    """X.509 PkiPath: issuer first, leaf second, nothing above."""
    return der.wrap(0x30, issuer.der + b"".join(certificate.der for certificate in issued))


def _output(issuer: Certificate, issued: Sequence[Certificate]) -> bytes:
    """`SEQUENCE { chain SEQUENCE OF Certificate, issued SEQUENCE OF Certificate }`."""
    leaves = b"".join(certificate.der for certificate in issued)
    return der.wrap(0x30, der.wrap(0x30, issuer.der) + der.wrap(0x30, leaves))


def _base64(body: bytes, media_type: str) -> Response:
    """A body of EST, which is always in base64 (RFC 7030, 4.1.3; RFC 8951)."""
    return Response(body, media_type=media_type, headers={"Content-Transfer-Encoding": "base64"})


def _require_type(request: Request, *kinds: str) -> None:
    """A media type that is said has to be one of these. Raises MalformedError."""
    said = request.headers.get("content-type")
    if said is not None and said.partition(";")[0].strip().lower() not in kinds:
        raise MalformedError(f"Content-Type: expected {kinds[0]}, found {said[:100]!r}")
