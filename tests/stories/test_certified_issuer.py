"""Logging in at a real, certified OpenID provider, and what a registry makes of its tokens."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin

import httpx2
import pytest

from tests.stories.registry_process import Enarx, drawbridge, enarx_in, worked

FOLDER = Path(__file__).resolve().parent.parent / "oidc"
AUDIENCE = "https://registry.test/"


@dataclass(frozen=True, slots=True)
class Provider:
    """`oidc-provider` of npm in a process of its own."""

    url: str

    def turn(self, *, audience: str = AUDIENCE, clock: int = 0) -> None:
        """From now on it signs with a new key, for that audience, with a clock that is so many seconds off."""
        httpx2.post(f"{self.url}/test/turn", json={"audience": audience, "clock": clock}).raise_for_status()

    def machine_token(self) -> str:
        scope = " ".join(f"manage:drawbridge_{name}" for name in ("users", "repositories", "tags"))
        form = {"grant_type": "client_credentials", "scope": scope}
        answer = httpx2.post(f"{self.url}/token", data=form, auth=("ci", "hush")).raise_for_status()
        return str(answer.json()["access_token"])


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        _skip("Node.js is not installed: nothing can run the certified provider")
    if not (FOLDER / "node_modules").exists():
        install = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(install, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            _skip("npm can not install the certified provider: no package registry is reachable")
    command = [node, str(FOLDER / "provider.mjs"), "0", AUDIENCE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield Provider(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing is skipped: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certified")


@pytest.fixture(scope="module")
def enarx(folder: Path, provider: Provider) -> Iterator[Enarx]:
    """With a registry that believes the provider, and one issuer more that makes its certificates."""
    (folder / "drawbridge.toml").write_text(
        f'[[issuer]]\nname = "certified"\nurl = "{provider.url}"\naudience = "{AUDIENCE}"\ntokens = "jwt"\ntyp = "at+jwt"\n'
    )
    options = ["--config", str(folder / "drawbridge.toml"), "--store", str(folder / "store"), "--dev-dir", str(folder)]
    with drawbridge(folder / "log", *options, "--write-ca", str(folder / "ca.pem")) as host:
        settings = {
            "ENARX_STORE_HOST": host,
            "ENARX_OIDC_DOMAIN": provider.url,
            "ENARX_CA_BUNDLE": str(folder / "ca.pem"),
        }
        yield enarx_in(folder / "home", settings)


def approve(uri: str, login: str) -> None:
    """What a person does in a browser: confirm the code, log in, consent."""
    with httpx2.Client(follow_redirects=True) as browser:
        page = browser.get(uri)
        for _ in range(6):
            form = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.DOTALL)
            if form is None:
                break
            inputs = re.findall(r"<input[^>]*>", form[2])
            values = {
                name[1]: (re.search(r'value="([^"]*)"', item) or ["", ""])[1]
                for item in inputs
                if (name := re.search(r'name="([^"]+)"', item))
            }
            if "login" in values:
                values |= {"login": login, "password": "any"}
            page = browser.post(
                urljoin(str(page.url), unescape(form[1])), data={k: unescape(v) for k, v in values.items()}
            )
        assert page.status_code == 200, page.text


def test_a_person_logs_in_on_another_device(enarx: Enarx, provider: Provider, folder: Path) -> None:
    """The device flow, to its end: code, approval in a browser, tokens; then the registry takes them, and renews them."""
    waiting = enarx.start("user", "login", "--json")
    assert waiting.stderr is not None
    told = json.loads(waiting.stderr.readline())
    approve(told["verification_uri_complete"], "alice@example.com")
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert json.loads(out)["kept"] == "file"
    worked(enarx("user", "register", "alice"))
    assert json.loads(worked(enarx("user", "info", "alice"))) == {"subject": "alice@example.com"}

    logins = folder / "home" / ".local" / "state" / "enarx" / "logins.json"
    kept = json.loads(logins.read_text())
    (login,) = kept.values()
    before = login["credential"]
    assert before["refresh_token"]
    before["expires"] = 1
    logins.write_text(json.dumps(kept))
    worked(enarx("user", "info", "alice"))
    after = json.loads(logins.read_text()).popitem()[1]["credential"]
    assert after["access_token"] != before["access_token"]


def test_a_machine_logs_in_by_its_secret(enarx: Enarx) -> None:
    """Client credentials, with the secret where this provider wants it: in the header."""
    flow = ["--oidc-flow", "client", "--oidc-client-id", "ci", "--json"]
    assert "kept" in worked(enarx("user", "login", *flow, ENARX_OIDC_CLIENT_SECRET="hush"))


def test_keys_turn_and_tokens_end(enarx: Enarx, provider: Provider) -> None:
    """A new key is fetched when it is first seen; an ended token, another audience's and a forged one get 401."""
    provider.turn()
    good = provider.machine_token()
    worked(enarx("user", "register", "machine", ENARX_INSECURE_AUTH_TOKEN=good))
    provider.turn(audience="https://somebody.else/")
    wrong = provider.machine_token()
    header, claims, signature = good.split(".")
    altered = json.loads(base64.urlsafe_b64decode(claims + "=="))
    altered["sub"] = "alice@example.com"
    forged = ".".join((header, base64.urlsafe_b64encode(json.dumps(altered).encode()).rstrip(b"=").decode(), signature))
    provider.turn(clock=-3600)
    ended = provider.machine_token()
    for token in (wrong, forged, ended, good[:-4] + "AAAA"):
        refused = enarx("user", "info", "machine", ENARX_INSECURE_AUTH_TOKEN=token)
        assert refused.returncode == 77, refused.stdout
        assert "request failed with status code `401`" in refused.stderr
