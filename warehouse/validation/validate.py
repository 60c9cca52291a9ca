"""Validate a published run: one check after another, each with what it found.

In: a run's folder. Out: `Check`s, in the order of the registries below. No model is loaded (`capture.verification.replay_check` runs it
again). Cheap checks come first. Where files are missing or altered, the checks that would read them are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
from safetensors import SafetensorError

from warehouse.errors import CorruptRunError, StoreError, TracesError
from warehouse.storage.objects import AnyPath
from warehouse.storage.trace_store import TraceStore
from warehouse.validation.attention_checks import check_attention, check_heads
from warehouse.validation.causal_checks import check_effects, check_influence, check_task
from warehouse.validation.check import Check, CheckFunction, ValidationFailure
from warehouse.validation.circuit_checks import check_circuit_values, check_circuits
from warehouse.validation.comparison_checks import (
    check_comparisons,
    check_head_changes,
    check_layer_similarity,
    check_moved_directions,
)
from warehouse.validation.feature_checks import check_feature_associations, check_features, check_reconstruction_losses
from warehouse.validation.file_checks import check_compacted, check_files, check_table_checksums, check_tensor_checksums
from warehouse.validation.prediction_checks import check_logit_lens, check_multiple_choice, check_next_token
from warehouse.validation.row_checks import check_counts, check_data, check_keys
from warehouse.validation.tensor_checks import check_finite, check_hidden, check_shapes
from warehouse.validation.text_checks import check_chats, check_tokens, check_words
from warehouse.validation.trait_checks import (
    check_judgements,
    check_projections,
    check_trait_evaluations,
    check_trait_vectors,
)
from warehouse.validation.vector_table_checks import check_vectors

FILE_CHECKS: dict[str, CheckFunction] = {
    "files": check_files,
    "table checksums": check_table_checksums,
    "tensor checksums": check_tensor_checksums,
}
"""Checks of the files as such, by name, in order."""

CONTENT_CHECKS: dict[str, CheckFunction] = {
    "counts": check_counts,
    "data": check_data,
    "shapes": check_shapes,
    "keys": check_keys,
    "finite": check_finite,
    "tokens": check_tokens,
    "next_token": check_next_token,
    "attention": check_attention,
    "hidden": check_hidden,
    "heads": check_heads,
    "logit_lens": check_logit_lens,
    "comparisons": check_comparisons,
    "layer similarity": check_layer_similarity,
    "moved directions": check_moved_directions,
    "head changes": check_head_changes,
    "words": check_words,
    "chats": check_chats,
    "multiple choice": check_multiple_choice,
    "trait vectors": check_trait_vectors,
    "trait evaluations": check_trait_evaluations,
    "judgements": check_judgements,
    "trait projections": check_projections,
    "task": check_task,
    "effects": check_effects,
    "influence": check_influence,
    "circuits": check_circuits,
    "circuit values": check_circuit_values,
    "features": check_features,
    "reconstruction losses": check_reconstruction_losses,
    "feature associations": check_feature_associations,
    "vector tables": check_vectors,
    "compacted": check_compacted,
}
"""Checks of what sound files hold, by name, in order."""

_READER_ERRORS = (
    TracesError, OSError, ValueError, LookupError, TypeError, OverflowError, pa.ArrowException, duckdb.Error, SafetensorError,
)  # fmt: skip
"""What readers raise for a file that is not what was written."""


def validate(folder: AnyPath) -> Iterator[Check]:
    """Run all checks of a run.

    Args:
        folder: The run's folder.

    Yields:
        Each check as it is done.

    Raises:
        CorruptRunError: Where the manifest itself cannot be read. NewerSchemaError for a schema version that is newer than ours.
    """
    store = TraceStore(folder)
    sound = True
    for name, check in FILE_CHECKS.items():
        result = _run_check(name, check, store)
        sound &= result.passed is not False
        yield result
    if not sound:
        yield Check("contents", None, "not looked at, since files are missing or altered")
        return
    if isinstance(folder, Path):
        with contextlib.suppress(*_READER_ERRORS):  # which the checks will say
            store.query(
                "SET enable_external_file_cache = false"
            )  # the system keeps files' pages; DuckDB would once more
    for name, check in CONTENT_CHECKS.items():
        yield _run_check(name, check, store)


def check_intact(folder: AnyPath) -> None:
    """Check that the files of a run are what was written.

    Args:
        folder: The run's folder.

    Raises:
        CorruptRunError: They are not.
    """
    store = TraceStore(folder)
    for name, check in FILE_CHECKS.items():
        result = _run_check(name, check, store)
        if result.passed is False:
            raise CorruptRunError(f"Run '{store.meta.run_id}' is damaged: {result.detail}.")


def _run_check(name: str, check: CheckFunction, store: TraceStore) -> Check:
    try:
        detail = check(store)
    except StoreError:
        raise
    except ValidationFailure as e:
        return Check(name, False, str(e))
    except _READER_ERRORS as e:
        return Check(name, False, " ".join(str(e).split()))
    return Check(name, None if detail is None else True, detail or "nothing to check: the run has none")
