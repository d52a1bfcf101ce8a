"""The web interface: search, user, repository, version, directory and file pages of everything that is public.

    /                                search
    /u/USER                          repositories of a name space
    /u/USER/REPO                     versions, README of the newest, release policy in words
    /u/USER/REPO/TAG[/PATH]          digest, command to deploy, files; a directory; a file and what it is

Nobody is logged in here, so nothing private is ever on a page: what is private, and what is not there, is one and the
same page. There is no script; the policy of every page (CSP) would not run any, nor load anything from elsewhere. A
click on a digest or a command selects all of it, for copying. What publishers wrote is text, or goes through
`markdown`; their files are downloaded from the API, where a browser runs nothing of them either.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from enarx.drawbridge.access import NO_POLICY, Leave, RepositoryFacts
from enarx.drawbridge.governance import SEARCHED, Governance
from enarx.drawbridge.names import RepositoryName, TagName, TreePath, UserName
from enarx.drawbridge.pages import wasm
from enarx.drawbridge.pages.html import Content, Markup, inner, tag
from enarx.drawbridge.pages.markdown import MAX_SIZE, render
from enarx.drawbridge.registry import Registry, StoredNode, StoredTag
from enarx.drawbridge.routes import PREFIX
from enarx.drawbridge.tree import Entry
from enarx.errors import MalformedError, NotFoundError

STYLE_PATH: Final = "/_style.css"
PAGE: Final = 50  # repositories on a page of results
MAX_SHOWN: Final = 64 * 1024  # bytes of a text file that are shown
MAX_LISTED: Final = 2000  # entries of a directory on one page
READMES: Final = ("README.md", "README", "README.txt", "readme.md")
ONE_SENTENCE: Final = "There is nothing here, or nothing that everybody may see."

_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pages need. `origin` is called, for it may only be known once we listen; `throttle` counts a visitor."""

    registry: Registry
    origin: Callable[[], str]
    leave: Leave
    steward: str | None
    throttle: Callable[[Request], None]


def routes(site: Site) -> list[BaseRoute]:
    """The pages. Paths are read as they stand in the request line, as the API does."""
    found = _Pages(site)
    return [
        Route(STYLE_PATH, _style, methods=["GET"]),
        Route("/", found.search, methods=["GET"]),
        Route("/u/{rest:path}", found.place, methods=["GET"]),
    ]


async def _style(_: Request) -> Response:
    return Response(STYLE, headers={**_SECURITY, "Cache-Control": "max-age=3600"}, media_type="text/css")


class _Pages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._registry = site.registry
        self._governance = Governance(site.registry)

    async def search(self, request: Request) -> Response:
        self._site.throttle(request)
        return await run_in_threadpool(
            self._search, request.query_params.get("q", ""), request.query_params.get("after", "")
        )

    async def place(self, request: Request) -> Response:
        self._site.throttle(request)
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        return await run_in_threadpool(self._place, raw.partition(b"?")[0].decode("latin-1"))

    def _search(self, words: str, after: str) -> Response:
        try:
            found, last = self._governance.search(None, words[:200], after=after, limit=PAGE)
        except MalformedError:
            return _missing()
        body: list[Content] = [
            tag(
                "form",
                tag("label", "Search packages", for_="q"),
                tag("input", type="search", name="q", id="q", value=words[:200], autocomplete="off"),
                tag("button", "Search", type="submit"),
                action="/",
                role="search",
            ),
            tag("ul", [tag("li", _repository_link(user, name)) for user, name in found], class_="names")
            if found
            else tag("p", _nothing(words, last)),
        ]
        if last is not None:
            body.append(
                tag(
                    "p",
                    tag(
                        "a",
                        "More" if found else "Look on",
                        href="/?" + urlencode({"q": words[:200], "after": last}),
                        rel="next",
                    ),
                )
            )
        return _page("Packages", body)

    def _place(self, raw: str) -> Response:
        """Whatever is wrong with a path, and whatever is not public, is the same page."""
        try:
            user, _, rest = raw.removeprefix("/u/").partition("/")
            name, _, rest = rest.partition("/")
            version, _, path = rest.partition("/")
            if not name:
                return self._user(UserName(user))
            owner, repository = UserName(user), RepositoryName(name)
            if not self._governance.is_public(owner, repository):
                return _missing()
            if not version:
                return self._repository(owner, repository)
            return self._node(owner, repository, TagName(version), TreePath.from_url(path))
        except (NotFoundError, MalformedError):
            return _missing()

    def _user(self, user: UserName) -> Response:
        names = [name for name in self._registry.spaces.repositories(user) if self._governance.is_public(user, name)]
        if not names:
            return _missing()
        return _page(str(user), tag("ul", [tag("li", _repository_link(user, name)) for name in names], class_="names"))

    def _repository(self, user: UserName, repository: RepositoryName) -> Response:
        facts = self._governance.facts(user, repository)
        tags = self._registry.versions.names(user, repository)
        title = f"{user}/{repository}"
        if not tags:
            return _page(title, tag("p", "No version was published yet."), trail=_trail(user))
        newest = next(
            (name for name in reversed(tags) if self._registry.versions.find(user, repository, name).yanked is None),
            tags[-1],
        )
        body = [
            self._deploy(user, repository, newest),
            tag("h2", "Versions"),
            tag("ul", [tag("li", self._version(user, repository, name)) for name in reversed(tags)], class_="names"),
            self._policy(facts),
            self._readme(user, repository, newest),
        ]
        return _page(title, body, trail=_trail(user))

    def _version(self, user: UserName, repository: RepositoryName, name: TagName) -> Content:
        found = self._registry.versions.find(user, repository, name)
        published = tag("time", f"{found.stored.at:%Y-%m-%d}", datetime=f"{found.stored.at:%Y-%m-%dT%H:%M:%SZ}")
        said: list[Content] = [tag("a", str(name), href=f"/u/{user}/{repository}/{name}"), " ", published]
        if found.tag.is_signed:
            said += [" ", tag("span", "signed", class_="mark")]
        if found.yanked is not None:
            said += [" ", tag("span", f"yanked: {found.yanked}".rstrip(": "), class_="bad")]
        return said

    def _deploy(self, user: UserName, repository: RepositoryName, name: TagName) -> Markup:
        workload = self._registry.trees.workload(user, repository, name)
        host = self._site.origin().partition("://")[2]
        slug = f"{host}/{user}/{repository}:{name}" + ("" if workload is None else f"@{workload}")
        return tag(
            "section",
            tag("h2", f"Deploy {name}"),
            tag("pre", tag("code", f"enarx deploy {slug}"), class_="copy"),
            tag("p", "Digest of the workload: what a Keep proves that it runs."),
            tag("pre", tag("code", str(workload or "not known yet")), class_="copy"),
        )

    def _policy(self, facts: RepositoryFacts) -> Markup:
        sentences = (facts.policy or NO_POLICY).sentences(self._site.leave)
        steward = (facts.policy.steward if facts.policy else None) or self._site.steward
        said = [tag("li", sentence) for sentence in sentences]
        said.append(tag("li", f"Keeps are certified by {steward}." if steward else "No Steward is named."))
        public = "This package is public: everybody may read it. "
        public += "Keeps are asked for:" if facts.policy else "Keeps are asked for nothing; were it private, for:"
        return tag("section", tag("h2", "Release"), tag("p", public), tag("ul", said))

    def _readme(self, user: UserName, repository: RepositoryName, name: TagName) -> Content:
        for file in READMES:
            try:
                node = self._registry.trees.find(user, repository, name, TreePath.of(file))
                text = _text(node, MAX_SIZE)
            except (NotFoundError, MalformedError):
                continue
            if text is not None:
                shown = render(text) if file.lower().endswith(".md") else tag("pre", text)
                return tag("article", shown, class_="readme")
        return None

    def _node(self, user: UserName, repository: RepositoryName, name: TagName, path: TreePath) -> Response:
        found = self._registry.versions.find(user, repository, name)
        node = self._registry.trees.find(user, repository, name, path)
        where = f"/u/{user}/{repository}/{name}"
        body: list[Content] = [_yanked(found)]
        if path.is_root:
            body.append(self._deploy(user, repository, name))
        if node.meta.is_directory:
            body += [tag("h2", "Files"), self._listing(node, where, path)]
        else:
            body.append(self._file(node, f"{PREFIX}/{user}/{repository}/_tag/{name}/tree/{path.url}".rstrip("/")))
        if path.is_root:
            body.append(self._readme(user, repository, name))
        title = f"{user}/{repository}:{name}" + ("" if path.is_root else f" {path}")
        return _page(title, body, trail=[*_trail(user, repository), *_path_trail(where, str(name), path)])

    def _listing(self, node: StoredNode, where: str, path: TreePath) -> Markup:
        listing = self._registry.trees.listing(node)
        rows = []
        for name, entry in list(listing.items())[:MAX_LISTED]:
            href = f"{where}/{(path / name).url}"
            size = "" if entry.is_directory else _size(entry.meta.length)
            shown = f"{name}/" if entry.is_directory else str(name)
            rows.append(tag("tr", tag("td", tag("a", shown, href=href)), tag("td", size), tag("td", _short(entry))))
        head = tag(
            "tr", tag("th", "Name", scope="col"), tag("th", "Size", scope="col"), tag("th", "SHA-256", scope="col")
        )
        more = len(listing) - len(rows)
        note = tag("p", f"and {more} more, which `enarx tree info` lists") if more > 0 else None
        return inner([tag("table", tag("thead", head), tag("tbody", rows)), note])

    def _file(self, node: StoredNode, download: str) -> Content:
        meta = node.meta
        facts = [
            tag("dt", "Type"),
            tag("dd", meta.media_type),
            tag("dt", "Size"),
            tag("dd", f"{_size(meta.length)} ({meta.length} bytes)"),
        ]
        for digest in meta.digests.digests():
            facts += [tag("dt", digest.algorithm), tag("dd", tag("code", digest.hex), class_="copy")]
        return [
            tag("dl", facts),
            tag("p", tag("a", "Download", href=download, download="")),
            _described(node),
        ]


def _described(node: StoredNode) -> Content:
    """What a WebAssembly file imports and exports, or the text of a text file."""
    beginning = b"".join(node.read(0, min(node.meta.length, wasm.LOOKED_AT)))
    if beginning.startswith(wasm.MAGIC):
        try:
            return _wasm(wasm.Description.parse(beginning, length=node.meta.length))
        except MalformedError as error:
            return tag("p", str(error), class_="bad")
    text = _text(node, MAX_SHOWN)
    if text is None:
        return None
    if str(node.path).lower().endswith(".md"):
        return tag("article", render(text), class_="readme")
    return tag("pre", text, tabindex="0")


def _wasm(found: wasm.Description) -> Content:
    def items(title: str, listed: Sequence[wasm.Item]) -> Content:
        rows = [
            tag("tr", tag("td", item.kind), tag("td", tag("code", f"{item.module} {item.name}".strip())))
            for item in listed
        ]
        return [tag("h2", f"{title} ({len(listed)})"), tag("table", tag("tbody", rows)) if rows else tag("p", "None.")]

    note = None if found.whole else tag("p", "Only its first megabyte was looked at.")
    return [
        tag("p", f"A WebAssembly {found.kind}."),
        items("Imports", found.imports),
        items("Exports", found.exports),
        note,
    ]


def _text(node: StoredNode, limit: int) -> str | None:
    """A file as text, if it is not too long and is text."""
    if node.meta.length > limit or node.meta.is_directory:
        return None
    try:
        text = b"".join(node.read()).decode()
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\n\r\t" for character in text) else None


def _yanked(found: StoredTag) -> Content:
    if found.yanked is None:
        return None
    return tag("p", f"This version was taken back: {found.yanked or 'no reason is given'}", class_="bad", role="alert")


def _nothing(words: str, last: str | None) -> str:
    """Why a page of a search is empty."""
    if last is not None:
        return f"None of the {SEARCHED} names that were looked at has that in it; there are more."
    return "No public package has that in its name." if words.strip() else "There is no public package."


def _repository_link(user: UserName, name: RepositoryName) -> Markup:
    return tag("a", f"{user}/{name}", href=f"/u/{user}/{name}")


def _trail(user: UserName, repository: RepositoryName | None = None) -> list[Markup]:
    found = [tag("a", str(user), href=f"/u/{user}")]
    return found if repository is None else [*found, tag("a", str(repository), href=f"/u/{user}/{repository}")]


def _path_trail(where: str, version: str, path: TreePath) -> Iterator[Markup]:
    if path.is_root:
        return
    yield tag("a", version, href=where)
    for depth in range(1, len(path)):
        part = TreePath(path.names[:depth])
        yield tag("a", str(part.name), href=f"{where}/{part.url}")


def _short(entry: Entry) -> Content:
    digest = entry.sha256
    return None if digest is None else tag("code", digest.hex[:16], title=digest.hex)


def _size(length: int) -> str:
    size, unit = float(length), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}" if unit != "B" else f"{length} B"


def _missing() -> Response:
    return _page("Not found", tag("p", ONE_SENTENCE), status=404)


def _page(title: str, body: Content, *, trail: Sequence[Markup] = (), status: int = 200) -> Response:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · Drawbridge"),
        tag("link", rel="stylesheet", href=STYLE_PATH),
    )
    steps: list[Content] = [tag("a", "Drawbridge", href="/")]
    for step in trail:
        steps += [" / ", step]
    whole = tag(
        "html",
        head,
        tag("body", tag("header", tag("nav", steps, aria_label="Where you are")), tag("main", tag("h1", title), body)),
        lang="en",
    )
    return Response(f"<!doctype html>\n{whole}\n", status, _SECURITY, media_type="text/html")


STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fdfdfc; --line: #d9d9d6; --soft: #f1f0ee; --link: #0a5bb5; --bad: #a3190f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e7e4; --paper: #16181a; --line: #3a3d40; --soft: #212427; --link: #7db4f5; --bad: #ff9d91; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
header { border-bottom: 1px solid var(--line); padding: .7rem 1rem; }
header nav, main { max-width: 60rem; margin: 0 auto; overflow-wrap: anywhere; }
main { padding: 1rem; }
a { color: var(--link); }
a:focus-visible, input:focus-visible, button:focus-visible, pre:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 1.8rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem .8rem; overflow-x: auto; }
code { font: .92em/1.5 ui-monospace, monospace; }
.copy, .copy code { user-select: all; word-break: break-all; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
input { flex: 1 1 14rem; font: inherit; padding: .5rem; color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: .3rem; }
button { font: inherit; padding: .5rem 1rem; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: .3rem; }
.names { padding-left: 1.1rem; } .names li { margin: .35rem 0; }
.mark { border: 1px solid var(--line); border-radius: .3rem; padding: 0 .35rem; font-size: .85em; }
.bad { color: var(--bad); }
.readme { margin-top: 2rem; border-top: 1px solid var(--line); }
time { color: inherit; opacity: .75; font-size: .9em; }
"""
