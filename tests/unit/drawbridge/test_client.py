"""What the client believes: nothing. Against a registry of a few lines that lies as the test says."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from enarx.attested import sealing
from enarx.digest import Digest
from enarx.drawbridge.client import AnsweredError, Item, Limits, Opening, Registry, _reason
from enarx.drawbridge.names import PackageSlug, RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Directory, Entry, Tree
from enarx.errors import ConflictError, EnarxError, MalformedError, NotFoundError, UnavailableError, UntrustedError
from enarx.web.app import build
from enarx.web.client import Client
from tests.unit.drawbridge.client_support import Double

SLUG = PackageSlug.parse("user/repo:1.0.0")
FILES = {
    "main.wasm": b"\0asm" * 1000,
    "Enarx.toml": b"args = []\n",
    "data/a b.txt": b"a" * 1_500_000,
    "data/empty": b"",
}
BASE = "/api/v0.1.0/user/repo/_tag/1.0.0"


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def port(start: Callable[..., int], double: Double) -> int:
    routes = [Route("/{path:path}", double.answer, methods=["GET", "PUT"])]
    return start(build(routes, name="double", body_limit=4_000_000))


@pytest.fixture
def registry(port: int) -> Iterator[Registry]:
    with open_registry(port) as made:
        yield made


@contextmanager
def open_registry(port: int, **named: Any) -> Iterator[Registry]:  # Any: the options of Registry
    with Client(f"http://127.0.0.1:{port}", timeout=10) as http:
        yield Registry(http, sleep=lambda _: None, **named)


@pytest.fixture
def tree(registry: Registry) -> Tree:
    """A published package."""
    made = Tree.from_files(FILES)
    assert registry.up.publish(SLUG, Tag(entry=made.root), made)
    return made


def fetch(registry: Registry, tree: Tree, **named: Any) -> dict[str, bytes]:  # Any: the options of `fetch`
    return registry.down.fetch(SLUG, registry.tag(SLUG).entry, workload=tree.workload, **named)


def test_what_is_published_comes_back(registry: Registry, double: Double, tree: Tree) -> None:
    """Tag first, then the root, then the others, each after its directory; and the same files come back, proven."""
    puts = [line.removeprefix(f"PUT {BASE}") for line in double.asked if line.startswith("PUT")]
    assert puts[:2] == ["", "/tree"]
    assert sorted(puts[2:]) == [f"/tree/{name}" for name in sorted([*FILES, "data"])]
    assert puts.index("/tree/data") < min(puts.index("/tree/data/a b.txt"), puts.index("/tree/data/empty"))
    assert fetch(registry, tree) == FILES
    assert registry.down.workload(SLUG, tree.root) == tree.workload


def test_a_lone_file_is_main_wasm(registry: Registry) -> None:
    """A package whose root is a file has one file, and it is the program."""
    made = Tree.from_path(_file(b"\0asm"))
    registry.up.publish(SLUG, Tag(entry=made.root), made)
    assert fetch(registry, made) == {"main.wasm": b"\0asm"}


def _file(data: bytes) -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "main.wasm"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/tree", "expected sha-256:"),
        ("/tree/main.wasm", "user/repo:1.0.0/main.wasm: expected sha-256:"),
        ("/tree/data", "user/repo:1.0.0/data: expected sha-256:"),
        ("/tree/data/a b.txt", "user/repo:1.0.0/data/a b.txt: expected sha-256:"),
    ],
)
def test_one_changed_bit_anywhere_is_refused(
    registry: Registry, double: Double, tree: Tree, where: str, said: str
) -> None:
    """Whatever the registry changed, root, listing or file, the node whose digest fails is named."""
    body, headers = double.held[BASE + where]
    double.held[BASE + where] = (bytes([body[0] ^ 1]) + body[1:], headers)
    with pytest.raises(UntrustedError) as caught:
        fetch(registry, tree)
    assert said in str(caught.value)


def test_other_bytes_under_the_same_name_are_refused(registry: Registry, double: Double, tree: Tree) -> None:
    """A registry that serves a whole other package, tag and all, does not pass for the one whose digest we hold."""
    other = Tree.from_files({"main.wasm": b"\0asm other"})
    double.held.clear()
    registry.up.publish(SLUG, Tag(entry=other.root), other)
    with pytest.raises(UntrustedError, match=f"expected the digest {tree.workload}, found {other.workload}"):
        fetch(registry, tree)
    pinned = replace(SLUG, digest=tree.workload)
    with pytest.raises(UntrustedError, match="expected the digest"):
        registry.tag(pinned)


@pytest.mark.parametrize(("sent", "said"), [(b"\0asm" * 1001, "more"), (b"\0asm" * 999, "the registry sent 3996")])
def test_never_a_byte_more_than_declared(
    registry: Registry, double: Double, tree: Tree, sent: bytes, said: str
) -> None:
    """A body that goes on beyond its entry's length is cut off; one that ends early is not the file."""
    double.held[f"{BASE}/tree/main.wasm"] = (sent, {})
    with pytest.raises(UntrustedError, match=said):
        fetch(registry, tree)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(total=1_500_000), "expected at most 1500000 bytes"),
        (Limits(file=1_499_999), "data/a b.txt: expected at most 1499999 bytes, 1500000 are declared"),
        (Limits(files=3), "expected at most 3 files"),
    ],
)
def test_limits_hold_before_anything_is_asked_for(
    registry: Registry, double: Double, tree: Tree, limits: Limits, said: str
) -> None:
    """Declared sizes count, so a tree that is too large costs its listings and nothing more."""
    with pytest.raises(MalformedError, match=said):
        fetch(registry, tree, limits=limits)
    assert f"GET {BASE}/tree/data/a b.txt" not in double.asked


def test_a_listing_with_a_name_that_could_escape_is_refused(registry: Registry, double: Double) -> None:
    """A digest proves who wrote a name, not that it is harmless."""
    entry = Entry.of(b"x", "text/plain").encode().decode()
    body = f'{{"..":{entry}}}'.encode()
    root = Entry.of(body, "application/vnd.drawbridge.directory.v1+json")
    double.held[f"{BASE}/tree"] = (body, {})
    with pytest.raises(MalformedError, match=r"directory: '\.\.'|tree name"):
        registry.down.fetch(SLUG, root, workload=Digest.of(body))


def test_a_broken_download_goes_on_where_it_was(registry: Registry, double: Double, tree: Tree) -> None:
    """Two breaks in one file: the rest is asked for by range, and the whole is proven."""
    double.cut = [700_000, 600_000]
    assert fetch(registry, tree) == FILES
    ranges = [line.partition(" bytes=")[2] for line in double.asked if " bytes=" in line]
    assert len(ranges) == 2
    assert all(0 < int(text.rstrip("-")) <= 1_300_000 for text in ranges)


def test_a_download_that_gets_nowhere_ends(registry: Registry, double: Double, tree: Tree) -> None:
    """Four attempts without a byte in between are enough."""
    double.cut = [0] * 10
    with pytest.raises(UnavailableError):
        fetch(registry, tree)
    assert sum("a b.txt" in line and line.startswith("GET") for line in double.asked) == 4


def test_a_directory_appears_when_it_is_complete(
    registry: Registry, double: Double, tree: Tree, tmp_path: Path
) -> None:
    """What is fetched grows under another name, is gone on with where it was, and appears as a whole."""
    target = tmp_path / "out"
    items = registry.down.tree(SLUG, tree.root, workload=tree.workload)
    double.cut = [700_000, 0, 0, 0, 0]
    with pytest.raises(UnavailableError):
        registry.files.fetch_into(SLUG, items, target, workload=tree.workload)
    assert not target.exists()
    double.cut, double.asked = [], []
    registry.files.fetch_into(SLUG, items, target, workload=tree.workload)
    assert {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()} == FILES
    assert list(tmp_path.iterdir()) == [target]
    assert not any("Enarx.toml" in line for line in double.asked)  # it was there, and right
    assert any(" bytes=" in line for line in double.asked)
    with pytest.raises(ConflictError, match="expected nothing or an empty directory"):
        registry.files.fetch_into(SLUG, items, target, workload=tree.workload)


def test_a_damaged_beginning_is_fetched_again(registry: Registry, tree: Tree, tmp_path: Path) -> None:
    """What was left of an earlier fetch proves nothing: wrong bytes are replaced, a link is not followed."""
    items = registry.down.tree(SLUG, tree.root, workload=tree.workload)
    part = tmp_path / f".out.{tree.workload.hex[:16]}.part"
    part.mkdir()
    (part / "main.wasm").write_bytes(b"not it")
    registry.files.fetch_into(SLUG, items, tmp_path / "out", workload=tree.workload)
    assert (tmp_path / "out" / "main.wasm").read_bytes() == FILES["main.wasm"]
    part = tmp_path / f".two.{tree.workload.hex[:16]}.part"
    part.mkdir()
    (part / "main.wasm").symlink_to(tmp_path / "victim")
    with pytest.raises(UnavailableError):
        registry.files.fetch_into(SLUG, items, tmp_path / "two", workload=tree.workload)
    assert not (tmp_path / "victim").exists()


def test_publishing_goes_on_where_it_was(registry: Registry, double: Double, tree: Tree) -> None:
    """What the registry has is asked for by HEAD and not sent again; what it lacks is sent."""
    del double.held[f"{BASE}/tree/data/a b.txt"]
    double.asked = []
    sent: list[str] = []
    new = registry.up.publish(
        SLUG, Tag(entry=tree.root), tree, on_node=lambda node, was: sent.append(str(node.path)) if was else None
    )
    assert not new
    assert sent == ["data/a b.txt"]
    assert [line for line in double.asked if line.startswith("PUT")] == [f"PUT {BASE}/tree/data/a b.txt"]


def test_a_version_can_not_change(registry: Registry, tree: Tree) -> None:
    """Publishing something else under a version that exists is refused before a byte is sent, with both digests."""
    other = Tree.from_files({"main.wasm": b"other"})
    with pytest.raises(ConflictError, match=f"expected {other.workload}, found {tree.workload}; choose another"):
        registry.up.publish(SLUG, Tag(entry=other.root), other)


def test_a_put_is_repeated_while_nobody_answers(registry: Registry, double: Double) -> None:
    """503 and the like are tried again, a refusal is not."""
    double.refuse = [503, 429, 502]
    made = Tree.from_files(FILES)
    passed: list[int] = []
    assert registry.up.publish(SLUG, Tag(entry=made.root), made, on_bytes=passed.append)
    assert sum(passed) == made.size
    double.refuse = [403]
    with pytest.raises(EnarxError, match="403: not now"):
        registry.put_user(UserName("other"), "subject")
    double.refuse = [503] * 4
    with pytest.raises(UnavailableError, match="503: not now"):
        registry.put_user(UserName("other"), "subject")


def test_a_registry_that_is_not_there_is_not_waited_for() -> None:
    """Nobody ever answered at that address: said at once, with the host."""
    slept: list[float] = []
    with Client("http://127.0.0.1:1") as http, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: "):
        Registry(http, sleep=slept.append).tag(SLUG)
    assert slept == []


def test_a_refusal_says_what_was_asked_and_what_came_back(registry: Registry, port: int) -> None:
    """Host, method, path, status and sentence in one line; the parts beneath, for who tells them otherwise."""
    with pytest.raises(NotFoundError) as caught:
        registry.tag(SLUG)
    expected = f"127.0.0.1:{port}: GET /user/repo/_tag/1.0.0: 404: Repository does not exist"
    assert str(caught.value) == expected
    beneath = caught.value.__cause__
    assert isinstance(beneath, AnsweredError)
    assert (beneath.method, beneath.status, beneath.anonymous) == ("GET", 404, True)


def test_records(registry: Registry, double: Double) -> None:
    """Users, repositories and tags as the originals write them."""
    assert registry.put_user(UserName("user"), "test|subject")
    assert registry.put_repository(UserName("user"), RepositoryName("repo"), public=False)
    assert double.held["/api/v0.1.0/user"][0] == b'{"subject":"test|subject"}'
    assert double.held["/api/v0.1.0/user/repo"][0] == b'{"public":false}'
    assert registry.user(UserName("user")) == "test|subject"
    assert registry.repository(UserName("user"), RepositoryName("repo")) is False
    double.held["/api/v0.1.0/user/repo/_tag"] = (b'["1.10.0","1.9.0"]', {})
    tags = registry.tags(UserName("user"), RepositoryName("repo"))
    assert tags == (TagName("1.9.0"), TagName("1.10.0"))
    double.held["/api/v0.1.0/user/repo"] = (b'{"public":"yes"}', {})
    with pytest.raises(MalformedError, match="public: expected true or false"):
        registry.repository(UserName("user"), RepositoryName("repo"))


def test_the_tag_names_its_steward_and_why_it_was_yanked(registry: Registry, double: Double, tree: Tree) -> None:
    """From the headers of the answer; other links are passed over."""
    body, headers = double.held[BASE]
    link = '<https://a.example/>; rel="next", <https://steward.example/>; rel="steward"'
    double.held[BASE] = (body, {**headers, "Link": link, "Enarx-Yanked": "leaks a key"})
    published = registry.tag(SLUG)
    assert published.steward == "https://steward.example/"
    assert published.yanked == "leaks a key"


def test_a_digest_alone_finds_its_version(registry: Registry, double: Double, tree: Tree) -> None:
    """user/repo@sha-256:… is the newest version that has it."""
    double.held["/api/v0.1.0/user/repo/_tag"] = (b'["1.0.0"]', {})
    slug = PackageSlug.parse(f"user/repo@{tree.workload}")
    assert registry.tag(slug).name == TagName("1.0.0")
    with pytest.raises(NotFoundError, match="no version has that digest"):
        registry.tag(PackageSlug.parse(f"user/repo@{Digest.of(b'x')}"))


def test_sealed_answers_are_opened_and_still_checked(port: int, double: Double, registry: Registry, tree: Tree) -> None:
    """With the sealing key the tree comes out; for another path, or other bytes inside, it does not; without it, neither."""
    private, leaf = sealing.SealingPrivateKey.generate(), b"leaf certificate"
    changed: dict[str, bytes] = {}
    types: dict[str, str] = {}

    def seal(path: str, body: bytes, headers: Mapping[str, str]) -> Iterator[bytes]:
        entry = next(node.entry for node in tree.nodes if str(node.path) == path)
        return sealing.seal(
            private.public,
            leaf=leaf,
            workload=tree.workload,
            path=changed.get("path", path.encode()).decode(),
            meta=replace(entry.meta, media_type=types.get(path, entry.meta.media_type)).encode(),
            body=iter((changed.get(path, body),)),
        )

    double.sealed = seal
    with open_registry(port, opening=Opening(private=private, leaf=leaf)) as keep:
        assert fetch(keep, tree) == FILES
        types["data/empty"] = "text/html"
        with pytest.raises(UntrustedError, match="sealed data/empty: type: expected application/octet-stream"):
            fetch(keep, tree)
        types.clear()
        changed["main.wasm"] = b"\0asm" * 999 + b"evil"
        with pytest.raises(UntrustedError, match=r"main\.wasm: expected sha-256"):
            fetch(keep, tree)
        changed["path"] = b"data"
        with pytest.raises(UntrustedError, match="not sealed to this key"):
            fetch(keep, tree)
    with pytest.raises(UntrustedError, match="sealed to a key that is not ours"):
        fetch(registry, tree)


def test_an_unread_digest_of_the_root_is_computed(registry: Registry, double: Double) -> None:
    """Where the publisher named no SHA-256, the root is read for it, checked by what was named."""
    body = Directory({}).encode()
    root = Entry.of(body, "application/vnd.drawbridge.directory.v1+json", ["sha-384"])
    double.held[f"{BASE}/tree"] = (body, {})
    assert registry.down.workload(SLUG, root) == Digest.of(body)
    assert registry.down.fetch(SLUG, root, workload=Digest.of(body)) == {}
    with pytest.raises(UntrustedError, match=f"expected {Digest.of(b'other')}, found {Digest.of(body)}"):
        registry.down.fetch(SLUG, root, workload=Digest.of(b"other"))
    assert Item(TreePath(), root).digest.algorithm == "sha-384"


def test_the_reason_of_a_yank_is_read_and_made_safe() -> None:
    """Percent-encoded in its header; whatever it holds, a terminal is not told what to do."""
    assert _reason(None) is None
    assert _reason("100 %25 L%C3%BCcke") == "100 % L\u00fccke"
    assert _reason("a%1b[31m%0ab") == "a [31m b"
