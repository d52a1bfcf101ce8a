"""What `enarx deploy` understands, and what it calls a mistake before anything is started."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enarx.cli.deploy import parse_package
from enarx.cli.main import main
from enarx.errors import MalformedError
from enarx.keep import launch
from enarx.keep.backends import Backend, Wishes
from enarx.keep.backends.qemu import Qemu
from tests.unit.drawbridge.client_support import Double

DIGEST = "sha-256:" + "ab" * 32
BASE = ("deploy", "--insecure")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("localhost:1234/user/repo:1.0.0", "localhost:1234/user/repo:1.0.0"),
        ("user/repo:1.0.0-rc.1", "user/repo:1.0.0-rc.1"),
        (f"host.example/user/repo:1.0.0@{DIGEST}", f"host.example/user/repo:1.0.0@{DIGEST}"),
        ("https://host.example/api/v0.1.0/user/repo/_tag/1.0.0", "host.example/user/repo:1.0.0"),
        ("https://localhost:1/api/v0.2.0/user/repo/_tag/1.0.0/", "localhost:1/user/repo:1.0.0"),
    ],
)
def test_slugs_and_the_urls_of_tags_are_packages(text: str, slug: str) -> None:
    """As the originals understood them, and the digest beside."""
    assert str(parse_package(text)) == slug


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file:///tmp/main.wasm", "`enarx run` takes local files"),
        ("http://host.example/api/v0.1.0/user/repo/_tag/1.0.0", "or an https URL"),
        ("https://host.example/user/repo", "expected https://HOST/api/"),
        ("./hello", "found the path './hello'; `enarx run` takes local files"),
        ("user", "expected"),
        ("user/repo:one", "expected"),
        ("user/repo:1.0.0@sha-256:abc", "hexadecimal|bytes"),
    ],
)
def test_everything_else_is_malformed(text: str, why: str) -> None:
    """And the error says what would be right."""
    with pytest.raises(MalformedError, match=why):
        parse_package(text)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--tee", "snp"), "needs --machine"),
        (("--backend", "simulated", "--machine", "."), "needs --tee"),
        (("--backend", "nil", "--tee", "snp"), "--tee is for --backend simulated"),
        (("--backend", "nil", "--collateral", "."), "--collateral is for --backend inside"),
        (("--backend", "nil", "--image", "."), "--image is for --backend"),
        (("--backend", "nil", "--signatures", "file"), "--signatures is for --backend qemu-snp, gramine"),
        (("--backend", "nil", "--unsigned"), "--unsigned is for --backend qemu-snp"),
        (("--backend", "nil", "--port", "web"), "expected NAME=PORT"),
        (("--backend", "nil", "--env", "=x"), "expected NAME=VALUE"),
    ],
)
def test_options_that_would_do_nothing_are_mistakes(options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    """A usage error, which names the option."""
    result = CliRunner().invoke(main, [*BASE, *options, "localhost:1/user/repo:1.0.0"])
    assert result.exit_code == 64
    assert why in result.output


def test_a_launch_is_signed_by_the_file_that_is_named_or_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never both; without either it is what lies in the image that counts."""
    seen: list[Wishes] = []

    def launched(_: object, __: Backend, wishes: Wishes, *___: object) -> int:
        seen.append(wishes)
        return 0

    monkeypatch.setattr(launch, "choose", lambda *_, **__: Qemu(tee="snp"))
    monkeypatch.setattr(launch, "deploy", launched)

    def run(*options: str) -> int:
        return CliRunner().invoke(main, ["deploy", "--image", ".", *options, "localhost:1/user/repo:1.0.0"]).exit_code

    assert [run(), run("--signatures", "file"), run("--unsigned")] == [0, 0, 0]
    assert [(wishes.signatures, wishes.unsigned) for wishes in seen] == [(None, False), ("file", False), (None, True)]
    assert run("--signatures", "file", "--unsigned") == 64


def test_a_token_that_is_none_is_malformed_and_not_repeated(tmp_path: Path) -> None:
    """Whatever the file holds, it is in no message."""
    file = tmp_path / "token"
    file.write_text("two words\nof a secret")
    result = CliRunner().invoke(
        main, [*BASE, "--backend", "nil", "--token-file", str(file), "localhost:1/user/repo:1.0.0"]
    )
    assert result.exit_code == 65
    assert "expected one word" in result.output
    assert "secret" not in result.output


def test_who_asks_for_what_is_not_there_is_told_that_first(enarx: Callable[..., Result], double: Double) -> None:
    """Before what this machine lacks for it; what cannot be asked is no reason to hide what is known."""
    options = ("deploy", "--backend", "nosuch")
    missing = enarx(*options, "user/repo:1.0.0")
    assert missing.exit_code == 66
    assert "refused at tag" in missing.stderr
    assert double.asked == ["GET /api/v0.1.0/user/repo/_tag/1.0.0"]
    away = enarx(*options, "localhost:1/user/repo:1.0.0")
    assert away.exit_code == 65
    assert "refused at backend: expected one of" in away.stderr
    listed = away.stderr.partition("expected one of ")[2].partition(", found")[0].split(", ")
    assert len(listed) == len(set(listed))


def test_a_registry_has_to_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None is built in, and the error says where to name one."""
    monkeypatch.delenv("ENARX_STORE_HOST", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    result = CliRunner().invoke(main, [*BASE, "--backend", "nil", "user/repo:1.0.0"])
    assert result.exit_code == 65
    assert "ENARX_STORE_HOST" in result.output


def test_an_unreachable_registry_is_a_refusal_at_the_tag() -> None:
    """With the exit code of its family, and no Keep left behind."""
    result = CliRunner().invoke(main, [*BASE, "--backend", "nil", "localhost:1/user/repo:1.0.0"])
    assert result.exit_code == 69
    assert "enarx: refused at tag: localhost:1: " in result.output
