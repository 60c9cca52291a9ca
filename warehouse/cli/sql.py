"""The commands `traces sql`, `shell` and `refresh`: ask in SQL, over all runs."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import AnswerOptions, WarehouseOption
from warehouse.cli.output import format_of, write
from warehouse.cli.quotes import suggests_quotes
from warehouse.cli.terminal import note, say
from warehouse.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from warehouse.warehouse import Warehouse


@with_groups()
def sql(
    answer: AnswerOptions,
    query: Annotated[
        str | None, typer.Argument(help="A query in DuckDB's SQL; `-` reads it from standard input.")
    ] = None,
    saved: Annotated[
        str | None,
        typer.Option("--query", metavar="NAME", help="Run a saved query.", rich_help_panel=Panel.READ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A variable of the saved query, such as `run=wt2`; repeat it for several.",
            rich_help_panel=Panel.READ,
        ),
    ] = None,
    list_: Annotated[
        bool,
        typer.Option("--list", help="List the saved queries, tables and views.", rich_help_panel=Panel.READ),
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(
            "--show", metavar="NAME", help="Print the SQL of a saved query or a view.", rich_help_panel=Panel.READ
        ),
    ] = None,
) -> None:
    """Ask in SQL, over all runs.

    A query reads what you may read, and writes nothing below the warehouse root. Besides queries there may be `SET VARIABLE`,
    temporary views and macros, and `COPY (…) TO 'FILE'` to a file elsewhere. Rows of a damaged run are left out, with a warning
    on standard error.

    Examples:
        traces sql "SELECT token, avg(loss) FROM token_diagnostics GROUP BY token ORDER BY 2 DESC LIMIT 20"
        traces sql --query calibration --set run=wt2 --format tsv

    Raises:
        UsageError: It is not clear what to run.
        NotFoundError: No saved query or view has that name.
    """
    from warehouse.catalog.saved_queries import all_queries, find_query, run_query
    from warehouse.catalog.statements import check_readonly, check_target
    from warehouse.storage import paths

    if sum(bool(x) for x in (query, list_, show, saved)) != 1:
        raise UsageError(
            'Give one of: a query, --list, --show NAME or --query NAME. For example: traces sql "SELECT * FROM runs"'
        )
    if settings and not saved:
        raise UsageError("--set sets a variable of a saved query: it goes with --query.")
    if list_:
        _print_names()
        return
    if show:
        from warehouse.catalog.build import all_view_texts
        from warehouse.catalog.reference import meanings

        texts = {name: q.text for name, q in all_queries().items()} | all_view_texts(paths.find_root(answer.warehouse))
        if show not in texts:
            raise NotFoundError("saved query or view", show, texts)
        say(texts[show].rstrip())
        if meaning := meanings().get(show):
            for column in meaning.columns:
                say(f"-- {column.name} {column.sql}: {column.comment}")
        return
    from warehouse.warehouse import Warehouse

    fmt = format_of(answer.output, answer.fmt)
    text = _read_standard_input() if query == "-" else query or ""
    with Warehouse(answer.warehouse) as wh:
        if answer.output is not None:
            check_target(answer.output, wh.root)
        if saved:
            saved_query, values = find_query(saved), dict(_parse_setting(s) for s in settings or [])
        else:
            with suggests_quotes(wh, text):
                check_readonly(wh.cursor(), text, wh.root)

        def print_answer() -> None:
            if not saved and _names_vector_table(wh, text):
                wh.load_vectors()
            rows = run_query(wh.cursor(), saved_query, values) if saved else wh.sql(text)
            if rows is not None:  # a statement such as SET has no answer
                write(rows, fmt, answer.output)

        with suggests_quotes(wh, text):
            wh.attempt(print_answer)


def _names_vector_table(wh: Warehouse, text: str) -> bool:
    """Return whether a query names the view or the macro of a vector table."""
    if not re.search("(nearest|vectors)_", text, re.IGNORECASE):
        return False
    names = "|".join(name for (name,) in wh.sql("SELECT name FROM vector_tables").fetchall())
    return re.search(f"(nearest|vectors)_({names})", text, re.IGNORECASE) is not None if names else False


def _read_standard_input() -> str:
    """Return what standard input holds, which must be text."""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as e:
        raise UsageError(f"Standard input is not UTF-8 text ({e.reason} at byte {e.start}).") from None


def _parse_setting(text: str) -> tuple[str, str]:
    """Return name and value of `--set NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: write NAME=VALUE.")
    return name, value


def _print_names() -> None:
    """Print the names of saved queries, tables and views."""
    from warehouse.catalog.place import STATE_VIEW
    from warehouse.catalog.reference import meanings
    from warehouse.catalog.saved_queries import all_queries

    say("Saved queries (traces sql --query NAME):")
    for q in all_queries().values():
        variables = f"  [{', '.join(q.variables)}]" if q.variables else ""
        say(f"  {q.name:24} {q.title}{variables}")
    say("Tables and views (traces sql --show NAME):")
    for name, meaning in meanings().items():
        if name != STATE_VIEW:
            say(f"  {name:24} {meaning.comment.removeprefix('One row is ')}")


def shell(context: typer.Context, warehouse: WarehouseOption = None) -> None:
    """Open the duckdb shell on the warehouse, whose views are read-only. Options after `--` are duckdb's own.

    The shell can do what you can: COPY … TO, ATTACH and its dot commands read and write any file, those of runs too, and
    `.system` runs commands. It runs nothing that it finds in the warehouse's own files. With `-safe` it can do none of that, and
    cannot read the runs either: for answers alone there is `traces sql`.

    Where there are vector tables, `SHOW TABLES` lists a view `vectors_…` of each, and the macro `nearest_…(q, k := 10)` finds
    the rows nearest to a vector: `SET VARIABLE q = (SELECT vector FROM vectors_… LIMIT 1); FROM nearest_…(getvariable('q'))`.

    Examples:
        traces shell
        traces shell -- -c "FROM runs"
        traces shell -- -c "FROM vector_tables"
    """
    from warehouse.schema.quoting import sql_text
    from warehouse.storage import paths
    from warehouse.storage.duckdb_session import extension, s3_environment
    from warehouse.storage.objects import ObjectPath
    from warehouse.warehouse import Warehouse

    program = _duckdb_program()
    with Warehouse(warehouse, every_file=True) as wh:
        path, first = paths.catalog_path(wh.root), _vectors_first(wh) if paths.vector_tables(wh.root) else []
        if isinstance(wh.root, ObjectPath):
            first = ["-cmd", f"LOAD {sql_text(str(extension('httpfs')))}; SET s3_url_style = 'path'", *first]
        environment = os.environ | (s3_environment() if isinstance(wh.root, ObjectPath) else {})
    sys.stdout.flush()
    os.execve(program, [program, "-readonly", str(path), *first, *context.args], environment)


def _vectors_first(wh: Warehouse) -> list[str]:
    """Return options that have the shell begin with the statements about vectors."""
    from warehouse.vectors.duckdb_macros import statements
    from warehouse.vectors.reconcile import reconcile

    with contextlib.suppress(OSError):  # a folder that we may only read
        reconcile(wh.root, note)
    return [word for statement in statements(wh.vector_tables) for word in ("-cmd", statement)]


def _duckdb_program() -> str:
    """Return the path of the shell's binary, from the package duckdb-cli.

    Raises:
        UsageError: It is not installed.
    """
    import importlib.util

    spec = importlib.util.find_spec("duckdb_cli")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for name in ("duckdb", "duckdb.exe"):
            if (Path(place) / name).is_file():
                return str(Path(place) / name)
    raise UsageError("The duckdb shell is not installed: pip install 'trace-warehouse[shell]'")


def refresh(warehouse: WarehouseOption = None) -> None:
    """Rebuild warehouse.duckdb after run folders were copied in, renamed or deleted by hand.

    What processes that died have left behind is deleted. Unfinished captures stay.

    Examples:
        traces refresh

    Raises:
        UsageError: There is no warehouse.
    """
    from warehouse.catalog import build
    from warehouse.maintenance.remove import sweep_root
    from warehouse.storage import paths, run_list
    from warehouse.storage.files import delete_stale_temporaries
    from warehouse.storage.manifest import Manifest
    from warehouse.vectors.reconcile import reconcile
    from warehouse.vectors.table_cache import VectorTableCache

    root = paths.find_root(warehouse)
    if not (run_list.exists(root) or root.is_dir()):  # the list of runs may be what is lost
        raise UsageError(f"There is no warehouse at {root}.")

    for leftover in [*sweep_root(root, note), *map(str, delete_stale_temporaries(paths.converted_models_dir()))]:
        say(f"deleted {leftover}, which a process had left behind")
    if gone := reconcile(root, note):
        say(f"vector tables: dropped the rows of {', '.join(gone)}; traces index optimize gives back their space")
    cache = VectorTableCache(root)
    cache.all()
    for damage in cache.damaged.values():
        note(f"warning: a vector table is left out: {damage}")
    runs = build.refresh(root, every_file=True)
    for name, run in runs.items():
        if run.fault is not None:
            note(f"warning: run '{name}' is left out: {run.fault}")
        elif (captured_as := Manifest.read(folder := paths.run_dir(root, name)).run_id) != name:
            note(f"warning: {folder} holds a run that was captured as '{captured_as}'")
    count = sum(run.fault is None for run in runs.values())
    say(f"{paths.catalog_path(root)}: {count} {'run' if count == 1 else 'runs'}")
