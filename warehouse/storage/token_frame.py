"""The SQL of `TraceStore.tokens`: the texts of one run, how they became tokens, and what the model predicted.

In goes what the run has (predictions of next tokens, multiple-choice questions); out comes one query over its tables, which
`RunTables` asks. Values are those of the tables, none is computed.
"""

from __future__ import annotations

from warehouse.schema.quoting import sql_text

_NEXT = (
    "pos",
    "true_id",
    "pred_id",
    "correct",
    "true_prob",
    "pred_prob",
    "entropy",
    "topk_ids",
    "topk_tokens",
    "topk_probs",
)
"""The columns of `next_token` that the frame has of a sequence's last prediction, `next_` before their names."""

_QUESTION = ("label_idx", "pred_idx", "pred_label", "is_correct", "choice_logits", "choice_probs")

# Structs sort by their first field, here unique: list_sort takes a fifth of the time of one `list(… ORDER BY pos)` a column.
_SEQUENCES = """
    SELECT example_id, seq, side, [x.token_id FOR x IN rows] AS input_ids, [x.token FOR x IN rows] AS tokens,
           [[x.char_start, x.char_end] FOR x IN rows] AS offsets
    FROM (
        SELECT example_id, seq, side, list_sort(list(struct_pack(pos, token_id, token, char_start, char_end))) AS rows
        FROM tokens GROUP BY example_id, seq, side
    )
"""

_LIST_A_CHOICE = f"""
    SELECT example_id, 0 AS seq, side, [x.input_ids FOR x IN choices] AS input_ids, [x.tokens FOR x IN choices] AS tokens,
           [x.offsets FOR x IN choices] AS offsets
    FROM (
        SELECT example_id, side, list_sort(list(struct_pack(seq, input_ids, tokens, offsets))) AS choices
        FROM ({_SEQUENCES}) GROUP BY example_id, side
    )
"""

_PREDICTIONS = f"""
    SELECT example_id, seq, 'dec' AS side, [x.pred_id FOR x IN rows] AS pred_ids, [x.correct FOR x IN rows] AS correct,
           [x.loss FOR x IN rows] AS losses, {", ".join(f"n.{name} AS next_{name}" for name in _NEXT)}
    FROM (
        SELECT example_id, seq, max(pos) AS pos, list_sort(list(struct_pack(pos, pred_id, correct, loss))) AS rows
        FROM next_token GROUP BY example_id, seq
    ) JOIN next_token AS n USING (example_id, seq, pos)
"""

_QUESTIONS = """
    SELECT example_id, label_idx, pred_idx, pred_label, is_correct, [x.score FOR x IN choices] AS choice_logits,
           [x.prob FOR x IN choices] AS choice_probs
    FROM mcq_predictions JOIN (
        SELECT c.example_id, list_sort(list({
                   'choice_idx': choice_idx,
                   'score': CASE score WHEN 'text' THEN logprob WHEN 'byte' THEN logprob_per_byte ELSE logit END,
                   'prob': prob
               })) AS choices
        FROM choices AS c JOIN mcq_predictions USING (example_id) GROUP BY c.example_id
    ) USING (example_id)
"""


def token_frame_sql(side: str, predictions: bool, questions: bool, sequence_per_choice: bool) -> str:
    """Write the query of `TraceStore.tokens`.

    Args:
        side: The model's own side, which an example without tokens gets.
        predictions: Whether the run has predictions of next tokens.
        questions: Whether the run has multiple-choice questions.
        sequence_per_choice: Whether each choice of a question is a sequence of its own.

    Returns:
        The query, over the tables of one run.
    """
    columns = ["pred_ids", "correct", "losses", *(f"next_{name}" for name in _NEXT if predictions)]
    columns += _QUESTION if questions else ()
    joined = f"LEFT JOIN ({_QUESTIONS}) AS q ON q.example_id = e.example_id" if questions else ""
    return f"""
        SELECT e.idx, e.example_id, coalesce(t.seq, 0) AS seq, coalesce(t.side, {sql_text(side)}) AS side, e.text,
               t.input_ids, t.tokens, t.offsets, {", ".join(columns)}
        FROM examples AS e
        LEFT JOIN ({_LIST_A_CHOICE if sequence_per_choice else _SEQUENCES}) AS t ON t.example_id = e.example_id
        LEFT JOIN ({_PREDICTIONS}) AS p ON p.example_id = t.example_id AND p.seq = t.seq AND p.side = t.side
        {joined}
        ORDER BY e.idx, t.seq, t.side
    """
