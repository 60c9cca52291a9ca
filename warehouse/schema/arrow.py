"""The Arrow schema of a table, made from its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warehouse.schema.tables import SCHEMA_VERSION, STORED

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table's files, with each column's comment in the metadata of its field."""
    import pyarrow as pa

    scalars = {
        "VARCHAR": pa.string(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
    }

    def arrow_type(sql: str) -> pa.DataType:
        return pa.list_(pa.field("element", scalars[sql.removesuffix("[]")])) if sql.endswith("[]") else scalars[sql]

    t = STORED[table]
    fields = [
        pa.field(c.name, arrow_type(c.sql), nullable=c.nullable, metadata={"comment": c.comment})
        for c in t.file_columns
    ]
    return pa.schema(fields, metadata={"table": t.name, "row": t.row, "schema_version": str(SCHEMA_VERSION)})
