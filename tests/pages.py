"""The pages of the documentation, as a test reads them: their blocks of code in order, what they show, where their links lead.

A block marked `<!-- shown -->` is followed by its answer; `...` in an answer stands for anything. As in a notebook, the answer of
a block of Python is what it prints, and then the value of its last line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[1]
GENERATED = ("cli.md", "tables.md", "models.md", "accuracy.md")
PAGES = [TOP / "README.md", *sorted((TOP / "docs" / "guides").glob("*.md"))]
WRITTEN = [
    *PAGES,
    *(p for p in sorted((TOP / "docs").glob("*.md")) if p.name not in GENERATED),
    TOP / "CONTRIBUTING.md",
]
"""All pages that a person wrote."""

BLOCK = re.compile(r"^(<!-- shown -->\n)?```(sh|python)\n(.*?)^```\n(?:```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code, and the answer that the page shows, if it shows one."""

    language: str
    code: str
    answer: str | None


def blocks(page: Path) -> Iterator[Block]:
    for shown, language, code, answer in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert bool(shown) == bool(answer), f"{page.name}: an answer and <!-- shown --> go together\n{code}"
        yield Block(language, code, answer or None)


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What `#…` may name on a page: its headings, in small letters with hyphens."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
