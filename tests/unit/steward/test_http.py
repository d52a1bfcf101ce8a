"""Steward on the wire: the originals' tests (protocol.md, 6.1) as behaviour, and what is ours beside them."""

import base64
import io
import ipaddress
import json
import re
import shutil
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from enarx import der
from enarx.attested.claims import RUNTIME_CLAIMS_OID
from enarx.digest import Digest
from enarx.errors import UnavailableError
from enarx.pki import chain, crl
from enarx.pki.certificate import Certificate
from enarx.steward.authority import Authority
from enarx.steward.durable import Flushing
from enarx.steward.http import BUNDLE, PKCS10, Service, build
from enarx.steward.ledger import Ledger
from enarx.steward.metrics import Counted, Metrics
from enarx.web.audit import AuditLog
from tests.unit.steward import support
from tests.values import replace

AT = support.AT


class Bench:
    """A Steward, a client of it, and its log."""

    def __init__(self, authority: Authority, directory: Path) -> None:
        self.authority = authority
        self.ledger = Ledger(directory / "state")
        self.log = io.StringIO()
        self.directory = directory
        self.service = Service(
            authority=lambda: authority,
            ledger=self.ledger,
            audit=AuditLog.to(self.log),
            crl_lifetime=timedelta(hours=1),
            metrics=Metrics(),
            now=lambda: AT,
        )
        self.client = TestClient(Counted(build(lambda: self.service), self.service.metrics), client=("127.0.0.1", 1))

    def post(self, body: bytes, kind: str | None = PKCS10, path: str = "/") -> tuple[int, bytes]:
        answer = self.client.post(path, content=body, headers={} if kind is None else {"Content-Type": kind})
        return answer.status_code, answer.content

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(support.authority(), tmp_path)


def nil_request() -> bytes:
    return support.request(support.nil_evidence())


def bundle(*requests: bytes) -> bytes:
    return der.wrap(0x30, b"".join(requests))


def test_a_single_request_gets_a_path_of_issuer_and_leaf(bench: Bench) -> None:
    """`kvm_certs`: the path is issuer first, leaf second, and the leaf verifies."""
    status, body = bench.post(nil_request())
    assert status == 200
    issuer, leaf = (Certificate.parse(data) for data in der.sequence_of(body, "path", limit=2))
    assert issuer == bench.authority.issuer.certificate
    chain.verify_chain([leaf, issuer], AT, understood=["2.5.29.17"])


def test_a_bundle_gets_an_output(bench: Bench) -> None:
    """`kvm_hostname_many_certs`: the same request five times gives five certificates."""
    status, body = bench.post(bundle(*[nil_request()] * 5), BUNDLE)
    assert status == 200
    issuers, issued = der.sequence_of(body, "output", limit=2)
    assert der.sequence_of(issuers, "chain", limit=2) == (bench.authority.issuer.certificate.der,)
    leaves = [Certificate.parse(data) for data in der.sequence_of(issued, "issued", limit=5)]
    assert len({leaf.spki for leaf in leaves}) == 1
    assert len(leaves) == 5


def test_an_empty_bundle_is_valid(bench: Bench) -> None:
    """Nothing asked, nothing issued, 200."""
    status, body = bench.post(bundle(), BUNDLE)
    assert status == 200
    assert der.sequence_of(der.sequence_of(body, "output", limit=2)[1], "issued", limit=1) == ()


@pytest.mark.parametrize("kind", [PKCS10, BUNDLE])
def test_no_attestation_is_401(bench: Bench, kind: str) -> None:
    """`err_no_attestation`: a request without evidence is told apart from refused evidence."""
    request = support.request()
    status, body = bench.post(request if kind == PKCS10 else bundle(request), kind)
    assert status == 401
    problem = json.loads(body)
    assert problem["gate"] == "untrusted"
    assert problem["reasons"] == ["the request carries no attestation evidence"]


def test_no_content_type_is_400(bench: Bench) -> None:
    """`err_no_content_type`."""
    assert bench.post(nil_request(), None)[0] == 400


@pytest.mark.parametrize(
    "kind", ["application/octet-stream", "application/pkcs10; charset=utf-8", f"{BUNDLE};v=1", "text/plain", ""]
)
def test_other_media_types_are_400(bench: Bench, kind: str) -> None:
    """Any parameter makes the media type an unknown one."""
    assert bench.post(nil_request(), kind)[0] == 400


def test_the_media_type_may_have_any_case(bench: Bench) -> None:
    """Media types are compared without regard to case."""
    assert bench.post(nil_request(), "Application/PKCS10")[0] == 200


@pytest.mark.parametrize("body", [b"", b"\x01\x02\x03\x04"])
@pytest.mark.parametrize("kind", [PKCS10, BUNDLE])
def test_a_bad_body_is_400(bench: Bench, kind: str, body: bytes) -> None:
    """`err_empty_body`, `err_bad_body`."""
    assert bench.post(body, kind)[0] == 400


def test_a_bad_signature_is_400(bench: Bench) -> None:
    """`err_bad_csr_sig`: the last byte of the bundle plus one."""
    data = bytearray(bundle(nil_request()))
    data[-1] = (data[-1] + 1) % 256
    status, body = bench.post(bytes(data), BUNDLE)
    assert status == 400
    assert json.loads(body)["gate"] == "malformed"


def test_trailing_bytes_are_400(bench: Bench) -> None:
    """DER is strict."""
    assert bench.post(nil_request() + b"\0")[0] == 400
    assert bench.post(bundle(nil_request()) + b"\0", BUNDLE)[0] == 400


def test_health_other_methods_and_paths(bench: Bench) -> None:
    """GET and HEAD answer 200 and nothing; other methods 405, other paths 404."""
    assert bench.client.get("/").content == b""
    assert [bench.client.request(m, "/").status_code for m in ("GET", "HEAD", "PUT", "DELETE")] == [200, 200, 405, 405]
    assert set(bench.client.put("/").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert bench.client.get("/nothing").status_code == 404


def test_a_body_too_large_is_413(bench: Bench) -> None:
    """Two MiB, as with the originals."""
    assert bench.post(bytes(2 * 1024 * 1024 + 1))[0] == 413


def test_a_bundle_has_a_bound(bench: Bench) -> None:
    """More requests than the bound are refused before one is looked at."""
    status, body = bench.post(bundle(*[b"\x30\x00"] * 65), BUNDLE)
    assert (status, json.loads(body)["detail"]) == (400, "bundle: more than 64 elements")


def test_a_refusal_tells_gate_reasons_and_checks(tmp_path: Path) -> None:
    """The body of a 400 says which gate refused, why, and what was found at each check."""
    bench = Bench(support.authority(), tmp_path)
    claims = support.claims_for(bench.authority, audience="https://other.example.com")
    status, body = bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))
    problem = json.loads(body)
    assert (status, problem["gate"], problem["technology"]) == (400, "untrusted", "nil")
    assert problem["reasons"] == [
        "claims.audience: expected https://steward.example.com, found https://other.example.com"
    ]
    failed = [check for check in problem["checks"] if check["outcome"] == "failed"]
    assert [check["name"] for check in failed] == ["claims.audience"]


def test_the_nonce_of_est_is_accepted(bench: Bench) -> None:
    """A nonce from the freshness resource makes claims fresh."""
    answer = bench.client.get("/.well-known/est/nonce")
    assert answer.headers["content-type"] == "application/est-attestation-freshness+json"
    assert answer.json()["expiry"] == 600
    text = answer.json()["nonce"]
    nonce = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    claims = support.claims_for(bench.authority, nonce=nonce)
    assert bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))[0] == 200


def test_a_nonce_has_the_length_that_was_asked_for(bench: Bench) -> None:
    """From 8 to 64 bytes, each accepted afterwards; the type of the statement to come is answered, or refused."""
    kind = {"Content-Type": "application/est-attestation-freshness+json"}
    for length in (8, 9, 31, 32, 64):
        body = {"len": length, "reqTypeInfo": {"type": support.NIL_OID, "reqInfo": {}}}
        answer = bench.client.post("/.well-known/est/nonce", content=json.dumps(body), headers=kind)
        assert answer.json()["respTypeInfo"] == {"type": support.NIL_OID}
        text = answer.json()["nonce"]
        nonce = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        assert len(nonce) == length
        claims = support.claims_for(bench.authority, nonce=nonce)
        assert bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))[0] == 200
        claims = support.claims_for(bench.authority, nonce=nonce[:-1] + bytes([nonce[-1] ^ 1]))
        assert bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))[0] == 400
    assert bench.client.post("/.well-known/est/nonce", headers=kind).status_code == 200
    wrongs: list[object] = [{"len": 7}, {"len": 65}, {"len": True}, {"len": "32"}, [], {"reqTypeInfo": []}]
    for wrong in (*wrongs, {"reqTypeInfo": {"type": "1.2.3"}}):
        assert bench.client.post("/.well-known/est/nonce", content=json.dumps(wrong), headers=kind).status_code == 400
    assert (
        bench.client.post("/.well-known/est/nonce", content=b"x", headers={"Content-Type": "text/plain"}).status_code
        == 400
    )


def test_nonces_of_one_steward_are_good_at_another(bench: Bench, tmp_path: Path) -> None:
    """Two processes with one CA key and origin share nothing else, and accept each other's nonces."""
    other = Bench(support.authority(issuer=bench.authority.issuer, nonces=bench.authority.nonces), tmp_path / "other")
    claims = support.claims_for(other.authority)
    assert bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))[0] == 200


def test_csrattrs_names_what_is_accepted(bench: Bench) -> None:
    """The attestation attribute, evidence and claims as extensions, and the type of key."""
    answer = bench.client.get("/.well-known/est/csrattrs")
    assert answer.headers["content-type"] == "application/csrattrs"
    members = der.sequence_of(base64.b64decode(answer.content), "csrattrs", limit=8)
    assert der.oid("1.2.840.113549.1.9.16.2.59") in members
    wanted = der.wrap(0x31, der.oid(support.NIL_OID) + der.oid(RUNTIME_CLAIMS_OID))
    assert der.wrap(0x30, der.oid("1.2.840.113549.1.9.14") + wanted) in members
    assert der.wrap(0x30, der.oid("1.2.840.10045.2.1") + der.wrap(0x31, der.oid("1.2.840.10045.3.1.7"))) in members


def test_est_clients_are_served(bench: Bench) -> None:
    """simpleenroll takes base64 and gives PKCS#7; cacerts gives the chain."""
    body = base64.encodebytes(nil_request())
    answer = bench.client.post("/.well-known/est/simpleenroll", content=body, headers={"Content-Type": PKCS10})
    assert answer.status_code == 200
    (leaf,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert leaf.subject.rfc4514_string() == "O=UNATTESTED"
    (root,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(bench.client.get("/.well-known/est/cacerts").content))
    leaf.verify_directly_issued_by(root)
    assert bench.client.post("/.well-known/est/simpleenroll", content=b"%%").status_code == 400
    refused = bench.client.post("/.well-known/est/simpleenroll", content=body, headers={"Content-Type": "text/html"})
    assert refused.status_code == 400


class Renewal:
    """A certificate that was issued, shown again in TLS, and requests that wish to renew it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        claims = support.claims_for(bench.authority)
        _, body = bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))
        issuer, leaf = der.sequence_of(body, "path", limit=2)
        self.chain: tuple[bytes, ...] = (leaf, issuer)

    def request(self, **claims: object) -> bytes:
        made = support.claims_extension(support.claims_for(self.bench.authority, **claims))
        return support.request(support.nil_evidence(), made)

    def ask(self, **claims: object) -> tuple[int, dict[str, object]]:
        return self.send(self.request(**claims))

    def forwarded(self, headers: dict[str, str], proxies: str | None = None) -> int:
        """The status when a proxy at 192.0.2.1 passes the request on."""
        networks = () if proxies is None else (ipaddress.ip_network(proxies),)
        service = replace(self.bench.service, proxies=networks)
        client = TestClient(build(lambda: service), client=("192.0.2.1", 1))
        headers = {**headers, "Content-Type": PKCS10}
        path = "/.well-known/est/simplereenroll"
        return client.post(path, content=base64.b64encode(self.request()), headers=headers).status_code

    def send(self, request: bytes) -> tuple[int, dict[str, object]]:
        app = self.bench.client.app

        async def shown(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("state", {})["peer_chain"] = self.chain
            await app(scope, receive, send)

        path = "/.well-known/est/simplereenroll"
        answer = TestClient(shown).post(path, content=base64.b64encode(request), headers={"Content-Type": PKCS10})
        if answer.status_code == 200:
            (leaf,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
            return 200, {"serial": leaf.serial_number}
        return answer.status_code, answer.json()


def test_a_certificate_is_renewed_with_fresh_evidence(bench: Bench) -> None:
    """Whoever shows it gets the same name again, for another key, with a nonce."""
    renewal = Renewal(bench)
    assert renewal.ask()[0] == 200
    status, problem = renewal.ask(nonce=None)
    assert (status, problem["reasons"]) == (400, ["claims.nonce: expected a nonce of this Steward, found none"])
    status, problem = renewal.send(nil_request())
    assert status == 400
    assert "claims.nonce: expected a nonce of this Steward" in str(problem["detail"])


def test_a_renewal_behind_a_proxy_that_ends_tls(bench: Bench) -> None:
    """The certificate comes in a header (RFC 9440), the leaf alone or with what is above it; from strangers it is none."""
    renewal = Renewal(bench)
    leaf, *above = (f":{base64.b64encode(der).decode()}:" for der in renewal.chain)
    for headers in ({"Client-Cert": leaf}, {"Client-Cert": leaf, "Client-Cert-Chain": ", ".join(above)}):
        assert renewal.forwarded(headers, proxies="192.0.2.0/24") == 200
        assert renewal.forwarded(headers, proxies="198.51.100.0/24") == 401
        assert renewal.forwarded(headers) == 401
    assert renewal.forwarded({}, proxies="192.0.2.0/24") == 401
    assert renewal.forwarded({"Client-Cert": "::"}, proxies="192.0.2.0/24") == 400


def test_metrics_for_this_machine_are_not_for_those_behind_its_proxy(bench: Bench) -> None:
    """A proxy on loopback speaks for others: for those that it names, or, unknown to us, for whom we do not know."""
    local = ipaddress.ip_network("127.0.0.0/8")
    for proxies, sent, status in (
        ((), {}, 200),
        ((), {"X-Forwarded-For": "127.0.0.1"}, 404),
        ((local,), {"X-Forwarded-For": "127.0.0.1, 192.0.2.7"}, 404),
        ((local,), {"X-Forwarded-For": "192.0.2.7, 127.0.0.1"}, 200),
    ):
        service = replace(bench.service, proxies=proxies)
        client = TestClient(build(partial(replace, service)), client=("127.0.0.1", 1))
        assert client.get("/metrics", headers=sent).status_code == status


def test_a_renewal_gets_no_other_name(bench: Bench) -> None:
    """The workload of the evidence has to be that of the certificate."""
    status, problem = Renewal(bench).ask(digests=(Digest.of(b"other"),))
    assert (status, problem["gate"]) == (400, "rejected")
    assert "renewal.name: expected spiffe://example.com/workload/sha-256/" in str(problem["detail"])


def test_who_shows_nothing_or_what_counts_no_more_renews_nothing(bench: Bench) -> None:
    """No certificate, another CA's, or a revoked one is 401."""
    renewal = Renewal(bench)
    good = renewal.chain
    for shown in ((), tuple(reversed(good)), (bench.authority.issuer.certificate.der,)):
        renewal.chain = shown
        assert renewal.ask()[0] == 401
    renewal.chain = good
    bench.ledger.revoke("serial", f"{Certificate.parse(good[0]).serial:x}", AT)
    status, problem = renewal.ask()
    assert (status, "was revoked by the operator" in str(problem["detail"])) == (401, True)


def test_what_is_revoked_stands_in_the_list(bench: Bench) -> None:
    """One rule takes back what was issued, and the list is signed by the CA."""
    claims = support.claims_for(bench.authority)
    _, body = bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))
    issuer, leaf = (Certificate.parse(data) for data in der.sequence_of(body, "path", limit=2))
    before = crl.Crl.parse(bench.client.get("/crl").content)
    assert before.revoked == frozenset()
    taken = bench.ledger.revoke("workload", support.WORKLOAD.hex, AT)
    assert [int(item.serial, 16) for item in taken] == [leaf.serial]
    after = crl.Crl.parse(bench.client.get("/crl").content)
    crl.require_current(after, issuer, AT, "CRL")
    assert after.revoked == {leaf.serial}


def test_every_decision_is_one_line_with_every_check(bench: Bench) -> None:
    """The audit log tells of acceptance and refusal alike, and of no nonce."""
    claims = support.claims_for(bench.authority)
    bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))
    bench.post(support.request())
    accepted, refused = bench.lines()
    assert (accepted["verdict"], refused["verdict"]) == ("accepted", "untrusted")
    assert accepted["spiffe_id"] == f"spiffe://example.com/workload/sha-256/{support.WORKLOAD.hex}"
    assert {"request", "claims.audience", "claims.nonce", "revocation"} <= {
        check["name"]
        for check in accepted["checks"]  # type: ignore[attr-defined]  # a list of objects, as JSON says
    }
    assert (claims.nonce or b"").hex() not in bench.log.getvalue()


def test_the_certificate_has_the_profile(bench: Bench) -> None:
    """Every extension is as flow.md, section 4 says; `openssl` and we read the same."""
    _, body = bench.post(nil_request())
    leaf = x509.load_der_x509_certificate(der.sequence_of(body, "path", limit=2)[1])
    found = {extension.oid.dotted_string: extension.critical for extension in leaf.extensions}
    assert found == {
        "2.5.29.19": True,
        "2.5.29.15": True,
        "2.5.29.37": False,
        "2.5.29.14": False,
        "2.5.29.35": False,
        "2.5.29.17": False,
        "2.5.29.31": False,
        "2.25.67770326763034024982283820726568347927.10": False,
    }
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.com/keep/nil"]
    assert leaf.serial_number.bit_length() > 120


def test_what_happens_is_counted(bench: Bench) -> None:
    """Decisions, failed checks, certificates, nonces, answers and times; the CA's end; and no word of a requester."""
    claims = support.claims_for(bench.authority, audience="https://other.example.com")
    bench.post(nil_request())
    bench.post(bundle(nil_request(), nil_request()), BUNDLE)
    bench.post(support.request(support.nil_evidence(), support.claims_extension(claims)))
    bench.post(support.request())
    bench.post(b"nonsense")
    bench.client.get("/.well-known/est/nonce")
    answer = bench.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    for line in (
        'steward_decisions_total{technology="nil",verdict="accepted"} 3',
        'steward_decisions_total{technology="nil",verdict="untrusted"} 1',
        'steward_decisions_total{technology="none",verdict="untrusted"} 1',
        'steward_decisions_total{technology="none",verdict="malformed"} 1',
        'steward_failed_checks_total{check="claims.audience"} 1',
        'steward_certificates_issued_total{technology="nil"} 3',
        "steward_nonces_total 1",
        'steward_http_responses_total{code="200"} 3',
        'steward_http_responses_total{code="400"} 2',
        'steward_http_responses_total{code="401"} 1',
        "steward_decision_seconds_count 5",
        f"steward_issuer_not_after_seconds {int(bench.authority.issuer.certificate.not_after.timestamp())}",
    ):
        assert line in lines, line
    assert "other.example.com" not in answer.text
    assert all(re.fullmatch(r"# (HELP|TYPE) .*|[a-z_]+(\{[^{}]*\})? [0-9.e+-]+", line) for line in lines)


def test_metrics_are_for_loopback_unless_said_otherwise(bench: Bench, tmp_path: Path) -> None:
    """Others are told that there is nothing."""
    app = bench.client.app
    assert TestClient(app, client=("192.0.2.1", 1)).get("/metrics").status_code == 404
    open_to_all = TestClient(build(lambda: replace(bench.service, metrics_for="everybody")), client=("192.0.2.1", 1))
    assert open_to_all.get("/metrics").status_code == 200
    closed = TestClient(build(lambda: replace(bench.service, metrics_for="nobody")), client=("127.0.0.1", 1))
    assert closed.get("/metrics").status_code == 404


def test_readiness_is_more_than_life(bench: Bench) -> None:
    """A Steward whose CA has ended, or whose memory is damaged, lives and is not ready."""
    assert bench.client.get("/ready").json() == {"status": "ready"}
    late = TestClient(build(lambda: replace(bench.service, now=lambda: AT + timedelta(days=400))))
    assert (late.get("/health").status_code, late.get("/ready").status_code) == (200, 503)
    assert "the issuing certificate is valid from" in late.get("/ready").json()["detail"]
    (bench.directory / "state" / "revoked.json").write_text("{")
    assert bench.client.get("/ready").status_code == 503


def test_nothing_is_issued_that_is_not_written_down(bench: Bench) -> None:
    """Without room for the line of the audit log, or of the ledger, the answer is 503 and there is no certificate."""
    full = replace(bench.service, audit=AuditLog(lambda _: 0))
    answer = TestClient(build(lambda: full)).post("/", content=nil_request(), headers={"Content-Type": PKCS10})
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "the audit log cannot be written: no room for the whole line",
    )

    def broken(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    answer = TestClient(build(lambda: replace(bench.service, audit=AuditLog(broken)))).post(
        "/", content=nil_request(), headers={"Content-Type": PKCS10}
    )
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "the audit log cannot be written: No space left on device",
    )
    shutil.rmtree(bench.directory / "state")
    assert bench.post(nil_request())[0] == 503


def test_what_has_ended_is_forgotten(bench: Bench) -> None:
    """Two days after the end of what was issued its record goes, when a list is signed."""
    bench.post(nil_request())
    assert len(bench.ledger.issued()) == 1
    issuer = bench.authority.issuer
    bench.ledger.crl(issuer, AT + timedelta(days=1), timedelta(hours=1))
    assert len(bench.ledger.issued()) == 1
    bench.ledger.crl(issuer, AT + timedelta(days=3), timedelta(hours=1))
    assert bench.ledger.issued() == ()


def test_no_certificate_leaves_before_it_is_on_the_disk(bench: Bench) -> None:
    """A refusal waits for nothing; a flush that fails is 503."""
    flushed: list[int] = []

    def flush() -> None:
        flushed.append(len(bench.service.ledger.issued()))
        if len(flushed) > 1:
            raise UnavailableError("no disk")

    service = replace(bench.service, durable=Flushing(flush))
    client = TestClient(build(lambda: service))
    assert client.post("/", content=support.request(), headers={"Content-Type": PKCS10}).status_code == 401
    assert flushed == []
    before = len(bench.service.ledger.issued())
    assert client.post("/", content=nil_request(), headers={"Content-Type": PKCS10}).status_code == 200
    assert flushed == [before + 1]
    assert client.post("/", content=nil_request(), headers={"Content-Type": PKCS10}).status_code == 503


def test_what_is_our_trouble_is_no_fault_of_the_requester(bench: Bench, tmp_path: Path) -> None:
    """Damaged revocations or collateral are 503, nothing is issued, and the answer tells no path."""
    (tmp_path / "state" / "revoked.json").write_text("{")
    broken = replace(bench.service, authority=lambda: replace(bench.authority, revocations=bench.ledger.revocations))
    answer = TestClient(build(lambda: broken)).post("/", content=nil_request(), headers={"Content-Type": PKCS10})
    assert (answer.status_code, answer.json()["detail"]) == (
        503,
        "what this Steward keeps, collateral or revocations, cannot be read",
    )
    assert bench.ledger.issued() == ()
