"""The Merkle tree: byte for byte that of the originals where they made whole listings."""

import json
import os
from pathlib import Path

import pytest

from enarx.digest import ALGORITHMS, Digest, Digests
from enarx.drawbridge import canonical
from enarx.drawbridge.names import TreeName, TreePath
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import DIRECTORY_TYPE, Directory, Entry, Meta, Tree, media_type_of
from enarx.errors import MalformedError, NotFoundError

EXAMPLE = {"main.wasm": bytes.fromhex("deadbeef"), "Enarx.toml": b'steward = "example.com"\nargs = ["foo", "bar"]'}
EXAMPLE_ROOT = {
    "sha-224": "13515af076ebd143a2d3b11eda9ff87b00bd9fee3db57129cda34a4b",
    "sha-256": "01fee9e21acaf2d889c21d3e03ca016471b6cfe97e87d945c6f9c7b2e67c7925",
    "sha-384": "471ee0cccd4f7312ef2625f99a79fa13e83428a7457a2add4ab18aaa53e55865d83daf4c130de944b83d0f64a5b1c44f",
    "sha-512": "84fdc5de37e1fce62cf7c26f5cb5b5479a002570cbfae470154d40089acd74c9"
    "cbcfc7cf3a68a9dfcd02eb9f94e023d7e13f6c0cd5e007ae9613b1237bf363b6",
}
NESTED = {"test-dir/test-file-bar": b"bar", "test-file-foo": b"foo"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_the_root_of_a_package_is_that_of_the_originals(tmp_path: Path) -> None:
    """The worked example: length and all four digests of the root, and those of the tag's body."""
    tree = Tree.from_path(write(tmp_path, EXAMPLE))
    assert tree.root.meta.length == 703
    assert {name: value.hex() for name, value in tree.root.meta.digests.items()} == EXAMPLE_ROOT
    assert tree.workload.hex == EXAMPLE_ROOT["sha-256"]
    body = Tag(entry=tree.root).encode()
    assert len(body) == 367
    assert Digest.of(body).hex == "d7348c7d069272a7b52a9d7171db9a3ddfa4cfec74d218537e0d9d9cad48e28b"
    assert Tree.from_files(EXAMPLE).root == tree.root


def test_the_listing_of_the_transcript_is_canonical() -> None:
    """The second example: a listing of 707 bytes, two names with four digests each, is its own canonical form."""
    files = {"main.wasm": (53966, "application/wasm"), "Enarx.toml": (79, "application/toml")}
    entries = {
        TreeName(name): Entry(meta=Meta(digests=Digests.of(name.encode()), length=length, media_type=kind))
        for name, (length, kind) in files.items()
    }
    data = Directory(entries).encode()
    assert len(data) == 707
    assert Directory.parse(data).encode() == data
    header = "sha-256=:Jcdf/Q0urZed/9dKu9IBq/BtWIHcvSGlsrUWkS1Rx+E=:"
    root = Entry(meta=Meta(digests=Digests.parse_header(header), length=707, media_type=DIRECTORY_TYPE))
    assert Entry.parse(root.encode()) == root


def test_listings_are_complete(tmp_path: Path) -> None:
    """What sorts after a sub-directory is listed too: the complete root, not the truncated one."""
    tree = Tree.from_path(write(tmp_path, NESTED))
    assert [str(node.path) for node in tree.nodes] == ["", "test-dir", "test-dir/test-file-bar", "test-file-foo"]
    root, folder = tree.nodes[0].entry, tree.nodes[1].entry
    assert (root.meta.length, folder.meta.length) == (742, 363)
    assert root.meta.digests["sha-256"].hex().startswith("dac1244d")
    assert folder.meta.digests["sha-256"].hex().startswith("9ecd0da3")


def test_the_truncated_listing_is_recognised() -> None:
    """Only what sorts after a listing's last name, a directory, may be missing from what the originals upload."""
    tree = Tree.from_files(NESTED)
    listing = Directory({TreeName("test-dir"): tree.nodes[1].entry})
    assert len(listing.encode()) == 380
    assert Digest.of(listing.encode()).hex.startswith("b25aac82")
    assert listing.may_omit(TreeName("test-file-foo"))
    assert not listing.may_omit(TreeName("a-file"))
    assert not Directory({TreeName("file"): tree.nodes[-1].entry}).may_omit(TreeName("later"))
    assert not Directory({}).may_omit(TreeName("any"))


def test_a_tree_has_any_depth_and_any_files(tmp_path: Path) -> None:
    """Deep, empty, spaced and non-ASCII: everything is there, in the order of paths."""
    files = {"/".join(["d"] * 150) + "/deep": b"1", "grüße aus.txt": b"2", ".hidden": b"3", "no extension": b""}
    write(tmp_path, files)
    (tmp_path / "empty").mkdir()
    tree = Tree.from_path(tmp_path)
    assert {str(node.path) for node in tree.nodes} >= {*files, "empty"}
    assert [node.path for node in tree.nodes] == sorted(node.path for node in tree.nodes)
    for node in tree.nodes:
        with node.open() as file:
            assert Meta.of(file.read(), node.entry.meta.media_type) == node.entry.meta
    assert next(node for node in tree.nodes if str(node.path) == "empty").entry.meta.length == 2


def test_the_original_end_to_end_tree_is_uploaded_in_their_order(tmp_path: Path) -> None:
    """The order of their test: root, then names in byte order, parents before children."""
    files = {"test-file": b"a", "test-file.txt": b"b", "test-file.json": b"c", "tEst-file..__.foo.42.": b"d",
             "test-dir-1/test-file": b"e", "test-dir-1/test-file.txt": b"f",
             "test-dir-1/test-subdir-2/test-file": b"g"}  # fmt: skip
    write(tmp_path, files)
    (tmp_path / "test-dir-1" / "test-subdir-1").mkdir()
    assert [str(node.path) for node in Tree.from_path(tmp_path).nodes] == [
        "", "tEst-file..__.foo.42.", "test-dir-1", "test-dir-1/test-file", "test-dir-1/test-file.txt",
        "test-dir-1/test-subdir-1", "test-dir-1/test-subdir-2", "test-dir-1/test-subdir-2/test-file",
        "test-file", "test-file.json", "test-file.txt"]  # fmt: skip


def test_a_package_may_be_one_file(tmp_path: Path) -> None:
    """Then the root is that file, and the workload digest its SHA-256."""
    write(tmp_path, EXAMPLE)
    tree = Tree.from_path(tmp_path / "main.wasm", algorithms=("sha-512",))
    assert tree.root.meta.media_type == "application/wasm"
    assert tree.workload == Digest.of(EXAMPLE["main.wasm"])
    assert tree.size == 4
    assert [node.path.is_root for node in tree.nodes] == [True]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A link could show what was not meant; the error names it."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(MalformedError, match=r"link: cannot be part of a package: .*found a symbolic link"):
        Tree.from_path(tmp_path)
    with pytest.raises(NotFoundError, match="absent: cannot be read: No such file"):
        Tree.from_path(tmp_path / "absent")


def test_a_name_that_could_harm_is_refused_with_its_place(tmp_path: Path) -> None:
    """The file whose name can not stand in a tree is named."""
    write(tmp_path, {"sub/a:b": b""})
    with pytest.raises(MalformedError, match="sub/a:b: cannot be part of a package"):
        Tree.from_path(tmp_path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8: the error can be printed all the same."""
    (tmp_path / os.fsdecode(b"bad\xff")).write_bytes(b"")
    with pytest.raises(MalformedError, match="cannot be part of a package") as caught:
        Tree.from_path(tmp_path)
    assert str(caught.value).encode().decode() == str(caught.value)


def test_a_file_can_not_lie_under_a_file() -> None:
    """One path is one thing."""
    with pytest.raises(MalformedError, match="found both"):
        Tree.from_files({"a": b"", "a/b": b""})


def test_unknown_members_of_an_entry_are_kept() -> None:
    """They stand after those we know, sorted; white space and order do not matter on the way in."""
    body = b'{"z":{"b":1,"a":[1.5,null,"\\u00e9"]},"a":true,"type":"a/b","length":0,"digest":{"sha-256":"%s"}}'
    body %= Digests.of(b"", ["sha-256"]).to_json()["sha-256"].encode()
    expected = '"length":0,"type":"a/b","a":true,"z":{"a":[1.5,null,"é"],"b":1}}'
    assert Entry.parse(body).encode().decode().endswith(expected)
    spaced = json.dumps(json.loads(body), indent=2).encode()
    assert Entry.parse(spaced) == Entry.parse(body)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"", "expected JSON"),
        (b"[]", "expected an object, found an array"),
        (b"\xff", "expected UTF-8"),
        (b'{"length":1,"type":"a/b"}', "expected a member 'digest'"),
        (b'{"digest":{},"length":1,"type":"a/b"}', "expected at least one"),
        (b'{"digest":{"md5":"AA=="},"length":1,"type":"a/b"}', "unknown algorithm 'md5'"),
        (b'{"digest":{"sha-256":1},"length":1,"type":"a/b"}', "expected a string of base64"),
        (b'{"digest":{"sha-256":"AA=="},"length":1,"type":"a/b"}', "expected 32 bytes, found 1"),
        (b'{"digest":{"sha-256":"%s"},"length":-1,"type":"a/b"}', "length: expected from 0"),
        (b'{"digest":{"sha-256":"%s"},"length":1.0,"type":"a/b"}', "length: expected an integer"),
        (b'{"digest":{"sha-256":"%s"},"length":true,"type":"a/b"}', "length: expected an integer, found true or"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"type":"ab"}', "expected a media type"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"type":"a/b\\r\\nX: y"}', "expected a media type"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"length":1,"type":"a/b"}', "found one twice"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"type":"a/b","x":NaN}', "found NaN"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"type":"a/b","x":"\\ud800"}', "surrogate"),
        (b'{"digest":{"sha-256":"%s"},"length":1,"type":"a/b","x":1e999}', "double precision"),
        (b'{"digest":{"sha-256":"%s"},"length":99999999999999999999999,"type":"a/b"}', "64 bits"),
        (b"[" * 100_000, "levels"),
        (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", "at most 64 levels"),
    ],
)
def test_an_entry_that_is_none_is_malformed(body: bytes, because: str) -> None:
    """Every way in which an entry can be wrong is told."""
    body = body.replace(b"%s", Digests.of(b"").to_json()["sha-256"].encode())
    with pytest.raises(MalformedError, match=because):
        Entry.parse(body)


@pytest.mark.parametrize("name", [".", "..", "a/b", "a\\\\b", "", "a\\u0000", "c:"])
def test_a_directory_with_a_harmful_name_is_malformed(name: str) -> None:
    """A listing is refused on the way in, so nobody has to extract it."""
    entry = Entry.of(b"", "a/b").encode().decode()
    with pytest.raises(MalformedError, match="directory"):
        Directory.parse(f'{{"{name}":{entry}}}'.encode())


def test_numbers_are_written_as_the_originals_write_them() -> None:
    """Where Python writes a number in another way, serde's is used."""
    for text in ("1.0", "0.1", "1e16", "1.5e-7", "0.00001", "123456789012345.6", "1e300", "-0.0", "100000.0", "-2.5"):
        assert canonical.encode(canonical.parse(text.encode(), "n")).decode() == text


def test_a_meta_says_how_another_differs() -> None:
    """Type, length, digest, in that order; a digest must be in common."""
    meta = Meta.of(b"abc", "a/b")
    assert meta.mismatch(Meta.of(b"abc", "a/b", ["sha-512"])) is None
    assert str(meta.mismatch(Meta.of(b"abc", "a/c"))) == "type: expected a/b, found a/c"
    assert str(meta.mismatch(Meta.of(b"ab", "a/b"))) == "length: expected 3, found 2"
    assert "digest" in str(meta.mismatch(Meta.of(b"abd", "a/b", ["sha-512"])))
    none = Meta(digests=Digests(), length=3, media_type="a/b")
    assert "found none" in str(meta.mismatch(none))
    assert Meta.parse(meta.encode()) == meta
    assert list(meta.digests) == list(ALGORITHMS)


def test_types_follow_the_end_of_the_name() -> None:
    """As the originals' client infers them."""
    names = {"a.wasm": "application/wasm", "b.toml": "application/toml", "c": "application/octet-stream"}
    assert {name: media_type_of(name) for name in names} == names
    assert TreePath().is_root
