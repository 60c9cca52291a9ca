"""Circuits that are tried: what must hold of the metric with all edges, with none, with dangling ones, and of a run in parts or stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import capture
from capture.circuits import evaluate_run
from capture.circuits.evaluate_run import choose_tasks, make_masks
from capture.circuits.found_circuit import FoundCircuit, find_circuit
from capture.circuits.options import EvaluateOptions
from capture.circuits.pairs import PairReader
from capture.edges.edge_model import EdgeModel
from capture.edges.masked_pass import masked_states
from capture.effects.task_pairs import read_pairs
from capture.model import loading
from warehouse import TraceStore, Warehouse
from warehouse.analysis.circuit_selection import prune_edges, select_edges
from warehouse.errors import NotFoundError, RunExistsError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.storage.paths import run_dir, table_file
from warehouse.validation.validate import validate

KEY = ["level", "selection", "ablation", "metric", "variant", "draw", "size", "example_id"]
ATOL = 5e-5
"""An edge-masked pass sums what nodes write in another order than the model does."""


@pytest.fixture(scope="module")
def evaluated(root: Path, circuits: TraceStore, loaded: loading.Loaded) -> TraceStore:
    return capture.evaluate_circuit(
        "circuits/eap-ig", sizes=[0.2, 1], selection="abs,greedy", ablation="resample,mean,zero", random=2, model=loaded,
        root=root, run="tried",
    )  # fmt: skip


def rows(store: TraceStore, where: str = "TRUE") -> pd.DataFrame:
    return store.query(f"SELECT * FROM circuit_values WHERE {where}").df()


def test_all_edges_are_the_model_and_none_the_ablated_one(evaluated: TraceStore, root: Path) -> None:
    assert [(c.name, c.detail) for c in validate(evaluated.path) if c.passed is False] == []
    found = rows(evaluated)
    assert len(found) == 2 * 2 * 3 * (1 + 1 + 2) * 5
    scores = (
        TraceStore(run_dir(root, "task"))
        .query("SELECT example_id, clean, corrupted FROM task_scores WHERE is_default")
        .df()
    )
    found = found.merge(scores, on="example_id")
    np.testing.assert_allclose(found.full_value, found.clean, atol=2e-5)
    resample = found[found.ablation == "resample"]
    np.testing.assert_allclose(resample.none_value, resample.corrupted, atol=2e-5)
    whole = found[(found["size"] == 1) & (found.variant != "complement")]
    assert (whole.value - whole.full_value).abs().max() < ATOL
    nothing = found[(found["size"] == 1) & (found.variant == "complement")]
    assert (nothing.value == nothing.none_value).all() and (nothing.n_edges == 0).all()
    part = found[(found["size"] == 0.2) & (found.variant == "circuit")]
    assert ((part.value - part.full_value).abs() > 1e-3).any() and ((part.value - part.none_value).abs() > 1e-3).any()
    by_kind = found.groupby("ablation").none_value.mean()
    assert len(set(by_kind.round(3))) == 3


def test_faithfulness_of_the_whole_is_one(evaluated: TraceStore, root: Path) -> None:
    with Warehouse(root) as wh:
        curve = wh.sql("SELECT * FROM circuit_curve WHERE run_id = 'tried' AND part = 'all'").df()
        areas = wh.sql("SELECT * FROM circuit_scores WHERE run_id = 'tried' AND part = 'all'").df()
    assert len(curve) == 12 and len(areas) == 6
    whole = curve[curve["size"] == 1]
    np.testing.assert_allclose(whole.faithfulness.dropna(), 1, atol=1e-4)
    np.testing.assert_allclose(whole.random.dropna(), 1, atol=1e-4)
    np.testing.assert_allclose(whole.complement.dropna(), 0, atol=1e-4)
    assert whole.faithfulness.notna().any()


def test_random_circuits_have_as_many_edges_and_complements_the_others(
    evaluated: TraceStore, circuits: TraceStore
) -> None:
    (total,) = {n for (n,) in circuits.query("SELECT n_edges FROM circuits").fetchall()}
    counts = rows(evaluated).groupby(["selection", "size", "variant"]).n_edges.agg(["min", "max"])
    assert (counts["min"] == counts["max"]).all()
    n = counts["min"].unstack()
    assert (n.circuit == n.random).all() and (n.circuit + n.complement == total).all()
    asked = rows(evaluated).groupby("size").n_asked.unique()
    assert [list(x) for x in asked] == [[round(s * total)] for s in (0.2, 1)]
    (draws,) = {tuple(sorted(d)) for d in rows(evaluated, "variant = 'random'").groupby("size").draw.unique()}
    assert draws == (0, 1)


def choose(root: Path, name: str, **options: Any) -> tuple[FoundCircuit, EvaluateOptions]:
    return find_circuit(Warehouse(root), name), EvaluateOptions(name, **options)


def test_edges_that_lead_nowhere_are_dropped_and_change_no_value(
    root: Path, circuits: TraceStore, loaded: loading.Loaded
) -> None:
    model = EdgeModel(loaded.anatomy)
    graph = model.graph
    found, options = choose(root, "circuits/eap-ig", sizes=(0.01, 0.03, 0.1), random=0, complement=False)
    scores = found.scores(graph, "edge").values
    reader = PairReader(model, "logit_diff", None, backward=False)
    read = reader.read(read_pairs(TraceStore(run_dir(root, "task"))))
    dropped = 0
    for mask in make_masks(found, graph, options):
        edges = (graph.edge_nodes, graph.edge_sinks, graph.feeds)
        taken = select_edges(scores, mask.n_asked, "abs", *edges)
        np.testing.assert_array_equal(mask.keep, prune_edges(taken, *edges))
        dropped += int(taken.sum() - mask.keep.sum())
        values = [reader.value(read, masked_states(model, read.states, keep)) for keep in (taken, mask.keep)]
        np.testing.assert_allclose(*values, atol=ATOL)
    assert dropped > 0


@pytest.mark.slow
def test_nodes_are_kept_with_all_edges_that_leave_them(
    root: Path, circuits: TraceStore, loaded: loading.Loaded
) -> None:
    """All nodes but the last MLP is that MLP patched."""
    store = capture.evaluate_circuit(
        "circuits/exact", sizes=".2,1", selection="abs,signed", random=1, model=loaded, root=root
    )
    assert store.meta.run_id == "circuits-exact-eval"
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    found = rows(store)
    assert set(found.level) == {"node"} and set(found[found["size"] == 1].n_asked) == {16}
    whole = found[(found["size"] == 1) & (found.variant == "circuit")]
    np.testing.assert_allclose(whole.value, whole.full_value, atol=ATOL)
    model = EdgeModel(loaded.anatomy)
    reader = PairReader(model, "logit_diff", None, backward=False)
    read = reader.read(read_pairs(TraceStore(run_dir(root, "task"))))
    nodes = np.ones(16, dtype=bool)
    nodes[-1] = False
    kept = reader.value(read, masked_states(model, read.states, model.graph.edges_of_nodes(nodes)))
    effects = {
        e: v
        for e, v in capture.ablate("task", what="M2", model=loaded, root=root, run="m2")
        .query("SELECT example_id, value FROM effects")
        .fetchall()
    }
    np.testing.assert_allclose(kept, [effects[p.example_id] for p in read.pairs], atol=ATOL)


@pytest.mark.slow
def test_a_circuit_is_tried_on_pairs_that_it_was_not_found_on(
    root: Path, circuits: TraceStore, evaluated: TraceStore, loaded: loading.Loaded, shuffled: str
) -> None:
    known = {e for (e,) in circuits.query("SELECT DISTINCT example_id FROM circuit_node_scores").fetchall()}
    everyone = {p.example_id for p in read_pairs(TraceStore(run_dir(root, "task")))}
    assert set(rows(evaluated).example_id) == everyone - known and len(known) == 5
    both = capture.evaluate_circuit(
        "circuits/ensemble",
        ["task", "shuffled"],
        sizes="1",
        level="node",
        random=0,
        model=loaded,
        root=root,
        run="both",
    )
    assert both.meta.parents == ["circuits", "task", "shuffled"]
    by_task = rows(both).groupby("source_run_id").example_id.agg(set)
    assert dict(by_task) == {"task": everyone - known, "shuffled": everyone - known}  # the same pairs, by their names
    assert set(rows(both).held_out) == {True}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_parts_make_the_whole(
    root: Path, circuits: TraceStore, loaded: loading.Loaded, shuffled: str
) -> None:
    name = "circuits/eap-ig"
    options = EvaluateOptions(name, sizes=(0.1, 1), ablations=("resample", "mean"), random=1, batch_tokens=48)
    found = find_circuit(Warehouse(root), name)
    tasks = choose_tasks(found, [run_dir(root, "task"), run_dir(root, "shuffled")], options)
    evaluate_run.run(loaded, found, tasks, options, root=root, run_id="tried-whole")
    for stop in (9, 17, 40):
        seen: list[int] = []

        def interrupt(progress: Any, seen: list[int] = seen, stop: int = stop) -> None:
            seen.append(progress.resumed_tokens)
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate_run.run(loaded, found, tasks, options, root=root, run_id="tried-stopped", report=interrupt)
    evaluate_run.run(loaded, found, tasks, options, root=root, run_id="tried-stopped")
    one, other = (run_dir(root, run) / table_file("circuit_values") for run in ("tried-whole", "tried-stopped"))
    assert one.read_bytes() == other.read_bytes()
    for i in (1, 2):
        capture.evaluate_circuit(
            name, ["task", "shuffled"], sizes=".1,1", ablation="resample,mean", random=1, batch_tokens=48, model=loaded, root=root,
            run="tried-parted", part=f"{i}/2",
        )  # fmt: skip
    names = [p.name.removeprefix("run_id=") for p in root.glob("run_id=tried-parted*")]
    merge.merge(root, merge_plan.plan_merge(root, names, "tried-parted"))
    a, b = (rows(TraceStore(run_dir(root, run))).drop(columns="run_id") for run in ("tried-whole", "tried-parted"))
    pd.testing.assert_frame_equal(a, b, atol=ATOL)


@pytest.mark.slow
def test_a_circuit_in_a_file_is_the_same_circuit(
    root: Path, circuits: TraceStore, evaluated: TraceStore, loaded: loading.Loaded, tmp_path: Path
) -> None:
    file = capture.export_circuit("circuits/eap-ig", tmp_path / "circuit.json", root=root)
    capture.import_circuit(file, run="imported", model=loaded, root=root)
    with pytest.raises(UsageError, match="has no task of its own: name one"):
        capture.evaluate_circuit("imported", root=root)
    again = capture.evaluate_circuit(
        "imported", "task", sizes=".2", selection="abs,greedy", random=0, model=loaded, root=root
    )
    assert again.meta.run_id == "imported-eval"
    keys = ["selection", "variant", "size", "example_id"]
    both = rows(again).merge(
        rows(evaluated, "ablation = 'resample' AND variant <> 'random'"), on=keys, suffixes=("", "_own")
    )
    assert len(both) == 2 * 2 * 5
    np.testing.assert_array_equal(both.n_edges, both.n_edges_own)
    np.testing.assert_allclose(both.value, both.value_own, atol=ATOL)


@pytest.mark.parametrize(
    ("circuit_name", "tasks", "options", "error", "message"),
    [
        ("nothing", (), {}, NotFoundError, "No run 'nothing'"),
        ("task", (), {}, UsageError, "is of kind task, and has no circuits"),
        ("circuits", (), {}, UsageError, "has several circuits: name circuits/eap or circuits/eap-ig or"),
        ("circuits/acdc", (), {}, NotFoundError, "No circuit 'acdc'"),
        ("circuits/exact", (), {"level": "edge"}, UsageError, "has scores of nodes alone: level node"),
        ("circuits/eap-ig", "circuits", {}, UsageError, "is of kind circuit, and has no pairs of prompts"),
        ("circuits/eap-ig", ("task", "task"), {}, UsageError, "Task 'task' is named twice"),
        ("circuits/eap-ig", (), {"sizes": ""}, UsageError, "sizes nothing: give shares"),
        ("circuits/eap-ig", (), {"sizes": "0,1"}, UsageError, "sizes 0,1: give shares of all edges, above 0 and up to 1"),
        ("circuits/eap-ig", (), {"sizes": "10"}, UsageError, "sizes 10: give shares"),
        ("circuits/eap-ig", (), {"sizes": "few"}, UsageError, "sizes few: give shares"),
        ("circuits/eap-ig", (), {"selection": "best"}, NotFoundError, "No selection 'best'"),
        ("circuits/eap-ig", (), {"ablation": "noise"}, NotFoundError, "No kind of ablation 'noise'"),
        ("circuits/eap-ig", (), {"selection": "greedy", "level": "node"}, UsageError, "greedy follows edges"),
        ("circuits/eap-ig", (), {"random": -1}, UsageError, "random -1: at least 0"),
        ("circuits/eap-ig", (), {"part": "9/9"}, UsageError, "Part 9/9 has none of the 5 pairs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    root: Path,
    circuits: TraceStore,
    monkeypatch: pytest.MonkeyPatch,
    circuit_name: str,
    tasks: Any,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=message) as caught:
        capture.evaluate_circuit(circuit_name, tasks, root=root, run="refused", **options)
    assert "\n" not in str(caught.value)
    assert not run_dir(root, "refused").exists()


@pytest.mark.slow
def test_a_task_has_pairs_left_and_is_of_the_circuits_model(
    root: Path,
    circuits: TraceStore,
    loaded: loading.Loaded,
    load_tiny: Callable[..., loading.Loaded],
    pairs_file: Callable[..., Path],
) -> None:
    capture.discover_circuit("task", method="random", level="node", share=1, model=loaded, root=root, run="full")
    with pytest.raises(UsageError, match="was found on all 10 pairs of task 'task'"):
        capture.evaluate_circuit("full", root=root)
    capture.prepare_task(load_tiny("gpt2"), pairs_file(2), run="other", root=root, keep="none")
    with pytest.raises(UsageError, match="and task 'other' of .*, with other weights"):
        capture.evaluate_circuit("circuits/eap-ig", "other", root=root)


def test_another_model_is_refused(
    root: Path, circuits: TraceStore, evaluated: TraceStore, load_tiny: Callable[..., loading.Loaded]
) -> None:
    with pytest.raises(UsageError, match="with other weights"):
        capture.evaluate_circuit("circuits/eap-ig", model=load_tiny(), root=root, run="x")
    with pytest.raises(RunExistsError):
        capture.evaluate_circuit("circuits/eap-ig", root=root, run="tried")
    found, _ = choose(root, "circuits/eap-ig")
    with pytest.raises(UsageError, match="is of another model: its n_kv_heads is 2, here it is 4"):
        found.scores(EdgeModel(load_tiny("gpt2").anatomy).graph, "edge")
