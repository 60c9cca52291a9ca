"""Turns into pages of the site what lies outside of docs/ or is no Markdown: mkdocs.yml names this file.

In the repository, pages link to files where they lie. On the site such a link leads to the page that was made of the file; a link
to a file that has no page stays as it is, and fails the build.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

TOP = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "figures.md",
    "sql/queries": "queries.md",
    "sql/views": "views.md",
    **{f"docs/{path.name}": f"notebooks/{path.stem}.md" for path in sorted((TOP / "docs").glob("*.ipynb"))},
}
"""What becomes a page, and which."""
SOURCES = {page: source for source, page in PAGES.items()}
TITLES = {"queries": "Saved queries", "views": "Views"}
EXAMPLE = re.compile(r"^Example:\n((?:    .*\n|\n(?=    ))+)", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    for source, page in PAGES.items():
        if source.endswith(".ipynb"):
            files.remove(files.src_uris[source.removeprefix("docs/")])
        files.append(File.generated(config, page, content=content(TOP / source)))
    return files


def content(source: Path) -> str:
    """A page of Markdown from a page, a notebook, or a folder of SQL."""
    if source.is_dir():
        parts = [
            f"## {path.stem}\n\n```sql\n{path.read_text(encoding='utf-8')}```\n"
            for path in sorted(source.glob("*.sql"))
        ]
        return "\n".join([f"# {TITLES[source.name]}\n", "`traces sql --show NAME` prints one of these.\n", *parts])
    if source.suffix != ".ipynb":
        return source.read_text(encoding="utf-8")
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):  # pictures stand in the page itself
            for kind in ("image/svg+xml", "image/png"):
                if picture := output.get("data", {}).pop(kind, None):
                    output["data"] = {"text/html": inline(kind, picture)}
    return str(MarkdownExporter().from_notebook_node(notebook)[0])


def inline(kind: str, picture: str) -> str:
    if kind == "image/png":
        return f'<img src="data:image/png;base64,{picture.strip()}">'
    return "<div>" + re.sub(r"\n\s*", " ", picture[picture.index("<svg") :]) + "</div>"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        if "://" in link[1] or not (TOP / target).exists():
            return link[0]
        there = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return (
            link[0]
            if there is None
            else f"]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{link[2] or ''})"
        )

    return re.sub(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", lead, markdown)


class ExamplesAreCode(griffe.Extension):
    """Fences the lines below `Example:` in a docstring, which are code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"**Example**\n\n```python\n{textwrap.dedent(found[1])}```\n", obj.docstring.value + "\n"
            )
