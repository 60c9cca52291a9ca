"""`validate --deep`: runs the model again on a sample of a run's sequences, and compares what was stored.

Stored tensors are held against the model's own outputs where it has them (`output_hidden_states`, `output_attentions` under
eager attention, the loss), and the rest against a second recording. Sequences run one by one, without padding, from the
stored token ids: what batching, tokenizing or writing could have spoilt shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from capture import models
from capture.anatomy import Anatomy, examine
from capture.record import Recorder
from warehouse import layout
from warehouse.errors import TracesError
from warehouse.store import TraceStore
from warehouse.validate import Check

_SAMPLE = 4

_ROUNDING = {"F16": 2**-10, "BF16": 2**-7, "F32": 2**-20}
"""Relative: two units in the last place of the dtype, which allows for a forward pass that rounds otherwise in its own."""
_ATTENTION = {"F16": 5e-3, "BF16": 3e-2, "F32": 1e-4}
"""Absolute, on probabilities: q and k rounded to F16 were seen to move them by 2.1e-3, to BF16 by 1.6e-2."""
_LOSS = 1e-3
"""Nats: kernels sum in another order for other batch shapes."""


def recheck(folder: Path) -> Iterator[Check]:
    """Yields one check after another. Raises TracesError or UsageError where the model cannot be loaded."""
    store = TraceStore(folder)
    m = store.meta.model
    loaded = models.load(
        m.name, revision=m.revision, device="auto", dtype=m.dtype, trust_remote_code=m.trust_remote_code
    )
    same = models.weights_hash(loaded.model) == m.weights_hash
    yield Check(
        "deep: weights", same, "the same as captured" if same else f"{m.name} has other weights than were captured"
    )
    if not same:
        return
    sequences = store.query("SELECT DISTINCT example_id, seq FROM tokens ORDER BY ALL").fetchall()
    sample = sequences[:: max(1, len(sequences) // _SAMPLE)][:_SAMPLE]
    rounding = max((_ROUNDING[d] for s in store.meta.sites for d in (s.dtype, *s.promoted.values())), default=0.0)
    anatomy = examine(loaded.model)
    worst = {"hidden": 0.0, "attn": 0.0, "tensors": 0.0, "loss": 0.0}
    for example_id, seq in sample:
        ids = torch.from_numpy(store.encodings(example_id, seq)["input_ids"].astype(np.int64))[None].to(loaded.device)
        for name, error in _errors(store, loaded, anatomy, ids, example_id, seq):
            worst[name] = max(worst[name], error)
    stored = {s.site for s in store.meta.sites}
    yield _verdict("deep: loss", worst["loss"], _LOSS, "nats from the model's own loss", len(sample))
    if {"hidden", "resid.embed", "resid.post_mlp"} <= stored:
        yield _verdict("deep: hidden", worst["hidden"], rounding, "relative to output_hidden_states", len(sample))
    if {"q", "k"} <= stored and m.attention is not None:
        dtype = next(s.dtype for s in store.meta.sites if s.site == "q")
        yield _verdict("deep: attention", worst["attn"], _ATTENTION[dtype], "from eager output_attentions", len(sample))
    if stored:
        yield _verdict("deep: tensors", worst["tensors"], rounding, "relative to a second recording", len(sample))


def _verdict(name: str, error: float, limit: float, what: str, sample: int) -> Check:
    return Check(name, error <= limit, f"at most {error:.1e} {what}, on {sample} sequences (allowed: {limit:.1e})")


def _errors(
    store: TraceStore, loaded: models.Loaded, anatomy: Anatomy, ids: torch.Tensor, example_id: str, seq: int
) -> Iterator[tuple[str, float]]:
    stored = {s.site for s in store.meta.sites}
    with torch.no_grad():
        out = loaded.model(input_ids=ids, labels=ids, output_hidden_states=True, use_cache=False)
    if ids.shape[1] > 1:
        query = "SELECT avg(loss::DOUBLE) FROM next_token WHERE example_id = ? AND seq = ?"
        row = store.query(query, [example_id, seq]).fetchone()
        yield "loss", abs((row[0] if row else np.nan) - float(out.loss))
    if {"hidden", "resid.embed", "resid.post_mlp"} <= stored:
        for i, state in enumerate(out.hidden_states):
            yield "hidden", _relative(store.hidden(example_id, i, seq=seq), state[0])
    if {"q", "k"} <= stored and store.meta.model.attention is not None:
        for i, attention in enumerate(_eager_attentions(loaded, ids)):
            derived = store.attn(example_id, i, seq=seq)
            yield "attn", float(np.abs(derived - attention[0].float().cpu().numpy()).max())
    with Recorder(loaded.model, anatomy, tuple(s.site for s in store.meta.sites), "F32", {}) as recorder:
        again = recorder.run(ids, torch.ones_like(ids)).tensors
    blob, start, end = store.place(example_id, seq)
    for (site, layer), array in again.items():
        rows = store.blob(blob).rows(layout.tensor_name(site, layer), start, end)
        yield "tensors", _relative(rows, torch.from_numpy(array))


def _eager_attentions(loaded: models.Loaded, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    before = loaded.model.config.get_text_config()._attn_implementation
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found = loaded.model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    finally:
        loaded.model.set_attn_implementation(before)
    if not found:
        raise TracesError(
            f"{loaded.name} gives no attentions under eager attention, so there is nothing to compare with."
        )
    return tuple(found)


def _relative(stored: np.ndarray, expected: torch.Tensor) -> float:
    """The largest difference, relative to the row's largest value: what rounding to a shorter dtype is relative to."""
    want = expected.float().cpu().numpy().reshape(stored.shape)
    scale = np.abs(want).max(axis=-1, keepdims=True)
    return float((np.abs(stored.astype(np.float32) - want) / np.maximum(scale, 1e-30)).max())
