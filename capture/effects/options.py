"""What is done to a task's prompts: the options of ablation and patching, and the list of interventions that they name.

`expand` turns `heads,mlps` or `resid.post_mlp` into one `Change` for each head, block and position of the model, in a fixed order:
its place in the list is the `intervention_id`. `effects_run` and the commands call this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from capture.interventions.intervene import find_key
from capture.interventions.intervention import Intervention, Positions, parse_intervention
from capture.interventions.site_edits import SITES, head_count, why_not
from capture.jobs.job import check_option_values
from capture.model.anatomy import Anatomy
from capture.recording.metrics import METRICS
from warehouse.errors import NotFoundError, UsageError
from warehouse.schema.sites import Key

KINDS = ("zero", "mean", "resample", "patch")
DIRECTIONS = ("denoise", "noise")
POSITIONS = ("all", "last", "each")
GROUPS = {"heads": "heads", "mlps": "mlp_out", "attns": "attn_out", **{site: site for site in SITES}}
"""What names every layer of a site, and every head of it, and the site."""

_LAST = Positions(-1, None)


@dataclass(frozen=True)
class Options:
    """What is done, and what is measured. All of it identifies a run: resuming compares it."""

    what: str = "heads,mlps"
    """Comma-separated: `heads`, `mlps`, `attns`, a site for all of its layers and heads, or places such as `L12H3`, `M5[pos=7]`."""
    kind: str = "resample"
    """`zero`; `mean` by position over other prompts; `resample`, the value in the pair's other prompt; `patch`, the same or a run's."""
    direction: str = "noise"
    """`noise`: the clean prompt with the corrupted one's values; `denoise`: the other way round."""
    positions: str = "all"
    """`all` at once, `last` alone, or `each` by itself."""
    layers: str = "all"
    """Layers that `heads` and the like are of: numbers, or `all`."""
    metric: str = ""
    """`logit_diff`, `prob_diff`, `logprob` or `kl`; empty: the task's own."""
    reference: str = ""
    """The run whose values are put in: its means for `mean` (empty: the task's own prompts), its stored values for `patch`."""
    batch_tokens: int = 2048
    """The most tokens of a forward pass, padding counted."""
    shard: str = ""
    """`i/n`: every n-th group of pairs, from the i-th on."""

    def __post_init__(self) -> None:
        """Check values; raises UsageError or NotFoundError for one that its option does not take."""
        check_option_values(self)
        for name, value, known in (
            ("kind of intervention", self.kind, KINDS),
            ("direction", self.direction, DIRECTIONS),
            ("choice of --positions", self.positions, POSITIONS),
            ("metric", self.metric or METRICS[0], METRICS),
        ):
            if value not in known:
                raise NotFoundError(name, value, known)

    @property
    def seq(self) -> int:
        """The prompt that is run and changed: 0 the clean one, 1 the corrupted one."""
        return 1 if self.kind == "patch" and self.direction == "denoise" and not self.reference else 0

    @property
    def from_pair(self) -> bool:
        """Whether values come from the pair's other prompt."""
        return self.kind in ("resample", "patch") and not self.reference


@dataclass(frozen=True)
class Change:
    """One intervention of a run."""

    intervention: Intervention
    key: Key
    pos: int | None
    """None: all positions; -1: the last."""

    @property
    def first_layer(self) -> int:
        """The first layer that is changed."""
        return self.key.layer or 0

    def applies(self, n_tokens: int) -> bool:
        """Return whether a prompt of that many tokens has the position."""
        return self.pos is None or self.pos < n_tokens


def expand(anatomy: Anatomy, options: Options, longest: int) -> list[Change]:
    """List the interventions that the options name.

    Args:
        anatomy: The model's.
        options: What is asked for.
        longest: Tokens of the longest prompt, for `each` position.

    Returns:
        At least one, by layer.

    Raises:
        UsageError: The model has no such layer or head, or none of a site can be changed; the message says why.
        NotFoundError: There is no such site.
    """
    found: dict[Intervention, Change] = {}
    for word in filter(None, (w.strip() for w in options.what.split(","))):
        for base in _bases(anatomy, word, options):
            key = Key(anatomy.main.side, base.site, base.layer)
            for pos in _positions(base, options, longest):
                positions = None if pos is None else _LAST if pos == -1 else Positions(pos, pos + 1)
                at = replace(base, positions=positions)
                found.setdefault(at, Change(at, key, pos))
    if not found:
        raise UsageError(f"Name what to change: {', '.join(GROUPS)}, or places such as L12H3,M5.")
    return sorted(found.values(), key=lambda change: change.first_layer)


def _bases(anatomy: Anatomy, word: str, options: Options) -> Iterator[Intervention]:
    """Yield the interventions that a word of `what` names, at all positions or at its own."""
    kind = options.kind
    source = options.reference if kind in ("mean", "patch") else ""
    if kind == "mean" and not source:
        source = "the task"
    if word not in GROUPS:
        if not re.search(r"[\dA-Z@]", word):
            raise NotFoundError("site to change", word, GROUPS, "Or a place, such as L12H3, M5, resid.post_mlp@5.")
        base = replace(parse_intervention(f"{word}=zero"), kind=kind, source=source)
        find_key(anatomy, base)
        yield base
        return
    site = GROUPS[word]
    if site == "resid.embed":
        yield Intervention(site, None, kind, source=source)
        return
    reasons = {}
    for layer in _layers(anatomy, options.layers):
        key = Key(anatomy.main.side, site, layer)
        if reason := why_not(anatomy, key):
            reasons[layer] = reason
            continue
        n = head_count(anatomy, key)
        for head in [None] if n is None else range(n):
            yield Intervention(site, layer, kind, head=head, source=source)
    if reasons and len(reasons) == len(_layers(anatomy, options.layers)):
        name = type(anatomy.body.model).__name__
        raise UsageError(f"{name}: {word} cannot be changed: {next(iter(reasons.values()))}.")


def _layers(anatomy: Anatomy, text: str) -> list[int]:
    n = len(anatomy.main.layers)
    if text == "all":
        return list(range(n))
    layers = []
    for word in text.split(","):
        if not word.strip().isdecimal() or len(word.strip()) > 9 or int(word) >= n:
            raise UsageError(f"--layers {text}: use numbers from 0 to {n - 1}, or all.")
        layers.append(int(word))
    return layers


def _positions(base: Intervention, options: Options, longest: int) -> list[int | None]:
    """Return the positions at which a change is made, each by itself; None: all at once. One that is named counts alone."""
    if (own := base.positions) is not None:
        if own.start < -1 or str(own) != str(own.start):
            raise UsageError(f"{base.place}: name one position, as in [pos=7], or [pos=-1] for the last.")
        return [own.start]
    return {"all": [None], "last": [-1], "each": list(range(longest))}[options.positions]  # type: ignore[return-value]
