"""Vector tables in DuckDB's SQL, through its lance extension: a view `vectors_…` and a macro `nearest_…` for each.

In: vector tables. Out: SQL statements, which `Warehouse.load_vectors` and `traces shell` run. They define views for one session only:
a view over Lance means nothing where the extension is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from warehouse.schema.columns import EXAMPLE, POS, RUN, SEQ
from warehouse.schema.quoting import sql_text
from warehouse.storage.duckdb_session import extension
from warehouse.vectors.ann_index import trusted
from warehouse.vectors.table import VectorTable

_DISTANCE = {
    "cosine": "array_cosine_distance(vector, {q})",
    "l2": "array_distance(vector, {q})",
    "dot": "array_negative_inner_product(vector, {q})",
}
_OURS = {"cosine": "_distance", "l2": "sqrt(_distance)", "dot": "_distance - 1"}
"""Lance's distance, turned into ours."""
_MEANT = {"cosine": "1 - cosine", "l2": "the Euclidean distance", "dot": "minus the dot product"}
_KEYS = "run_id, example_id, seq, pos"
_MEANINGS = {c.name: c.comment for c in (RUN, EXAMPLE, SEQ, POS)} | {
    "side": "'dec' or 'enc': the stack of the model that read the token",
    "layer": "Layer, 0-based; NULL: a site without layers",
    "head": "Query head that the vector is of, 0-based; NULL: the site has none",
    "kv_head": "Head of keys and values that the vector is of, 0-based; NULL: the site has none",
    "vector": "The vector, less the table's median where the table is centred",
}


def statements(tables: Iterable[VectorTable], database: str | None = None) -> list[str]:
    """Return the statements that load the extension and define the views and macros.

    Args:
        tables: The tables.
        database: Where to define them; None defines them for one connection alone.

    Returns:
        SQL statements, to be run in order.

    Raises:
        UsageError: Where the extension is not installed.
    """
    sql = [f"LOAD {sql_text(str(extension('lance')))}"]
    for table in tables:
        sql += [_view(table, database), _macro(table, database), _comments(table, database)]
    return sql


def _rows(table: VectorTable) -> str:
    return f"FROM {sql_text(str(table.path.absolute()))}"


def _columns(table: VectorTable) -> str:
    info = table.info
    layer = "NULL" if info.layer is None else str(info.layer)
    return f"{_KEYS}, {sql_text(info.side)} AS side, {layer}::BIGINT AS layer, head, kv_head"


def _view(table: VectorTable, database: str | None) -> str:
    head = _create("VIEW", f"vectors_{table.info.sql_name}", database)
    return f"{head} AS SELECT {_columns(table)}, vector {_rows(table)}"


def _create(kind: str, name: str, database: str | None) -> str:
    return f"CREATE OR REPLACE {kind} {database}.main.{name}" if database else f"CREATE OR REPLACE TEMP {kind} {name}"


def _comments(table: VectorTable, database: str | None) -> str:
    """Say what the view, its columns and the macro are, as the catalog does of its own."""
    name, schema = table.info.sql_name, f"{database or 'temp'}.main"
    view = f"{schema}.vectors_{name}"
    comments = {f"VIEW {view}": f"One row is a vector; vector_tables says which model, site and layer {name} is of"}
    comments |= {f"COLUMN {view}.{column}": meaning for column, meaning in _MEANINGS.items()}
    comments[f"MACRO TABLE {schema}.nearest_{name}"] = (
        f"The k rows of vectors_{name} that are nearest to q, nearest first; distance is {_MEANT[table.info.metric]}"
    )
    return "; ".join(f"COMMENT ON {thing} IS {sql_text(comment)}" for thing, comment in comments.items())


def _macro(table: VectorTable, database: str | None) -> str:
    """Define `nearest_…(q, k := 10)`: by the metric of the table, through its index where that is good enough."""
    info, index = table.info, trusted(table.info)
    head = f"{_create('MACRO', f'nearest_{info.sql_name}', database)}(q, k := 10) AS TABLE SELECT "
    if index is None:
        distance = _DISTANCE[info.metric].format(q=f"q::FLOAT[{info.width}]")
        return f"{head}{distance} AS distance, {_columns(table)} {_rows(table)} ORDER BY distance LIMIT k"
    query = "q::DOUBLE[]"
    if index.metric == "cosine":  # the extension does not normalise the query, and then finds the wrong neighbours
        query = "list_transform(q::DOUBLE[], lambda x: x / sqrt(list_inner_product(q::DOUBLE[], q::DOUBLE[])))"
    probes = f"ceil({index.nprobes} * greatest(1, sqrt(k / 10)))::BIGINT"
    return (
        f"{head}{_OURS[index.metric]} AS distance, {_columns(table)} FROM lance_vector_search("
        f"{sql_text(str(table.path.absolute()))}, 'vector', {query}, k := k, use_index := true, nprobs := {probes}, "
        f"refine_factor := {2 * index.refine}) ORDER BY distance"  # of k rows, where ours is of k and eight more
    )
