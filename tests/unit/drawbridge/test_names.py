"""Names: the originals' grammar, and ours where packages hold any files."""

import pytest

from enarx.digest import Digest
from enarx.drawbridge.names import (
    PackageSlug,
    RepositoryName,
    RepositorySlug,
    TagName,
    TreeName,
    TreePath,
    UserName,
    UserSlug,
    require_host,
)
from enarx.errors import MalformedError


@pytest.mark.parametrize("text", ["name", "n4M3", "a" * 255])
def test_a_user_name_is_letters_and_digits(text: str) -> None:
    """What the originals take for a user name, we take."""
    assert str(UserName(text)) == text


@pytest.mark.parametrize("text", ["", " ", "/", "name/", "n%ame", "n.ame", "n-ame", "ñame", "name\n", "a" * 256])
def test_other_user_names_are_refused(text: str) -> None:
    """Everything else is malformed."""
    with pytest.raises(MalformedError, match="user name"):
        UserName(text)


@pytest.mark.parametrize("text", ["name", "-n4M3", "a-b"])
def test_a_repository_name_has_hyphens(text: str) -> None:
    """Repositories may have hyphens, at the beginning as well."""
    assert str(RepositoryName(text)) == text


@pytest.mark.parametrize("text", ["", "/", "a/b", "a b", "a%b", "a.b", "a_b", "ä", "a\n"])
def test_other_repository_names_are_refused(text: str) -> None:
    """Everything else is malformed."""
    with pytest.raises(MalformedError, match="repository name"):
        RepositoryName(text)


@pytest.mark.parametrize("text", ["1.2.3", "1.2.3-test", "0.0.0", "1.0.0-alpha.1+build.5", "1.0.0-0a", "1.0.0--"])
def test_a_tag_is_a_semantic_version(text: str) -> None:
    """SemVer 2.0.0, build metadata included."""
    assert str(TagName(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "=", "/", "v1.2/3", "v1.2.3", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3-a..b",
     "1.2.3 ", "1.2.3\n", "\uff11.2.3", "18446744073709551616.0.0", "1.0.0-" + "a" * 255],
)  # fmt: skip
def test_other_tags_are_refused(text: str) -> None:
    """Anything but a semantic version is malformed, and so is one that the originals could not read."""
    with pytest.raises(MalformedError, match="tag name"):
        TagName(text)


def test_what_is_wrong_with_a_tag_is_its_length() -> None:
    """A version that is one, but too long for a file's name, is told so."""
    with pytest.raises(MalformedError, match="at most 255 characters, found 306"):
        TagName("1.0.0-" + "a" * 300)


def test_tags_are_ordered_by_precedence() -> None:
    """The example of SemVer 2.0.0, section 11, and numbers by value."""
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
             "1.0.0-rc.1", "1.0.0", "1.0.0+b", "1.2.0", "1.10.0", "2.0.0"]  # fmt: skip
    assert [str(tag) for tag in sorted(map(TagName, reversed(order)))] == order


@pytest.mark.parametrize(
    "text",
    ["foo", "some.txt", "my_wasm.wasm", "not.a.cor-Rec.t.eX.tens.si0n_", "tEst-file..__.foo.42.", "...", ".hidden",
     "with space", "grüße.txt", "日本", "100%", "a+b", "emoji🎉", "x" * 255],
)  # fmt: skip
def test_any_file_has_a_name(text: str) -> None:
    """Any printable name is a tree name, and comes through a URL as it was."""
    assert TreePath.from_url(f"/{TreeName(text).url}/") == TreePath.of(text)


def test_names_of_the_originals_stand_in_urls_as_they_are() -> None:
    """What needed no encoding before needs none now."""
    assert TreePath.of("a-b", "c_d.e").url == "a-b/c_d.e"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a/b", "a\\b", "c:", "a:b", "a\0", "a\n", "\x7f", "a\x85", "a\u202eb", "\u200b", "\ufeffa",
     "a\u2028", "e\u0301", "\ud800", "x" * 256, "é" * 128],
)  # fmt: skip
def test_names_that_could_harm_are_refused(text: str) -> None:
    """Nothing leaves its directory, hides, or has two spellings."""
    with pytest.raises(MalformedError, match="tree name"):
        TreeName(text)


@pytest.mark.parametrize("url", ["%2e%2e", "a/%2E", "a%2fb", "%5C", "a%00", "%", "%f", "%zz", "%ff", "a//b", "a/../b"])
def test_an_encoded_name_is_no_way_around(url: str) -> None:
    """Decoding happens once, after the split, and what comes out is checked."""
    with pytest.raises(MalformedError, match="tree name"):
        TreePath.from_url(url)


def test_a_path_is_read_as_the_originals_read_it() -> None:
    """Leading slashes and one trailing slash mean nothing, and nothing is the root."""
    assert TreePath.parse("/") == TreePath.parse("") == TreePath()
    assert TreePath.parse("/foo/") == TreePath.of("foo")
    assert TreePath.parse("//a/b") == TreePath.of("a", "b")
    with pytest.raises(MalformedError, match="tree path"):
        TreePath.parse("/".join(["x" * 255] * 17))


def test_paths_sort_by_their_names() -> None:
    """A directory comes right before what it holds, whatever characters sort before a slash."""
    paths = [TreePath.parse(text) for text in ("a", "a/b", "a-b", "")]
    assert [str(path) for path in sorted(paths)] == ["", "a", "a/b", "a-b"]


@pytest.mark.parametrize(
    ("text", "host"),
    [("u/r:1.0.0", None), ("localhost:1234/u/r:1.0.0", "localhost:1234"), ("[::1]:8/u/r:1.0.0", "[::1]:8")],
)
def test_a_package_slug_has_its_parts(text: str, host: str | None) -> None:
    """Host, port, user, repository and tag are told apart, and written again as they were."""
    slug = PackageSlug.parse(text)
    assert (slug.host, str(slug.user), str(slug.repository), str(slug.tag)) == (host, "u", "r", "1.0.0")
    assert str(slug) == text


def test_a_slug_can_pin_a_digest() -> None:
    """A digest can stand after a tag, or alone."""
    digest = Digest.of(b"x")
    assert PackageSlug.parse(f"h/u/r:1.0.0@sha256:{digest.hex}").digest == digest
    alone = PackageSlug.parse(f"u/r@{digest}")
    assert alone.tag is None
    assert str(alone) == f"u/r@{digest}"


@pytest.mark.parametrize(
    "text",
    ["", "u", "u/r", "u/r:", "u/r@", "u/r:1.0.0@", "u/r:1.0.0@sha-256:00", "a/b/c/d:1.0.0", "/u/r:1.0.0", "u//r:1.0.0",
     "h:0/u/r:1.0.0", "h:x/u/r:1.0.0", "h:99999/u/r:1.0.0", "-h/u/r:1.0.0", "[::1/u/r:1.0.0", "https://h/u/r:1.0.0",
     "u/r:1.0.0:1.0.0", "a@b/u/r:1.0.0", "x" * 2000],
)  # fmt: skip
def test_other_package_slugs_are_refused(text: str) -> None:
    """A slug that is short of a part, or has one too many, is malformed."""
    with pytest.raises(MalformedError):
        PackageSlug.parse(text)


def test_slugs_of_users_and_repositories() -> None:
    """The command tells which of the three it wants."""
    assert UserSlug.parse("example.com:8080/u") == UserSlug(host="example.com:8080", user=UserName("u"))
    assert str(RepositorySlug.parse("h/u/r")) == "h/u/r"
    assert RepositorySlug.parse("u/r").host is None
    for text in ("u/r/x/y", "u/r:1.0.0", "u"):
        with pytest.raises(MalformedError):
            RepositorySlug.parse(text)
    with pytest.raises(MalformedError):
        UserSlug.parse("a/b/c")


@pytest.mark.parametrize("text", ["[::1]x", "[::1]:", "h:", "h..a", "", "h/", "a b", "[1.2.3.4]", "h:1:2"])
def test_a_host_is_a_host(text: str) -> None:
    """What could not stand in a URL as a host is refused before anybody connects."""
    with pytest.raises(MalformedError, match="host"):
        require_host(text)
