"""The table of what an evaluation says of its samples: how an answer was scored, against what, and by whom it was given."""

from __future__ import annotations

from warehouse.schema.columns import EXAMPLE, RUN
from warehouse.schema.types import Column, Table

EVALUATIONS = Table(
    "evaluations",
    "a score that a sample of an evaluation got",
    ("run_id", "example_id", "seq", "scorer", "metric"),
    (
        RUN,
        EXAMPLE,
        Column(
            "seq",
            "INTEGER",
            "The sequence that was scored; NULL: all of its example's together, as the choices of a question (scored_sequences has "
            "such a score for each of them)",
            nullable=True,
        ),
        Column(
            "scorer",
            "VARCHAR",
            "Who judged: Inspect's scorer, lm-evaluation-harness' filter (loglikelihood: its request), or a file's column",
        ),
        Column(
            "metric",
            "VARCHAR",
            "What of it: lm-evaluation-harness' metric, the key in a score of several values, or score where there is one value",
        ),
        Column(
            "value",
            "DOUBLE",
            "The score as a number: 1 for C, yes and true, 0.5 for P, 0 for I, N, no and false; NULL: it is none, or not a number",
            nullable=True,
        ),
        Column("score", "VARCHAR", "The score as it stands in the log, lists and objects as JSON"),
        Column(
            "is_correct",
            "BOOLEAN",
            "Whether the answer was right, where the score says that: C, I or N, true or false, or 0 or 1 of acc, acc_norm and "
            "exact_match; NULL: it does not say",
            nullable=True,
        ),
        Column("target", "VARCHAR", "What would have been right; several as a JSON list", nullable=True),
        Column("answer", "VARCHAR", "What the scorer took for the answer", nullable=True),
        Column("explanation", "VARCHAR", "Why, in the scorer's words", nullable=True),
        Column("task", "VARCHAR", "The evaluation's task, or the file", nullable=True),
        Column(
            "epoch", "INTEGER", "Which answer of that model to the same sample, from 1; NULL: not said", nullable=True
        ),
        Column("answered_by", "VARCHAR", "The model that was evaluated, as the log names it", nullable=True),
        Column("details", "VARCHAR", "What the scorer says besides, a JSON object", nullable=True),
    ),
)
