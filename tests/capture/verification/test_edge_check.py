"""`traces model check` finds edges that are scored or masked wrongly, and says where there are none and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo

from capture.edges.edge_graph import Sink
from capture.edges.edge_model import EdgeModel
from capture.model.examine import examine
from capture.verification import edge_check
from capture.verification.edge_check import check_edges
from capture.verification.model_report import Finding


def found(family: str) -> dict[str, Finding]:
    return {f.site: f for f in check_edges(examine(zoo.build(family)))}


def wrong(family: str) -> set[str]:
    return {site for site, f in found(family).items() if f.status == "wrong"}


def into(model: EdgeModel, layer: int, port: str) -> np.ndarray:
    sinks = [s for s, sink in enumerate(model.graph.sinks) if (sink.layer, sink.port) == (layer, port)]
    return np.isin(model.graph.edge_sinks, sinks)


def test_a_model_of_a_plain_family_has_edges() -> None:
    report = found("llama")
    assert set(report) == {"edge scores", "edge masks"}
    assert all(f.status == "close" and 0 < f.error < f.allowed for f in report.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda model, keep: keep | into(model, 2, "k"),
        lambda model, keep: keep & ~into(model, 2, "v"),
        lambda model, keep: keep[..., ::-1],
        lambda model, keep: np.roll(keep, 1, axis=-1),
        lambda model, keep: np.ones_like(keep),
    ],
    ids=["k always kept", "v never kept", "in another order", "one further", "no mask at all"],
)
def test_a_mask_that_is_not_the_one_asked_for_is_found(change: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = edge_check.masked_states

    def changed(model, states, keep, *more):
        return run(model, states, np.ascontiguousarray(change(model, keep)) if keep.dtype == bool else keep, *more)

    monkeypatch.setattr(edge_check, "masked_states", changed)
    assert wrong("llama") == {"edge masks"}


@pytest.mark.parametrize(
    "change",
    [
        lambda model, edges: edges * (1 + 0.1 * into(model, 1, "v")),
        lambda model, edges: -edges,
        lambda model, edges: np.concatenate([edges[:, 1:], edges[:, :1]], axis=1),
    ],
    ids=["v a tenth too large", "the other sign", "one further"],
)
def test_scores_that_do_not_add_up_are_found(change: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    score = edge_check.score_batch

    def changed(model, *args, **options):
        scores = score(model, *args, **options)
        return replace(scores, edges=change(model, scores.edges))

    monkeypatch.setattr(edge_check, "score_batch", changed)
    assert wrong("llama") == {"edge scores"}


def test_scores_that_add_up_and_belong_to_other_edges_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of q and k of a layer are exchanged: every node's sum stays."""
    score = edge_check.score_batch

    def changed(model, *args, **options):
        scores, graph = score(model, *args, **options), model.graph
        edges = scores.edges.copy()
        for head in range(2):
            q, k = (graph.sinks.index(Sink("head", 1, head, port)) for port in "qk")
            of_q, of_k = (slice(graph.starts[s], graph.starts[s + 1]) for s in (q, k))
            edges[:, of_q], edges[:, of_k] = scores.edges[:, of_k], scores.edges[:, of_q]
        return replace(scores, edges=edges)

    monkeypatch.setattr(edge_check, "score_batch", changed)
    assert found("llama")["edge scores"].how == "edges are not the slope of a metric"


def test_scores_of_zero_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    score = edge_check.score_batch

    def changed(*args, **options):
        scores = score(*args, **options)
        return replace(scores, nodes=scores.nodes * 0, edges=scores.edges * 0)

    monkeypatch.setattr(edge_check, "score_batch", changed)
    assert found("llama")["edge scores"].how == "every score is 0"


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("t5", "it is no decoder"),
        ("jetmoe", "read more of the stream than their q, k, v and inputs"),
        ("falcon", "does not pass transformers' attention interface"),
    ],
)
def test_what_has_no_edges_is_said_with_the_reason(family: str, reason: str) -> None:
    report = found(family)
    assert {f.status for f in report.values()} == {"absent"} and len(report) == 2
    assert all(reason in f.how for f in report.values())


def test_attention_that_is_one_node_is_said() -> None:
    report = found("gemma2")
    assert {f.status for f in report.values()} == {"close"}
    assert all("attention is one node in every layer" in f.how for f in report.values())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "deepseek_v3"])
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    report = check_edges(examine(zoo.build(family).to(dtype)))
    assert {f.status for f in report} == {"close"}


@pytest.mark.slow
def test_the_real_model_has_edges(smollm2) -> None:
    report = check_edges(smollm2.anatomy)
    assert {f.status for f in report} == {"close"}, report
