"""The pairs of a task as a run has stored them: token ids of both prompts, and the tokens that the metric is about.

In: a run of kind `task`. Out: `PromptPair`s, shortest first, in groups that share forward passes. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from warehouse.errors import UsageError
from warehouse.storage.grouping import group_by_size
from warehouse.storage.trace_store import TraceStore

CLEAN, CORRUPTED = 0, 1
"""`seq` of a pair's prompts."""

_SQL = """
    WITH prompts AS (
        SELECT example_id, seq, list(token_id ORDER BY pos) AS ids FROM tokens WHERE side = 'dec' GROUP BY example_id, seq
    )
    SELECT
        clean.example_id, clean.ids, corrupted.ids,
        (SELECT list(token_id ORDER BY token_id) FROM task_targets AS t WHERE t.example_id = clean.example_id),
        (SELECT list(sign ORDER BY token_id) FROM task_targets AS t WHERE t.example_id = clean.example_id)
    FROM prompts AS clean JOIN prompts AS corrupted ON clean.example_id = corrupted.example_id
    WHERE clean.seq = 0 AND corrupted.seq = 1
    ORDER BY len(clean.ids), clean.example_id
"""


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and a corrupted one of T tokens each."""

    example_id: str
    ids: tuple[np.ndarray, np.ndarray]
    """Token ids (T,) of both, by `seq`."""
    targets: dict[int, int]
    """Token id → 1 for a right answer, -1 for a wrong one."""

    def __len__(self) -> int:
        return len(self.ids[CLEAN])


def read_pairs(store: TraceStore) -> list[PromptPair]:
    """Read a task's pairs, shortest first; raises UsageError for a run that is no task."""
    meta = store.meta
    if meta.kind != "task":
        raise UsageError(
            f"Run '{meta.run_id}' is of kind {meta.kind}, and has no pairs of prompts: name a task's run. Make one: traces task prepare "
            f"indirect_object --model {meta.model.name} --run TASK (traces task list names others)"
        )
    return [
        PromptPair(example_id, (np.array(clean), np.array(corrupted)), dict(zip(tokens, signs, strict=True)))
        for example_id, clean, corrupted, tokens, signs in store.query(_SQL).fetchall()
    ]


def group_pairs(pairs: list[PromptPair], batch_tokens: int) -> Iterator[list[PromptPair]]:
    """Group pairs, shortest first, so that both prompts of all pairs in a group make one batch."""
    longest = 0
    group: list[PromptPair] = []
    for pair in pairs:
        longest = max(longest, len(pair))
        if group and 2 * longest * (len(group) + 1) > batch_tokens:
            yield group
            group, longest = [], len(pair)
        group.append(pair)
    if group:
        yield group


def group_shards(groups: Iterator[list[PromptPair]], n_interventions: int) -> Iterator[list[list[PromptPair]]]:
    """Put groups into shards, after each of which an interrupted run can resume."""
    return group_by_size(groups, lambda group: len(group) * n_interventions, _SHARD_ROWS)


_SHARD_ROWS = 1 << 13
"""Rows of `effects` in a shard, unless one group has more."""
