"""What all pictures share: an empty picture with its title, colours, and tokens as text that can be read.

The scales are safe for the colour-blind: of ColorBrewer (Brewer 2003) for magnitudes, and Okabe and Ito's colours for lines ("Color
Universal Design", 2008).
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.errors import printable
from warehouse.plots.formats import check_matplotlib

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from warehouse.plots.picture import Picture

LINES = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
"""Colours of lines, in the order in which they are used."""
GREY = "#666666"
MAGNITUDE = "YlGnBu"
"""The scale of what is 0 or more: little is light."""
SIGNED = "PuOr"
"""The scale of what may be negative: white is 0."""

PLAIN: dict[str, Any] = {"parse_math": False}
"""What texts from outside are drawn with: `$` begins no formula in them."""

_VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


def new_picture(width: float, height: float, title: str, facts: Sequence[str], layout: str = "compressed") -> Picture:
    """Return an empty picture with a title.

    Args:
        width: In inches.
        height: In inches.
        title: What is shown.
        facts: What it is shown of, for a second line.
        layout: Who places the axes: matplotlib, or with `none` the caller, who leaves half an inch for the title.

    Returns:
        The picture.
    """
    check_matplotlib()
    from warehouse.plots.picture import Picture

    picture = Picture(figsize=(width, height), layout=layout, facecolor="white")  # type: ignore[arg-type]
    lines = textwrap.wrap(" · ".join(facts), width=int(12 * width), break_on_hyphens=False)
    picture.suptitle("\n".join([title, *lines]), fontsize=9, linespacing=1.4, **PLAIN)
    return picture


def colour_bar(picture: Picture, scale: Any, axes: Any, label: str, **options: Any) -> None:
    """Draw the colour bar of a scale beside axes."""
    bar = picture.colorbar(scale, ax=axes, **{"pad": 0.02, "aspect": 7 * picture.get_figheight()} | options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_linewidth(0.5)


def ink(colour: ArrayLike) -> str:
    """Return the colour of text, black or white, that has the greater contrast to a colour: red, green and blue from 0 to 1.

    Contrast is that of the Web Content Accessibility Guidelines 2.1: 0.179 is where it is the same to both.
    """
    s = np.asarray(colour)[:3]
    luminance = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.179 else "white"


def label(token: str, longest: int = 16) -> str:
    """Return a token as a label: line breaks, tabs and lone spaces can be seen, and a long one is cut."""
    text = printable(token.translate(_VISIBLE))
    if token and not text.strip():
        text = "␣" * len(token)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def columns(text: str) -> int:
    """Count the columns that a text takes in a monospaced font: East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def layer_name(layer: int | None) -> str:
    """Return the name of a layer on an axis: the input of the first is `embed`."""
    return "embed" if layer is None else str(layer)
