"""A registry that several people and their Keeps use, as real processes: `drawbridge serve --dev` and `enarx`."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enarx.pki import keys
from tests.stories.registry_process import Enarx, drawbridge, enarx_in, worked

REPOSITORY = "alice/secret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's state, the users' home, and a package."""
    made = tmp_path_factory.mktemp("members")
    (made / "package" / "data").mkdir(parents=True)
    (made / "package" / "main.wasm").write_bytes(b"\0asm\1\0\0\0")
    (made / "package" / "data" / "größe €.txt").write_bytes(b"any name, any depth")
    return made


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[str]:
    (folder / "drawbridge.toml").write_text(
        '[[issuer]]\nname = "forge"\nurl = "https://forge.example"\nmachine = true\n'
    )
    options = ["--config", str(folder / "drawbridge.toml")]
    options += [
        "--dev-dir",
        str(folder / "dev"),
        "--write-ca",
        str(folder / "ca.pem"),
        "--store",
        str(folder / "store"),
    ]
    with drawbridge(folder / "log", *options) as found:
        yield found


@pytest.fixture(scope="module")
def enarx(folder: Path, host: str) -> Enarx:
    """Whoever logged in, by the development issuer."""
    settings = {
        "ENARX_STORE_HOST": host,
        "ENARX_OIDC_DOMAIN": f"https://{host}/_issuer",
        "ENARX_CA_BUNDLE": str(folder / "ca.pem"),
    }
    made = enarx_in(folder / "home", settings)
    worked(made("user", "login"))
    worked(made("user", "register", "alice"))
    worked(made("repo", "register", REPOSITORY))
    worked(made("package", "publish", f"{REPOSITORY}:1.0.0", str(folder / "package")))
    return made


@pytest.fixture(scope="module")
def bob(folder: Path, enarx: Enarx) -> dict[str, str]:
    """The token of somebody else, for the environment of a command."""
    program = "from enarx.cli.drawbridge import main; main()"
    command = [sys.executable, "-c", program, "dev", "token", "--user", "bob", "--dev-dir", str(folder / "dev")]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    token = {"ENARX_INSECURE_AUTH_TOKEN": made.stdout.strip()}
    worked(enarx("user", "register", "bob", **token))
    return token


def test_who_is_no_member_learns_nothing(enarx: Enarx, bob: dict[str, str]) -> None:
    """A private repository and one that does not exist look the same to a stranger."""
    there = enarx("package", "info", f"{REPOSITORY}:1.0.0", **bob)
    missing = enarx("package", "info", "alice/nothing:1.0.0", **bob)
    assert there.returncode == missing.returncode == 77
    assert there.stderr == missing.stderr


def test_members_come_and_go(enarx: Enarx, bob: dict[str, str], folder: Path) -> None:
    """A reader reads and does not publish; a publisher publishes; who was removed is a stranger again."""
    package = str(folder / "package")
    worked(enarx("repo", "member", "add", REPOSITORY, "bob", "--role", "reader", "--user", "bob"))
    worked(enarx("package", "info", f"{REPOSITORY}:1.0.0", **bob))
    assert enarx("package", "publish", f"{REPOSITORY}:2.0.0", package, **bob).returncode == 77
    worked(enarx("repo", "member", "add", REPOSITORY, "bob", "--role", "publisher", "--user", "bob"))
    worked(enarx("package", "publish", f"{REPOSITORY}:2.0.0", package, **bob))
    listed = json.loads(worked(enarx("repo", "member", "list", REPOSITORY, "--json")))
    assert [item["name"] for item in listed["members"]] == ["bob"]
    assert worked(enarx("repo", "history", "alice")) == "Nothing has changed yet.\n"
    worked(enarx("repo", "member", "add", "alice", "bob", "--role", "reader", "--user", "bob"))
    worked(enarx("repo", "member", "remove", "alice", "bob"))
    told = worked(enarx("repo", "history", "alice")).splitlines()
    assert [line.split()[3] for line in told[:-1]] == ["member-set", "member-removed"]
    assert "publisher" in worked(enarx("repo", "member", "list", REPOSITORY))
    assert [item["role"] for item in json.loads(worked(enarx("repo", "list", "alice", "--json", **bob)))] == [
        "publisher"
    ]
    worked(enarx("repo", "member", "remove", REPOSITORY, "bob"))
    assert enarx("package", "info", f"{REPOSITORY}:1.0.0", **bob).returncode == 77


def test_machines_are_members_by_their_claims(enarx: Enarx) -> None:
    """As trusted publishing does: an issuer and patterns, for one repository; never an owner."""
    claims = ["--claim", "repository=alice/secret", "--claim", "ref=refs/heads/*"]
    worked(enarx("repo", "member", "add", REPOSITORY, "ci", "--role", "publisher", "--issuer", "forge", *claims))
    assert "ref=refs/heads/*" in worked(enarx("repo", "member", "list", REPOSITORY))
    refused = enarx("repo", "member", "add", REPOSITORY, "x", "--role", "owner", "--issuer", "forge", *claims)
    assert refused.returncode == 65
    assert "a machine is never an owner" in refused.stderr
    slip = enarx("repo", "member", "add", REPOSITORY, "x", "--role", "reader", "--issuer", "froge", *claims)
    assert slip.returncode == 65
    assert "issuer: expected one of development, forge, found 'froge'" in slip.stderr
    worked(enarx("repo", "member", "remove", REPOSITORY, "ci"))


def test_a_version_can_be_taken_back(enarx: Enarx) -> None:
    """Yanked: shown with its reason, still there for whoever has it; un-yanked: as before."""
    spec = f"{REPOSITORY}:1.0.0"
    worked(enarx("package", "yank", spec, "--reason", "leaks a key"))
    assert "was yanked: leaks a key" in enarx("package", "info", spec).stderr
    listed = json.loads(worked(enarx("package", "list", REPOSITORY, "--json")))
    assert {"1.0.0": "leaks a key"}.items() <= {item["tag"]: item["yanked"] for item in listed}.items()
    assert "yanked: leaks a key" in worked(enarx("package", "list", REPOSITORY))
    worked(enarx("package", "unyank", spec))
    assert enarx("package", "info", spec).stderr == ""


def test_deploy_tokens_are_shown_once(enarx: Enarx, bob: dict[str, str]) -> None:
    """A token opens the tag that it is for and nothing else; the list has no secret; revoked, it opens nothing."""
    token = worked(
        enarx("repo", "token", "generate", f"{REPOSITORY}:1.0.0", "--lifetime", "1h", "--label", "ci")
    ).strip()
    as_token = {"ENARX_INSECURE_AUTH_TOKEN": token}
    worked(enarx("package", "info", f"{REPOSITORY}:1.0.0", **as_token))
    assert enarx("package", "info", f"{REPOSITORY}:9.0.0", **as_token).returncode == 77
    assert enarx("package", "fetch", f"{REPOSITORY}:1.0.0", "never", **as_token).returncode == 77
    (listed,) = json.loads(worked(enarx("repo", "token", "list", REPOSITORY, "--json")))
    assert token.split("_")[-1] not in json.dumps(listed)
    assert listed["id"] in worked(enarx("repo", "token", "list", REPOSITORY))
    assert json.loads(worked(enarx("repo", "token", "info", REPOSITORY, listed["id"]))) == listed
    worked(enarx("repo", "token", "revoke", REPOSITORY, listed["id"]))
    assert enarx("package", "info", f"{REPOSITORY}:1.0.0", **as_token).returncode == 77


def test_release_policies_are_read_before_they_are_sent(enarx: Enarx, folder: Path) -> None:
    """TOML with a line for every mistake; in words once it is set; a certificate can be held against it."""
    policy = folder / "policy.toml"
    policy.write_text('technologies = ["snp"]\nmeasurement = ["00"]\n')
    wrong = enarx("repo", "policy", "set", REPOSITORY, str(policy))
    assert wrong.returncode == 65
    assert "policy.toml:2: measurement: unknown key; did you mean 'measurements'?" in wrong.stderr
    policy.write_text('technologies = ["snp"]\nmax_age_seconds = 3600\nrequire_token = true\n')
    said = worked(enarx("repo", "policy", "set", REPOSITORY, str(policy)))
    assert "The technology has to be snp." in said
    assert worked(enarx("repo", "policy", "show", REPOSITORY)) == said
    assert (
        json.loads(worked(enarx("repo", "policy", "show", REPOSITORY, "--json")))["policy"]["max_age_seconds"] == 3600
    )
    tested = enarx("repo", "policy", "test", REPOSITORY, str(folder / "ca.pem"), "--json")
    assert tested.returncode == 77
    assert json.loads(tested.stdout)["accepted"] is False
    worked(enarx("repo", "policy", "remove", REPOSITORY))
    assert worked(enarx("repo", "policy", "show", REPOSITORY)).startswith("No policy was set")


def test_the_history_is_a_chain(enarx: Enarx) -> None:
    """Who did what, in order, each change bound to the one before it."""
    told = json.loads(worked(enarx("repo", "history", REPOSITORY, "--json")))
    events = [change["event"] for change in told["changes"]]
    assert events[:2] == ["repository-created", "tag-published"]
    assert len(told["head"]) == 64
    told_to_people = worked(enarx("repo", "history", REPOSITORY))
    assert told["head"] in told_to_people
    digest = json.loads(worked(enarx("package", "info", f"{REPOSITORY}:1.0.0", "--json")))["digest"]["sha-256"]
    assert f"digest=sha-256:{base64.b64decode(digest).hex()}" in told_to_people


def test_signed_versions(enarx: Enarx, folder: Path) -> None:
    """A repository that wants a signature takes no version without; `deploy` refuses one by another key, at the tag."""
    package, mine, other = str(folder / "package"), folder / "key.pem", folder / "other.pem"
    for file in (mine, other):
        file.write_bytes(keys.to_pem(keys.generate("P-256")))
    worked(enarx("repo", "signers", "set", REPOSITORY, f"release={mine}"))
    shown = worked(enarx("repo", "signers", "show", REPOSITORY, "--json"))
    assert json.loads(shown)[0]["name"] == "release"
    assert "PRIVATE" not in shown
    for options in ([], ["--sign", str(other)]):
        refused = enarx("package", "publish", f"{REPOSITORY}:3.0.0", package, *options)
        assert refused.returncode == 77
        assert "expected a signature by 'release'" in refused.stderr
    worked(enarx("package", "publish", f"{REPOSITORY}:3.0.0", package, "--sign", str(mine)))
    worked(enarx("package", "publish", f"{REPOSITORY}:3.0.0", package, "--sign", str(mine)))
    listed = json.loads(worked(enarx("package", "list", REPOSITORY, "--json")))
    assert {item["tag"]: item["signed"] for item in listed}["3.0.0"] is True
    deploy = ["deploy", "--insecure", "--backend", "nil", f"{REPOSITORY}:3.0.0", "--steward", "https://localhost:1"]
    refused = enarx(*deploy, "--require-signer", str(other))
    assert refused.returncode == 77
    assert f"refused at tag: tag {REPOSITORY}:3.0.0: expected a signature by '{other}'" in refused.stderr
    accepted = enarx(*deploy, "--require-signer", str(mine))
    assert "refused at steward" in accepted.stderr  # past the tag, at the Steward that is not there
    worked(enarx("repo", "signers", "set", REPOSITORY))
    assert worked(enarx("repo", "signers", "show", REPOSITORY)) == "Nobody has to sign.\n"


def test_a_file_that_did_not_change_is_not_sent_again(enarx: Enarx, folder: Path) -> None:
    """The next version costs what is new in it: the large file of the one before is taken over."""
    package = folder / "large"
    package.mkdir()
    (package / "main.wasm").write_bytes(b"\0asm\1\0\0\0" + b"large " * 100_000)
    (package / "notes.txt").write_bytes(b"one")
    worked(enarx("repo", "register", "alice/large"))
    first = json.loads(worked(enarx("package", "publish", "alice/large:1.0.0", str(package), "--json")))
    assert first["sent"] == ["", "main.wasm", "notes.txt"]
    (package / "notes.txt").write_bytes(b"two")
    second = json.loads(worked(enarx("package", "publish", "alice/large:1.1.0", str(package), "--json")))
    assert second["sent"] == ["", "notes.txt"]
    worked(enarx("package", "fetch", "alice/large:1.1.0", str(folder / "again")))
    assert worked(enarx("tree", "diff", str(folder / "again"), str(package))) == ""
    worked(enarx("repo", "yank", "alice/large", "--reason", "an experiment"))
    listed = json.loads(worked(enarx("package", "list", "alice/large", "--json")))
    assert [(item["tag"], item["yanked"]) for item in listed] == [
        ("1.0.0", "an experiment"),
        ("1.1.0", "an experiment"),
    ]


def test_search_finds_what_one_may_know_of(enarx: Enarx, bob: dict[str, str]) -> None:
    """Public repositories for everybody, private ones for their members."""
    worked(enarx("repo", "register", "--public", "alice/open"))
    names = [item["name"] for item in json.loads(worked(enarx("repo", "search", "ali", "--json")))]
    assert {"open", "secret"} <= set(names)
    assert worked(enarx("repo", "search", "--json", **bob)).count('"name"') == 1
    assert worked(enarx("repo", "list", "alice", **bob)) == "alice/open  public\n"
    nobody = {"XDG_STATE_HOME": "/nonexistent"}
    assert json.loads(worked(enarx("repo", "info", "alice/open", **nobody))) == {"config": {"public": True}, "tags": []}
    hidden = enarx("repo", "info", REPOSITORY, **nobody)
    assert hidden.returncode == 77
    assert "nobody is logged in here" in hidden.stderr


def test_names_of_files_survive(enarx: Enarx, folder: Path) -> None:
    """Any depth, any name: what is fetched is what was published."""
    out = folder / "out"
    worked(enarx("package", "fetch", f"{REPOSITORY}:1.0.0", str(out)))
    assert (out / "data" / "größe €.txt").read_bytes() == b"any name, any depth"
    assert worked(enarx("tree", "diff", str(out), f"{REPOSITORY}:1.0.0")) == ""
