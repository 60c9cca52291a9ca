"""What `traces circuit discover` and `evaluate` print of the run that they made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from warehouse.cli.terminal import table_console

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse

_STRONGEST = 4
"""Edges that are named."""

_SETTING = ("source_run_id", "selection", "ablation", "metric")


def show_circuit(wh: Warehouse, run_id: str, circuit: str) -> None:
    """Print the strongest edges of a circuit, or nodes where edges have no scores, and how far its scores can be trusted."""
    (facts,) = _rows(wh, "SELECT * FROM circuits WHERE run_id = ? AND circuit = ?", run_id, circuit)
    typer.echo(f"mean {facts['metric']}: clean {facts['clean']:.3f}, corrupted {facts['corrupted']:.3f}")
    table = f"circuit_{facts['level']}s"
    query = f"SELECT * FROM {table} WHERE run_id = ? AND circuit = ? ORDER BY rank LIMIT {_STRONGEST}"
    shown = ", ".join(f"{_name(row)} {row['score']:+.3f}{_interval(row)}" for row in _rows(wh, query, run_id, circuit))
    typer.echo(f"strongest {facts['level']}s of {circuit}: {shown}")
    if facts["completeness_error"] is not None:
        error = facts["completeness_error"]
        typer.echo(f"scores of {circuit} miss the change of the metric by {error:.1%}{_advice(error)}")
    for table, what in (("circuit_nodes", "nodes"), ("circuit_edges", "edges")):
        query = f"SELECT corr(score, exact_effect) AS r, count(exact_effect) AS n FROM {table} WHERE run_id = ? AND circuit = ?"
        (found,) = _rows(wh, query, run_id, circuit)
        if circuit != "exact" and found["n"] > 1 and found["r"] is not None:
            typer.echo(f"scores of {circuit} against exact effects of {found['n']:,} {what}: Pearson {found['r']:.3f}")


def show_evaluation(wh: Warehouse, run_id: str) -> None:
    """Print the curve of every task, selection and kind of ablation of a run, its areas, and whether the circuit holds."""
    query = "SELECT * FROM circuit_curve WHERE run_id = ? AND part = 'all' ORDER BY source_run_id, selection, ablation, metric, size"
    curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in _rows(wh, query, run_id):
        curves.setdefault(tuple(row[name] for name in _SETTING), []).append(row)
    areas = {
        tuple(row[name] for name in _SETTING): row
        for row in _rows(wh, "SELECT * FROM circuit_scores WHERE run_id = ? AND part = 'all'", run_id)
    }
    for setting, rows in curves.items():
        task, selection, ablation, metric = setting
        first = rows[0]
        typer.echo(
            f"\n{task}: {first['n']:,} held-out pairs, {metric} {first['full_value']:.3f} of the model, {first['none_value']:.3f} with all "
            f"edges ablated ({ablation}), edges by {selection}"
        )
        _show_curve(rows)
        for line in _area_lines(areas[setting]):
            typer.echo(line)
    typer.echo("")
    for line in _verdicts(wh, run_id):
        typer.echo(line)


def _show_curve(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    columns = ["size", "edges", "faithfulness", "95 %"]
    columns += [name for name in ("complement", "random") if any(row[name] is not None for row in rows)]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        cells = {
            "size": f"{row['size']:g}",
            "edges": f"{row['n_edges']:,}",
            "faithfulness": _number(row["faithfulness"]),
            "95 %": "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
            "complement": _number(row["complement"]),
            "random": _number(row["random"]),
        }
        table.add_row(*(cells[name] for name in columns))
    table_console(200).print(table)


def _area_lines(row: dict[str, Any]) -> Iterator[str]:
    if row["n_sizes"] < 2:
        return
    if row["cpr"] is None:
        yield "no areas: faithfulness is not known at every size"
        return
    line = f"CPR {row['cpr']:.3f} (area under it), CMD {row['cmd']:.3f} (its distance from 1), log area {row['log_area']:.3f}"
    if row["random_cpr"] is not None:
        line += f"; random: CPR {row['random_cpr']:.3f}, CMD {row['random_cmd']:.3f}"
    yield line


_VERDICTS = {True: "holds", False: "does not hold", None: "cannot be told"}


def _verdicts(wh: Warehouse, run_id: str) -> Iterator[str]:
    """Yield what the saved query `circuit_holds` says of all pairs of each task, and how many of their parts it says it of too."""
    answer = wh.ask("circuit_holds", run=run_id)
    rows = [dict(zip(answer.columns, values, strict=True)) for values in answer.fetchall()]
    for row in rows:
        if row["part"] == "all":
            where = f"{row['task_run']}, size {row['size']:g} by {row['selection']}, {row['ablation']}"
            yield f"{_VERDICTS[row['holds']]} ({where}): {row['reasons']}"
    counts = Counter(_VERDICTS[row["holds"]] for row in rows if row["part"] != "all")
    if counts:
        yield f"templates and corruptions by themselves: {', '.join(f'{name} {counts[name]:,}' for name in _VERDICTS.values())}"


def _rows(wh: Warehouse, query: str, *values: str) -> list[dict[str, Any]]:
    found = wh.cursor().execute(query, [*values])
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _name(row: dict[str, Any]) -> str:
    """Return the name of an edge, `L3H2 -> L5H0.k`, or of a node."""
    from capture.edges.edge_graph import Node, Sink

    if "kind" in row:
        return Node(row["kind"], row["layer"], row["head"]).name
    source = Node(row["source_kind"], row["source_layer"], row["source_head"])
    return f"{source.name} -> {Sink(row['sink_kind'], row['sink_layer'], row['sink_head'], row['port']).name}"


def _interval(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _advice(error: float) -> str:
    return ": more --steps bring them nearer" if error > 0.1 else ""
