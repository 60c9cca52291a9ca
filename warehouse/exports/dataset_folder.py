"""A run as a folder that Hugging Face's `datasets` reads: a configuration a table, and a card that says what is in it.

    FOLDER/README.md                   the card: front matter with the configurations, the run, its tables and columns
    FOLDER/index.json                  which run
    FOLDER/TABLE/*.parquet             the rows of a table
    FOLDER/run.json, blobs/            with `tensors`: the folder is then the run itself, which `TraceStore(FOLDER)` opens

    datasets.load_dataset(FOLDER, "next_token", split="train")

The files of a whole run are copied as they are; rows of chosen examples are written anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from warehouse.errors import CorruptRunError, UsageError
from warehouse.exports.chosen import choose_examples
from warehouse.exports.dataset_card import dataset_card
from warehouse.exports.json_text import to_json
from warehouse.exports.lineage import lineage
from warehouse.exports.target import INDEX, new_folder
from warehouse.schema.arrow import arrow_schema
from warehouse.schema.quoting import sql_text
from warehouse.schema.tables import STORED
from warehouse.storage import paths
from warehouse.storage.files import file_checksum
from warehouse.storage.objects import ObjectPath
from warehouse.storage.paths import run_id_of
from warehouse.storage.trace_store import TraceStore
from warehouse.warehouse import Warehouse

_TENSOR_INDEX = "tensors"
_ROWS_AT_ONCE = 1 << 16


def dataset(
    wh: Warehouse,
    run: str,
    folder: str | Path,
    *,
    tables: Sequence[str] = (),
    tensors: bool = False,
    examples: Sequence[str] = (),
    where: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write a run as a data set of Hugging Face.

    Example:
        exports.dataset(wh, "demo", "demo-dataset", tables=["examples", "next_token"])
        datasets.load_dataset("demo-dataset", "next_token", split="train")

    Args:
        wh: The warehouse.
        run: The run.
        folder: The folder that is written.
        tables: Which tables; none: all that have rows.
        tensors: Whether to copy the tensors too, and all that makes the folder a run: of whole runs only.
        examples: Ids of examples, or beginnings of them; none: all. Tables that are not of examples are written whole.
        where: A SQL condition on the columns of the table `examples`.
        force: Whether to replace an export that is there.
        report: Called with the files that are written, and how many there will be.

    Returns:
        The rows of each table.

    Raises:
        UsageError: The run has no such table, tensors of some examples or tables are asked for, no example is chosen, or the folder is
            there.
    """
    store = wh.run(run)
    some = bool(examples or where)
    if tensors and (some or tables):
        raise UsageError("Tensors go with all examples and all tables: leave out --example, --where and --tables.")
    if tensors:
        store.check_not_expired()
    chosen_tables = _chosen_tables(store, tables, tensors)
    chosen = choose_examples(wh, store, examples, where) if some else None
    files = [f for f in store.meta.file_infos if tensors or paths.table_of_file(f) in chosen_tables]
    with new_folder(Path(folder), wh.root, force=force) as written:
        if chosen is None:
            for done, name in enumerate([*files, paths.MANIFEST] if tensors else files, 1):
                (written / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(store, name, written / name)
                report(done, len(files))
            rows = {table: store.meta.counts.rows[table] for table in chosen_tables}
        else:
            rows = {}
            for table in chosen_tables:
                rows[table] = _write_rows(store, table, chosen, written / table / "part-00000.parquet")
                report(len(rows), len(chosen_tables))
            rows = {table: n for table, n in rows.items() if n}
            if not rows:
                raise UsageError(
                    f"There is nothing to export: these examples have no rows in {', '.join(chosen_tables)}."
                )
        card = dataset_card(store, rows, n_examples=None if chosen is None else len(chosen), tensors=tensors)
        (written / "README.md").write_text(card, encoding="utf-8")
        index = lineage(store) | {"format": "dataset", "rows": rows, "tensors": tensors}
        (written / INDEX).write_bytes(to_json(index, indent=True))
    return rows


def _chosen_tables(store: TraceStore, tables: Sequence[str], tensors: bool) -> list[str]:
    """Return the tables that are written, in the order of the schema.

    Raises:
        UsageError: The run has no rows of a table, or of any.
    """
    has = [t for t in STORED if store.meta.counts.rows.get(t) and (tensors or t != _TENSOR_INDEX)]
    for table in tables:
        if table not in has:
            raise UsageError(
                f"Run '{store.meta.run_id}' has no rows of a table {table}; it has {', '.join(has) or 'none'}."
            )
    if not has:
        raise UsageError(f"Run '{store.meta.run_id}' has no rows.")
    return [t for t in has if not tables or t in tables]


def _write_rows(store: TraceStore, table: str, examples: Sequence[str], path: Path) -> int:
    """Write the rows of some examples, or all rows of a table that is not of examples; return their number."""
    schema = arrow_schema(table)
    names = ", ".join(f'"{name}"' for name in schema.names)
    among = f"WHERE example_id IN ({', '.join(map(sql_text, examples))})" if "example_id" in schema.names else ""
    order = ", ".join(f'"{k}" NULLS FIRST' for k in STORED[table].sort_key)
    reader = store.query(f"SELECT {names} FROM {table} {among} ORDER BY {order}").to_arrow_reader(_ROWS_AT_ONCE)
    n = 0
    writer = None
    for batch in reader:
        if writer is None:
            path.parent.mkdir()
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_batch(batch.cast(schema))
        n += len(batch)
    if writer is not None:
        writer.close()
    return n


def _copy(store: TraceStore, name: str, target: Path) -> None:
    """Copy a file of a run; no link, since an export may be edited.

    Raises:
        CorruptRunError: The file is not as it was written.
    """
    source = store.path / name
    if isinstance(source, ObjectPath):
        source.download(target)
    else:
        shutil.copyfile(source, target)
    known = store.meta.file_infos.get(name)  # none of the manifest, which has a seal of its own
    altered = known and (
        target.stat().st_size != known.bytes or (known.checksum and file_checksum(target) != known.checksum)
    )
    if altered:
        raise CorruptRunError(f"{source} is not as it was written (traces runs validate {run_id_of(store.path)})")
