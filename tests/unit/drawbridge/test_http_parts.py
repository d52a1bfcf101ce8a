"""A file that arrives in several requests (`enarx.drawbridge.http`)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from enarx.drawbridge.names import TreePath
from enarx.drawbridge.tree import DIRECTORY_TYPE, Meta, Tree
from tests.unit.conftest import Authority
from tests.unit.drawbridge.bench import ENTRY, Bench
from tests.unit.drawbridge.issuers import SUBJECT

WHERE = "/user/repo/_tag/1.0.0"
BODY = bytes(range(256)) * 40
TREE = Tree.from_files({"main.wasm": BODY})


@pytest.fixture
def bench(authority: Authority) -> Bench:
    made = Bench(authority, at=datetime.now(UTC), uploads=100_000, upload_bytes=20_000)
    token = made.claim(repo=True)
    tag = made.put(WHERE, TREE.root.encode(), ENTRY, token=token)
    assert tag.headers["enarx-uploads"] == "resumable"
    root = TREE.nodes[0]
    with root.open() as file:
        assert made.put(f"{WHERE}/tree", file.read(), DIRECTORY_TYPE, token=token).status_code == 201
    return made


def part(bench: Bench, start: int, end: int, *, total: int = len(BODY), body: bytes = BODY, **more: str) -> Any:
    """The bytes from `start` to before `end`."""
    named = {"Content_Range": f"bytes {start}-{end - 1}/{total}"} | more
    return send(bench, body[start:end], **named)


def send(bench: Bench, data: bytes, path: str = "main.wasm", **headers: str) -> Any:  # Any: a response of the bench
    meta = next(node.entry.meta for node in TREE.nodes if node.path == TreePath.parse("main.wasm"))
    named = {"Content_Type": meta.media_type, "Content_Digest": meta.digests.header()} | headers
    return bench.ask("PUT", f"{WHERE}/tree/{path}", data, token=bench.token(), **named)


def arrived(bench: Bench) -> int:
    answer = send(bench, b"", Content_Range=f"bytes */{len(BODY)}")
    assert answer.status_code == 202
    return int(answer.headers["upload-offset"])


def test_parts_become_the_file(bench: Bench) -> None:
    """202 and how much is there, part by part; 201 with the last; then it is there like any other."""
    assert arrived(bench) == 0
    first = part(bench, 0, 4000)
    assert (first.status_code, first.headers["upload-offset"]) == (202, "4000")
    assert bench.ask("GET", f"{WHERE}/tree/main.wasm").status_code == 404
    assert arrived(bench) == 4000
    assert part(bench, 4000, 9000).status_code == 202
    assert part(bench, 9000, len(BODY)).status_code == 201
    assert bench.ask("GET", f"{WHERE}/tree/main.wasm").content == BODY
    assert part(bench, 0, len(BODY)).status_code == 200


def test_a_part_begins_where_the_last_one_ended(bench: Bench) -> None:
    """Anywhere else is 409, with where to go on; nothing is lost by it."""
    part(bench, 0, 4000)
    for start in (0, 3999, 4001):
        answer = part(bench, start, 5000)
        assert (answer.status_code, answer.headers["upload-offset"]) == (409, "4000")
    assert arrived(bench) == 4000


def test_parts_of_something_else_are_no_file(bench: Bench) -> None:
    """All has arrived and the digest is wrong: 400, nothing is visible, and the next one begins anew."""
    other = b"x" * len(BODY)
    assert part(bench, 0, 4000, body=other).status_code == 202
    assert part(bench, 4000, len(BODY), body=other).status_code == 400
    assert bench.ask("GET", f"{WHERE}/tree/main.wasm").status_code == 404
    assert part(bench, 0, len(BODY)).status_code == 201


@pytest.mark.parametrize(
    "text",
    ["bytes 0-3/", "bytes 0-4/10240", "bytes 2-1/10240", "bytes 0-3/3", "lines 0-3/10240", "bytes 0-3/*", "", "bytes -3/10240"],
)  # fmt: skip
def test_ranges_are_read_strictly(bench: Bench, text: str) -> None:
    """A range that is not that of the body, or of nothing: 400, and nothing is kept."""
    assert send(bench, b"four", Content_Range=text).status_code == 400
    assert arrived(bench) == 0


def test_listings_and_what_the_parent_does_not_name_do_not_come_in_parts(bench: Bench) -> None:
    """What is refused as a whole is refused as a part, before its bytes are taken."""
    listing = Meta.of(b"{}", DIRECTORY_TYPE)
    named = {"Content_Type": DIRECTORY_TYPE, "Content_Digest": listing.digests.header(), "Content_Range": "bytes 0-0/2"}
    assert send(bench, b"{", "sub", **named).status_code == 400
    assert send(bench, b"four", "other.wasm", Content_Range="bytes 0-3/10240").status_code == 400
    assert part(bench, 0, 4, total=30_000).status_code == 413
    stranger = bench.ask("PUT", f"{WHERE}/tree/main.wasm", b"four", Content_Range="bytes 0-3/10240")
    assert stranger.status_code == 401


def test_a_file_of_a_recent_version_is_taken_over(bench: Bench, authority: Authority) -> None:
    """Who asks before sending is told 201, and the file is there; of another repository nothing is taken over."""
    assert part(bench, 0, len(BODY)).status_code == 201
    token = bench.token()
    with TREE.nodes[0].open() as file:
        listing = file.read()
    for where, status in (("/user/repo/_tag/1.1.0", 201), ("/user/other/_tag/1.1.0", 202)):
        bench.put("/user/other", {"public": False}, token=token)
        bench.put(where, TREE.root.encode(), ENTRY, token=token)
        bench.put(f"{where}/tree", listing, DIRECTORY_TYPE, token=token)
        meta = TREE.nodes[1].entry.meta
        named = {"Content_Type": meta.media_type, "Content_Digest": meta.digests.header()}
        asked = bench.ask(
            "PUT", f"{where}/tree/main.wasm", b"", token=token, Content_Range=f"bytes */{len(BODY)}", **named
        )
        assert asked.status_code == status
        found = bench.ask("GET", f"{where}/tree/main.wasm", token=token)
        assert (found.content == BODY) is (status == 201)
    assert bench.ask("PUT", f"{WHERE}/tree/main.wasm", b"", Content_Range="bytes */10240").status_code == 401


def test_only_what_arrived_is_counted(bench: Bench) -> None:
    """The allowance of the day pays for each byte once."""
    part(bench, 0, 4000)
    part(bench, 4000, len(BODY))
    left = bench.uploads - len(BODY) - TREE.nodes[0].entry.meta.length
    bench.service.uploads.take(f"person:corp {SUBJECT}", left)
    with pytest.raises(Exception, match="Too many uploaded bytes"):
        bench.service.uploads.take(f"person:corp {SUBJECT}", 100)
