"""Drawbridge on the wire: the originals' codes and sentences, and what they left open."""

import base64
import ipaddress
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
from joserfc.jwk import ECKey
from starlette.concurrency import run_in_threadpool
from starlette.testclient import TestClient

from enarx.attested import sealing
from enarx.attested.claims import RuntimeClaims
from enarx.attested.result import AttestationResult
from enarx.attested.sealing import Opener, SealingPrivateKey
from enarx.digest import Digest, Digests
from enarx.drawbridge import http
from enarx.drawbridge.access import HIDDEN, Leave, Member, RepositoryFacts
from enarx.drawbridge.auth.mtls import CrlSource
from enarx.drawbridge.governance import Governance
from enarx.drawbridge.history import Change, check
from enarx.drawbridge.http import build
from enarx.drawbridge.names import RepositoryName, UserName
from enarx.drawbridge.signing import SigningKey, sign
from enarx.drawbridge.tree import DIRECTORY_TYPE, Meta, Tree
from tests.unit.conftest import Authority, Issued
from tests.unit.drawbridge.auth.test_mtls import POINTS, revocations
from tests.unit.drawbridge.bench import API, ENTRY, JSON, ORIGIN, Bench, Shown
from tests.unit.drawbridge.issuers import AT, MANAGE, SUBJECT, Provider

FILES = {"main.wasm": b"\0asm" * 10, "Enarx.toml": b'args = ["a"]', "data/words.txt": b"words " * 1000}


@pytest.fixture
def bench(authority: Authority) -> Bench:
    return Bench(authority, at=datetime.now(UTC))


def certified(
    authority: Authority, result: AttestationResult, workload: Digest, **changes: Any
) -> tuple[Issued, SealingPrivateKey]:
    """A Keep's certificate for a workload, and what opens what is sealed to it."""
    private = SealingPrivateKey.generate()
    claims = RuntimeClaims(audience="https://steward.example", digests=(workload,), sealing=private.public)
    return authority.attest(replace(result, **({"claims": claims} | changes))), private


# -- compatibility


def test_health_answers_any_method_with_nothing(bench: Bench) -> None:
    """Without authentication, whatever the method."""
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        answer = bench.client.request(method, "/health")
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_user_is_registered_once_and_read_by_its_owner(bench: Bench) -> None:
    """201, 200 for the same again, 409 for another; headers exactly as uploaded."""
    body = b'{"subject":"test|subject"}'
    token = bench.token()
    assert bench.put("/user", body, token=token).status_code == 201
    assert bench.put("/user", body, token=token).status_code == 200
    other = bench.token("somebody")
    conflict = bench.put("/user", {"subject": "somebody"}, token=other)
    assert (conflict.status_code, conflict.text) == (409, "Already exists")
    answer = bench.ask("GET", "/user", token=token)
    assert answer.content == body
    assert answer.headers["content-type"] == JSON
    assert answer.headers["content-digest"] == Digests.of(body).header()
    assert "sha-256=:BBrx8hG+0yX9CP9vK4mT3icExt034N6dgtEy4Uwd39M=:" in answer.headers["content-digest"]
    head = bench.ask("HEAD", "/user", token=token)
    assert (head.content, head.headers["content-length"]) == (b"", "26")
    assert bench.put("/second", body, token=token).status_code == 201, "several names for a subject"


@pytest.mark.parametrize(
    ("changes", "status", "text", "challenge"),
    [
        ({"exp": 1}, 401, "Invalid token provided", 'error_description="it has expired"'),
        ({"aud": "other"}, 401, "Invalid token provided", "another audience"),
        ({"iss": "https://x/"}, 401, "Invalid token provided", "none of the trusted issuers"),
        ({"scope": "openid"}, 401, "Token does not grant write access to users", "insufficient_scope"),
        (
            {"scope": MANAGE.replace("manage:drawbridge_users", "read:drawbridge_users")},
            401,
            "Token does not grant",
            "",
        ),
        ({"sub": "other"}, 401, "OpenID Connect subject mismatch", "insufficient_scope"),
    ],
)
def test_a_token_that_does_not_count(
    bench: Bench, changes: dict[str, Any], status: int, text: str, challenge: str
) -> None:
    """401 and the originals' sentence; what was wrong stands in the challenge (RFC 6750)."""
    token = bench.provider.token(at=bench.at, **changes)
    answer = bench.put("/user", {"subject": SUBJECT}, token=token)
    assert answer.status_code == status
    assert answer.text.startswith(text)
    assert challenge in answer.headers["www-authenticate"]
    assert answer.headers["content-type"].startswith("text/plain")
    assert token not in bench.log.getvalue()


def test_no_token_and_no_header_that_could_hold_one(bench: Bench) -> None:
    """Absent: 401 and the originals' sentence. Another scheme: 400."""
    answer = bench.put("/user", {"subject": SUBJECT})
    assert (answer.status_code, answer.text) == (401, "Bearer token header missing")
    assert bench.ask("GET", "/user", Authorization="Basic abc").status_code == 400
    assert bench.ask("GET", "/user", Authorization="Bearer").status_code == 400


def test_errors_are_problems_where_they_are_asked_for(bench: Bench) -> None:
    """RFC 9457 when `Accept` names it, the sentence alone otherwise."""
    answer = bench.ask("GET", "/user", Accept="application/problem+json")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "Bearer token header missing"
    assert answer.json()["status"] == 401


def test_wrong_methods_routes_and_versions(bench: Bench) -> None:
    """405 naming the endpoint, 404 naming the route, 400 and 501 for the version."""
    for method, path in (("POST", "/user"), ("DELETE", "/user/repo/_tag/1.0.0"), ("PUT", "/user/repo/_tag")):
        answer = bench.ask(method, path, b"")
        assert answer.status_code == 405
        assert "endpoint" in answer.text
        assert "GET" in answer.headers["allow"]
    assert bench.client.get("/nothing").status_code == 404
    assert bench.client.get("/api/v1/user").status_code == 400
    assert bench.client.get("/api/v9.0.0/user").status_code == 501
    assert bench.client.get("/apiv0.4.3/user").status_code == 401


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b'{"subject":"test|subject"}', 400),
        ({"Content_Type": "text/plain"}, b'{"subject":"test|subject"}', 415),
        ({"Content_Type": "application/vnd.x+json"}, b'{"subject":"test|subject"}', 201),
        ({"Content_Type": JSON}, b'{"subject":', 400),
        ({"Content_Type": JSON}, b'{"subject":"test|subject","more":1}', 422),
        ({"Content_Type": JSON}, b'{"name":"x"}', 422),
        ({"Content_Type": JSON, "Content_Digest": "sha-256=:AAAA:"}, b'{"subject":"test|subject"}', 400),
        ({"Content_Type": JSON, "Content_Digest": Digests.of(b"x").header()}, b'{"subject":"test|subject"}', 400),
    ],
)
def test_what_a_put_has_to_say_about_its_body(bench: Bench, headers: dict[str, str], body: bytes, status: int) -> None:
    """Type, JSON, shape, digest: each with its code."""
    answer = bench.ask("PUT", "/user", body, token=bench.token(), **headers)
    assert answer.status_code == status, answer.text


def test_a_body_without_a_length_is_refused(bench: Bench) -> None:
    """Chunked without Content-Length: 400."""
    token = bench.token()
    answer = bench.client.put(
        API + "/user",
        content=iter([b'{"subject":"test|subject"}']),
        headers={"Authorization": f"Bearer {token}", "Content-Type": JSON},
    )
    assert (answer.status_code, answer.text) == (400, "Content-Length header missing")


def test_a_body_too_large_is_refused_before_it_is_read(authority: Authority) -> None:
    """2 MiB for documents, what is configured for files."""
    bench = Bench(authority, at=datetime.now(UTC), upload_bytes=100)
    token = bench.claim(repo=True)
    assert bench.put("/user", b" " * (2 * 1024 * 1024 + 1), token=token).status_code == 413
    answer = bench.put("/user/repo/_tag/1.0.0/tree", b" " * 101, "application/wasm", token=token)
    assert answer.status_code == 413


def test_tags_and_trees_need_a_digest(bench: Bench) -> None:
    """At least one, in the originals' words; and a parent that is there."""
    token = bench.claim(repo=True)
    root = Tree.from_files(FILES).root
    for path, kind in (("/user/repo/_tag/1.0.0", ENTRY), ("/user/repo/_tag/1.0.0/tree", DIRECTORY_TYPE)):
        answer = bench.ask("PUT", path, root.encode(), token=token, Content_Type=kind)
        assert answer.status_code in {400, 404}
    answer = bench.ask("PUT", "/user/repo/_tag/1.0.0", root.encode(), token=token, Content_Type=ENTRY)
    assert answer.text == "At least one content digest value must be specified"
    answer = bench.put("/user/repo/_tag/1.0.0", root.encode(), JSON, token=token)
    assert (answer.status_code, answer.text[:20]) == (400, "Invalid content type")
    assert bench.put("/user/none/_tag/1.0.0", root.encode(), ENTRY, token=token).status_code == 404


def test_a_package_goes_up_and_comes_down(bench: Bench) -> None:
    """Every node with its own headers; the tag names the Steward and its workload; the list is sorted."""
    token = bench.claim(repo=True)
    tree = bench.publish("/user/repo/_tag/1.10.0", FILES, token)
    bench.publish("/user/repo/_tag/1.9.0", FILES, token)
    assert bench.ask("GET", "/user/repo/_tag").json() == ["1.9.0", "1.10.0"]
    tag = bench.ask("GET", "/user/repo/_tag/1.10.0")
    assert tag.content == tree.root.encode()
    assert tag.headers["link"] == '<https://steward.example.com>; rel="steward"'
    assert tag.headers["enarx-workload"] == str(tree.workload)
    for node in tree.nodes:
        answer = bench.ask("GET", f"/user/repo/_tag/1.10.0/tree/{node.path.url}")
        with node.open() as file:
            assert answer.content == file.read()
        assert answer.headers["content-type"] == node.entry.meta.media_type
        assert answer.headers["content-digest"] == node.entry.meta.digests.header()
        assert "sandbox" in answer.headers["content-security-policy"]
    for missing in ("/user/repo/_tag/9.0.0", "/user/repo/_tag/1.9.0/tree/none"):
        answer = bench.ask("GET", missing, token=token)
        assert (answer.status_code, answer.text) == (404, "Repository does not exist")


def test_an_upload_that_is_wrong_leaves_nothing(bench: Bench) -> None:
    """Wrong bytes: 400, the name stays free, and the day's allowance is given back."""
    token = bench.claim(repo=True)
    tree = Tree.from_files({"main.wasm": b"right"})
    bench.put("/user/repo/_tag/1.0.0", tree.root.encode(), ENTRY, token=token)
    meta = tree.nodes[0].entry.meta
    path = "/user/repo/_tag/1.0.0/tree"
    wrong = bench.ask(
        "PUT", path, b"x" * meta.length, token=token, Content_Type=DIRECTORY_TYPE, Content_Digest=meta.digests.header()
    )
    assert wrong.status_code == 400
    assert bench.ask("GET", path).status_code == 404
    bench.service.uploads.take(f"person:corp {SUBJECT}", bench.uploads)  # all of it is there


def test_a_repository_can_ask_for_signatures(bench: Bench) -> None:
    """Once keys are named, a tag without a signature of one of them is refused; a signed one is not."""
    token = bench.claim(repo=True)
    key = SigningKey(name="alice", key=ECKey.generate_key("P-256", private=True))
    pem = key.public_pem().decode()
    assert bench.put("/user/repo/_signer", {"alice": pem}, token=token).status_code == 200
    assert bench.ask("GET", "/user/repo/_signer", token=token).json()["signers"][0]["id"] == key.key_id
    root = Tree.from_files(FILES).root
    unsigned = bench.put("/user/repo/_tag/1.0.0", root.encode(), ENTRY, token=token)
    assert (unsigned.status_code, "expected a signature by" in unsigned.text) == (401, True)
    signed = sign(root, "user/repo:1.0.0", [key])
    assert bench.put("/user/repo/_tag/1.0.0", signed.encode(), signed.media_type, token=token).status_code == 201
    assert bench.put("/user/repo/_tag/2.0.0", signed.encode(), signed.media_type, token=token).status_code == 401
    for wrong in ({"alice": "no key"}, {"a b": pem}, {"alice": 7}):
        assert bench.put("/user/repo/_signer", wrong, token=token).status_code == 400
    assert bench.put("/user/repo/_signer", {}, token=token).status_code == 200
    assert bench.put("/user/repo/_tag/2.0.0", root.encode(), ENTRY, token=token).status_code == 201


def test_ranges_and_conditions(bench: Bench) -> None:
    """206, 304 and 416 as HTTP has them, for what is not sealed."""
    token = bench.claim(repo=True)
    bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    path = "/user/repo/_tag/1.0.0/tree/data/words.txt"
    whole = bench.ask("GET", path)
    etag, body = whole.headers["etag"], whole.content
    for text, expected in (("bytes=0-9", body[:10]), ("bytes=5990-", body[5990:]), ("bytes=-7", body[-7:])):
        answer = bench.ask("GET", path, Range=text)
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["repr-digest"] == whole.headers["content-digest"]
        assert "content-digest" not in answer.headers
    assert bench.ask("GET", path, Range="bytes=0-9").headers["content-range"] == "bytes 0-9/6000"
    asked = bench.ask("HEAD", path, Range="bytes=0-9")
    assert (asked.status_code, asked.headers["content-length"]) == (200, "6000")
    outside = bench.ask("GET", path, Range="bytes=6000-")
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */6000")
    assert bench.ask("GET", path, Range=f"bytes={'9' * 30}-").status_code == 416, "however far outside"
    assert bench.ask("GET", path, Range=f"bytes=0-{'9' * 5000}").content == body
    assert bench.ask("GET", path, Range="Bytes=0-9").content == body[:10], "units are the same in capitals"
    for text in ("bytes=0-1,5-6", "bytes=x-", "lines=1-2", "bytes=9-1", "bytes=-"):
        assert bench.ask("GET", path, Range=text).status_code == 200
    assert bench.ask("GET", path, Range="bytes=0-9", If_Range='"other"').status_code == 200
    assert bench.ask("GET", path, Range="bytes=0-9", If_Range=etag).status_code == 206
    assert bench.ask("GET", path, If_None_Match=f'"x", {etag}').status_code == 304
    assert bench.ask("GET", path, If_Match=f'"x", {etag}').status_code == 200
    assert bench.ask("GET", path, If_Match="*").status_code == 200
    assert bench.ask("GET", path, If_Match=f"W/{etag}").status_code == 412, "a weak one says nothing of bytes"
    assert bench.ask("GET", "/user/repo/_tag", If_Match='"x"').status_code == 412
    assert bench.ask("GET", "/user/repo/_tag/1.0.0", If_None_Match="*").status_code == 304


def test_a_change_may_depend_on_what_is_there(bench: Bench) -> None:
    """If-Match wants something there, If-None-Match nothing: else 412, and nothing changes."""
    token = bench.claim(repo=True)
    member, path = b'{"role":"reader","subject":"alice"}', "/user/repo/_member/alice"
    put = partial(bench.ask, "PUT", path, member, token=token, Content_Type=JSON)
    assert put(If_Match="*").status_code == 412
    assert bench.ask("GET", path, token=token).status_code == 404
    assert put(If_None_Match="*").status_code == 201
    assert put(If_None_Match="*").status_code == 412
    assert put(If_Match='"x"').status_code == 412
    assert put(If_Match="*").status_code == 200
    assert bench.ask("DELETE", path, token=token, If_Match='"x"').status_code == 412
    record = bench.ask("GET", "/user", token=token)
    again = partial(bench.ask, "PUT", "/user", record.content, token=token, Content_Type=JSON)
    assert again(If_Match=record.headers["etag"]).status_code == 200
    assert again(If_None_Match=record.headers["etag"]).status_code == 412
    tree = "/user/repo/_tag/1.0.0/tree"
    bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    headers = {"Content_Type": "application/wasm", "Content_Digest": Digests.of(FILES["main.wasm"]).header()}
    node = partial(bench.ask, "PUT", f"{tree}/main.wasm", FILES["main.wasm"], token=token, **headers)
    assert node(If_None_Match="*").status_code == 412
    assert node(If_Match="*").status_code == 200
    stranger = bench.ask("PUT", "/user/repo/_member/alice", member, token=bench.token("s"), If_Match="*")
    assert stranger.status_code == 401


def test_a_body_comes_as_it_is(bench: Bench) -> None:
    """Digests are of what is stored: a compressed body is refused, and the answer says what would do."""
    token = bench.token()
    body = b'{"subject":"test|subject"}'
    answer = bench.ask("PUT", "/user", body, token=token, Content_Type=JSON, Content_Encoding="gzip")
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    plain = bench.ask("PUT", "/user", body, token=token, Content_Type=JSON, Content_Encoding="identity")
    assert plain.status_code == 201


def test_tags_that_are_near_are_answered_at_once_and_the_same(bench: Bench) -> None:
    """Without a thread once the token was verified: who may read, who may not, until when, and 404 as before."""
    token, there = bench.claim(repo=False, open=True), "/user/repo/_tag/1.0.0"
    for name in ("repo", "open"):
        bench.publish(f"/user/{name}/_tag/1.0.0", FILES, token)
    stranger = bench.token("stranger")
    asked = [(there, token), (there, stranger), (there, None), (there, token + "x"), (f"{there}-none", token)]
    asked += [("/user/open/_tag/1.0.0", None), ("/user/open/_tag/1.0.0", token), ("/nobody/repo/_tag/1.0.0", token)]
    before = [bench.ask("GET", path, token=shown) for path, shown in asked]
    bench.client = TestClient(Shown(build(replace(bench.service, near=True)), bench), base_url=ORIGIN)
    with patch("enarx.drawbridge.http.run_in_threadpool", wraps=run_in_threadpool) as hopped:
        after = [bench.ask("GET", path, token=shown) for path, shown in asked]
        assert hopped.call_count == 1  # what is no token of anybody is judged as ever
    shown_of = ("Content-Digest", "ETag", "Content-Type", "Enarx-Workload", "WWW-Authenticate", "Link")
    for old, new in zip(before, after, strict=True):
        assert (old.status_code, old.content) == (new.status_code, new.content)
        assert [old.headers.get(name) for name in shown_of] == [new.headers.get(name) for name in shown_of]
    assert [answer.status_code for answer in after] == [200, 401, 401, 401, 404, 200, 200, 401]
    bench.at += timedelta(hours=2)
    assert bench.ask("GET", there, token=token).status_code == 401


def test_damage_on_disk_is_an_error_and_never_wrong_bytes(bench: Bench) -> None:
    """A blob that was altered: 503, before the first byte."""
    token = bench.claim(repo=True)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    objects: dict[Any, Any] = bench.store._objects  # type: ignore[attr-defined]  # the memory store
    digest = next(node.entry.sha256 for node in tree.nodes if node.path.url == "main.wasm")
    assert digest is not None
    (key,) = [key for key in objects if key.text == f"blobs/{digest.hex[:2]}/{digest.hex}"]
    objects[key] = (b"\1" + objects[key][0][1:], objects[key][1])
    assert bench.ask("GET", "/user/repo/_tag/1.0.0/tree/main.wasm").status_code == 503


# -- who may


def test_what_may_not_be_known_is_not_told(bench: Bench) -> None:
    """Private or missing: to a stranger the same status and the same words, on every resource."""
    token = bench.claim(repo=False)
    bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    stranger = bench.token("stranger")
    answers = set()
    for user in ("user", "nobody"):
        for repository in ("repo", "none"):
            for rest in ("/_tag", "/_tag/1.0.0", "/_tag/2.0.0", "/_tag/1.0.0/tree", "/_tag/1.0.0/tree/none"):
                for who in (None, stranger):
                    answer = bench.ask("GET", f"/{user}/{repository}{rest}", token=who)
                    answers.add((answer.status_code, answer.text, answer.headers.get("www-authenticate")))
            for rest in ("", "/_policy", "/_member", "/_token", "/_log"):
                answer = bench.ask("GET", f"/{user}/{repository}{rest}", token=stranger)
                answers.add((answer.status_code, answer.text, answer.headers.get("www-authenticate")))
    assert answers == {(401, HIDDEN, "Bearer")}
    assert bench.ask("GET", "/user/none", token=token).text == "Repository does not exist"
    assert bench.ask("GET", "/user/none", token=token).status_code == 404


def test_the_record_of_a_public_repository_is_its_members(bench: Bench) -> None:
    """As in the originals: tags and trees for everybody, the record for who belongs there."""
    token = bench.claim(repo=True)
    assert bench.ask("GET", "/user/repo").status_code == 401
    assert bench.ask("GET", "/user/repo", token=token).content == b'{"public":true}'
    assert bench.ask("GET", "/user/repo/_tag").content == b"[]"


def test_the_same_subject_of_another_issuer_is_somebody_else(authority: Authority) -> None:
    """A name belongs to a subject of one issuer; another's has no part in it, and does not learn that it is the same."""
    other = Provider("https://ci.example.com")
    bench = Bench(authority, at=datetime.now(UTC), machine=other)
    bench.claim(repo=False)
    token = other.token(at=bench.at, sub=SUBJECT)
    assert bench.ask("GET", "/user", token=token).status_code == 401
    assert bench.ask("GET", "/user/repo/_tag", token=token).text == HIDDEN


def test_members_have_roles_and_lose_them(bench: Bench) -> None:
    """Reader, publisher, owner, on a repository and on a name space; who is removed is nobody at once."""
    token = bench.claim(repo=False)
    bench.claim("alice", "alice")
    alice = bench.token("alice")
    tree = Tree.from_files(FILES)
    assert bench.ask("GET", "/user/repo/_tag", token=alice).status_code == 401
    made = bench.put("/user/repo/_member/alice", {"role": "reader", "user": "alice"}, token=token)
    assert made.status_code == 201
    assert bench.ask("GET", "/user/repo/_tag", token=alice).status_code == 200
    refused = bench.put("/user/repo/_tag/1.0.0", tree.root.encode(), ENTRY, token=alice)
    assert (refused.status_code, refused.text) == (401, "This takes the role publisher, yours is reader")
    assert bench.put("/user/repo/_member/alice", {"role": "owner", "user": "alice"}, token=alice).status_code == 401
    made = bench.put("/user/_member/alice", {"role": "publisher", "subject": "alice"}, token=token)
    assert made.status_code == 201
    assert bench.put("/user/repo/_tag/1.0.0", tree.root.encode(), ENTRY, token=alice).status_code == 201
    listed = bench.ask("GET", "/user/_member", token=token).json()
    assert listed["owner"] == {"issuer": "corp", "subject": SUBJECT}
    assert listed["members"] == [{"name": "alice", "role": "publisher", "issuer": "corp", "subject": "alice"}]
    assert bench.ask("DELETE", "/user/_member/alice", token=token).status_code == 204
    assert bench.ask("DELETE", "/user/repo/_member/alice", token=token).status_code == 204
    assert bench.ask("DELETE", "/user/repo/_member/alice", token=token).status_code == 404
    assert bench.ask("GET", "/user/repo/_tag", token=alice).status_code == 401
    events = [change["event"] for change in bench.ask("GET", "/user/repo/_log", token=token).json()["changes"]]
    assert events == ["repository-created", "member-set", "tag-published", "member-removed"]


def test_a_name_space_has_a_history_of_its_members(bench: Bench) -> None:
    """Who was made what by whom, for whoever belongs there; for a stranger it is as if there were no such name."""
    token = bench.claim()
    alice = {"role": "publisher", "subject": "alice"}
    assert bench.ask("GET", "/user/_log", token=token).json() == {"changes": []}
    bench.put("/user/_member/alice", alice, token=token)
    bench.put("/user/_member/alice", {**alice, "role": "reader"}, token=token)
    bench.ask("DELETE", "/user/_member/alice", token=token)
    changes = [Change.from_json(item) for item in bench.ask("GET", "/user/_log", token=token).json()["changes"]]
    assert [(change.event, change.detail.get("role"), change.by) for change in check(changes)] == [
        ("member-set", "publisher", f"corp {SUBJECT}"),
        ("member-set", "reader", f"corp {SUBJECT}"),
        ("member-removed", None, f"corp {SUBJECT}"),
    ]
    for path in ("/user/_log", "/nobody/_log"):
        for who in (None, bench.token("stranger")):
            assert bench.ask("GET", path, token=who).status_code == 401


def test_a_ci_job_publishes_where_it_is_trusted(authority: Authority) -> None:
    """Trusted publishing: the claims of a token, against a pattern that the owner set."""
    runner = Provider("https://ci.example.com")
    bench = Bench(authority, at=datetime.now(UTC), machine=runner)
    token = bench.claim(repo=False, other=False)
    member = {"role": "publisher", "issuer": "ci", "claims": {"repository": "org/app", "ref": "refs/tags/*"}}
    assert bench.put("/user/repo/_member/ci", member, token=token).status_code == 201
    job = runner.token(at=bench.at, sub="job", scope=None, repository="org/app", ref="refs/tags/v1")
    bench.publish("/user/repo/_tag/1.0.0", FILES, job)
    fork = runner.token(at=bench.at, sub="job", scope=None, repository="mallory/app", ref="refs/tags/v1")
    root = Tree.from_files(FILES).root.encode()
    assert bench.put("/user/repo/_tag/2.0.0", root, ENTRY, token=fork).text == HIDDEN
    assert bench.put("/user/other/_tag/2.0.0", root, ENTRY, token=job).text == HIDDEN
    assert bench.put("/user/repo/_member/x", {"role": "owner", "user": "user"}, token=job).status_code == 401


def test_the_older_generation(authority: Authority) -> None:
    """`tokens = "userinfo"`: opaque tokens, one name for a subject, and the sentences of 0.2.2 (transcript 6.3)."""
    bench = Bench(authority, at=datetime.now(UTC), userinfo=True)
    bench.provider.known["test-token"] = {"sub": SUBJECT}
    bench.provider.known["other-token"] = {"sub": "other"}
    answer = bench.ask("GET", "/testuser", token="test-token")
    assert (answer.status_code, answer.text) == (
        401,
        f"User with OpenID Connect subject `{SUBJECT}` not found",
    )
    assert bench.ask("GET", "/testuser", token="bad-token").text == "Invalid token provided"
    assert bench.put("/testuser", {"subject": SUBJECT}, token="test-token").status_code == 201
    second = bench.put("/testuser2", {"subject": SUBJECT}, token="test-token")
    assert (second.status_code, second.text) == (
        409,
        f"User already associated with OpenID Connect subject `{SUBJECT}`",
    )
    assert bench.ask("GET", "/testuser", token="test-token").json() == {"subject": SUBJECT}
    missing = bench.ask("GET", "/testuser/pubrepo", token="test-token")
    assert (missing.status_code, missing.text) == (404, "Repository does not exist")
    bench.put("/other", {"subject": "other"}, token="other-token")
    assert bench.ask("GET", "/testuser", token="other-token").text == "User `other` is not `testuser`"


# -- Keeps


def test_a_keep_gets_its_workload_sealed_and_nothing_else(
    bench: Bench, authority: Authority, result: AttestationResult
) -> None:
    """The tree of the digest in its certificate, sealed to its key on every path; its tag; no other; no list."""
    token = bench.claim(repo=False, other=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    bench.publish("/user/other/_tag/1.0.0", {"main.wasm": b"secret"}, token)
    issued, private = certified(authority, result, tree.workload)
    bench.chain = issued.chain
    assert bench.ask("GET", "/user/repo/_tag/1.0.0").content == tree.root.encode()
    for node in tree.nodes:
        path = f"/user/repo/_tag/1.0.0/tree/{node.path.url}"
        answer = bench.ask("GET", path, Range="bytes=0-1", If_None_Match="*")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == sealing.MEDIA_TYPE
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
        opener = Opener(private, leaf=issued.der, workload=tree.workload, path=str(node.path))
        body = b"".join(opener.feed(answer.content))
        opener.finish()
        with node.open() as file:
            assert body == file.read()
        assert Meta.parse(opener.meta or b"") == node.entry.meta
        assert bench.ask("HEAD", path).headers["content-length"] == str(len(answer.content))
    said = set()
    for path in (
        "/user/other/_tag/1.0.0",
        "/user/other/_tag/1.0.0/tree",
        "/user/none/_tag/1.0.0",
        "/user/repo/_tag/2.0.0",
    ):
        answer = bench.ask("GET", path)
        said.add((answer.status_code, answer.text))
    assert said == {(403, f"The certificate is for workload {tree.workload}, and opens no other")}
    assert bench.ask("GET", "/user/repo/_tag").text == HIDDEN
    (released,) = [line for line in bench.audit() if line["event"] == "released"]
    assert released["workload"] == str(tree.workload)


def test_a_certificate_without_a_result_or_a_sealing_key_opens_nothing_private(
    bench: Bench, authority: Authority, result: AttestationResult
) -> None:
    """Both may read what is public; of what is private the first is nobody, and the second is told what it lacks."""
    token = bench.claim(repo=False, public=True)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    bench.publish("/user/public/_tag/1.0.0", FILES, token)
    bench.chain = authority.attest(None).chain
    assert bench.ask("GET", "/user/repo/_tag/1.0.0/tree").text == HIDDEN
    assert bench.ask("GET", "/user/public/_tag/1.0.0/tree").status_code == 200
    claims = RuntimeClaims(audience="https://steward.example", digests=(tree.workload,))
    bench.chain = authority.attest(replace(result, claims=claims)).chain
    refused = bench.ask("GET", "/user/repo/_tag/1.0.0/tree")
    assert (refused.status_code, refused.text) == (
        403,
        "The certificate names no sealing key, so it may read public trees only",
    )
    assert bench.ask("GET", "/user/public/_tag/1.0.0/tree").headers["content-type"] == DIRECTORY_TYPE


def test_a_release_policy_decides_and_explains(authority: Authority, result: AttestationResult) -> None:
    """Simulated Keeps get nothing by default; a policy is set in TOML or JSON, tested with a certificate, and counts."""
    bench = Bench(authority, at=datetime.now(UTC))
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    issued, _ = certified(authority, result, tree.workload, simulated=True)
    bench.chain = issued.chain
    path = "/user/repo/_tag/1.0.0/tree"
    refused = bench.ask("GET", path, Accept="application/problem+json")
    assert refused.status_code == 403
    assert refused.json()["reasons"] == ["technology: expected real hardware, found a simulated TEE"]
    bench.chain = ()
    shown = bench.ask("GET", "/user/repo/_policy", token=token).json()
    assert shown["policy"] is None
    assert "Never released to a simulated TEE, which protects nothing." in shown["sentences"]
    tested = bench.ask("POST", "/user/repo/_policy/test", issued.chain_pem, token=token).json()
    assert tested["accepted"] is False
    assert tested["keep"]["technology"] == "snp"
    toml = b"technologies = ['snp']\nsteward = 'https://other.example.com'\n[unsafe]\naccept_simulated = true\n"
    assert bench.ask("PUT", "/user/repo/_policy", toml, token=token, Content_Type="application/toml").status_code == 201
    assert bench.ask("POST", "/user/repo/_policy/test", issued.chain_pem, token=token).json()["accepted"] is True
    bench.chain = issued.chain
    assert bench.ask("GET", path).status_code == 200
    assert "other.example.com" in bench.ask("GET", "/user/repo/_tag/1.0.0").headers["link"]
    bench.chain = ()
    strict = b'{"technologies":["sgx"]}'
    assert bench.ask("PUT", "/user/repo/_policy", strict, token=token, Content_Type=JSON).status_code == 200
    bench.chain = issued.chain
    assert bench.ask("GET", path).status_code == 403
    bench.chain = ()
    wrong = bench.ask("PUT", "/user/repo/_policy", b'{"technologys":[]}', token=token, Content_Type=JSON)
    assert (wrong.status_code, "technologys: unknown key" in wrong.text) == (400, True)
    assert bench.ask("DELETE", "/user/repo/_policy", token=token).status_code == 204
    lenient = Bench(authority, leave=Leave(simulated=True), store=bench.store, at=bench.at)
    lenient.chain = issued.chain
    assert lenient.ask("GET", path).status_code == 200


def test_revocation_is_asked_about_each_time(authority: Authority, result: AttestationResult) -> None:
    """A revoked certificate: 401. No current list: 503 to a certificate, and nothing to anybody else."""
    lists: list[bytes] = [revocations(authority)]
    source = CrlSource("steward", lambda: lists[-1], clock=iter(range(0, 10**9, 1000)).__next__)
    bench = Bench(authority, at=datetime.now(UTC), sources=(source,))
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    private = SealingPrivateKey.generate()
    claims = RuntimeClaims(audience="https://steward.example", digests=(tree.workload,), sealing=private.public)
    issued = authority.attest(replace(result, claims=claims), extensions=((POINTS, False),))
    bench.chain = issued.chain
    path = "/user/repo/_tag/1.0.0/tree"
    assert bench.ask("GET", path).status_code == 200
    lists.append(revocations(authority, issued.certificate.serial_number, number=2))
    revoked = bench.ask("GET", path)
    assert revoked.status_code == 401
    assert "is revoked by its issuer" in revoked.text
    lists.append(revocations(authority, number=3, ends=timedelta(seconds=-50)))
    assert bench.ask("GET", path).status_code == 503
    bench.chain = ()
    assert bench.ask("GET", "/user/repo/_tag", token=token).status_code == 200


def test_a_proxy_that_ends_tls_passes_the_certificate_on(authority: Authority, result: AttestationResult) -> None:
    """RFC 9440 from a trusted address; from another the header is nothing. What passes through is sealed."""
    bench = Bench(authority, at=datetime.now(UTC), proxies=(ipaddress.ip_network("192.0.2.0/24"),))
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    issued, _ = certified(authority, result, tree.workload)
    header = ":" + base64.b64encode(issued.der).decode() + ":"
    path = "/user/repo/_tag/1.0.0/tree/main.wasm"
    answer = bench.ask("GET", path, Client_Cert=header)
    assert (answer.status_code, answer.headers["content-type"]) == (200, sealing.MEDIA_TYPE)
    assert FILES["main.wasm"] not in answer.content
    assert bench.ask("GET", path, Client_Cert="nonsense").status_code == 400
    bench.address = "198.51.100.7"
    assert bench.ask("GET", path, Client_Cert=header).text == HIDDEN


# -- deploy tokens


def order(bench: Bench, token: str, **what: Any) -> dict[str, Any]:
    answer = bench.ask("POST", "/user/repo/_token", json.dumps(what).encode(), token=token, Content_Type=JSON)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_deploy_token_opens_its_tag_and_is_a_second_factor(
    bench: Bench, authority: Authority, result: AttestationResult
) -> None:
    """Shown once, kept as a hash; alone the tag; with the certificate what a policy holds back without it."""
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    bench.publish("/user/repo/_tag/2.0.0", {"main.wasm": b"other"}, token)
    made = order(bench, token, tag="1.0.0", lifetime=3600)
    secret = made["token"]
    assert secret.startswith(f"enarx_dt_{made['id']}_")
    assert secret not in str(bench.store.__dict__)
    assert secret not in bench.log.getvalue()
    assert "token" not in bench.ask("GET", f"/user/repo/_token/{made['id']}", token=token).json()
    assert bench.ask("GET", "/user/repo/_tag/1.0.0", token=secret).status_code == 200
    for path in ("/_tag/2.0.0", "/_tag", "/_tag/1.0.0/tree", ""):
        assert bench.ask("GET", f"/user/repo{path}", token=secret).status_code == 401
    guess = secret[:-1] + ("A" if secret[-1] != "A" else "E")
    assert bench.ask("GET", "/user/repo/_tag/1.0.0", token=guess).text == HIDDEN
    bench.put("/user/repo/_policy", {"require_token": True}, token=token)
    issued, _ = certified(authority, result, tree.workload)
    bench.chain = issued.chain
    alone = bench.ask("GET", "/user/repo/_tag/1.0.0/tree")
    assert (alone.status_code, "deploy token" in alone.text) == (403, True)
    assert bench.ask("GET", "/user/repo/_tag/1.0.0/tree", token=secret).status_code == 200
    bench.chain = ()
    assert bench.ask("DELETE", f"/user/repo/_token/{made['id']}", token=token).status_code == 204
    assert bench.ask("GET", "/user/repo/_tag/1.0.0", token=secret).text == HIDDEN


def test_a_deploy_token_ends_and_is_used_up(bench: Bench, authority: Authority, result: AttestationResult) -> None:
    """One use is one Keep: it may read on, the next one gets nothing; after its end nobody does."""
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    made = order(bench, token, digest=str(tree.workload), uses=1)
    secret = made["token"]
    first, _ = certified(authority, result, tree.workload)
    second, _ = certified(authority, result, tree.workload)
    path = "/user/repo/_tag/1.0.0/tree"
    bench.chain = first.chain
    for _ in range(2):
        assert bench.ask("GET", path, token=secret).status_code == 200
    bench.chain = second.chain
    used = bench.ask("GET", path, token=secret)
    assert (used.status_code, used.text) == (401, "The deploy token was used as often as it may be")
    bench.chain = ()
    assert bench.ask("GET", "/user/repo/_token", token=token).json()["tokens"][0]["left"] == 0
    bench.at += timedelta(minutes=11)
    bench.chain = first.chain
    ended = bench.ask("GET", path, token=secret)
    assert (ended.status_code, ended.text[:26]) == (401, "The deploy token ended at ")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({}, "either tag or digest"),
        ({"tag": "1.0.0", "digest": "00" * 32}, "either tag or digest"),
        ({"tag": "one"}, "tag name"),
        ({"digest": "xx"}, "digest"),
        ({"tag": "1.0.0", "lifetime": 0}, "lifetime: expected 1 to"),
        ({"tag": "1.0.0", "uses": 0}, "uses: expected 1 to"),
        ({"tag": "1.0.0", "label": "\x1b[31m"}, "label"),
        ({"tag": "1.0.0", "more": 1}, "more"),
    ],
)
def test_an_order_for_a_token_is_read_strictly(bench: Bench, what: dict[str, Any], why: str) -> None:
    """Each wrong member by its name."""
    token = bench.claim(repo=False)
    answer = bench.ask("POST", "/user/repo/_token", json.dumps(what).encode(), token=token, Content_Type=JSON)
    assert answer.status_code == 400
    assert why in answer.text


# -- the rest


def test_yanked_tags_say_so(bench: Bench) -> None:
    """Readable as before, with the reason beside it; and back again."""
    token = bench.claim(repo=True)
    bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    assert bench.put("/user/repo/_yank/1.0.0", {"reason": "leaks"}, token=token).status_code == 201
    assert bench.ask("GET", "/user/repo/_tag/1.0.0").headers["enarx-yanked"] == "leaks"
    assert bench.ask("GET", "/user/repo/_yank/1.0.0").json() == {"yanked": "leaks"}
    assert bench.put("/user/repo/_yank/1.0.0", {"reason": "100 % Lücke, 漏"}, token=token).status_code == 201
    assert bench.ask("GET", "/user/repo/_tag/1.0.0").headers["enarx-yanked"] == "100 %25 L%C3%BCcke, %E6%BC%8F"
    assert bench.ask("DELETE", "/user/repo/_yank/1.0.0", token=token).status_code == 204
    assert "enarx-yanked" not in bench.ask("GET", "/user/repo/_tag/1.0.0").headers


def test_the_time_of_a_refusal_does_not_tell_what_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves after a whole number of steps, however long it took; whatever is no refusal does not wait."""
    for elapsed, left in ((0.0, 0.25), (0.125, 0.125), (0.625, 0.125), (1.0, 0.25)):
        assert http.until_next(elapsed, 0.25) == left
    assert http.until_next(0.1, 0.0) == 0
    token = bench.claim(hidden=False, shown=True)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("enarx.drawbridge.http.asyncio.sleep", sleep)
    bench.client = TestClient(Shown(build(replace(bench.service, refusal_step=1e9)), bench), base_url=ORIGIN)
    assert bench.ask("GET", "/user/shown/_tag").status_code == 200
    assert bench.ask("GET", "/user/absent", token=token).status_code == 404
    assert slept == []
    for repository in ("hidden", "absent"):
        assert bench.ask("GET", f"/user/{repository}/_tag").text == HIDDEN
    assert len(slept) == 2
    assert all(1e9 - 1000 < seconds <= 1e9 for seconds in slept)


def names(bench: Bench, query: str, token: str | None = None) -> tuple[list[str], str | None]:
    answer = bench.ask("GET", f"/_search?{query}", token=token).json()
    return [f"{found['user']}/{found['name']}" for found in answer["repositories"]], answer["after"]


def test_a_member_whom_no_token_could_show_is_refused(authority: Authority) -> None:
    """An issuer that the server does not know, claims of people, a machine's subject: a slip lets nobody in."""
    bench = Bench(authority, machine=Provider(url="https://ci.example.com"))
    token = bench.claim(repo=True)
    claims = {"claims": {"repository": "org/app"}}
    for who, told in (
        ({"issuer": "Corp", "subject": "alice"}, "issuer: expected one of ci, corp, found 'Corp'"),
        ({"issuer": "github", **claims}, "issuer: expected one of ci, corp, found 'github'"),
        ({"issuer": "corp", **claims}, "corp vouches for people"),
        (claims, "corp vouches for people"),
        ({"issuer": "ci", "subject": "repo:org/app"}, "ci vouches for machines"),
    ):
        answer = bench.put("/user/repo/_member/x", {"role": "reader", **who}, token=token)
        assert answer.status_code == 400
        assert told in answer.text
    assert bench.ask("GET", "/user/repo/_member", token=token).json()["members"] == []


def test_search_finds_what_one_is_a_member_of(bench: Bench) -> None:
    """Of a repository, or of a name space, as long as one is; a subject of the same name elsewhere is nobody."""
    token = bench.claim(alpha=False, beta=False)
    bench.claim("other", "other", theirs=False)
    friend = bench.token("friend")
    assert names(bench, "", friend) == ([], None)
    bench.put("/user/alpha/_member/friend", {"role": "reader", "subject": "friend"}, token=token)
    assert names(bench, "", friend) == (["user/alpha"], None)
    bench.put("/user/_member/friend", {"role": "reader", "subject": "friend"}, token=token)
    assert names(bench, "q=b", friend) == (["user/beta"], None)
    bench.ask("DELETE", "/user/_member/friend", token=token)
    theirs = Member(role="reader", issuer="x", subject="friend")
    Governance(bench.registry).set_member(UserName("user"), RepositoryName("alpha"), "friend", theirs, by="corp user")
    assert names(bench, "", friend) == ([], None)


def test_a_search_costs_and_tells_nothing_of_what_is_hidden(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few names one answer looks at: no page ends at a private name, and strangers' are not looked at."""
    token = bench.claim(a=False, b=True, c=False, d=True, e=False)
    bench.claim("else", "else", hidden=False)
    monkeypatch.setattr("enarx.drawbridge.governance.SEARCHED", 1)
    asked: list[str] = []
    plain = Governance.facts

    def facts(governance: Governance, user: UserName, name: RepositoryName) -> RepositoryFacts:
        asked.append(f"{user}/{name}")
        return plain(governance, user, name)

    monkeypatch.setattr(Governance, "facts", facts)
    assert names(bench, "q=nothing") == ([], "public:user/b")
    assert names(bench, "q=nothing&after=public:user/b") == ([], None)
    assert asked == []
    found, after = [], ""
    for _ in range(9):
        page, following = names(bench, f"after={after}", token)
        found += page
        if following is None:
            break
        after = following
    assert found == ["user/a", "user/c", "user/e", "user/b", "user/d"]
    assert set(asked) <= {f"user/{name}" for name in "abcde"}


def test_search_shows_what_may_be_seen(bench: Bench) -> None:
    """Public ones to everybody, private ones to their members, page by page; lists of a name space alike."""
    token = bench.claim(alpha=True, beta=False, gamma=True)
    assert [found["name"] for found in bench.ask("GET", "/_search").json()["repositories"]] == ["alpha", "gamma"]
    mine = bench.ask("GET", "/_search?q=user+BETA", token=token).json()["repositories"]
    assert mine == [{"user": "user", "name": "beta", "public": False, "role": "owner"}]
    roles = bench.ask("GET", "/_search", token=token).json()["repositories"]
    assert [found["role"] for found in roles] == ["owner", "owner", "owner"]
    bench.put("/user/gamma/_member/friend", {"role": "reader", "subject": "friend"}, token=token)
    theirs = bench.ask("GET", "/_search", token=bench.token("friend")).json()["repositories"]
    assert [(found["name"], found["role"]) for found in theirs] == [("alpha", None), ("gamma", "reader")]
    page = bench.ask("GET", "/_search?limit=1").json()
    assert [found["name"] for found in page["repositories"]] == ["alpha"]
    rest = bench.ask("GET", f"/_search?after={page['after']}").json()
    assert [found["name"] for found in rest["repositories"]] == ["gamma"]
    assert rest["after"] is None
    assert bench.ask("GET", "/_search?limit=0").status_code == 400
    assert bench.ask("GET", "/_search?after=user/alpha").status_code == 400
    assert [found["name"] for found in bench.ask("GET", "/user/_repo").json()["repositories"]] == ["alpha", "gamma"]
    assert len(bench.ask("GET", "/user/_repo", token=token).json()["repositories"]) == 3
    assert bench.ask("GET", "/nobody/_repo").text == HIDDEN


def test_who_asks_too_much_waits(authority: Authority) -> None:
    """429 with Retry-After; counted for the subject where one is proven, else for the address."""
    bench = Bench(authority, at=datetime.now(UTC), requests=8, uploads=100)
    token = bench.claim(repo=True)
    for _ in range(8):
        bench.ask("GET", "/user/none/_tag")
    limited = bench.ask("GET", "/user/repo/_tag")
    assert (limited.status_code, int(limited.headers["retry-after"]) > 0) == (429, True)
    assert bench.ask("GET", "/user", token=token).status_code == 200
    bench.address = "192.0.2.2"
    assert bench.ask("GET", "/user/repo/_tag").status_code == 200
    tree = Tree.from_files({"main.wasm": b"x" * 200})
    bench.put("/user/repo/_tag/1.0.0", tree.root.encode(), ENTRY, token=token)
    answer = bench.put("/user/repo/_tag/1.0.0/tree", tree.nodes[0].source, DIRECTORY_TYPE, token=token)  # type: ignore[arg-type]  # bytes of a listing
    assert (answer.status_code, "uploaded bytes" in answer.text) == (429, True)


def test_every_moment_is_the_servers(bench: Bench) -> None:
    """The bench can be at any time: nothing below the edge looks at a clock."""
    bench.at = AT
    assert bench.put("/user", {"subject": SUBJECT}, token=bench.token()).status_code == 201
    assert bench.audit()[0]["time"].startswith("2026-06-01T12:00:00")


def test_metrics_are_for_loopback_and_tell_nothing_of_anybody(
    bench: Bench, authority: Authority, result: AttestationResult
) -> None:
    """Counts by status, method and technology; no name, no address, no digest; hidden from the network."""
    token = bench.claim(repo=False)
    tree = bench.publish("/user/repo/_tag/1.0.0", FILES, token)
    bench.chain = certified(authority, result, tree.workload)[0].chain
    bench.ask("GET", "/user/repo/_tag/1.0.0/tree")
    bench.chain = ()
    bench.ask("GET", "/user/repo/_tag/1.0.0/tree")
    assert bench.client.get("/metrics").status_code == 404
    bench.address = "127.0.0.1"
    text = bench.client.get("/metrics").text
    assert 'drawbridge_releases_total{technology="snp"} 1' in text
    assert "drawbridge_refusals_total 1" in text
    assert "user" not in text.replace("user name", "")
    assert tree.workload.hex not in text


def test_ready_says_whose_list_is_missing(authority: Authority) -> None:
    """200 when all that is needed is there; 503 and the Steward's name when its list is not."""
    lists: list[bytes] = [revocations(authority, ends=timedelta(seconds=-1))]
    source = CrlSource("https://steward.example", lambda: lists[-1], clock=iter(range(0, 10**9, 1000)).__next__)
    bench = Bench(authority, at=datetime.now(UTC), sources=(source,))
    source.lists(bench.at)
    answer = bench.client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "without_revocation_list": ["https://steward.example"]}
    lists.append(revocations(authority))
    source.lists(bench.at)
    assert bench.client.get("/ready").status_code == 200


def test_writes_tell_a_stranger_nothing_either(bench: Bench) -> None:
    """Every write, on what is private and on what is not there: one answer without a token, one with somebody else's."""
    bench.publish("/user/repo/_tag/1.0.0", FILES, bench.claim(repo=False))
    stranger, root = bench.token("stranger"), Tree.from_files({"main.wasm": b"other"}).root.encode()
    writes = [
        ("PUT", "", b'{"public":true}', JSON),
        ("PUT", "/_tag/1.0.0", root, ENTRY),
        ("PUT", "/_tag/1.0.0/tree", b"{}", DIRECTORY_TYPE),
        ("PUT", "/_tag/1.0.0/tree/none", b"x", "application/wasm"),
        *(("PUT", path, b"{}", JSON) for path in ("/_policy", "/_member/a", "/_yank/1.0.0", "/_signer")),
        *(("POST", path, b"{}", JSON) for path in ("/_token", "/_policy/test")),
        *(("DELETE", path, b"", JSON) for path in ("/_policy", "/_member/a", "/_token/x", "/_yank/1.0.0")),
    ]
    answers = set()
    for place in ("/user/repo", "/user/none", "/nobody/repo"):
        for method, path, body, kind in writes:
            digest = Digests.of(body).header()
            for who in (None, stranger):
                answer = bench.ask(method, place + path, body, token=who, Content_Type=kind, Content_Digest=digest)
                answers.add((who is None, answer.status_code, answer.text))
    assert answers == {(True, 401, "Bearer token header missing"), (False, 401, HIDDEN)}
