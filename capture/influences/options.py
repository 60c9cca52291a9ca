"""What an influence run is asked for, and whether a run has stored what it needs: checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from capture.jobs.commands import capture_command
from capture.jobs.job import check_option_values
from warehouse.errors import UsageError
from warehouse.schema.sites import Key
from warehouse.storage.trace_store import TraceStore

SIDE = "dec"
MEASURES = ("logit", "ifr", "value-norm", "occlusion")
LEAST_FLOW = 0.01


@dataclass(frozen=True)
class Options:
    """Which predictions are explained, against what, and by which measures."""

    target: str = "last"
    """`last` (the prediction at the end of each sequence), `response` (each token that the model generated), or positions."""
    token: str | None = None
    """The token whose logit is explained; None: what the run says (a task's targets, the chosen letter), else the likeliest."""
    against: str | None = None
    """The token whose logit is taken away; None: that of the run's own targets, else none."""
    measures: tuple[str, ...] = ()
    """Empty: `logit`, and `ifr` where heads can be told apart."""
    least_flow: float = LEAST_FLOW
    """The smallest part of a prediction that must pass an edge of its dependency graph for it to be kept."""
    examples: tuple[str, ...] = ()
    """Ids of the examples, or beginnings of them; empty: all."""
    limit: int | None = None
    """The most examples."""
    shard: str = ""
    """`i/n`: every n-th sequence, starting with the i-th."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that an option does not take."""
        check_option_values(self)
        for name in self.measures:
            if name not in MEASURES:
                raise UsageError(f"--measure {name or 'nothing'}: use {', '.join(MEASURES)}.")
        if not 0 < self.least_flow <= 1:
            raise UsageError(f"--least-flow {self.least_flow:g}: give a part of the prediction, over 0 and at most 1.")


def check_run(store: TraceStore) -> None:
    """Check that predictions of a run can be explained from what it has stored, as far as its manifest tells.

    Raises:
        UsageError: They cannot; where a site was not stored, the message has the command that stores it.
    """
    meta = store.meta
    if not meta.captured:
        made_from = f": take the run that it was made from, {meta.parents[0]}" if meta.parents else ""
        raise UsageError(f"Run '{meta.run_id}' is of kind {meta.kind}, and holds no states of a model{made_from}.")
    if meta.model.side != SIDE:
        raise UsageError(
            f"Run '{meta.run_id}' is of an encoder ({meta.model.architecture}), which does not predict next tokens."
        )
    if meta.model.encoder is not None:
        raise UsageError(
            f"{meta.model.name} reads an encoder beside its own tokens: influence explains decoders alone."
        )
    if meta.model.convention == "post-norm":
        raise UsageError(
            f"{meta.model.name} normalises after adding, so that its last state is no sum of what its heads and MLPs add."
        )
    needed = [Key(SIDE, "resid.embed", None)]
    for i in range(meta.model.n_layers):
        needed.append(Key(SIDE, "resid.post_mlp", i))
        middle = Key(SIDE, "attn_out" if meta.model.parallel else "resid.post_attn", i)
        if "resid.post_attn" not in meta.model.missing or store.has(middle):
            needed.append(middle)
    check_stored(store, needed)
    if "v" not in meta.model.missing:
        check_stored(store, [Key(SIDE, "v", i) for i in range(meta.model.n_layers)])


def check_stored(store: TraceStore, keys: list[Key]) -> None:
    """Raise UsageError where a tensor is not stored, with the command that stores it."""
    for key in keys:
        if not store.has(key):
            store.check_not_expired()
            where = "" if key.layer is None else f" of layer {key.layer}"
            run, command = store.meta.run_id, capture_command(store.meta.kind)
            raise UsageError(
                f"Run '{run}' has not stored {key.site}{where}, and influence is computed from it. Capture it again: {command} … "
                f"--capture resid,qkv{',attn' if key.site == 'attn' else ''}"
            )
