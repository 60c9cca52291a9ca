"""Check stored and derived attention, and the table `heads`."""

from __future__ import annotations

import numpy as np

from warehouse.schema.sites import Key
from warehouse.storage.readable import readable
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect, expect_no_row, sample_sequences

_ROW_SUM = {"F32": 1e-5, "F16": 1e-3, "BF16": 1e-2}
"""How far sums may be from 1, of rows of up to thousands of probabilities, each rounded to its dtype, summed in float32."""
_STORED = {"F32": 1e-4, "F16": 5e-3, "BF16": 3e-2}
"""How far stored attention may be from what q and k give, by the coarsest dtype of the three.

Seen in practice: up to 2.1e-3 for F16, 1.6e-2 for BF16.
"""


def check_attention(store: TraceStore) -> str | None:
    """Check on a sample that probabilities are causal in a decoder, sum to 1 (to less with sinks), and follow from q and k."""
    kinds = [(r.side, r.site) for r in readable(store.meta) if r.site in ("attn", "cross.attn")]
    if not kinds:
        return None
    worst, compared = 0.0, None
    imported = store.meta.kind == "import"  # whose values another tool may have rounded before
    sample = sample_sequences(store)
    for side, site in kinds:
        kind = "cross" if site == "cross.attn" else "self"
        stack = store.meta.model.stack(side)
        formulas = (stack.cross_attention if kind == "cross" else stack.attention) or [None] * stack.n_layers
        for layer in store.layers_with(site, side) or store.layers_with(site.removesuffix("attn") + "q", side):
            formula, key = formulas[layer], Key(side, site, layer)
            for example_id, seq in sample:
                tolerance = _ROW_SUM[
                    "BF16" if imported else store.dtype(key, example_id, seq) if store.has(key) else "F32"
                ]
                attn = store.attn(example_id, layer, seq=seq, side=side, kind=kind)
                where = f"layer {layer} of example {example_id}"
                expect(bool(np.isfinite(attn).all()), f"{where} has NaN")
                if stack.causal and kind == "self":
                    expect(not np.triu(attn, 1).any(), f"{where} sees tokens to come")
                excess = attn.sum(-1) - 1
                sums_to_one = formula is not None and formula.sinks is None
                error = float((np.abs(excess) if sums_to_one else np.maximum(excess, 0)).max())
                expect(error <= tolerance, f"rows of {where} sum to 1 only within {error:.1e}")
                worst = max(worst, error)
                q, k = (key._replace(site=site.removesuffix("attn") + x) for x in ("q", "k"))
                if formula is not None and store.has(key) and store.has(q) and store.has(k):
                    again = store.derived_attn(key, example_id, seq)
                    off = float(np.abs(again - attn).max())
                    allowed = max(_STORED[store.dtype(x, example_id, seq)] for x in (key, q, k))
                    expect(off <= allowed, f"{where} is not what q and k give, by {off:.1e}")
                    compared = max(compared or 0.0, off)
    stored = any(store.layers_with(site, side) for side, site in kinds)
    if compared is not None:
        source = f"at most {compared:.1e} from what q and k give"
    else:
        source = "stored, and q and k do not give it" if stored else "derived from q and k"
    return f"rows sum to 1 within {worst:.1e}, on {len(sample)} sequences; {source}"


def check_heads(store: TraceStore) -> str | None:
    """Check that the statistics of heads can be those of probabilities."""
    if not store.meta.counts.rows.get("heads"):
        return None
    masses = ("max_prob", "first_token_mass", "previous_token_mass", "self_mass", "induction_mass")
    tests = {
        "a negative entropy": "entropy < -1e-5",
        **{f"{name} outside 0 to 1": f"NOT {name} BETWEEN 0 AND 1.001" for name in masses},
        "a largest probability below the mean of the others": "max_prob < self_mass - 1e-4 OR max_prob < first_token_mass - 1e-4",
    }
    expect_no_row(store, tests, "SELECT example_id, seq, layer, head FROM heads WHERE")
    return f"{store.meta.counts.rows['heads']:,} rows, {len(tests)} conditions"
