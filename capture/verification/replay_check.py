"""`validate --deep`: run the model again on a sample of a run's sequences, and compare with what was stored.

In goes a run's folder; out come `Check`s. `replay` runs the model; this file decides what is compared, and how closely it must
agree.

The run is compared with the model's own outputs where it has them (`output_hidden_states`, `output_attentions` under eager
attention, the loss). Sequences run one by one, without padding, from the stored token ids, so that errors of batching,
tokenizing or writing show. Every stored tensor is also compared with a second recording of the very batch that it came from,
which gives the same bits on the same machine with the same libraries.

Elsewhere, and against a sequence alone, two right answers differ. By how much depends on the dtype they are stored in, which is
known, and on how much the model's own answer changes with the shape of the batch, which is measured. In float32 that is next to
nothing; in bfloat16, kernels that round differently differ by 2 % after 30 layers. The kernels of another kind of device always do,
whatever the shape: the model is run on the kind that the run was captured on, or, where there is none, with room for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

from capture.model import loading
from capture.model.anatomy import Anatomy
from capture.model.attention_hook import eager_attention
from capture.model.hashes import weights_hash
from capture.model.model_info import stack_info
from capture.model.tolerances import EAGER_PROBABILITIES_COMPUTED, PROBABILITIES_STORED, states_tolerance
from capture.verification.replay import ON_AVERAGE, Replay
from capture.verification.score_check import check_scores
from warehouse.errors import UsageError
from warehouse.storage.int8 import CODED
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import Check, sample_sequences

_ROUNDING = {"F16": 2**-10, "BF16": 2**-7, "F32": 2**-20, CODED: 2**-10}
"""By storage dtype, relative: two units in its last place; of int8 codes that of float16, beyond half a step of the codes."""
_LOSS = 1e-4
"""Nats: losses are stored as float32, and kernels sum in another order for other batch shapes."""
_NOISE = 4
"""Times the difference that the model itself makes between two batch shapes: the capture's batch was a third."""

_ERROR_UNITS = {
    "loss": "nats from the model's own loss",
    "hidden": "relative to output_hidden_states",
    "attention": "from eager output_attentions",
    "tensors": "relative to a second recording",
}
"""What the error of each comparison is measured in."""

_DERIVED_BY = {
    "n_layers",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "convention",
    "parallel",
    "final_norm",
    "causal",
    "attention",
    "cross_attention",
}
"""The fields of a manifest's stack by which streams and attention are derived."""

_MOST_ON_AVERAGE = 0.1
"""Single values can be noisy in a short dtype; a head's rows on average are not. Those of another head differ by 1."""


def recheck(
    folder: AnyPath, trust_remote_code: bool = False, note: Callable[[str], None] = lambda _: None
) -> Iterator[Check]:
    """Check a run against its model, which is loaded and run again.

    Args:
        folder: The run's folder.
        trust_remote_code: Whether code that comes with the model may run. What the run's manifest says does not count.
        note: Called with the name of the model before it is loaded.

    Yields:
        One check after another; the last ones are left out where the weights are not those of the capture.

    Raises:
        TracesError: The model cannot be loaded.
        UsageError: The model needs code of its own, and it is not trusted.
    """
    store = TraceStore(folder)
    m = store.meta.model
    if why := _unrepeatable(store):
        yield Check("deep: model", None, f"{why}, so that there is nothing to repeat")
        return
    note(f"loading {m.name}")  # the run names the model: whoever checks somebody else's run should see which
    loaded = loading.load(
        m.name,
        head=loading.head_of(m.architecture),
        revision=m.revision,
        device=_find_captured_device(m.device),
        dtype=m.dtype,
        trust_remote_code=trust_remote_code,
    )
    same = weights_hash(loaded.model) == m.weights_hash
    yield Check(
        "deep: weights", same, "the same as captured" if same else f"{m.name} has other weights than were captured"
    )
    if not same:
        return
    imported = store.meta.kind == "import"  # which knows no formulas, nor how its attention was computed
    eager = m.attn_implementation == "eager" or (imported and "attn" in store.sites)
    with eager_attention(loaded.model) if eager else nullcontext():
        replay = Replay(loaded, store)
        if not imported:
            yield _check_formulas(store, replay.anatomy)
        elsewhere = _kind(loaded.device) != _kind(m.device)
        yield from _compare(store, replay, states_tolerance(loaded.model.dtype) if elsewhere else 0.0)
        if store.meta.counts.rows.get("choices"):
            yield check_scores(store, loaded)


def _unrepeatable(store: TraceStore) -> str | None:
    """Return why a run cannot be had again from its model; None where it can."""
    meta = store.meta
    if not meta.captured:
        return f"a run of kind {meta.kind}: no capture made it"
    if meta.kind in ("trait-steering", "intervened"):
        return f"a run of kind {meta.kind}: its model was changed while it ran"
    if not meta.model.weights_hash:
        return "the file that was imported does not say which weights it is of"
    if meta.options.get("format") == "sae-lens":
        return "its texts are pieces of longer ones, whose states may have seen what came before"
    return None


def _kind(device: str) -> str:
    """Return which kind of device a model is on, such as "cuda"; of several, the first one's."""
    return device.partition(",")[0].partition(":")[0]


def _find_captured_device(captured: str) -> str:
    """Return the kind of device that a run was captured on, where there is one here, else `auto`."""
    try:
        return str(loading.find_device(_kind(captured)))
    except UsageError:
        return "auto"


def _check_formulas(store: TraceStore, anatomy: Anatomy) -> Check:
    """Compare what the run says of the model's blocks and attention, from which streams and attention are derived."""
    wrong = []
    for side, stack in anatomy.stacks.items():
        stored, expected = (
            x.model_dump(include=_DERIVED_BY)
            for x in (store.meta.model.stack(side), stack_info(stack, anatomy.body.model.dtype))
        )
        wrong += [f"{side}: {name}" for name in stored if stored[name] != expected[name]]
    return Check(
        "deep: formulas",
        not wrong,
        f"not as the model has them: {', '.join(wrong)}" if wrong else "as the model has them",
    )


def _compare(store: TraceStore, replay: Replay, elsewhere: float) -> Iterator[Check]:
    """Compare a sample of sequences with the model: what is stored, alone, and in the batch that it came from.

    Args:
        store: The run.
        replay: Its model.
        elsewhere: How far this device's kernels may be from those that it was captured with.

    Yields:
        A check for each comparison.
    """
    sample = sample_sequences(store)
    error, noise = dict.fromkeys((*_ERROR_UNITS, ON_AVERAGE), 0.0), dict.fromkeys((*_ERROR_UNITS, ON_AVERAGE), 0.0)
    n_same = 0
    for example_id, seq in sample:
        inputs = replay.inputs(example_id, seq)
        mean_tokens, predicted = replay.mean_tokens(example_id, seq), replay.predicted_positions(example_id, seq)
        alone = replay.run([inputs], 0, mean_tokens, predicted)
        original = replay.original_batch(example_id, seq)
        batch, row = original or replay.padded_batch(inputs)
        in_batch = replay.run(batch, row, mean_tokens, predicted)
        for name, value in in_batch.errors(alone).items():
            noise[name] = max(noise[name], value)
        if alone.attention:
            attention = replay.eager_attention(inputs)
            alone = replace(alone, attention={k: x for k, x in attention.items() if k in alone.attention})
        stored = replay.stored(example_id, seq, alone)
        for name, value in stored.errors(alone).items():
            error[name] = max(error[name], value)
        n_same += original is not None and stored.same_bits(in_batch)
    for name, allowed in _allowed_errors(store).items():
        if name == "tensors" and sample and n_same == len(sample):
            yield Check("deep: tensors", True, f"the same bits as their batches give again, on {n_same} sequences")
            continue
        limit, passed = allowed + elsewhere + _NOISE * noise[name], True
        if name == "tensors":
            passed = error[ON_AVERAGE] <= min(allowed + elsewhere + _NOISE * noise[ON_AVERAGE], _MOST_ON_AVERAGE)
        yield Check(
            f"deep: {name}",
            passed and error[name] <= limit,
            f"at most {error[name]:.1e} {_ERROR_UNITS[name]}, on {len(sample)} sequences (allowed: {limit:.1e})",
        )


def _allowed_errors(store: TraceStore) -> dict[str, float]:
    """Return how much error storing may bring, for each of the comparisons that the run allows."""
    before = {"BF16"} if store.meta.kind == "import" else set()  # how coarsely what made the file may have rounded
    kept = before.union(*({s.dtype, *s.promoted.values()} for s in store.meta.sites))
    rounding = max((_ROUNDING[d] for d in kept), default=0.0)
    allowed = {"loss": _LOSS} if store.meta.counts.predictions else {}
    if "hidden" in store.sites:
        allowed["hidden"] = rounding
    if "attn" in store.sites:
        kept = before.union(s.dtype for s in store.meta.sites if s.site.rpartition(".")[2] in ("q", "k", "attn"))
        allowed["attention"] = (
            max(PROBABILITIES_STORED[d] for d in kept) + EAGER_PROBABILITIES_COMPUTED[store.meta.model.dtype]
        )
    if store.meta.sites:
        allowed["tensors"] = rounding
    return allowed
