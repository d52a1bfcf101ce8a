"""The registry: every child against its parent, all or nothing, and what was published stays."""

import logging
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enarx.digest import Digest, Digests, Hasher
from enarx.drawbridge import content as content_module
from enarx.drawbridge import layout, pieces
from enarx.drawbridge.content import Contents
from enarx.drawbridge.history import Change, check
from enarx.drawbridge.names import RepositoryName, TagName, TreeName, TreePath, UserName
from enarx.drawbridge.pieces import PIECE, Listing, Lists
from enarx.drawbridge.records import DamagedError, Journal, Records
from enarx.drawbridge.registry import JSON_TYPE, Outcome, Registry, RepositoryRecord, StoredNode, UserRecord
from enarx.drawbridge.signing import SigningKey, sign
from enarx.drawbridge.store import FilesystemStore, Key, MemoryStore, Store
from enarx.drawbridge.tag import ENTRY_TYPE, Tag
from enarx.drawbridge.tree import DIRECTORY_TYPE, Directory, Entry, Meta, Tree
from enarx.errors import ConflictError, MalformedError, NotFoundError, UntrustedError
from tests.unit.drawbridge.support import (
    NOW,
    REPO,
    TAG,
    USER,
    content,
    damage,
    flip,
    publish,
    put_node,
    put_repository,
    put_tag,
    put_user,
)

FILES = {"main.wasm": b"\0asm", "Enarx.toml": b"", "data/deep/a": b"1" * 3_000_000, "data/b": b"b"}
CREATED, EXISTS = Outcome.CREATED, Outcome.EXISTS


@pytest.fixture(params=["memory", "filesystem"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Both that need no server."""
    return MemoryStore() if request.param == "memory" else FilesystemStore(tmp_path / "store")


@pytest.fixture
def registry(store: Store) -> Registry:
    """With a user and a repository."""
    made = Registry(store, lambda: NOW)
    put_user(made)
    put_repository(made)
    return made


def test_a_tree_is_published_and_read(registry: Registry) -> None:
    """Tag, root, nodes in order; each is there as it was sent, with what its uploader said."""
    tree = Tree.from_files(FILES)
    assert set(publish(registry, tree)) == {CREATED}
    for name, data in FILES.items():
        node = registry.trees.find(USER, REPO, TAG, TreePath.parse(name))
        assert b"".join(node.read()) == data
        assert node.sha256 == Digest.of(data)
    assert registry.versions.find(USER, REPO, TAG).entry == tree.root
    assert registry.trees.workload(USER, REPO, TAG) == tree.workload
    assert registry.trees.tags_of(USER, REPO, tree.workload) == (TAG,)
    assert [node.path for node in registry.trees.arrived(USER, REPO, TAG)] == [node.path for node in tree.nodes]


def test_the_same_again_is_fine(registry: Registry) -> None:
    """Identical bytes are 200 at every level; the history does not grow."""
    tree = Tree.from_files(FILES)
    publish(registry, tree)
    before = list(registry.spaces.history(USER, REPO))
    assert set(publish(registry, tree)) == {EXISTS}
    assert (put_user(registry), put_repository(registry)) == (EXISTS, EXISTS)
    assert list(registry.spaces.history(USER, REPO)) == before


def test_something_else_is_a_conflict(registry: Registry) -> None:
    """What is there stays, and is still what it was."""
    tree = Tree.from_files(FILES)
    publish(registry, tree)
    with pytest.raises(ConflictError, match="Already exists"):
        put_tag(registry, Tag(entry=Tree.from_files({"x": b""}).root))
    with pytest.raises(ConflictError, match="Already exists"):
        put_user(registry, subject="somebody else")
    with pytest.raises(ConflictError, match="Already exists"):
        put_repository(registry, b'{"public":false}')
    assert registry.spaces.repository(USER, REPO) == RepositoryRecord(public=True)
    assert registry.spaces.user(USER) == UserRecord(subject="test|subject")


def test_a_parent_must_be_there() -> None:
    """User before repository before tag before root before node: else there is no such place."""
    registry = Registry(MemoryStore())
    tree = Tree.from_files(FILES)
    with pytest.raises(NotFoundError, match="user user"):
        put_repository(registry)
    put_user(registry)
    with pytest.raises(NotFoundError, match="repository user/repo"):
        put_tag(registry, Tag(entry=tree.root))
    put_repository(registry)
    with pytest.raises(NotFoundError, match=r"tag user/repo:1\.0\.0"):
        put_node(registry, TreePath(), tree.root.meta, b"")
    put_tag(registry, Tag(entry=tree.root))
    for node in tree.nodes[1:]:
        with pytest.raises(NotFoundError, match="node user/repo"):
            put_node(registry, node.path, node.entry.meta, b"")
    for missing in (registry.versions.names, registry.spaces.history):
        with pytest.raises(NotFoundError):
            missing(USER, RepositoryName("absent"))


def refuse(registry: Registry, path: str, meta: Meta, data: bytes, because: str) -> None:
    with pytest.raises(MalformedError, match=because):
        put_node(registry, TreePath.parse(path), meta, data)
    with pytest.raises(NotFoundError):
        registry.trees.find(USER, REPO, TAG, TreePath.parse(path))


def test_a_node_is_what_its_parent_says(registry: Registry) -> None:
    """Other bytes, another length, another type, or a name that is not listed: refused, and nothing is left."""
    tree = Tree.from_files(FILES)
    put_tag(registry, Tag(entry=tree.root))
    evil = Directory({TreeName("main.wasm"): Entry.of(b"evil", "application/wasm")}).encode()
    refuse(registry, "", Meta.of(evil, DIRECTORY_TYPE), evil, "its parent says otherwise: digest")
    refuse(registry, "", Meta.of(evil, "text/plain"), evil, "its parent says otherwise: type")
    with tree.nodes[0].open() as file:
        put_node(registry, TreePath(), tree.root.meta, file.read())
    refuse(registry, "main.wasm", Meta.of(b"evil", "application/wasm"), b"evil", "digest")
    refuse(registry, "main.wasm", Meta.of(b"evils", "application/wasm"), b"evils", "length")
    refuse(registry, "main.wasm", Meta.of(b"\0asm", "text/plain"), b"\0asm", "type")
    refuse(registry, "b-file", Meta.of(b"x", "a/b"), b"x", "its parent does not list it; it lists Enarx.toml, data")
    put_node(registry, TreePath.of("main.wasm"), Meta.of(b"\0asm", "application/wasm"), b"\0asm")
    refuse(registry, "main.wasm/below", Meta.of(b"x", "a/b"), b"x", "expected a parent that is a directory")


@pytest.mark.parametrize(
    ("data", "because"),
    [(b"", "Content digest mismatch"), (b"\0as", "Content digest mismatch"), (b"\0asn", "Content digest mismatch"),
     (b"\0asm ", "Content length mismatch: expected 4 bytes, found more")],
)  # fmt: skip
def test_what_does_not_verify_was_never_there(registry: Registry, store: Store, data: bytes, because: str) -> None:
    """Short, long or other bytes than declared: refused, nothing stored, and the right ones are welcome after."""
    tree = Tree.from_files({"main.wasm": b"\0asm"})
    publish_root = put_tag(registry, Tag(entry=tree.root))
    assert publish_root is CREATED
    put_node(registry, TreePath(), tree.root.meta, tree.nodes[0].open().read())
    before = [item.key for item in store.list(layout.BLOBS)]
    refuse(registry, "main.wasm", tree.nodes[1].entry.meta, data, because)
    assert [item.key for item in store.list(layout.BLOBS)] == before
    assert put_node(registry, TreePath.of("main.wasm"), tree.nodes[1].entry.meta, b"\0asm") is CREATED


def test_every_digest_that_was_sent_is_checked(registry: Registry) -> None:
    """One wrong digest among right ones is a mismatch that names its algorithm."""
    tree = Tree.from_files({"f": b"data"}, algorithms=["sha-256"])
    put_tag(registry, Tag(entry=tree.root))
    put_node(registry, TreePath(), tree.root.meta, tree.nodes[0].open().read())
    mixed = Digests([*Digests.of(b"data", ["sha-256"]).digests(), Digest.of(b"other", "sha-512")])
    meta = Meta(digests=mixed, length=4, media_type="application/octet-stream")
    refuse(registry, "f", meta, b"data", "mismatch: expected sha-512=")
    refuse(registry, "f", Meta(digests=Digests(), length=4, media_type="a/b"), b"data", "At least one content digest")


def test_an_aborted_upload_leaves_nothing(registry: Registry, store: Store) -> None:
    """A dropped connection: the context is left, and there is no node and no blob."""
    tree = Tree.from_files({"f": b"data"})
    put_tag(registry, Tag(entry=tree.root))
    put_node(registry, TreePath(), tree.root.meta, tree.nodes[0].open().read())
    count = len(list(store.list(layout.BLOBS)))
    with registry.trees.put(USER, REPO, TAG, TreePath.of("f"), tree.nodes[1].entry.meta, by="x") as upload:
        upload.write(b"da")
    assert len(list(store.list(layout.BLOBS))) == count
    with pytest.raises(NotFoundError):
        registry.trees.find(USER, REPO, TAG, TreePath.of("f"))


def test_the_truncated_listing_of_the_originals_is_accepted(registry: Registry) -> None:
    """What their uploader left out of a listing may be sent; what it would have listed may not."""
    tree = Tree.from_files({"dir/x": b"x", "later": b"l", "before": b"b"})
    nodes = {str(node.path): node for node in tree.nodes}
    listing = Directory({TreeName(name): nodes[name].entry for name in ("before", "dir")})
    put_tag(registry, Tag(entry=listing.entry()))
    put_node(registry, TreePath(), listing.entry().meta, listing.encode())
    for name in ("before", "dir", "dir/x", "later"):
        with nodes[name].open() as file:
            assert put_node(registry, TreePath.parse(name), nodes[name].entry.meta, file.read()) is CREATED
    assert content(registry, TreePath.of("later")) == b"l"
    with pytest.raises(ConflictError):
        put_node(registry, TreePath.of("later"), Meta.of(b"o", "application/octet-stream"), b"o")
    refuse(registry, "c-file", Meta.of(b"x", "a/b"), b"x", "does not list it")
    refuse(registry, "dir/y", Meta.of(b"x", "a/b"), b"x", "does not list it")


def test_white_space_is_fine_if_the_digests_are_of_what_came_or_of_the_canonical_form(registry: Registry) -> None:
    """Bytes as received stay as received; digests of the canonical form keep that; anything else is a mismatch."""
    spaced, canonical = b'{ "public": true }', b'{"public":true}'
    for number, (body, kept) in enumerate([(spaced, spaced), (canonical, canonical)]):
        name = RepositoryName(f"r{number}")
        meta = Meta(digests=Digests.of(body), length=len(spaced), media_type=JSON_TYPE)
        assert registry.spaces.put_repository(USER, name, spaced, meta, by="x") is CREATED
        stored = registry.spaces.repository_body(USER, name)
        assert (stored.body, stored.meta.length) == (kept, len(kept))
        assert all(digest.matches(stored.body) for digest in stored.meta.digests.digests())
    wrong = Meta.of(b"[]", JSON_TYPE)
    with pytest.raises(MalformedError, match="Content digest mismatch"):
        registry.spaces.put_repository(USER, RepositoryName("r2"), spaced, wrong, by="x")
    short = Meta(digests=Digests.of(canonical), length=3, media_type=JSON_TYPE)
    with pytest.raises(MalformedError, match="Content length mismatch: expected 3 bytes, found 15"):
        registry.spaces.put_repository(USER, RepositoryName("r2"), canonical, short, by="x")
    undigested = Meta(digests=Digests(), length=len(spaced), media_type=JSON_TYPE)
    registry.spaces.put_repository(USER, RepositoryName("r2"), spaced, undigested, by="x")
    assert registry.spaces.repository_body(USER, RepositoryName("r2")).meta == Meta.of(canonical, JSON_TYPE)


def test_a_spaced_listing_is_kept_as_its_digests_say(registry: Registry) -> None:
    """The workload digest is that of the bytes that the tag's digests are of."""
    data = Directory({TreeName("f"): Entry.of(b"data", "a/b")}).encode().replace(b",", b", ")
    put_tag(registry, Tag(entry=Entry.of(data, DIRECTORY_TYPE)))
    assert put_node(registry, TreePath(), Meta.of(data, DIRECTORY_TYPE), data) is CREATED
    assert content(registry, TreePath()) == data
    assert registry.trees.workload(USER, REPO, TAG) == Digest.of(data)
    assert put_node(registry, TreePath.of("f"), Meta.of(b"data", "a/b"), b"data") is CREATED


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"..":{}}', b'{"a":1}'])
def test_a_listing_that_is_none_is_refused(registry: Registry, body: bytes) -> None:
    """A root that its tag names but that cannot be read is refused before it is stored."""
    put_tag(registry, Tag(entry=Entry.of(body, DIRECTORY_TYPE)))
    refuse(registry, "", Meta.of(body, DIRECTORY_TYPE), body, "directory|JSON")


@pytest.mark.parametrize(
    ("body", "parse"),
    [
        (b'{"subject":"a","x":1}', UserRecord.parse),
        (b'{"subject":""}', UserRecord.parse),
        (b"{}", UserRecord.parse),
        (b'{"public":1}', RepositoryRecord.parse),
        (b"{}", RepositoryRecord.parse),
        (b'{"public":true,"public":true}', RepositoryRecord.parse),
    ],
)
def test_records_have_exactly_their_member(body: bytes, parse: Callable[[bytes], object]) -> None:
    """Unknown, missing or doubled members are refused, as the originals refuse them."""
    with pytest.raises(MalformedError):
        parse(body)


def test_the_workload_digest_is_known_even_if_it_was_not_sent(registry: Registry) -> None:
    """A publisher who sends SHA-512 alone gets back what was sent; the registry knows SHA-256 once the root is here."""
    tree = Tree.from_files({"main.wasm": b"\0asm"}, algorithms=["sha-512"])
    put_tag(registry, Tag(entry=tree.root))
    assert registry.trees.workload(USER, REPO, TAG) is None
    publish(registry, tree)
    assert registry.trees.workload(USER, REPO, TAG) == tree.workload
    assert list(registry.versions.find(USER, REPO, TAG).entry.meta.digests) == ["sha-512"]
    assert list(registry.trees.find(USER, REPO, TAG, TreePath.of("main.wasm")).meta.digests) == ["sha-512"]


def test_a_lone_file_is_also_there_as_main_wasm(registry: Registry) -> None:
    """The originals' Keep looks for it there; a file of another type is not."""
    tree = Tree.from_files({"main.wasm": b"\0asm"})
    entry = tree.nodes[1].entry
    put_tag(registry, Tag(entry=entry))
    put_node(registry, TreePath(), entry.meta, b"\0asm")
    assert content(registry, TreePath()) == content(registry, TreePath.of("main.wasm")) == b"\0asm"
    other, text = TagName("2.0.0"), Entry.of(b"text", "text/plain")
    put_tag(registry, Tag(entry=text), other)
    put_node(registry, TreePath(), text.meta, b"text", other)
    with pytest.raises(NotFoundError):
        registry.trees.find(USER, REPO, other, TreePath.of("main.wasm"))


def test_tags_are_listed_in_the_order_of_versions(registry: Registry) -> None:
    """Sorted, whatever the storage's order is."""
    entry = Entry.of(b"x", "a/b")
    for name in ("10.0.0", "2.0.0", "2.0.0-rc.1"):
        put_tag(registry, Tag(entry=entry), TagName(name))
    assert [tag.text for tag in registry.versions.names(USER, REPO)] == ["2.0.0-rc.1", "2.0.0", "10.0.0"]


def test_the_type_of_a_tag_is_what_it_is(registry: Registry) -> None:
    """A tag sent as something else, or with parameters, is refused as the originals refuse it."""
    body = Entry.of(b"x", "a/b").encode()
    for kind in ("application/json", "application/jose+json", f"{ENTRY_TYPE}; charset=utf-8"):
        with pytest.raises(MalformedError, match="Invalid content type"):
            registry.versions.put(USER, REPO, TAG, body, Meta.of(body, kind), by="x")


def test_content_is_stored_once(registry: Registry, store: Store) -> None:
    """Two tags of nearly the same tree share every blob but those that differ."""
    publish(registry, Tree.from_files(FILES))
    first = len(list(store.list(layout.BLOBS)))
    publish(registry, Tree.from_files({**FILES, "Enarx.toml": b"args = []"}), TagName("2.0.0"))
    assert len(list(store.list(layout.BLOBS))) == first + 2


def test_any_range_is_what_it_says(registry: Registry) -> None:
    """Across the bounds of pieces, at the ends and beyond them."""
    data = bytes(range(256)) * 8192
    tree = Tree.from_files({"f": data})
    publish(registry, tree)
    for start, stop in [(0, 1), (0, None), (524_287, 524_289), (1, 2_000_000), (2_097_151, 9_999_999), (5, 5)]:
        assert content(registry, TreePath.of("f"), start, stop) == data[start:stop]


def test_large_content_passes_through(tmp_path: Path) -> None:
    """In and out, memory does not grow with what passes."""
    registry = Registry(FilesystemStore(tmp_path / "s"))
    put_user(registry)
    put_repository(registry)
    piece, count = bytes(range(256)) * 1024, 256
    hasher = Hasher()
    for _ in range(count):
        hasher.update(piece)
    meta = Meta(digests=hasher.digests(), length=hasher.length, media_type="application/wasm")
    put_tag(registry, Tag(entry=Entry(meta=meta)))
    tracemalloc.start()
    try:
        with registry.trees.put(USER, REPO, TAG, TreePath(), meta, by="x") as upload:
            for _ in range(count):
                upload.write(piece)
            upload.finish()
        read = registry.trees.find(USER, REPO, TAG, TreePath()).read()
        assert all(data == piece[: len(data)] for data in read)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert meta.length == 64 << 20
    assert peak < 8 << 20


def drain(node: StoredNode, into: bytearray) -> None:
    for piece in node.read():
        into += piece


def list_of(data: bytes) -> Key:
    """Where the digests of its pieces are."""
    return layout.number(layout.pieces(Digest.of(data)), 0)


@pytest.mark.parametrize("at", [0, 1_500_000, 1_999_999])
@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("by", ["who stored it", "a server that begins"])
def test_damage_is_an_error_never_wrong_bytes(
    registry: Registry, store: Store, caplog: pytest.LogCaptureFixture, at: int, by: str, *, with_list: bool
) -> None:
    """One bit anywhere: what comes out before the error is right, and the log names the object."""
    data = b"ab" * 1_000_000
    tree = Tree.from_files({"f": data})
    publish(registry, tree)
    damage(store, Digest.of(data), flip(at))
    if not with_list:
        store.delete(list_of(data))
    reading = registry if by == "who stored it" else Registry(store, lambda: NOW)
    received = bytearray()
    with caplog.at_level(logging.WARNING), pytest.raises(DamagedError, match="is damaged"):
        drain(reading.trees.find(USER, REPO, TAG, TreePath.of("f")), received)
    assert len(received) < len(data)
    assert data.startswith(bytes(received))
    assert any(layout.blob(Digest.of(data)).text in str(record.__dict__.get("fields")) for record in caplog.records)
    with pytest.raises(DamagedError):
        content(reading, TreePath.of("f"), at, at + 1)
    assert put_node(registry, TreePath.of("f"), tree.nodes[1].entry.meta, data) is EXISTS
    assert content(reading, TreePath.of("f")) == data


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each thing was whose SHA-256 was asked for while long content was read."""
    lengths: list[int] = []

    class Counting(Hasher):
        def digests(self) -> Digests:
            lengths.append(self.length)
            return super().digests()

    monkeypatch.setattr("enarx.drawbridge.content.Hasher", Counting)
    return lengths


def test_long_content_is_hashed_once_by_each_process(registry: Registry, store: Store, hashed: list[int]) -> None:
    """On the way in, or by the first reading of the whole; a range proves nothing."""
    data = b"ab" * 1_000_000
    publish(registry, Tree.from_files({"f": data}))
    hashed.clear()
    assert content(registry, TreePath.of("f")) == data
    assert hashed == []
    fresh = Registry(store, lambda: NOW)
    assert content(fresh, TreePath.of("f"), 1_000_000, 1_200_000) == data[1_000_000:1_200_000]
    assert hashed == []
    for _ in range(2):
        assert content(fresh, TreePath.of("f")) == data
    assert hashed == [len(data)]


@pytest.mark.parametrize("seen", [True, False])
def test_content_that_was_changed_with_its_list_is_damaged(registry: Registry, store: Store, *, seen: bool) -> None:
    """Who has seen the content finds out before the first byte leaves, who begins before the last piece does."""
    data = b"ab" * 1_000_000
    publish(registry, Tree.from_files({"f": data}))
    reading = registry if seen else Registry(store, lambda: NOW)
    changed = flip(5)(data)
    damage(store, Digest.of(data), flip(5))
    listing = Listing()
    listing.update(changed)
    Lists(store).write(Digest.of(data), listing.lists())
    received = bytearray()
    for _ in range(2):
        received.clear()
        with pytest.raises(DamagedError, match=r"expected 2000000 bytes" if seen else "another digest"):
            drain(reading.trees.find(USER, REPO, TAG, TreePath.of("f")), received)
        assert len(received) <= (0 if seen else len(data) - 1)
    if seen:
        with pytest.raises(DamagedError):
            content(reading, TreePath.of("f"), 0, 9)


def test_a_list_that_is_damaged_or_missing_is_no_obstacle(registry: Registry, store: Store, hashed: list[int]) -> None:
    """Content of earlier versions, and content whose list a disk garbled, is hashed before anything leaves, each time."""
    data = b"ab" * 1_000_000
    publish(registry, Tree.from_files({"f": data}))
    for is_there in (True, False):
        if is_there:
            damage(store, list_of(data), flip(90))
        else:
            store.delete(list_of(data))
        for reading in (registry, Registry(store, lambda: NOW)):
            hashed.clear()
            assert content(reading, TreePath.of("f")) == data
            assert content(reading, TreePath.of("f"), 131_000, 131_100) == data[131_000:131_100]
            assert hashed == [len(data)] * 2


def test_the_list_of_a_list_is_of_its_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content of several records: any range, damage in the last piece, a record in the place of another."""
    monkeypatch.setattr(pieces, "SPAN", 4 * PIECE)
    monkeypatch.setattr(content_module, "SPAN", 4 * PIECE)
    data = b"".join(bytes([number]) * PIECE for number in range(9)) + b"end"
    digest = Contents(store).put(data)
    records = [item.key for item in store.list(layout.PIECES)]
    assert len(records) == 3
    for contents in (Contents(store), Contents(store)):
        for start, stop in [
            (0, None),
            (0, 1),
            (4 * PIECE - 1, 4 * PIECE + 1),
            (3 * PIECE, 9 * PIECE),
            (9 * PIECE, None),
        ]:
            assert b"".join(contents.read(digest, len(data), start, stop)) == data[start:stop]
    damage(store, digest, flip(len(data) - 1))
    with pytest.raises(DamagedError):
        b"".join(contents.read(digest, len(data)))
    damage(store, digest, flip(len(data) - 1))
    damage(store, records[1], lambda _: b"".join(store.get(records[0])))
    assert b"".join(contents.read(digest, len(data))) == data


def test_what_left_on_the_word_of_a_record_is_hashed_though_the_next_record_is_missing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that was changed with its first list, and is right again when the missing second one has it hashed."""
    monkeypatch.setattr(pieces, "SPAN", 4 * PIECE)
    monkeypatch.setattr(content_module, "SPAN", 4 * PIECE)
    data = b"".join(bytes([number]) * PIECE for number in range(9))
    digest = Contents(store).put(data)
    records = [item.key for item in store.list(layout.PIECES)]
    damage(store, digest, flip(5))
    listing = Listing()
    listing.update(flip(5)(data))
    Lists(store).write(digest, listing.lists())
    store.delete(records[1])
    reading = Contents(store).read(digest, len(data))
    assert next(reading) != data[: 4 * PIECE]
    damage(store, digest, flip(5))
    with pytest.raises(DamagedError, match="another digest"):
        b"".join(reading)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda _: b""])
def test_content_of_another_length_is_damaged(
    registry: Registry, store: Store, change: Callable[[bytes], bytes]
) -> None:
    """Told before the first byte leaves."""
    publish(registry, Tree.from_files({"f": b"data"}))
    damage(store, Digest.of(b"data"), change)
    with pytest.raises(DamagedError, match="expected 4 bytes"):
        registry.trees.find(USER, REPO, TAG, TreePath.of("f")).read()
    store.delete(layout.blob(Digest.of(b"data")))
    with pytest.raises(DamagedError, match="is missing"):
        registry.trees.find(USER, REPO, TAG, TreePath.of("f")).read()


def test_a_damaged_record_is_an_error(registry: Registry, store: Store) -> None:
    """A tag whose record was changed, cut or put elsewhere is nobody's answer."""
    publish(registry, Tree.from_files({"f": b"data"}))
    key = layout.tag(USER, REPO, TAG)
    record = b"".join(store.get(key))
    put_tag(registry, Tag(entry=Entry.of(b"x", "a/b")), TagName("2.0.0"))
    other = b"".join(store.get(layout.tag(USER, REPO, TagName("2.0.0"))))
    for changed, because in [(record.replace(b"1.0.0", b"1.0.1"), "checksum"), (record[:-9], "checksum"),
                             (b"", "checksum"), (other, "for another key")]:  # fmt: skip
        store.delete(key)
        store.create(key, changed)
        with pytest.raises(DamagedError, match=because):
            registry.versions.find(USER, REPO, TAG)


def test_history_says_who_did_what_when(registry: Registry) -> None:
    """Creation, publication, yanking: in order, chained, checkable from its lines alone."""
    publish(registry, Tree.from_files({"f": b""}))
    registry.versions.yank(USER, REPO, TAG, "broken", by="somebody")
    registry.versions.unyank(USER, REPO, TAG, by="somebody")
    registry.histories.append(USER, REPO, by="owner", event="policy-set", detail={"policy": "strict"})
    changes = list(registry.spaces.history(USER, REPO))
    assert [(change.by, change.event) for change in changes] == [
        ("test|subject", "repository-created"), ("test|subject", "tag-published"), ("somebody", "tag-yanked"),
        ("somebody", "tag-unyanked"), ("owner", "policy-set")]  # fmt: skip
    assert changes[2].detail == {"tag": "1.0.0", "reason": "broken"}
    assert {change.at for change in changes} == {NOW}
    lines = [change.encode() for change in changes]
    assert list(check(map(Change.parse, lines))) == changes
    for broken in (lines[1:], [*lines[:2], *lines[3:]], [lines[0].replace(b"true", b"false"), *lines[1:]]):
        with pytest.raises(MalformedError, match="history"):
            list(check(map(Change.parse, broken)))


def test_the_end_of_a_history_is_found(store: Store) -> None:
    """However long it is, and whether another process made it longer meanwhile."""
    journal = Journal(store, layout.history(USER, REPO))
    for length in range(40):
        assert {journal.last(known) for known in range(length + 1)} == {length}
        journal.create(length + 1, {})


def test_a_rewritten_history_is_damaged(registry: Registry, store: Store) -> None:
    """A change that was replaced by another, well formed, breaks the chain."""
    publish(registry, Tree.from_files({"f": b""}))
    registry.versions.yank(USER, REPO, TAG, "x", by="y")
    first = layout.number(layout.history(USER, REPO), 1)
    values: Mapping[str, object] = Change.parse(b"".join(store.get(first)).split(b"\n", 1)[1].replace(
        b'"key":"history/user/repo/000000000001",', b"")).to_json()  # fmt: skip
    changed = Change.from_json({**values, "by": "somebody else"})
    store.delete(first)
    Records(registry.store).create(first, changed.to_json())
    with pytest.raises(DamagedError, match="change 2 does not follow"):
        list(registry.spaces.history(USER, REPO))


def test_a_yanked_tag_says_why(registry: Registry) -> None:
    """It can be read, with the reason; twice is once; back again it is as before."""
    put_tag(registry, Tag(entry=Entry.of(b"x", "a/b")))
    assert registry.versions.find(USER, REPO, TAG).yanked is None
    assert registry.versions.yank(USER, REPO, TAG, "leaks", by="x") is CREATED
    assert registry.versions.yank(USER, REPO, TAG, "leaks", by="x") is EXISTS
    assert registry.versions.find(USER, REPO, TAG).yanked == "leaks"
    assert registry.versions.unyank(USER, REPO, TAG, by="x") is CREATED
    assert registry.versions.unyank(USER, REPO, TAG, by="x") is EXISTS
    assert registry.versions.find(USER, REPO, TAG).yanked is None
    with pytest.raises(NotFoundError):
        registry.versions.yank(USER, REPO, TagName("9.9.9"), "", by="x")
    with pytest.raises(MalformedError, match="reason"):
        registry.versions.yank(USER, REPO, TAG, "a\nb", by="x")


def test_a_yank_that_was_not_recorded_is_recorded_later(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who died in between yanks again, and history says so once."""
    put_tag(registry, Tag(entry=Entry.of(b"x", "a/b")))
    with monkeypatch.context() as patch:
        patch.setattr(registry.histories, "append", lambda *_, **__: None)
        registry.versions.yank(USER, REPO, TAG, "leaks", by="x")
    for _ in range(2):
        assert registry.versions.yank(USER, REPO, TAG, "leaks", by="x") is EXISTS
    assert [change.event for change in registry.spaces.history(USER, REPO)][2:] == ["tag-yanked"]


def private_key(name: str) -> SigningKey:
    key = ec.generate_private_key(ec.SECP256R1())
    return SigningKey.parse(name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_a_repository_can_require_a_signature(registry: Registry) -> None:
    """By named keys, for every new tag; what was there before stays, and nobody's private key is kept."""
    entry, release, stranger = Entry.of(b"x", "a/b"), private_key("release"), private_key("stranger")
    put_tag(registry, Tag(entry=entry))
    registry.versions.set_signers(USER, REPO, (release,), by="owner")
    assert [key.name for key in registry.versions.signers(USER, REPO)] == ["release"]
    assert not registry.versions.signers(USER, REPO)[0].is_private
    for tag in (
        Tag(entry=entry),
        sign(entry, "user/repo:2.0.0", [stranger]),
        sign(entry, "user/repo:1.0.0", [release]),
    ):
        with pytest.raises(UntrustedError, match="expected a signature by 'release'"):
            put_tag(registry, tag, TagName("2.0.0"))
    with pytest.raises(NotFoundError):
        registry.versions.find(USER, REPO, TagName("2.0.0"))
    signed = sign(entry, "user/repo:2.0.0", [release])
    assert put_tag(registry, signed, TagName("2.0.0")) is CREATED
    assert registry.versions.find(USER, REPO, TagName("2.0.0")).tag == signed
    assert list(registry.spaces.history(USER, REPO))[-1].detail["signed-by"] == ["release"]
    assert list(registry.spaces.history(USER, REPO))[2].detail == {"keys": {"release": release.key_id}}
    registry.versions.set_signers(USER, REPO, (), by="owner")
    assert put_tag(registry, Tag(entry=entry), TagName("3.0.0")) is CREATED


def test_documents_have_versions(registry: Registry) -> None:
    """The last one counts, a withdrawn one is gone, and a counter loses no step."""
    assert registry.documents.find(USER, REPO, "policy", "release") is None
    assert registry.documents.put(USER, REPO, "policy", "release", b"1", by="x") == 1
    assert registry.documents.put(USER, REPO, "policy", "release", b"2", by="y", replaces=1) == 2
    with pytest.raises(ConflictError, match="expected version 1 to be the last, found 2"):
        registry.documents.put(USER, REPO, "policy", "release", b"3", by="x", replaces=1)
    found = registry.documents.find(USER, REPO, "policy", "release")
    assert found is not None
    assert (found.body, found.by, found.version) == (b"2", "y", 2)
    registry.documents.put(USER, None, "member", "a", b"m", by="x")
    assert [name for name, _ in registry.documents.all(USER, None, "member")] == ["a"]
    assert list(registry.documents.all(USER, REPO, "member")) == []
    registry.documents.put(USER, REPO, "policy", "release", None, by="x")
    assert registry.documents.find(USER, REPO, "policy", "release") is None
    with pytest.raises(NotFoundError):
        registry.documents.put(UserName("absent"), None, "member", "a", b"", by="x")


def test_a_subject_may_have_several_names_or_only_one(registry: Registry) -> None:
    """Several by default; one where the older generation's rule is asked for."""
    assert put_user(registry, UserName("second")) is CREATED
    assert registry.spaces.users_of("test|subject") == (UserName("second"), USER)
    assert put_user(registry, UserName("lone"), "other", only_one=True) is CREATED
    assert put_user(registry, UserName("lone"), "other", only_one=True) is EXISTS
    with pytest.raises(ConflictError, match="User already associated with OpenID Connect subject"):
        put_user(registry, UserName("lone2"), "other", only_one=True)
    with pytest.raises(ConflictError, match="Already exists"):
        put_user(registry, USER, "third", only_one=True)
    assert put_user(registry, UserName("third"), "third", only_one=True) is CREATED
    assert list(registry.spaces.users()) == [UserName("lone"), UserName("second"), UserName("third"), USER]
    assert list(registry.spaces.users(after=UserName("second"))) == [UserName("third"), USER]
    assert list(registry.spaces.repositories(USER)) == [REPO]
    assert registry.spaces.users_of("nobody") == ()


@pytest.mark.parametrize("goes_on_with", ["tag", "root"])
def test_a_publication_that_was_not_recorded_is_recorded_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, goes_on_with: str
) -> None:
    """Who died between the record and the history publishes again, or finds the tag and goes on: it is there once."""
    tree = Tree.from_files({"f": b"x"})
    with monkeypatch.context() as patch:
        patch.setattr(registry.histories, "append", lambda *_, **__: None)
        put_tag(registry, Tag(entry=tree.root))
    if goes_on_with == "tag":
        assert put_tag(registry, Tag(entry=tree.root)) is EXISTS
    else:
        put_node(registry, TreePath(), tree.root.meta, tree.nodes[0].open().read())
    assert put_tag(registry, Tag(entry=tree.root)) is EXISTS
    assert [change.event for change in registry.spaces.history(USER, REPO)] == ["repository-created", "tag-published"]
