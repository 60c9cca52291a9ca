"""Prints a list of what is known by name, data sets or tasks, as a table, TSV or JSON."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import typer

from warehouse.cli.output import ReportFormat
from warehouse.cli.terminal import table_console


def show_rows(rows: list[dict[str, Any]], fmt: ReportFormat) -> None:
    """Print rows that have the same columns; a value is a text, or a list of texts."""
    if fmt is ReportFormat.json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    columns = list(rows[0])
    texts = [[", ".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows]
    if fmt is ReportFormat.tsv:
        writer = csv.writer(sys.stdout, dialect="excel-tab", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(texts)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in texts:
        table.add_row(*row)
    table_console(200).print(table)
