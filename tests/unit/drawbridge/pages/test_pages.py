"""Pages for people: what they show, what they never show, and that nothing in them is run."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enarx.drawbridge.pages import wasm
from enarx.drawbridge.pages.html import link, tag
from enarx.drawbridge.pages.markdown import render
from enarx.drawbridge.pages.site import ONE_SENTENCE
from enarx.errors import MalformedError
from tests.unit.conftest import Authority
from tests.unit.drawbridge.bench import Bench

MODULE = Path(__file__).parents[4] / "src" / "enarx" / "examples" / "hello-keep" / "main.wasm"
README = b"# Hello\n\nSome *words* and `code`, a [link](https://example.com/?a=1&b=2) and [not one](javascript:alert(1)).\n\n<script>alert(1)</script>\n"
FILES = {
    "main.wasm": MODULE.read_bytes(),
    "Enarx.toml": b'args = ["<b>"]\n',
    "README.md": README,
    "data/a b&c.txt": b"text & <tags>",
}


class Reader(HTMLParser):
    """What a browser would make of a page: elements, attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def require_harmless(text: str) -> Reader:
    """No element or attribute that runs, loads or sends anything, but the stylesheet and the search form."""
    found = read(text)
    for name, attributes in found.elements:
        assert name not in {"script", "iframe", "object", "embed", "img", "base", "style", "svg"}
        assert not any(key.startswith("on") or key in {"style", "srcdoc"} for key in attributes)
        for key in ("href", "action", "src"):
            target = attributes.get(key)
            assert target is None or target.startswith(("/", "https://", "http://"))
    return found


@pytest.fixture
def bench(authority: Authority) -> Bench:
    bench = Bench(authority, at=datetime.now(UTC))
    token = bench.claim(hello=True, secret=False, empty=True)
    bench.publish("/user/hello/_tag/1.0.0", FILES, token)
    bench.publish("/user/hello/_tag/2.0.0", FILES, token)
    bench.publish("/user/secret/_tag/1.0.0", FILES, token)
    bench.put("/user/hello/_yank/2.0.0", {"reason": "<i>broken</i>"}, token=token)
    return bench


def test_every_page_is_harmless_and_says_so(bench: Bench) -> None:
    """A strict policy, nothing from elsewhere, no script; links lead to pages that are there."""
    seen, waiting = set[str](), ["/"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = bench.client.get(path)
        assert answer.status_code == 200, path
        if not path.startswith(("/api", "/_style")):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src" not in policy
            found = require_harmless(answer.text)
            assert found.elements[0] == ("html", {"lang": "en"})
            waiting += [
                str(attributes["href"])
                for _, attributes in found.elements
                if str(attributes.get("href", "")).startswith("/")
            ]
    assert "/u/user/hello/1.0.0/data/a%20b%26c.txt" in seen
    assert len(seen) > 15


def test_pages_show_what_one_needs_to_decide(bench: Bench) -> None:
    """Digest and command to copy, versions with their warnings, README, policy in words, a module's imports."""
    page = bench.client.get("/u/user/hello").text
    assert re.search(r"enarx deploy store\.example\.com/user/hello:1\.0\.0@sha-256:[0-9a-f]{64}", page)
    assert "yanked: &lt;i&gt;broken&lt;/i&gt;" in page
    assert "<h2>Hello</h2>" in page
    assert "Never released to a simulated TEE, which protects nothing." in page
    module = bench.client.get("/u/user/hello/1.0.0/main.wasm").text
    assert "A WebAssembly module." in module
    assert "wasi_snapshot_preview1" in module
    assert "_start" in module
    text = bench.client.get("/u/user/hello/1.0.0/data/a%20b%26c.txt").text
    assert "text &amp; &lt;tags&gt;" in text
    assert "This version was taken back" in bench.client.get("/u/user/hello/2.0.0").text
    assert "No version was published yet" in bench.client.get("/u/user/empty").text


def test_private_and_missing_are_the_same_page(bench: Bench) -> None:
    """Whatever is not public: one status, one text, on every kind of page; and not in the search."""
    pages = set()
    for path in (
        "/u/user/secret",
        "/u/user/none",
        "/u/user/secret/1.0.0",
        "/u/user/secret/1.0.0/main.wasm",
        "/u/user/hello/9.9.9",
        "/u/user/hello/1.0.0/none",
        "/u/user/hello/1.0.0/../x",
        "/u/nobody",
        "/u/",
        "/u/%00",
    ):
        answer = bench.client.get(path)
        pages.add((answer.status_code, answer.text))
    ((status, text),) = pages
    assert status == 404
    assert ONE_SENTENCE in text
    assert "secret" not in bench.client.get("/").text
    assert "user/hello" in bench.client.get("/?q=HELLO").text
    assert "No public package" in bench.client.get("/?q=%3Cscript%3E").text


def test_who_looks_at_too_much_waits(authority: Authority) -> None:
    """Pages count as requests do: for the address."""
    bench = Bench(authority, at=datetime.now(UTC), requests=2)
    assert [bench.client.get("/").status_code for _ in range(3)] == [200, 200, 429]


def test_damage_is_an_error_on_pages_too(bench: Bench) -> None:
    """A file that is damaged is not described by its wrong bytes."""
    objects = bench.store._objects  # type: ignore[attr-defined]  # the memory store
    for key in [key for key in objects if key.text.startswith("blobs/")]:
        objects[key] = (objects[key][0][:-1] + b"\xff", objects[key][1])
    assert bench.client.get("/u/user/hello/1.0.0/data/a%20b%26c.txt").status_code == 503


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("<>[]()`*#!\n&\"'-:/"), max_size=200))
def test_any_readme_is_harmless(text: str) -> None:
    """Whatever it says: markup of ours only, and no address but of the web."""
    require_harmless(render(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# A\n## B ##", "<h2>A</h2><h3>B</h3>"),
        ("a\nb\n\nc", "<p>a\nb</p><p>c</p>"),
        ("- a\n- b\n  more\n\n1. c", "<ul><li>a</li><li>b more</li></ul><ol><li>c</li></ol>"),
        ("```sh\n<x>\n```\nafter", "<pre><code>&lt;x&gt;</code></pre><p>after</p>"),
        ("> a\n> b", "<blockquote><p>a b</p></blockquote>"),
        ("**a** *b* `c`", "<p><strong>a</strong> <em>b</em> <code>c</code></p>"),
        ("![pic](x.png) [r](other.md)", "<p>[pic] r</p>"),
        ("---", "<hr>"),
    ],
)
def test_what_readmes_use(text: str, expected: str) -> None:
    """Headings, paragraphs, lists, code, quotes, marks, links."""
    assert render(text) == expected


def test_a_long_readme_takes_no_longer_than_its_length() -> None:
    """Openings that never close, a hundred thousand of them."""
    for piece in ("[", "`", "*", "![", "<http://", "# ", "- ", "> ", "**a"):
        assert render(piece * 50_000)


def test_markup_is_made_by_tags_alone() -> None:
    """Text is escaped in content and attributes; addresses of strangers are of the web or no link."""
    assert tag("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
    for address in ("javascript:alert(1)", "data:text/html,x", "//evil", "/x", "http://", "https://a\n", "http://[::"):
        assert link("t", address) == "t"
    assert link("t", "https://a/?b&c").startswith('<a href="https://a/?b&amp;c"')


@given(st.binary(max_size=200))
def test_any_bytes_are_described_or_malformed(data: bytes) -> None:
    """Whatever a file holds, it is described, or the error is ours."""
    for head in (b"", b"\0asm\1\0\0\0", b"\0asm\x0d\0\1\0"):
        try:
            found = wasm.Description.parse(head + data, length=len(head + data))
        except MalformedError:
            continue
        assert found.kind in {"module", "component"}


def test_a_module_is_described_by_its_beginning() -> None:
    """Imports and exports of a real program; of one that is cut, what was there."""
    data = MODULE.read_bytes()
    found = wasm.Description.parse(data, length=len(data))
    assert found.whole
    assert {item.module for item in found.imports} == {"wasi_snapshot_preview1"}
    assert {"memory", "_start"} <= {item.name for item in found.exports}
    cut = wasm.Description.parse(data[:200], length=len(data))
    assert not cut.exports


def test_an_empty_page_says_why(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there, nothing of that name, or not everything was looked at."""
    bench = Bench(authority)
    assert "There is no public package." in bench.client.get("/").text
    bench.claim(alpha=True, beta=True, gamma=True)
    assert "No public package has that in its name." in bench.client.get("/?q=gammo").text
    monkeypatch.setattr("enarx.drawbridge.governance.SEARCHED", 1)
    page = bench.client.get("/?q=gamma").text
    assert "names that were looked at" in page
    assert "Look on" in page
    assert "No public package" not in page
