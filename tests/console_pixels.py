"""What a heatmap or a strip of the console should look like, and what it does: colours as numpy has them, and pixels as the page has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

_ANCHORS = Path(__file__).parents[1] / "console" / "src" / "colour" / "palettes.json"

_CENTRES = """canvas => {
  const rows = Number(canvas.dataset.rows), cols = Number(canvas.dataset.cols), all = [];
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let row = 0; row < rows; row += 1) for (let col = 0; col < cols; col += 1) {
    const x = Math.floor((col + 0.5) / cols * canvas.width), y = Math.floor((row + 0.5) / rows * canvas.height);
    all.push([...data.slice((y * canvas.width + x) * 4, (y * canvas.width + x) * 4 + 4)]);
  }
  return { shape: [rows, cols, 4], all };
}"""


def palette(name: str, scheme: str = "light") -> np.ndarray:
    """The 256 colours of a palette, (256, 3): straight lines in sRGB between its anchors."""
    stops = np.array(
        [[int(a[i : i + 2], 16) for i in (1, 3, 5)] for a in json.loads(_ANCHORS.read_text())[scheme][name]]
    )
    place = np.arange(256) / 255 * (len(stops) - 1)
    below = np.minimum(np.floor(place).astype(int), len(stops) - 2)
    parts = (place - below)[:, None]
    return np.floor(stops[below] + (stops[below + 1] - stops[below]) * parts + 0.5).astype(int)


def steps(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Which of the 256 colours values are."""
    return np.floor(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(int)


def cells(canvas: Any) -> np.ndarray:
    """The pixel in the middle of every cell of a heatmap, (rows, cols, 4), as it is on the screen: the first row is the highest."""
    found = canvas.evaluate(_CENTRES)
    return np.array(found["all"]).reshape(found["shape"])
