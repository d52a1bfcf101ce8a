"""`enarx package`, `enarx tree` and `enarx repo` against a registry of a few lines."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from starlette.responses import PlainTextResponse

from enarx.digest import Digest, Digests
from enarx.drawbridge.signing import SigningKey
from enarx.drawbridge.tag import Tag
from enarx.drawbridge.tree import Tree
from enarx.errors import ConflictError, MalformedError, NotFoundError, UntrustedError
from enarx.pki import keys
from tests.unit.drawbridge.client_support import Double, chain

Run = Callable[..., Result]

FILES = {"main.wasm": b"\0asm\1\0\0\0", "Enarx.toml": b"", "data/greeting.txt": b"hello"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package on disk."""
    root = tmp_path / "hello"
    for name, data in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_publish_shows_what_it_sends_and_prints_the_pinned_slug(
    enarx: Run, folder: Path, host: str, double: Double
) -> None:
    """Every file with its size on standard error; the slug with the digest, to copy, on standard output."""
    digest = Tree.from_files(FILES).workload
    dry = enarx("package", "publish", "user/repo:1.0.0", str(folder), "--dry-run")
    assert dry.stdout == f"{host}/user/repo:1.0.0@{digest}\n"
    assert double.asked == []
    done = enarx("package", "publish", "user/repo:1.0.0", str(folder))
    assert done.stdout == dry.stdout
    assert "      5 B  data/greeting.txt" in done.stderr
    assert f"{folder}: 3 files" in done.stderr
    again = enarx("package", "publish", "user/repo:1.0.0", str(folder))
    assert "5 of 5 nodes were there already" in again.stderr
    assert enarx("package", "publish", "-q", "user/repo:1.0.0", str(folder)).stderr == ""


def test_publish_as_json(enarx: Run, folder: Path, host: str) -> None:
    """What was published, node by node, and which had to be sent."""
    result = enarx("package", "publish", "user/repo:1.0.0", str(folder), "--json")
    answer = json.loads(result.stdout)
    assert answer["package"].startswith(f"{host}/user/repo:1.0.0@sha-256:")
    assert answer["new"] is True
    assert answer["sent"] == ["", "Enarx.toml", "data", "data/greeting.txt", "main.wasm"]
    assert result.stderr == ""


def test_publish_signs_what_it_publishes(enarx: Run, folder: Path, double: Double, tmp_path: Path) -> None:
    """The tag is a JWS for exactly this slug, by every key that was named; a public key can not sign."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(keys.to_pem(keys.generate("P-256")))
    named = [option for name in ("one", "two") for option in ("--sign", str(tmp_path / name))]
    assert enarx("package", "publish", "user/repo:1.0.0", str(folder), *named).exception is None
    body, headers = double.held["/api/v0.1.0/user/repo/_tag/1.0.0"]
    assert headers["content-type"] == "application/jose+json"
    known = [SigningKey.parse(name, (tmp_path / name).read_bytes()) for name in ("one", "two")]
    assert Tag.parse(body).verify(known, "user/repo:1.0.0") == ("one", "two")
    again = enarx("package", "publish", "user/repo:1.0.0", str(folder), *named)
    assert again.exception is None  # other bytes, for such signatures are random, but by the same keys
    enarx("package", "publish", "user/repo:1.0.1", str(folder))
    late = enarx("package", "publish", "user/repo:1.0.1", str(folder), *named)
    assert "published without that signature and can not change" in chain(late.exception)
    (tmp_path / "public").write_bytes(known[0].public_pem())
    result = enarx("package", "publish", "user/repo:2.0.0", str(folder), "--sign", str(tmp_path / "public"))
    assert isinstance(result.exception, MalformedError)
    assert "expected a private key" in str(result.exception)


def test_only_packages_are_published(enarx: Run, double: Double, tmp_path: Path) -> None:
    """A file that is not main.wasm, and a directory without one, are refused by name before anybody is asked."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bad_file").write_bytes(b"")
    (bad / "Enarx.toml").write_bytes(b"")
    for path in (bad / "bad_file", bad):
        result = enarx("package", "publish", "user/repo:0.0.0", str(path))
        assert isinstance(result.exception, MalformedError)
        assert str(result.exception) == f"Invalid file name: {bad / 'bad_file'}"
    assert isinstance(enarx("package", "publish", "u/r:1.0.0", str(tmp_path / "main.wasm")).exception, NotFoundError)
    assert double.asked == []


def test_what_may_be_a_mistake_is_said(enarx: Run, folder: Path, tmp_path: Path) -> None:
    """Hidden files, and a package without a program, are published with a word."""
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(b"")
    assert (
        "hidden files are part of it, such as .git/config"
        in enarx("package", "publish", "--dry-run", "u/r:1.0.0", str(folder)).stderr
    )
    (tmp_path / "empty").mkdir()
    assert (
        "there is no main.wasm" in enarx("package", "publish", "--dry-run", "u/r:1.0.0", str(tmp_path / "empty")).stderr
    )


def test_info_is_the_entry(enarx: Run, folder: Path) -> None:
    """What the originals print: digest, length and type of the root; a missing one is told as they do."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    expected = Tree.from_files(FILES).root.to_json()
    assert json.loads(enarx("package", "info", "user/repo:1.0.0").stdout) == expected
    result = enarx("package", "info", "user/repo:2.0.0")
    assert chain(result.exception) == (
        "Failed to retrieve package information | GET request failed | "
        "request failed with status code `404` | Repository does not exist"
    )


def test_fetch_writes_what_was_published(enarx: Run, folder: Path, tmp_path: Path) -> None:
    """All files, byte for byte, in a directory that was not there; and not over one that is."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    out = tmp_path / "out"
    result = enarx("package", "fetch", "user/repo:1.0.0", str(out), "--json")
    assert json.loads(result.stdout) == {
        "directory": str(out),
        "digest": str(Tree.from_files(FILES).workload),
        "files": 3,
        "bytes": sum(map(len, FILES.values())),
    }
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == FILES
    assert isinstance(enarx("package", "fetch", "user/repo:1.0.0", str(out)).exception, ConflictError)
    wrong = enarx("package", "fetch", f"user/repo:1.0.0@{Digest.of(b'')}", str(tmp_path / "other"))
    assert isinstance(wrong.exception, UntrustedError)
    assert not (tmp_path / "other").exists()


def test_tree_is_the_same_here_and_there(enarx: Run, folder: Path, tmp_path: Path) -> None:
    """Digest and listing of a directory are those of what was published from it."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    for command in ("digest", "info"):
        here = enarx("tree", command, str(folder), "--json")
        there = enarx("tree", command, "user/repo:1.0.0", "--json")
        assert here.stdout == there.stdout
        assert json.loads(here.stdout)["digest"] == str(Tree.from_files(FILES).workload)
        assert enarx("tree", command, str(folder)).stdout == enarx("tree", command, "user/repo:1.0.0").stdout
    assert isinstance(enarx("tree", "info", "./nowhere").exception, NotFoundError)


def test_tree_fetch_takes_a_part(enarx: Run, folder: Path, tmp_path: Path) -> None:
    """One file, or one directory, checked all the way from the root."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    enarx("tree", "fetch", "user/repo:1.0.0", "data/greeting.txt", "--out", str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == b"hello"
    enarx("tree", "fetch", "user/repo:1.0.0", "data", "--out", str(tmp_path / "part"))
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["greeting.txt"]
    missing = enarx("tree", "fetch", "user/repo:1.0.0", "nothing", "--out", str(tmp_path / "x"))
    assert "nothing in it is called nothing" in chain(missing.exception)


def test_diff_names_what_changed(enarx: Run, folder: Path) -> None:
    """Added, deleted and modified files between what is here and what is published; 1 when there are any."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    assert enarx("tree", "diff", "user/repo:1.0.0", str(folder)).output == ""
    (folder / "data" / "greeting.txt").write_bytes(b"HELLO")
    (folder / "Enarx.toml").rename(folder / "more")
    result = enarx("tree", "diff", "user/repo:1.0.0", str(folder))
    assert result.output == "D Enarx.toml\nM data/greeting.txt\nA more\n"
    (folder / "data" / "empty").mkdir()
    (folder / "data" / "full").mkdir()
    (folder / "data" / "full" / "file").write_bytes(b"")
    told = enarx("tree", "diff", "user/repo:1.0.0", str(folder)).output.splitlines()
    assert told == ["D Enarx.toml", "A data/empty/", "A data/full/file", "M data/greeting.txt", "A more"]
    assert isinstance(result.exception, SystemExit)
    assert result.exception.code == 1
    assert json.loads(enarx("tree", "diff", str(folder), str(folder), "--json").output) == []


def test_repositories_are_private_unless_said(enarx: Run, double: Double) -> None:
    """register is silent; info prints the originals' JSON."""
    assert enarx("repo", "register", "user/secret").output == ""
    assert enarx("repo", "register", "user/open", "--public").output == ""
    double.held["/api/v0.1.0/user/open/_tag"] = (b'["1.0.0"]', {})
    double.held["/api/v0.1.0/user/secret/_tag"] = (b"[]", {})
    assert json.loads(enarx("repo", "info", "user/open").stdout) == {"config": {"public": True}, "tags": ["1.0.0"]}
    assert json.loads(enarx("repo", "info", "user/secret").stdout) == {"config": {"public": False}, "tags": []}


def test_a_stranger_sees_a_public_repository(enarx: Run, double: Double) -> None:
    """Its record is its members' business, also for who is logged in; its versions everybody may list."""
    double.instead["/api/v0.1.0/user/open"] = lambda: PlainTextResponse("no", status_code=401)
    double.held["/api/v0.1.0/user/open/_tag"] = (b'["1.0.0"]', {})
    for token in (None, "somebody"):
        answer = enarx("repo", "info", "user/open", env={"ENARX_INSECURE_AUTH_TOKEN": token})
        assert json.loads(answer.stdout) == {"config": {"public": True}, "tags": ["1.0.0"]}
    double.instead["/api/v0.1.0/user/open/_tag"] = double.instead["/api/v0.1.0/user/open"]
    hidden = enarx("repo", "info", "user/open", env={"ENARX_INSECURE_AUTH_TOKEN": "somebody"})
    assert isinstance(hidden.exception, UntrustedError)


def test_diff_tells_of_another_media_type(enarx: Run, folder: Path, double: Double) -> None:
    """It is part of the digest, so two trees of the same bytes are two packages."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    tree = Tree.from_files(FILES)
    listing = next(node for node in tree.nodes if node.path.is_root)
    with listing.open() as file:
        body = file.read().replace(b"application/toml", b"text/plain")
    entry = {**tree.root.to_json(), "digest": Digests.of(body).to_json(), "length": len(body)}
    where = "/api/v0.1.0/user/repo/_tag/2.0.0"
    for path, _ in list(double.held.items()):
        if "/_tag/1.0.0/tree/" in path:
            double.held[path.replace("1.0.0", "2.0.0")] = double.held[path]
    kind = {"content-type": "application/vnd.drawbridge.entry.v1+json"}
    text = json.dumps(entry, separators=(",", ":")).encode()
    double.held[where] = (text, {**kind, "content-digest": Digests.of(text).header()})
    root = {"content-type": tree.root.meta.media_type, "content-digest": Digests.of(body).header()}
    double.held[f"{where}/tree"] = double.held[f"{where}/tree/"] = (body, root)
    assert enarx("tree", "diff", "user/repo:1.0.0", "user/repo:2.0.0").output == "T Enarx.toml\n"


def test_an_unfinished_version_is_told_as_one(enarx: Run, folder: Path, tmp_path: Path, double: Double) -> None:
    """The tag is there and a node is not: that is no missing repository."""
    enarx("package", "publish", "user/repo:1.0.0", str(folder))
    del double.held["/api/v0.1.0/user/repo/_tag/1.0.0/tree/data/greeting.txt"]
    failed = enarx("package", "fetch", "user/repo:1.0.0", str(tmp_path / "out"))
    assert isinstance(failed.exception, NotFoundError)
    assert "data/greeting.txt is not there: the version was never published to its end" in chain(failed.exception)


def test_a_configuration_that_no_keep_takes_is_not_published(enarx: Run, folder: Path, double: Double) -> None:
    """A version can not be mended, so the mistake is told first: file, line, and what is wrong."""
    (folder / "Enarx.toml").write_text('args = ["a"]\nstewart = "x"\n')
    refused = enarx("package", "publish", "user/repo:1.0.0", str(folder))
    assert isinstance(refused.exception, MalformedError)
    assert f"{folder}/Enarx.toml:2" in str(refused.exception)
    assert double.asked == []
