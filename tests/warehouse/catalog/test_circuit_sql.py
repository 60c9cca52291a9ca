"""Views and saved queries of circuits against numbers worked out in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_circuits as made

from warehouse import Warehouse


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("circuits")
    made.add_pairs(root)
    made.add_circuits(root)
    one, two = made.edge_scores(0), made.edge_scores(3)
    found_on = {"eap-ig 1/2": 1, "eap-ig 2/2": 3}
    made.add_circuits(root, "in-parts", {"eap-ig 1/2": one, "eap-ig 2/2": two}, examples=found_on, minute=1)
    made.add_circuits(root, "methods", {"eap-ig": one, "gim": two, "random": made.edge_scores(4)}, minute=2)
    made.add_evaluation(root)
    of_one_size = [r for r in made.value_rows() if r["size"] == 0.1]
    templates = {e: f"t{i // 4}" for i, e in enumerate(made.HELD_OUT)}
    cases: dict[str, list[dict[str, Any]]] = {
        "by-template": [r | {"unit": templates[r["example_id"]], "source_run_id": "gone"} for r in of_one_size],
        "found-on": [r | {"held_out": False} for r in of_one_size],
        "two": [r for r in of_one_size if r["example_id"] in made.HELD_OUT[:2]],
    }
    for column in ("value", "full_value", "none_value"):
        cases[f"infinite-{column}"] = [r | {column: float("-inf")} for r in of_one_size]
    for metric in ("logit_diff", "prob_diff", "kl", "logprob"):
        for apart in (0.005, 0.05, 0.2):
            near = {"metric": metric, "full_value": 1 + apart, "none_value": 1.0}
            cases[f"{metric}-{apart}"] = [r | near for r in of_one_size]
    for name, rows in cases.items():
        made.add_evaluation(root, name, rows)
    with Warehouse(root) as warehouse:
        yield warehouse


def curve(wh: Warehouse, **where: Any) -> pd.DataFrame:
    """The curve's rows in which columns have these values, smallest size first."""
    conditions = " AND ".join(f"{column} = ?" for column in where)
    return wh.connection.execute(
        f"SELECT * FROM circuit_curve WHERE {conditions} ORDER BY part, size", list(where.values())
    ).df()


def values(variant: str = "circuit", size: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """What each held-out pair keeps and what there is to keep."""
    rows = [r for r in made.value_rows() if (r["variant"], r["size"]) == (variant, size)]
    kept, whole = np.array([[r["value"] - r["none_value"], r["full_value"] - r["none_value"]] for r in rows]).T
    return kept, whole


def test_faithfulness_is_a_ratio_of_means_and_its_interval_that_of_drawing_pairs(wh: Warehouse) -> None:
    found = curve(wh, run_id="evaluation", part="all").set_index("size")
    assert list(found.index) == list(made.SIZES) and set(found.n) == {len(made.HELD_OUT)} == set(found.n_units)
    rng = np.random.default_rng(0)
    for size, row in found.iterrows():
        for variant in ("circuit", "complement", "random"):
            kept, whole = values(variant, size)
            name = "faithfulness" if variant == "circuit" else variant
            assert row[name] == pytest.approx(kept.sum() / whole.sum(), rel=1e-12)
            if variant == "circuit":
                drawn = rng.integers(len(kept), size=(4000, len(kept)))
                low, high = np.quantile(kept[drawn].sum(1) / whole[drawn].sum(1), (0.025, 0.975))
                assert [row.low, row.high] == pytest.approx([low, high], abs=0.25 * (high - low) + 1e-12)
        assert row.random_low <= row.random <= row.random_high
        assert row.accuracy == np.mean(
            [r["value"] > 0 for r in made.value_rows() if (r["variant"], r["size"]) == ("circuit", size)]
        )
    assert found.loc[1.0, ["faithfulness", "low", "high", "random"]].tolist() == pytest.approx([1] * 4)
    assert found.loc[1.0, "complement"] == pytest.approx(0)


def test_templates_and_corruptions_have_rows_of_their_own(wh: Warehouse) -> None:
    found = curve(wh, run_id="evaluation", size=0.1).set_index("part")
    assert list(found.index) == ["all", "corruption: c0", "corruption: c1", "template: A", "template: B"]
    kept, whole = values()
    of = np.array([made.PAIRS.index(e) for e in made.HELD_OUT])
    masks = {"template: A": of % 2 == 0, "template: B": of % 2 == 1, "corruption: c1": of % 3 == 2}
    for part, mask in masks.items():
        assert found.faithfulness[part] == pytest.approx(kept[mask].sum() / whole[mask].sum(), rel=1e-12)
        assert found.n[part] == mask.sum() == found.n_units[part]
    assert set(found.task) == {"made"}


def test_areas_are_those_of_trapezoids(wh: Warehouse) -> None:
    row = wh.sql("SELECT * FROM circuit_scores WHERE run_id = 'evaluation' AND part = 'all'").df().iloc[0]
    size, f, r, c = (
        curve(wh, run_id="evaluation", part="all")[["size", "faithfulness", "random", "complement"]].to_numpy().T
    )
    log = np.log(size)
    assert row[["cpr", "cmd", "log_area", "random_cpr", "random_cmd", "complement_cpr"]].tolist() == pytest.approx([
        np.trapezoid(f, size), np.trapezoid(abs(1 - f), size), np.trapezoid(f, log) / (log[-1] - log[0]),
        np.trapezoid(r, size), np.trapezoid(abs(1 - r), size), np.trapezoid(c, size),
    ], rel=1e-9)  # fmt: skip
    assert row[["n", "n_sizes", "smallest", "largest"]].tolist() == [len(made.HELD_OUT), 4, 0.01, 1]


def test_pairs_of_a_template_are_drawn_together(wh: Warehouse) -> None:
    row = curve(wh, run_id="by-template", size=0.1).iloc[0]
    assert row.n_units == 5 and row.part == "all" and pd.isna(row.task)  # its task's run is not there
    kept, whole = (x.reshape(5, 4).sum(1) for x in values())
    drawn = np.random.default_rng(0).poisson(1, size=(20_000, 5))
    drawn = drawn[drawn.sum(1) > 0]
    low, high = np.quantile(drawn @ kept / (drawn @ whole), (0.025, 0.975))
    assert [row.low, row.high] == pytest.approx([low, high], abs=0.3 * (high - low))


@pytest.mark.parametrize("apart", [0.005, 0.05, 0.2])
@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "kl", "logprob"])
def test_where_the_model_hardly_differs_from_nothing_there_is_no_faithfulness(
    wh: Warehouse, metric: str, apart: float
) -> None:
    row = curve(wh, run_id=f"{metric}-{apart}").iloc[0]
    told = apart >= (0.1 if metric in ("logit_diff", "logprob") else 0.01)
    assert pd.notna(row.faithfulness) == told == pd.notna(row.low) == pd.notna(row.random) == pd.notna(row.random_low)
    assert pd.isna(row.accuracy) == (metric in ("kl", "logprob"))


@pytest.mark.parametrize("column", ["value", "full_value", "none_value"])
def test_infinite_values_have_no_faithfulness_and_no_nan(wh: Warehouse, column: str) -> None:
    row = curve(wh, run_id=f"infinite-{column}").iloc[0]
    assert pd.isna(row[["faithfulness", "low", "high", "random", "complement"]]).all()
    areas = (
        f"SELECT cpr, cmd, log_area, random_cpr, complement_cpr FROM circuit_scores WHERE run_id = 'infinite-{column}'"
    )
    assert set(wh.sql(areas).fetchall()) == {(None,) * 5}


def test_pairs_that_the_circuit_was_found_on_do_not_count(wh: Warehouse) -> None:
    assert curve(wh, run_id="found-on").empty


def test_two_pairs_and_one_size_have_a_ratio_and_no_interval_or_area(wh: Warehouse) -> None:
    row = curve(wh, run_id="two").iloc[0]
    assert pd.notna(row.faithfulness) and pd.isna(row[["low", "high"]]).all()
    areas = wh.sql(
        "SELECT cpr, cmd, log_area, random_cpr, n_sizes FROM circuit_scores WHERE run_id = 'two' AND part = 'all'"
    ).fetchall()
    assert areas == [(None, None, None, None, 1)]


def test_parts_have_a_mean_by_their_pairs(wh: Warehouse) -> None:
    mean = (made.edge_scores(0) + 3 * made.edge_scores(3)) / 4
    edges = wh.sql("SELECT * FROM circuit_edge_means WHERE run_id = 'in-parts' ORDER BY rank").df()
    nodes = wh.sql("SELECT * FROM circuit_node_means WHERE run_id = 'in-parts' ORDER BY rank").df()
    assert set(edges.method) == {"eap-ig"} and set(edges.n_examples) == {4} and set(edges.n_parts) == {2}
    assert edges.score.to_numpy() == pytest.approx(mean[np.argsort(-abs(mean))])
    assert edges["rank"].tolist() == list(range(1, made.GRAPH.n_edges + 1))
    of_nodes = np.bincount(made.GRAPH.edge_nodes, weights=mean)
    assert nodes.score.to_numpy() == pytest.approx(of_nodes[np.argsort(-abs(of_nodes))])


def test_an_ensemble_goes_by_the_mean_of_ranks_and_leaves_random_ones_out(wh: Warehouse) -> None:
    one, two = made.edge_scores(0), made.edge_scores(3)
    ranks, means = (made.ranks(one) + made.ranks(two)) / 2, (one + two) / 2
    found = wh.sql("SELECT * FROM circuit_edge_ensembles WHERE run_id = 'methods' ORDER BY rank").df()
    assert found.mean_rank.tolist() == sorted(ranks)
    assert found.score.to_numpy() == pytest.approx(means[np.lexsort((-abs(means), ranks))])
    assert set(found.n_methods) == {2}
    counts = "SELECT n_methods, count(*) FROM circuit_node_ensembles WHERE run_id = 'methods' GROUP BY ALL"
    assert wh.sql(counts).fetchall() == [(2, len(made.GRAPH.nodes))]
