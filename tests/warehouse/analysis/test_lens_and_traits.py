"""A lens and projections of one sequence are the rows of the newest run that has them, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import add_run

from warehouse import Warehouse
from warehouse.analysis.lens_matrix import lens_matrix
from warehouse.analysis.trait_tokens import trait_tokens
from warehouse.catalog.ask import asker


def lens_rows(example: str, layers: list[int | None], mark: float) -> list[dict[str, Any]]:
    return [
        {"source_run_id": "r", "example_id": example, "pos": pos, "layer": layer, "entropy": mark,
         "topk_tokens": [f"{layer}-{pos}", "b", "c"], "topk_probs": [0.5, 0.25, 0.125]}
        for pos in (2, 0, 1)
        for layer in layers
    ]  # fmt: skip


KEYS = {"source_run_id": "r", "vectors_run_id": "v", "component": "residual"}


def projected(example: str, trait: str, value: float, **more: Any) -> dict[str, list[dict[str, Any]]]:
    key = KEYS | {"example_id": example, "trait": trait, "method": "probe", "layer": 3} | more
    return {
        "trait_projections": [key | {"pos": pos, "projection": value + pos} for pos in (1, 0)],
        "trait_dynamics": [key | {"n_tokens": 2, "peak_point": 1, "mean_projection": value}],
    }


def joined(*parts: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [row for part in parts for row in part[name]] for name in parts[0]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    examples = [{"example_id": e, "idx": i, "n_seqs": 1} for i, e in enumerate("ab")]
    for minute, run in enumerate(("r", "other")):
        add_run(tmp_path, run, "next-token", {"examples": examples}, minute=minute)
    add_run(
        tmp_path,
        "old",
        "lens",
        {"logit_lens": lens_rows("a", [1, 0], 1) + lens_rows("b", [0], 1)},
        minute=5,
        parents=["r"],
    )
    add_run(tmp_path, "new", "lens", {"logit_lens": lens_rows("a", [2, None], 2)}, minute=6, parents=["r"])
    first = joined(projected("a", "loud", 9), projected("a", "calm", 5), projected("b", "loud", 7))
    add_run(tmp_path, "t1", "trait-projection", first, minute=7, parents=["r", "v"])
    second = joined(projected("a", "loud", 1), projected("a", "loud", 2, method="random", layer=None))
    add_run(tmp_path, "t2", "trait-projection", second, minute=8, parents=["r", "v"])
    only = {"trait_dynamics": projected("a", "loud", 3)["trait_dynamics"]}
    add_run(tmp_path, "t3", "trait-projection", only, minute=9, parents=["r", "v"])
    return tmp_path


def test_the_newest_lens_that_has_the_sequence(root: Path) -> None:
    with Warehouse(root) as wh:
        ask = asker(wh)
        found = lens_matrix(ask, "r", "a", top=2)
        assert found is not None and (found.lens_run, found.layers) == ("new", [None, 2])
        rows = found.rows.to_pylist()
        assert [(row["layer"], row["pos"]) for row in rows] == [(layer, pos) for layer in (None, 2) for pos in range(3)]
        assert (
            rows[4] | {"top_token": "2-1", "top_prob": 0.5, "topk_tokens": ["2-1", "b"], "topk_probs": [0.5, 0.25]}
            == rows[4]
        )
        assert {row["entropy"] for row in rows} == {2.0}
        older = [lens_matrix(ask, run, example) for run, example in (("r", "b"), ("old", "a"))]
        assert [x and (x.lens_run, x.layers) for x in older] == [("old", [0]), ("old", [0, 1])]
        assert lens_matrix(ask, "other", "a") is None and lens_matrix(ask, "r", "a", 1) is None


def test_projections_are_those_of_the_views(root: Path) -> None:
    with Warehouse(root) as wh:
        ask = asker(wh)
        for example, n in (("a", 6), ("b", 0)):  # the newest projection on a trait speaks for the whole run
            found = trait_tokens(ask, "r", example)
            assert found is not None and len(found.tokens) == n
            for table, view in ((found.tokens, "newest_trait_projections"), (found.dynamics, "newest_trait_dynamics")):
                asked = f"SELECT {', '.join(table.column_names)} FROM {view} WHERE source_run_id = 'r' AND example_id = '{example}'"
                assert [tuple(row.values()) for row in table.to_pylist()] == wh.sql(
                    f"{asked} ORDER BY ALL NULLS FIRST"
                ).fetchall()
        found = trait_tokens(ask, "r", "a")
        assert found is not None and [row["mean_projection"] for row in found.dynamics.to_pylist()] == [5, 3]
        assert trait_tokens(ask, "other", "a") is None
