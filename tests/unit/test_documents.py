"""The documents say what is: the story in the README is the one that is told, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "packaging/README.md"]


def test_the_readme_tells_every_attack_of_the_demonstration() -> None:
    """What the program tries and what the first screen shows are the same list in the same order."""
    source = "".join((ROOT / "src/enarx/cli/demo" / name).read_text() for name in ("attacks.py",))
    tried = re.findall(r'what="([^"]+)"', source)
    shown = re.findall(r"^6 refused +(.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown == tried


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file that is there."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target
