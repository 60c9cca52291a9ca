"""Rows of the table `heads` from a recording: what each head does on each sequence.

In go a batch and its recorded tensors, as they are stored; the figures themselves are `warehouse.analysis.heads`'. `run_job` calls
this in the writer's thread, for captures that ask for `heads`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from capture.model.anatomy import Anatomy, Stack
from capture.recording.recorder import Recording
from capture.sequences.batches import Batch
from warehouse.analysis import heads
from warehouse.schema import sites
from warehouse.schema.sites import Key


def head_rows(anatomy: Anatomy, table: heads.HeadTable, batch: Batch, recording: Recording) -> pa.Table:
    """Return a row of `heads` for each head of each layer, sequence by sequence.

    Args:
        anatomy: The model's.
        table: Makes the rows of one sequence.
        batch: The sequences.
        recording: Their tensors, which have arrived on the host.

    Returns:
        The rows.
    """
    tables, start = [], dict.fromkeys(recording.tensors, 0)
    for n, sequence in enumerate(batch.sequences):
        tensors = {k: x[start[k] : start[k] + recording.rows[k][n]] for k, x in recording.tensors.items()}
        for k in start:
            start[k] += recording.rows[k][n]
        for side, part in sequence.sides.items():
            stack = anatomy.stacks[side]
            layers = {i: _layer_heads(stack, i, tensors) for i in stack.attention_layers}
            tables.append(table.rows(sequence.example.example_id, sequence.seq, side, part.ids, layers))
    return pa.concat_tables(tables)


def _layer_heads(stack: Stack, i: int, tensors: Mapping[Key, np.ndarray]) -> heads.LayerHeads:
    """Return a layer's attention on one sequence, derived from q and k or as recorded."""
    q, k = Key(stack.side, "q", i), Key(stack.side, "k", i)
    formula = stack.layers[i].formula
    if formula is not None and q in tensors and k in tensors:
        return heads.from_qk(tensors[q], tensors[k], formula)
    return heads.from_stored(tensors[Key(stack.side, "attn", i)], sites.row_kind("attn", stack.causal))
