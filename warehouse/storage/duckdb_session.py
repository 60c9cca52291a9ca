"""DuckDB connections that read where a warehouse lies: in a folder, or in an object store through DuckDB's own httpfs.

Stores that httpfs does not speak to with the credentials of the environment are read through obstore. What a connection is told of
credentials stays in its memory.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warehouse.errors import UsageError
from warehouse.schema.quoting import sql_text
from warehouse.storage.objects import AnyPath, ObjectPath
from warehouse.storage.s3_credentials import s3_options

if TYPE_CHECKING:
    import duckdb


def connect(place: AnyPath | None, **config: Any) -> duckdb.DuckDBPyConnection:
    """Open a database in memory.

    Args:
        place: A file or folder that is to be read, or one beside it.
        **config: DuckDB's settings.

    Returns:
        The connection.

    Raises:
        UsageError: The packages for object stores are not installed.
    """
    import duckdb

    con = duckdb.connect(config=config)
    for statement in statements(place):
        con.execute(statement)
    if isinstance(place, ObjectPath) and not place.bucket.startswith("s3://"):
        from obstore.fsspec import FsspecStore

        protocol: Any = place.bucket.partition("://")[0]
        con.register_filesystem(FsspecStore(protocol))
    return con


def statements(place: AnyPath | None) -> list[str]:
    """Return the statements by which a session reads a place: none for a folder; for S3 they hold credentials, so do not write them down."""
    if not isinstance(place, ObjectPath) or not place.bucket.startswith("s3://"):
        return []
    secret = {"TYPE": "s3", "SCOPE": place.bucket} | s3_options()
    options = ", ".join(f"{name} {sql_text(value)}" for name, value in secret.items())
    # A table's file never changes, so that what was learned of it stays true.
    return [
        f"LOAD {sql_text(str(extension('httpfs')))}",
        f"CREATE OR REPLACE SECRET trace_warehouse ({options})",
        "SET enable_http_metadata_cache = true",
    ]


def extension(name: str) -> Path:
    """Return the file of a DuckDB extension that is installed as a package, for the version of DuckDB that is installed.

    Raises:
        UsageError: There is none.
    """
    import duckdb

    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for place in (spec.submodule_search_locations or []) if spec else []:
        file = Path(place) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            return file
    extra = {"httpfs": "s3", "lance": "shell"}[name]
    raise UsageError(
        f"This needs DuckDB's {name} extension, and there is none for DuckDB {duckdb.__version__}: "
        f"pip install 'trace-warehouse[{extra}]'"
    )


def s3_environment() -> dict[str, str]:
    """Return credentials and endpoint as variables of the environment of a process that reads S3 through httpfs."""
    options = s3_options()
    names = {
        "KEY_ID": "AWS_ACCESS_KEY_ID",
        "SECRET": "AWS_SECRET_ACCESS_KEY",
        "SESSION_TOKEN": "AWS_SESSION_TOKEN",
        "REGION": "AWS_REGION",
        "ENDPOINT": "DUCKDB_S3_ENDPOINT",
        "USE_SSL": "DUCKDB_S3_USE_SSL",
    }
    found = {names[name]: value for name, value in options.items() if name in names}
    return found | {"AWS_ALLOW_HTTP": str(options.get("USE_SSL") == "false").lower()}
