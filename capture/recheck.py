"""`validate --deep`: runs the model again on a sample of a run's sequences, and compares what was stored.

Stored tensors are held against the model's own outputs where it has them (`output_hidden_states`, `output_attentions` under
eager attention, the loss), and the rest against a second recording. Sequences run one by one, without padding, from the
stored token ids: what batching, tokenizing or writing could have spoilt shows.

How far apart two right answers may be depends on the dtype they are stored in, which is known, and on what the model itself
makes of another batch shape, which is measured: each sequence also runs in a padded batch. In float32 that is next to
nothing; in bfloat16 kernels that differ in their rounding part by 2 % after 30 layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from capture import models
from capture.anatomy import Anatomy, examine
from capture.record import Recorder
from warehouse import layout
from warehouse.attention import per_query_head, probabilities
from warehouse.errors import TracesError
from warehouse.store import TraceStore
from warehouse.validate import Check, sample_sequences

_PADDING = 5

_ROUNDING = {"F16": 2**-10, "BF16": 2**-7, "F32": 2**-20}
"""Relative: two units in the last place of the dtype."""
_ATTENTION = {"F16": 5e-3, "BF16": 3e-2, "F32": 1e-5}
"""Absolute, on probabilities: q and k rounded to F16 were seen to move them by 2.1e-3, to BF16 by 1.6e-2."""
_EAGER = {"float32": 0.0, "float16": 1e-2, "bfloat16": 1e-1}
"""Absolute, on probabilities: eager attention rounds the scores themselves to the dtype it computes in. A score near 50 moves
by up to 0.125 in bfloat16, and a probability of one half by a quarter of that; what is derived here is the more exact."""
_LOSS = 1e-4
"""Nats: losses are stored as float32, and kernels sum in another order for other batch shapes."""
_NOISE = 4
"""Times the difference that the model itself makes between two batch shapes: the capture's batch was a third."""

_WHAT = {
    "loss": "nats from the model's own loss",
    "hidden": "relative to output_hidden_states",
    "attention": "from eager output_attentions",
    "tensors": "relative to a second recording",
}


@dataclass(frozen=True)
class _Seen:
    """What the model does with one sequence."""

    loss: float
    """NaN where it has one token only."""
    hidden: list[np.ndarray]
    """(T, D) each"""
    attention: list[np.ndarray]
    """(H, T, T) each, derived from q and k; none where the run does not tell of attention"""
    tensors: dict[tuple[str, int | None], np.ndarray]

    def errors(self, other: _Seen) -> dict[str, float]:
        """The largest differences, by what differs."""
        return {
            "loss": 0.0 if np.isnan(self.loss) else abs(self.loss - other.loss),
            "hidden": max(map(_relative, self.hidden, other.hidden), default=0.0),
            "attention": max(
                (float(np.abs(a - b).max()) for a, b in zip(self.attention, other.attention, strict=True)), default=0.0
            ),
            "tensors": max((_relative(x, other.tensors[k]) for k, x in self.tensors.items()), default=0.0),
        }


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
    anatomy = examine(loaded.model)
    sample = sample_sequences(store)
    error, noise = dict.fromkeys(_WHAT, 0.0), dict.fromkeys(_WHAT, 0.0)
    for example_id, seq in sample:
        ids = torch.from_numpy(store.encodings(example_id, seq)["input_ids"].astype(np.int64))
        alone = _seen(loaded, anatomy, store, ids, padding=0)
        room = _PADDING if loaded.window is None else min(_PADDING, loaded.window - len(ids))
        for name, value in _seen(loaded, anatomy, store, ids, padding=room).errors(alone).items():
            noise[name] = max(noise[name], value)
        if "attn" in store.sites:
            alone = replace(alone, attention=_eager_attention(loaded, ids))
        for name, value in _stored(store, example_id, seq, alone).errors(alone).items():
            error[name] = max(error[name], value)
    for name, allowed in _allowed(store).items():
        limit = allowed + _NOISE * noise[name]
        yield Check(
            f"deep: {name}",
            error[name] <= limit,
            f"at most {error[name]:.1e} {_WHAT[name]}, on {len(sample)} sequences (allowed: {limit:.1e})",
        )


def _allowed(store: TraceStore) -> dict[str, float]:
    """What storing may cost, by what there is to compare."""
    stored = {s.site: s.dtype for s in store.meta.sites}
    rounding = max((_ROUNDING[d] for s in store.meta.sites for d in (s.dtype, *s.promoted.values())), default=0.0)
    allowed = {"loss": _LOSS}
    if "hidden" in store.sites:
        allowed["hidden"] = rounding
    if "attn" in store.sites:
        allowed["attention"] = _ATTENTION[stored["q"]] + _EAGER[store.meta.model.dtype]
    if stored:
        allowed["tensors"] = rounding
    return allowed


def _stored(store: TraceStore, example_id: str, seq: int, like: _Seen) -> _Seen:
    """What the run tells of a sequence, in as far as `like` has it."""
    blob, start, end = store.place(example_id, seq)
    query = "SELECT avg(loss::DOUBLE) FROM next_token WHERE example_id = ? AND seq = ?"
    row = store.query(query, [example_id, seq]).fetchone()
    return _Seen(
        loss=like.loss if np.isnan(like.loss) or row is None else row[0],
        hidden=[store.hidden(example_id, i, seq=seq) for i in range(len(like.hidden))],
        attention=[store.attn(example_id, i, seq=seq) for i in range(len(like.attention))],
        tensors={key: store.blob(blob).rows(layout.tensor_name(*key), start, end) for key in like.tensors},
    )


def _seen(loaded: models.Loaded, anatomy: Anatomy, store: TraceStore, ids: torch.Tensor, padding: int) -> _Seen:
    """Runs a sequence (T,) alone, or as the first row of a batch of two, the second longer by `padding`."""
    n = len(ids)
    rows = [ids, torch.cat([ids, ids[:1].expand(padding)])] if padding else [ids]
    batch = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    labels = torch.where(mask.bool(), batch, -100)
    labels[1:] = -100
    inputs = {"input_ids": batch.to(loaded.device), "attention_mask": mask.to(loaded.device), "use_cache": False}
    with torch.no_grad():
        out = loaded.model(**inputs, labels=labels.to(loaded.device), output_hidden_states=True)
    with Recorder(loaded.model, anatomy, tuple(s.site for s in store.meta.sites), "F32", {}) as recorder:
        tensors = recorder.run(batch, mask).tensors
    return _Seen(
        loss=float(out.loss) if n > 1 else np.nan,
        hidden=[_array(h[0, :n]) for h in out.hidden_states] if "hidden" in store.sites else [],
        attention=_derived(store, tensors, n) if "attn" in store.sites else [],
        tensors={key: x[:n] for key, x in tensors.items()},
    )


def _derived(store: TraceStore, tensors: dict[tuple[str, int | None], np.ndarray], n: int) -> list[np.ndarray]:
    """From the second recording's q and k: how far they part between two batch shapes is noise, whatever eager says."""
    found = []
    for i, layer in enumerate(store.meta.model.attention or ()):
        q, k = (tensors[site, i][:n].swapaxes(0, 1) for site in ("q", "k"))
        found.append(probabilities(q, per_query_head(k, len(q)), layer))
    return found


def _eager_attention(loaded: models.Loaded, ids: torch.Tensor) -> list[np.ndarray]:
    before = loaded.model.config.get_text_config()._attn_implementation
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            found = loaded.model(
                input_ids=ids[None].to(loaded.device), output_attentions=True, use_cache=False
            ).attentions
    finally:
        loaded.model.set_attn_implementation(before)
    if not found:
        raise TracesError(
            f"{loaded.name} gives no attentions under eager attention, so there is nothing to compare with."
        )
    return [_array(a[0]) for a in found]


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the row's largest value: what rounding to a shorter dtype is relative to."""
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    return float((np.abs(found.astype(np.float32) - expected) / np.maximum(scale, 1e-30)).max())
