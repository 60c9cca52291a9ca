"""The tables of traits: responses, judgements, and the directions made from them."""

from __future__ import annotations

from warehouse.schema.columns import BLOCK, COMPONENT, EXAMPLE, METHOD, POS, RUN, SEQ, SOURCE, TRAIT
from warehouse.schema.types import Column, Table

RESPONSES = Table(
    "responses",
    "a response that the model generated",
    ("run_id", "example_id", "seq"),
    (
        RUN,
        EXAMPLE,
        SEQ,
        Column("prompt", "VARCHAR", "What was asked, without the chat template"),
        Column("system", "VARCHAR", "The system message, such as a trait's instruction", nullable=True),
        Column("response", "VARCHAR", "What the model answered, without special tokens"),
        Column("n_prompt_tokens", "INTEGER", "Tokens of the prompt, its template included: the response begins there"),
        Column("n_response_tokens", "INTEGER", "Tokens generated, an end token included"),
        Column("finish", "VARCHAR", "stop: the model ended it; length: it was cut at --max-new-tokens"),
        Column("trait", "VARCHAR", "The trait that it was asked to show or not", nullable=True),
        Column("polarity", "VARCHAR", "pos: asked to show it, neg: not to", nullable=True),
        Column("instruction_idx", "INTEGER", "Place of the instruction pair in the definition, 0-based", nullable=True),
        Column("question_idx", "INTEGER", "Place of the question in the definition, 0-based", nullable=True),
        Column("vectors_run_id", "VARCHAR", "Steering: the run of the vector that was added", nullable=True),
        Column("method", "VARCHAR", "Steering: how that vector was made", nullable=True),
        Column("component", "VARCHAR", "Steering: what it lives in", nullable=True),
        Column("layer", "INTEGER", "Steering: the block to whose output it was added", nullable=True),
        Column(
            "coefficient",
            "FLOAT",
            "Steering: how much of it, in distances between the polarities' means along it (trait_vectors.gap)",
            nullable=True,
        ),
    ),
)

JUDGEMENTS = Table(
    "judgements",
    "what a judge says of a response",
    ("run_id", "source_run_id", "example_id", "seq", "trait"),
    (
        RUN,
        Column("source_run_id", "VARCHAR", "The run that the response is of"),
        EXAMPLE,
        SEQ,
        TRAIT,
        Column("judge", "VARCHAR", "Who judged: openai:MODEL, anthropic:MODEL, URL:MODEL or local:MODEL"),
        Column("trait_score", "FLOAT", "How strongly it shows the trait, 0 to 100; NULL: not told", nullable=True),
        Column("coherence_score", "FLOAT", "How coherent it is, 0 to 100; NULL: not told", nullable=True),
        Column(
            "refused",
            "BOOLEAN",
            "The judge's answer is that the response is a refusal; numbers may have been likely enough beside it for a score",
        ),
        Column(
            "scored_by",
            "VARCHAR",
            "Of trait_score. probabilities: mean over the integers 0 to 100 by the judge's probabilities; number: the number that "
            "it gave; NULL: neither",
            nullable=True,
        ),
        Column(
            "number_mass",
            "FLOAT",
            "Probability that it gave to numbers beside trait_answer; NULL: not told",
            nullable=True,
        ),
        Column("trait_answer", "VARCHAR", "What the judge answered on the trait"),
        Column("coherence_answer", "VARCHAR", "What it answered on coherence"),
        Column(
            "trait_rule",
            "VARCHAR",
            "How trait_answer was looked at. whole: by the probabilities of whole numbers, over all their tokens; tokens: by "
            "those of the integers in the place of one token; one-digit: the same, all of one digit, so that they are first "
            "digits if this judge cuts its numbers; digits: its number came in several tokens and counts as written; "
            "written: as written, no probabilities being told beside it; NULL: no answer",
            nullable=True,
        ),
        Column("coherence_rule", "VARCHAR", "The same of coherence_answer", nullable=True),
    ),
)

TRAIT_VECTORS = Table(
    "trait_vectors",
    "a direction of a trait in a layer",
    ("run_id", "trait", "method", "component", "layer"),
    (
        RUN,
        TRAIT,
        METHOD,
        COMPONENT,
        BLOCK,
        Column(
            "norm",
            "FLOAT",
            "Length of the vector as the method gave it, before it was made a unit vector; 1 by construction for gradient and random",
        ),
        Column(
            "gap",
            "FLOAT",
            "Distance between the mean projections of the two polarities: one unit of steering; imported: the vector's length in its file",
        ),
        Column(
            "midpoint",
            "FLOAT",
            "Half way between those means: above it a response counts as showing the trait; NULL: imported",
            nullable=True,
        ),
        Column("n_pos", "INTEGER", "Positive responses that it was made from; NULL: imported", nullable=True),
        Column("n_neg", "INTEGER", "Negative ones; NULL: imported", nullable=True),
        Column(
            "train_accuracy",
            "FLOAT",
            "Part of the responses that it was made from on the right side of the midpoint: no estimate for others; NULL: imported, and "
            "its file does not say",
            nullable=True,
        ),
        Column(
            "effect_size",
            "FLOAT",
            "Cohen's d of their cosines with it: no estimate for others, large where they are fewer than dimensions; NULL: imported",
            nullable=True,
        ),
        Column(
            "converged",
            "BOOLEAN",
            "The method stopped because nothing changed any more, not for its number of steps; NULL: it takes no steps",
            nullable=True,
        ),
        Column("vector", "FLOAT[]", "The unit vector, (D,), pointing towards the trait"),
    ),
)

TRAIT_EVALUATIONS = Table(
    "trait_evaluations",
    "a trait's vector, judged on questions that it was not made from",
    ("run_id", "vectors_run_id", "trait", "method", "component", "layer"),
    (
        RUN,
        Column("vectors_run_id", "VARCHAR", "The run of the vector"),
        TRAIT,
        METHOD,
        COMPONENT,
        BLOCK,
        Column("n_pos", "INTEGER", "Positive responses to held-out questions"),
        Column("n_neg", "INTEGER", "Negative ones"),
        Column("accuracy", "FLOAT", "Part of them on the right side of the training midpoint"),
        Column(
            "accuracy_low",
            "FLOAT",
            "Lower end of its exact 95 % interval over questions: of this vector, not of one picked for its accuracy",
        ),
        Column("accuracy_high", "FLOAT", "Upper end"),
        Column("effect_size", "FLOAT", "Cohen's d of their cosines with the vector, positive less negative"),
        Column(
            "effect_size_low",
            "FLOAT",
            "Lower end of its 95 % interval over questions, Student's with a bootstrap's error: of this vector, not of one picked for it",
        ),
        Column("effect_size_high", "FLOAT", "Upper end"),
        Column("auc", "FLOAT", "Probability that a positive response projects higher than a negative one"),
        Column("polarity_right", "BOOLEAN", "Positive responses project higher on average"),
        Column(
            "overlap",
            "FLOAT",
            "Common area of two normal densities with the polarities' means and deviations, 0 to 1",
        ),
        Column("train_minus_heldout", "FLOAT", "Accuracy on what it was made from, less accuracy"),
        Column(
            "random_accuracy", "FLOAT", "Mean accuracy of random directions in this layer, their sign from training"
        ),
        Column("above_random", "FLOAT", "accuracy - random_accuracy"),
        Column(
            "above_random_low",
            "FLOAT",
            "Lower end of its 95 % interval over questions; 0 or less: it may be no better than a random direction",
        ),
        Column("above_random_high", "FLOAT", "Upper end"),
        Column(
            "cv_effect_size",
            "FLOAT",
            "Cohen's d on the training questions, each part of them on a vector made from the others: what the best is picked by, "
            "so that the held-out numbers are unbiased; NULL: too few questions",
            nullable=True,
        ),
    ),
)

TRAIT_PROJECTIONS = Table(
    "trait_projections",
    "a token on a trait's vector",
    ("run_id", "source_run_id", "example_id", "seq", "pos", "trait", "method", "component", "layer"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        POS,
        Column("vectors_run_id", "VARCHAR", "The run of the vector"),
        TRAIT,
        METHOD,
        COMPONENT,
        BLOCK,
        Column("projection", "FLOAT", "h·v/‖v‖, h being the token's own state"),
        Column("token_norm", "FLOAT", "‖h‖: projection / token_norm is the cosine"),
        Column("velocity", "FLOAT", "Projection less that of the response token before; NULL: none", nullable=True),
        Column("acceleration", "FLOAT", "Velocity less that of the response token before; NULL: none", nullable=True),
    ),
)

TRAIT_DYNAMICS = Table(
    "trait_dynamics",
    "a response on a trait's vector",
    ("run_id", "source_run_id", "example_id", "seq", "trait", "method", "component", "layer"),
    (
        RUN,
        SOURCE,
        EXAMPLE,
        SEQ,
        Column("vectors_run_id", "VARCHAR", "The run of the vector"),
        TRAIT,
        METHOD,
        COMPONENT,
        BLOCK,
        Column("n_tokens", "INTEGER", "Tokens looked at: the response's, or all where the run generated none"),
        Column("first_pos", "INTEGER", "Position of the first of them"),
        Column("mean_projection", "FLOAT", "Mean over them"),
        Column("mean_cosine", "FLOAT", "Mean of projection / token_norm"),
        Column("spread", "FLOAT", "Standard deviation of the projection"),
        Column("peak_velocity", "FLOAT", "Largest absolute velocity; NULL: one token", nullable=True),
        Column(
            "commitment_point",
            "INTEGER",
            "First token, counted from 0 at first_pos, whose absolute acceleration is under the threshold; NULL: none",
            nullable=True,
        ),
        Column(
            "commitment_point_relative",
            "INTEGER",
            "The same, the threshold being that part of spread; NULL: none",
            nullable=True,
        ),
        Column("peak_point", "INTEGER", "The token with the largest projection, counted from 0"),
        Column("persistence", "INTEGER", "Tokens after the peak whose projection is above half of it"),
    ),
)
