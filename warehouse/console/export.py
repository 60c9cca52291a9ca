"""One HTML file that shows examples without a server: for papers and colleagues (`traces console export`).

In: what `export_data.py` returns, and the page that `make console` builds into `static/export/`. Out: a file that asks nothing of
any network: its policy allows its own script and its own style, by their hashes, and nothing else. Texts of a corpus are data in it,
and never markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.console.export_data import Head, check_head, example_data, run_data
from warehouse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warehouse.warehouse import Warehouse

BUILT = Path(__file__).with_name("static") / "export"
"""Where `make console` puts the page of the file."""
NOT_BUILT = (
    "The page is not built: `make console` builds it, for which Node 20 or newer is needed. Installed packages have it."
)
_FRAME_PX = 800
"""How high the page is in a notebook."""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="trace-warehouse {version}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div id="page"></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


class Page(str):
    """An HTML page; a notebook shows it as it is, in a frame that can reach neither the notebook nor a network."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {_FRAME_PX}px; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self)}"></iframe>'


def export(
    wh: Warehouse, run: str, examples: Sequence[str], *, seq: int = 0, heads: Sequence[Head] | None = None
) -> Page:
    """Return a page that shows examples of a run, with all that it needs in it.

    Example:
        Path("lobster.html").write_text(export(wh, "wt2", ["0de7ea9afe375237"], heads=[Head(20, 3)]), encoding="utf-8")

    Args:
        wh: The warehouse.
        run: The run.
        examples: The ids of the examples, or the beginnings of them.
        seq: Which sequence of each.
        heads: Whose attention is shown; None: a few that stand out.

    Returns:
        HTML; as the last value of a notebook's cell it is shown.

    Raises:
        UsageError: The page is not built, or the run has no attention of the heads that are asked for.
    """
    script, style = _built()
    store = wh.run(run)
    if "attn" not in store.sites:
        if heads:
            raise UsageError(f"Run '{run}' has no attention: it stored neither q and k nor attn (--capture qkv).")
        heads = []
    for head in heads or ():
        check_head(store, head)
    shown = [example_data(wh, run, store.find_example(example), seq, heads) for example in examples]
    return page_of({"version": version("trace-warehouse"), "run": run_data(wh, run), "examples": shown}, script, style)


def page_of(data: dict[str, Any], script: str, style: str) -> Page:
    """Return the page with its data, script and style in it.

    Args:
        data: What it shows: JSON.
        script: The built script. What would end or open a script element in HTML is written in another way, which means the same.
        style: The built style sheet.

    Returns:
        HTML.
    """
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--").strip()
    style = style.strip()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    filled = _PAGE.format(
        policy=policy,
        version=html.escape(str(data.get("version", ""))),
        title=html.escape(f"{data['run']['run_id']} · traces"),
        style=style,
        data=_as_data(data),
        script=script,
    )
    return Page(filled)


def _built() -> tuple[str, str]:
    """Return the built script and style sheet.

    Raises:
        UsageError: They are not there.
    """
    files = [BUILT / "export.js", BUILT / "export.css"]
    if not all(file.is_file() for file in files):
        raise UsageError(NOT_BUILT)
    script, style = (file.read_text(encoding="utf-8") for file in files)
    return script, style


def _as_data(value: Any) -> str:
    """Return JSON without a character that HTML could take for markup."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """Return the hash by which a policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
