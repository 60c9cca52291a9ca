"""Pictures of circuits and of dependencies have the edges and numbers of their runs."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import circuit_rows
import numpy as np
import pytest
import synthetic_causes as causes
import synthetic_circuits as made

from capture.edges.edge_graph import EdgeGraph, LayerShape
from warehouse import Warehouse, plots
from warehouse.analysis.circuit_graph import circuit_graph
from warehouse.errors import NotFoundError, UsageError
from warehouse.plots.circuit_map import _apart

pytest.importorskip("matplotlib")
pytest.importorskip("networkx")
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

LARGE = EdgeGraph([LayerShape(4, 2)] * 5)


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    root = tmp_path_factory.mktemp("circuits") / "runs"
    made.add_pairs(root)
    made.add_circuits(root)
    rows = [row | {"ablation": ablation} for ablation in ("resample", "zero") for row in made.value_rows()]
    made.add_evaluation(root, rows=rows)
    draw = np.random.default_rng(0)
    circuit_rows.add_circuit(root, "large", LARGE, {"eap": lambda *_: float(draw.normal() ** 3)})
    only = {("embed", "L0H0.v"): -2.0, ("L0H0", "logits"): 1.0}
    circuit_rows.add_circuit(root, "path", LARGE, {"eap": lambda *e: only.get(e)})
    causes.add_task(root)
    causes.add_influence(root)
    with Warehouse(root) as wh:
        yield wh


def arrows(picture: Figure) -> list[FancyArrowPatch]:
    return [p for p in picture.axes[0].patches if isinstance(p, FancyArrowPatch)]


def test_a_circuit_has_its_edges_and_the_most_that_may_be_drawn(wh: Warehouse) -> None:
    for edges, selection in ((40, "abs"), (12, "greedy")):
        picture = plots.circuit(wh, "large", edges=edges, selection=selection)
        found = re.search(
            r"([\d,]+) of ([\d,]+) edges: of the ([\d,]+)",
            " ".join(picture.get_suptitle().split()),
        )
        assert found
        n, of, taken = (int(x.replace(",", "")) for x in found.groups())
        graph = circuit_graph(wh, "large", size=taken, selection=selection)
        assert (
            n
            == graph.graph["n_edges"]
            <= edges
            < circuit_graph(wh, "large", size=taken + 1, selection=selection).graph["n_edges"]
        )
        assert of == LARGE.n_edges
        assert {t.get_text() for t in picture.axes[0].texts} == set(graph)
        assert len(arrows(picture)) == len(graph.edges)
        out = io.BytesIO()
        picture.savefig(out, format="svg")
        assert len(out.getvalue()) < 80_000


def test_colours_are_ports_and_what_works_against_is_dashed(wh: Warehouse) -> None:
    picture = plots.circuit(wh, "path")
    against, helps = arrows(picture)  # the thinner first
    assert (against.get_linestyle(), helps.get_linestyle()) == ("--", "-")
    assert (to_hex(against.get_edgecolor()), to_hex(helps.get_edgecolor())) == ("#666666", "#009e73")
    assert helps.get_linewidth() == 3.5 and against.get_linewidth() == 2
    heights = {t.get_text(): t.get_position()[1] for t in picture.axes[0].texts}
    assert heights == {"embed": 0, "L0H0": 1, "logits": 2}
    assert "2 of " in picture.get_suptitle()


def test_nodes_of_a_row_are_apart_and_near_where_they_belong() -> None:
    for wanted in ([0.5], [0.2, 0.9], [0.5, 0.5, 0.5], [0.0] * 12, [1.0] * 3):
        places = _apart(wanted)
        assert (
            np.diff(places) >= min(0.13, 1 / max(1, len(wanted) - 1)) - 1e-9
        ).all() and 0 <= places.min() <= places.max() <= 1 + 1e-9
    np.testing.assert_allclose(_apart([0.2, 0.9]), [0.2, 0.9])


def test_a_circuit_that_cannot_be_drawn_is_told_so(wh: Warehouse) -> None:
    with pytest.raises(UsageError, match=r"make no path to the logits with at most 1 of them: more --edges"):
        plots.circuit(wh, "path", edges=1)
    with pytest.raises(NotFoundError, match="No selection 'best'"):
        plots.circuit(wh, "path", selection="best")
    with pytest.raises(UsageError, match="'task' is of kind task, and has no circuits"):
        plots.circuit(wh, "task")


def test_a_curve_has_the_numbers_of_circuit_curve(wh: Warehouse) -> None:
    picture = plots.curve(wh, "circuit")
    panels = picture.axes
    assert [a.get_title() for a in panels] == ["made: logit_diff, resample", "made: logit_diff, zero"]
    rows = wh.sql(
        "SELECT size, faithfulness, low, high, random, complement FROM circuit_curve WHERE run_id = 'evaluation' AND part = 'all' "
        "AND ablation = 'zero' ORDER BY size"
    ).fetchnumpy()
    lines = {line.get_label(): line for line in panels[1].lines}
    assert panels[1].get_xscale() == "log"
    for name, column in (("eap-ig, abs", "faithfulness"), ("random edges", "random")):
        np.testing.assert_allclose(lines[name].get_xydata(), np.stack([rows["size"], rows[column]], 1))
    dotted = next(line for line in panels[1].lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(dotted.get_ydata(), rows["complement"])
    band = panels[1].collections[1].get_paths()[0].vertices
    assert set(np.round(band[:, 1], 9)) == set(np.round(np.concatenate([rows["low"], rows["high"]]), 9))
    assert "20 pairs" in picture.get_suptitle()


def test_a_run_without_a_curve_is_told_so(wh: Warehouse) -> None:
    with pytest.raises(UsageError, match="'large' has no evaluation of a circuit. See traces circuit evaluate --help"):
        plots.curve(wh, "large")


def test_a_dependency_graph_is_drawn_over_tokens_and_layers(wh: Warehouse) -> None:
    (axes,) = plots.graph(wh, "explained", "a").axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["The 0", " cat 1", " sat 2"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["embed", "0", "1"]
    assert sorted(t.get_text() for t in axes.texts) == ["L0H1", "L1H0"]
    drawn = {
        tuple(map(tuple, line.get_xydata())): line.get_linewidth() for line in axes.lines if line.get_marker() == "None"
    }
    assert drawn == {((1, 1), (2, 2)): pytest.approx(0.4 + 4 * 0.2), ((0, 0), (1, 1)): pytest.approx(0.4 + 4 * 0.05)}
    (stream,) = axes.collections
    widths = {
        tuple(map(tuple, line)): width
        for line, width in zip(stream.get_segments(), stream.get_linewidths(), strict=True)
    }
    assert widths == {((2, y), (2, y + 1)): pytest.approx(0.4 + 4 * 0.8) for y in (0, 1)}
    recurring = plots.graph(wh, "task")
    assert "2 clean prompts" in recurring.get_suptitle()
    assert [t.get_text() for t in recurring.axes[0].texts] == ["L1H0", "L0H1"], "the strongest first"
    with pytest.raises(UsageError, match="No head carries 0.9 of the prediction: lower --least-flow"):
        plots.graph(wh, "explained", least_flow=0.9)
