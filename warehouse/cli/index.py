"""The commands of `traces index`: vector tables made, listed, kept up and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warehouse.cli.app import App
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import DeleteDryRunOption, FormatOption, WarehouseOption, YesOption
from warehouse.cli.output import Format, human_bytes, write
from warehouse.cli.terminal import note, say, table_console
from warehouse.errors import NotFoundError, TracesError, UsageError
from warehouse.progress import ProgressBar
from warehouse.storage.objects import AnyPath

if TYPE_CHECKING:
    from warehouse.vectors.table import VectorTable

index_app = App(no_args_is_help=True, help="Make, list and maintain vector tables: what is searchable by nearness.")

TablesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TABLE]...", help="Names as `traces index list` gives them; by default all."),
]


class Kind(StrEnum):
    """The kinds of index that a vector table may have."""

    auto = "auto"
    none = "none"
    ivf_sq = "ivf_sq"
    ivf_pq = "ivf_pq"


class Metric(StrEnum):
    """How distance is measured."""

    cosine = "cosine"
    l2 = "l2"
    dot = "dot"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a vector table stores vectors and indexes them; None: as it does already, or the default."""

    kind: Annotated[
        Kind | None,
        typer.Option(
            "--type",
            help="Its index: `auto` (none below 50,000 rows, then `ivf_sq`), `ivf_pq` (smaller; refined with whole vectors), or "
            "`none`: always exact.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="The metric of its index; by default cosine. Searches by other metrics are exact.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None
    centre: Annotated[
        bool | None,
        typer.Option(
            "--centre/--no-centre",
            help="Store vectors less the table's median: some dimensions of a residual stream are large everywhere.",
            show_default=False,
            rich_help_panel=Panel.COMPUTED,
        ),
    ] = None


@index_app.command("add")
@with_groups()
def add(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, as `traces runs` lists them.", show_default=False)
    ],
    table: TableOptions,
    site: Annotated[
        str, typer.Option(help="Which vectors: `resid.post_mlp`, `q`, …", rich_help_panel=Panel.READ)
    ] = "resid.post_mlp",
    layers: Annotated[
        str,
        typer.Option(metavar="A,B,…", help="Layers such as `4,15,26`, or `mid`, or `all`.", rich_help_panel=Panel.READ),
    ] = "mid",
    warehouse: WarehouseOption = None,
) -> None:
    """Make what runs stored searchable, from their tensor files and without their models.

    The same command again continues one that was interrupted; what is searchable already is left alone.

    Examples:
        traces index add wt2 --site resid.post_mlp --layers 4,15,26

    Raises:
        UsageError: A layer was named where a run belongs.
    """
    from warehouse.storage import paths, run_list
    from warehouse.vectors import index_spec, ingest

    root = paths.find_root(warehouse)
    settings = ingest.Settings(table.kind, table.metric, table.centre)
    specs = [index_spec.from_options(site, layers)]
    if numbers := [r for r in runs if r.isdecimal() and r not in run_list.published_runs(root)]:
        raise UsageError(f"No run '{numbers[0]}'. If it is a layer: --layers takes a list with commas, as in 4,15.")
    with _progress_bar() as (report, note):
        results = {run: ingest.add(root, run, specs, settings, report, note) for run in dict.fromkeys(runs)}
    _refresh(root)
    for run, tables in results.items():
        for t in tables:
            say(f"{t.table}: {t.rows:,} rows of {run}{'' if t.new else ' (there already)'}")
    say(f"next: traces nearest {runs[0]} --example … --pos …, or traces shell")


@index_app.command("list")
def list_tables(warehouse: WarehouseOption = None, fmt: FormatOption = Format.table) -> None:
    """List what is searchable, and how much of the exact answer searches find: recall@10, measured on rows of each table.

    Examples:
        traces index list --format tsv
    """
    import pyarrow as pa

    from warehouse.storage.files import folder_size
    from warehouse.vectors.ann_index import recall_by_metric
    from warehouse.warehouse import Warehouse

    with Warehouse(warehouse) as wh:
        rows = []
        for table in wh.vector_tables:
            info = table.info
            recall = {f"recall_{m}": f"{r:.3f} ({how})" for m, (r, how) in recall_by_metric(table).items()}
            try:
                table.lance.count_rows()
            except (TracesError, OSError, RuntimeError, ValueError):
                recall = dict.fromkeys(recall, "damaged: traces index rebuild")
            rows.append({"name": info.sql_name, "rows": info.rows, "runs": list(info.runs), "width": info.width,
                         "centred": info.centred, **recall, "bytes": folder_size(table.path)})  # fmt: skip
        if not rows:
            note("No vector tables yet. Make one: traces index add RUN")
            return
        if fmt is not Format.table:
            write(wh.relation(pa.Table.from_pylist(rows)), fmt, None)
            return
    _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    """Print a line a vector table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, caption="recall@10 against exact search; (exact): compared with every row")
    for name in ("table", "rows", "runs", "recall cosine", "l2", "dot", "size"):
        table.add_column(name, justify="right" if name in ("rows", "size") else "left", overflow="fold")
    for r in rows:
        name = r["name"] + (" (centred)" if r["centred"] else "")
        recall = (r[f"recall_{m}"].removeprefix("1.000 (exact)") or "exact" for m in ("cosine", "l2", "dot"))
        table.add_row(name, f"{r['rows']:,}", ", ".join(r["runs"]), *recall, human_bytes(r["bytes"]))
    table_console(160).print(table)


@index_app.command("rebuild")
@with_groups()
def rebuild(table: TableOptions, tables: TablesArgument = None, warehouse: WarehouseOption = None) -> None:
    """Make vector tables again from the runs, whatever state they are in; readers see the old one until the new one is complete.

    Without names: all of them, damaged ones, and missing ones that captures asked for.

    Examples:
        traces index rebuild
        traces index rebuild smollm2_resid_post_mlp_L15 --centre --type ivf_pq --metric l2
    """
    from warehouse.storage import paths
    from warehouse.vectors import ingest, repair

    root = paths.find_root(warehouse)
    settings = ingest.Settings(table.kind, table.metric, table.centre)
    with _progress_bar() as (report, note):
        if not tables:
            repair.repair(root, report, note)
        for chosen in _named_tables(root, tables):
            ingest.rebuild(root, chosen, settings, report, note)
    _refresh(root)


@index_app.command("optimize")
def optimize(tables: TablesArgument = None, warehouse: WarehouseOption = None) -> None:
    """Merge small files, take new rows into the indexes, give back the space of deleted rows, and measure recall again.

    Searches go on meanwhile.

    Examples:
        traces index optimize
    """
    from warehouse.storage import paths
    from warehouse.vectors import ann_index

    root = paths.find_root(warehouse)
    with _progress_bar() as (_, note):
        for table in _named_tables(root, tables):
            with table.locked(note):
                ann_index.optimize(table, note)


@index_app.command("drop")
def drop(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="Names as `traces index list` gives them.")],
    dry_run: DeleteDryRunOption = False,
    yes: YesOption = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Delete vector tables. The runs keep what they were made of: `traces index add` makes them again.

    Examples:
        traces index drop smollm2_resid_post_mlp_L15 --dry-run

    Raises:
        TracesError: The user did not agree.
    """
    from warehouse.storage import paths
    from warehouse.storage.files import folder_size

    root = paths.find_root(warehouse)
    chosen = _named_tables(root, tables)
    for table in chosen:
        size = human_bytes(folder_size(table.path))
        say(f"{'would delete' if dry_run else 'delete'} {table.info.sql_name} ({table.info.rows:,} rows, {size})")
    if dry_run:
        return
    if not yes and not typer.confirm("Delete?", default=False):
        raise TracesError("Nothing was deleted.")
    for table in chosen:
        with table.locked(note):
            table.remove()
    _refresh(root)


def _named_tables(root: AnyPath, names: list[str] | None) -> list[VectorTable]:
    """Return the vector tables of these names, or all of them.

    Raises:
        NotFoundError: No vector table has that name.
    """
    from warehouse.storage import paths
    from warehouse.vectors.table_cache import VectorTableCache

    cache = VectorTableCache(root)
    tables = {t.info.sql_name: t for t in cache.all()}
    for name in names or ():
        if name not in tables:
            damaged = {paths.sql_name("_".join(table)): damage for table, damage in cache.damaged.items()}
            if name in damaged:
                raise damaged[name]
            raise NotFoundError("vector table", name, tables)
    return [tables[n] for n in dict.fromkeys(names)] if names else list(tables.values())


def _refresh(root: AnyPath) -> None:
    """Make the views of the warehouse again."""
    from warehouse.catalog import build

    build.refresh(root)


@contextmanager
def _progress_bar() -> Iterator[tuple[Callable[[str, int], None], Callable[[str], None]]]:
    """Yield a function that counts rows where somebody looks on, and one that prints notes; both on standard error."""
    rows_of: dict[str, int] = {}
    with ProgressBar("rows", say=note) as bar:

        def report(name: str, rows: int) -> None:
            rows_of[name] = rows_of.get(name, 0) + rows
            bar.show(rows_of[name], label=name)

        yield report, bar.say
