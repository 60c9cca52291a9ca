"""What `traces model check` found: one `Finding` a site, together a `ModelReport`, and its lines of text.

`site_checker` makes the findings of what is recorded, `intervention_check` those of what can be changed, `edge_check` those of edges,
`model_check` those of the model as a whole; the command prints the lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Finding:
    """The result of checking one site of one side."""

    side: str
    site: str
    status: str
    """`exact`: bit for bit; `close`: within `allowed`; `absent`: the model has none; `wrong`."""
    how: str
    """What it was compared with, or why the model has none."""
    error: float | None = None
    allowed: float | None = None
    layers: str = ""
    """The layers that have it, if not all."""


@dataclass
class ModelReport:
    """All findings about a model."""

    model: str
    architecture: str
    dtype: str
    tokens: str
    attn: dict[str, str] = field(default_factory=dict)
    """By side: whether attention will be `derived` or `stored`; `none` where there is no attention."""
    convention: dict[str, str] = field(default_factory=dict)
    """By side: where its blocks normalise, and whether attention and MLP are parallel."""
    findings: list[Finding] = field(default_factory=list)
    """What is recorded."""
    interventions: list[Finding] = field(default_factory=list)
    """What can be changed: `edit SITE`; `restart`, from a layer on; `head parts` and `logit parts`, what influence adds up."""
    edges: list[Finding] = field(default_factory=list)
    """What circuits are made of: `edge scores` and `edge masks`."""

    def lines(self, separator: str | None = None) -> Iterator[str]:
        """Yield the report as text: in columns, or with a separator between fields and the findings alone."""
        if separator is None:
            yield f"{self.model}: {self.architecture}, {self.dtype}; tokens {self.tokens}"
            for side, how in self.convention.items():
                yield f"{side}: {how}; attention {self.attn[side]}"
        rows = [("side", "site", "status", "error", "layers", "how")]
        for f in (*self.findings, *self.interventions, *self.edges):
            error = "" if f.error is None or f.status == "absent" else f"{f.error:.1e}" if f.error else "0"
            rows.append((f.side, f.site, f.status, error, f.layers or ("" if f.status == "absent" else "all"), f.how))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield separator.join(row) if separator is not None else "  ".join(padded).rstrip()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    @property
    def wrong(self) -> list[str]:
        """The sites that are wrong, and what else is."""
        return [f.site for f in (*self.findings, *self.interventions, *self.edges) if f.status == "wrong"]

    @property
    def whole(self) -> bool:
        """Whether the model has every site in every layer."""
        return all(f.status != "absent" and not f.layers for f in self.findings)
