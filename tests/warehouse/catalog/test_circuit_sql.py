"""Views and saved queries of circuits against numbers worked out in numpy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_causes as causes
import synthetic_circuits as made

from capture.edges.edge_graph import Node
from warehouse import Warehouse

NEAR = [("logit_diff", 0.2, True), ("logit_diff", 0.05, False), ("prob_diff", 0.05, True), ("kl", 0.005, False)]
"""A metric, how far the model as it is lies from all edges ablated, and whether that is enough to divide by."""


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("circuits")
    made.add_pairs(root)
    made.add_circuits(root)
    one, two = made.edge_scores(0), made.edge_scores(3)
    found_on = {"eap-ig 1/2": 1, "eap-ig 2/2": 3}
    made.add_circuits(root, "in-parts", {"eap-ig 1/2": one, "eap-ig 2/2": two}, examples=found_on, minute=1)
    made.add_circuits(root, "methods", {"eap-ig": one, "gim": two, "random": made.edge_scores(4)}, minute=2)
    made.add_circuits(root, "exact", {"eap-ig": one, "exact": two}, minute=3)
    causes.add_task(root)
    causes.add_ablation(root, "zero", "zero", causes.ZERO)
    made.add_circuits(root, "of-task", {"eap-ig": one, "random": two}, minute=4, source="task")
    made.add_evaluation(root)
    of_one_size = [r for r in made.value_rows() if r["size"] == 0.1]
    templates = {e: f"t{i // 4}" for i, e in enumerate(made.HELD_OUT)}
    cases: dict[str, list[dict[str, Any]]] = {
        "by-template": [r | {"unit": templates[r["example_id"]], "source_run_id": "gone"} for r in of_one_size],
        "found-on": [r | {"held_out": False} for r in of_one_size],
        "two": [r for r in of_one_size if r["example_id"] in made.HELD_OUT[:2]],
    }
    kept = {"too-much": 1.5, "no-better": 0.9, "alone": 0.95}
    for name, share in kept.items():
        near = [r | {"value": r["none_value"] + share * (r["full_value"] - r["none_value"])} for r in of_one_size]
        variants = ("circuit", "random") if name == "no-better" else ("circuit",)
        cases[name] = [r for r in near if r["variant"] in variants]
    for column in ("value", "full_value"):
        cases[f"infinite-{column}"] = [r | {column: float("-inf")} for r in of_one_size]
    for metric, apart, _ in NEAR:
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


@pytest.mark.parametrize(("metric", "apart", "told"), NEAR)
def test_where_the_model_hardly_differs_from_nothing_there_is_no_faithfulness(
    wh: Warehouse, metric: str, apart: float, told: bool
) -> None:
    row = curve(wh, run_id=f"{metric}-{apart}").iloc[0]
    assert pd.notna(row.faithfulness) == told == pd.notna(row.low) == pd.notna(row.random) == pd.notna(row.random_low)
    assert pd.isna(row.accuracy) == (metric in ("kl", "logprob"))


def test_infinite_values_have_no_faithfulness_and_no_nan(wh: Warehouse) -> None:
    for column in ("value", "full_value"):
        row = curve(wh, run_id=f"infinite-{column}").iloc[0]
        assert pd.isna(row[["faithfulness", "low", "high", "random", "complement"]]).all()
    areas = "SELECT cpr, cmd, log_area, random_cpr, complement_cpr FROM circuit_scores WHERE run_id = 'infinite-value'"
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


def holds(wh: Warehouse, **settings: str) -> list[tuple[Any, ...]]:
    """What the saved query says of each row: part, size, whether it holds, and why."""
    return wh.ask("circuit_holds", **settings).select("part, size, holds, reasons").fetchall()


def test_a_circuit_holds_or_not_with_its_reasons(wh: Warehouse) -> None:
    by_itself = holds(wh, run="evaluation")
    row = curve(wh, run_id="evaluation", part="all", size=0.5).iloc[0]
    told = f"faithfulness {row.faithfulness:.2f} ({row.low:.2f} to {row.high:.2f}) is below 0.8"
    others = f"random circuits of this size reach {row.random_high:.2f}; the complement keeps {row.complement:.2f}"
    assert by_itself[0] == ("all", 0.5, False, f"{told}; {others}")  # no size below the whole model reaches .8
    assert [part for part, *_ in by_itself] == ["all", "corruption: c0", "corruption: c1", "template: A", "template: B"]
    reached = holds(wh, run="evaluation", least="0.6")
    assert reached[0] == (
        "all",
        0.5,
        True,
        f"{told.replace('is below 0.8', 'reaches 0.6, the lower end of its interval does not')}; {others}",
    )
    low, high = curve(wh, run_id="evaluation", part="all", size=0.1)[["low", "high"]].iloc[0]
    assert holds(wh, run="evaluation", size="0.1", least="0.2")[0][2:] == (
        False,
        f"faithfulness 0.30 ({low:.2f} to {high:.2f}) reaches 0.2; random circuits of this size reach 0.22; the complement keeps 0.64, so "
        "the model does without it",
    )
    assert holds(wh, run="evaluation", size="1")[0][2:] == (
        None, "that size is the whole model; faithfulness 1.00 (1.00 to 1.00) reaches 0.8; the complement keeps 0.00"
    )  # fmt: skip
    assert holds(wh, run="evaluation", size="0.3")[0][2:] == (
        None,
        "size 0.3 was not evaluated, only 0.01, 0.1, 0.5, 1",
    )


@pytest.mark.parametrize(
    ("run", "held", "reason"),
    [
        ("two", None, r"only 2 pairs; faithfulness 0\.\d\d is below 0\.8"),
        (
            "logit_diff-0.05",
            None,
            r"the model as it is, 1\.05, hardly differs from that with every edge ablated, 1\.00",
        ),
        ("infinite-full_value", None, "some values are infinite"),
        ("too-much", False, r"faithfulness 1\.50 .* is above 1\.2: more than the model"),
        ("no-better", False, r"random circuits of this size reach 0\.90, no less than it"),
        ("alone", True, r"faithfulness 0\.95 \(.*\) reaches 0\.8; no random circuits beside it$"),
    ],
)
def test_why_it_does_not_hold_or_nothing_can_be_said(wh: Warehouse, run: str, held: bool | None, reason: str) -> None:
    (*_, found, reasons), *_ = holds(wh, run=run)
    assert found is held
    assert re.search(reason, reasons), reasons


def test_circuits_overlap_by_the_edges_and_heads_that_both_have(wh: Warehouse) -> None:
    found = (
        wh.ask("circuit_overlap", run="circuit", other_run="methods", size="0.2")
        .df()
        .set_index(["other_method", "what"])
    )
    n, total, graph = 7, made.GRAPH.n_edges, made.GRAPH
    heads = [i for i, node in enumerate(graph.nodes) if node.kind == "head"]
    for method, scores in (("eap-ig", made.edge_scores(0)), ("gim", made.edge_scores(3))):
        a, b = (made.ranks(x) <= n for x in (made.edge_scores(0), scores))
        row = found.loc[method, "edges"]
        assert row.iou == pytest.approx((a & b).sum() / (a | b).sum(), abs=6e-4)
        assert row[["total", "n", "other_n", "shared"]].tolist() == [total, n, n, (a & b).sum()]
        assert row.chance == pytest.approx(n / (2 * total - n), abs=6e-4)
        first, second = ({h for h in heads if h in graph.edge_nodes[x]} for x in (a, b))
        row = found.loc[method, "heads"]
        assert row[["n", "other_n", "shared"]].tolist() == [len(first), len(second), len(first & second)]
        assert row.iou == pytest.approx(len(first & second) / len(first | second), abs=6e-4)


def test_methods_are_compared_by_ranks_scores_and_first_edges(wh: Warehouse) -> None:
    found = wh.ask("circuit_methods", run="methods").df().set_index(["what", "method", "other_method"])
    one, two = made.edge_scores(0), made.edge_scores(3)
    row = found.loc["edges", "eap-ig", "gim"]
    assert row.pearson == pytest.approx(np.corrcoef(one, two)[0, 1], abs=6e-4)
    assert row.spearman == pytest.approx(np.corrcoef(made.ranks(one), made.ranks(two))[0, 1], abs=6e-4)
    assert row.iou == (np.argmax(abs(one)) == np.argmax(abs(two)))
    assert len(found) == 6


def test_scores_are_held_against_what_was_patched(wh: Warehouse) -> None:
    found = wh.ask("score_against_exact", run="circuit").df().set_index(["method", "what"])
    row = found.loc["eap-ig", "edge"]
    assert row.tolist() == [made.GRAPH.n_edges // 2, 1, 1, 1]  # effects are twice the scores
    exact = wh.ask("score_against_exact", run="exact").df().set_index("what")
    one, two = (np.bincount(made.GRAPH.edge_nodes, weights=made.edge_scores(seed)) for seed in (0, 3))
    heads = [i for i, node in enumerate(made.GRAPH.nodes) if node.kind == "head"]
    assert exact.loc["head", "n"] == len(heads) and set(exact.index) == {"edge", "embed", "head", "mlp"}
    effects = np.where(made.ranks(one) <= 3, 2 * one, two)  # what was patched beside its score counts first
    assert exact.loc["head", "pearson"] == pytest.approx(np.corrcoef(one[heads], effects[heads])[0, 1], abs=6e-4)


def test_heads_that_attend_matter_and_are_in_the_circuit_stand_side_by_side(wh: Warehouse) -> None:
    found = wh.ask("heads_three_ways", run="of-task", size="0.2").df().set_index(["layer", "head"])
    scores = made.edge_scores(0)
    by_node = dict(zip(made.GRAPH.nodes, np.bincount(made.GRAPH.edge_nodes, weights=scores), strict=True))
    expected = [by_node[Node("head", *head)] for head in causes.HEADS]
    found = found.loc[causes.HEADS]
    assert found.score.tolist() == pytest.approx(expected, abs=6e-5)
    effects = np.mean(list(causes.ZERO.values()), axis=0)[:4]
    assert found.effect.tolist() == pytest.approx(effects) and found.induction_mass.tolist() == causes.INDUCTION
    first = made.GRAPH.edge_nodes[made.ranks(scores) <= 7]
    assert found.edges.tolist() == [
        (first == made.GRAPH.nodes.index(Node("head", *head))).sum() for head in causes.HEADS
    ]
    ranks = [pd.Series(-np.abs(x)).rank() for x in (expected, effects, causes.INDUCTION)]
    correlations = [np.corrcoef(ranks[i], ranks[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.filter(like="correlation").iloc[0].tolist() == pytest.approx(correlations, abs=6e-4)


def test_the_strongest_edges_are_named_as_they_are_written(wh: Warehouse) -> None:
    found = wh.ask("strongest_circuit_edges", run="circuit").df()
    scores, order = made.edge_scores(0), np.argsort(-abs(made.edge_scores(0)))[:30]
    nodes, sinks = made.GRAPH.nodes, made.GRAPH.sinks
    names = [(nodes[made.GRAPH.edge_nodes[i]].name, sinks[made.GRAPH.edge_sinks[i]].name) for i in order]
    assert list(zip(found.source, found.sink, strict=True)) == names and set(found.circuit) == {"eap-ig"}
    assert found.score.to_numpy() == pytest.approx(scores[order], abs=6e-5)
    assert set(wh.ask("strongest_circuit_edges", run="circuit", circuit="random").df().circuit) == {"random"}


def test_the_curve_is_asked_for_by_the_circuit_or_by_its_evaluation(wh: Warehouse) -> None:
    found = wh.ask("circuit_curves", run="evaluation").df()
    assert found["size"].tolist() == list(made.SIZES) and found.faithfulness.iloc[-1] == 1
    assert len(wh.ask("circuit_curves", run="circuit").df()) > len(found)
