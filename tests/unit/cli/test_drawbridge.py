"""`drawbridge` on the command line, as far as it does not serve: what it says, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enarx.cli.drawbridge import _host_and_port, main
from enarx.drawbridge.auth.development import load_key
from enarx.drawbridge.runner import ORIGIN_FILE


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def test_options_alone_mean_serve(tmp_path: Path) -> None:
    """As in the original; what is missing is said by name."""
    done = run("--store", str(tmp_path), "--addr", "127.0.0.1:0")
    assert done.exit_code == 65
    assert "issuer: none: nobody could publish" in done.output
    (tmp_path / "options.toml").write_text(f"store = '{tmp_path}'\naddr = '0.0.0.0:1'\noidc-issuer = 'https://x'\n")
    done = run(f"@{tmp_path / 'options.toml'}")
    assert "plain HTTP on 0.0.0.0 would be seen by everybody" in done.output


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (None, None, None),
        ("127.0.0.1", "127.0.0.1", None),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("localhost:0", "localhost", 0),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:8080", "::1", 8080),
    ],
)
def test_an_address_with_or_without_a_port(text: str | None, host: str | None, port: int | None) -> None:
    """The originals' `--addr` has both; IPv6 in brackets or bare."""
    assert _host_and_port(text) == (host, port)


def test_check_config_says_what_it_means(tmp_path: Path) -> None:
    """In sentences, the unsafe ones loudly; a mistake with its line."""
    file = tmp_path / "drawbridge.toml"
    file.write_text("store = 'data'\n[[issuer]]\nurl = 'https://login.example.com'\n[unsafe]\naccept_nil = true\n")
    done = run("check-config", str(file))
    assert done.exit_code == 0
    assert "UNSAFE: private packages are released to no TEE at all" in done.output
    assert "No Steward is trusted" in done.output
    assert json.loads(run("check-config", str(file), "--json").output)
    file.write_text("stor = 'data'\n")
    done = run("check-config", str(file))
    assert done.exit_code == 65
    assert f"{file}:1: stor: unknown key; did you mean 'store'?" in done.output


def test_dev_token_is_for_the_server_that_uses_the_directory(tmp_path: Path) -> None:
    """Whoever may read the key may be anybody; without a server there is nothing to be."""
    assert run("dev", "token", "--dev-dir", str(tmp_path)).exit_code == 66
    load_key(tmp_path)
    (tmp_path / ORIGIN_FILE).write_text("https://localhost:8080")
    assert run("dev", "token", "--dev-dir", str(tmp_path)).output.count(".") == 2
    done = run("dev", "approve", "--dev-dir", str(tmp_path), "bcdf-ghjk", "--user", "alice")
    assert done.output == "BCDF-GHJK is approved as alice\n"
    assert run("dev", "approve", "--dev-dir", str(tmp_path), "../../x").exit_code == 65
