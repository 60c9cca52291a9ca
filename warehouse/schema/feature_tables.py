"""The tables of sparse dictionaries: which features are active at which token, and how much of the states they give back."""

from __future__ import annotations

from warehouse.schema.columns import BLOCK, EXAMPLE, POS, RUN, SEQ, SOURCE
from warehouse.schema.types import Column, Table

SAE = Column("sae", "VARCHAR", "The dictionary, a sparse autoencoder or a transcoder: the name of its folder")
FEATURE = Column("feature", "INTEGER", "The feature: its row in the dictionary's decoder, 0-based")
ACTIVATION = Column(
    "activation",
    "FLOAT",
    "How active it is, above 0; one that is not active has no row, and a gated one can be below 0",
)

DICTIONARIES = Table(
    "dictionaries",
    "a dictionary that a run's states were encoded with",
    ("run_id", "sae"),
    (
        RUN,
        SOURCE,
        SAE,
        Column("side", "VARCHAR", "'dec' or 'enc': the stack of the model that it reads"),
        BLOCK,
        Column("site", "VARCHAR", "What it reads: resid.post_mlp, mlp_out, …"),
        Column("output_site", "VARCHAR", "What a transcoder gives back; NULL: the site that it reads", nullable=True),
        Column("architecture", "VARCHAR", "standard (ReLU), jumprelu, topk, gated, transcoder, …, as SAELens names it"),
        Column("n_features", "INTEGER", "Features"),
        Column("width", "INTEGER", "Values of a state that it reads"),
        Column(
            "trained_on",
            "VARCHAR",
            "The model that it was trained on, as it says itself; NULL: not said",
            nullable=True,
        ),
        Column("weights_hash", "VARCHAR", "xxh3-128 of its tensors and of what decides how they are used, in hex"),
    ),
    combined={},
)

FEATURES = Table(
    "features",
    "a feature that is active at a token; sorted by token",
    ("run_id", "example_id", "seq", "pos", "sae", "feature"),
    (RUN, SOURCE, EXAMPLE, SEQ, POS, BLOCK, SAE, FEATURE, ACTIVATION),
)

FEATURE_TOKENS = Table(
    "feature_tokens",
    "the same as in features, sorted by feature: what a feature is active at is found without reading the others",
    ("run_id", "sae", "feature", "example_id", "seq", "pos"),
    (RUN, SOURCE, SAE, BLOCK, FEATURE, EXAMPLE, SEQ, POS, ACTIVATION),
)

RECONSTRUCTIONS = Table(
    "reconstructions",
    "a token at a dictionary: how much of its state the dictionary gives back",
    ("run_id", "example_id", "seq", "pos", "sae"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        POS,
        BLOCK,
        SAE,
        Column("n_active", "INTEGER", "Features that are active: L0"),
        Column(
            "squared_error",
            "FLOAT",
            "Squared distance from the state to what the dictionary gives back, of a transcoder from its output site",
        ),
        Column("squared_norm", "FLOAT", "Squared length of the state that is to be given back"),
        Column(
            "squared_deviation",
            "FLOAT",
            "Its squared distance from the mean of the run's states there, first and special tokens not counted: "
            "1 - sum(squared_error) / sum(squared_deviation) is the explained variance",
        ),
    ),
)

RECONSTRUCTION_LOSSES = Table(
    "reconstruction_losses",
    "a sequence that the model read while a dictionary stood in the place of its states",
    ("run_id", "sae", "example_id", "seq"),
    (
        RUN,
        SOURCE,
        SAE,
        Column("weights_hash", "VARCHAR", "Which dictionary of that name: dictionaries.weights_hash"),
        BLOCK,
        EXAMPLE,
        SEQ,
        Column("n_predictions", "INTEGER", "Next tokens that are predicted"),
        Column("loss", "DOUBLE", "Mean loss of the model as it is, nats"),
        Column(
            "reconstructed_loss", "DOUBLE", "The same with what the dictionary gives back in the place of each state"
        ),
        Column("zeroed_loss", "DOUBLE", "The same with 0 in that place"),
        Column(
            "mean_kl",
            "DOUBLE",
            "Mean KL(the model as it is || with what the dictionary gives back), nats",
        ),
    ),
)

FEATURE_ASSOCIATIONS = Table(
    "feature_associations",
    "a feature and a value of a property: whether it is active at another share of the tokens with that value than of the others",
    ("run_id", "sae", "feature", "property", "value"),
    (
        RUN,
        SOURCE,
        Column("features_run_id", "VARCHAR", "The run that holds the activations"),
        SAE,
        BLOCK,
        FEATURE,
        Column(
            "property",
            "VARCHAR",
            "What tokens are told apart by: upos, deprel, role, label (of the example), correct (the prediction made at the token), "
            "answer (to the example's question)",
        ),
        Column("value", "VARCHAR", "Its value: NOUN, user, joy, …; right or wrong"),
        Column("n_tokens", "BIGINT", "Tokens with that value"),
        Column("n_active", "BIGINT", "Of these, those that the feature is active at"),
        Column("n_other_tokens", "BIGINT", "Tokens with other values"),
        Column("n_other_active", "BIGINT", "Of these, those that the feature is active at"),
        Column("n_examples", "BIGINT", "Examples that the feature is active in"),
        Column(
            "z",
            "DOUBLE",
            "Difference of the two shares, n_active / n_tokens and n_other_active / n_other_tokens, in standard errors over examples",
        ),
        Column("p_value", "DOUBLE", "Probability of a z as far from 0, were there no difference"),
        Column(
            "q_value",
            "DOUBLE",
            "The same corrected for all tests of the run: of those with at most this value, this part is expected to be false (Benjamini-Hochberg)",
        ),
    ),
)
