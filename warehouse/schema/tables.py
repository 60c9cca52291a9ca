"""All tables in the order of the reference; their definitions are in the modules beside, by subject.

Every column's type and comment is written there once. Writers take their Arrow schemas from it, the catalog its views, and
with them `docs/tables.md`, which a test holds equal. `migrations/` records how the tables came to be, version by version; a test
holds that all migrations, one after the other, make what `warehouse.schema.ddl` says.

`run_id` is a column of every table, but of no file: it is the name of the run's folder (`run_id=<run>/`). Nothing heavy is
imported here, so that `traces sql` starts fast; `arrow_schema` imports pyarrow when called.
"""

from __future__ import annotations

from warehouse.schema.causal_tables import (
    EFFECTS,
    IDENTITY_ERRORS,
    INFLUENCE,
    INFLUENCE_TARGETS,
    INTERVENTIONS,
    LOGIT_PARTS,
    TASK_PAIRS,
    TASK_SCORES,
    TASK_TARGETS,
    TOKEN_EDGES,
)
from warehouse.schema.circuit_tables import (
    CIRCUIT_EDGES,
    CIRCUIT_NODE_SCORES,
    CIRCUIT_NODES,
    CIRCUIT_VALUES,
    CIRCUITS,
)
from warehouse.schema.comparison_tables import COMPARISONS, HEAD_CHANGES, LAYER_SIMILARITY, MOVED_DIRECTIONS
from warehouse.schema.evaluation_tables import EVALUATIONS
from warehouse.schema.feature_tables import (
    DICTIONARIES,
    FEATURE_ASSOCIATIONS,
    FEATURE_TOKENS,
    FEATURES,
    RECONSTRUCTION_LOSSES,
    RECONSTRUCTIONS,
)
from warehouse.schema.learning_tables import PROBES, TRAINING
from warehouse.schema.prediction_tables import CHOICES, LOGIT_LENS, MCQ_PREDICTIONS, NEXT_TOKEN
from warehouse.schema.tensor_tables import HEADS, TENSORS
from warehouse.schema.text_tables import EXAMPLES, LABELS, MESSAGES, PROMPTS, RUNS, TOKENS, WORDS
from warehouse.schema.trait_tables import (
    JUDGEMENTS,
    RESPONSES,
    TRAIT_DYNAMICS,
    TRAIT_EVALUATIONS,
    TRAIT_PROJECTIONS,
    TRAIT_VECTORS,
)
from warehouse.schema.types import Table

SCHEMA_VERSION = 9
"""The version of the format on disk that this code writes; it reads older ones."""

_TABLES = (
    RUNS,
    EXAMPLES,
    TOKENS,
    PROMPTS,
    WORDS,
    LABELS,
    MESSAGES,
    EVALUATIONS,
    NEXT_TOKEN,
    HEADS,
    CHOICES,
    MCQ_PREDICTIONS,
    TRAINING,
    PROBES,
    LOGIT_LENS,
    COMPARISONS,
    LAYER_SIMILARITY,
    MOVED_DIRECTIONS,
    HEAD_CHANGES,
    RESPONSES,
    JUDGEMENTS,
    TRAIT_VECTORS,
    TRAIT_EVALUATIONS,
    TRAIT_PROJECTIONS,
    TRAIT_DYNAMICS,
    TASK_PAIRS,
    TASK_TARGETS,
    TASK_SCORES,
    INTERVENTIONS,
    EFFECTS,
    INFLUENCE_TARGETS,
    LOGIT_PARTS,
    INFLUENCE,
    TOKEN_EDGES,
    IDENTITY_ERRORS,
    CIRCUITS,
    CIRCUIT_NODES,
    CIRCUIT_EDGES,
    CIRCUIT_NODE_SCORES,
    CIRCUIT_VALUES,
    DICTIONARIES,
    FEATURES,
    FEATURE_TOKENS,
    RECONSTRUCTIONS,
    RECONSTRUCTION_LOSSES,
    FEATURE_ASSOCIATIONS,
    TENSORS,
)

TABLES: dict[str, Table] = {t.name: t for t in _TABLES}
"""Every table by its name."""

STORED: dict[str, Table] = {t.name: t for t in _TABLES if t.stored}
"""The tables whose rows are Parquet files in a run's folder."""
