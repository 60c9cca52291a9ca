"""The tables of what is learned from data: a fine-tuning and probes."""

from __future__ import annotations

from warehouse.schema.columns import RUN
from warehouse.schema.types import Column, Table

TRAINING = Table(
    "training",
    "a measurement while a model is fine-tuned",
    ("run_id", "step", "split"),
    (
        RUN,
        Column("step", "INTEGER", "Optimizer steps done"),
        Column("epoch", "FLOAT", "Passes over the training data done"),
        Column(
            "split",
            "VARCHAR",
            "train: a mean since the row before; set aside: the training questions that the epoch kept was chosen by; else the split "
            "that was judged, which chose nothing (before schema version 7, it chose the epoch)",
        ),
        Column("loss", "FLOAT", "Cross-entropy over the choices, nats"),
        Column("accuracy", "FLOAT", "Part of the questions answered right"),
        Column("learning_rate", "FLOAT", "Learning rate; NULL for an evaluation", nullable=True),
    ),
)

PROBES = Table(
    "probes",
    "a probe: a logistic regression from the vectors of a layer to labels, judged on examples that it has not seen",
    ("run_id", "side", "site", "layer"),
    (
        RUN,
        Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model"),
        Column("site", "VARCHAR", "What was probed: resid.post_mlp, q, …"),
        Column("layer", "INTEGER", "Layer, 0-based; NULL for resid.embed", nullable=True),
        Column("head", "INTEGER", "Query head; NULL: the site has none", nullable=True),
        Column("classes", "VARCHAR[]", "The labels, in the order of the coefficients' rows"),
        Column("n_train", "INTEGER", "Tokens that it was fitted to"),
        Column("n_test", "INTEGER", "Tokens that it was judged on, all of other examples"),
        Column("n_test_examples", "INTEGER", "Examples that those tokens are of", nullable=True),
        Column(
            "n_test_unknown",
            "INTEGER",
            "Test tokens with a label that no training token has: never right",
            nullable=True,
        ),
        Column("accuracy", "FLOAT", "Part of the test tokens whose label it gives"),
        Column(
            "accuracy_low",
            "FLOAT",
            "Lower end of its 95 % interval: Wilson's, for as many independent tokens as the test examples are worth",
            nullable=True,
        ),
        Column("accuracy_high", "FLOAT", "Upper end", nullable=True),
        Column("train_accuracy", "FLOAT", "The same of the training tokens"),
        Column("majority_accuracy", "FLOAT", "Part of the test tokens that have the commonest training label"),
        Column(
            "shuffled_accuracy",
            "FLOAT",
            "Accuracy on the test tokens after fitting to shuffled labels; mean of 10 since schema version 7",
        ),
        Column("shuffled_sd", "FLOAT", "Standard deviation of those", nullable=True),
        Column("blob", "VARCHAR", "File of its coefficients, relative to the run's folder"),
        Column("tensor", "VARCHAR", "Their name there: (classes, width + 1), the last column the intercepts"),
    ),
)
