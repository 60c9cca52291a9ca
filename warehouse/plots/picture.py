"""Picture: the Figure that every function of this package returns. It knows nothing of runs.

Only `canvas.new_picture` imports this file, because it needs matplotlib. A Picture belongs to no pyplot state: it can be made in any
thread, notebooks show it, and the same picture saved twice is the same bytes.
"""

from __future__ import annotations

import io
import threading
import warnings
from functools import cache
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from warehouse.errors import UncertainResultWarning
from warehouse.plots.formats import check_format

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "traces",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.monospace": ["DejaVu Sans Mono", "Menlo"],
}
"""Text stays text in an SVG, which makes it small, searchable, and drawn in the fonts of whoever reads it."""

_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""The metadata that leaves the date out, in the formats that have one."""

_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Segoe UI Emoji",
)  # fmt: skip
"""Fonts for characters that matplotlib's own lacks, where they are installed."""

_settings = threading.Lock()
"""Held while matplotlib's settings, which all threads share, are other than before."""


class Picture(Figure):
    """A matplotlib Figure that notebooks show without pyplot, and that is saved as the same bytes every time."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write the picture.

        Args:
            fname: The file, which ends in .png, .svg or .pdf, or a binary stream.
            **options: As matplotlib's own.
        """
        kind = check_format(fname, options.pop("format", None))
        chosen: dict[str, Any] = {"dpi": 150, "metadata": _UNDATED.get(kind)} | options
        if kind != "svg":  # whose reader has fonts of their own
            for text in self.findobj(Text):
                text.set_fontfamily([*dict.fromkeys([*text.get_fontfamily(), *_installed_fonts()])])
        with _settings, rc_context(_STYLE), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().savefig(fname, format=kind, **chosen)
        if kind != "svg" and any("missing from" in str(w.message) for w in caught):
            warnings.warn(
                "The fonts that are installed lack some characters of this picture. As .svg it is drawn with its reader's fonts.",
                UncertainResultWarning,
                stacklevel=2,
            )

    def _repr_png_(self) -> bytes:
        """Return the picture as a notebook shows it."""
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=100)
        return out.getvalue()


@cache
def _installed_fonts() -> list[str]:
    """Return those of the fallback fonts that are installed."""
    installed = set(font_manager.get_font_names())
    return [name for name in _FALLBACK_FONTS if name in installed]
