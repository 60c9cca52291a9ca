"""All tables and views of a warehouse as temporary views of a Spark session, under the names that they have in DuckDB.

In goes a session and a root. Spark reads the runs' Parquet files itself, those that the catalog names: it neither looks for files nor
asks DuckDB for rows, but for the few of `runs`, `vector_tables` and `damaged_runs`, which are in no Parquet file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING

from warehouse.catalog.build import all_view_texts
from warehouse.catalog.catalog import Catalog
from warehouse.catalog.table_files import TableFiles, table_files
from warehouse.on_spark.dialect import spark_type, to_spark
from warehouse.on_spark.spark_warehouse import SparkWarehouse
from warehouse.schema.tables import STORED
from warehouse.schema.types import Table
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath, ObjectPath

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

_ROWS_OF_THE_CATALOG = ("runs", "vector_tables", "damaged_runs")
"""What has no Parquet files: a row a run or a vector table."""
_PATTERN = re.compile(r"([\\{}\[\]*?])")
"""Characters that Spark takes for a pattern in a path."""


def spark(session: SparkSession, root: str | AnyPath | None = None) -> SparkWarehouse:
    """Register the tables and views of a warehouse on a Spark session, as temporary views.

    They are of the runs that there are now: call it again to see later ones.

    Example:
        warehouse.spark(session, "runs")
        session.sql("SELECT run_id, avg(loss) FROM next_token GROUP BY run_id").show()

    Args:
        session: The session. Its executors must see the warehouse by the same path as the caller does.
        root: The folder; `$TRACES_HOME`, else `./runs`, where it is left out. Raises as `Catalog` does.

    Returns:
        The warehouse on that session, for what is no view: its tensors.
    """
    with Catalog(root) as catalog:  # which leaves out damaged runs, and says so
        rows = {name: catalog.sql(f"FROM {name}").to_arrow_table() for name in _ROWS_OF_THE_CATALOG}
        files, texts = table_files(catalog.root), all_view_texts(catalog.root)
    found = {name: _rows(session, table) for name, table in rows.items()}
    found |= {name: _table(session, catalog.root, table, files[name]) for name, table in STORED.items()}
    for name, frame in found.items():
        frame.createOrReplaceTempView(name)
    for name, text in texts.items():  # each after those that it reads
        if name not in found:
            session.sql(to_spark(text)).createOrReplaceTempView(name)
    return SparkWarehouse(session, catalog.root)


def _rows(session: SparkSession, table: pa.Table) -> DataFrame:
    """Return rows that are at hand."""
    import pyarrow as pa

    chunks = [column.combine_chunks() for column in table.columns]  # one each: Spark does not take a column without any
    return session.createDataFrame(pa.table(chunks, schema=table.schema))


def _table(session: SparkSession, root: AnyPath, table: Table, files: TableFiles) -> DataFrame:
    """Return the rows of a table, with NULL in the columns that older runs lack."""
    from pyspark.sql import DataFrame
    from pyspark.sql.functions import lit

    schema = ", ".join(f"`{c.name}` {spark_type(c.sql)}" for c in table.columns)
    parts = []
    if files.compacted:
        parts.append(session.read.schema(schema).parquet(*_literal(root, files.compacted)))
    # Spark reads run_id from the folders' names, and leaves out the files of other runs before it opens any.
    if plain := [file for run_id, own in files.of_runs.items() if paths.is_plain_name(run_id) for file in own]:
        reader = session.read.schema(schema).option("basePath", _address(root))
        parts.append(reader.parquet(*_literal(root, plain)))
    for run_id, own in files.of_runs.items():
        if not paths.is_plain_name(run_id):  # it would read another value from this folder's name
            parts.append(session.read.schema(schema).parquet(*_literal(root, own)).withColumn("run_id", lit(run_id)))
    if not parts:
        nothing = ", ".join(f"CAST(NULL AS {spark_type(c.sql)}) AS `{c.name}`" for c in table.columns)
        return session.sql(f"SELECT {nothing} WHERE false")
    return reduce(DataFrame.union, (part.select(*table.names) for part in parts))


def _address(root: AnyPath, below: str = "") -> str:
    """Return a path as Spark reads it: in an object store by Hadoop's names, else on the machine's own disk, whatever Spark's default is."""
    if isinstance(root, ObjectPath):
        return f"{str(root).replace('s3://', 's3a://', 1)}/{below}"
    return f"file://{root.resolve()}/{below}"


def _literal(root: AnyPath, files: Iterable[str]) -> list[str]:
    """Return the paths of files, which Spark would otherwise take for patterns."""
    return [_PATTERN.sub(r"\\\1", _address(root, file)) for file in files]
