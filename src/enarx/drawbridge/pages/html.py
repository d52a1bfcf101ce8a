"""HTML that is safe because of how it is made: text is escaped, attributes are quoted, and only `tag` makes markup.

    page = tag("p", "a < b, ", tag("a", "more", href="/u/alice"))

`Markup` is what `tag` made; everything else that is put inside is text. Addresses that a stranger wrote go through
`link`, which knows http and https only.
"""

from collections.abc import Iterable
from html import escape
from typing import Final, Union
from urllib.parse import urlsplit

Content = Union[str, "Markup", Iterable["Content"], None]

VOID: Final = frozenset({"br", "hr", "input", "link", "meta"})


class Markup(str):
    """Markup that `tag` made. Nobody else makes one."""

    __slots__ = ()


def tag(element: str, /, *children: Content, **attributes: str | bool | None) -> Markup:
    """One element. A trailing underscore of an attribute is dropped, others become hyphens; True is an empty attribute."""
    said = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            said.append(f" {attribute}")
        elif value is not None and value is not False:
            said.append(f' {attribute}="{escape(value)}"')
    opening = f"<{element}{''.join(said)}>"
    return Markup(opening if element in VOID else f"{opening}{inner(children)}</{element}>")


def inner(content: Content) -> Markup:
    """Content without an element around it."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(escape(content))
    return Markup("".join(inner(part) for part in content))


def link(text: Content, address: str) -> Markup:
    """A link to where a stranger points, if that is a plain web address; else only the text."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return inner(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or not address.isprintable():
        return inner(text)
    return tag("a", text, href=address, rel="nofollow noopener noreferrer")
