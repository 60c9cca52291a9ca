"""What an intervention is: a site, a layer, perhaps a head and positions, and what is done there; as users write it, and parsed.

    L12H3=zero                              head 12.3 adds nothing
    L12H3=mean:RUN                          … its mean by position over the sequences of a run
    M5=zero   A5=zero                       the MLP, the attention block of layer 5
    resid.post_mlp@5[pos=7]=patch:RUN       the stream after block 5 at one token, as a run has stored it
    v@4.H1[pos=2:6]=zero                    values of kv head 1 of layer 4, tokens 2 to 5
    resid.post_mlp@15=add:TRAIT*2           twice a trait's vector on top
    resid.post_mlp@15=add:FOLDER#7*4        four times the direction of feature 7 of a dictionary
    resid.post_mlp@15=clamp:FOLDER#7*0      that feature held at an activation of 0: taken out

`intervene`, `effects` and the commands read this; where a run or a trait is named, they look it up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch

from capture.interventions.site_edits import SITES
from warehouse.errors import NotFoundError, UsageError

KINDS = ("zero", "mean", "resample", "patch", "add", "clamp")
_NEEDS_SOURCE = {"mean": "RUN", "add": "TRAIT", "clamp": "FOLDER#FEATURE*0"}

_SPEC = re.compile(
    r"(?P<target>[^=\[\]]+)(?:\[pos=(?P<pos>[-0-9:]+)\])?=(?P<kind>[a-z]+)(?::(?P<source>.+?))?(?:\*(?P<factor>[-+0-9.eE]+))?"
)
_SHORT = re.compile(r"(?:L(?P<layer>\d{1,6})H(?P<head>\d{1,6})|(?P<block>[MA])(?P<number>\d{1,6}))")
_SITE = re.compile(r"(?P<side>enc\.|)(?P<site>[a-z_.]+?)(?:@(?P<layer>\d{1,6}))?(?:\.H(?P<head>\d{1,6}))?")
_EXAMPLE = "L12H3=zero, M5=zero, resid.post_mlp@5[pos=7]=patch:RUN"


@dataclass(frozen=True)
class Positions:
    """Tokens of a sequence, from `start` to before `stop`; below 0 they count from its end, that of the prompt while it goes on."""

    start: int
    stop: int | None
    """None: to the end, tokens that are generated included."""

    def mask(self, places: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return which columns are meant, (B, T).

        Args:
            places: (B, T) which token of its sequence each column is.
            lengths: (B,) tokens of each sequence.

        Returns:
            Booleans; padding is never meant.
        """
        n = torch.zeros(1, dtype=torch.long) if lengths is None else lengths
        n = n.to(places.device)[:, None]
        mask = (places >= 0) & (places >= (self.start if self.start >= 0 else n + self.start))
        if self.stop is not None:
            mask &= places < (self.stop if self.stop >= 0 else n + self.stop)
        return mask

    def __str__(self) -> str:
        if self.stop == self.start + 1 or (self.start, self.stop) == (-1, None):
            return str(self.start)
        return f"{self.start or ''}:{'' if self.stop is None else self.stop}"


@dataclass(frozen=True)
class Intervention:
    """One change of a model's values.

    Several may be made at one place; they are made in their order.
    """

    site: str
    """`heads`, `q`, `k`, `v`, `attn_out`, `mlp_out`, `resid.embed`, `resid.pre_attn`, `resid.post_attn` or `resid.post_mlp`;
    `cross.` before one of attention's."""
    layer: int | None
    """None for `resid.embed`."""
    kind: str
    """`zero`; `mean` by position over a run; `resample`, the value in the other prompt of a pair; `patch`, a value from elsewhere;
    `add`, a vector on top; `clamp`, a feature of a dictionary held at an activation."""
    head: int | None = None
    """The query head, of `k` and `v` the kv head; None: all of them."""
    positions: Positions | None = None
    """None: all."""
    source: str = ""
    """Where the value comes from: a run, for `patch` also RUN/EXAMPLE_ID or RUN/EXAMPLE_ID.SEQ; for `add` a trait or FOLDER#FEATURE, for `clamp`
    FOLDER#FEATURE."""
    factor: float = 1.0
    """How many times a vector is added; the activation that a feature is held at."""
    side: str | None = None
    """`enc`: the encoder of an encoder-decoder; None: the model's main side."""
    value: Any = field(default=None, compare=False, repr=False)
    """A tensor or array from Python in place of a source: (D,) or (T, D), (d,) or (T, d) of a head, (H, d) or (T, H, d) of all."""

    def __post_init__(self) -> None:
        """Check the names; raises NotFoundError for a site or kind that is none, UsageError for what does not go together."""
        if self.site.removeprefix("cross.") not in SITES:
            raise NotFoundError("site to change", self.site, SITES, f"As in {_EXAMPLE}.")
        if self.kind not in KINDS:
            raise NotFoundError("kind of intervention", self.kind, KINDS, f"As in {_EXAMPLE}.")
        if self.head is not None and self.site.removeprefix("cross.") not in ("heads", "q", "k", "v"):
            raise UsageError(f"{self}: {self.site} has no heads; heads, q, k and v have.")
        if self.layer is None and self.site != "resid.embed":
            raise UsageError(f"{self}: name a layer after @, as in {self.site}@5.")
        if (self.value is None or self.kind == "clamp") and not self.source and self.kind in _NEEDS_SOURCE:
            raise UsageError(f"{self}: say from where: {self.kind}:{_NEEDS_SOURCE[self.kind]}.")

    @property
    def of_feature(self) -> bool:
        """Whether it adds or clamps a feature of a dictionary."""
        return self.kind == "clamp" or (self.kind == "add" and "#" in self.source)

    @property
    def place(self) -> str:
        """What is changed, as users write it, without what is done there."""
        side = "enc." if self.side == "enc" else ""
        if self.site == "heads" and self.head is not None and not side:
            where = f"L{self.layer}H{self.head}"
        elif self.site in ("mlp_out", "attn_out") and not side:
            where = f"{'M' if self.site == 'mlp_out' else 'A'}{self.layer}"
        else:
            where = side + self.site
            where += "" if self.layer is None else f"@{self.layer}"
            where += "" if self.head is None else f".H{self.head}"
        return where if self.positions is None else f"{where}[pos={self.positions}]"

    def __str__(self) -> str:
        source = f":{self.source}" if self.source else ""
        factor = "" if self.factor == 1.0 and self.kind != "clamp" else f"*{self.factor:g}"
        return f"{self.place}={self.kind}{source}{factor}"


def parse_intervention(text: str) -> Intervention:
    """Parse an intervention as users write it.

    Args:
        text: Such as `L12H3=zero` or `resid.post_mlp@5[pos=7]=patch:RUN`.

    Returns:
        The intervention; whether the model has such a layer or head is not known yet.

    Raises:
        UsageError: It is not written so.
        NotFoundError: There is no such site or kind.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text}: write PLACE=WHAT, as in {_EXAMPLE}.")
    place = _parse_place(match["target"], text)
    if match["factor"] is not None and match["kind"] not in ("add", "clamp"):
        raise UsageError(f"{text}: a factor goes with add and clamp alone, as in resid.post_mlp@15=add:TRAIT*2.")
    if match["factor"] is None and match["kind"] == "clamp" and match["source"]:
        raise UsageError(f"{text}: say which activation the feature is held at, as in clamp:{match['source']}*0.")
    return Intervention(
        kind=match["kind"],
        positions=_parse_positions(match["pos"], text),
        source=match["source"] or "",
        factor=_number(match["factor"], text),
        **place,
    )


def _parse_place(target: str, text: str) -> dict[str, Any]:
    if short := _SHORT.fullmatch(target):
        if short["block"]:
            return {"site": "mlp_out" if short["block"] == "M" else "attn_out", "layer": int(short["number"])}
        return {"site": "heads", "layer": int(short["layer"]), "head": int(short["head"])}
    match = _SITE.fullmatch(target)
    if match is None:
        raise UsageError(f"{text}: {target} is no place: write L12H3, M5, A5, or SITE@LAYER as in resid.post_mlp@5.")
    return {
        "site": match["site"],
        "layer": None if match["layer"] is None else int(match["layer"]),
        "head": None if match["head"] is None else int(match["head"]),
        "side": "enc" if match["side"] else None,
    }


def _parse_positions(text: str | None, whole: str) -> Positions | None:
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    try:
        first = int(start) if start else 0
        if not colon:
            return Positions(first, None if first == -1 else first + 1)
        found = Positions(first, int(stop) if stop else None)
    except ValueError:
        raise UsageError(f"{whole}: write positions as [pos=7], [pos=-1] or [pos=2:6].") from None
    if found.stop is not None and found.stop <= found.start and (found.stop < 0) == (found.start < 0):
        raise UsageError(f"{whole}: [pos={text}] holds no position.")
    return found


def _number(text: str | None, whole: str) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise UsageError(f"{whole}: {text} is no number.") from None
