"""Whatever arrives at a Drawbridge is a value or MalformedError, and what was canonical is written again as it was."""

from hypothesis import given
from hypothesis import strategies as st

from enarx.digest import Digests
from enarx.drawbridge import canonical
from enarx.drawbridge.names import PackageSlug, TreeName, TreePath
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Directory, Entry, Meta, Tree
from enarx.errors import MalformedError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip
metas = st.builds(
    lambda data, kind, algorithms: Meta(digests=Digests.of(data, algorithms), length=len(data), media_type=kind),
    st.binary(max_size=8),
    st.sampled_from(["application/wasm", "text/plain; charset=utf-8"]),
    st.sets(st.sampled_from(["sha-224", "sha-256", "sha-384", "sha-512"]), min_size=1),
)
paths = st.lists(st.text("ab.-_é ", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@given(json_values)
def test_any_value_is_read_as_it_was_written(value: canonical.Json) -> None:
    """Canonical bytes say one value, and that value has these bytes."""
    data = canonical.encode(value)
    assert canonical.encode(canonical.parse(data, "value")) == data


@given(st.binary(max_size=200) | json_values.map(canonical.encode))
def test_any_bytes_are_a_body_or_malformed(data: bytes) -> None:
    """Entry, directory, tag and meta: no bytes end in anything else."""
    for parse in (Entry.parse, Directory.parse, Tag.parse, Meta.parse):
        try:
            value = parse(data)
        except MalformedError:
            continue
        assert parse(value.encode()) == value


@given(metas, st.dictionaries(st.sampled_from(["a", "b", "digests"]), json_values))
def test_an_entry_is_read_as_it_was_written(meta: Meta, custom: dict[str, canonical.Json]) -> None:
    """Members that we do not know included."""
    body = canonical.encode({**meta.to_json(), **custom})
    entry = Entry.parse(body)
    assert Entry.parse(entry.encode()) == entry
    assert entry.meta == meta
    assert set(entry.custom) == set(custom)


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_malformed(text: str) -> None:
    """A path that was accepted comes through a URL unchanged and never climbs; a slug is written as it was read."""
    try:
        path = TreePath.parse(text)
    except MalformedError:
        return
    assert TreePath.from_url(path.url) == path
    assert all(name.text not in {"", ".", ".."} and "/" not in name.text for name in path)


@given(
    st.from_regex(r"\A([a-z0-9.:]{0,8}/)?[a-zA-Z0-9-]{1,4}/[a-zA-Z0-9-]{1,4}(:[0-9.a+-]{1,8})?(@[0-9a-f:-]{1,80})?\Z")
)
def test_any_slug_is_written_as_it_was_read(text: str) -> None:
    """Parsing what was printed gives the same slug."""
    try:
        slug = PackageSlug.parse(text)
    except MalformedError:
        return
    assert PackageSlug.parse(str(slug)) == slug


@given(st.dictionaries(paths, st.binary(max_size=4), max_size=6))
def test_every_byte_of_a_tree_is_in_its_root(files: dict[str, bytes]) -> None:
    """Change one file and the root changes; walk the listings and every file is found."""
    try:
        tree = Tree.from_files(files)
    except MalformedError:
        return
    for name, data in files.items():
        assert Tree.from_files({**files, name: data + b"x"}).workload != tree.workload
    found = dict[TreePath, bytes]()
    waiting = [(TreePath(), tree.nodes[0])]
    nodes = {node.path: node for node in tree.nodes}
    while waiting:
        path, node = waiting.pop()
        with node.open() as file:
            data = file.read()
        if not node.entry.is_directory:
            found[path] = data
            continue
        for child, entry in Directory.parse(data).items():
            assert nodes[path / child].entry == entry
            waiting.append((path / child, nodes[path / child]))
    assert found == {TreePath.parse(name): data for name, data in files.items()}


@given(st.text(max_size=10))
def test_a_name_is_as_long_as_a_file_system_allows(text: str) -> None:
    """What is a name is one path component everywhere."""
    try:
        name = TreeName(text)
    except MalformedError:
        return
    assert len(name.text.encode()) <= 255
    assert not set("/\\:\0") & set(name.text)
