"""Which run is meant where only a trait is named: the newest of its kind, provided that all of them belong to one model."""

from __future__ import annotations

from warehouse.errors import NotFoundError, UsageError
from warehouse.storage import paths
from warehouse.warehouse import Warehouse

_TABLES = {"trait-responses": "responses", "trait-vectors": "trait_vectors"}
_COMMANDS = {"trait-responses": "traces trait respond", "trait-vectors": "traces trait extract"}


def find_latest_run(wh: Warehouse, kind: str, trait: str, model: str | None = None) -> str:
    """Find the newest run of a kind that has rows of a trait.

    Args:
        wh: The warehouse.
        kind: `trait-responses` or `trait-vectors`.
        trait: The trait.
        model: Only runs of this model; None: of any.

    Returns:
        The run's name.

    Raises:
        NotFoundError: There is none; lists the traits or models that there are.
        UsageError: Models with different weights have such runs, or the newest is only a part of a run.
    """
    table = _TABLES[kind]
    rows = (
        wh.cursor()
        .execute(
            f"SELECT r.run_id, r.model, coalesce(nullif(r.body_hash, ''), r.weights_hash) FROM runs AS r WHERE r.kind = ? "
            f"AND EXISTS (SELECT 1 FROM {table} AS t WHERE t.run_id = r.run_id AND t.trait = ?) "
            "ORDER BY r.created_at DESC, r.run_id DESC",
            [kind, trait],
        )
        .fetchall()
    )
    if not rows:
        known = (
            wh.cursor()
            .execute(
                f"SELECT DISTINCT trait FROM {table} JOIN runs USING (run_id) WHERE kind = ? AND trait IS NOT NULL ORDER BY ALL",
                [kind],
            )
            .fetchall()
        )
        raise NotFoundError(
            f"run of kind {kind} of trait", trait, [name for (name,) in known], f"Make one: {_COMMANDS[kind]} --help"
        )
    of_model = [r for r in rows if model in (None, r[1])]
    if not of_model:
        raise NotFoundError(
            f"model with a run of kind {kind} of trait '{trait}':", model, dict.fromkeys(r[1] for r in rows)
        )
    if len({space for _, _, space in of_model}) > 1:
        candidates = ", ".join(f"{run} ({name})" for run, name, _ in of_model)
        option = "--responses" if kind == "trait-responses" else "--vectors"
        raise UsageError(
            f"Trait '{trait}' has runs of kind {kind} of models with different weights: {candidates}. Choose one with --model or {option}."
        )
    newest = str(of_model[0][0])
    if shard := paths.part_of(newest):
        raise UsageError(
            f"'{newest}', the newest run of trait '{trait}', is only a part of a run: traces runs merge {shard[0]}"
        )
    return newest
