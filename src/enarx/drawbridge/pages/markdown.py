"""The part of Markdown that README files use, to safe HTML.

Headings, paragraphs, fenced and indented code, lists of one level, quotes, rules; inside of lines code, strong,
emphasis and links. HTML in it is text, images are their description, and links go to http and https only. What is
not understood is text, so nothing is lost and nothing is run. The work grows with the length, not faster.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from enarx.drawbridge.pages.html import Content, Markup, inner, link, tag

MAX_SIZE: Final = 100_000  # characters; a longer file is cut
MAX_LINE: Final = 5_000  # characters of one paragraph or item that are looked at for marks

_HEADING: Final = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*")
_RULE: Final = re.compile(r"[ ]{0,3}(?:\*[ \t]*){3,}|[ ]{0,3}(?:-[ \t]*){3,}|[ ]{0,3}(?:_[ \t]*){3,}")
_FENCE: Final = re.compile(r"[ ]{0,3}(`{3,}|~{3,})[^`]*")
_BULLET: Final = re.compile(r"[ ]{0,3}[-*+][ \t]+(.*)")
_NUMBER: Final = re.compile(r"[ ]{0,3}[0-9]{1,9}[.)][ \t]+(.*)")
_INLINE: Final = re.compile(
    r"`([^`\n]{1,500}+)`"
    r"|!\[([^\]\n]{0,300}+)\]\([^)\s]{0,500}+\)"
    r"|\[([^\]\n]{1,300}+)\]\(([^)\s]{1,500}+)\)"
    r"|<(https?://[^>\s]{1,500}+)>"
    r"|\*\*([^*\n]{1,500}+)\*\*"
    r"|\*([^*\s][^*\n]{0,500}+)\*"
)


def render(text: str) -> Markup:
    """Whatever it says, as HTML."""
    lines = text[:MAX_SIZE].replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return inner(_blocks(lines))


def _blocks(lines: list[str]) -> Iterator[Markup]:
    at = 0
    while at < len(lines):
        line = lines[at]
        fence = _FENCE.fullmatch(line)
        if not line.strip():
            at += 1
        elif fence:
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines))
            yield tag("pre", tag("code", "\n".join(lines[at + 1 : end])))
            at = end + 1
        elif heading := _HEADING.fullmatch(line):
            level = min(6, len(heading[1]) + 1)  # the page has its own first heading
            yield tag(f"h{level}", _inline(heading[2]))
            at += 1
        elif _RULE.fullmatch(line):
            yield tag("hr")
            at += 1
        elif line.startswith("    "):
            end = _while(lines, at, lambda each: each.startswith("    "))
            yield tag("pre", tag("code", "\n".join(each[4:] for each in lines[at:end])))
            at = end
        elif line.lstrip().startswith(">"):
            end = _while(lines, at, lambda each: each.lstrip().startswith(">"))
            quoted = " ".join(each.lstrip()[1:].strip() for each in lines[at:end])
            yield tag("blockquote", tag("p", _inline(quoted)))
            at = end
        elif _BULLET.fullmatch(line) or _NUMBER.fullmatch(line):
            pattern = _BULLET if _BULLET.fullmatch(line) else _NUMBER
            end = _while(lines, at, partial(_goes_on, pattern))
            yield tag(
                "ul" if pattern is _BULLET else "ol",
                [tag("li", _inline(item)) for item in _items(lines[at:end], pattern)],
            )
            at = end
        else:
            end = _while(lines, at, lambda each: bool(each.strip()) and not _starts_block(each))
            yield tag("p", _inline("\n".join(lines[at:end])))
            at = max(end, at + 1)


def _while(lines: list[str], at: int, holds: Callable[[str], bool]) -> int:
    """The first line from `at` on, itself passed over, for which it does not hold."""
    end = at + 1
    while end < len(lines) and lines[end].strip() and holds(lines[end]):
        end += 1
    return end


def _goes_on(pattern: re.Pattern[str], line: str) -> bool:
    """Whether a line belongs to a list of this kind."""
    return bool(pattern.fullmatch(line)) or line.startswith("  ")


def _items(lines: list[str], pattern: re.Pattern[str]) -> list[str]:
    """What belongs to each item: its line, and indented ones after it."""
    found: list[str] = []
    for line in lines:
        match = pattern.fullmatch(line)
        if match:
            found.append(match[1])
        else:
            found[-1] += " " + line.strip()
    return found


def _starts_block(line: str) -> bool:
    return bool(_FENCE.fullmatch(line) or _HEADING.fullmatch(line) or _BULLET.fullmatch(line)) or line.startswith(">")


def _inline(text: str) -> list[Content]:
    found: list[Content] = []
    at = 0
    for match in _INLINE.finditer(text[:MAX_LINE]):
        found.append(text[at : match.start()])
        at = match.end()
        code, image, label, target, address, strong, emphasis = match.groups()
        if code is not None:
            found.append(tag("code", code))
        elif image is not None:
            found.append(f"[{image}]")
        elif target is not None:
            found.append(link(label, target))
        elif address is not None:
            found.append(link(address, address))
        elif strong is not None:
            found.append(tag("strong", strong))
        else:
            found.append(tag("em", emphasis))
    return [*found, text[at:]]
