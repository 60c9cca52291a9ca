"""Check the tables of predictions: `next_token`, `logit_lens`, and `choices` with `mcq_predictions`."""

from __future__ import annotations

import numpy as np

from warehouse.storage.trace_store import TraceStore
from warehouse.validation.check import expect, expect_no_row, select


def check_next_token(store: TraceStore) -> str | None:
    """Check that losses, ranks, entropies and top-k lists can be those of one distribution."""
    if not store.meta.counts.rows.get("next_token"):
        return None
    limit = float(np.log(store.meta.model.vocab_size))
    tests = {
        "a probability outside 0 to 1": "NOT (true_prob BETWEEN 0 AND 1 AND pred_prob BETWEEN 0 AND 1)",
        "a loss that is not -ln(true_prob)": "true_prob > 1e-30 AND NOT abs(exp(-loss::DOUBLE) - true_prob) <= 1e-5 * true_prob + 1e-7",
        "a negative loss": "loss < -1e-5",
        f"an entropy outside 0 to ln V = {limit:.3f}": f"NOT entropy BETWEEN 0 AND {limit + 1e-4}",
        "a rank outside the vocabulary": f"NOT true_rank BETWEEN 1 AND {store.meta.model.vocab_size}",
        "a true token likelier than the predicted": "true_prob > pred_prob * (1 + 1e-5)",
        "a prediction marked wrongly as right or wrong": "correct <> (pred_id = true_id) OR (correct AND true_rank <> 1)",
        "a top-k that does not begin with the prediction": "topk_ids[1] <> pred_id OR topk_probs[1] <> pred_prob",
        "a top-k that is not sorted": "topk_probs <> list_reverse_sort(topk_probs)",
        "a top-k whose probabilities exceed 1": "list_sum(topk_probs) > 1 + 1e-5",
        "a top-k with lists of unequal length": "len(topk_ids) <> len(topk_probs) OR len(topk_ids) <> len(topk_tokens)",
        "NaN": "isnan(loss) OR isnan(entropy) OR isnan(true_prob) OR isnan(pred_prob)",
    }
    expect_no_row(store, tests, "SELECT example_id, seq, pos FROM next_token WHERE")
    return f"{store.meta.counts.predictions:,} predictions, {len(tests)} conditions"


def check_logit_lens(store: TraceStore) -> str | None:
    """Check the lens as far as the run itself allows: the tokens that came next are in another run."""
    if not store.meta.counts.rows.get("logit_lens"):
        return None
    model = store.meta.model
    limit, final = float(np.log(model.vocab_size)), model.n_layers - 1
    place = "list_position(topk_ids, actual_id)"
    unknown = [f"({name} IS NULL)" for name in ("actual_id", "actual_token", "actual_rank", "actual_prob")]
    tests = {
        "a probability outside 0 to 1": "NOT actual_prob BETWEEN 0 AND 1 OR topk_probs[1] > 1 OR topk_probs[-1] < 0",
        "a top-k that is not sorted": "topk_probs <> list_reverse_sort(topk_probs)",
        "a top-k whose probabilities exceed 1": "list_sum(topk_probs) > 1 + 1e-5",
        "a top-k with lists of unequal length, or none": "len(topk_ids) <> len(topk_probs) OR len(topk_ids) <> len(topk_tokens) "
        "OR len(topk_ids) = 0",
        "a top-k with a token twice": "len(list_distinct(topk_ids)) <> len(topk_ids)",
        "an actual token that is known in part": " OR ".join(f"{unknown[0]} <> {u}" for u in unknown[1:]),
        "a rank outside the vocabulary": f"NOT actual_rank BETWEEN 1 AND {model.vocab_size}",
        # Equal probabilities share the first one's rank, and may lie beyond the k-th place.
        "a rank that is not its place in the top-k": f"actual_rank > {place} OR abs(topk_probs[actual_rank] - actual_prob) > 1e-6",
        "a token beyond the top-k that is likelier": f"{place} IS NULL AND actual_prob > topk_probs[-1] + 1e-6",
        "an actual token whose probability is not that in the top-k": f"abs(topk_probs[{place}] - actual_prob) > 1e-6",
        f"an entropy outside 0 to ln V = {limit:.3f}": f"NOT entropy BETWEEN 0 AND {limit + 1e-4}",
        "a negative divergence": "kl_to_final < -1e-4",
        "a last layer that is not the final distribution": f"layer = {final} AND abs(kl_to_final) > 1e-4",
        "a layer that the model has not": f"NOT layer BETWEEN 0 AND {final}",
        "NaN": "isnan(entropy) OR isnan(kl_to_final) OR isnan(actual_prob) OR isnan(list_sum(topk_probs))",
    }
    expect_no_row(store, tests, "SELECT example_id, seq, pos, layer FROM logit_lens WHERE")
    bad = select(
        store,
        "SELECT source_run_id, example_id, seq, pos FROM logit_lens GROUP BY ALL HAVING count(DISTINCT actual_id) > 1 LIMIT 1",
    )
    expect(not bad, f"a token whose next one differs from layer to layer: {bad}")
    return f"{store.meta.counts.rows['logit_lens']:,} rows, {len(tests) + 1} conditions"


def check_multiple_choice(store: TraceStore) -> str | None:
    """Check that what is stored of a question follows from the scores of its choices."""
    if not store.meta.counts.rows.get("mcq_predictions"):
        return None
    questions = """
        SELECT example_id, p.*, list(prob ORDER BY choice_idx) AS probs, list(score_of ORDER BY choice_idx) AS scores,
               list(is_pred ORDER BY choice_idx) AS preds, list(is_label ORDER BY choice_idx) AS labels,
               list(c.label ORDER BY choice_idx) AS letters
        FROM (SELECT *, CASE score WHEN 'text' THEN logprob WHEN 'byte' THEN logprob_per_byte ELSE logit END::DOUBLE AS score_of
              FROM choices JOIN (SELECT example_id, score FROM mcq_predictions) USING (example_id)) AS c
        JOIN mcq_predictions AS p USING (example_id) GROUP BY ALL"""
    tests = {
        "probabilities that don't sum to 1": "abs(list_sum(probs) - 1) > 1e-5",
        "a prediction that has not the highest score": "scores[pred_idx + 1] < list_max(scores)",
        "a prediction that its choices don't mark": "NOT preds[pred_idx + 1] OR len(list_filter(preds, lambda x: x)) <> 1",
        "an answer that its choices don't mark": "label_idx IS NOT NULL AND NOT labels[label_idx + 1]",
        "a letter that is another choice's": "letters[pred_idx + 1] <> pred_label OR letters[label_idx + 1] <> label",
        "a question marked wrongly as right or wrong": "is_correct IS DISTINCT FROM (pred_idx = label_idx)",
        "a probability that is not its choice's": "pred_prob <> probs[pred_idx + 1] OR label_prob <> probs[label_idx + 1]",
        "probabilities that are not the softmax of the scores": "list_max(list_transform(list_zip(probs, scores), lambda x: abs("
        "x[1] - exp(x[2] - list_max(scores)) / list_sum(list_transform(scores, lambda s: exp(s - list_max(scores))))))) > 1e-5",
        "an entropy that is not that of the probabilities": "abs(entropy + list_sum(list_transform(probs, "
        "lambda p: if(p > 0, p * ln(p), 0)))) > 1e-4",
        "a margin or gap below 0": "margin < 0 OR top_two_gap < 0",
    }
    expect_no_row(store, tests, f"SELECT example_id FROM ({questions}) WHERE")
    return f"{store.meta.counts.rows['mcq_predictions']:,} questions, {len(tests)} conditions"
