"""SQL for the rows of `runs` that manifests make."""

from __future__ import annotations

from collections.abc import Iterable

from warehouse.schema.quoting import sql_paths, sql_text
from warehouse.schema.tables import TABLES
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath

_MANIFEST_COLUMNS = {
    "kind": "kind",
    "parents": "parents",
    "model": "model.name",
    "revision": "model.revision",
    "weights_hash": "model.weights_hash",
    "body_hash": "model.body_hash",
    "architecture": "model.architecture",
    "untrained": "model.untrained",
    "dtype": "model.dtype",
    "store_dtype": "store_dtype",
    "n_layers": "model.n_layers",
    "dataset": "data.dataset",
    "config": "data.config",
    "split": "data.split",
    "target_column": "options.target_column",
    "n_examples": "counts.examples",
    "n_sequences": "counts.sequences",
    "n_tokens": "counts.tokens",
    "n_predictions": "counts.predictions",
    "mean_loss": "mean_loss",
    "perplexity": "perplexity",
    "predicted_bytes": "counts.predicted_bytes",
    "bits_per_byte": "counts.predicted_bytes",
    "tables": "counts.rows",
    "bytes": "bytes",
    "created_at": "created_at",
    "seconds": "seconds",
    "schema_version": "schema_version",
    "expired_at": "expired.at",
}
"""The path in the manifest of each column of `runs`."""


_FROM_JSON = {
    "body_hash": "coalesce({group} ->> '$.{leaf}', {group} ->> '$.weights_hash')",
    "untrained": "coalesce(({group} -> '$.{leaf}')::VARCHAR[], [])",
    "bits_per_byte": "mean_loss * ({group} ->> '$.predictions')::BIGINT / ln(2) / nullif(({group} ->> '$.{leaf}')::BIGINT, 0)",
    "tables": "list_sort(list_filter(json_keys({group} -> '$.{leaf}'), "
    "lambda name: ({group} -> '$.{leaf}' ->> name)::BIGINT > 0))",
}
"""How columns of `runs` are read that are not plain values there. Manifests before schema version 3 lack `untrained`, before 4
`body_hash`."""


_LARGEST_MANIFEST = 64 * 2**20
"""Bytes; a manifest of so many names 400,000 files. DuckDB sets aside twice as much for each thread that reads manifests."""


def manifest_rows(files: Iterable[AnyPath]) -> str:
    """Write SQL for the rows of `runs` that these manifests, which exist, make."""
    groups = sorted({path.split(".")[0] for path in _MANIFEST_COLUMNS.values()})
    nested = {g: "JSON" for g in groups if any(p.startswith(f"{g}.") for p in _MANIFEST_COLUMNS.values())}
    types = {c.name: c.sql for c in TABLES["runs"].columns}
    plain = {g: types[g] for g in groups if g not in nested}
    spec = ", ".join(f"{sql_text(k)}: {sql_text(v)}" for k, v in (plain | nested).items())
    columns = [f"    regexp_extract(filename, '/{paths.RUN_PREFIX}([^/]*)/[^/]*$', 1) AS run_id"]
    for name, path in _MANIFEST_COLUMNS.items():
        group, _, leaf = path.partition(".")
        value = _FROM_JSON.get(name, f"({{group}} ->> '$.{{leaf}}')::{types[name]}").format(group=group, leaf=leaf)
        columns.append(f"    {value} AS {name}" if leaf else f"    {name}")
    names = ",\n".join(columns)
    return (
        f"SELECT\n{names}\nFROM read_json({sql_paths(files)}, columns = {{{spec}}}, format = 'unstructured', "
        f"hive_partitioning = false, maximum_object_size = {_LARGEST_MANIFEST})\n"
    )
