"""Scores of the choices of a question → what was predicted, as rows of `choices` and `mcq_predictions`.

Knows nothing of models: a decoder's scores and an encoder's come in as numbers, one a choice.
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
    """Of one question, (C,) each, C its choices."""

    logit: np.ndarray
    logprob: np.ndarray | None = None
    """Nats; None for an encoder, which has none."""


def check_questions(source: Source) -> None:
    """Raises UsageError where a data set is not of multiple-choice questions."""
    first = next(source.read(), None)
    if first is not None and len(first.row.choices) < 2:
        raise UsageError(
            f"{source.origin} is not of multiple-choice questions: its examples have no choices. --data csqa is."
        )


def tables(questions: Several[Example], scores: Several[Scores], decides: str) -> Mapping[str, pa.Table]:
    """Rows of questions, `decides` being what their choices are judged by: `letter`, `text`, `byte` or `head`.

    Raises TracesError where a model rules out every choice of a question.
    """
    choices: dict[str, list[object]] = {name: [] for name in _CHOICES}
    predictions: dict[str, list[object]] = {name: [] for name in _PREDICTIONS}
    for example, found in zip(questions, scores, strict=True):
        row, n = example.row, len(example.row.choices)
        per_byte = None if found.logprob is None else found.logprob / [len(c.text.encode()) for c in row.choices]
        score = {"text": found.logprob, "byte": per_byte}.get(decides)
        score = (found.logit if score is None else score).astype(np.float64)
        if score.max() == -np.inf:
            remedy = "" if decides == "head" else ", or decide by another --score"
            raise TracesError(
                f"Question {row.source_id}: the model rules out every choice (by the score that decides, {decides}, each has a "
                f"log-probability of -infinity), so that it chooses none. Leave the question out{remedy}."
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
            logit=found.logit,
            logprob=[None] * n if found.logprob is None else found.logprob,
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
    for name, found in values.items():
        columns[name].extend(found)  # type: ignore[arg-type]
