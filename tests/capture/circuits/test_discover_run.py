"""Circuits that are found: what must hold of their rows whatever the model, and of a run that was stopped, divided or put in another order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zoo

import capture
from capture.circuits import discover_run
from capture.circuits.options import METHODS, DiscoverOptions
from capture.circuits.pairs import PairReader, split_pairs
from capture.edges.edge_graph import EdgeGraph
from capture.edges.edge_model import EdgeModel
from capture.edges.masked_pass import masked_states
from capture.effects.task_pairs import read_pairs
from capture.model import loading
from warehouse import TraceStore, Warehouse
from warehouse.errors import NotFoundError, RunExistsError, TracesError, UsageError
from warehouse.maintenance import merge, merge_plan
from warehouse.storage.paths import run_dir, table_file
from warehouse.storage.run_writer import RunWriter
from warehouse.validation.validate import validate

TABLES = ("circuits", "circuit_nodes", "circuit_edges", "circuit_node_scores")
EDGE = "source_kind, source_layer, source_head, sink_kind, sink_layer, sink_head, port"


def rows(store: TraceStore, table: str, where: str = "TRUE") -> pd.DataFrame:
    return store.query(f"SELECT * EXCLUDE run_id FROM {table} WHERE {where} ORDER BY ALL").df()


def in_order(store: TraceStore, graph: EdgeGraph, circuit: str, column: str = "score") -> np.ndarray:
    """Values of edges in the graph's order."""
    sink_of = {sink: i for i, sink in enumerate(graph.sinks)}
    values = np.full(graph.n_edges, np.nan)
    sql = f"SELECT {EDGE}, {column} FROM circuit_edges WHERE circuit = '{circuit}'"
    for *key, value in store.query(sql).fetchall():
        sink = next(i for s, i in sink_of.items() if (s.kind, s.layer, s.head, s.port) == tuple(key[3:]))
        node = next(i for i, n in enumerate(graph.nodes) if (n.kind, n.layer, n.head) == tuple(key[:3]))
        values[graph.starts[sink] + node] = np.nan if value is None else value
    return values


def test_every_method_scores_every_node_and_edge(circuits: TraceStore, loaded: loading.Loaded) -> None:
    graph = EdgeModel(loaded.anatomy).graph
    assert [(c.name, c.detail) for c in validate(circuits.path) if c.passed is False] == []
    facts = rows(circuits, "circuits").set_index("circuit")
    assert set(facts.index) == set(METHODS)
    assert set(facts.n_edges) == {graph.n_edges} and set(facts.n_nodes) == {len(graph.nodes)}
    assert dict(facts.level) == {m: "node" if m == "exact" else "edge" for m in METHODS}
    assert set(facts.n_examples) == {5} and set(facts.unit) <= {"pair", "template"}
    counts = rows(circuits, "circuit_edges").groupby("circuit").score.agg(["count", lambda x: (x != 0).mean()])
    assert dict(counts["count"]) == {m: graph.n_edges for m in METHODS if m != "exact"}
    assert (counts.iloc[:, 1] > 0.9).all()
    nodes = rows(circuits, "circuit_nodes")
    assert dict(nodes.groupby("circuit").score.count()) == dict.fromkeys(METHODS, len(graph.nodes))
    assert facts.completeness_error.notna().sum() == 1 and facts.completeness_error["eap-ig"] < 1
    assert (nodes.low <= nodes.high).all() and nodes.selection_frequency.between(0, 1).all()
    per_pair = circuits.query(
        "SELECT circuit, kind, layer, head, avg(score) AS mean FROM circuit_node_scores GROUP BY ALL"
    ).df()
    both = nodes.merge(per_pair, on=["circuit", "kind", "layer", "head"])
    assert len(both) == len(nodes)
    np.testing.assert_allclose(both["mean"], both.score, atol=1e-9)


def test_the_metric_is_the_tasks(circuits: TraceStore, root: Path) -> None:
    task = TraceStore(run_dir(root, "task"))
    scores = (
        task.query("SELECT example_id, clean, corrupted FROM task_scores WHERE is_default").df().set_index("example_id")
    )
    found = circuits.query("SELECT DISTINCT example_id FROM circuit_node_scores").df().example_id
    (clean, corrupted), *more = set(circuits.query("SELECT clean, corrupted FROM circuits").fetchall())
    assert not more and len(found) == 5 < len(scores)
    assert clean == pytest.approx(scores.clean[found].mean(), abs=2e-5)
    assert corrupted == pytest.approx(scores.corrupted[found].mean(), abs=2e-5)
    sums = circuits.query(
        "SELECT n.score, sum(e.score) FROM circuit_nodes AS n JOIN circuit_edges AS e ON e.circuit = n.circuit AND e.source_kind = n.kind "
        "AND e.source_layer IS NOT DISTINCT FROM n.layer AND e.source_head IS NOT DISTINCT FROM n.head GROUP BY n.circuit, n.kind, "
        "n.layer, n.head, n.score"
    ).fetchall()  # fmt: skip
    node, edges = np.array(sums).T
    np.testing.assert_allclose(node, edges, atol=1e-4 * np.abs(node).max())


def test_patched_nodes_are_those_of_ablate(circuits: TraceStore, root: Path, loaded: loading.Loaded) -> None:
    """The same code on batches of another size: 2e-5 of logits up to ten."""
    cut = capture.ablate("task", what="heads,mlps,resid.embed", model=loaded, root=root, run="cut")
    effects = cut.query(
        "SELECT CASE site WHEN 'heads' THEN 'head' WHEN 'mlp_out' THEN 'mlp' ELSE 'embed' END AS kind, layer, head, example_id, effect "
        "FROM effects JOIN interventions USING (intervention_id)"
    ).df()
    own = rows(circuits, "circuit_node_scores", "circuit = 'exact'")
    both = own.merge(effects, on=["kind", "layer", "head", "example_id"])
    assert len(both) == len(own) == 5 * (1 + 3 * 5)
    np.testing.assert_allclose(both.score, both.effect, atol=2e-5)
    assert both.effect.abs().max() > 0.1
    nodes = rows(circuits, "circuit_nodes").set_index(["circuit", "kind", "layer", "head"])
    exact = nodes.loc["exact"].score.sort_index()
    for method in METHODS:
        pd.testing.assert_series_equal(nodes.loc[method].exact_effect.sort_index(), exact, check_names=False)


def test_the_strongest_edges_and_random_ones_are_patched(
    circuits: TraceStore, root: Path, loaded: loading.Loaded
) -> None:
    model = EdgeModel(loaded.anatomy)
    effect = in_order(circuits, model.graph, "eap-ig", "exact_effect")
    rank = in_order(circuits, model.graph, "eap-ig", "rank")
    assert np.isfinite(effect).sum() == 6 and np.isfinite(effect[rank <= 3]).all()
    np.testing.assert_array_equal(effect, in_order(circuits, model.graph, "random", "exact_effect"))
    found = set(circuits.query("SELECT DISTINCT example_id FROM circuit_node_scores").df().example_id)
    reader = PairReader(model, "logit_diff", None, backward=False)
    read = reader.read([p for p in read_pairs(TraceStore(run_dir(root, "task"))) if p.example_id in found])
    whole = reader.value(read, read.states.clean_last)
    for edge in np.flatnonzero(np.isfinite(effect)):
        keep = np.ones(model.graph.n_edges, dtype=bool)
        keep[edge] = False
        cut = reader.value(read, masked_states(model, read.states, keep))
        assert effect[edge] == pytest.approx((cut - whole).mean(), abs=5e-5)
    assert np.nanmax(np.abs(effect)) > 0.1


@pytest.mark.slow
def test_all_edges_can_be_patched(root: Path, loaded: loading.Loaded, circuits: TraceStore) -> None:
    """What leaves the last layer's nodes goes to the logits alone: patching that edge is patching the node."""
    store = capture.discover_circuit(
        "task", method="exact", level="edge", share=0.1, resamples=1, model=loaded, root=root, run="exact-edges"
    )
    both = store.query(
        "SELECT n.score, e.score FROM circuit_nodes AS n JOIN circuit_edges AS e ON e.source_kind = n.kind AND e.source_layer = n.layer "
        "AND e.source_head IS NOT DISTINCT FROM n.head AND e.sink_kind = 'logits' WHERE n.layer = 2 AND n.kind = 'mlp'"
    ).fetchall()
    assert both == [(pytest.approx(both[0][1], abs=5e-5),) * 2]
    assert rows(store, "circuit_edges").score.notna().all()
    (facts,) = store.query("SELECT n_examples, n_resamples, unit, n_selected_edges FROM circuits").fetchall()
    assert facts == (1, None, None, None)  # of one pair there is no interval


def test_the_pairs_are_divided_by_their_names(root: Path) -> None:
    pairs = read_pairs(TraceStore(run_dir(root, "task")))
    found, held_out = split_pairs(pairs, 0.5, 0)
    assert len(found) == len(held_out) == 5
    assert {p.example_id for p in found + held_out} == {p.example_id for p in pairs}
    again, _ = split_pairs(pairs[::-1], 0.5, 0)
    assert again == found[::-1]
    assert [p.example_id for p in split_pairs(pairs, 0.5, 1)[0]] != [p.example_id for p in found]
    assert [len(x) for x in split_pairs(pairs, 1.0, 0)] == [10, 0]
    assert [len(x) for x in split_pairs(pairs[:1], 0.01, 0)] == [1, 0]


@pytest.mark.slow
def test_the_order_of_the_pairs_does_not_matter(root: Path, loaded: loading.Loaded, shuffled: str) -> None:
    one, other = (
        capture.discover_circuit(name, method="eap-ig,random", model=loaded, root=root, resamples=10)
        for name in ("task", shuffled)
    )
    for table in TABLES:
        a, b = (rows(store, table) for store in (one, other))
        if table == "circuits":
            a, b = (x.drop(columns=["source_run_id", "task"]) for x in (a, b))
        pd.testing.assert_frame_equal(a, b)


def interrupted(writer: RunWriter, describe: Any) -> None:
    """Publishing that is stopped before it begins; what is left to be written is waited for."""
    raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    root: Path, loaded: loading.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while pairs are scored, and while edges are patched; with what a kill leaves behind."""
    monkeypatch.setattr(discover_run, "_SHARD_ROWS", 1)
    options = DiscoverOptions(("eap-ig", "random"), verify=1, resamples=10, batch_tokens=48)
    folder = run_dir(root, "task")
    discover_run.run(loaded, folder, options, root=root, run_id="undisturbed")
    staging = root / ".staging" / "stopped"
    for stop in (3, 3, 5):
        seen: list[int] = []

        def interrupt(progress: Any, seen: list[int] = seen, stop: int = stop) -> None:
            seen.append(progress.resumed_tokens)
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            discover_run.run(loaded, folder, options, root=root, run_id="stopped", report=interrupt)
        (kept,) = (staging / "sums").iterdir()
        for name in {"0", "9"} - {
            kept.name
        }:  # what a kill leaves while sums are written, and before the old ones are deleted
            (staging / "sums" / name).write_bytes(b"cut short")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(discover_run, "publish", interrupted)
        discover_run.run(loaded, folder, options, root=root, run_id="stopped")
    resumed: list[int] = []
    discover_run.run(
        loaded, folder, options, root=root, run_id="stopped", report=lambda p: resumed.append(p.resumed_tokens)
    )
    assert resumed[-1] > 0
    for table in TABLES:
        one, other = (run_dir(root, run) / table_file(table) for run in ("undisturbed", "stopped"))
        assert one.read_bytes() == other.read_bytes()
    files = {
        p.relative_to(run_dir(root, "stopped")).parts[0] for p in run_dir(root, "stopped").rglob("*") if p.is_file()
    }
    assert not any("sums" in name for name in files)


@pytest.mark.slow
def test_a_killed_run_goes_on(
    root: Path, sharp_folder: Path, loaded: loading.Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in a process of its own, while the second group of pairs is scored."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys\nfrom pathlib import Path\nfrom capture.circuits import discover_run\n"
        "from capture.circuits.options import DiscoverOptions\nfrom capture.model import loading\n"
        "discover_run._SHARD_ROWS = 1\nroot, model, n = Path(sys.argv[1]), sys.argv[2], 0\n"
        "options = DiscoverOptions(('eap-ig', 'eap'), verify=1, resamples=5, batch_tokens=48)\n"
        "def report(progress):\n    global n\n    n += 1\n    if n == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "discover_run.run(loading.load(model, device='cpu'), root / 'run_id=task', options, root=root, run_id='killed', report=report)\n"
    )
    assert subprocess.run([sys.executable, script, root, sharp_folder], check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr(discover_run, "_SHARD_ROWS", 1)
    options, resumed = DiscoverOptions(("eap-ig", "eap"), verify=1, resamples=5, batch_tokens=48), list[int]()
    for run, report in (("not-killed", lambda p: None), ("killed", lambda p: resumed.append(p.resumed_tokens))):
        discover_run.run(loaded, run_dir(root, "task"), options, root=root, run_id=run, report=report)
    assert resumed[-1] > 0
    for table in TABLES:
        one, other = (run_dir(root, run) / table_file(table) for run in ("not-killed", "killed"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_parts_make_the_whole(root: Path, loaded: loading.Loaded) -> None:
    """Their batches are of other sizes: sums in another order."""
    whole = capture.discover_circuit("task", method="eap-ig,random", resamples=5, model=loaded, root=root, run="whole")
    for i in (1, 2):
        part = capture.discover_circuit(
            "task", method="eap-ig,random", resamples=5, model=loaded, root=root, run="parted", part=f"{i}/2"
        )
        assert {c for (c,) in part.query("SELECT circuit FROM circuits").fetchall()} == {
            f"eap-ig {i}/2",
            f"random {i}/2",
        }
    names = [p.name.removeprefix("run_id=") for p in root.glob("run_id=parted*")]
    merge.merge(root, merge_plan.plan_merge(root, names, "parted"))
    with Warehouse(root) as wh:
        for view, key in (("circuit_edge_means", EDGE), ("circuit_node_means", "kind, layer, head")):
            one, other = (
                wh.sql(f"SELECT method, {key}, n_examples, score FROM {view} WHERE run_id = '{run}' ORDER BY ALL").df()
                for run in (whole.meta.run_id, "parted")
            )
            np.testing.assert_allclose(one.score, other.score, atol=2e-5)
            pd.testing.assert_frame_equal(one.drop(columns="score"), other.drop(columns="score"))
    assert [(c.name, c.detail) for c in validate(run_dir(root, "parted")) if c.passed is False] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "acdc"}, NotFoundError, "No method 'acdc'"),
        ({"method": ""}, UsageError, "Name a method: eap-ig, eap, gim, exact, random"),
        ({"method": "eap,eap"}, UsageError, "Name every method once"),
        ({"level": "layer"}, NotFoundError, "No level 'layer'"),
        ({"metric": "bleu"}, NotFoundError, "No metric 'bleu'"),
        ({"share": 0}, UsageError, "share 0: the part of the pairs"),
        ({"share": 1.5}, UsageError, "share 1.5: the part of the pairs"),
        ({"steps": 0}, UsageError, "steps 0: at least 1"),
        ({"seed": 1 << 31}, UsageError, "seed: at most 2,147,483,647"),
        ({"verify": 3, "level": "node"}, UsageError, "verify 3 patches edges"),
        ({"part": "3/2"}, UsageError, "part 3/2"),
        ({"part": "9/9"}, UsageError, "Part 9/9 has none of the 5 pairs"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(error, match=message) as caught:
        capture.discover_circuit("task", root=root, run="refused", **options)
    assert "\n" not in str(caught.value)
    assert not run_dir(root, "refused").exists()


def test_what_needs_a_model_to_be_refused_is_refused_in_one_line(
    root: Path, loaded: loading.Loaded, load_tiny: Callable[..., loading.Loaded], circuits: TraceStore
) -> None:
    for call, error, message in (
        (lambda: capture.discover_circuit("circuits", root=root), UsageError, "is of kind circuit, and has no pairs of prompts"),
        (lambda: capture.discover_circuit("task", root=root, model=load_tiny(), run="x"), UsageError, "with other weights"),
        (lambda: capture.discover_circuit("task", method="eap", metric="kl", root=root, model=loaded, run="x"), UsageError, "kl has none"),
        (lambda: capture.discover_circuit("task", root=root, model=loaded, run="circuits"), RunExistsError, "already exists"),
    ):  # fmt: skip
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not run_dir(root, "x").exists() and not (root / ".staging" / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_other_families(tmp_path: Path, family: str, tokenizer: Any, pairs_file: Callable[..., Path]) -> None:
    zoo.build(family).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = loading.load(str(tmp_path / "model"), device="cpu")
    capture.prepare_task(model, pairs_file(), run="task", root=tmp_path / "runs", keep="none")
    store = capture.discover_circuit("task", method=METHODS, resamples=5, model=model, root=tmp_path / "runs")
    assert [(c.name, c.detail) for c in validate(store.path) if c.passed is False] == []
    (apart,) = {a for (a,) in store.query("SELECT heads_apart FROM circuits").fetchall()}
    assert apart == (family != "gemma2")
    largest = store.query("SELECT circuit, max(abs(score)) FROM circuit_nodes GROUP BY ALL").fetchall()
    assert len(largest) == 5 and all(score > 0 for _, score in largest)


def test_too_little_memory_to_take_a_model_apart_is_said(
    root: Path, loaded: loading.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is scored, too: edges are found by running the model."""

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(discover_run, "examine_edges", fail)
    with pytest.raises(TracesError, match="not enough memory to look for circuits"):
        capture.discover_circuit("task", model=loaded, root=root, run="short")
