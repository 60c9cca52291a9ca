"""What was predicted for multiple-choice questions, as rows of `choices` and `mcq_predictions`.

In go questions and the scores of their choices, one number a choice, whether a decoder's or an encoder's. Knows nothing of
models; the two mcq jobs call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import entr

from capture.data.example import Example, Source
from warehouse.errors import TracesError, UsageError
from warehouse.storage.parquet import to_table


@dataclass(frozen=True)
class Scores:
    """The scores of one question's C choices, (C,) each."""

    logit: np.ndarray
    logprob: np.ndarray | None = None
    """Log-probability of a choice's text, nats; None for an encoder, which has none."""


def check_questions(source: Source) -> None:
    """Raise UsageError where a data set is not of multiple-choice questions."""
    first = next(source.read(), None)
    if first is not None and len(first.row.choices) < 2:
        raise UsageError(
            f"{source.origin} has no multiple-choice questions: its examples have no choices. --data csqa has some."
        )


def score_tables(questions: Several[Example], scores: Several[Scores], decides: str) -> Mapping[str, pa.Table]:
    """Return the rows of questions.

    Args:
        questions: The questions.
        scores: Those of their choices, in the same order.
        decides: The score that predicts: `letter`, `text`, `byte` or `head`.

    Returns:
        The tables `choices` and `mcq_predictions`, probabilities being a softmax over the choices.

    Raises:
        TracesError: The model rules out every choice of a question.
    """
    choices: dict[str, list[object]] = {name: [] for name in _CHOICES}
    predictions: dict[str, list[object]] = {name: [] for name in _PREDICTIONS}
    for example, given in zip(questions, scores, strict=True):
        row, n = example.row, len(example.row.choices)
        per_byte = None if given.logprob is None else given.logprob / [len(c.text.encode()) for c in row.choices]
        score = {"text": given.logprob, "byte": per_byte}.get(decides)
        score = (given.logit if score is None else score).astype(np.float64)
        if score.max() == -np.inf:
            remedy = "" if decides == "head" else ", or decide by another --score"
            raise TracesError(
                f"Question {row.source_id}: the model rules out every choice (by the score that decides, {decides}, each has a "
                f"log-probability of -infinity), so it chooses none. Leave the question out{remedy}."
            )
        prob = np.exp(score - score.max())
        prob /= prob.sum()
        pred, second = np.argsort(-score, kind="stable")[:2]
        answer = row.answer
        _add(
            choices,
            example_id=[example.example_id] * n,
            choice_idx=range(n),
            label=[c.label for c in row.choices],
            text=[c.text for c in row.choices],
            logit=given.logit,
            logprob=[None] * n if given.logprob is None else given.logprob,
            logprob_per_byte=[None] * n if per_byte is None else per_byte,
            prob=prob,
            is_label=[None if answer is None else i == answer for i in range(n)],
            is_pred=[bool(i == pred) for i in range(n)],
        )
        _add(
            predictions,
            example_id=[example.example_id],
            score=[decides],
            label_idx=[answer],
            label=[None if answer is None else row.choices[answer].label],
            pred_idx=[pred],
            pred_label=[row.choices[pred].label],
            is_correct=[None if answer is None else bool(pred == answer)],
            pred_prob=[prob[pred]],
            label_prob=[None if answer is None else prob[answer]],
            margin=[score[pred] - score[second]],
            top_two_gap=[prob[pred] - prob[second]],
            entropy=[float(entr(prob).sum())],
        )
    return {"choices": to_table("choices", choices), "mcq_predictions": to_table("mcq_predictions", predictions)}


_CHOICES = (
    "example_id",
    "choice_idx",
    "label",
    "text",
    "logit",
    "logprob",
    "logprob_per_byte",
    "prob",
    "is_label",
    "is_pred",
)
_PREDICTIONS = (
    "example_id",
    "score",
    "label_idx",
    "label",
    "pred_idx",
    "pred_label",
    "is_correct",
    "pred_prob",
    "label_prob",
    "margin",
    "top_two_gap",
    "entropy",
)


def _add(columns: dict[str, list[object]], **values: object) -> None:
    for name, column in values.items():
        columns[name].extend(column)  # type: ignore[arg-type]
