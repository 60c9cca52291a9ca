"""Columns that several tables share."""

from __future__ import annotations

from warehouse.schema.types import Column

RUN = Column("run_id", "VARCHAR", "The run: the name of its folder")
EXAMPLE = Column(
    "example_id",
    "VARCHAR",
    "The example: 16 hex digits from data set, config, split and source id, of your own texts from the text or its id alone; the same in every run",
)
SEQ = Column(
    "seq",
    "INTEGER",
    "Which sequence of the example: 0, the chunk under --chunk, the choice, or the sample; of a task's pair 0 clean, 1 corrupted",
)
POS = Column("pos", "INTEGER", "Token position in its sequence, 0-based, padding not counted")
SOURCE = Column("source_run_id", "VARCHAR", "The run that it was made from")
METRIC = Column(
    "metric",
    "VARCHAR",
    "Read at the prompt's last token. logit_diff: mean logit of the tokens of sign +1 less that of those of sign -1; prob_diff: "
    "summed probability of the first less that of the second; logprob: ln of the summed probability of the first, nats; kl: "
    "KL(distribution of this prompt by the model as it is || this distribution), nats, in task_scores from the clean prompt's",
)
TASK_RUN = Column("source_run_id", "VARCHAR", "The task's run")
TRAIT = Column("trait", "VARCHAR", "The trait")
METHOD = Column("method", "VARCHAR", "How the vector was made: mean_diff, probe, ica, gradient or random")
COMPONENT = Column("component", "VARCHAR", "What the vector lives in: residual (resid.post_mlp) or attn_out")
BLOCK = Column(
    "layer",
    "INTEGER",
    "Layer l is the output of block l, 0-based; NULL: the input of the first, resid.embed",
    nullable=True,
)
