"""A logit lens over one sequence, as a row a layer and position: what each layer would have said after each token.

In: a run and a sequence of it. Out: rows of the table `logit_lens`, of the newest lens that has that sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

    from warehouse.catalog.ask import Ask

_LENSES = """
SELECT run_id FROM runs
WHERE kind = 'lens' AND (run_id = ? OR list_contains(parents, ?))
ORDER BY run_id = ? DESC, created_at DESC, run_id
"""

_ROWS = """
SELECT
    layer, pos, topk_tokens[1] AS top_token, topk_probs[1] AS top_prob, actual_rank, actual_prob, entropy, kl_to_final,
    topk_tokens[:{top}] AS topk_tokens, topk_probs[:{top}] AS topk_probs
FROM logit_lens
WHERE run_id = ? AND example_id = ? AND seq = ?
ORDER BY layer NULLS FIRST, pos
"""


class LensMatrix(NamedTuple):
    """A lens over one sequence."""

    lens_run: str
    """The run of kind lens."""
    layers: list[int | None]
    """The layers that it has, from below; None: what enters the first layer."""
    rows: pa.Table
    """A row a layer and position, ordered so: with all positions of a layer side by side."""


def lens_matrix(ask: Ask, run: str, example: str, seq: int = 0, top: int = 5) -> LensMatrix | None:
    """Return what each layer would have predicted after each token of a sequence.

    Args:
        ask: Asks the warehouse.
        run: A captured run, or a run of kind lens.
        example: The example's id.
        seq: Which sequence of the example.
        top: How many of the most probable tokens to name; a lens may have kept fewer.

    Returns:
        The newest lens of the run that has the sequence, or the run itself where it is one; None where there is none.
    """
    for lens_run in ask(_LENSES, run, run, run)["run_id"].to_pylist():
        rows = ask(_ROWS.format(top=int(top)), lens_run, example, seq)
        if len(rows):
            return LensMatrix(lens_run, list(dict.fromkeys(rows["layer"].to_pylist())), rows)
    return None
